//! What lies where in physical memory.

use std::collections::BTreeMap;

use kho_hal::{PhysAddr, PhysRange};
use svg::node::element::{Group, Rectangle, Title};

use crate::picture::{WIDTH, text};
use crate::{Picture, Size};

/// What a piece of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Preserved, in folios of 1 GiB and more.
    Large,
    /// Preserved, in folios of 2 MiB and more.
    Medium,
    /// Preserved, in folios of less than 2 MiB.
    Small,
    /// The description of the handover itself.
    Description,
    /// Where the successor starts; nothing in it survives.
    Scratch,
    /// Memory that is none of these.
    Other,
    /// Not known to be memory.
    Nothing,
}

impl Kind {
    /// What is drawn, in this order.
    pub const ALL: [Self; 6] = [
        Self::Large,
        Self::Medium,
        Self::Small,
        Self::Description,
        Self::Scratch,
        Self::Other,
    ];

    /// The kind of a preserved folio of `size` bytes.
    pub const fn preserved(size: u64) -> Self {
        match size {
            0x4000_0000.. => Self::Large,
            0x20_0000.. => Self::Medium,
            _ => Self::Small,
        }
    }

    /// What stands for it where there is no colour.
    pub const fn letter(self) -> char {
        match self {
            Self::Large => 'L',
            Self::Medium => 'M',
            Self::Small => 'p',
            Self::Description => 'd',
            Self::Scratch => 's',
            Self::Other => '·',
            Self::Nothing => ' ',
        }
    }

    /// Its name in a legend.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Large => "preserved, 1 GiB and more",
            Self::Medium => "preserved, 2 MiB and more",
            Self::Small => "preserved, smaller",
            Self::Description => "description",
            Self::Scratch => "scratch",
            Self::Other => "other memory",
            Self::Nothing => "nothing known",
        }
    }

    /// Red, green and blue.
    pub const fn colour(self) -> (u8, u8, u8) {
        match self {
            Self::Large => (0x0a, 0x30, 0x69),
            Self::Medium => (0x09, 0x69, 0xda),
            Self::Small => (0x54, 0xae, 0xff),
            Self::Description => (0xcf, 0x22, 0x2e),
            Self::Scratch => (0xd4, 0xa7, 0x2c),
            Self::Other => (0xd8, 0xde, 0xe4),
            Self::Nothing => (0xff, 0xff, 0xff),
        }
    }

    fn hex(self) -> String {
        let (red, green, blue) = self.colour();
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

/// Bytes of each kind, in the order of [`Kind::ALL`].
type Counts = [u64; Kind::ALL.len()];

/// The finest cell: 4 KiB.
const FINEST: u32 = 12;

/// More cells than this are never kept.
const MANY: usize = 1 << 16;

/// How many cells make a row.
const COLUMNS: u64 = 64;

/// How many rows fit a screen.
const ROWS: usize = 32;

/// Physical memory by kind, counted in cells.
///
/// Cells are a power of two in size, and grow as more memory is added; what is counted is exact.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    shift: u32,
    cells: BTreeMap<u64, Counts>,
    total: Counts,
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryMap {
    /// Without any memory.
    pub const fn new() -> Self {
        Self {
            shift: FINEST,
            cells: BTreeMap::new(),
            total: [0; Kind::ALL.len()],
        }
    }

    /// Counts `range` as `kind`. What was added as [`Kind::Other`] may be added as something else
    /// too, and is that then; apart from this, nothing may be added twice.
    pub fn add(&mut self, range: PhysRange, kind: Kind) {
        let Some(total) = self.total.get_mut(kind as usize) else {
            return;
        };
        *total = total.saturating_add(range.size());
        // However long the range is, it takes few steps.
        while range.size() >> self.shift > MANY as u64 / 4 {
            self.coarsen();
        }
        let (mut at, end) = (range.start().as_u64(), range.end().as_u64());
        while at < end {
            let cell = at >> self.shift;
            let next = (cell + 1).checked_mul(1 << self.shift).unwrap_or(end);
            let next = next.min(end);
            let counts = self.cells.entry(cell).or_default();
            if let Some(count) = counts.get_mut(kind as usize) {
                *count = count.saturating_add(next - at);
            }
            at = next;
        }
        while self.cells.len() > MANY {
            self.coarsen();
        }
    }

    /// How many bytes are of `kind`. Other memory is what turned out to be nothing else.
    pub fn bytes(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Other => {
                let counts = self.cells.values().filter_map(split);
                counts.map(|(_, other)| other).sum()
            }
            kind => self.total.get(kind as usize).copied().unwrap_or_default(),
        }
    }

    fn coarsen(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        self.shift += 1;
        for (cell, counts) in cells {
            let merged = self.cells.entry(cell >> 1).or_default();
            for (sum, count) in merged.iter_mut().zip(counts) {
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// The coarser map of which `fits` is true; of one cell, if none fits.
    fn coarser(&self, fits: impl Fn(&Self) -> bool) -> Self {
        let mut map = self.clone();
        while !fits(&map) && map.cells.len() > 1 {
            map.coarsen();
        }
        map
    }

    /// At most `width` cells, ascending, each with what most of it is. A gap is one cell of
    /// [`Kind::Nothing`], however wide it is.
    pub fn line(&self, width: usize) -> Vec<Kind> {
        let line = |map: &Self| {
            let mut line = Vec::new();
            let mut next = None;
            for (&cell, counts) in &map.cells {
                if next.is_some_and(|next| next != cell) {
                    line.push(Kind::Nothing);
                }
                line.push(most(counts));
                next = Some(cell + 1);
            }
            line
        };
        line(&self.coarser(|map| map.cells.len() <= width && line(map).len() <= width))
    }

    /// First and last address of what was added, to the cell.
    pub fn span(&self) -> Option<(PhysAddr, PhysAddr)> {
        let (first, _) = self.cells.first_key_value()?;
        let (last, _) = self.cells.last_key_value()?;
        let last = (last << self.shift) | ((1 << self.shift) - 1);
        Some((PhysAddr::new(first << self.shift), PhysAddr::new(last)))
    }

    /// What is drawn below each other: rows that have anything in them, and, in place of rows that
    /// are full of what the row before is full of, how many they are.
    fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        for (&cell, counts) in &self.cells {
            let (number, column) = (cell / COLUMNS, cell % COLUMNS);
            match rows.last_mut() {
                Some(row) if row.number == number => row.cells.push((column, counts)),
                _ => rows.push(Row {
                    number,
                    cells: vec![(column, counts)],
                    repeated: 0,
                }),
            }
        }
        let size = 1 << self.shift;
        rows.dedup_by(|row, before| {
            let kind = row.full_of(size);
            let next = before.number + before.repeated + 1;
            let same = row.number == next && kind.is_some() && kind == before.full_of(size);
            before.repeated += u64::from(same);
            same
        });
        rows
    }

    /// Draws cells in rows, each filled from below in proportion. Gaps are left out.
    pub fn draw(&self) -> Picture {
        const LABEL: u32 = 168;
        const CELL: u32 = (WIDTH - LABEL) / COLUMNS as u32;
        const ROW: u32 = 24;
        const BOX: u32 = ROW - 4;
        let map = self.coarser(|map| map.rows().len() <= ROWS);
        let cell_size = 1u64 << map.shift;
        let row_size = cell_size.saturating_mul(COLUMNS);
        let caption = format!(
            "Physical memory: a cell is {}, a row {}; filled from below",
            Size(cell_size),
            Size(row_size)
        );
        let mut group = Group::new().add(text(0, 12, caption));
        let legend = self.legend(26);
        group = group.add(legend.group);
        let mut y = 26 + legend.height + 14;
        let mut next: Option<u64> = None;
        for row in map.rows() {
            let note = |y, what| text(LABEL, y + 14, what).set("class", "dim");
            if let Some(next) = next.filter(|&next| next < row.number) {
                let gap = Size((row.number - next).saturating_mul(row_size));
                group = group.add(note(y, format!("nothing known for {gap}")));
                y += ROW;
            }
            let start = row.number.saturating_mul(row_size);
            group = group.add(
                text(LABEL - 14, y + 15, format!("{start:#x}"))
                    .set("text-anchor", "end")
                    .set("class", "dim"),
            );
            for &(column, counts) in &row.cells {
                let x = LABEL + CELL * column as u32;
                let at = start + column * cell_size;
                group = group.add(draw_cell(counts, at, cell_size, (x, y), (CELL - 1, BOX)));
            }
            y += ROW;
            if row.repeated > 0 {
                let more = Size(row.repeated.saturating_mul(row_size));
                group = group.add(note(y, format!("the same for {more} more")));
                y += ROW;
            }
            next = Some(row.number + row.repeated + 1);
        }
        Picture { group, height: y }
    }

    /// What the colours mean, three to a row.
    fn legend(&self, y: u32) -> Picture {
        let mut group = Group::new();
        let shown = Kind::ALL.into_iter().map(|kind| (kind, self.bytes(kind)));
        let shown: Vec<_> = shown.filter(|&(_, bytes)| bytes > 0).collect();
        for (i, &(kind, bytes)) in shown.iter().enumerate() {
            let (x, y) = ((i as u32 % 3) * 370, y + (i as u32 / 3) * 22);
            let colour = Rectangle::new()
                .set("x", x)
                .set("y", y)
                .set("width", 14)
                .set("height", 14)
                .set("fill", kind.hex());
            let label = format!("{}: {}", kind.name(), Size(bytes));
            group = group.add(colour).add(text(x + 22, y + 12, label));
        }
        Picture {
            group,
            height: shown.len().div_ceil(3) as u32 * 22,
        }
    }
}

/// A row of the drawing.
struct Row<'a> {
    number: u64,
    /// Columns that have anything in them.
    cells: Vec<(u64, &'a Counts)>,
    /// How many rows like this one follow.
    repeated: u64,
}

impl Row<'_> {
    /// The only kind in the row, if every cell is full of it.
    fn full_of(&self, size: u64) -> Option<Kind> {
        let kind = most(self.cells.first()?.1);
        // Memory that is something else was added as other memory, too.
        let full = |&(_, counts): &(u64, &Counts)| {
            let mut kinds = Kind::ALL.into_iter().zip(counts.iter().copied());
            kinds.all(|(found, count)| match found {
                _ if found == kind => count == size,
                Kind::Other => true,
                _ => count == 0,
            })
        };
        let all = self.cells.len() as u64 == COLUMNS && self.cells.iter().all(full);
        all.then_some(kind)
    }
}

/// What is in a cell, other memory apart: what was added as that and as nothing else.
fn split(counts: &Counts) -> Option<(&[u64], u64)> {
    let (&other, kinds) = counts.split_last()?;
    Some((kinds, other.saturating_sub(kinds.iter().sum())))
}

/// What most of a cell is, other memory apart.
fn most(counts: &Counts) -> Kind {
    let kinds = Kind::ALL.into_iter().zip(counts.iter().copied());
    kinds
        .filter(|&(kind, count)| count > 0 && kind != Kind::Other)
        .max_by_key(|&(_, count)| count)
        .map_or(Kind::Other, |(kind, _)| kind)
}

fn draw_cell(
    counts: &Counts,
    at: u64,
    size: u64,
    (x, y): (u32, u32),
    (width, height): (u32, u32),
) -> Group {
    let mut tip = format!("{at:#x}, {}", Size(size));
    let rectangle = |y: f64, height: f64, kind: Kind| {
        Rectangle::new()
            .set("x", x)
            .set("y", format!("{y:.1}"))
            .set("width", width)
            .set("height", format!("{height:.1}"))
            .set("fill", kind.hex())
    };
    let full = f64::from(height);
    let mut group = Group::new().add(rectangle(y.into(), full, Kind::Other));
    // Each part shows, however small it is; then the whole is scaled to what is there.
    let parts: Vec<_> = split(counts)
        .into_iter()
        .flat_map(|(kinds, _)| Kind::ALL.into_iter().zip(kinds.iter().copied()))
        .filter(|&(_, count)| count > 0)
        .map(|(kind, count)| (kind, (count as f64 / size as f64 * full).max(3.0), count))
        .collect();
    let sum: f64 = parts.iter().map(|(_, height, _)| height).sum();
    let scale = (full / sum).min(1.0);
    let mut bottom = f64::from(y) + full;
    for (kind, height, count) in parts {
        let height = height * scale;
        bottom -= height;
        group = group.add(rectangle(bottom, height, kind));
        tip += &format!("\n{}: {}", kind.name(), Size(count));
    }
    group.add(Title::new(tip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    const TIB: u64 = 1 << 40;

    #[test]
    fn nothing_is_lost_when_cells_grow() {
        let mut map = MemoryMap::new();
        map.add(range(0, TIB), Kind::Other);
        // Every other page of 2 GiB, which alone are more cells than are kept.
        let pages = 0..1u64 << 18;
        for i in pages.clone() {
            map.add(range(TIB / 2 + i * 8192, 4096), Kind::Small);
        }
        map.add(range(TIB - 1, 1), Kind::Description);
        let counted = |kind: Kind| -> u64 {
            let counts = map.cells.values().map(|counts| counts[kind as usize]);
            counts.sum()
        };
        assert_eq!(counted(Kind::Small), pages.end * 4096);
        assert_eq!(map.bytes(Kind::Small), pages.end * 4096);
        assert_eq!(counted(Kind::Description), 1);
        assert_eq!(map.bytes(Kind::Other), TIB - pages.end * 4096 - 1);
        assert!(map.cells.len() <= MANY);
        assert!(map.coarser(|map| map.rows().len() <= ROWS).rows().len() <= ROWS);
    }

    #[test]
    fn a_line_is_as_short_as_asked_and_leaves_gaps_out() {
        let mut map = MemoryMap::new();
        map.add(range(0, 0x8000), Kind::Other);
        map.add(range(0x2000, 0x1000), Kind::Scratch);
        map.add(range(TIB, 0x2000), Kind::Large);
        let line = |width| -> String { map.line(width).into_iter().map(Kind::letter).collect() };
        assert_eq!(line(80), "··s····· LL");
        assert_eq!(line(6), "·s·· L");
        assert_eq!(line(3), "s L");
        assert_eq!(line(1), "L");
        assert_eq!(line(0), "L", "there is something");
        assert_eq!(MemoryMap::new().line(5), []);
        // From one end of the address space to the other.
        map.add(range(1 << 63, TIB), Kind::Medium);
        assert_eq!(map.line(1), [Kind::Medium]);
    }

    /// A quarter of the cells for each range, and all of them for many.
    #[test]
    fn cells_grow_only_where_they_are_too_many() {
        let quarter = MANY as u64 / 4 * 4096;
        let mut map = MemoryMap::new();
        map.add(range(0, quarter + 4096), Kind::Other);
        assert_eq!(map.shift, FINEST + 1);
        let mut map = MemoryMap::new();
        for i in 0..4 {
            map.add(range(i * quarter, quarter), Kind::Other);
        }
        assert_eq!((map.shift, map.cells.len()), (FINEST, MANY));
        map.add(range(4 * quarter, 4096), Kind::Other);
        assert_eq!((map.shift, map.cells.len()), (FINEST + 1, MANY / 2 + 1));
    }

    #[test]
    fn rows_that_repeat_are_drawn_once() {
        let mut map = MemoryMap::new();
        map.add(range(0, TIB), Kind::Other);
        map.add(range(TIB / 2, 1 << 30), Kind::Large);
        let rows = map.coarser(|map| map.rows().len() <= ROWS);
        let rows = rows.rows();
        let kinds: Vec<_> = rows.iter().map(|row| most(row.cells[0].1)).collect();
        assert_eq!(kinds, [Kind::Other, Kind::Large, Kind::Other]);
        let last = &rows[2];
        let cells = (last.number + last.repeated + 1) * COLUMNS;
        assert_eq!(cells, TIB >> map.shift);
        let picture = document("1 TiB", [map.draw()]);
        assert!(picture.contains("the same for"), "{picture}");
    }

    /// What is preserved was added as other memory before.
    #[test]
    fn rows_of_preserved_memory_repeat_too() {
        let mut map = MemoryMap::new();
        map.add(range(0, TIB), Kind::Other);
        map.add(range(TIB / 2, TIB / 4), Kind::Large);
        let rows = map.rows();
        let kinds: Vec<_> = rows.iter().map(|row| most(row.cells[0].1)).collect();
        assert_eq!(kinds, [Kind::Other, Kind::Large, Kind::Other]);
        let preserved = ((rows[1].repeated + 1) * COLUMNS) << map.shift;
        assert_eq!(preserved, TIB / 4);
        // With something else in it, a row stands for itself.
        map.add(range(TIB * 3 / 4 - 4096, 4096), Kind::Small);
        assert_eq!(map.rows().len(), 4);
    }

    #[test]
    fn the_top_of_the_address_space_is_no_edge() {
        let mut map = MemoryMap::new();
        map.add(range(u64::MAX - 4095, 4095), Kind::Small);
        map.add(range(0, u64::MAX), Kind::Other);
        assert_eq!(map.bytes(Kind::Small), 4095);
        assert!(!map.line(64).is_empty());
        assert!(map.draw().height < 84 + 24 * 2 * ROWS as u32);
    }
}

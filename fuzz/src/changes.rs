//! Changes to a sound handover, and how it is then read.

use arbitrary::{Arbitrary, Unstructured};
use kho::core::incoming::Ram;
use kho::hal::{PhysAddr, PhysRange};

use crate::base::Base;

/// One change.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Change {
    place: u16,
    value: Value,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    Small(u8),
    Max,
    Raw(u64),
    /// A page, of memory and a little beyond.
    Page(u8),
    /// What stands at another place.
    Copy(u16),
    FlipBit(u8),
    Add(i8),
    Byte(u8, u8),
    /// What the description names: a page or a sub-blob.
    Spot(u8),
}

pub fn changes(data: &[u8]) -> Vec<Change> {
    Vec::arbitrary_take_rest(Unstructured::new(data)).unwrap_or_default()
}

/// Applies the changes to a copy that is kept, calls `test`, and takes them back.
pub fn damaged(base: &mut Base, changes: &[Change], test: impl FnOnce(&Base)) {
    let mut undo = Vec::new();
    for change in changes.iter().take(16) {
        let place = |n: u16| base.places[usize::from(n) % base.places.len()];
        let word = |at| base.memory.word(at).unwrap_or(0);
        let at = place(change.place);
        let was = word(at);
        let now = match change.value {
            Value::Small(n) => n.into(),
            Value::Max => u64::MAX,
            Value::Raw(raw) => raw,
            Value::Page(page) => u64::from(page) << base.page.shift(),
            Value::Copy(from) => word(place(from)),
            Value::FlipBit(bit) => was ^ 1 << (bit % 64),
            Value::Add(n) => was.wrapping_add_signed(n.into()),
            Value::Byte(i, byte) => {
                let shift = u32::from(i % 8) * 8;
                was & !(0xff << shift) | u64::from(byte) << shift
            }
            Value::Spot(n) => {
                let spot = base.spots[usize::from(n) % base.spots.len()];
                spot.start().as_u64()
            }
        };
        undo.push((at, was));
        base.memory.write(at, &now.to_le_bytes());
    }
    test(base);
    for (at, was) in undo.into_iter().rev() {
        base.memory.write(at, &was.to_le_bytes());
    }
}

/// Puts any bytes in place of a spot, zeroes behind them, calls `test`, and takes that back.
pub fn overwritten(base: &mut Base, spot: u8, bytes: &[u8], test: impl FnOnce(&Base)) {
    let spot = base.spots[usize::from(spot) % base.spots.len()];
    let at = spot.start().as_u64();
    let was = base.memory.bytes(at, spot.size());
    let was = was.expect("a spot is in memory").to_vec();
    let mut now = vec![0; was.len()];
    let len = now.len().min(bytes.len());
    now[..len].copy_from_slice(&bytes[..len]);
    base.memory.write(at, &now);
    test(base);
    base.memory.write(at, &was);
}

/// What a reader has and knows.
pub struct Reader {
    ram: Option<Vec<PhysRange>>,
    /// Words to sort and mark addresses in.
    pub workspace: usize,
}

impl Reader {
    /// By a byte: whether the workspace is large, and what is RAM: nobody knows, all that was; or
    /// all but one of the pages that are looked at.
    pub fn new(byte: u8, base: &Base) -> Self {
        let ram = match byte >> 1 {
            0 => None,
            1 => Some(base.ram.clone()),
            n => {
                let at = base.places[usize::from(n - 2) * base.places.len() / 126];
                let hole = PhysAddr::new(at / base.page.bytes() * base.page.bytes());
                Some(without(&base.ram, hole, base.page.bytes()))
            }
        };
        let workspace = if byte & 1 == 0 { 64 } else { 1 << 13 };
        Self { ram, workspace }
    }

    pub fn ram(&self) -> Ram<'_> {
        self.ram.as_deref().map_or(Ram::Unknown, Ram::Known)
    }
}

fn without(ram: &[PhysRange], hole: PhysAddr, size: u64) -> Vec<PhysRange> {
    let end = PhysAddr::new(hole.as_u64() + size);
    let part = |from: PhysAddr, to: PhysAddr| {
        let size = to.checked_offset_from(from).filter(|&size| size > 0)?;
        PhysRange::new(from, size)
    };
    let parts = ram.iter().flat_map(|range| {
        let below = part(range.start(), range.end().min(hole));
        let above = part(range.start().max(end), range.end());
        [below, above]
    });
    parts.flatten().collect()
}

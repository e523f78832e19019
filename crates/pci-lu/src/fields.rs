//! Where the fields of the policy are in one function: the engine for [`crate::table`].

use core::fmt;

use kho_hal::walk::{CapId, Capability, End, Source, walk_extended, walk_standard};
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};

use crate::table::{Class, Kind, Place, Repeat, Row, TABLE_OF_FIELDS, When};

/// A field of one function.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset of the dword that holds it, from the start of the space.
    pub dword: u16,
    /// Its bits there.
    pub bits: u32,
    /// Which one it is, where the row occurs more than once; from 0.
    pub index: u16,
    /// Its class for the function's kind.
    pub class: Class,
    /// Where the capability starts that it belongs to; 0 for the header.
    pub base: u16,
    /// Where its row comes in the table.
    pub order: usize,
    /// Its row.
    pub row: &'static Row,
}

impl Field {
    /// The field's value in its dword's, counted in its own lowest bit.
    pub const fn value(&self, dword: u32) -> u32 {
        (dword & self.bits) >> self.bits.trailing_zeros()
    }
}

/// Why the fields of a function cannot be told, or the function cannot be preserved as this kind.
/// Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldError {
    /// The header type is not the one of the kind; 7fh if no function answers.
    Header {
        /// The function.
        function: Sbdf,
        /// The header type found, without the multifunction bit.
        found: u8,
    },
    /// A list of capabilities, or a register, could not be read to its end. What it would have
    /// named cannot be guarded.
    Unreadable {
        /// The function.
        function: Sbdf,
        /// Where the walk ended.
        offset: u16,
    },
    /// Its virtual functions are off, or it has none: it is no physical function of preserved ones.
    NotPhysical {
        /// The function.
        function: Sbdf,
    },
    /// A field is in a state with which a function of this kind cannot be preserved.
    Unfit {
        /// The function.
        function: Sbdf,
        /// The field, which must read as zero.
        field: &'static str,
    },
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { function, found } => {
                write!(f, "{function}: header type {found} is not that of its kind")
            }
            Self::Unreadable { function, offset } => {
                write!(f, "{function}: capabilities end badly at {offset:#x}")
            }
            Self::NotPhysical { function } => {
                write!(f, "{function} has no virtual functions on")
            }
            Self::Unfit { function, field } => {
                write!(f, "{function} cannot be preserved while {field} is on")
            }
        }
    }
}

impl core::error::Error for FieldError {}

/// Calls `visit` with every field that the function has, in no order.
///
/// Walks both capability lists twice, and reads what says how often a row occurs; no write. A field
/// behind the start of the next capability belongs to that one and is left out; if the capability
/// must have it and it must stay, the lists are not believed.
///
/// # Errors
/// [`FieldError`]. `visit` may have been called then.
pub fn for_each_field<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    kind: Kind,
    visit: impl FnMut(Field),
) -> Result<(), FieldError> {
    walk(config, function, kind, true, visit)
}

/// As [`for_each_field`], for a function that nobody preserves: where its lists end badly, or overlap,
/// what was found counts.
#[cfg(feature = "alloc")]
pub(crate) fn for_each_field_found<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    kind: Kind,
    visit: impl FnMut(Field),
) -> Result<(), FieldError> {
    walk(config, function, kind, false, visit)
}

fn walk<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    kind: Kind,
    strict: bool,
    mut visit: impl FnMut(Field),
) -> Result<(), FieldError> {
    let mut source = Registers::new(config, function);
    let unreadable = |offset| FieldError::Unreadable { function, offset };
    let found = source.u8(0x0e).ok_or(unreadable(0x0e))? & 0x7f;
    if found != kind.header_type() {
        return Err(FieldError::Header { function, found });
    }
    let mut starts = Starts([0; 16]);
    let mut express = false;
    let mut end = walk_standard(&mut source, found, |cap| {
        express |= cap.id == CapId::Standard(0x10);
        starts.insert(cap.offset);
    });
    if express && (end == End::Complete || !strict) {
        end = walk_extended(&mut source, |cap| starts.insert(cap.offset));
    }
    let whole = |end| match end {
        _ if !strict => Ok(()),
        End::Complete => Ok(()),
        End::Loop { offset } | End::Outside { offset } | End::Unreadable { offset } => {
            Err(unreadable(offset))
        }
        _ => Err(unreadable(0x34)),
    };
    source.check()?;
    whole(end)?;
    let mut locate = Locate {
        config,
        function,
        kind,
        starts: &starts,
        strict,
        visit: &mut visit,
        error: None,
    };
    for (block, header) in TABLE_OF_FIELDS.iter().enumerate() {
        let here = match header.place {
            Place::Header => true,
            Place::Type0 => found == 0,
            Place::Type1 => found == 1,
            Place::Cap(_) | Place::Dvsec { .. } => false,
        };
        if here {
            locate.rows(block, header.rows, 0, 0x40);
        }
    }
    let mut end = walk_standard(&mut source, found, |cap| locate.capability(cap));
    if express && (end == End::Complete || !strict) {
        end = walk_extended(&mut source, |cap| locate.capability(cap));
    }
    source.check()?;
    whole(end)?;
    match locate.error {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// As [`for_each_field`], for a function that is to be preserved: whether it can be, as it is now.
///
/// # Errors
/// [`FieldError`], also [`FieldError::Unfit`] and [`FieldError::NotPhysical`]. `visit` may have been called then.
pub fn for_each_field_of_fit<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    kind: Kind,
    mut visit: impl FnMut(Field),
) -> Result<(), FieldError> {
    if kind.is_physical() && !kind_of(config, function)?.is_physical() {
        return Err(FieldError::NotPhysical { function });
    }
    let mut result = Ok(());
    for_each_field(config, function, kind, |field| {
        if result.is_ok() && field.row.must_be_zero(kind) {
            let offset = field.dword;
            result = match config.read_u32(function, offset) {
                Err(_) => Err(FieldError::Unreadable { function, offset }),
                Ok(dword) if dword & field.bits != 0 => {
                    let field = field.row.field;
                    Err(FieldError::Unfit { function, field })
                }
                Ok(_) => Ok(()),
            };
        }
        visit(field);
    })?;
    result
}

/// The strictest kind that a function's registers allow: what to take it for if nobody says.
///
/// No record tells the kind. A bridge is one by its header, a physical function by VF Enable; no
/// register says that it, or an endpoint, does no DMA to peers and uses no translation, so each is
/// taken for one that does: a Linux has physical functions in its record for their own sake. No
/// write.
///
/// # Errors
/// [`FieldError::Header`] for another header type, [`FieldError::Unreadable`].
pub fn kind_of<C: PciConfigAccess>(config: &C, function: Sbdf) -> Result<Kind, FieldError> {
    let unreadable = |offset| FieldError::Unreadable { function, offset };
    let found = config
        .read_u8(function, 0x0e)
        .map_err(|_| unreadable(0x0e))?
        & 0x7f;
    match found {
        0 => {}
        1 => return Ok(Kind::Bridge),
        _ => return Err(FieldError::Header { function, found }),
    }
    let physical = match capability(config, function, CapId::Extended(0x10))? {
        None => false,
        Some(at) => {
            let control = config.read_u16(function, at + 8);
            control.map_err(|_| unreadable(at + 8))? & 1 != 0
        }
    };
    Ok(if physical {
        Kind::PeerPhysical
    } else {
        Kind::PeerEndpoint
    })
}

/// How many bytes of a capability every function has that has it, as far as it holds fields that must
/// stay.
const fn required(place: Place) -> u16 {
    match place {
        Place::Cap(CapId::Standard(0x01)) => 0x06,
        Place::Cap(CapId::Standard(0x10)) => 0x0a,
        Place::Cap(CapId::Extended(0x0d | 0x0f)) => 0x08,
        Place::Cap(CapId::Extended(0x10)) => 0x3c,
        _ => 0,
    }
}

/// The registers of a function for a walk, and the first at which an access failed. What the access
/// method does not reach is not there.
struct Registers<'c, C> {
    config: &'c C,
    function: Sbdf,
    failed: Option<u16>,
}

impl<'c, C: PciConfigAccess> Registers<'c, C> {
    fn new(config: &'c C, function: Sbdf) -> Self {
        Self {
            config,
            function,
            failed: None,
        }
    }

    /// Whether no access failed: where one did, a walk may have missed something.
    fn check(&self) -> Result<(), FieldError> {
        let function = self.function;
        match self.failed {
            Some(offset) => Err(FieldError::Unreadable { function, offset }),
            None => Ok(()),
        }
    }
}

impl<C: PciConfigAccess> Source for Registers<'_, C> {
    fn read(&mut self, at: Access) -> Option<u32> {
        match self.config.read(self.function, at) {
            Ok(value) => Some(value),
            Err(PciError::Unreachable { .. }) => None,
            Err(_) => {
                self.failed = self.failed.or(Some(at.offset()));
                None
            }
        }
    }
}

/// Where the first capability of this number starts; `None` if there is none, or the list does not
/// lead to it. No write.
///
/// # Errors
/// [`FieldError::Unreadable`] where an access failed.
pub(crate) fn capability<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    id: CapId,
) -> Result<Option<u16>, FieldError> {
    let mut source = Registers::new(config, function);
    let Some(header_type) = source.u8(0x0e) else {
        source.check()?;
        return Ok(None);
    };
    let header_type = header_type & 0x7f;
    let mut found = None;
    let mut express = false;
    let _ = walk_standard(&mut source, header_type, |cap| {
        express |= cap.id == CapId::Standard(0x10);
        found = found.or((cap.id == id).then_some(cap.offset));
    });
    if express {
        let _ = walk_extended(&mut source, |cap| {
            found = found.or((cap.id == id).then_some(cap.offset));
        });
    }
    source.check()?;
    Ok(found)
}

/// The dwords at which a capability starts.
struct Starts([u64; 16]);

impl Starts {
    fn insert(&mut self, offset: u16) {
        if let Some(word) = self.0.get_mut(usize::from(offset >> 8)) {
            *word |= 1 << (offset >> 2 & 63);
        }
    }

    /// Where the capability that starts at `offset` ends.
    fn end_of(&self, offset: u16) -> u16 {
        let space = if offset < 0x100 { 0x100 } else { Access::SPACE };
        let starts = |at: &u16| {
            let word = self.0.get(usize::from(at >> 8)).copied().unwrap_or(0);
            word >> (at >> 2 & 63) & 1 != 0
        };
        let mut behind = (offset + 4..space).step_by(4);
        behind.find(starts).unwrap_or(space)
    }
}

struct Locate<'l, C, V> {
    config: &'l C,
    function: Sbdf,
    kind: Kind,
    starts: &'l Starts,
    /// Whether capabilities must not overlap.
    strict: bool,
    visit: &'l mut V,
    error: Option<FieldError>,
}

impl<C: PciConfigAccess, V: FnMut(Field)> Locate<'_, C, V> {
    fn capability(&mut self, cap: Capability) {
        let (base, end) = (cap.offset, self.starts.end_of(cap.offset));
        for (number, block) in TABLE_OF_FIELDS.iter().enumerate() {
            let here = match block.place {
                Place::Cap(id) => id == cap.id,
                Place::Dvsec { vendor, id } => {
                    cap.id == CapId::Extended(0x23)
                        && self.read(base + 4) as u16 == vendor
                        && self.read(base + 8) as u16 == id
                }
                Place::Header | Place::Type0 | Place::Type1 => false,
            };
            if here {
                self.rows(number, block.rows, base, end);
            }
        }
    }

    fn rows(&mut self, block: usize, rows: &'static [Row], base: u16, end: u16) {
        let place = TABLE_OF_FIELDS.get(block).map(|block| block.place);
        let required = base + place.map_or(0, required);
        for (number, row) in rows.iter().enumerate() {
            if !self.holds(row.when, base) {
                continue;
            }
            let class = row.class(self.kind);
            let field = |index| Field {
                dword: 0,
                bits: 0,
                index,
                class,
                base,
                // A block has fewer rows than this.
                order: block << 8 | number,
                row,
            };
            if let Repeat::Streams { selective } = row.repeat {
                self.streams(field(0), selective, base, end);
                continue;
            }
            let (count, step) = self.times(row, base);
            for n in 0..count {
                // At most 256 rows of 12 bytes behind an offset below 4096.
                let at = base + row.first + n * step;
                if at < end {
                    self.field(field(n), at);
                } else if self.strict
                    && at < required
                    && matches!(class, Class::Preserve | Class::Action)
                {
                    // Another capability claims to start before it.
                    let (function, offset) = (self.function, end);
                    let error = FieldError::Unreadable { function, offset };
                    self.error = self.error.or(Some(error));
                }
            }
        }
    }

    /// The fields of the IDE streams: those of the links, 8 bytes each, then the selective ones,
    /// which say how many address blocks of 12 bytes they have.
    fn streams(&mut self, mut field: Field, selective: bool, base: u16, end: u16) {
        let capability = self.read(base + 4);
        let links = match capability & 1 {
            0 => 0,
            _ => (capability >> 13 & 7) as u16 + 1,
        };
        let selectives = match capability & 2 {
            0 => 0,
            _ => (capability >> 16 & 0xff) as u16 + 1,
        };
        let mut at = base + 0x0c;
        for link in 0..links {
            if !selective && at < end {
                field.index = link;
                self.field(field, at + field.row.first);
            }
            at += 8;
        }
        if !selective {
            return;
        }
        for stream in 0..selectives {
            if at + field.row.first >= end {
                return;
            }
            field.index = stream;
            self.field(field, at + field.row.first);
            at += 20 + 12 * (self.read(at) & 0xf) as u16;
        }
    }

    fn field(&mut self, mut field: Field, at: u16) {
        let row = field.row;
        field.dword = at & !3;
        field.bits = row.bits << (8 * (at & 3));
        (self.visit)(field);
    }

    fn holds(&mut self, when: When, base: u16) -> bool {
        match when {
            When::Always => true,
            When::Version2 => self.read(base) >> 16 & 0xf >= 2,
            When::Slot => self.read(base) >> 24 & 1 != 0,
            When::Pin => self.read(0x3c) >> 8 & 0xff != 0,
            When::SteeringHere => self.read(base + 4) >> 9 & 3 == 1,
        }
    }

    /// How often a row occurs, and how many bytes apart.
    fn times(&mut self, row: &Row, base: u16) -> (u16, u16) {
        match row.repeat {
            Repeat::Once => (1, 0),
            Repeat::Dwords(count) => (count, 4),
            Repeat::Count {
                at,
                shift,
                mask,
                plus,
                step,
            } => {
                let count = (self.read(base + at) >> shift) as u16 & mask;
                (count + plus, step)
            }
            Repeat::EgressVector => {
                let capability = self.read(base + 4);
                let ports = match (capability >> 8 & 0xff) as u16 {
                    0 => 256,
                    ports => ports,
                };
                let has = capability & 0x20 != 0;
                (if has { ports.div_ceil(32) } else { 0 }, 4)
            }
            // Visited on their own, as their places depend on each other.
            Repeat::Streams { .. } => (0, 0),
        }
    }

    fn read(&mut self, offset: u16) -> u32 {
        match self.config.read_u32(self.function, offset) {
            Ok(value) => value,
            Err(_) => {
                let function = self.function;
                let error = FieldError::Unreadable { function, offset };
                self.error = self.error.or(Some(error));
                0
            }
        }
    }
}

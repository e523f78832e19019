//! Walking the capability lists of one function.
//!
//! Nothing that the device says is trusted: a pointer below 40h (or 100h), off the end or to a
//! place already seen ends the list, the two low bits of a pointer are masked off, and a place is
//! visited once. So a walk takes at most 48 steps in the first list and 960 in the second.
//!
//! # Source
//! PCI Local Bus 3.0, 6.7; PCI Express Base 5.0, 7.6.3 and 7.9.

use crate::{Access, Width};

/// Which capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CapId {
    /// In the list of the first 256 bytes.
    Standard(u8),
    /// In the list from 100h on.
    Extended(u16),
}

/// A capability found in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Which one.
    pub id: CapId,
    /// Its version; zero in the first list, which has none.
    pub version: u8,
    /// Where it starts.
    pub offset: u16,
}

/// Where registers come from: hardware, a saved page, a dump.
pub trait Source {
    /// The register, or `None` if it cannot be had.
    fn read(&mut self, at: Access) -> Option<u32>;

    /// One byte at `offset`.
    fn u8(&mut self, offset: u16) -> Option<u8> {
        Some(self.read(Access::new(offset, Width::U8).ok()?)? as u8)
    }

    /// Two bytes at `offset`.
    fn u16(&mut self, offset: u16) -> Option<u16> {
        Some(self.read(Access::new(offset, Width::U16).ok()?)? as u16)
    }

    /// Four bytes at `offset`.
    fn u32(&mut self, offset: u16) -> Option<u32> {
        self.read(Access::new(offset, Width::U32).ok()?)
    }
}

impl<F: FnMut(Access) -> Option<u32>> Source for F {
    fn read(&mut self, at: Access) -> Option<u32> {
        self(at)
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// At the end of the list, or there is no list.
    Complete,
    /// At a pointer that leads to a place already seen.
    Loop {
        /// Where it leads.
        offset: u16,
    },
    /// At a pointer into the header or off the end.
    Outside {
        /// Where it leads.
        offset: u16,
    },
    /// At a register that could not be read, or that no capability can hold.
    Unreadable {
        /// Its offset.
        offset: u16,
    },
}

/// Visits the capabilities in the first 256 bytes, in list order, and says how the list ended.
///
/// `header_type` is without the multifunction bit. Reads Status, the pointer (one byte) and each
/// header (two bytes). A Status register that cannot be had is taken to promise a list.
pub fn walk_standard(
    source: &mut impl Source,
    header_type: u8,
    mut visit: impl FnMut(Capability),
) -> End {
    if source.u16(0x06).is_some_and(|status| status & 0x10 == 0) {
        return End::Complete;
    }
    let pointer = match header_type {
        0 | 1 => 0x34,
        2 => 0x14,
        _ => return End::Complete,
    };
    let Some(first) = source.u8(pointer) else {
        return End::Unreadable { offset: pointer };
    };
    let mut offset = u16::from(first & 0xfc);
    let mut seen = 0u64;
    while offset != 0 {
        if offset < 0x40 {
            return End::Outside { offset };
        }
        let here = 1 << (offset >> 2);
        if seen & here != 0 {
            return End::Loop { offset };
        }
        seen |= here;
        let header = match source.u16(offset) {
            Some(header) if header & 0xff != 0xff => header,
            _ => return End::Unreadable { offset },
        };
        let id = CapId::Standard(header as u8);
        let version = 0;
        visit(Capability {
            id,
            version,
            offset,
        });
        offset = header >> 8 & 0xfc;
    }
    End::Complete
}

/// Visits the extended capabilities in list order, and says how the list ended.
///
/// Reads each header (four bytes). A header of zeros or ones at 100h says that there is no list; behind
/// a pointer no capability can have it.
pub fn walk_extended(source: &mut impl Source, mut visit: impl FnMut(Capability)) -> End {
    let mut offset = 0x100;
    let mut seen = [0u64; 16];
    loop {
        let (word, here) = (offset >> 8, 1 << (offset >> 2 & 63));
        match seen.get_mut(usize::from(word)) {
            Some(word) if *word & here == 0 => *word |= here,
            _ => return End::Loop { offset },
        }
        let header = match source.u32(offset) {
            Some(0 | u32::MAX) if offset == 0x100 => return End::Complete,
            Some(0 | u32::MAX) | None => return End::Unreadable { offset },
            Some(header) => header,
        };
        visit(Capability {
            id: CapId::Extended(header as u16),
            version: (header >> 16 & 15) as u8,
            offset,
        });
        offset = (header >> 20 & 0xffc) as u16;
        match offset {
            0 => return End::Complete,
            1..0x100 => return End::Outside { offset },
            _ => {}
        }
    }
}

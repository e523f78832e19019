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

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// A space of zeros with these dwords in it; what is `None` cannot be read.
    fn space(dwords: &[(u16, Option<u32>)]) -> impl FnMut(Access) -> Option<u32> {
        let dwords = dwords.to_vec();
        move |at: Access| {
            let place = at.offset() & !3;
            let found = dwords.iter().find(|&&(offset, _)| offset == place);
            let dword = found.map_or(Some(0), |&(_, dword)| dword)?;
            Some(dword >> (8 * (at.offset() & 3)) & at.width().mask())
        }
    }

    const LIST: (u16, Option<u32>) = (0x04, Some(0x0010_0000));

    fn standard(dwords: &[(u16, Option<u32>)]) -> (Vec<(CapId, u16)>, End) {
        let mut found = Vec::new();
        let end = walk_standard(&mut space(dwords), 0, |cap| {
            assert_eq!(cap.version, 0);
            found.push((cap.id, cap.offset));
        });
        (found, end)
    }

    fn extended(dwords: &[(u16, Option<u32>)]) -> (Vec<(CapId, u8, u16)>, End) {
        let mut found = Vec::new();
        let visit = |cap: Capability| found.push((cap.id, cap.version, cap.offset));
        let end = walk_extended(&mut space(dwords), visit);
        (found, end)
    }

    #[test]
    fn the_first_list_starts_where_the_header_type_says() {
        let cap = (0xfc, Some(0xffff_0005));
        let found = (CapId::Standard(5), 0xfc);
        let status = (0x04, Some(0x0010_ffff));
        // The two low bits of a pointer are reserved.
        for (header_type, pointer) in [(0, 0x34), (1, 0x34), (2, 0x14)] {
            let dwords = [status, (pointer, Some(0xffff_ffff)), cap];
            let mut seen = Vec::new();
            let end = walk_standard(&mut space(&dwords), header_type, |cap| {
                seen.push((cap.id, cap.offset));
            });
            assert_eq!((seen, end), (Vec::from([found]), End::Complete));
        }
        let dwords = [status, (0x34, Some(0xfc)), (0x14, Some(0xfc)), cap];
        let end = walk_standard(&mut space(&dwords), 3, |cap| panic!("{cap:?}"));
        assert_eq!(end, End::Complete, "an unknown header has none");
        let dwords = [(0x04, Some(0xffef_ffff)), (0x34, Some(0xfc)), cap];
        assert_eq!(
            standard(&dwords),
            (Vec::new(), End::Complete),
            "nor without its bit"
        );
        let dwords = [(0x04, None), (0x34, Some(0xfc)), cap];
        assert_eq!(standard(&dwords), (Vec::from([found]), End::Complete));
    }

    #[test]
    fn the_first_list_ends_where_it_cannot_go_on() {
        let outside = |offset| End::Outside { offset };
        let unreadable = |offset| End::Unreadable { offset };
        for (pointer, next, count, end) in [
            (0x40, Some(0x0001), 1, End::Complete),
            (0x40, Some(0x0301), 1, End::Complete),
            (0x40, Some(0x4001), 1, End::Loop { offset: 0x40 }),
            (0x40, Some(0x3f01), 1, outside(0x3c)),
            (0x40, Some(0x0401), 1, outside(0x04)),
            (0x40, Some(0x44_00ff), 0, unreadable(0x40)),
            (0x40, Some(u32::MAX), 0, unreadable(0x40)),
            (0x40, Some(0x80fe), 2, End::Complete),
            (0x40, None, 0, unreadable(0x40)),
            (0x3c, Some(0), 0, outside(0x3c)),
            (0x00, Some(0), 0, End::Complete),
        ] {
            let (found, how) = standard(&[LIST, (0x34, Some(pointer)), (0x40, next)]);
            assert_eq!((found.len(), how), (count, end), "{pointer:#x} {next:x?}");
        }
        let (_, how) = standard(&[LIST, (0x34, None)]);
        assert_eq!(how, unreadable(0x34));
    }

    #[test]
    fn every_place_of_either_list_is_visited_once() {
        let next = |at: u16| u32::from(if at == 0xfc { 0x40 } else { at + 4 });
        let mut dwords = Vec::from([LIST, (0x34, Some(0x40))]);
        dwords.extend(
            (0x40..0x100)
                .step_by(4)
                .map(|at| (at, Some(next(at) << 8 | 9))),
        );
        let (found, end) = standard(&dwords);
        assert_eq!((found.len(), end), (48, End::Loop { offset: 0x40 }));
        let next = |at: u16| u32::from(if at == 0xffc { 0x100 } else { at + 4 });
        let dwords = (0x100..0x1000)
            .step_by(4)
            .map(|at| (at, Some(next(at) << 20 | 0xb)));
        let (found, end) = extended(&dwords.collect::<Vec<_>>());
        assert_eq!((found.len(), end), (960, End::Loop { offset: 0x100 }));
        // Round and round behind the first place.
        let dwords = [(0x100, 0x204), (0x204, 0x200), (0x200, 0x204)];
        let dwords = dwords.map(|(at, next)| (at, Some(next << 20 | 0xb)));
        let (found, end) = extended(&dwords);
        assert_eq!((found.len(), end), (3, End::Loop { offset: 0x204 }));
    }

    #[test]
    fn the_second_list_ends_where_it_cannot_go_on() {
        let outside = |offset| End::Outside { offset };
        let unreadable = |offset| End::Unreadable { offset };
        for (first, second, count, end) in [
            (Some(0), Some(0), 0, End::Complete),
            (Some(u32::MAX), Some(0), 0, End::Complete),
            (None, Some(0), 0, unreadable(0x100)),
            (Some(0x0001_0001), Some(0), 1, End::Complete),
            (Some(0x0031_0001), Some(0), 1, End::Complete),
            (Some(0x1001_0001), Some(0), 1, End::Loop { offset: 0x100 }),
            (Some(0x0ff1_0001), Some(0), 1, outside(0xfc)),
            (Some(0x0041_0001), Some(0), 1, outside(0x04)),
            (Some(0x8031_0001), Some(0), 1, unreadable(0x800)),
            (Some(0x8001_0001), Some(u32::MAX), 1, unreadable(0x800)),
            (Some(0x8001_0001), None, 1, unreadable(0x800)),
            (Some(0x8001_0001), Some(0x0002_0000), 2, End::Complete),
        ] {
            let (found, how) = extended(&[(0x100, first), (0x800, second)]);
            assert_eq!((found.len(), how), (count, end), "{first:x?} {second:x?}");
        }
        let (found, _) = extended(&[(0x100, Some(0xffff_1234)), (0xffc, Some(0x0002_abcd))]);
        let expected = [
            (CapId::Extended(0x1234), 15, 0x100),
            (CapId::Extended(0xabcd), 2, 0xffc),
        ];
        assert_eq!(found, expected);
    }
}

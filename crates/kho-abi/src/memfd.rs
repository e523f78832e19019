//! A preserved memory file (memfd).
//!
//! [`crate::luo::LuoFileSer::data`] is the address of a [`MemfdSer`]; the folios of the file are
//! an array of [`MemfdFolioSer`] in a [vmalloc list](crate::vmalloc), ascending by index.
//!
//! # Source
//! Linux 7.3-rc7 `include/linux/kho/abi/memfd.h`. Version string: [`COMPATIBLE`].

use kho_hal::Pfn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vmalloc::KhoVmalloc;

/// The file handler's name.
pub const COMPATIBLE: &str = "memfd-v2";

/// The seals that the format can carry: F_SEAL_SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE, EXEC.
pub const ALL_SEALS: u32 = 0x3f;

/// Descriptor of a file: C `struct memfd_luo_ser`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MemfdSer {
    /// File position.
    pub pos: U64,
    /// Size in bytes.
    pub size: U64,
    /// Seals, a subset of [`ALL_SEALS`].
    pub seals: U32,
    /// 0.
    pub flags: U32,
    /// Entries in the array of folios.
    pub nr_folios: U64,
    /// The array; all zero if there is none.
    pub folios: KhoVmalloc,
}
assert_layout!(MemfdSer, 48, { pos: 0, size: 8, seals: 16, flags: 20, nr_folios: 24, folios: 32 });

/// A folio of the file: C `struct memfd_luo_folio_ser`.
///
/// The folio's order is that of the map of preserved memory.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MemfdFolioSer {
    /// Page number in bits 0 to 51, flags above.
    pub pfn_and_flags: U64,
    /// Offset in the file of the folio's first page, in pages.
    pub index: U64,
}
assert_layout!(MemfdFolioSer, 16, { pfn_and_flags: 0, index: 8 });

/// Bits of the page number in [`MemfdFolioSer::pfn_and_flags`].
const PFN_BITS: u32 = 52;

/// Flag: the folio differs from what backs it. Linux always sets it.
pub const FOLIO_DIRTY: u16 = 1;

/// Flag: the folio has been filled. Linux always sets it.
pub const FOLIO_UPTODATE: u16 = 2;

impl MemfdFolioSer {
    /// The entry of a folio, or `None` if `pfn` needs more than 52 bits or `flags` more than 12.
    pub fn new(pfn: Pfn, flags: u16, index: u64) -> Option<Self> {
        if pfn.as_u64() >> PFN_BITS != 0 || flags >> (64 - PFN_BITS) != 0 {
            return None;
        }
        Some(Self {
            pfn_and_flags: U64::new(u64::from(flags) << PFN_BITS | pfn.as_u64()),
            index: U64::new(index),
        })
    }

    /// Page number of the folio's first page; 0 is a hole.
    pub fn pfn(&self) -> Pfn {
        Pfn::new(self.pfn_and_flags.get() & ((1 << PFN_BITS) - 1))
    }

    /// [`FOLIO_DIRTY`], [`FOLIO_UPTODATE`].
    pub fn flags(&self) -> u16 {
        (self.pfn_and_flags.get() >> PFN_BITS) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pfn_and_flags_share_a_word() {
        let folio = MemfdFolioSer::new(Pfn::new(0xab_cde1_2345), 3, 9).unwrap();
        assert_eq!(folio.pfn_and_flags.get(), 0x0030_00ab_cde1_2345);
        assert_eq!((folio.pfn(), folio.flags()), (Pfn::new(0xab_cde1_2345), 3));
        assert_eq!(MemfdFolioSer::new(Pfn::new(1 << 52), 0, 0), None);
        assert_eq!(MemfdFolioSer::new(Pfn::new(1), 0x1000, 0), None);
    }
}

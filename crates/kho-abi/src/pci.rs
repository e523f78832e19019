//! PCI functions that are preserved across a live update: a file-lifecycle-bound object of
//! [LUO](crate::luo), in two forms.
//!
//! The name of the object says which form it has, and its number is the physical address of the
//! form's header. Entries of both are 8 bytes with the same fields at the same places, but the last
//! two bytes do not mean the same: the types are distinct.
//!
//! | form | name | version | entries |
//! | --- | --- | --- | --- |
//! | [`v1`] | `pci-v1` | in the name | an array behind the header, ascending |
//! | [`v2`] | `pci` | 2, a field | in [blocks](crate::block), in no order, with free slots |
//!
//! Beside it lies a [third object](functions) with what neither form carries. It is this library's
//! own, and its name does not start with [`PREFIX`]: whoever does not know it loses nothing.
//!
//! A reader of one form does not find the other. An object whose name starts with [`PREFIX`] and
//! is neither must not be passed over: the functions it lists may be doing DMA.
//!
//! # Source
//! The series "PCI: liveupdate" for Linux, first posting and the later one with KHO blocks
//! (`include/linux/kho/abi/pci.h`). Not in Linux 7.3-rc7.

use kho_hal::Sbdf;
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How the name of every form, known or not, starts.
pub const PREFIX: &str = "pci";

/// What entries are ordered and found by: the segment above the 16 bits of bus, device, function.
pub const fn key(function: Sbdf) -> u64 {
    (function.segment() as u64) << 16 | function.bdf() as u64
}

/// The function of this [`key`]; the upper 16 bits of the key are ignored.
pub const fn from_key(key: u64) -> Sbdf {
    Sbdf::from_bdf((key >> 16) as u32, key as u16)
}

const_assert_eq!(key(Sbdf::from_bdf(0x1_0000, 0x3aff)), 0x1_0000_3aff);

/// The first form: a sorted array of fixed capacity.
pub mod v1 {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, Sbdf, U16, U32, U64, Unaligned};

    /// Name of the object; changes with the layout.
    pub const NAME: &str = "pci-v1";

    /// Start of the array: C `struct pci_ser`. The array follows without a gap, and the whole is
    /// one preserved folio.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
    )]
    #[repr(C)]
    pub struct PciSer {
        /// Entries that there is room for.
        pub max_nr_devices: U64,
        /// Entries used.
        pub nr_devices: U64,
    }
    assert_layout!(PciSer, 16, { max_nr_devices: 0, nr_devices: 8 });

    /// A preserved function: C `struct pci_dev_ser`. Entries ascend by [`super::key`], and no two
    /// are equal.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
    )]
    #[repr(C)]
    pub struct PciDevSer {
        /// PCI segment.
        pub domain: U32,
        /// `bus << 8 | device << 3 | function`.
        pub bdf: U16,
        /// 0.
        pub reserved: U16,
    }
    assert_layout!(PciDevSer, 8, { domain: 0, bdf: 4, reserved: 6 });

    impl PciDevSer {
        /// The function.
        pub const fn function(&self) -> Sbdf {
            Sbdf::from_bdf(self.domain.get(), self.bdf.get())
        }
    }
}

/// The second form: blocks of entries that count their users.
pub mod v2 {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, Sbdf, U16, U32, U64, Unaligned};

    /// Name of the object, which is the same in every version.
    pub const NAME: &str = "pci";

    /// [`PciSer::version`] of this layout. Its place and width never change.
    pub const VERSION: u32 = 2;

    /// The header, alone on its page: C `struct pci_ser`.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
    )]
    #[repr(C)]
    pub struct PciSer {
        /// [`VERSION`].
        pub version: U32,
        /// Entries in use, bridges included.
        pub nr_devices: U32,
        /// First block of entries; 0 if there is none.
        pub devices: U64,
    }
    assert_layout!(PciSer, 16, { version: 0, nr_devices: 4, devices: 8 });

    /// A preserved function, or a free slot, which is zero throughout: C `struct pci_dev_ser`.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
    )]
    #[repr(C)]
    pub struct PciDevSer {
        /// PCI segment.
        pub domain: U32,
        /// `bus << 8 | device << 3 | function`.
        pub bdf: U16,
        /// Preserved functions at or below this one; 0 makes the slot free.
        pub refcount: U16,
    }
    assert_layout!(PciDevSer, 8, { domain: 0, bdf: 4, refcount: 6 });

    impl PciDevSer {
        /// The function; of a free slot, 0000:00:00.0.
        pub const fn function(&self) -> Sbdf {
            Sbdf::from_bdf(self.domain.get(), self.bdf.get())
        }
    }
}

/// What neither form carries: what a function is, so that another in its place is noticed, and the
/// sizes of its BARs, which cannot be read without a write that misdirects its peers.
///
/// # Format
/// The object's number is the address of a [`functions::FunctionsSer`], alone on its page, which leads
/// to [blocks](crate::block) of [`functions::FunctionSer`], one for each function of the record, ascending by
/// [`key`]. Bytes without a meaning are zero.
///
/// # Source
/// This library; not in any Linux. The saved configuration space of [`crate::pcsc`] cannot stand
/// in for it: it holds what BARs contain, and an address tells a size only as an upper bound.
pub mod functions {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, Sbdf, U16, U32, U64, Unaligned};

    /// Name of the object; changes with the layout.
    pub const NAME: &str = "kho-functions-v1";

    /// The header.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
    )]
    #[repr(C)]
    pub struct FunctionsSer {
        /// Entries; `u64::MAX` until they are written.
        pub count: U64,
        /// First block of entries; 0 if there is none.
        pub entries: U64,
    }
    assert_layout!(FunctionsSer, 16, { count: 0, entries: 8 });

    /// One function. Sizes are logarithms to base 2 of bytes, 0 for no BAR; the upper half of a
    /// 64-bit BAR is 0.
    #[derive(
        Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
    )]
    #[repr(C)]
    pub struct FunctionSer {
        /// PCI segment.
        pub domain: U32,
        /// `bus << 8 | device << 3 | function`.
        pub bdf: U16,
        /// 0 endpoint, 1 endpoint with peer-to-peer DMA or translation, 2 bridge, 3 physical
        /// function of preserved ones, 4 one that does DMA itself, too.
        pub kind: u8,
        /// Bit 0: the sizes are known.
        pub flags: u8,
        /// Vendor and device, the dword at 00h.
        pub identity: U32,
        /// Revision and class, the dword at 08h.
        pub class: U32,
        /// BARs.
        pub bars: [u8; 6],
        /// Expansion ROM.
        pub rom: u8,
        /// BARs of the virtual functions, each of one function's share.
        pub vf_bars: [u8; 6],
        /// 0.
        pub reserved: [u8; 3],
    }
    assert_layout!(FunctionSer, 32, {
        domain: 0, bdf: 4, kind: 6, flags: 7, identity: 8, class: 12, bars: 16, rom: 22,
        vf_bars: 23, reserved: 29,
    });

    /// [`FunctionSer::flags`]: the sizes are known.
    pub const SIZES_KNOWN: u8 = 1;

    impl FunctionSer {
        /// The function.
        pub const fn function(&self) -> Sbdf {
            Sbdf::from_bdf(self.domain.get(), self.bdf.get())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0001:3a:1f.7 in both forms, byte by byte; in the second with three users.
    #[test]
    fn golden_bytes() {
        let function = Sbdf::new(1, 0x3a, 0x1f, 7).unwrap();
        let first = [1, 0, 0, 0, 0xff, 0x3a, 0, 0];
        let second = [1, 0, 0, 0, 0xff, 0x3a, 3, 0];
        assert_eq!(
            v1::PciDevSer::ref_from_bytes(&first).unwrap().function(),
            function
        );
        let entry = v2::PciDevSer::ref_from_bytes(&second).unwrap();
        assert_eq!((entry.function(), entry.refcount.get()), (function, 3));
        assert_eq!(key(function), 0x1_3aff);
        assert_eq!(from_key(key(function)), function);
        let header = v2::PciSer {
            version: v2::VERSION.into(),
            nr_devices: 5.into(),
            devices: 0x12_3000.into(),
        };
        assert_eq!(
            header.as_bytes(),
            [2, 0, 0, 0, 5, 0, 0, 0, 0, 0x30, 0x12, 0, 0, 0, 0, 0]
        );
        assert!(v1::NAME.starts_with(PREFIX) && v2::NAME.starts_with(PREFIX));
    }

    /// 0001:3a:1f.7, an NVMe drive with peer-to-peer DMA, a 64-bit BAR of 16 KiB and a ROM of
    /// 64 KiB; byte by byte.
    #[test]
    fn golden_bytes_of_a_function() {
        let bytes = [
            1, 0, 0, 0, 0xff, 0x3a, 1, 1, // domain, bdf, kind, flags
            0x86, 0x80, 0x54, 0x0a, 0x03, 0x02, 0x08, 0x01, // identity, class
            14, 0, 0, 0, 0, 0, 16, 0, // BARs, ROM, first VF BAR
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let entry = functions::FunctionSer::ref_from_bytes(&bytes).unwrap();
        assert_eq!(entry.function(), Sbdf::new(1, 0x3a, 0x1f, 7).unwrap());
        assert_eq!((entry.kind, entry.flags), (1, functions::SIZES_KNOWN));
        assert_eq!(entry.identity.get(), 0x0a54_8086);
        assert_eq!(entry.class.get(), 0x0108_0203);
        assert_eq!((entry.bars, entry.rom), ([14, 0, 0, 0, 0, 0], 16));
        assert_eq!((entry.vf_bars, entry.reserved), ([0; 6], [0; 3]));
        let header = functions::FunctionsSer {
            count: 3.into(),
            entries: 0x12_3000.into(),
        };
        assert_eq!(
            header.as_bytes(),
            [3, 0, 0, 0, 0, 0, 0, 0, 0, 0x30, 0x12, 0, 0, 0, 0, 0]
        );
        assert!(!functions::NAME.starts_with(PREFIX));
    }
}

//! How the handover reaches the next kernel.
//!
//! Two addresses are passed: the root FDT and the array of scratch areas. x86 carries them in a
//! `setup_data` node of type 10 behind the boot parameters, arm64 in two properties of `/chosen`.
//!
//! # Source
//! Linux 7.3-rc7: `arch/x86/include/uapi/asm/setup_data.h`, `arch/x86/include/uapi/asm/bootparam.h`,
//! `drivers/of/fdt.c`, `drivers/of/kexec.c`, `include/linux/kexec_handover.h`.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of `hdr.setup_data` in the x86 boot parameters: a u64, the address of the first
/// [`SetupData`] node, 0 for none.
pub const BOOT_PARAMS_SETUP_DATA: u64 = 0x250;

/// `setup_data` type of a handover.
pub const SETUP_KEXEC_KHO: u32 = 10;

/// Header of an x86 `setup_data` node; `len` bytes of data follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SetupData {
    /// Address of the next node, 0 at the end of the chain.
    pub next: U64,
    /// What the data is; [`SETUP_KEXEC_KHO`] for a handover.
    pub kind: U32,
    /// Bytes of data after this header.
    pub len: U32,
}
assert_layout!(SetupData, 16, { next: 0, kind: 8, len: 12 });

/// Data of a [`SetupData`] node of type [`SETUP_KEXEC_KHO`]: C `struct kho_data`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct KhoData {
    /// Address of the root FDT.
    pub fdt_addr: U64,
    /// Bytes that hold it: one page, except in series v5, where it is the segment's size.
    pub fdt_size: U64,
    /// Address of the array of [`KhoScratch`].
    pub scratch_addr: U64,
    /// Size of that array in bytes: 16 times the number of entries.
    pub scratch_size: U64,
}
assert_layout!(KhoData, 32, { fdt_addr: 0, fdt_size: 8, scratch_addr: 16, scratch_size: 24 });

/// One scratch area: memory without preserved pages, where the next kernel starts.
///
/// A size of 0 is legal and names nothing: Linux writes one when its low area already covers what
/// the global area was meant for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct KhoScratch {
    /// First byte.
    pub addr: U64,
    /// Size in bytes.
    pub size: U64,
}
assert_layout!(KhoScratch, 16, { addr: 0, size: 8 });

/// Property of arm64's `/chosen`: address and size of the root FDT, in big-endian cells.
pub const CHOSEN_KHO_FDT: &str = "linux,kho-fdt";

/// Property of arm64's `/chosen`: address and size of the scratch array, in big-endian cells.
pub const CHOSEN_KHO_SCRATCH: &str = "linux,kho-scratch";

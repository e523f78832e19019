//! Lists of the pages of a virtually contiguous area: `kho_vmalloc`.
//!
//! A descriptor, embedded in its user's own structure, leads to a chain of pages. Each holds the
//! address of the next and an array of physical addresses, ended by 0 or by the end of the page.
//! The order of entries is the order in the area. Writers fill a page completely before the next,
//! and link the next as soon as one is full: the last page may hold no entry.
//!
//! # Source
//! Linux 7.3-rc7 `include/linux/kho/abi/kexec_handover.h`. Versioned by the root's `compatible`.

use kho_hal::PageSize;
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An ordinary area.
pub const FLAG_VM_ALLOC: u16 = 1;

/// An area that may have huge mappings.
pub const FLAG_VM_ALLOW_HUGE: u16 = 2;

/// Descriptor of an area: C `struct kho_vmalloc`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct KhoVmalloc {
    /// Address of the first page of the list.
    pub first: U64,
    /// Pages in the area.
    pub total_pages: U32,
    /// [`FLAG_VM_ALLOC`], [`FLAG_VM_ALLOW_HUGE`].
    pub flags: U16,
    /// Each entry stands for `2^order` contiguous pages.
    pub order: U16,
}
assert_layout!(KhoVmalloc, 16, { first: 0, total_pages: 8, flags: 12, order: 14 });

/// Bytes before the array: the address of the next page of the list.
pub const CHUNK_HEADER: usize = 8;

/// Number of addresses in one page of the list.
pub const fn chunk_capacity(page: PageSize) -> usize {
    page.words() - 1
}
const_assert_eq!(chunk_capacity(PageSize::Size4K), 511);
const_assert_eq!(chunk_capacity(PageSize::Size16K), 2047);
const_assert_eq!(chunk_capacity(PageSize::Size64K), 8191);

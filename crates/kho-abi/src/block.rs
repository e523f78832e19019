//! KHO blocks: linked pages of fixed-size entries.
//!
//! The size of an entry is known to the user and not stored. Every block of a set is in use: an
//! empty set has no block.
//!
//! # Source
//! Linux 7.3-rc7 `include/linux/kho/abi/block.h`. Versioned by the root's `compatible`, from
//! `kho-v4` on.

use kho_hal::PageSize;
use static_assertions::const_assert_eq;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Start of each block.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct BlockHeader {
    /// Address of the next block, 0 at the end.
    pub next: U64,
    /// Entries used in this block: 1 to the capacity.
    pub count: U64,
}
assert_layout!(BlockHeader, 16, { next: 0, count: 8 });

/// Most blocks in one set.
pub const MAX_BLOCKS: usize = 10_000;

/// Whether entries of this many bytes can be kept in blocks of every page size.
pub const fn fits_a_block(entry_size: usize) -> bool {
    entry_size > 0 && entry_size <= PageSize::Size4K.as_usize() - size_of::<BlockHeader>()
}

/// Number of entries of `entry_size` bytes that fit one block.
///
/// # Panics
/// If `entry_size` is 0.
pub const fn capacity(entry_size: usize, page: PageSize) -> usize {
    (page.as_usize() - size_of::<BlockHeader>()) / entry_size
}
const_assert_eq!(capacity(80, PageSize::Size4K), 51);
const_assert_eq!(capacity(80, PageSize::Size16K), 204);
const_assert_eq!(capacity(80, PageSize::Size64K), 819);
const_assert_eq!(capacity(64, PageSize::Size4K), 63);
const_assert_eq!(capacity(64, PageSize::Size16K), 255);
const_assert_eq!(capacity(64, PageSize::Size64K), 1023);
const_assert_eq!(capacity(8, PageSize::Size4K), 510);

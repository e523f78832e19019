//! Linked chunks of bitmaps: the map of preserved memory before the radix tree.
//!
//! A chunk is a page. It belongs to one order and holds entries; each entry points to a bitmap and
//! says which address its bit 0 stands for. Bit `b` of an entry at `phys_start`, in a chunk of order
//! `o`, is the folio of order `o` at `phys_start + b * (page << o)`. Chunks and bitmaps are not
//! preserved themselves.
//!
//! # Layouts
//! Series v5 and mainline v1 have [`ChunkHeader`], the sketch has [`SketchChunkHeader`]: the same
//! fields, the order first. A bitmap has 512 bytes, and from Linux 6.18 on it has a page. The string
//! `kho-v1` did not change with it:
//! * an entry's bitmap that is not page-aligned, or a `phys_start` that is not a multiple of what a
//!   bitmap of a page covers, proves 512 bytes;
//! * nothing proves a page.
//!
//! # Source
//! Mail "Re: [PATCH v4] kexec: introduce Kexec HandOver (KHO)" of February 2025 (sketch); series v5 of
//! 20 March 2025; Linux 6.16 to 7.0 `kernel/kexec_handover.c`; bitmaps of a page since a2fff99f92da.

use kho_hal::PageSize;
use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Start of each chunk in series v5 and mainline v1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ChunkHeader {
    /// Address of the next chunk, 0 at the end.
    pub next: U64,
    /// The order of all folios in this chunk.
    pub order: U32,
    /// Entries used.
    pub num_elms: U32,
}
assert_layout!(ChunkHeader, 16, { next: 0, order: 8, num_elms: 12 });

/// Start of each chunk in the sketch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SketchChunkHeader {
    /// The order of all folios in this chunk.
    pub order: U32,
    /// Entries used.
    pub num_elms: U32,
    /// Address of the next chunk, 0 at the end.
    pub next: U64,
}
assert_layout!(SketchChunkHeader, 16, { order: 0, num_elms: 4, next: 8 });

/// One bitmap.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ChunkEntry {
    /// The address that bit 0 stands for.
    pub phys_start: U64,
    /// Address of the bitmap.
    pub bitmap: U64,
}
assert_layout!(ChunkEntry, 16, { phys_start: 0, bitmap: 8 });

/// Bytes of a bitmap of the small layout.
pub const SMALL_BITMAP: usize = 512;

/// Number of entries in a chunk.
pub const fn chunk_capacity(page: PageSize) -> usize {
    page.as_usize() / size_of::<ChunkEntry>() - 1
}
const_assert_eq!(chunk_capacity(PageSize::Size4K), 255);
const_assert_eq!(chunk_capacity(PageSize::Size16K), 1023);
const_assert_eq!(chunk_capacity(PageSize::Size64K), 4095);

/// How large the bitmaps of mainline v1 are: what its string does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Bitmaps {
    /// 512 bytes: Linux 6.16 and 6.17.
    Small,
    /// A page: Linux 6.18, 6.19 and 7.0.
    Page,
}

impl V1Bitmaps {
    /// Bytes of a bitmap.
    pub const fn bytes(self, page: PageSize) -> usize {
        match self {
            Self::Small => SMALL_BITMAP,
            Self::Page => page.as_usize(),
        }
    }
}

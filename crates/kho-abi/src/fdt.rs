//! The root description: a flattened device tree in one page (series v5: in a longer segment).
//!
//! Numbers in property values are native u64, unaligned, in an otherwise big-endian tree.
//!
//! # Source
//! Linux 7.3-rc7 `include/linux/kho/abi/kexec_handover.h` and `kernel/liveupdate/kexec_handover.c`;
//! the older generations as [`Generation`] lists them.

/// Root property that names the format; its value is a NUL-terminated string.
pub const COMPATIBLE: &str = "compatible";

/// Root property of mainline v1 and later: u64, the address of the map of preserved memory.
pub const PRESERVED_MEMORY_MAP: &str = "preserved-memory-map";

/// Property of a sub-blob's node in v2 and later: u64, the address of the blob.
pub const PRESERVED_DATA: &str = "preserved-data";

/// Property of a sub-blob's node in v3 and later: u64, the size of the blob in bytes.
pub const BLOB_SIZE: &str = "blob-size";

/// Longest name of a sub-blob's node, in bytes.
pub const MAX_NODE_NAME: usize = 31;

/// Property of a sub-blob's node in mainline v1: u64, the address of the blob, which is an FDT.
pub const FDT: &str = "fdt";

/// Root property of the sketch: u64, the address of the map of preserved memory.
pub const PRESERVED_FOLIO_MAP: &str = "preserved-folio-map";

/// Root property of the sketch: bits of a physical address, 64.
pub const PHYS_ADDR_SIZE: &str = "phys-addr-size";

/// Root property of the sketch: bits of a pointer, 64.
pub const VOID_P_SIZE: &str = "void-p-size";

/// Child of the root in series v5: it holds [`METADATA`].
pub const PRESERVED_MEMORY: &str = "preserved-memory";

/// Property of [`PRESERVED_MEMORY`]: u64, the address of the map of preserved memory.
pub const METADATA: &str = "metadata";

/// A generation of the format: what the root description looks like and how the map of preserved
/// memory is kept.
///
/// The two layouts of mainline v1 have one string, and so has series v5; what tells them apart is
/// said with [`crate::chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Generation {
    /// Jason Gunthorpe's sketch of February 2025: chunks with the order first, users' nodes inline.
    Sketch,
    /// Version 5 of the series, March 2025: a node for the map, a state tree inline.
    SeriesV5,
    /// Mainline v1 with 512-byte bitmaps. Linux 6.16 and 6.17.
    V1Small,
    /// Mainline v1 with bitmaps of a page. Linux 6.18, 6.19 and 7.0.
    V1Page,
    /// Radix tree; sub-blobs without a recorded size. In no release.
    V2,
    /// As v2, and sub-blobs have a size. Linux 7.1.
    V3,
    /// As v3, and KHO blocks exist. Linux 7.2 and 7.3.
    V4,
}

impl Generation {
    /// Every generation, oldest first.
    pub const ALL: [Self; 7] = [
        Self::Sketch,
        Self::SeriesV5,
        Self::V1Small,
        Self::V1Page,
        Self::V2,
        Self::V3,
        Self::V4,
    ];

    /// The root's `compatible` string, without its NUL.
    pub const fn compatible(self) -> &'static str {
        match self {
            Self::Sketch => "linux-kho,v1",
            Self::SeriesV5 | Self::V1Small | Self::V1Page => "kho-v1",
            Self::V2 => "kho-v2",
            Self::V3 => "kho-v3",
            Self::V4 => "kho-v4",
        }
    }

    /// A name that tells all generations apart.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sketch => "sketch",
            Self::SeriesV5 => "series-v5",
            Self::V1Small => "v1-small",
            Self::V1Page => "v1-page",
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::V4 => "v4",
        }
    }

    /// Whether the map of preserved memory is a radix tree; else it is a list of chunks.
    pub const fn has_radix_tree(self) -> bool {
        matches!(self, Self::V2 | Self::V3 | Self::V4)
    }

    /// Whether users keep their data in nodes of the root description itself, and not in sub-blobs.
    pub const fn is_nested(self) -> bool {
        matches!(self, Self::Sketch | Self::SeriesV5)
    }
}

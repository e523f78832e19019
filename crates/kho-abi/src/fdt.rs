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

/// A generation of the format: what the root description looks like and how the map of preserved
/// memory is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Generation {
    /// Radix tree; sub-blobs without a recorded size. In no release.
    V2,
    /// As v2, and sub-blobs have a size. Linux 7.1.
    V3,
    /// As v3, and KHO blocks exist. Linux 7.2 and 7.3.
    V4,
}

impl Generation {
    /// The root's `compatible` string, without its NUL.
    pub const fn compatible(self) -> &'static str {
        match self {
            Self::V2 => "kho-v2",
            Self::V3 => "kho-v3",
            Self::V4 => "kho-v4",
        }
    }
}

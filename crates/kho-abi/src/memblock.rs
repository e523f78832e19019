//! Named reserved regions: the sub-blob `memblock`, written for Linux's `reserve_mem=`.
//!
//! The blob is an FDT: the root's `compatible` is [`COMPATIBLE`]; each region is a child with the
//! region's name, `compatible` [`REGION_COMPATIBLE`], and [`START`] and [`SIZE`] as native u64.
//!
//! # Source
//! Linux 6.16 to 7.3-rc7 `mm/memblock.c`, `include/linux/kho/abi/memblock.h`.

/// Name of the sub-blob.
pub const NODE: &str = "memblock";

/// `compatible` of the blob's root. Its version string.
pub const COMPATIBLE: &str = "memblock-v1";

/// `compatible` of a region.
pub const REGION_COMPATIBLE: &str = "reserve-mem-v1";

/// Property of a region: address of the first byte.
pub const START: &str = "start";

/// Property of a region: size in bytes.
pub const SIZE: &str = "size";

/// Most regions that Linux reserves.
pub const MAX_REGIONS: usize = 8;

/// Longest name of a region, in bytes.
pub const MAX_NAME: usize = 15;

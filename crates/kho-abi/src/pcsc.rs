//! Saved PCI configuration space: the sub-blob `pcsc` and the pages that it leads to.
//!
//! The sub-blob is a flattened device tree. Its root has `compatible` = [`VERSION`] and [`RULES`]; each child
//! stands for one function, is named `dev_` + segment (at least four hexadecimal digits) + `_` +
//! bus (two) + `_` + device (two) + `_` + function (one), all lower case, and has [`DATA`]. Numbers
//! are native. The functions are those of header type 0.
//!
//! # Source
//! Linux, series "PCI configuration space cache" of 3 October 2025, patches 11 to 13. Not in any
//! release. Version: [`VERSION`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Name of the sub-blob.
pub const NODE: &str = "pcsc";

/// Value of the root's property `compatible`.
pub const VERSION: &str = "pcsc-v1";

/// Property of the root: version of the rules by which bytes were marked cacheable, a native u32.
pub const RULES: &str = "pv";

/// Value of [`RULES`].
pub const RULES_VERSION: u32 = 1;

/// Property of a function's node: physical address of its data, a native u64.
pub const DATA: &str = "da";

/// What the name of a function's node begins with.
pub const NODE_PREFIX: &str = "dev_";

/// One function with 4096 bytes of configuration space: C `struct pcsc_data`.
///
/// Bit n % 8 of byte n / 8 of a bitmap stands for byte n. A byte of `cfg_space` means something
/// only if its bit is set in both bitmaps.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PcscData {
    /// Register values, in offset order.
    pub cfg_space: [u8; 4096],
    /// Bytes that may be cached.
    pub cachable_bitmask: [u8; 512],
    /// Bytes whose value is known.
    pub cached_bitmask: [u8; 512],
}
assert_layout!(PcscData, 5120, { cfg_space: 0, cachable_bitmask: 4096, cached_bitmask: 4608 });

/// The same of a kernel built for 256 bytes of configuration space. Nothing in the sub-blob tells
/// which of the two was written.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PcscDataConventional {
    /// Register values, in offset order.
    pub cfg_space: [u8; 256],
    /// Bytes that may be cached.
    pub cachable_bitmask: [u8; 32],
    /// Bytes whose value is known.
    pub cached_bitmask: [u8; 32],
}
assert_layout!(PcscDataConventional, 320, {
    cfg_space: 0,
    cachable_bitmask: 256,
    cached_bitmask: 288,
});

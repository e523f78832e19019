//! Who handed over, and how often: the sub-blob `kexec-metadata`.
//!
//! # Source
//! Linux 7.1 and later, `include/linux/kho/abi/kexec_metadata.h`. Version: [`VERSION`].

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Name;

/// Name of the sub-blob.
pub const NODE: &str = "kexec-metadata";

/// Value of [`KexecMetadata::version`].
pub const VERSION: u32 = 1;

/// The sub-blob: C `struct kho_kexec_metadata`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct KexecMetadata {
    /// [`VERSION`].
    pub version: U32,
    /// Release of the kernel that wrote it, such as `7.3.0-rc7`.
    pub previous_release: Name<65>,
    /// 1 in the first handover of a chain, one more in each that follows.
    pub kexec_count: U32,
}
assert_layout!(KexecMetadata, 73, { version: 0, previous_release: 4, kexec_count: 69 });

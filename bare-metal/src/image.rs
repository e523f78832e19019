//! Where this program is.
#![allow(unsafe_code, reason = "the linker's symbols are foreign items")]

use kho::hal::{PhysAddr, PhysRange};

// SAFETY: image.ld defines both; nothing is ever read from them.
unsafe extern "C" {
    safe static __image_start: u8;
    safe static __image_end: u8;
}

/// The memory of the image: code, data, stack and heap.
pub fn range() -> PhysRange {
    let address = |symbol: &'static u8| (&raw const *symbol).addr() as u64;
    let start = address(&__image_start);
    let size = address(&__image_end).saturating_sub(start);
    PhysRange::new(PhysAddr::new(start), size).unwrap_or_default()
}

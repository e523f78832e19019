//! Where this program is.
#![allow(unsafe_code, reason = "the linker's symbols are foreign items")]

use kho::hal::{PhysAddr, PhysRange};

// SAFETY: head.s and image.ld define them; nothing is ever read from them.
unsafe extern "C" {
    /// What the boot loader loads starts here: on x86 that is after the real-mode part.
    safe static loaded: u8;
    safe static __image_end: u8;
}

/// The memory of the image: code, data, stack and heap.
pub fn range() -> PhysRange {
    let address = |symbol: &'static u8| (&raw const *symbol).addr() as u64;
    let start = address(&loaded);
    let size = address(&__image_end).saturating_sub(start);
    PhysRange::new(PhysAddr::new(start), size).unwrap_or_default()
}

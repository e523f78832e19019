//! Allocators that do not clear what they give.

use core::sync::atomic::Ordering;

use kho_hal::{MemError, Order, PageSize, PhysAddr, PhysMem};

/// Clears a run of pages.
pub(crate) fn clear(
    mem: &impl PhysMem,
    addr: PhysAddr,
    order: Order,
    page: PageSize,
) -> Result<(), MemError> {
    let absent = MemError::Absent {
        addr,
        len: u64::MAX,
    };
    let bytes = order.bytes(page).ok_or(absent)?;
    let count = usize::try_from(bytes / 8).map_err(|_| absent)?;
    for word in mem.words(addr, count)? {
        word.store(0, Ordering::Relaxed);
    }
    Ok(())
}

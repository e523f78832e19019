//! Single preserved pages, which descriptions are made of.

use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem};

use crate::outgoing::split::Nodes;
use crate::{OutgoingError, Tracker};

/// A zeroed, preserved page.
pub(crate) fn new_page<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
) -> Result<PhysAddr, OutgoingError> {
    Ok(tracker.alloc_preserved(tracker.page_size().bytes())?.0)
}

/// Frees what [`new_page`] gave.
pub(crate) fn free_page<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    page: PhysAddr,
) {
    let _ = tracker.free_preserved(page, Order::ZERO);
}

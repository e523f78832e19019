//! Where pages come from.

use core::fmt;

use crate::{Order, PhysAddr};

/// No memory of this order is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// What was asked for.
    pub order: Order,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no free memory of order {}", self.order)
    }
}

impl core::error::Error for AllocError {}

/// Gives and takes back physical pages.
///
/// # What the implementer does
/// * Never returns memory inside a scratch area: the successor boots there and overwrites it.
/// * Never returns page 0: address 0 means "none" in every format.
/// * On x86, never returns memory below 1 MiB if the successor may be Linux: it takes that for
///   scratch, and puts its real-mode trampoline there, before it has read what is preserved.
pub trait PageAlloc {
    /// Gives `2^order` contiguous pages, zeroed and aligned to their own size.
    ///
    /// # Errors
    /// [`AllocError`] if there is no such run of free pages.
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError>;

    /// Takes back what [`PageAlloc::alloc`] gave for the same `order`.
    fn free(&self, addr: PhysAddr, order: Order);
}

impl<A: PageAlloc + ?Sized> PageAlloc for &A {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        (**self).alloc(order)
    }

    fn free(&self, addr: PhysAddr, order: Order) {
        (**self).free(addr, order);
    }
}

//! `buddy_system_allocator` 0.13: a `LockedFrameAllocator` as a `PageAlloc`.

use buddy_system_allocator::LockedFrameAllocator;
use kho_hal::{AllocError, Order, PageAlloc, PageSize, Pfn, PhysAddr, PhysMem};

use crate::zero::clear;

/// A buddy allocator of page frames as a [`PageAlloc`] of every order that it has.
///
/// The frames that the allocator was given are page frame numbers, and none of them lies in a
/// scratch area. The kernel goes on using the allocator beside this.
///
/// # Example
/// ```
/// use buddy_system_allocator::LockedFrameAllocator;
/// use kho_adapters::buddy::BuddyAlloc;
/// use kho_hal::sim::SimMemory;
/// use kho_hal::{Order, PageAlloc, PageSize, PhysAddr, PhysRange};
///
/// let ram = PhysRange::new(PhysAddr::new(0x10_0000), 0x10_0000).unwrap();
/// let memory = SimMemory::new([ram])?;
/// let frames = LockedFrameAllocator::<33>::new();
/// frames.lock().add_frame(0x100, 0x200);
/// let alloc = BuddyAlloc::new(&frames, &memory, PageSize::Size4K);
/// let eight = alloc.alloc(Order::new(3).unwrap())?;
/// assert!(eight.is_aligned_to(8 * 4096));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct BuddyAlloc<'a, M, const ORDER: usize> {
    frames: &'a LockedFrameAllocator<ORDER>,
    mem: M,
    page: PageSize,
}

impl<'a, M: PhysMem, const ORDER: usize> BuddyAlloc<'a, M, ORDER> {
    /// Allocates from `frames`, whose numbers count pages of `page`, and clears through `mem`.
    pub const fn new(frames: &'a LockedFrameAllocator<ORDER>, mem: M, page: PageSize) -> Self {
        Self { frames, mem, page }
    }
}

impl<M: PhysMem, const ORDER: usize> PageAlloc for BuddyAlloc<'_, M, ORDER> {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        let none = AllocError { order };
        let count = usize::try_from(order.pages()).map_err(|_| none)?;
        let frame = {
            let mut frames = self.frames.lock();
            match frames.alloc(count).ok_or(none)? {
                // Address 0 means none. What starts there goes back once something else is found.
                0 => {
                    let other = frames.alloc(count);
                    frames.dealloc(0, count);
                    other.ok_or(none)?
                }
                frame => frame,
            }
        };
        let addr = Pfn::new(frame as u64).addr(self.page).ok_or(none)?;
        if clear(&self.mem, addr, order, self.page).is_err() {
            self.free(addr, order);
            return Err(none);
        }
        Ok(addr)
    }

    fn free(&self, addr: PhysAddr, order: Order) {
        let frame = addr.pfn(self.page).as_u64();
        if let (Ok(frame), Ok(count)) = (usize::try_from(frame), usize::try_from(order.pages())) {
            self.frames.lock().dealloc(frame, count);
        }
    }
}

//! Free pages.

use buddy_system_allocator::FrameAllocator;
use core::sync::atomic::Ordering;
use kho::hal::{AllocError, Order, PageAlloc, PhysAddr, PhysMem, PhysRange};
use spin::mutex::SpinMutex;

use crate::machine::PAGE;
use crate::memory::Writable;

/// Pages for what is handed over: never in scratch, never page 0.
pub struct Pages {
    map: &'static Writable,
    frames: SpinMutex<FrameAllocator>,
}

impl Pages {
    /// Of these ranges of whole pages, which `map` lends.
    pub fn new(map: &'static Writable, free: &[PhysRange]) -> Self {
        let mut frames = FrameAllocator::new();
        for range in free {
            let frame = |addr: PhysAddr| addr.pfn(PAGE).as_u64() as usize;
            frames.add_frame(frame(range.start()), frame(range.end()));
        }
        Self {
            map,
            frames: SpinMutex::new(frames),
        }
    }
}

impl PageAlloc for Pages {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        let none = AllocError { order };
        let count = order.pages() as usize;
        let frame = self.frames.lock().alloc(count).ok_or(none)?;
        let addr = PhysAddr::new((frame as u64) << PAGE.shift());
        let words = self.map.words(addr, count * PAGE.words());
        for word in words.map_err(|_| none)? {
            word.store(0, Ordering::Relaxed);
        }
        Ok(addr)
    }

    fn free(&self, addr: PhysAddr, order: Order) {
        let frame = addr.pfn(PAGE).as_u64() as usize;
        self.frames.lock().dealloc(frame, order.pages() as usize);
    }
}

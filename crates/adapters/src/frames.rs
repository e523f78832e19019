//! `x86_64` 0.15: a `FrameAllocator` as a `PageAlloc`.
#![allow(unsafe_code, reason = "deallocate_frame is unsafe to call")]

use kho_hal::{AllocError, Order, PageAlloc, PageSize, PhysAddr, PhysMem};
use spin::mutex::SpinMutex;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

use crate::zero::clear;

/// An allocator of 4 KiB frames as a [`PageAlloc`] of order 0.
///
/// Larger orders are refused: a `FrameAllocator` promises nothing about two frames being
/// neighbours. kho-core needs them only for sub-blobs of more than a page.
///
/// Frame 0 stands for "none" in every format, so it is never given: should the allocator come up
/// with it, it is kept back for good.
///
/// # Example
/// ```
/// use kho_adapters::frames::FrameAlloc;
/// use kho_hal::sim::SimMemory;
/// use kho_hal::{Order, PageAlloc, PhysAddr, PhysRange};
/// use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame};
///
/// /// Frames that are free.
/// struct Free(Vec<PhysFrame>);
///
/// // SAFETY: a frame is in the list once.
/// unsafe impl FrameAllocator<x86_64::structures::paging::Size4KiB> for Free {
///     fn allocate_frame(&mut self) -> Option<PhysFrame> {
///         self.0.pop()
///     }
/// }
///
/// impl FrameDeallocator<x86_64::structures::paging::Size4KiB> for Free {
///     unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
///         self.0.push(frame);
///     }
/// }
///
/// let memory = SimMemory::new([PhysRange::new(PhysAddr::new(0x5000), 0x1000).unwrap()])?;
/// let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(0x5000));
/// // SAFETY: nobody frees anything.
/// let alloc = unsafe { FrameAlloc::new(Free(vec![frame]), &memory) };
/// assert_eq!(alloc.alloc(Order::ZERO)?, PhysAddr::new(0x5000));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FrameAlloc<F, M> {
    frames: SpinMutex<F>,
    mem: M,
}

impl<F, M> FrameAlloc<F, M>
where
    F: FrameAllocator<Size4KiB> + FrameDeallocator<Size4KiB>,
    M: PhysMem,
{
    /// Allocates from `frames`, none of which lies in a scratch area, and clears through `mem`.
    ///
    /// # Safety
    /// [`PageAlloc::free`] is called only with what [`PageAlloc::alloc`] gave, once, and not while
    /// the memory is in use: `frames` may hand it to anybody.
    pub const unsafe fn new(frames: F, mem: M) -> Self {
        Self {
            frames: SpinMutex::new(frames),
            mem,
        }
    }

    /// Gives the allocator back.
    pub fn into_inner(self) -> F {
        self.frames.into_inner()
    }
}

impl<F, M> PageAlloc for FrameAlloc<F, M>
where
    F: FrameAllocator<Size4KiB> + FrameDeallocator<Size4KiB>,
    M: PhysMem,
{
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        let none = AllocError { order };
        if order != Order::ZERO {
            return Err(none);
        }
        let mut frames = self.frames.lock();
        let mut next = || {
            let frame = frames.allocate_frame()?;
            Some(PhysAddr::new(frame.start_address().as_u64()))
        };
        let mut addr = next().ok_or(none)?;
        if addr == PhysAddr::new(0) {
            addr = next().ok_or(none)?;
        }
        drop(frames);
        if clear(&self.mem, addr, order, PageSize::Size4K).is_err() {
            self.free(addr, order);
            return Err(none);
        }
        Ok(addr)
    }

    fn free(&self, addr: PhysAddr, order: Order) {
        let frame = x86_64::PhysAddr::try_new(addr.as_u64());
        if let (Ok(start), Order::ZERO) = (frame, order) {
            let frame = PhysFrame::containing_address(start);
            // SAFETY: `new` requires that only what `alloc` gave comes back, and is unused.
            unsafe { self.frames.lock().deallocate_frame(frame) };
        }
    }
}

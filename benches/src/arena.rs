//! The memory that trees and descriptions lie in, reached by way of a direct map, as in a kernel.
#![allow(
    unsafe_code,
    reason = "a direct map is made of an address, as a kernel makes it"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::atomic::{AtomicU64, Ordering};

use kho::hal::{AllocError, DirectMap, FrozenDirectMap, Order, PageAlloc, PhysAddr, PhysRange};

use crate::{PAGE, range};

/// Where an arena begins, as a physical address.
const BASE: u64 = 64 << 20;
/// Its first bytes are scratch.
const SCRATCH: u64 = 1 << 20;

/// Memory of a given size, whose pages are given out one after the other and never come back.
#[derive(Debug)]
pub struct Arena {
    memory: *mut u8,
    layout: Layout,
    /// The whole of it.
    ranges: [PhysRange; 1],
    /// Where the successor starts.
    pub scratch: [PhysRange; 1],
    next: AtomicU64,
}

// SAFETY: the memory is only reached through the maps, whose rules hold on any thread; nothing else
// of it is not `Sync`.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of `size` bytes, zeroed.
    pub fn new(size: u64) -> Self {
        let layout = Layout::from_size_align(size as usize, 2 << 20).unwrap();
        // SAFETY: the size is not 0.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        Self {
            memory,
            layout,
            ranges: [range(BASE, size)],
            scratch: [range(BASE, SCRATCH)],
            next: AtomicU64::new(BASE + SCRATCH),
        }
    }

    /// The distance between physical addresses and where they are mapped.
    pub fn distance(&self) -> usize {
        self.memory.expose_provenance().wrapping_sub(BASE as usize)
    }

    /// All of it, as plain addresses: where it is mapped, and its length.
    pub fn mapped(&self) -> (usize, usize) {
        (self.memory.expose_provenance(), self.layout.size())
    }

    /// The memory, to be written by any number of CPUs.
    pub fn map(&self) -> DirectMap<'_> {
        // SAFETY: the arena is mapped at this distance while it lives; `&self` reaches it through
        // such maps only, and `frozen` needs an exclusive borrow, which ends all of these.
        unsafe { DirectMap::new(self.distance(), &self.ranges) }
    }

    /// The memory, which nobody writes while this is used.
    pub fn frozen(&mut self) -> FrozenDirectMap<'_> {
        // SAFETY: as in `map`; the exclusive borrow keeps all writers out.
        unsafe { FrozenDirectMap::new(self.distance(), &self.ranges) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.memory, self.layout) };
    }
}

impl PageAlloc for Arena {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        let size = order.bytes(PAGE).ok_or(AllocError { order })?;
        let end = self.ranges[0].end().as_u64();
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                let after = next.next_multiple_of(size) + size;
                (after <= end).then_some(after)
            });
        let before = taken.map_err(|_| AllocError { order })?;
        Ok(PhysAddr::new(before.next_multiple_of(size)))
    }

    fn free(&self, _: PhysAddr, _: Order) {}
}

//! The heap: memory inside the image.
#![allow(unsafe_code, reason = "a global allocator is given raw memory")]

use core::cell::UnsafeCell;

use buddy_system_allocator::LockedHeap;

const SIZE: usize = 8 << 20;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

#[repr(C, align(4096))]
struct Arena(UnsafeCell<[u8; SIZE]>);

// SAFETY: only `start` touches it, once, and gives it to the allocator, which has a lock.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; SIZE]));

/// Makes the heap usable. Called once, before anything is allocated.
pub fn start() {
    // SAFETY: `init`: the arena is memory of this size that lives for ever, and nobody else has
    // it, as this is called once.
    unsafe { HEAP.lock().init(ARENA.0.get() as usize, SIZE) };
}

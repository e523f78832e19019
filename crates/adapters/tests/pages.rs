//! Whole handovers whose pages come from allocators that kernels already have.
#![cfg(all(feature = "buddy_system_allocator", feature = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]
#![allow(unsafe_code, reason = "x86_64's allocators are unsafe to make")]

use std::ops::Range;

use buddy_system_allocator::LockedFrameAllocator;
use kho_adapters::buddy::BuddyAlloc;
use kho_adapters::frames::FrameAlloc;
use kho_core::BootData;
use kho_core::incoming::{Incoming, Machine};
use kho_core::outgoing::{Outgoing, Tracker};
use kho_hal::sim::{Faulty, SimMemory};
use kho_hal::{FrozenMem, Order, PageAlloc, PageSize, PhysAddr, PhysRange};
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

const PAGE: PageSize = PageSize::Size4K;
const MIB: u64 = 1 << 20;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

/// 4 MiB, full of what an earlier user left.
fn memory() -> SimMemory {
    let memory = SimMemory::new([range(0, 4 * MIB)]).unwrap();
    memory.fill(range(0, 4 * MIB), 0xee);
    memory
}

/// A list of free frames, as in many small kernels.
#[derive(Debug)]
struct List(Vec<PhysFrame>);

impl List {
    /// Frames by number, lowest last.
    fn new(numbers: Range<usize>) -> Self {
        let frame =
            |n: usize| PhysFrame::containing_address(x86_64::PhysAddr::new((n << 12) as u64));
        Self(numbers.rev().map(frame).collect())
    }
}

// SAFETY: a frame is in the list once, and not while it is given.
unsafe impl FrameAllocator<Size4KiB> for List {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.pop()
    }
}

impl FrameDeallocator<Size4KiB> for List {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        assert!(!self.0.contains(&frame));
        self.0.push(frame);
    }
}

/// The folio that is preserved.
const FOLIO: PhysAddr = PhysAddr::new(2 * MIB + 0x10_000);

/// Preserves a folio and a blob of `size` bytes, and hands over.
fn hand_over(memory: &SimMemory, alloc: &impl PageAlloc, size: usize) -> BootData {
    let scratch = [range(3 * MIB, MIB)];
    let tracker = Tracker::new(memory, alloc, PAGE, &scratch).unwrap();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    let order = Order::new(4).unwrap();
    outgoing.tracker().preserve_folio(FOLIO, order).unwrap();
    outgoing.add_blob("note", &vec![7; size]).unwrap();
    let array = PhysAddr::new(4 * MIB - 4096);
    let finalized = outgoing.finalize(array, &mut []).unwrap();
    finalized.hand_over()
}

/// Checks what was handed over.
fn take_over(mut memory: SimMemory, boot: BootData, size: usize) {
    let memory = memory.freeze();
    let mut workspace = [0; 256];
    let incoming = Incoming::check(&memory, boot, Machine::unknown(PAGE), &mut workspace).unwrap();
    let note = incoming.subtree("note").unwrap().range;
    assert_eq!(note.size(), size as u64);
    assert_eq!(memory.bytes(note.start(), size).unwrap(), vec![7; size]);
    let folio = incoming.restore_folio(FOLIO).unwrap();
    assert_eq!(folio.order, Order::new(4).unwrap());
}

#[test]
fn a_handover_from_a_list_of_frames() {
    let memory = memory();
    // SAFETY: the handover frees nothing that it was not given.
    let alloc = unsafe { FrameAlloc::new(List::new(0..0x200), &memory) };
    let boot = hand_over(&memory, &alloc, 100);
    drop(alloc);
    take_over(memory, boot, 100);
}

#[test]
fn a_handover_from_a_buddy_allocator() {
    let memory = memory();
    let frames = LockedFrameAllocator::<33>::new();
    frames.lock().add_frame(0, 0x200);
    let boot = hand_over(&memory, &BuddyAlloc::new(&frames, &memory, PAGE), 100_000);
    take_over(memory, boot, 100_000);
}

#[test]
fn frames_are_cleared_one_by_one_and_never_frame_0() {
    let memory = memory();
    // SAFETY: what is freed below was allocated, and is used no more.
    let alloc = unsafe { FrameAlloc::new(List::new(0..4), &memory) };
    assert!(alloc.alloc(Order::new(1).unwrap()).is_err());
    let pages: Vec<_> = std::iter::from_fn(|| alloc.alloc(Order::ZERO).ok()).collect();
    assert_eq!(pages, [0x1000, 0x2000, 0x3000].map(PhysAddr::new));
    for &page in &pages {
        assert_eq!(memory.word(page), Some(0));
        assert_eq!(memory.word(PhysAddr::new(page.as_u64() + 0xff8)), Some(0));
    }
    assert_ne!(memory.word(PhysAddr::new(0)), Some(0));
    assert_ne!(memory.word(PhysAddr::new(0x4000)), Some(0));
    alloc.free(pages[1], Order::ZERO);
    assert_eq!(alloc.alloc(Order::ZERO), Ok(pages[1]));
    assert!(alloc.into_inner().0.is_empty());
}

#[test]
fn a_buddy_allocator_gives_what_is_aligned_and_never_frame_0() {
    let memory = memory();
    let frames = LockedFrameAllocator::<33>::new();
    frames.lock().add_frame(0, 16);
    let alloc = BuddyAlloc::new(&frames, &memory, PAGE);
    let four = Order::new(2).unwrap();
    let mut found: Vec<_> = std::iter::from_fn(|| alloc.alloc(four).ok()).collect();
    found.sort();
    assert_eq!(found, [0x4000, 0x8000, 0xc000].map(PhysAddr::new));
    for &addr in &found {
        assert_eq!(memory.word(PhysAddr::new(addr.as_u64() + 0x3ff8)), Some(0));
        alloc.free(addr, four);
    }
    assert_ne!(memory.word(PhysAddr::new(0)), Some(0));
    // All of it is there again, in one piece.
    assert_eq!(frames.lock().alloc(16), Some(0));
    assert!(alloc.alloc(Order::new(63).unwrap()).is_err());
}

/// Memory that cannot be cleared goes back to its allocator.
#[test]
fn nothing_is_lost_when_memory_fails() {
    let memory = memory();
    let failing = Faulty::new(&memory);
    failing.fail_at(Some(0));
    // SAFETY: what is freed below was allocated, and is used no more.
    let alloc = unsafe { FrameAlloc::new(List::new(1..2), &failing) };
    assert!(alloc.alloc(Order::ZERO).is_err());
    assert!(alloc.alloc(Order::ZERO).is_ok());

    let frames = LockedFrameAllocator::<33>::new();
    frames.lock().add_frame(1, 2);
    let alloc = BuddyAlloc::new(&frames, &failing, PAGE);
    failing.fail_at(Some(0));
    assert!(alloc.alloc(Order::ZERO).is_err());
    assert_eq!(alloc.alloc(Order::ZERO), Ok(PhysAddr::new(0x1000)));
}

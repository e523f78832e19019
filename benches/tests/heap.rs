//! Taking over needs no heap. A test of its own, as the counter counts for the whole process.
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::alloc::System;

use kho::hal::PhysAddr;
use kho_benches::arena::Arena;
use kho_benches::{calls, check, handovers};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Everything there is to read is read without an allocation.
#[test]
fn taking_over_allocates_nothing() {
    let mut arena = Arena::new(64 << 20);
    let boot = handovers::mixed(&arena);
    let memory = arena.frozen();
    let mut workspace = vec![0; 65536];
    let before = Region::new(GLOBAL);
    calls::take_over(&memory, boot, &mut workspace);
    assert_eq!(before.change().allocations, 0);
    assert_eq!(before.change().reallocations, 0);
    let incoming = check(&memory, boot, &mut workspace);
    assert!(
        incoming.folios().count() > 1000,
        "there was something to read"
    );
    assert!(incoming.folio_containing(PhysAddr::new(0)).is_none());
    drop(vec![1u8]);
    assert_eq!(
        before.change().allocations,
        1,
        "and allocations are counted"
    );
}

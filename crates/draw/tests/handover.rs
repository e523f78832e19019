//! The map of a handover: each page is counted once, as what it is.
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use kho_core::incoming::{Incoming, Machine};
use kho_core::outgoing::{Outgoing, Tracker};
use kho_draw::{Kind, MemoryMap};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{Order, PageSize, PhysAddr, PhysRange};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

#[test]
fn each_page_is_what_it_is() {
    let page = PageSize::Size4K;
    let (ram, scratch) = (range(0, 8 * MIB), [range(4 * MIB, MIB)]);
    let mut memory = SimMemory::new([ram]).unwrap();
    let boot = {
        // Its pages lie between what is preserved.
        let alloc = SimAlloc::new(&memory, page, [range(MIB, MIB / 2)]);
        let tracker = Tracker::new(&memory, &alloc, page, &scratch).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let before = 2 * MIB - 4 * KIB;
        for (addr, order) in [
            (0, 0),
            (64 * KIB, 1),
            (before, 0),
            (2 * MIB, 9),
            (7 * MIB, 0),
        ] {
            let order = Order::new(order).unwrap();
            let folio = outgoing
                .tracker()
                .preserve_folio(PhysAddr::new(addr), order);
            folio.unwrap();
        }
        let list = PhysAddr::new(4 * MIB);
        outgoing.finalize(list, &mut []).unwrap().hand_over()
    };
    let (frozen, mut workspace) = (memory.freeze(), vec![0; 1 << 12]);
    let machine = Machine::unknown(page);
    let incoming = Incoming::check(&frozen, boot, machine, &mut workspace).unwrap();
    let mut description = 4 * KIB;
    incoming.for_each_map_page(|page| description += page.size());
    let map = MemoryMap::of([ram], &incoming);
    let small = (4 + 8 + 4 + 4) * KIB;
    let other = 8 * MIB - 2 * MIB - small - description - MIB;
    assert_eq!(
        Kind::ALL.map(|kind| map.bytes(kind)),
        [0, 2 * MIB, small, description, MIB, other]
    );
    let mut letters = MemoryMap::of([], &incoming).line(2000);
    letters.dedup();
    let letters: String = letters.into_iter().map(Kind::letter).collect();
    assert_eq!(letters, "p p d pMs p");
}

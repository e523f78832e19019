//! Our tree beside Linux's own, compiled from its source: the same set gives the same tables.
#![cfg(linux_peer)]
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

use std::sync::atomic::Ordering;

use kho::abi::radix;
use kho::hal::{DirectMap, Order, PhysAddr, PhysMem};
use kho_benches::arena::Arena;
use kho_benches::linux::LinuxTree;
use kho_benches::{PAGE, ROOM, sets, tracker};

fn words(memory: &DirectMap<'_>, node: u64) -> Vec<u64> {
    let words = memory.words(PhysAddr::new(node), PAGE.words()).unwrap();
    words
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect()
}

/// Both have the same entries in use, and the same bits in their leaves. The tables lie where their
/// allocators put them. Returns how many leaves there are.
fn assert_same(ours: (&DirectMap<'_>, u64), linux: (&DirectMap<'_>, u64), level: u32) -> u64 {
    let (a, b) = (words(ours.0, ours.1), words(linux.0, linux.1));
    if level == 0 {
        assert_eq!(a, b);
        return 1;
    }
    let children = a.into_iter().zip(b).map(|(a, b)| {
        assert_eq!(a == 0, b == 0);
        match a {
            0 => 0,
            _ => assert_same((ours.0, a), (linux.0, b), level - 1),
        }
    });
    children.sum()
}

#[test]
fn the_same_set_gives_the_same_tables() {
    let folios: Vec<(u64, u32)> = sets::scattered()
        .into_iter()
        .step_by(100)
        .chain(sets::spread())
        .enumerate()
        .map(|(i, addr)| (addr, i as u32 % 19))
        .map(|(addr, order)| (addr >> (12 + order) << (12 + order), order))
        .collect();
    let arena = Arena::new(ROOM);
    let tracker = tracker(&arena);
    let mut linux = LinuxTree::new(ROOM);
    for &(addr, order) in &folios {
        linux.preserve(addr, order);
        // Linux does not say that a folio was preserved already.
        let _ = tracker.preserve_folio(PhysAddr::new(addr), Order::new(order).unwrap());
    }
    for &(addr, order) in folios.iter().step_by(3) {
        linux.unpreserve(addr, order);
        let _ = tracker.unpreserve_folio(PhysAddr::new(addr), Order::new(order).unwrap());
    }
    let linux_root = linux.root();
    let (map, linux_map) = (arena.map(), linux.arena().map());
    let ours = (&map, tracker.root().as_u64());
    let leaves = assert_same(ours, (&linux_map, linux_root), radix::depth(PAGE) - 1);
    assert!(leaves > 1000);
}

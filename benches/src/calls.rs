//! The calls of the library, each as its user makes it, to see what they need.

use std::num::NonZeroUsize;

use kho::core::BootData;
use kho::core::incoming::Incoming;
use kho::core::outgoing::Outgoing;
use kho::hal::{FrozenDirectMap, Order, PhysAddr};
use kho::pci_lu::Record;

use crate::arena::Arena;
use crate::{ROOM, check, handovers, range, sets, stack, tracker, try_check};

type Checked<'a> = Incoming<'a, FrozenDirectMap<'a>>;

/// Reads everything there is in a handover.
pub fn take_over(memory: &FrozenDirectMap<'_>, boot: BootData, workspace: &mut [u64]) {
    let incoming = check(memory, boot, workspace);
    for (_, call) in READING {
        call(&incoming);
    }
    let record = Record::read(&incoming, workspace).unwrap();
    assert!(record.is_none_or(|record| record.iter().count() == record.len()));
}

/// A call that reads a checked handover.
type Reading = (&'static str, fn(&Checked<'_>));

const READING: [Reading; 8] = [
    ("Incoming::folios", |incoming| {
        assert!(incoming.folios().count() > 0);
    }),
    ("Incoming::folios_in", |incoming| {
        let some = range(sets::START, 1 << 30);
        assert!(incoming.folios_in(some).count() > 0);
    }),
    ("Incoming::split", |incoming| {
        let parts = incoming.split(NonZeroUsize::new(3).unwrap());
        assert!(parts.map(|part| part.count()).sum::<usize>() > 0);
    }),
    ("Incoming::extents", |incoming| {
        assert!(incoming.extents().count() > 0);
    }),
    ("Incoming::restore_folio", |incoming| {
        assert!(incoming.restore_folio(PhysAddr::new(0)).is_none());
    }),
    ("Incoming::restore_pages", |incoming| {
        assert!(incoming.restore_pages(range(0, 1 << 20)).is_none());
    }),
    ("Incoming::subtrees", |incoming| {
        assert!(incoming.subtrees().count() > 0);
    }),
    ("Incoming::luo", |incoming| {
        let luo = incoming.luo().known().unwrap();
        assert!(luo.sessions().flat_map(|session| session.files()).count() > 0);
    }),
];

/// What each call takes of the stack, in bytes.
pub fn stack() -> Vec<(&'static str, usize)> {
    let mut calls = Vec::new();
    outgoing(&mut calls);
    let mut arena = Arena::new(ROOM);
    let boot = handovers::mixed(&arena);
    let memory = arena.frozen();
    let mut workspace = vec![0; 65536];
    let used = stack::used(|| {
        assert!(try_check(&memory, boot, &mut workspace).is_ok());
    });
    // The room for the result is the caller's.
    let result = size_of_val(&try_check(&memory, boot, &mut workspace));
    calls.push(("Incoming::check", used - result));
    let incoming = check(&memory, boot, &mut workspace);
    for (name, call) in READING {
        calls.push((name, stack::used(|| call(&incoming))));
    }
    calls
}

fn outgoing(calls: &mut Vec<(&'static str, usize)>) {
    let arena = Arena::new(ROOM);
    let tracker = tracker(&arena);
    let pages = sets::spread();
    let (one, two) = (PhysAddr::new(pages[0]), PhysAddr::new(pages[1]));
    let batch = || {
        pages[2..]
            .iter()
            .map(|&page| (PhysAddr::new(page), Order::ZERO))
    };
    let mut call = |name, work: &mut dyn FnMut()| calls.push((name, stack::used(work)));
    call("Tracker::preserve_folio", &mut || {
        tracker.preserve_folio(one, Order::ZERO).unwrap();
    });
    call("Tracker::preserve_folios", &mut || {
        tracker.preserve_folios(batch()).unwrap();
    });
    call("Tracker::unpreserve_folios", &mut || {
        tracker.unpreserve_folios(batch()).unwrap();
    });
    call("Tracker::preserve_run", &mut || {
        tracker
            .preserve_run(range(two.as_u64(), 1 << 23), Order::ZERO)
            .unwrap();
    });
    call("Tracker::preserve_pages", &mut || {
        tracker
            .preserve_pages(range(8 << 40, (1 << 30) + 4096))
            .unwrap();
    });
    let mut outgoing = None;
    let mut tracker = Some(tracker);
    call("Outgoing::new", &mut || {
        outgoing = tracker
            .take()
            .map(|tracker| Outgoing::new(tracker).unwrap());
    });
    let mut outgoing = outgoing.unwrap();
    call("Outgoing::add_blob", &mut || {
        outgoing.add_blob("blob", &[7; 100]).unwrap();
    });
    let array = arena.scratch[0].start();
    call("Outgoing::finalize", &mut || {
        outgoing.finalize(array, &mut []).unwrap().hand_over();
    });
}

//! Many functions: what is counted grows with their number, not with its square.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/pci.rs"]
mod pci;

use std::cell::Cell;

use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};
use kho_pci_lu::{Device, Functions, Kind, OutgoingForm, PreserveError, Record, Registry};
use machine::{Bus, ROOT, jump, open};

/// Accesses for one whole update of `count` functions below one bridge: looks at the topology, reads
/// and writes of configuration space, accesses to memory before the jump.
#[derive(Clone, Copy, Debug)]
struct Counted {
    topology: u64,
    config: u64,
    memory: u64,
    longest: u64,
}

fn whole_update(count: u16, form: OutgoingForm) -> Counted {
    let bus: Bus = Box::leak(Box::<SimBus>::default());
    bus.add(ROOT, SimFunction::bridge(0x1b36, 0xc, 1, 255));
    let functions: Vec<_> = (0x100..0x100 + count)
        .map(|bdf| Sbdf::from_bdf(0, bdf))
        .collect();
    for &function in &functions {
        bus.add(function, SimFunction::conventional(1, 2));
    }
    let looks = Cell::new(0);
    let topology = |function| {
        looks.set(looks.get() + 1);
        Some(Device {
            kind: if function == ROOT {
                Kind::Bridge
            } else {
                Kind::Endpoint
            },
            is_virtual: false,
            acs_quirk: false,
            upstream: (function != ROOT).then_some(ROOT),
            bars: None,
        })
    };
    let accesses = || bus.reads() + bus.writes();
    let registry = Registry::new(bus);
    let mut memory = common::memory();
    let (boot, calls, longest) = open(&memory, &registry, form, |outgoing, luo, faults| {
        let mut longest = 0;
        let mut measured = |act: &dyn Fn()| {
            let before = (looks.get(), accesses(), faults.calls());
            act();
            let all = looks.get() - before.0 + accesses() - before.1 + faults.calls() - before.2;
            longest = longest.max(all);
        };
        let tracker = outgoing.tracker();
        let preserve = |function| registry.preserve(tracker, &topology, function).unwrap();
        for &function in &functions {
            measured(&|| preserve(function));
        }
        for &function in functions.iter().step_by(2) {
            measured(&|| registry.unpreserve(tracker, function).unwrap());
        }
        for &function in functions.iter().step_by(2) {
            measured(&|| preserve(function));
        }
        assert_eq!(registry.outgoing_refcount(ROOT), count);
        (jump(outgoing, luo), faults.calls(), longest)
    });
    let frozen = memory.freeze();
    let incoming = common::check(&frozen, boot);
    let mut workspace = vec![0; 20_000];
    let known = Functions::read(&incoming, &mut workspace).unwrap();
    assert_eq!(
        known.iter().flat_map(Functions::iter).count(),
        usize::from(count) + 1
    );
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    let registry = Registry::new(bus);
    let received = registry.receive(&record, known.as_ref()).unwrap();
    for &function in [ROOT].iter().chain(&functions) {
        assert_eq!(registry.set_up(function), Ok(true));
    }
    let updated = received.verify(&topology).unwrap();
    for &function in &functions {
        updated.own_interrupts(function).unwrap();
        let finished = updated.finish(function).unwrap();
        assert_eq!(finished.interrupts, [function]);
    }
    assert_eq!(registry.incoming_count(), 0);
    updated.close().unwrap();
    Counted {
        topology: looks.get(),
        config: accesses(),
        memory: calls,
        longest,
    }
}

#[test]
fn ten_thousand_functions_cost_four_times_what_a_quarter_does() {
    for form in [OutgoingForm::V2, OutgoingForm::V1 { capacity: 10_000 }] {
        let counts = [625u16, 2500, 10_000];
        let all = counts.map(|count| whole_update(count, form));
        for pair in all.windows(2) {
            let [less, more] = [pair[0], pair[1]];
            // Four times as many functions; an eighth more for what does not divide.
            let linear = |less: u64, more: u64| more <= less * 4 + less / 2;
            assert!(linear(less.topology, more.topology), "{all:?}");
            assert!(linear(less.config, more.config), "{all:?}");
            assert!(linear(less.memory, more.memory), "{all:?}");
        }
        // No single call is slower among many: a page more now and then, for the tracker's tree.
        assert!(all[2].longest <= all[0].longest + 16, "{all:?}");
    }
}

/// A bridge at [`ROOT`], and the same conventional function at every other place.
#[derive(Debug)]
struct Everywhere;

impl PciConfigAccess for Everywhere {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let bridge = function == ROOT && at.offset() == 0x0e;
        Ok(u32::from(bridge))
    }

    fn write(&self, _: Sbdf, _: Access, _: u32) -> Result<(), PciError> {
        Ok(())
    }
}

/// A count has 16 bits: one function more is refused, and takes nothing with it.
#[test]
fn a_count_does_not_overflow() {
    let topology = |function| {
        Some(Device {
            kind: if function == ROOT {
                Kind::Bridge
            } else {
                Kind::Endpoint
            },
            is_virtual: false,
            acs_quirk: false,
            upstream: (function != ROOT).then_some(ROOT),
            bars: None,
        })
    };
    let memory = common::memory();
    let registry = Registry::new(Everywhere);
    open(&memory, &registry, OutgoingForm::V2, |outgoing, luo, _| {
        let function = |n: u32| Sbdf::from_bdf(1 + (n >> 16), n as u16);
        for n in 0..0xffff {
            let tracker = outgoing.tracker();
            registry.preserve(tracker, &topology, function(n)).unwrap();
        }
        assert_eq!(registry.outgoing_refcount(ROOT), 0xffff);
        let tracker = outgoing.tracker();
        let last = registry.preserve(tracker, &topology, function(0xffff));
        assert_eq!(last, Err(PreserveError::TooMany { function: ROOT }));
        assert_eq!(registry.outgoing_count(), 0x1_0000);
        assert_eq!(registry.outgoing_refcount(function(0xffff)), 0);
        jump(outgoing, luo);
    });
}

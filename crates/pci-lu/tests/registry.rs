//! Who is preserved, on both sides of an update: tests 15, 18, 19, 22 of the policy.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
#[path = "common/pci.rs"]
mod pci;

use std::collections::BTreeMap;

use common::{File, PAGE, SCRATCH, SimTracker, alloc, check, memory, range};
use kho_abi::pci::v1;
use kho_abi::pci::v2::{self, NAME};
use kho_core::BootData;
use kho_core::outgoing::luo::{Flb, Luo};
use kho_core::outgoing::{Outgoing, Tracker};
use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::sim::{Faulty, SimMemory};
use kho_hal::{PciConfigAccess, PhysAddr, PhysMem, Sbdf, Width};
use kho_pci_lu::{
    Device, FieldError, FinishError, GuardError, Kind, PreserveError, Record, Registry, State,
};
use zerocopy::{FromZeros, IntoBytes};

type Machine = BTreeMap<Sbdf, Device>;

fn sbdf(bus: u8, device: u8, function: u8) -> Sbdf {
    Sbdf::new(0, bus, device, function).unwrap()
}

const ROOT: Sbdf = Sbdf::from_bdf(0, 0x0018);
const UP: Sbdf = Sbdf::from_bdf(0, 0x0100);
const DOWN: [Sbdf; 2] = [Sbdf::from_bdf(0, 0x0200), Sbdf::from_bdf(0, 0x0208)];
const NVME: [Sbdf; 2] = [Sbdf::from_bdf(0, 0x0300), Sbdf::from_bdf(0, 0x0400)];
const PF: Sbdf = Sbdf::from_bdf(0, 0x0020);

/// A root port, a switch, an endpoint below each of its ports, and a physical function with four
/// virtual ones on the root bus; all of it live.
fn machine() -> (&'static SimBus, Machine) {
    let bus: &SimBus = Box::leak(Box::default());
    let port = |secondary, subordinate, kind| {
        SimFunction::bridge(0x1b36, 0xc, secondary, subordinate)
            .with_pm(true)
            .with_express(kind)
    };
    bus.add(ROOT, port(1, 4, 4));
    bus.add_behind(ROOT, UP, port(2, 4, 5));
    bus.add_behind(UP, DOWN[0], port(3, 3, 6));
    bus.add_behind(UP, DOWN[1], port(4, 4, 6));
    bus.add_behind(DOWN[0], NVME[0], pci::endpoint());
    bus.add_behind(DOWN[1], NVME[1], pci::endpoint());
    bus.add(PF, pci::physical());
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    bus.write_u16(PF, sriov + 0x10, 4).unwrap();
    bus.write_u16(PF, sriov + 8, 9).unwrap();
    let mut machine = Machine::new();
    let mut put = |function, kind, upstream| {
        let device = Device {
            kind,
            is_virtual: upstream == Some(PF),
            acs_quirk: false,
            upstream,
        };
        machine.insert(function, device);
        bus.write_u16(function, 4, 6).unwrap();
    };
    put(ROOT, Kind::Bridge, None);
    put(UP, Kind::Bridge, Some(ROOT));
    for (down, nvme) in DOWN.into_iter().zip(NVME) {
        put(down, Kind::Bridge, Some(UP));
        put(nvme, Kind::Endpoint, Some(down));
    }
    put(PF, Kind::Physical, None);
    for vf in bus
        .functions()
        .into_iter()
        .filter(|f| *f > PF && f.bus() == 0)
    {
        put(vf, Kind::Endpoint, Some(PF));
    }
    assert_eq!(machine.len(), 11);
    (bus, machine)
}

/// Runs `act` with a registry whose record exists, hands over, and returns what to boot with.
fn outgoing(
    memory: &SimMemory,
    registry: &Registry<&'static SimBus>,
    act: impl FnOnce(&SimTracker<'_>),
) -> BootData {
    let alloc = alloc(memory);
    let scratch = [range(SCRATCH.0, SCRATCH.1)];
    let tracker = Tracker::new(memory, &alloc, PAGE, &scratch).unwrap();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, registry.object()).unwrap();
    luo.create_session(tracker, "vm").unwrap();
    luo.preserve_file(tracker, "vm", 1, Box::new(File(1, vec![NAME])))
        .unwrap();
    act(tracker);
    outgoing
        .finalize(PhysAddr::new(SCRATCH.0), &mut [&mut luo])
        .unwrap()
        .hand_over()
}

/// What a record says, after a handover.
fn record(memory: &mut SimMemory, boot: BootData) -> Vec<(Sbdf, u16)> {
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = [0; 4096];
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    record.iter().map(|e| (e.function, e.refcount)).collect()
}

fn find(machine: &Machine) -> impl Fn(Sbdf) -> Option<Device> + '_ {
    |function| machine.get(&function).copied()
}

fn all_of(bus: &SimBus) -> Vec<u32> {
    let dwords = |f| {
        (0..0x1000)
            .step_by(4)
            .map(move |o| (f, pci::at(o, Width::U32)))
    };
    let all = bus.functions().into_iter().flat_map(dwords);
    all.map(|(f, at)| bus.peek(f, at)).collect()
}

#[test]
fn test_15_a_bridge_is_protected_while_anything_below_it_is() {
    let (bus, machine) = machine();
    let registry = Registry::new(bus);
    let mut memory = memory();
    let boot = outgoing(&memory, &registry, |tracker| {
        for nvme in NVME {
            registry.preserve(tracker, &find(&machine), nvme).unwrap();
        }
        let counts = [ROOT, UP, DOWN[0], DOWN[1], NVME[0], PF];
        let counts = counts.map(|function| registry.outgoing_refcount(function));
        assert_eq!(counts, [2, 2, 1, 1, 1, 0]);
        let frozen = registry.freeze().unwrap();
        let order = [NVME[1], NVME[0], DOWN[1], DOWN[0], UP, ROOT];
        assert_eq!(frozen.functions(), order);
        frozen.jump();
    });
    assert!(registry.config().write_u16(ROOT, 4, 0).is_err());
    let registry = Registry::new(bus);
    {
        let frozen = memory.freeze();
        let incoming = check(&frozen, boot);
        let mut workspace = [0; 4096];
        let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
        registry.receive(&record).unwrap();
        assert_eq!(registry.receive(&record), Err(FinishError::Received));
    }
    assert_eq!(registry.incoming_count(), 6);
    assert_eq!(registry.missing(Sbdf::from_bdf(0, 0)), Some(ROOT));
    for (&function, device) in &machine {
        let incoming = registry.set_up(function, device.kind).unwrap();
        let preserved = function.bus() != 0 || function == ROOT;
        assert_eq!(incoming, preserved, "{function}");
        assert_eq!(registry.is_incoming(function), preserved);
        assert_eq!(registry.config().is_guarded(function), preserved);
    }
    assert_eq!(registry.missing(Sbdf::from_bdf(0, 0)), None);
    registry.check_counts(&find(&machine)).unwrap();
    let guarded = |function| registry.config().write_u16(function, 4, 0x402).is_err();
    registry.finish(&find(&machine), NVME[0]).unwrap();
    assert_eq!(
        [NVME[0], DOWN[0], NVME[1], DOWN[1], UP, ROOT].map(guarded),
        [false, false, true, true, true, true]
    );
    assert_eq!(
        registry.finish(&find(&machine), NVME[0]),
        Err(FinishError::NotIncoming { function: NVME[0] })
    );
    // Found again: not incoming any more, but it was.
    assert_eq!(registry.set_up(NVME[0], Kind::Endpoint), Ok(false));
    assert!(registry.was_preserved(NVME[0]) && !registry.was_preserved(PF));
    registry.finish(&find(&machine), NVME[1]).unwrap();
    assert_eq!(registry.incoming_count(), 0);
    assert!(!guarded(ROOT) && !guarded(UP));
}

#[test]
fn virtual_functions_and_their_physical_one() {
    let (bus, machine) = machine();
    let vfs: Vec<_> = machine
        .keys()
        .copied()
        .filter(|f| *f > PF && f.bus() == 0)
        .collect();
    let registry = Registry::new(bus);
    let mut memory = memory();
    let boot = outgoing(&memory, &registry, |tracker| {
        registry.preserve(tracker, &find(&machine), vfs[0]).unwrap();
        registry.preserve(tracker, &find(&machine), vfs[2]).unwrap();
        // A slot that becomes free is used again.
        registry
            .unpreserve(tracker, &find(&machine), vfs[0])
            .unwrap();
        registry.preserve(tracker, &find(&machine), vfs[1]).unwrap();
        assert_eq!(registry.outgoing_count(), 3);
        let frozen = registry.freeze().unwrap();
        assert_eq!(frozen.functions(), [vfs[2], vfs[1], PF], "VF before PF");
        frozen.jump();
    });
    let found = record(&mut memory, boot);
    assert_eq!(found, [(PF, 2), (vfs[1], 1), (vfs[2], 1)]);
}

#[test]
fn every_refusal_has_its_name() {
    let (bus, mut machine) = machine();
    let registry = Registry::new(bus);
    let memory = memory();
    let boot = outgoing(&memory, &registry, |tracker| {
        let preserve =
            |machine: &Machine, function| registry.preserve(tracker, &find(machine), function);
        let function = sbdf(9, 0, 0);
        assert_eq!(
            preserve(&machine, function),
            Err(PreserveError::Unknown { function })
        );
        assert_eq!(
            registry.unpreserve(tracker, &find(&machine), NVME[0]),
            Err(PreserveError::Unknown { function: NVME[0] })
        );
        preserve(&machine, NVME[0]).unwrap();
        let function = NVME[0];
        assert_eq!(
            preserve(&machine, function),
            Err(PreserveError::Busy { function })
        );
        assert_eq!(
            registry.unpreserve(tracker, &find(&machine), ROOT),
            Err(PreserveError::Unknown { function: ROOT }),
            "it was not asked for itself"
        );
        machine.get_mut(&UP).unwrap().acs_quirk = true;
        assert_eq!(
            preserve(&machine, NVME[1]),
            Err(PreserveError::AcsQuirk { function: UP })
        );
        machine.get_mut(&UP).unwrap().acs_quirk = false;
        machine.get_mut(&ROOT).unwrap().upstream = Some(UP);
        assert_eq!(
            preserve(&machine, NVME[1]),
            Err(PreserveError::Path { function: NVME[1] })
        );
        machine.get_mut(&ROOT).unwrap().upstream = None;
        let vf = *machine.keys().find(|f| **f > PF).unwrap();
        for upstream in [None, Some(ROOT)] {
            machine.get_mut(&vf).unwrap().upstream = upstream;
            assert_eq!(
                preserve(&machine, vf),
                Err(PreserveError::VirtualAlone { function: vf }),
                "test 19: a VF without its PF is impossible"
            );
        }
        // ATS is on: the caller must know it for what it is.
        let ats = pci::cap(bus, NVME[1], pci::ATS);
        bus.write_u16(NVME[1], ats + 6, 0x8000).unwrap();
        assert!(matches!(
            preserve(&machine, NVME[1]),
            Err(PreserveError::Guard(GuardError::Field(
                FieldError::Unfit { .. }
            )))
        ));
        let frozen = registry.freeze().unwrap();
        assert_eq!(preserve(&machine, NVME[1]), Err(PreserveError::Frozen));
        assert_eq!(
            registry.unpreserve(tracker, &find(&machine), NVME[0]),
            Err(PreserveError::Frozen)
        );
        assert!(matches!(registry.freeze(), Err(PreserveError::Frozen)));
        drop(frozen);
        assert_eq!(registry.outgoing_count(), 4);
    });
    let _ = boot;
    let registry = Registry::new(bus);
    let alloc = alloc(&memory);
    let tracker = Tracker::new(&memory, &alloc, PAGE, &[]).unwrap();
    assert_eq!(
        registry.preserve(&tracker, &find(&machine), NVME[0]),
        Err(PreserveError::NoFile)
    );
    assert_eq!(registry.config().state(NVME[0]), State::Normal);
}

#[test]
fn test_18_a_failure_undoes_what_was_done() {
    let path = [NVME[0], DOWN[0], UP, ROOT];
    for failing in path {
        let (bus, machine) = machine();
        let registry = Registry::new(bus);
        let mut memory = memory();
        // Powered down: it cannot be preserved, or not any more.
        let pm = pci::cap(bus, failing, pci::PM) + 4;
        let power = |state| bus.poke(failing, pci::at(pm, Width::U16), state);
        let boot = outgoing(&memory, &registry, |tracker| {
            registry
                .preserve(tracker, &find(&machine), NVME[1])
                .unwrap();
            let counts = || {
                machine
                    .keys()
                    .map(|f| registry.outgoing_refcount(*f))
                    .collect()
            };
            let states = || {
                machine
                    .keys()
                    .map(|f| registry.config().state(*f))
                    .collect()
            };
            let before: (Vec<_>, Vec<_>) = (counts(), states());
            let shared = [UP, ROOT].contains(&failing);
            if !shared {
                power(2);
                let space = all_of(bus);
                let failed = registry.preserve(tracker, &find(&machine), NVME[0]);
                assert!(matches!(failed, Err(PreserveError::Guard(_))), "{failed:?}");
                assert_eq!((counts(), states()), before);
                assert_eq!(all_of(bus), space, "nothing was written");
                power(0);
            }
            registry
                .preserve(tracker, &find(&machine), NVME[0])
                .unwrap();
            let before: (Vec<_>, Vec<_>) = (counts(), states());
            power(2);
            let space = all_of(bus);
            let failed = registry.freeze().map(drop);
            assert!(matches!(failed, Err(PreserveError::Guard(_))), "{failed:?}");
            assert_eq!((counts(), states()), before);
            assert_eq!(all_of(bus), space);
            power(0);
            // Test 19: back from FROZEN, back from PREPARED, and once more.
            drop(registry.freeze().unwrap());
            assert_eq!((counts(), states()), before);
            for nvme in NVME {
                registry.unpreserve(tracker, &find(&machine), nvme).unwrap();
            }
            assert_eq!(registry.outgoing_count(), 0);
            let normal = |f: &Sbdf| registry.config().state(*f) == State::Normal;
            assert!(machine.keys().all(normal));
            registry
                .preserve(tracker, &find(&machine), NVME[0])
                .unwrap();
            registry.freeze().unwrap().jump();
        });
        let found: Vec<_> = record(&mut memory, boot);
        assert_eq!(found, [(ROOT, 1), (UP, 1), (DOWN[0], 1), (NVME[0], 1)]);
    }
}

/// What the record says as it lies in memory, which must be one block at most.
fn in_memory(memory: &SimMemory, at: u64) -> (u32, Vec<(Sbdf, u16)>) {
    let mut header = v2::PciSer::new_zeroed();
    memory
        .read(PhysAddr::new(at), header.as_mut_bytes())
        .unwrap();
    assert_eq!(header.version.get(), v2::VERSION);
    let mut entries = Vec::new();
    if header.devices.get() != 0 {
        let mut block = [0u64; 2];
        let head = header.devices.get();
        memory
            .read(PhysAddr::new(head), block.as_mut_bytes())
            .unwrap();
        assert_eq!(block[0], 0);
        let mut slots = vec![v2::PciDevSer::new_zeroed(); block[1] as usize];
        let first = PhysAddr::new(head + 16);
        memory
            .read(first, slots.as_mut_slice().as_mut_bytes())
            .unwrap();
        let used = slots.iter().filter(|slot| slot.refcount.get() != 0);
        entries = used
            .map(|slot| (slot.function(), slot.refcount.get()))
            .collect();
        entries.sort();
    }
    (header.nr_devices.get(), entries)
}

#[test]
fn test_18_memory_that_fails_at_any_access() {
    for shared in [false, true] {
        let (bus, machine) = machine();
        let registry = Registry::new(bus);
        let memory = memory();
        let faulty = Faulty::new(&memory);
        let alloc = alloc(&memory);
        let tracker = Tracker::new(&faulty, &alloc, PAGE, &[]).unwrap();
        let mut object = registry.object();
        let mut failed = 0;
        for n in 0.. {
            faulty.fail_at(Some(n));
            match object.preserve(&tracker) {
                Ok(_) => break,
                Err(_) => failed += 1,
            }
        }
        object.unpreserve(&tracker);
        faulty.fail_at(None);
        let at = object.preserve(&tracker).unwrap();
        if shared {
            registry
                .preserve(&tracker, &find(&machine), NVME[1])
                .unwrap();
        }
        let look = || {
            let state = |f: &Sbdf| (registry.outgoing_refcount(*f), registry.config().state(*f));
            let states: Vec<_> = machine.keys().map(state).collect();
            (states, in_memory(&memory, at))
        };
        let before = look();
        for n in 0.. {
            faulty.fail_at(Some(n));
            match registry.preserve(&tracker, &find(&machine), NVME[0]) {
                Ok(()) => break,
                Err(PreserveError::Record(_)) => failed += 1,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(look(), before, "after failure {n}");
        }
        faulty.fail_at(None);
        assert!(failed > 8, "{failed}");
        let (count, entries) = in_memory(&memory, at);
        assert_eq!((count, entries.len()), if shared { (6, 6) } else { (4, 4) });
        registry
            .unpreserve(&tracker, &find(&machine), NVME[0])
            .unwrap();
        assert_eq!(look(), before);
    }
}

#[test]
fn the_record_goes_with_the_last_file() {
    let (bus, machine) = machine();
    let registry = Registry::new(bus);
    let memory = memory();
    let alloc = alloc(&memory);
    let tracker = Tracker::new(&memory, &alloc, PAGE, &[]).unwrap();
    let outgoing = Outgoing::new(tracker).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, registry.object()).unwrap();
    for _ in 0..2 {
        luo.create_session(tracker, "vm").unwrap();
        luo.preserve_file(tracker, "vm", 1, Box::new(File(1, vec![NAME])))
            .unwrap();
        registry
            .preserve(tracker, &find(&machine), NVME[0])
            .unwrap();
        assert!(luo.flb(NAME).is_some());
        luo.destroy_session(tracker, "vm").unwrap();
        assert_eq!((luo.flb(NAME), registry.outgoing_count()), (None, 0));
        assert_eq!(registry.config().state(ROOT), State::Normal);
    }
    luo.destroy(&outgoing);
    outgoing.destroy();
    assert_eq!(alloc.live(), []);
}

/// The first form has no bridges, and those above a preserved function are protected all the same.
#[test]
fn bridges_above_a_record_of_the_first_form() {
    let (bus, machine) = machine();
    let mut memory = memory();
    let boot = common::hand_over(&memory, |tracker| {
        let (at, _) = tracker.alloc_preserved(4096).unwrap();
        let header = [4u64, 2].map(u64::to_le_bytes);
        let entries = NVME
            .map(|nvme| u64::from(nvme.bdf()) << 32)
            .map(u64::to_le_bytes);
        let bytes = [header.as_flattened(), entries.as_flattened()].concat();
        tracker.mem().write(at, &bytes).unwrap();
        vec![(v1::NAME, at.as_u64())]
    });
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = [0; 4096];
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    let registry = Registry::new(bus);
    registry.receive(&record).unwrap();
    for (&function, device) in &machine {
        let preserved = function.bus() != 0 || function == ROOT;
        assert_eq!(
            registry.set_up(function, device.kind),
            Ok(preserved),
            "{function}"
        );
    }
    assert_eq!(registry.incoming_count(), 6);
    let guarded = |function| registry.config().write_u16(function, 4, 0x402).is_err();
    registry.finish(&find(&machine), NVME[1]).unwrap();
    assert_eq!(
        [NVME[1], DOWN[1], NVME[0], DOWN[0], UP, ROOT].map(guarded),
        [false, false, true, true, true, true]
    );
    registry.finish(&find(&machine), NVME[0]).unwrap();
    assert_eq!(registry.incoming_count(), 0);
    assert!(!guarded(ROOT));
}

#[test]
fn test_22_a_record_that_does_not_fit_the_machine() {
    let (bus, machine) = machine();
    let first = Registry::new(bus);
    let mut memory = memory();
    let boot = outgoing(&memory, &first, |tracker| {
        first.preserve(tracker, &find(&machine), NVME[0]).unwrap();
        first.freeze().unwrap().jump();
    });
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = [0; 4096];
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    let registry = Registry::new(bus);
    registry.receive(&record).unwrap();
    let writes = bus.writes();
    // The device is gone, or is another.
    bus.set_present(NVME[0], false);
    let gone = registry.set_up(NVME[0], Kind::Endpoint);
    assert!(matches!(
        gone,
        Err(FinishError::Guard(GuardError::Field(_)))
    ));
    bus.set_present(NVME[0], true);
    assert!(registry.set_up(NVME[0], Kind::Bridge).is_err());
    assert_eq!(registry.missing(UP), Some(UP));
    assert_eq!(
        registry.finish(&find(&machine), NVME[0]),
        Err(FinishError::NotIncoming { function: NVME[0] })
    );
    // Somebody else is below, or the endpoint sits elsewhere.
    let mut moved = machine.clone();
    moved.get_mut(&NVME[0]).unwrap().upstream = Some(DOWN[1]);
    assert_eq!(
        registry.check_counts(&find(&moved)),
        Err(FinishError::NotIncoming { function: DOWN[1] })
    );
    moved.get_mut(&NVME[0]).unwrap().upstream = Some(UP);
    assert_eq!(
        registry.check_counts(&find(&moved)),
        Err(FinishError::Refcount { function: UP })
    );
    moved.remove(&UP);
    assert_eq!(
        registry.check_counts(&find(&moved)),
        Err(FinishError::Path(PreserveError::Unknown { function: UP }))
    );
    assert_eq!(bus.writes(), writes);
}

/// Incoming and outgoing at once, in a chain of updates.
#[test]
fn the_two_sides_of_a_function() {
    let (bus, machine) = machine();
    let mut registry = Registry::new(bus);
    for update in 0..3 {
        let mut memory = memory();
        let boot = outgoing(&memory, &registry, |tracker| {
            registry
                .preserve(tracker, &find(&machine), NVME[0])
                .unwrap();
            if update > 0 {
                assert_eq!(registry.config().state(NVME[0]), State::Updated);
                registry.finish(&find(&machine), NVME[0]).unwrap();
                assert_eq!(registry.config().state(NVME[0]), State::Prepared);
                registry.config().write_u16(NVME[0], 4, 0).unwrap();
                registry.config().write_u16(NVME[0], 4, 6).unwrap();
            }
            registry.freeze().unwrap().jump();
            assert_eq!(registry.config().state(NVME[0]), State::Frozen);
        });
        let frozen = memory.freeze();
        let incoming = check(&frozen, boot);
        let mut workspace = [0; 4096];
        let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
        registry = Registry::new(bus);
        registry.receive(&record).unwrap();
        for (&function, device) in &machine {
            registry.set_up(function, device.kind).unwrap();
        }
    }
}

#[test]
fn ten_thousand_functions() {
    let bus: &'static SimBus = Box::leak(Box::default());
    bus.add(ROOT, SimFunction::bridge(0x1b36, 0xc, 1, 255));
    let functions: Vec<_> = (0x100..0x100 + 10_000)
        .map(|bdf| Sbdf::from_bdf(0, bdf))
        .collect();
    for &function in &functions {
        bus.add(function, SimFunction::conventional(1, 2));
    }
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
        })
    };
    let registry = Registry::new(bus);
    let mut memory = memory();
    let boot = outgoing(&memory, &registry, |tracker| {
        for &function in &functions {
            registry.preserve(tracker, &topology, function).unwrap();
        }
        for &function in functions.iter().step_by(2) {
            registry.unpreserve(tracker, &topology, function).unwrap();
        }
        for &function in functions.iter().step_by(2) {
            registry.preserve(tracker, &topology, function).unwrap();
        }
        assert_eq!(registry.outgoing_refcount(ROOT), 10_000);
        registry.freeze().unwrap().jump();
    });
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = vec![0; 10_001];
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    let registry = Registry::new(bus);
    registry.receive(&record).unwrap();
    registry.set_up(ROOT, Kind::Bridge).unwrap();
    for &function in &functions {
        assert_eq!(registry.set_up(function, Kind::Endpoint), Ok(true));
    }
    registry.check_counts(&topology).unwrap();
    for &function in &functions {
        registry.finish(&topology, function).unwrap();
    }
    assert_eq!(registry.incoming_count(), 0);
}

//! Who is preserved, on both sides of an update: tests 15, 18, 19 and 22 of the policy.
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

use common::{File, memory};
use kho_abi::pci::{functions, v1, v2};
use kho_core::OutgoingError;
use kho_core::outgoing::luo::{Flb, Luo};
use kho_core::outgoing::{Outgoing, Participant};
use kho_hal::sim::pci::SimFunction;
use kho_hal::sim::{Faulty, FrozenSim, SimMemory};
use kho_hal::{PciConfigAccess, PciError, PhysAddr, PhysMem, Sbdf, Width};
use kho_pci_lu::{
    BarError, Functions, GuardError, Kind, OutgoingForm, PreserveError, Record, RecordError,
    Registry, Setting, State, UpdateError,
};
use machine::*;
use zerocopy::IntoBytes;

const V2: OutgoingForm = OutgoingForm::V2;

#[test]
fn t15_a_bridge_is_protected_while_anything_below_it_is() {
    let (bus, devices) = machine();
    let registry = Registry::new(bus);
    let mut memory = memory();
    let boot = open(&memory, &registry, V2, |outgoing, luo, _| {
        for nvme in NVME {
            registry
                .preserve(outgoing.tracker(), &find(&devices), nvme)
                .unwrap();
        }
        let counts = [ROOT, UP, DOWN[0], DOWN[1], NVME[0], PF];
        let counts = counts.map(|function| registry.outgoing_refcount(function));
        assert_eq!(counts, [2, 2, 1, 1, 1, 0]);
        let order = [NVME[1], NVME[0], DOWN[1], DOWN[0], UP, ROOT];
        assert_eq!(registry.freeze_order(), order);
        jump(outgoing, luo)
    });
    assert!(registry.config().write_u16(ROOT, 4, 0).is_err());
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    assert_eq!(registry.incoming_count(), 6);
    for &function in devices.keys() {
        let incoming = registry.set_up(function).unwrap();
        let preserved = function.bus() != 0 || function == ROOT;
        assert_eq!(incoming, preserved, "{function}");
        assert_eq!(registry.is_incoming(function), preserved);
        assert_eq!(registry.config().is_guarded(function), preserved);
    }
    let updated = received.verify(&find(&devices)).unwrap();
    let guarded = |function| registry.config().write_u16(function, 4, 0x402).is_err();
    let finish = |function| updated.finish(function);
    // Depended devices are protected exactly like requested ones, and not finished for themselves.
    for bridge in [ROOT, UP, DOWN[0], DOWN[1]] {
        let depended = Err(UpdateError::Depended { function: bridge });
        assert_eq!(finish(bridge), depended);
        assert_eq!(updated.retrieve(bridge), depended.map(drop));
        assert!(guarded(bridge));
    }
    updated.retrieve(NVME[0]).unwrap();
    assert_eq!(finish(NVME[0]).unwrap().interrupts, []);
    assert_eq!(
        [NVME[0], DOWN[0], NVME[1], DOWN[1], UP, ROOT].map(guarded),
        [false, false, true, true, true, true]
    );
    let gone = UpdateError::NotIncoming { function: NVME[0] };
    assert_eq!(finish(NVME[0]), Err(gone));
    assert_eq!(updated.retrieve(NVME[0]), Err(gone));
    // Found again: not incoming any more, but it was.
    assert_eq!(registry.set_up(NVME[0]), Ok(false));
    assert!(registry.was_preserved(NVME[0]) && !registry.was_preserved(PF));
    let refused = updated.close().unwrap_err();
    let left = UpdateError::NotFinished { function: ROOT };
    assert_eq!(refused.error, left);
    let _ = refused.state.finish(NVME[1]).unwrap();
    assert_eq!(registry.incoming_count(), 0);
    assert!(!guarded(ROOT) && !guarded(UP));
    refused.state.close().unwrap();
}

/// A bridge that was asked for itself, too, is finished for itself.
#[test]
fn t15_a_bridge_with_a_driver_of_its_own() {
    let (bus, devices) = machine();
    let functions = [UP, NVME[0]];
    let (registry, updated, _) = update(bus, bus, &devices, &functions);
    let finish = |function| updated.finish(function).map(drop);
    assert_eq!(registry.incoming_count(), 4);
    updated.retrieve(UP).unwrap();
    finish(UP).unwrap();
    assert_eq!(finish(UP), Err(UpdateError::Depended { function: UP }));
    assert!(registry.is_incoming(UP));
    finish(NVME[0]).unwrap();
    assert_eq!(registry.incoming_count(), 0);
}

#[test]
fn t15_virtual_functions_and_their_physical_one() {
    let (bus, devices) = machine();
    let registry = Registry::new(bus);
    let mut memory = memory();
    let boot = open(&memory, &registry, V2, |outgoing, luo, _| {
        let tracker = outgoing.tracker();
        let preserve = |vf| registry.preserve(tracker, &find(&devices), vf).unwrap();
        preserve(VF[0]);
        preserve(VF[2]);
        registry.unpreserve(tracker, VF[0]).unwrap();
        preserve(VF[1]);
        assert_eq!(registry.outgoing_count(), 3);
        assert_eq!(registry.freeze_order(), [VF[2], VF[1], PF], "VF before PF");
        jump(outgoing, luo)
    });
    let found = entries(&mut memory, boot);
    assert_eq!(found, [(PF, 2), (VF[1], 1), (VF[2], 1)]);
}

#[test]
fn every_refusal_has_its_name() {
    let (bus, mut devices) = machine();
    let registry = Registry::new(bus);
    let memory = memory();
    open(&memory, &registry, V2, |outgoing, luo, _| {
        let tracker = outgoing.tracker();
        let preserve =
            |devices: &Devices, function| registry.preserve(tracker, &find(devices), function);
        let function = Sbdf::new(0, 9, 0, 0).unwrap();
        assert_eq!(
            preserve(&devices, function),
            Err(PreserveError::Unknown { function })
        );
        assert_eq!(
            registry.unpreserve(tracker, NVME[0]),
            Err(PreserveError::Unknown { function: NVME[0] })
        );
        preserve(&devices, NVME[0]).unwrap();
        let function = NVME[0];
        assert_eq!(
            preserve(&devices, function),
            Err(PreserveError::Busy { function })
        );
        assert_eq!(
            registry.unpreserve(tracker, ROOT),
            Err(PreserveError::Unknown { function: ROOT }),
            "it was not asked for itself"
        );
        devices.get_mut(&UP).unwrap().acs_quirk = true;
        assert_eq!(
            preserve(&devices, NVME[1]),
            Err(PreserveError::AcsQuirk { function: UP })
        );
        devices.get_mut(&UP).unwrap().acs_quirk = false;
        devices.get_mut(&ROOT).unwrap().upstream = Some(UP);
        assert_eq!(
            preserve(&devices, NVME[1]),
            Err(PreserveError::Path { function: NVME[1] })
        );
        devices.get_mut(&ROOT).unwrap().upstream = None;
        for upstream in [None, Some(ROOT)] {
            devices.get_mut(&VF[0]).unwrap().upstream = upstream;
            assert_eq!(
                preserve(&devices, VF[0]),
                Err(PreserveError::VirtualAlone { function: VF[0] }),
                "test 19: a VF without its PF is impossible"
            );
        }
        // ATS is on: the caller must know it for what it is.
        let ats = pci::cap(bus, NVME[1], pci::ATS);
        bus.write_u16(NVME[1], ats + 6, 0x8000).unwrap();
        assert!(matches!(
            preserve(&devices, NVME[1]),
            Err(PreserveError::Guard(GuardError::Field(
                kho_pci_lu::FieldError::Unfit { .. }
            )))
        ));
        assert_eq!(registry.outgoing_count(), 4);
        // After the jump only errors are left: this program is not to run on.
        jump(outgoing, luo);
        let tracker = outgoing.tracker();
        assert_eq!(
            registry.preserve(tracker, &find(&devices), NVME[1]),
            Err(PreserveError::Frozen)
        );
        assert_eq!(
            registry.unpreserve(tracker, NVME[0]),
            Err(PreserveError::Frozen)
        );
    });
    // No file asks for a record.
    let registry = Registry::new(bus);
    let alloc = common::alloc(&memory);
    let tracker = kho_core::Tracker::new(&memory, &alloc, common::PAGE, &[]).unwrap();
    assert_eq!(
        registry.preserve(&tracker, &find(&devices), NVME[0]),
        Err(PreserveError::NoFile)
    );
    assert_eq!(registry.config().state(NVME[0]), State::Normal);
}

/// What is preserved and in which state, as seen from outside.
fn look<C: PciConfigAccess>(registry: &Registry<C>, devices: &Devices) -> Vec<(u16, State)> {
    let state = |f: &Sbdf| (registry.outgoing_refcount(*f), registry.config().state(*f));
    devices.keys().map(state).collect()
}

/// A power state between PREPARE and FREEZE fails exactly one function.
#[test]
fn t18_each_function_of_a_path_fails() {
    let path = [NVME[0], DOWN[0], UP, ROOT];
    for failing in path {
        let (bus, devices) = machine();
        let registry = Registry::new(bus);
        let mut memory = memory();
        let pm = pci::cap(bus, failing, pci::PM) + 4;
        let power = |state| bus.poke(failing, pci::at(pm, Width::U16), state);
        let boot = open(&memory, &registry, V2, |outgoing, luo, _| {
            let preserve = |outgoing: &HarnessOutgoing<'_>, function| {
                registry.preserve(outgoing.tracker(), &find(&devices), function)
            };
            preserve(outgoing, NVME[1]).unwrap();
            let before = look(&registry, &devices);
            if ![UP, ROOT].contains(&failing) {
                power(2);
                let space = all_of(bus);
                let failed = preserve(outgoing, NVME[0]);
                assert!(matches!(failed, Err(PreserveError::Guard(_))), "{failed:?}");
                assert_eq!(look(&registry, &devices), before);
                assert_eq!(all_of(bus), space, "nothing was written");
                power(0);
            }
            preserve(outgoing, NVME[0]).unwrap();
            let before = look(&registry, &devices);
            power(2);
            let space = all_of(bus);
            assert_eq!(
                freeze(outgoing, luo),
                Err(OutgoingError::Refused(kho_pci_lu::registry::FREEZE_REFUSED))
            );
            assert!(matches!(
                registry.refused(),
                Some(PreserveError::Guard(GuardError::Field(_)))
            ));
            assert_eq!(look(&registry, &devices), before);
            assert_eq!(all_of(bus), space);
            power(0);
            // Test 19: back from FROZEN, back from PREPARED, and once more.
            freeze(outgoing, luo).unwrap();
            assert_eq!(registry.refused(), None);
            assert_eq!(look(&registry, &devices), before);
            for nvme in NVME {
                registry.unpreserve(outgoing.tracker(), nvme).unwrap();
            }
            assert_eq!(registry.outgoing_count(), 0);
            assert!(
                look(&registry, &devices)
                    .iter()
                    .all(|l| *l == (0, State::Normal))
            );
            preserve(outgoing, NVME[0]).unwrap();
            jump(outgoing, luo)
        });
        let found = entries(&mut memory, boot);
        assert_eq!(found, [(ROOT, 1), (UP, 1), (DOWN[0], 1), (NVME[0], 1)]);
    }
}

/// Every access of PREPARE and of FREEZE fails once, to memory and to configuration space: what was
/// done is undone, and what comes after succeeds.
#[test]
fn t18_every_step_fails_once() {
    for form in [V2, OutgoingForm::V1 { capacity: 8 }] {
        for shared in [false, true] {
            every_step(form, shared);
        }
    }
}

fn every_step(form: OutgoingForm, shared: bool) {
    let (bus, devices) = machine();
    let flaky = &*Box::leak(Box::new(Faulty::new(bus)));
    let registry = Registry::new(flaky);
    let mut memory = memory();
    let boot = open(&memory, &registry, form, |outgoing, luo, faults| {
        let find = find(&devices);
        if shared {
            registry
                .preserve(outgoing.tracker(), &find, NVME[1])
                .unwrap();
        }
        let space = all_of(bus);
        let before = look(&registry, &devices);
        let mut failed = [0; 4];
        // PREPARE, with memory that fails and with configuration space that fails.
        for n in 0.. {
            faults.fail_at(Some(n));
            match registry.preserve(outgoing.tracker(), &find, NVME[0]) {
                Ok(()) => break,
                Err(error) => assert!(matches!(error, PreserveError::Record(_)), "{error}"),
            }
            failed[0] += 1;
            assert_eq!(look(&registry, &devices), before, "after failure {n}");
        }
        faults.fail_at(None);
        registry.unpreserve(outgoing.tracker(), NVME[0]).unwrap();
        for n in 0.. {
            flaky.fail_at(Some(n));
            match registry.preserve(outgoing.tracker(), &find, NVME[0]) {
                Ok(()) => break,
                Err(error) => assert!(matches!(error, PreserveError::Guard(_)), "{error}"),
            }
            failed[1] += 1;
            assert_eq!(look(&registry, &devices), before, "after failure {n}");
        }
        flaky.fail_at(None);
        // FREEZE.
        let before = look(&registry, &devices);
        for n in 0.. {
            faults.fail_at(Some(n));
            if freeze(outgoing, luo).is_ok() {
                break;
            }
            failed[2] += 1;
            assert_eq!(look(&registry, &devices), before, "after failure {n}");
        }
        faults.fail_at(None);
        for n in 0.. {
            flaky.fail_at(Some(n));
            if freeze(outgoing, luo).is_ok() {
                break;
            }
            failed[3] += 1;
            assert_eq!(look(&registry, &devices), before, "after failure {n}");
        }
        flaky.fail_at(None);
        assert!(
            failed
                .iter()
                .zip([1, 100, 20, 100])
                .all(|(n, least)| *n >= least)
                || form != V2,
            "{failed:?}"
        );
        assert_eq!(all_of(bus), space, "nothing was ever written");
        jump(outgoing, luo)
    });
    let found = entries(&mut memory, boot);
    let expected = match (form, shared) {
        (V2, false) => 4,
        (V2, true) => 6,
        (_, false) => 1,
        (_, true) => 2,
    };
    assert_eq!(found.len(), expected);
}

/// CANCEL from FROZEN: the record does not say any more what it said, so that nobody believes it.
#[test]
fn t19_a_record_that_was_taken_back_is_refused() {
    for form in [V2, OutgoingForm::V1 { capacity: 8 }] {
        let (bus, devices) = machine();
        let registry = Registry::new(bus);
        let memory = memory();
        let objects = open(&memory, &registry, form, |outgoing, luo, _| {
            registry
                .preserve(outgoing.tracker(), &find(&devices), NVME[0])
                .unwrap();
            freeze(outgoing, luo).unwrap();
            assert_eq!(registry.config().state(NVME[0]), State::Prepared);
            [form.name(), functions::NAME].map(|name| luo.flb(name).unwrap().0)
        });
        let [words, facts] = objects.map(|at| {
            let mut words = [0u64; 2];
            let place = PhysAddr::new(at);
            memory.read(place, words.as_mut_bytes()).unwrap();
            words
        });
        // More functions than there can be.
        assert_eq!(facts, [u64::MAX, 0]);
        let mut successor = common::memory();
        let boot = common::hand_over(&successor, |tracker| {
            let (at, _) = tracker.alloc_preserved(4096).unwrap();
            tracker.mem().write(at, words.as_bytes()).unwrap();
            vec![(form.name(), at.as_u64())]
        });
        let frozen = successor.freeze();
        let incoming = common::check(&frozen, boot);
        let mut workspace = [0; 4096];
        let read = Record::read(&incoming, &mut workspace);
        let read = read.map(|_| ()).unwrap_err();
        match form {
            OutgoingForm::V2 => assert!(matches!(read, RecordError::Version { found: 0, .. })),
            OutgoingForm::V1 { .. } => assert!(matches!(read, RecordError::Count { .. })),
        }
    }
}

#[test]
fn t19_preserve_and_unpreserve_are_refused_after_the_freeze() {
    let (bus, devices) = machine();
    let registry = Registry::new(bus);
    let memory = memory();
    open(&memory, &registry, V2, |outgoing, luo, _| {
        registry
            .preserve(outgoing.tracker(), &find(&devices), NVME[0])
            .unwrap();
        for _ in 0..3 {
            freeze(outgoing, luo).unwrap();
            assert_eq!(registry.config().state(ROOT), State::Prepared);
        }
        registry
            .preserve(outgoing.tracker(), &find(&devices), VF[0])
            .unwrap();
        registry.unpreserve(outgoing.tracker(), VF[0]).unwrap();
        jump(outgoing, luo);
        for function in [NVME[0], NVME[1]] {
            let tracker = outgoing.tracker();
            assert_eq!(
                registry.preserve(tracker, &find(&devices), function),
                Err(PreserveError::Frozen)
            );
            assert_eq!(
                registry.unpreserve(tracker, function),
                Err(PreserveError::Frozen)
            );
        }
        assert_eq!(registry.config().state(ROOT), State::Frozen);
    });
}

#[test]
fn the_record_goes_with_the_last_file() {
    let (bus, devices) = machine();
    for form in [
        V2,
        OutgoingForm::V1 { capacity: 600 },
        OutgoingForm::V1 { capacity: 1 },
    ] {
        let registry = Registry::new(bus);
        let memory = memory();
        let alloc = common::alloc(&memory);
        let scratch = [common::range(common::SCRATCH.0, common::SCRATCH.1)];
        let tracker = kho_core::Tracker::new(&memory, &alloc, common::PAGE, &scratch).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let mut luo = Luo::new(&outgoing, 0).unwrap();
        let tracker = outgoing.tracker();
        luo.register_flb(tracker, registry.object(form)).unwrap();
        luo.register_flb(tracker, registry.facts_object()).unwrap();
        let mut empty = None;
        for _ in 0..3 {
            let tracker = outgoing.tracker();
            luo.create_session(tracker, "vm").unwrap();
            for file in 1..3 {
                let names = vec![form.name(), functions::NAME];
                luo.preserve_file(tracker, "vm", file, Box::new(File(file, names)))
                    .unwrap();
            }
            let preserve = |f| registry.preserve(tracker, &find(&devices), f).unwrap();
            preserve(NVME[0]);
            assert_eq!(luo.flb(form.name()).unwrap().1, 2);
            // Room was made: the FREEZE takes no memory, and neither does what undoes it.
            let live = alloc.live();
            let mut participants: [&mut dyn Participant<_>; 1] = [&mut luo];
            let frozen = outgoing
                .finalize(PhysAddr::new(common::SCRATCH.0), &mut participants)
                .unwrap();
            assert_eq!(alloc.live(), live);
            frozen.abort();
            assert_eq!(alloc.live(), live);
            let tracker = outgoing.tracker();
            luo.destroy_session(tracker, "vm").unwrap();
            assert_eq!((luo.flb(form.name()), registry.outgoing_count()), (None, 0));
            assert_eq!(registry.config().state(ROOT), State::Normal);
            // What is left is the tracker's tree, which stays as it has grown.
            let live = alloc.live().len();
            assert_eq!(*empty.get_or_insert(live), live);
        }
        // One record at a time.
        let tracker = outgoing.tracker();
        let (mut first, mut second) = (registry.object(V2), registry.object(form));
        first.preserve(tracker).unwrap();
        assert_eq!(second.preserve(tracker), Err(OutgoingError::Exists));
        first.unpreserve(tracker);
        assert!(luo.destroy(&outgoing).is_ok());
        assert!(outgoing.destroy().is_ok());
        assert_eq!(alloc.live(), []);
    }
}

/// An object that cannot be preserved leaves no memory behind, whichever access to memory fails; also
/// one that comes when functions are preserved already.
#[test]
fn t18_objects_that_fail_take_no_memory() {
    for form in [V2, OutgoingForm::V1 { capacity: 600 }] {
        let (bus, devices) = machine();
        let registry = Registry::new(bus);
        let memory = memory();
        let faults = Faulty::new(&memory);
        let alloc = common::alloc(&memory);
        let tracker = kho_core::Tracker::new(&faults, &alloc, common::PAGE, &[]).unwrap();
        let mut record = registry.object(form);
        let mut facts = registry.facts_object();
        let preserve = || registry.preserve(&tracker, &find(&devices), NVME[0]);
        // The tracker's tree grows the first time, and stays.
        record.preserve(&tracker).unwrap();
        preserve().unwrap();
        facts.preserve(&tracker).unwrap();
        facts.unpreserve(&tracker);
        record.unpreserve(&tracker);
        let live = alloc.live();
        let mut failed = 0;
        for n in 0.. {
            faults.fail_at(Some(n));
            if record.preserve(&tracker).is_ok() {
                break;
            }
            assert_eq!(alloc.live(), live, "{n}");
            failed += 1;
        }
        faults.fail_at(None);
        preserve().unwrap();
        let live = alloc.live();
        for n in 0.. {
            faults.fail_at(Some(n));
            if facts.preserve(&tracker).is_ok() {
                break;
            }
            assert_eq!(alloc.live(), live, "{n}");
            failed += 1;
        }
        faults.fail_at(None);
        assert!(failed > 8, "{failed}");
    }
}

/// Undoing does not fail, also where memory does; what it could not cut off is cut off later.
#[test]
fn t18_undoing_with_memory_that_fails() {
    for n in 0..8 {
        let (bus, devices) = machine();
        let registry = Registry::new(bus);
        let mut memory = memory();
        let boot = open(&memory, &registry, V2, |outgoing, luo, faults| {
            let tracker = outgoing.tracker();
            for nvme in NVME {
                registry.preserve(tracker, &find(&devices), nvme).unwrap();
            }
            faults.fail_at(Some(n));
            registry.unpreserve(tracker, NVME[1]).unwrap();
            faults.fail_at(None);
            assert_eq!(registry.outgoing_count(), 4);
            jump(outgoing, luo)
        });
        let expected = [ROOT, UP, DOWN[0], NVME[0]];
        let frozen = memory.freeze();
        let incoming = common::check(&frozen, boot);
        let mut workspace = [0; 4096];
        let known = Functions::read(&incoming, &mut workspace).unwrap().unwrap();
        assert!(known.iter().map(|known| known.0).eq(expected), "{n}");
        let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
        assert!(record.iter().map(|entry| entry.function).eq(expected));
    }
}

/// A second file asks for what the first did not: what is known of functions that are preserved
/// already.
#[test]
fn what_is_known_of_functions_can_come_later() {
    let (bus, devices) = machine();
    let registry = Registry::new(bus);
    let mut memory = memory();
    let boot = open(&memory, &registry, V2, |outgoing, luo, _| {
        let tracker = outgoing.tracker();
        luo.destroy_session(tracker, "vm").unwrap();
        luo.create_session(tracker, "vm").unwrap();
        luo.preserve_file(tracker, "vm", 1, Box::new(File(1, vec![v2::NAME])))
            .unwrap();
        registry
            .preserve(tracker, &find(&devices), NVME[0])
            .unwrap();
        luo.preserve_file(tracker, "vm", 2, Box::new(File(2, vec![functions::NAME])))
            .unwrap();
        registry
            .preserve(tracker, &find(&devices), NVME[1])
            .unwrap();
        jump(outgoing, luo)
    });
    let frozen = memory.freeze();
    let incoming = common::check(&frozen, boot);
    let known = Functions::read(&incoming, &mut [0; 4096]).unwrap().unwrap();
    assert!(
        known
            .iter()
            .map(|known| known.0)
            .eq([ROOT, UP, DOWN[0], DOWN[1], NVME[0], NVME[1]])
    );
}

/// The first form is written as Linux writes it, byte by byte: `pci-v1` has no bridges.
#[test]
fn the_first_form_as_it_lies_in_memory() {
    let (bus, devices) = machine();
    let registry = Registry::new(bus);
    let mut memory = memory();
    let form = OutgoingForm::V1 { capacity: 2 };
    let (boot, at) = open(&memory, &registry, form, |outgoing, luo, _| {
        let preserve = |outgoing: &HarnessOutgoing<'_>, function| {
            registry.preserve(outgoing.tracker(), &find(&devices), function)
        };
        preserve(outgoing, NVME[1]).unwrap();
        assert_eq!(
            preserve(outgoing, VF[0]),
            Err(PreserveError::Sriov { function: VF[0] })
        );
        assert_eq!(
            preserve(outgoing, PF),
            Err(PreserveError::Sriov { function: PF })
        );
        preserve(outgoing, OTHER).unwrap();
        assert_eq!(
            preserve(outgoing, NVME[0]),
            Err(PreserveError::Record(OutgoingError::TooMany { max: 2 }))
        );
        let at = luo.flb(v1::NAME).unwrap().0;
        (jump(outgoing, luo), at)
    });
    let mut bytes = [0u8; 32];
    memory.read(PhysAddr::new(at), &mut bytes).unwrap();
    assert_eq!(
        bytes,
        [
            2, 0, 0, 0, 0, 0, 0, 0, // room
            2, 0, 0, 0, 0, 0, 0, 0, // used
            0, 0, 0, 0, 0x30, 0x00, 0, 0, // OTHER
            0, 0, 0, 0, 0x00, 0x04, 0, 0, // NVME[1]
        ]
    );
    assert_eq!(entries(&mut memory, boot), [(OTHER, 1), (NVME[1], 1)]);
}

/// The first form has no bridges, and those above a preserved function are protected all the same.
#[test]
fn bridges_above_a_record_of_the_first_form() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let old = Registry::new(bus);
    let form = OutgoingForm::V1 { capacity: 8 };
    let boot = hand_over(&memory, &old, form, &devices, &NVME);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    assert_eq!(registry.incoming_count(), 2);
    Boot::run(&registry).unwrap();
    assert_eq!(registry.incoming_count(), 6);
    let updated = received.verify(&find(&devices)).unwrap();
    let guarded = |function| registry.config().write_u16(function, 4, 0x402).is_err();
    let finish = |function| updated.finish(function).map(drop);
    assert_eq!(finish(UP), Err(UpdateError::Depended { function: UP }));
    finish(NVME[1]).unwrap();
    assert_eq!(
        [NVME[1], DOWN[1], NVME[0], DOWN[0], UP, ROOT].map(guarded),
        [false, false, true, true, true, true]
    );
    finish(NVME[0]).unwrap();
    assert_eq!(registry.incoming_count(), 0);
    assert!(!guarded(ROOT));
    updated.close().unwrap();
    // In another order, in which they are guarded later, they count the same.
    let mut memory = common::memory();
    let boot = hand_over(&memory, &Registry::new(bus), form, &devices, &NVME);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    for &function in devices.keys().rev() {
        let preserved = function.bus() != 0 || function == ROOT;
        assert_eq!(registry.set_up(function), Ok(preserved));
    }
    assert_eq!(registry.incoming_count(), 6);
    // A bridge elsewhere is none of theirs, and one without buses is above nothing.
    let at = pci::at(0x18, Width::U32);
    let aside = Sbdf::from_bdf(0, 0x0038);
    bus.add(aside, kho_hal::sim::pci::SimFunction::bridge(1, 2, 9, 12));
    assert_eq!(registry.set_up(aside), Ok(false));
    bus.poke(aside, at, 0x00ff_0000);
    assert_eq!(registry.set_up(aside), Ok(false));
    assert!(!registry.config().is_guarded(aside));
    let _ = received.verify(&find(&devices)).unwrap();
}

/// A bridge that was asked for itself is in the record of the first form, and counts what is below it
/// all the same.
#[test]
fn a_bridge_in_a_record_of_the_first_form() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let form = OutgoingForm::V1 { capacity: 8 };
    let asked = [UP, DOWN[1], NVME[0], NVME[1]];
    let boot = hand_over(&memory, &Registry::new(bus), form, &devices, &asked);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    Boot::run(&registry).unwrap();
    let updated = received.verify(&find(&devices)).unwrap();
    let finish = |function| updated.finish(function).map(drop);
    for function in [UP, DOWN[1], NVME[1]] {
        finish(function).unwrap();
    }
    assert_eq!(finish(UP), Err(UpdateError::Depended { function: UP }));
    assert!(registry.is_incoming(UP) && !registry.is_incoming(DOWN[1]));
    finish(NVME[0]).unwrap();
    updated.close().unwrap();
}

/// A bridge for each bus, a physical and a virtual function is the longest way there is.
#[test]
fn a_way_to_the_root_has_an_end() {
    for (bridges, fits) in [(256, true), (257, false), (u32::MAX, false)] {
        let topology = |function: Sbdf| {
            // The segment counts the steps.
            let step = function.segment();
            let last = step == bridges + u32::from(bridges < u32::MAX);
            Some(kho_pci_lu::Device {
                kind: match step {
                    0 => Kind::Endpoint,
                    1 => Kind::Physical,
                    _ => Kind::Bridge,
                },
                is_virtual: step == 0,
                acs_quirk: false,
                upstream: (!last).then_some(Sbdf::from_bdf(step + 1, 0)),
                bars: None,
            })
        };
        let memory = memory();
        let alloc = common::alloc(&memory);
        let tracker = kho_core::Tracker::new(&memory, &alloc, common::PAGE, &[]).unwrap();
        let (bus, _) = machine();
        let function = Sbdf::from_bdf(0, 0);
        let expected = match fits {
            true => PreserveError::NoFile,
            false => PreserveError::Path { function },
        };
        let result = Registry::new(bus).preserve(&tracker, &topology, function);
        assert_eq!(result, Err(expected), "{bridges}");
    }
}

/// A registry that has received a record of NVME[0], and the state.
fn received(bus: Bus, devices: &Devices) -> (Registry<Bus>, kho_pci_lu::Received<Bus>) {
    let mut memory = memory();
    let old = Registry::new(bus);
    let boot = hand_over(&memory, &old, V2, devices, &[NVME[0]]);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    (registry, received)
}

#[test]
fn t22_a_record_that_does_not_fit_the_machine() {
    let (bus, devices) = machine();
    let (registry, received) = received(bus, &devices);
    let writes = bus.writes();
    // Nobody has looked at it yet: no write passes, whatever it says.
    for function in [ROOT, UP, DOWN[0], NVME[0]] {
        assert!(registry.config().write_u16(function, 4, 6).is_err());
        assert!(!registry.is_incoming(function) && !registry.was_preserved(function));
    }
    // The device is gone.
    bus.set_present(NVME[0], false);
    let gone = registry.set_up(NVME[0]);
    assert!(matches!(
        gone,
        Err(UpdateError::Identity {
            found: u32::MAX,
            ..
        })
    ));
    bus.set_present(NVME[0], true);
    // Another is in its place: other vendor, other class.
    for offset in [0x00, 0x08] {
        let old = bus.peek(NVME[0], pci::at(offset, Width::U32));
        let at = pci::at(offset, Width::U32);
        bus.poke(NVME[0], at, old ^ 0x0100_0000);
        assert_eq!(
            registry.set_up(NVME[0]),
            Err(UpdateError::Identity {
                function: NVME[0],
                found: old ^ 0x0100_0000,
                expected: old,
            })
        );
        assert!(registry.config().write_u16(NVME[0], 4, 6).is_err());
        bus.poke(NVME[0], at, old);
    }
    // It cannot be preserved any more, or cannot be read.
    let pm = pci::cap(bus, NVME[0], pci::PM) + 4;
    bus.poke(NVME[0], pci::at(pm, Width::U16), 3);
    assert!(matches!(
        registry.set_up(NVME[0]),
        Err(UpdateError::Guard(_))
    ));
    bus.poke(NVME[0], pci::at(pm, Width::U16), 0);
    bus.fail_next(1);
    assert_eq!(
        registry.set_up(NVME[0]),
        Err(UpdateError::Unreadable { function: NVME[0] })
    );
    let refused = received.verify(&find(&devices)).unwrap_err();
    assert_eq!(refused.error, UpdateError::Missing { function: ROOT });
    assert_eq!(refused.to_string(), refused.error.to_string());
    assert_eq!(format!("{:?}", refused.state), "Received { .. }");
    let received = refused.state;
    for function in [ROOT, UP, DOWN[0], NVME[0]] {
        assert_eq!(registry.set_up(function), Ok(true));
    }
    // Somebody else is below, or the endpoint sits elsewhere.
    let mut moved = devices.clone();
    moved.get_mut(&NVME[0]).unwrap().upstream = Some(DOWN[1]);
    let refused = received.verify(&find(&moved)).unwrap_err();
    let stranger = UpdateError::NotIncoming { function: DOWN[1] };
    assert_eq!(refused.error, stranger);
    moved.get_mut(&NVME[0]).unwrap().upstream = Some(UP);
    let refused = refused.state.verify(&find(&moved)).unwrap_err();
    assert_eq!(refused.error, UpdateError::Refcount { function: UP });
    moved.remove(&UP);
    let refused = refused.state.verify(&find(&moved)).unwrap_err();
    let unknown = PreserveError::Unknown { function: UP };
    assert_eq!(refused.error, UpdateError::Path(unknown));
    assert_eq!(bus.writes(), writes, "no write");
    let updated = refused.state.verify(&find(&devices)).unwrap();
    assert_eq!(format!("{updated:?}"), "Updated { .. }");
    let stranger = updated.finish(NVME[1]);
    assert_eq!(
        stranger,
        Err(UpdateError::NotIncoming { function: NVME[1] })
    );
}

/// A record of the second form as Linux leaves it: entries in any order, free slots between them, and
/// nothing beside it.
fn from_linux(memory: &SimMemory, entries: &[(Sbdf, u16)]) -> kho_core::BootData {
    common::hand_over(memory, |tracker| {
        let (header, _) = tracker.alloc_preserved(4096).unwrap();
        let (block, _) = tracker.alloc_preserved(4096).unwrap();
        let entry = |&(function, count): &(Sbdf, u16)| v2::PciDevSer {
            domain: 0.into(),
            bdf: function.bdf().into(),
            refcount: count.into(),
        };
        let slots: Vec<_> = entries.iter().map(entry).collect();
        let used = entries.iter().filter(|(_, count)| *count > 0).count() as u64;
        let words = [used << 32 | 2, block.as_u64()];
        tracker.mem().write(header, words.as_bytes()).unwrap();
        let links = [0, slots.len() as u64];
        let bytes = [links.as_bytes(), slots.as_slice().as_bytes()].concat();
        tracker.mem().write(block, &bytes).unwrap();
        vec![(v2::NAME, header.as_u64())]
    })
}

const FREE: (Sbdf, u16) = (Sbdf::from_bdf(0, 0), 0);

#[test]
fn after_a_linux() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let path = [(NVME[0], 1), FREE, (ROOT, 1), (DOWN[0], 1), FREE, (UP, 1)];
    let boot = from_linux(&memory, &path);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    let writes = bus.writes();
    for &function in devices.keys() {
        registry.set_up(function).unwrap();
    }
    // Nobody said that no peer sends to it, or how large its BARs are.
    assert_eq!(registry.config().kind(NVME[0]), Some(Kind::PeerEndpoint));
    assert!(matches!(
        registry.bars(NVME[0]),
        Err(UpdateError::Bars(BarError::Unknown { .. }))
    ));
    let updated = received.verify(&find(&devices)).unwrap();
    assert_eq!(bus.writes(), writes);
    registry.config().init(NVME[0], &[]).unwrap();
    let _ = updated.finish(NVME[0]).unwrap();
    updated.close().unwrap();
    // It may be asked now, as on any boot.
    assert_eq!(registry.bars(NVME[0]), Ok(devices[&NVME[0]].bars.unwrap()));
}

/// A count that no topology explains.
#[test]
fn t22_counts_that_do_not_fit() {
    for (bridge, endpoint) in [(1, 2), (3, 2), (0xffff, 1)] {
        let (bus, devices) = machine();
        let mut memory = memory();
        let path = [
            (ROOT, bridge),
            (UP, bridge),
            (DOWN[0], bridge),
            (NVME[0], endpoint),
        ];
        let boot = from_linux(&memory, &path);
        let writes = bus.writes();
        let frozen = memory.freeze();
        let incoming = common::check(&frozen, boot);
        let mut workspace = [0; 4096];
        let record = match Record::read(&incoming, &mut workspace) {
            Ok(record) => record.unwrap(),
            Err(error) => {
                assert!(matches!(error, RecordError::Refcount { .. }), "{error}");
                continue;
            }
        };
        let registry = Registry::new(bus);
        let functions: Option<&Functions<'_, FrozenSim<'_>>> = None;
        let received = registry.receive(&record, functions).unwrap();
        assert_eq!(
            registry.receive(&record, functions).map(drop),
            Err(UpdateError::Received)
        );
        for &function in devices.keys() {
            registry.set_up(function).unwrap();
        }
        let refused = received.verify(&find(&devices)).unwrap_err();
        assert!(matches!(refused.error, UpdateError::Refcount { .. }));
        assert_eq!(bus.writes(), writes);
    }
}

/// Incoming and outgoing at once, in a chain of updates.
#[test]
fn the_two_sides_of_a_function() {
    let (bus, devices) = machine();
    let mut registry = Registry::new(bus);
    let mut updated = None;
    for update in 0..3 {
        let mut memory = memory();
        let boot = open(&memory, &registry, V2, |outgoing, luo, _| {
            registry
                .preserve(outgoing.tracker(), &find(&devices), NVME[0])
                .unwrap();
            if let Some(updated) = updated.take() {
                let updated: kho_pci_lu::Updated<Bus> = updated;
                assert_eq!(registry.config().state(NVME[0]), State::Updated);
                let finished = updated.finish(NVME[0]);
                assert_eq!(finished.unwrap().interrupts, []);
                updated.close().unwrap();
                assert_eq!(registry.config().state(NVME[0]), State::Prepared);
                registry.config().write_u16(NVME[0], 4, 0).unwrap();
                registry.config().write_u16(NVME[0], 4, 6).unwrap();
            }
            let boot = jump(outgoing, luo);
            assert_eq!(registry.config().state(NVME[0]), State::Frozen);
            boot
        });
        registry = Registry::new(bus);
        let received = receive(&mut memory, boot, &registry);
        let boot = Boot::run(&registry).unwrap();
        // What was known of it travels on, from update to update.
        assert_eq!(boot.bars[&NVME[0]], devices[&NVME[0]].bars.unwrap());
        assert_eq!(registry.config().kind(NVME[0]), Some(Kind::Endpoint));
        assert_eq!(boot.settings[&NVME[0]].get(Setting::BusMaster), Some(1));
        updated = Some(received.verify(&find(&devices)).unwrap());
        assert!(update < 3);
    }
}

/// A physical function that somebody asks for itself does DMA of its own, which is kept.
#[test]
fn a_physical_function_for_its_own_sake() {
    let (bus, mut devices) = machine();
    let memory = memory();
    let registry = Registry::new(bus);
    let off = || registry.config().write_u16(PF, 4, 0x400);
    open(&memory, &registry, V2, |outgoing, luo, _| {
        let refused = registry.preserve(outgoing.tracker(), &find(&devices), PF);
        assert_eq!(refused, Err(PreserveError::Physical { function: PF }));
        devices.get_mut(&PF).unwrap().kind = Kind::PeerPhysical;
        let preserve = |f| registry.preserve(outgoing.tracker(), &find(&devices), f);
        preserve(PF).unwrap();
        preserve(VF[0]).unwrap();
        jump(outgoing, luo);
    });
    assert!(off().is_err());
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    assert!(registry.config().write_u16(PF, sriov + 8, 0).is_err());
}

/// Linux preserves physical functions and no virtual ones: one in its record does DMA itself.
#[test]
fn a_physical_function_after_a_linux() {
    let (bus, mut devices) = machine();
    let mut memory = memory();
    let boot = from_linux(&memory, &[(PF, 1)]);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    registry.set_up(PF).unwrap();
    let updated = received.verify(&find(&devices)).unwrap();
    let before = all_of(bus);
    assert!(registry.config().write_u16(PF, 4, 0x400).is_err());
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    assert!(registry.config().write_u16(PF, sriov + 8, 0).is_err());
    assert_eq!(all_of(bus), before);
    updated.retrieve(PF).unwrap();
    // It stays guarded so while its virtual functions are preserved onward.
    devices.get_mut(&PF).unwrap().kind = Kind::Physical;
    let next = common::memory();
    open(&next, &registry, V2, |outgoing, _, _| {
        let preserved = registry.preserve(outgoing.tracker(), &find(&devices), VF[0]);
        preserved.unwrap();
        assert_eq!(registry.config().kind(PF), Some(Kind::PeerPhysical));
    });
}

/// What the predecessor knew as a physical function without DMA of its own is nobody's to finish.
#[test]
fn t22_a_count_for_a_physical_function_without_dma() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let boot = hand_over(&memory, &Registry::new(bus), V2, &devices, &[VF[0]]);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    for function in [PF, VF[0]] {
        registry.set_up(function).unwrap();
    }
    let mut apart = devices.clone();
    apart.get_mut(&VF[0]).unwrap().upstream = None;
    apart.get_mut(&VF[0]).unwrap().is_virtual = false;
    let refused = received.verify(&find(&apart)).unwrap_err();
    assert_eq!(refused.error, UpdateError::Refcount { function: PF });
}

/// Preserved for itself, then with virtual functions on: it must be taken back first.
#[test]
fn the_kind_of_what_is_preserved_does_not_change() {
    let (bus, mut devices) = machine();
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    bus.write_u16(PF, sriov + 8, 0).unwrap();
    devices.get_mut(&PF).unwrap().kind = Kind::PeerEndpoint;
    let memory = memory();
    let registry = Registry::new(bus);
    open(&memory, &registry, V2, |outgoing, _, _| {
        let preserve =
            |devices: &Devices, f| registry.preserve(outgoing.tracker(), &find(devices), f);
        preserve(&devices, PF).unwrap();
        bus.write_u16(PF, sriov + 8, 9).unwrap();
        bus.write_u16(VF[0], 4, 4).unwrap();
        devices.get_mut(&PF).unwrap().kind = Kind::Physical;
        let known = GuardError::Kind {
            function: PF,
            known: Kind::PeerEndpoint,
        };
        assert_eq!(preserve(&devices, VF[0]), Err(known.into()));
        assert_eq!(registry.outgoing_count(), 1);
    });
}

/// After a Linux an endpoint is taken for one with peers; its driver, who knows better, preserves it
/// onward all the same. It stays as guarded as it was.
#[test]
fn an_endpoint_goes_on_after_a_linux() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let boot = from_linux(&memory, &[(OTHER, 1)]);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    registry.set_up(OTHER).unwrap();
    let _updated = received.verify(&find(&devices)).unwrap();
    let next = common::memory();
    open(&next, &registry, V2, |outgoing, luo, _| {
        let preserved = registry.preserve(outgoing.tracker(), &find(&devices), OTHER);
        preserved.unwrap();
        jump(outgoing, luo);
    });
    assert_eq!(registry.config().kind(OTHER), Some(Kind::PeerEndpoint));
    assert!(registry.config().write_u32(OTHER, 0x18, 0).is_err());
}

/// The first form has no function with SR-IOV, also where its virtual functions are off.
#[test]
fn the_first_form_and_a_physical_function_without_virtual_ones() {
    let (bus, mut devices) = machine();
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    bus.write_u16(PF, sriov + 8, 0).unwrap();
    devices.get_mut(&PF).unwrap().kind = Kind::PeerEndpoint;
    let memory = memory();
    let registry = Registry::new(bus);
    open(
        &memory,
        &registry,
        OutgoingForm::V1 { capacity: 4 },
        |outgoing, _, _| {
            let refused = registry.preserve(outgoing.tracker(), &find(&devices), PF);
            assert_eq!(refused, Err(PreserveError::Sriov { function: PF }));
        },
    );
}

/// What is undone is what was done, also where enumeration says something else by then.
#[test]
fn a_topology_that_changes_while_functions_are_preserved() {
    let (bus, mut devices) = machine();
    let memory = memory();
    let registry = Registry::new(bus);
    open(&memory, &registry, V2, |outgoing, _, _| {
        let tracker = outgoing.tracker();
        for f in NVME {
            registry.preserve(tracker, &find(&devices), f).unwrap();
        }
        let before = devices.clone();
        devices.get_mut(&NVME[0]).unwrap().upstream = Some(DOWN[1]);
        registry.unpreserve(tracker, NVME[0]).unwrap();
        let counts = [DOWN[0], DOWN[1], NVME[1]].map(|f| registry.outgoing_refcount(f));
        assert_eq!(counts, [0, 1, 1]);
        // A bridge that would be above itself in two ways is refused whole.
        devices = before;
        devices.get_mut(&DOWN[1]).unwrap().upstream = None;
        devices.get_mut(&NVME[0]).unwrap().upstream = Some(DOWN[1]);
        let refused = registry.preserve(tracker, &find(&devices), NVME[0]);
        assert_eq!(refused, Err(PreserveError::Path { function: DOWN[1] }));
        assert_eq!(registry.outgoing_count(), 4);
    });
}

/// The same at FINISH: the bridges above a function are those that were verified.
#[test]
fn t15_finish_walks_what_was_verified() {
    let (bus, devices) = machine();
    let (registry, updated, _) = update(bus, bus, &devices, &NVME);
    let _ = updated.finish(NVME[0]).unwrap();
    let guarded = [DOWN[0], DOWN[1], NVME[1], UP].map(|f| registry.config().is_guarded(f));
    assert_eq!(guarded, [false, true, true, true]);
}

/// Enumeration has the sizes of BARs from the registry, also when it is asked by it.
#[test]
fn a_topology_that_asks_the_registry() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let boot = hand_over(&memory, &Registry::new(bus), V2, &devices, &[NVME[0]]);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    Boot::run(&registry).unwrap();
    let asked = std::cell::Cell::new(0);
    let topology = |function: Sbdf| {
        let device = devices.get(&function).copied()?;
        asked.set(asked.get() + usize::from(registry.is_incoming(function)));
        let bars = registry.bars(function).ok();
        Some(kho_pci_lu::Device { bars, ..device })
    };
    let _updated = received.verify(&topology).unwrap();
    assert!(asked.get() >= 4);
}

/// After the end of an update of the first form a bridge that appears is as on any boot, whatever bus
/// numbers it gets.
#[test]
fn a_bridge_that_comes_after_a_record_of_the_first_form() {
    let (bus, devices) = machine();
    let mut memory = memory();
    let form = OutgoingForm::V1 { capacity: 4 };
    let boot = hand_over(&memory, &Registry::new(bus), form, &devices, &[NVME[0]]);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    Boot::run(&registry).unwrap();
    let updated = received.verify(&find(&devices)).unwrap();
    for (end, place) in [(false, 0x0040), (true, 0x0048)] {
        if end {
            let _ = updated.finish(NVME[0]).unwrap();
            assert_eq!(registry.incoming_count(), 0);
        }
        let before = registry.incoming_count();
        let port = Sbdf::from_bdf(0, place);
        let function = SimFunction::bridge(0x1b36, 0xc, 3, 3).with_pm(true);
        bus.add(port, function.with_express(4));
        assert_eq!(registry.set_up(port), Ok(false));
        assert_eq!(registry.incoming_count(), before);
        assert!(!registry.config().is_guarded(port));
    }
    updated.close().unwrap();
}

/// A bridge that was preserved and is not set up keeps its numbers, whatever they are.
#[test]
fn t08_bus_numbers_of_a_bridge_that_is_not_set_up() {
    let (bus, _) = machine();
    let mut memory = memory();
    let boot = from_linux(&memory, &[(ROOT, 1)]);
    let registry = Registry::new(bus);
    let _received = receive(&mut memory, boot, &registry);
    bus.poke(ROOT, pci::at(0x18, Width::U32), 0x0001_0400);
    let before = all_of(bus);
    let numbers = registry.bus_numbers(ROOT, 1..=255);
    assert_eq!(numbers, Ok(kho_pci_lu::BusNumbers::Closed));
    assert_eq!(all_of(bus), before);
}

/// Numbers that cannot be are cleared, and once.
#[test]
fn t08_bus_numbers_are_cleared_once() {
    let (bus, devices) = machine();
    let (registry, _received) = received(bus, &devices);
    // What is below it would be on the bus above it.
    let register = pci::at(0x18, Width::U32);
    bus.poke(DOWN[1], register, 0x4004_0202);
    for expected in [1, 0] {
        let writes = bus.writes();
        let numbers = registry.bus_numbers(DOWN[1], 0..=255);
        assert_eq!(numbers, Ok(kho_pci_lu::BusNumbers::Closed));
        assert_eq!(bus.writes() - writes, expected);
        assert_eq!(bus.peek(DOWN[1], register), 0x4000_0002);
    }
}

/// A driver's own rule, from where it writes.
#[test]
fn t20_a_driver_adds_a_rule() {
    let (bus, devices) = machine();
    let (function, state) = (OTHER, State::Normal);
    let rule = |registry: &Registry<Bus>| {
        let config = registry.config();
        config.add_rule(OTHER, 0xf8, 1, "engine", "starts it anew")
    };
    let unknown = GuardError::State { function, state };
    assert_eq!(rule(&Registry::new(bus)), Err(unknown));
    let (registry, _updated, _) = update(bus, bus, &devices, &[OTHER]);
    rule(&registry).unwrap();
    let refused = PciError::Refused {
        function,
        field: "engine",
        reason: "starts it anew",
    };
    assert_eq!(registry.config().write_u32(OTHER, 0xf8, 1), Err(refused));
}

/// Facts that lack a function of the record are not those of the record.
#[test]
fn t22_facts_that_lack_a_function() {
    let (bus, _) = machine();
    let mut memory = memory();
    let boot = common::hand_over(&memory, |tracker| {
        let (header, _) = tracker.alloc_preserved(4096).unwrap();
        let (block, _) = tracker.alloc_preserved(4096).unwrap();
        let (facts, _) = tracker.alloc_preserved(4096).unwrap();
        let slot = v2::PciDevSer {
            domain: 0.into(),
            bdf: OTHER.bdf().into(),
            refcount: 1.into(),
        };
        let words = [1u64 << 32 | 2, block.as_u64()];
        let bytes = [[0u64, 1].as_bytes(), slot.as_bytes()].concat();
        let mem = tracker.mem();
        mem.write(header, words.as_bytes()).unwrap();
        mem.write(block, &bytes).unwrap();
        mem.write(facts, [0u64, 0].as_bytes()).unwrap();
        let objects = [(v2::NAME, header), (functions::NAME, facts)];
        objects.map(|(name, at)| (name, at.as_u64())).to_vec()
    });
    let frozen = memory.freeze();
    let incoming = common::check(&frozen, boot);
    let mut workspace = [0; 4096];
    let known = Functions::read(&incoming, &mut workspace).unwrap();
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    let registry = Registry::new(bus);
    let refused = registry.receive(&record, known.as_ref()).map(drop);
    assert_eq!(refused, Err(UpdateError::NotKnown { function: OTHER }));
    assert_eq!(registry.incoming_count(), 0);
}

/// One registry is in one handover: a second object of it is refused.
#[test]
fn the_facts_are_registered_once() {
    let memory = memory();
    let alloc = common::alloc(&memory);
    let tracker = kho_core::Tracker::new(&memory, &alloc, common::PAGE, &[]).unwrap();
    let registry = Registry::new(machine().0);
    let (mut first, mut second) = (registry.facts_object(), registry.facts_object());
    first.preserve(&tracker).unwrap();
    assert_eq!(second.preserve(&tracker), Err(OutgoingError::Exists));
}

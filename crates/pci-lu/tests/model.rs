//! Random preserving, cancelling, jumping and finishing, against a model that only knows the set of
//! functions that were asked for.
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

use std::collections::{BTreeMap, BTreeSet};

use kho_hal::{PciConfigAccess, Sbdf};
use kho_pci_lu::{OutgoingForm, PreserveError, Registry, State, UpdateError};
use machine::*;
use proptest::prelude::*;

/// What can be asked for.
const WANTED: [Sbdf; 10] = [
    NVME[0], NVME[1], OTHER, ROOT, UP, DOWN[1], VF[0], VF[1], VF[2], VF[3],
];

/// Who needs each function: what was asked for, at it and below it.
fn counts(devices: &Devices, asked: &BTreeSet<Sbdf>) -> BTreeMap<Sbdf, u16> {
    let mut counts = BTreeMap::new();
    for &function in asked {
        let mut next = Some(function);
        while let Some(function) = next {
            *counts.entry(function).or_default() += 1;
            next = devices[&function].upstream;
        }
    }
    counts
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Preserve(usize),
    Unpreserve(usize),
    FreezeAndCancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..WANTED.len()).prop_map(Step::Preserve),
        2 => (0..WANTED.len()).prop_map(Step::Unpreserve),
        1 => Just(Step::FreezeAndCancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn as_the_model_says(
        steps in prop::collection::vec(step(), 1..24),
        finishes in prop::collection::vec(0..WANTED.len(), 0..24),
        first_form in any::<bool>(),
    ) {
        let (bus, devices) = machine();
        let space = all_of(bus);
        let mut memory = common::memory();
        let old = Registry::new(bus);
        let form = match first_form {
            true => OutgoingForm::V1 { capacity: 16 },
            false => OutgoingForm::V2,
        };
        let mut asked = BTreeSet::new();
        let boot = open(&memory, &old, form, |outgoing, luo, _| {
            for step in steps {
                let tracker = outgoing.tracker();
                match step {
                    Step::Preserve(n) => {
                        let function = WANTED[n];
                        let sriov = first_form && VF.contains(&function);
                        let expected = if asked.contains(&function) {
                            Err(PreserveError::Busy { function })
                        } else if sriov {
                            Err(PreserveError::Sriov { function })
                        } else {
                            asked.insert(function);
                            Ok(())
                        };
                        assert_eq!(old.preserve(tracker, &find(&devices), function), expected);
                    }
                    Step::Unpreserve(n) => {
                        let function = WANTED[n];
                        let undone = old.unpreserve(tracker, function);
                        assert_eq!(undone.is_ok(), asked.remove(&function));
                    }
                    Step::FreezeAndCancel => freeze(outgoing, luo).unwrap(),
                }
                let counts = counts(&devices, &asked);
                assert_eq!(old.outgoing_count(), counts.len());
                for function in devices.keys() {
                    let count = counts.get(function).copied().unwrap_or(0);
                    assert_eq!(old.outgoing_refcount(*function), count);
                    let state = if count > 0 { State::Prepared } else { State::Normal };
                    assert_eq!(old.config().state(*function), state);
                }
                // Each before what it depends on.
                let order = old.freeze_order();
                let at = |function| order.iter().position(|f| *f == function);
                for function in &order {
                    if let Some(above) = devices[function].upstream {
                        assert!(at(*function) < at(above));
                    }
                }
            }
            jump(outgoing, luo)
        });
        prop_assert_eq!(all_of(bus), space, "no event writes");
        let registry = Registry::new(bus);
        let received = receive(&mut memory, boot, &registry);
        Boot::run(&registry).unwrap();
        let updated = received.verify(&find(&devices)).unwrap();
        let mut left = asked.clone();
        let all = counts(&devices, &asked);
        for n in finishes.into_iter().chain(0..WANTED.len()) {
            let function = WANTED[n];
            let before = counts(&devices, &left);
            let expected = if left.remove(&function) {
                Ok(())
            } else if before.contains_key(&function) {
                Err(UpdateError::Depended { function })
            } else {
                Err(UpdateError::NotIncoming { function })
            };
            let found = updated.finish(function).map(drop);
            prop_assert_eq!(found, expected);
            let now = counts(&devices, &left);
            prop_assert_eq!(registry.incoming_count(), now.len());
            for function in devices.keys() {
                prop_assert_eq!(registry.is_incoming(*function), now.contains_key(function));
                prop_assert_eq!(registry.was_preserved(*function), all.contains_key(function));
                // A boot turns virtual functions off that nobody needs.
                let Some(express) = pci::find_cap(bus, *function, pci::EXP) else {
                    prop_assert!(!all.contains_key(function), "{} is gone", function);
                    continue;
                };
                let (control, config) = (express + 8, registry.config());
                let kept = config.read_u16(*function, control).unwrap();
                let refused = config.write_u16(*function, control, kept ^ 0x20).is_err();
                prop_assert_eq!(refused, now.contains_key(function), "{}", function);
                config.write_u16(*function, control, kept).unwrap();
            }
        }
        prop_assert!(updated.close().is_ok());
    }
}

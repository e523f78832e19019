//! What was found wrong with the first patch that guarded configuration writes (71 hunks for Linux):
//! section 2.2 of the policy, a test for each, by its number.
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

use kho_core::OutgoingError;
use kho_hal::{PciConfigAccess, PciError, Sbdf, Width};
use kho_pci_lu::registry::FREEZE_REFUSED;
use kho_pci_lu::{
    GuardError, Guarded, Kind, OutgoingForm, PreserveError, Registry, SetError, Setting, State,
    UpdateError,
};
use machine::*;

const V2: OutgoingForm = OutgoingForm::V2;

fn peek(bus: Bus, function: Sbdf, offset: u16) -> u32 {
    bus.peek(function, pci::at(offset, Width::U16))
}

fn refused<T: std::fmt::Debug>(result: Result<T, PciError>) -> bool {
    matches!(result, Err(PciError::Refused { .. }))
}

/// The predicate was true only for devices that the user had asked for, so bridges and physical
/// functions were not covered.
#[test]
fn bug_01_what_is_depended_on_is_guarded_too() {
    let (bus, devices) = machine();
    let (registry, _updated, _) = update(bus, bus, &devices, &[NVME[0], VF[0]]);
    let config = registry.config();
    for bridge in [ROOT, UP, DOWN[0]] {
        assert!(refused(config.write_u16(bridge, 0x04, 0x0402)));
        assert!(refused(config.write_u32(bridge, 0x18, 0)));
        assert!(refused(config.write_u16(bridge, 0x3e, 0x40)));
    }
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    assert!(refused(config.write_u16(PF, sriov + 8, 0)));
    assert!(refused(config.write_u16(PF, sriov + 0x10, 0)));
    assert!(refused(config.write_u32(PF, sriov + 0x24, u32::MAX)));
}

/// The predicate had no state: it never held in the old kernel, and a later one held in NORMAL.
#[test]
fn bug_02_the_window_is_from_freeze_to_finish_in_both_programs() {
    let (bus, devices) = machine();
    let mut memory = common::memory();
    let old = Registry::new(bus);
    let off_and_on = |registry: &Registry<Bus>| {
        let off = registry.config().write_u16(NVME[0], 4, 2);
        registry.config().write_u16(NVME[0], 4, 6).unwrap();
        off
    };
    let boot = open(&memory, &old, V2, |outgoing, luo, _| {
        off_and_on(&old).unwrap();
        let tracker = outgoing.tracker();
        old.preserve(tracker, &find(&devices), NVME[0]).unwrap();
        off_and_on(&old).unwrap();
        jump(outgoing, luo)
    });
    assert!(refused(off_and_on(&old)));
    let registry = Registry::new(bus);
    off_and_on(&registry).unwrap();
    let received = receive(&mut memory, boot, &registry);
    assert!(
        refused(registry.config().write_u16(NVME[0], 4, 6)),
        "not looked at yet"
    );
    Boot::run(&registry).unwrap();
    let updated = received.verify(&find(&devices)).unwrap();
    assert!(refused(off_and_on(&registry)));
    let _ = updated.finish(NVME[0]).unwrap();
    off_and_on(&registry).unwrap();
}

/// Three assertions brought the host down, where a caller only asked for what is not allowed now.
#[test]
fn bug_03_what_is_not_allowed_is_an_error() {
    let (bus, devices) = machine();
    let (registry, _updated, _) = update(bus, bus, &devices, &[NVME[0]]);
    let config = registry.config();
    // MSI-X set-up and restore, which the assertions stood in.
    let msix = pci::cap(bus, NVME[0], pci::MSIX);
    config.write_u16(NVME[0], msix + 2, 0xc000).unwrap();
    config.write_u16(NVME[0], msix + 2, 0x8000).unwrap();
    // A bus reset that the user asks for.
    assert!(refused(config.write_u16(DOWN[0], 0x3e, 0x40)));
    assert_eq!(peek(bus, NVME[0], 4) & 4, 4);
}

/// An adopted device without the capability had the dwords at 4 and 8 as its serial number.
#[test]
fn bug_04_no_capability_is_no_serial_number() {
    let (bus, devices) = machine();
    let (_, _updated, boot) = update(bus, bus, &devices, &[NVME[0]]);
    for bridge in [ROOT, UP, DOWN[0]] {
        assert_eq!(boot.settings[&bridge].get(Setting::Serial), None);
    }
    assert_eq!(boot.settings[&NVME[0]].get(Setting::Serial), Some(7));
}

/// The flag "window of 64 bits" was taken over by those that were not adopted.
#[test]
fn bug_05_the_window_is_as_wide_as_the_bridge_says() {
    for (low, wide) in [(0x0001_0001, 1), (0, 0)] {
        let (bus, devices) = machine();
        for bridge in [UP, DOWN[1]] {
            bus.poke(bridge, pci::at(0x24, Width::U32), low);
        }
        let (_, _updated, boot) = update(bus, bus, &devices, &[NVME[0]]);
        // Of one that is incoming and of one that is not.
        for bridge in [UP, DOWN[1]] {
            let window = boot.settings[&bridge].get(Setting::PrefetchWindow);
            assert_eq!(window.unwrap() & 0xf, wide);
        }
    }
}

/// D0 was written into the software's copy without a look.
#[test]
fn bug_06_the_power_state_is_read() {
    let (bus, devices) = machine();
    let pm = pci::cap(bus, NVME[0], pci::PM) + 4;
    let mut memory = common::memory();
    let boot = hand_over(&memory, &Registry::new(bus), V2, &devices, &[NVME[0]]);
    let registry = Registry::new(bus);
    let _received = receive(&mut memory, boot, &registry);
    bus.poke(NVME[0], pci::at(pm, Width::U16), 2);
    // It is not in D0, so it is not what was preserved.
    assert!(matches!(
        registry.set_up(NVME[0]),
        Err(UpdateError::Guard(GuardError::Field(_)))
    ));
    assert_eq!(
        Guarded::new(bus)
            .init(NVME[0], &[])
            .unwrap()
            .get(Setting::PowerState),
        Some(2)
    );
}

/// Sizing was skipped, and what came after it used sizes that nobody had filled in.
#[test]
fn bug_07_sizes_that_were_not_asked_for_are_known_or_an_error() {
    let (bus, mut devices) = machine();
    let (registry, _updated, boot) = update(bus, bus, &devices, &[NVME[0]]);
    assert_eq!(boot.bars[&NVME[0]], devices[&NVME[0]].bars.unwrap());
    assert_eq!(registry.bars(NVME[0]), Ok(devices[&NVME[0]].bars.unwrap()));
    devices.get_mut(&NVME[0]).unwrap().bars = None;
    let mut memory = common::memory();
    let boot = hand_over(&memory, &Registry::new(bus), V2, &devices, &[NVME[0]]);
    let registry = Registry::new(bus);
    let _received = receive(&mut memory, boot, &registry);
    registry.set_up(NVME[0]).unwrap();
    assert!(matches!(registry.bars(NVME[0]), Err(UpdateError::Bars(_))));
}

/// Payload, read request and interrupt messages: success without a write, and the caller noted the
/// new value.
#[test]
fn bug_08_no_success_without_effect() {
    let (bus, devices) = machine();
    let (registry, _updated, boot) = update(bus, bus, &devices, &[NVME[0]]);
    let config = registry.config();
    let exp = pci::cap(bus, NVME[0], pci::EXP);
    let payload = boot.settings[&NVME[0]].get(Setting::MaxPayload).unwrap();
    match config.set(NVME[0], &[Setting::MaxPayload.to(payload ^ 1)]) {
        Err(SetError::Kept { found, .. }) => assert_eq!(found, payload),
        other => panic!("{other:?}"),
    }
    let settings = config
        .set(NVME[0], &[Setting::MaxReadRequest.to(5)])
        .unwrap();
    assert_eq!(settings.get(Setting::MaxReadRequest), Some(5));
    assert_eq!(peek(bus, NVME[0], exp + 8) >> 12 & 7, 5);
    assert_eq!(peek(bus, NVME[0], exp + 8) >> 5 & 7, payload);
    let msi = pci::cap(bus, NVME[0], pci::MSI);
    config.write_u32(NVME[0], msi + 4, 0xfee0_0000).unwrap();
    assert_eq!(config.read_u32(NVME[0], msi + 4), Ok(0xfee0_0000));
}

/// Of two ways out of SR-IOV one cleared the software's copy, the other the virtual functions, and
/// neither the hardware.
#[test]
fn bug_09_virtual_functions_go_on_both_sides_or_on_none() {
    let (bus, devices) = machine();
    let (registry, updated, boot) = update(bus, bus, &devices, &[VF[0]]);
    let off = [
        Setting::VfEnable.to(0),
        Setting::VfMemory.to(0),
        Setting::NumVfs.to(0),
    ];
    let refused = registry.config().set(PF, &off);
    assert!(matches!(refused, Err(SetError::Kept { .. })));
    assert_eq!(registry.config().init(PF, &[]).unwrap(), boot.settings[&PF]);
    assert!(bus.functions().contains(&VF[0]));
    let _ = updated.finish(VF[0]).unwrap();
    let settings = registry.config().set(PF, &off).unwrap();
    assert_eq!(
        [Setting::VfEnable, Setting::NumVfs].map(|s| settings.get(s)),
        [Some(0), Some(0)]
    );
    assert!(!bus.functions().contains(&VF[0]));
}

/// The software's copy of SR-IOV Control was 0 while the hardware had virtual functions on.
#[test]
fn bug_10_the_copy_of_sriov_control_is_what_the_hardware_has() {
    let (bus, devices) = machine();
    let (registry, _updated, boot) = update(bus, bus, &devices, &[VF[0]]);
    let settings = &boot.settings[&PF];
    assert_eq!(
        [
            Setting::VfEnable,
            Setting::VfMemory,
            Setting::VfAri,
            Setting::NumVfs
        ]
        .map(|setting| settings.get(setting)),
        [Some(1), Some(1), Some(0), Some(4)]
    );
    // Enabling what is enabled is no first time.
    let writes = bus.writes();
    let on = [
        Setting::VfEnable.to(1),
        Setting::VfMemory.to(1),
        Setting::NumVfs.to(4),
    ];
    assert_eq!(registry.config().set(PF, &on).as_ref(), Ok(settings));
    assert_eq!(bus.writes(), writes);
}

/// ARI was tested at the child and written at the bridge; the copy came from the child's capability.
#[test]
fn bug_11_ari_forwarding_is_read_and_kept_at_the_bridge() {
    let (bus, devices) = machine();
    // The child has the capability, and the port above it does not forward.
    let at = pci::cap(bus, DOWN[0], pci::EXP) + 0x28;
    assert_eq!(peek(bus, DOWN[0], at) & 0x20, 0);
    let (registry, _updated, boot) = update(bus, bus, &devices, &[NVME[0]]);
    assert_eq!(boot.settings[&DOWN[0]].get(Setting::AriForwarding), Some(0));
    assert_eq!(boot.settings[&ROOT].get(Setting::AriForwarding), Some(1));
    assert_eq!(boot.settings[&NVME[0]].get(Setting::AriForwarding), None);
    assert!(refused(registry.config().write_u16(DOWN[0], at, 0x20)));
    let at = pci::cap(bus, ROOT, pci::EXP) + 0x28;
    assert!(refused(registry.config().write_u16(ROOT, at, 0)));
}

/// The software's "bus master" changed although the write was skipped, and began as off.
#[test]
fn bug_12_bus_master_is_one_thing() {
    let (bus, devices) = machine();
    let (registry, _updated, boot) = update(bus, bus, &devices, &[NVME[0]]);
    assert_eq!(boot.settings[&NVME[0]].get(Setting::BusMaster), Some(1));
    let set = |on| registry.config().set(NVME[0], &[Setting::BusMaster.to(on)]);
    assert!(matches!(set(0), Err(SetError::Kept { found: 1, .. })));
    assert_eq!(peek(bus, NVME[0], 4) & 4, 4);
    assert_eq!(set(1).unwrap().get(Setting::BusMaster), Some(1));
    // Who is not preserved can do as he likes.
    let other = registry.config().set(OTHER, &[Setting::BusMaster.to(0)]);
    assert_eq!(other.unwrap().get(Setting::BusMaster), Some(0));
}

/// A reset's writes were skipped, it waited all the same and was reported as done; other ways to
/// reset were not looked at.
#[test]
fn bug_13_a_reset_fails_before_it_begins() {
    let (bus, devices) = machine();
    let (registry, _updated, _) = update(bus, bus, &devices, &[NVME[0], VF[0]]);
    let config = registry.config();
    let [pm, exp, af] = [pci::PM, pci::EXP, pci::AF].map(|id| pci::cap(bus, NVME[0], id));
    let slot = pci::cap(bus, DOWN[0], pci::EXP);
    let space = all_of(bus);
    for (function, offset, value) in [
        (NVME[0], pm + 4, 3),                                     // by power state
        (NVME[0], 4, 0x400),                                      // what precedes it
        (NVME[0], exp + 8, peek(bus, NVME[0], exp + 8) | 0x8000), // function level
        (NVME[0], af + 4, 1),                                     // the same, conventional
        (VF[0], pci::cap(bus, VF[0], pci::EXP) + 8, 0x8000),
        (
            PF,
            pci::cap(bus, PF, pci::EXP) + 8,
            peek(bus, PF, pci::cap(bus, PF, pci::EXP) + 8) | 0x8000,
        ),
        (DOWN[0], 0x3e, 0x40),          // bus
        (DOWN[0], slot + 0x10, 0x10),   // link
        (DOWN[0], slot + 0x18, 0x0fc0), // slot
    ] {
        assert!(
            refused(config.write_u16(function, offset, value as u16)),
            "{function} {offset:#x}"
        );
    }
    assert_eq!(all_of(bus), space);
}

/// Errors and PME were reported and never cleared; a statement of bookkeeping was skipped with a
/// write.
#[test]
fn bug_14_what_is_reported_is_cleared() {
    let (bus, devices) = machine();
    let pm = pci::cap(bus, NVME[0], pci::PM) + 4;
    let set = |offset, value| bus.poke(NVME[0], pci::at(offset, Width::U16), value);
    set(pm, 0x8008);
    set(0x06, 0xf910);
    let (registry, _updated, _) = update(bus, bus, &devices, &[NVME[0]]);
    assert_eq!(peek(bus, NVME[0], pm), 8);
    registry.config().write_u16(NVME[0], 0x06, 0xf900).unwrap();
    assert_eq!(peek(bus, NVME[0], 0x06), 0x0010);
    // Legacy capabilities can be restored register by register, too.
    let pcix = pci::cap(bus, NVME[0], pci::PCIX);
    registry
        .config()
        .write_u16(NVME[0], pcix + 2, 0x0030)
        .unwrap();
    assert_eq!(peek(bus, NVME[0], pcix + 2), 0x0030);
}

/// Guards stood in functions and at their callers, without a rule for where.
#[test]
fn bug_15_one_place_judges_and_whoever_writes_gets_the_same_verdict() {
    let (bus, devices) = machine();
    let (registry, _updated, _) = update(bus, bus, &devices, &[NVME[0]]);
    // A caller that knows the policy, one that writes registers, one that has a layer between.
    let layered = &registry.config();
    let kept = registry.config().set(NVME[0], &[Setting::BusMaster.to(0)]);
    assert!(matches!(kept, Err(SetError::Kept { .. })));
    assert_eq!(
        registry.config().write_u16(NVME[0], 4, 0x402),
        layered.write_u16(NVME[0], 4, 0x402)
    );
    assert!(refused(layered.write_u8(NVME[0], 4, 2)));
    // PME interrupts of a port, which were guarded three times: nobody's DMA depends on them.
    let root = pci::cap(bus, ROOT, pci::EXP) + 0x1c;
    registry.config().write_u16(ROOT, root, 8).unwrap();
    assert_eq!(peek(bus, ROOT, root), 8);
}

/// After a failed FREEZE memory was lost, and CANCEL reached devices that were never frozen.
#[test]
fn bug_16_a_failed_freeze_leaves_nothing_behind() {
    let (bus, devices) = machine();
    let memory = common::memory();
    let registry = Registry::new(bus);
    open(&memory, &registry, V2, |outgoing, luo, faults| {
        for nvme in NVME {
            let tracker = outgoing.tracker();
            registry.preserve(tracker, &find(&devices), nvme).unwrap();
        }
        // The third of six, farthest from the root first.
        let pm = pci::cap(bus, DOWN[1], pci::PM) + 4;
        bus.poke(DOWN[1], pci::at(pm, Width::U16), 3);
        for _ in 0..3 {
            let failed = freeze(outgoing, luo);
            assert_eq!(failed, Err(OutgoingError::Refused(FREEZE_REFUSED)));
            assert!(matches!(registry.refused(), Some(PreserveError::Guard(_))));
            for (&function, device) in &devices {
                let preserved = function.bus() > 0 || function == ROOT;
                let state = if preserved {
                    State::Prepared
                } else {
                    State::Normal
                };
                assert_eq!(
                    registry.config().state(function),
                    state,
                    "{:?}",
                    device.kind
                );
            }
        }
        bus.poke(DOWN[1], pci::at(pm, Width::U16), 0);
        // What failed costs no memory: as many accesses as if it had not been.
        let calls = faults.calls();
        freeze(outgoing, luo).unwrap();
        let first = faults.calls() - calls;
        freeze(outgoing, luo).unwrap();
        assert_eq!(faults.calls() - calls, 2 * first);
        for nvme in NVME {
            let tracker = outgoing.tracker();
            registry.unpreserve(tracker, nvme).unwrap();
        }
        assert_eq!(registry.outgoing_count(), 0);
        for &function in devices.keys() {
            assert_eq!(registry.config().state(function), State::Normal);
            assert_eq!(registry.config().kind(function), None::<Kind>);
        }
    });
}

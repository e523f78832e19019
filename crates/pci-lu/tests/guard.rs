//! The write policy on live functions: tests 1 to 6, 8, 10, 14, 17, 20 and 24 of the policy.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

#[path = "common/pci.rs"]
mod pci;

use std::collections::BTreeSet;

use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::walk::CapId;
use kho_hal::{PciConfigAccess, PciError, Width};
use kho_pci_lu::setup::Survey;
use kho_pci_lu::{
    Class, Field, FieldError, GuardError, Guarded, Kind, Setting, State, for_each_field, kind_of,
};
use pci::*;

const WIDTHS: [Width; 3] = [Width::U8, Width::U16, Width::U32];

fn fields(bus: &SimBus, kind: Kind) -> Vec<Field> {
    let mut fields = Vec::new();
    for_each_field(bus, HERE, kind, |field| fields.push(field)).unwrap();
    fields
}

/// What must not change: dword, bits, value.
fn kept(bus: &SimBus, kind: Kind) -> Vec<(Field, u32)> {
    let must = |field: &Field| matches!(field.class, Class::Preserve | Class::Action);
    let all = fields(bus, kind).into_iter().filter(must);
    all.map(|field| {
        (
            field,
            bus.peek(HERE, at(field.dword, Width::U32)) & field.bits,
        )
    })
    .collect()
}

/// Brings a guard over `bus` into this state.
fn guarded(bus: &SimBus, kind: Kind, state: State) -> Guarded<&SimBus> {
    let guard = Guarded::new(bus);
    match state {
        State::Normal => {}
        State::Prepared => guard.prepare(HERE, kind).unwrap(),
        State::Frozen => {
            guard.prepare(HERE, kind).unwrap();
            guard.freeze(HERE).unwrap();
        }
        State::Updated => guard.adopt(HERE, kind).unwrap(),
    }
    assert_eq!(guard.state(HERE), state);
    guard
}

fn refused(field: &str, result: Result<(), PciError>) {
    match result {
        Err(PciError::Refused {
            function,
            field: found,
            reason,
        }) => {
            assert_eq!((function, found), (HERE, field));
            assert!(!reason.is_empty());
        }
        other => panic!("{field}: {other:?}"),
    }
}

/// Every access that touches the dword, with values that turn every bit.
fn accesses(dword: u16) -> impl Iterator<Item = (u16, Width)> {
    WIDTHS.into_iter().flat_map(move |width| {
        (dword..dword + 4)
            .step_by(width.bytes().into())
            .map(move |offset| (offset, width))
    })
}

#[test]
fn t01_nothing_that_must_stay_changes() {
    for kind in Kind::ALL {
        for state in [State::Frozen, State::Updated] {
            let bus = live(kind);
            let guard = guarded(&bus, kind, state);
            let before = kept(&bus, kind);
            let dwords: BTreeSet<_> = fields(&bus, kind).iter().map(|f| f.dword).collect();
            let (mut done, mut stopped) = (0, 0);
            for (offset, width) in dwords.iter().flat_map(|&dword| accesses(dword)) {
                let ones = width.mask();
                let bits = (0..8 * width.bytes()).map(|bit| 1 << bit);
                let values = bits.flat_map(|bit| [bit, ones & !bit]);
                for change in values.chain([0, ones]) {
                    let now = bus.peek(HERE, at(offset, width));
                    for value in [change, now ^ change] {
                        match guard.write(HERE, at(offset, width), value) {
                            Ok(()) => done += 1,
                            Err(PciError::Refused { .. }) => stopped += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                for (field, value) in &before {
                    let now = bus.peek(HERE, at(field.dword, Width::U32)) & field.bits;
                    assert_eq!(now, *value, "{kind:?} {} at {offset:#x}", field.row.field);
                }
            }
            assert!(done > 1000 && stopped > 1000, "{kind:?}: {done} {stopped}");
        }
    }
}

/// Writes all over the space; what reached the bus is what was asked, in the same order.
fn same_as_cold(kind: Kind, guard: &Guarded<&SimBus>) {
    let bus = *guard.inner();
    let cold = live(kind);
    let mut seed = 1u32;
    bus.record(true);
    cold.record(true);
    for _ in 0..2000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let width = WIDTHS[(seed >> 30) as usize % 3];
        let offset = (seed >> 8) as u16 % 0x300 / width.bytes() * width.bytes();
        let value = seed.rotate_left(11) & width.mask();
        guard.write(HERE, at(offset, width), value).unwrap();
        cold.write(HERE, at(offset, width), value).unwrap();
    }
    assert_eq!(bus.take_records(), cold.take_records());
}

/// The IOMMU's driver says that it knows what is on.
fn confirm(guard: &Guarded<&SimBus>) {
    let found = Survey::of(guard, HERE, guard.kind(HERE).unwrap()).unwrap();
    let found = found.settings();
    let on = |setting: Setting| Some(setting.to(found.get(setting)?));
    let all = [
        Setting::Ats,
        Setting::AtsUnit,
        Setting::Pri,
        Setting::PriAllocation,
        Setting::Pasid,
    ];
    let on = all.map(on);
    let on: Vec<_> = on.into_iter().flatten().collect();
    guard.set(HERE, &on).unwrap();
}

#[test]
fn t12_translation_is_confirmed_before_it_is_finished() {
    let bus = live(Kind::PeerEndpoint);
    let guard = guarded(&bus, Kind::PeerEndpoint, State::Updated);
    let unconfirmed = GuardError::Unconfirmed {
        function: HERE,
        field: "ATS Control: Enable",
    };
    assert_eq!(guard.finish(HERE), Err(unconfirmed));
    assert_eq!(guard.check_confirmed(HERE), Err(unconfirmed));
    assert!(guard.is_guarded(HERE));
    confirm(&guard);
    guard.finish(HERE).unwrap();
    // What is on in a function that leaves is for nobody here to confirm.
    let bus = live(Kind::PeerEndpoint);
    let guard = guarded(&bus, Kind::PeerEndpoint, State::Frozen);
    guard.check_confirmed(HERE).unwrap();
    guard.cancel(HERE);
}

#[test]
fn t02_after_finish_every_write_goes_through() {
    for kind in Kind::ALL {
        let bus = live(kind);
        let guard = guarded(&bus, kind, State::Updated);
        confirm(&guard);
        guard.finish(HERE).unwrap();
        same_as_cold(kind, &guard);
        let bus = live(kind);
        let guard = guarded(&bus, kind, State::Frozen);
        guard.cancel(HERE);
        same_as_cold(kind, &guard);
    }
}

#[test]
fn t03_without_an_update_the_writes_are_those_of_any_boot() {
    for kind in Kind::ALL {
        let bus = live(kind);
        same_as_cold(kind, &guarded(&bus, kind, State::Normal));
        let bus = live(kind);
        same_as_cold(kind, &guarded(&bus, kind, State::Prepared));
        // Somebody else is preserved.
        let bus = live(kind);
        let other = kho_hal::Sbdf::from_bdf(0, 0x0020);
        bus.add(other, endpoint());
        let guard = Guarded::new(&bus);
        guard.adopt(other, Kind::Endpoint).unwrap();
        same_as_cold(kind, &guard);
    }
}

#[test]
fn t04_a_write_is_refused_whole() {
    let bus = live(Kind::PeerEndpoint);
    let pm = cap(&bus, HERE, PM) + 4;
    bus.poke(HERE, at(pm, Width::U16), 0x8008);
    let guard = guarded(&bus, Kind::PeerEndpoint, State::Updated);
    refused("PMCSR: PowerState", guard.write_u16(HERE, pm, 0x8103));
    assert_eq!(bus.peek(HERE, at(pm, Width::U16)), 0x8008, "not even PME");
    // Write-one-to-clear by value, and only if the caller says so.
    guard.write_u16(HERE, pm, 0x0100).unwrap();
    assert_eq!(bus.peek(HERE, at(pm, Width::U16)), 0x8108);
    guard.write_u32(HERE, pm, 0x8000).unwrap();
    assert_eq!(bus.peek(HERE, at(pm, Width::U16)), 0x0008);
    // Half of a 64-bit BAR, and a part of one dword.
    refused("BAR 0-5", guard.write_u32(HERE, 0x14, 0));
    refused("BAR 0-5", guard.write_u8(HERE, 0x13, 0));
    let bridge = live(Kind::Bridge);
    let guard = guarded(&bridge, Kind::Bridge, State::Frozen);
    let windows = [
        "Memory window",
        "Prefetchable window",
        "Prefetchable window, upper half",
    ];
    for (offset, field) in [0x20, 0x24, 0x28].into_iter().zip(windows) {
        refused(field, guard.write_u32(HERE, offset, u32::MAX));
    }
    refused(windows[2], guard.write_u32(HERE, 0x2c, 0));
}

#[test]
fn t05_read_modify_write_of_command() {
    let bus = live(Kind::Endpoint);
    let guard = guarded(&bus, Kind::Endpoint, State::Updated);
    let command = guard.read_u16(HERE, 0x04).unwrap();
    guard.write_u16(HERE, 0x04, command & !2).unwrap();
    guard.write_u16(HERE, 0x04, command | 2 | 0x400).unwrap();
    refused("Command: Bus Master", guard.write_u16(HERE, 0x04, 0x0400));
    assert_eq!(guard.read_u16(HERE, 0x04).unwrap(), command | 0x402);
    // Where nothing must stay, nothing is looked up: a write is one access, as without a guard.
    let reads = bus.reads();
    guard.write_u8(HERE, 0x3c, 11).unwrap();
    guard.write_u8(HERE, 0x0f, 0).unwrap();
    // Nor is a register beside one that must stay.
    guard.write_u16(HERE, 0x06, 0).unwrap();
    assert_eq!(bus.reads(), reads);
}

/// Turns each bit of the space by itself at each width; returns those that were refused.
fn refusals(bus: &SimBus, guard: &Guarded<&SimBus>) -> BTreeSet<(u16, u8)> {
    let mut found = BTreeSet::new();
    for dword in (0..0x1000).step_by(4) {
        for bit in 0..32u8 {
            let byte = dword + u16::from(bit / 8);
            let verdicts = WIDTHS.map(|width| {
                let offset = byte / width.bytes() * width.bytes();
                let now = bus.peek(HERE, at(offset, width));
                let value = now ^ 1 << (8 * (byte - offset) + u16::from(bit % 8));
                guard.write(HERE, at(offset, width), value)
            });
            assert!(
                verdicts.iter().all(|verdict| *verdict == verdicts[0]),
                "{dword:#x} bit {bit}: {verdicts:?}"
            );
            if verdicts[0].is_err() {
                found.insert((dword, bit));
            }
        }
    }
    found
}

#[test]
fn t06_every_width_gives_the_same_verdict() {
    for kind in Kind::ALL {
        let bus = live(kind);
        let guard = guarded(&bus, kind, State::Frozen);
        let mut expected = BTreeSet::new();
        for (field, _) in kept(&bus, kind) {
            let bits = (0..32).filter(|bit| field.bits >> bit & 1 != 0);
            expected.extend(bits.map(|bit| (field.dword, bit)));
        }
        assert_eq!(refusals(&bus, &guard), expected, "{kind:?}");
    }
}

#[test]
fn t08_bus_numbers_stay() {
    let bus = live(Kind::Bridge);
    let guard = guarded(&bus, Kind::Bridge, State::Updated);
    let field = "Primary, Secondary, Subordinate Bus";
    for (offset, width, value) in [
        (0x18, Width::U32, 0),
        (0x18, Width::U32, 0x00ff_0100),
        (0x18, Width::U16, 0),
        (0x1a, Width::U8, 0xff),
    ] {
        refused(field, guard.write(HERE, at(offset, width), value));
    }
    // The dword as it is, with another latency timer, which is nobody's.
    guard.write_u32(HERE, 0x18, 0x4004_0100).unwrap();
    assert_eq!(guard.read_u32(HERE, 0x18).unwrap(), 0x0004_0100);
}

#[test]
fn t10_success_means_that_the_hardware_has_it() {
    let bus = live(Kind::PeerEndpoint);
    let guard = guarded(&bus, Kind::PeerEndpoint, State::Frozen);
    let exp = cap(&bus, HERE, EXP);
    // Max Read Request is the driver's; Max Payload beside it is not.
    let now = guard.read_u16(HERE, exp + 8).unwrap();
    let wanted = now & !0x7000 | 0x5000;
    guard.write_u16(HERE, exp + 8, wanted).unwrap();
    assert_eq!(guard.read_u16(HERE, exp + 8).unwrap(), wanted);
    let payload = "Device Control: Max Payload Size";
    refused(payload, guard.write_u16(HERE, exp + 8, wanted ^ 0x60));
    assert_eq!(guard.read_u16(HERE, exp + 8).unwrap(), wanted);
    bus.fail_next(1);
    assert!(matches!(
        guard.write_u16(HERE, exp + 8, wanted),
        Err(PciError::Failed { .. })
    ));
}

#[test]
fn t14_virtual_functions_stay() {
    let bus = live(Kind::Physical);
    let before = bus.functions();
    assert_eq!(before.len(), 5, "four virtual functions");
    let sriov = cap(&bus, HERE, SRIOV);
    let guard = guarded(&bus, Kind::Physical, State::Updated);
    bus.record(true);
    refused(
        "SR-IOV Control: VF Enable",
        guard.write_u16(HERE, sriov + 8, 0),
    );
    refused("NumVFs", guard.write_u16(HERE, sriov + 0x10, 2));
    refused("System Page Size", guard.write_u32(HERE, sriov + 0x20, 2));
    for bar in (0x24..0x3c).step_by(4) {
        refused("VF BAR 0-5", guard.write_u32(HERE, sriov + bar, u32::MAX));
    }
    // The same number again is no change, and it arrives.
    guard.write_u16(HERE, sriov + 0x10, 4).unwrap();
    assert_eq!(bus.take_records().iter().filter(|r| r.write).count(), 1);
    assert_eq!(bus.functions(), before);
    // A virtual function has its own ATS Enable and function-level reset.
    let vf = before[1];
    let ats = cap(&bus, vf, ATS);
    bus.write_u16(vf, ats + 6, 0x8000).unwrap();
    bus.write_u16(vf, 0x04, 4).unwrap();
    guard.adopt(vf, Kind::PeerEndpoint).unwrap();
    assert!(guard.write_u16(vf, ats + 6, 0).is_err());
    let exp = cap(&bus, vf, EXP);
    assert!(guard.write_u16(vf, exp + 8, 0x8000).is_err());
    assert!(guard.write_u16(vf, 0x04, 0).is_err());
}

#[test]
fn t17_shutdown_after_freeze() {
    let bus = live(Kind::Bridge);
    let (kept, other) = (
        kho_hal::Sbdf::new(0, 1, 0, 0).unwrap(),
        kho_hal::Sbdf::new(0, 2, 0, 0).unwrap(),
    );
    for function in [kept, other] {
        bus.add_behind(HERE, function, endpoint());
        bus.write_u16(function, 0x04, 6).unwrap();
    }
    let guard = guarded(&bus, Kind::Bridge, State::Frozen);
    guard.prepare(kept, Kind::Endpoint).unwrap();
    guard.freeze(kept).unwrap();
    let off = |function| {
        let command = guard.read_u16(function, 0x04).unwrap();
        guard.write_u16(function, 0x04, command & !4)
    };
    assert!(off(kept).is_err() && off(HERE).is_err());
    off(other).unwrap();
    let masters = [HERE, kept, other].map(|f| bus.peek(f, at(0x04, Width::U16)) & 4);
    assert_eq!(masters, [4, 4, 0]);
}

#[test]
fn t20_every_reset_is_refused() {
    let bus = live(Kind::PeerEndpoint);
    let offsets = [AF, EXP, PM].map(|id| cap(&bus, HERE, id));
    let guard = guarded(&bus, Kind::PeerEndpoint, State::Updated);
    // A vendor's own: the driver knows it.
    let vendor = 0xf0;
    guard
        .add_rule(HERE, vendor, 1, "vendor reset", "resets the engine")
        .unwrap();
    let writes = bus.writes();
    let [af, exp, pm] = offsets;
    let control = guard.read_u16(HERE, exp + 8).unwrap();
    refused(
        "AF Control: Function Level Reset",
        guard.write_u8(HERE, af + 4, 1),
    );
    let flr = "Device Control: Function Level Reset";
    refused(flr, guard.write_u16(HERE, exp + 8, control | 0x8000));
    refused("PMCSR: PowerState", guard.write_u16(HERE, pm + 4, 3));
    refused("BIST: Start", guard.write_u8(HERE, 0x0f, 0x40));
    refused("vendor reset", guard.write_u32(HERE, vendor, 1));
    assert_eq!(bus.writes(), writes);

    let bus = live(Kind::Bridge);
    let (exp, dpc) = (cap(&bus, HERE, EXP), cap(&bus, HERE, DPC));
    let guard = guarded(&bus, Kind::Bridge, State::Frozen);
    let writes = bus.writes();
    refused(
        "Bridge Control: Secondary Bus Reset",
        guard.write_u16(HERE, 0x3e, 0x40),
    );
    refused(
        "Link Control: Link Disable",
        guard.write_u16(HERE, exp + 0x10, 0x10),
    );
    refused(
        "Link Control: Retrain Link",
        guard.write_u16(HERE, exp + 0x10, 0x20),
    );
    refused(
        "Slot Control: power, interlock",
        guard.write_u16(HERE, exp + 0x18, 0x400),
    );
    refused(
        "DPC Control: Software Trigger",
        guard.write_u16(HERE, dpc + 6, 0x40),
    );
    assert_eq!(bus.writes(), writes);
}

#[test]
fn t24_the_least_that_is_ever_refused() {
    let bus = live(Kind::Endpoint);
    let [pm, exp, acs, af, pri] = [PM, EXP, ACS, AF, PRI].map(|id| cap(&bus, HERE, id));
    let vc = cap(&bus, HERE, kho_hal::walk::CapId::Extended(2));
    let guard = guarded(&bus, Kind::Endpoint, State::Frozen);
    let mut expected = BTreeSet::new();
    let mut expect = |offset: u16, bits: u32| {
        let bits = bits << (8 * (offset & 3));
        let set = (0..32).filter(|bit| bits >> bit & 1 != 0);
        expected.extend(set.map(|bit| (offset & !3, bit)));
    };
    expect(0x04, 4); // Bus Master
    expect(pm + 4, 3); // PowerState
    expect(exp + 0x08, 0x03e0); // Max Payload, Extended Tag, Phantom Functions
    expect(exp + 0x28, 0x1000); // 10-bit tags
    expect(acs + 6, 0xffff);
    // Actions: BIST, function-level resets, PRI Reset, table loads of three channels.
    expect(0x0f, 0x40);
    expect(exp + 0x08, 0x8000);
    expect(af + 4, 1);
    expect(pri + 4, 2);
    expect(vc + 0x0c, 1);
    expect(vc + 0x14, 1 << 16);
    expect(vc + 0x20, 1 << 16);
    assert_eq!(refusals(&bus, &guard), expected);
}

#[test]
fn events_come_in_order_and_the_two_sides_are_independent() {
    let bus = live(Kind::Endpoint);
    let guard = Guarded::new(&bus);
    let kind = Kind::Endpoint;
    let wrong = |state| {
        Err(GuardError::State {
            function: HERE,
            state,
        })
    };
    assert_eq!(guard.freeze(HERE), wrong(State::Normal));
    assert_eq!(guard.finish(HERE), wrong(State::Normal));
    guard.cancel(HERE);
    guard.adopt(HERE, kind).unwrap();
    assert_eq!(guard.adopt(HERE, kind), wrong(State::Updated));
    guard.prepare(HERE, kind).unwrap();
    assert_eq!(guard.prepare(HERE, kind), wrong(State::Prepared));
    assert_eq!(
        guard.adopt(HERE, Kind::PeerEndpoint),
        Err(GuardError::Kind {
            function: HERE,
            known: kind
        })
    );
    guard.freeze(HERE).unwrap();
    assert_eq!(guard.state(HERE), State::Frozen, "incoming as well");
    guard.unfreeze(HERE);
    assert_eq!(guard.state(HERE), State::Updated);
    guard.finish(HERE).unwrap();
    assert!(!guard.is_guarded(HERE));
    guard.freeze(HERE).unwrap();
    assert_eq!(guard.freeze(HERE), wrong(State::Frozen));
    assert_eq!(guard.prepare(HERE, kind), wrong(State::Frozen));
    assert!(guard.is_guarded(HERE));
    assert_eq!(guard.add_rule(HERE, 0xf0, 1, "", ""), wrong(State::Frozen));
    guard.cancel(HERE);
    guard.cancel(HERE);
    assert_eq!(guard.state(HERE), State::Normal);
}

#[test]
fn what_cannot_be_preserved_is_told() {
    let unfit = |field| {
        Err(GuardError::Field(FieldError::Unfit {
            function: HERE,
            field,
        }))
    };
    // An endpoint with ATS on is another kind; a physical function with VFs is another.
    let guard_of = |bus: &SimBus, kind| Guarded::new(bus).prepare(HERE, kind);
    let bus = live(Kind::PeerEndpoint);
    assert_eq!(guard_of(&bus, Kind::Endpoint), unfit("ATS Control: Enable"));
    let bus = live(Kind::Physical);
    let enable = unfit("SR-IOV Control: VF Enable");
    assert_eq!(guard_of(&bus, Kind::PeerEndpoint), enable);
    // Taken for what it is not, its Bus Master would not be guarded.
    let bus = live(Kind::PeerEndpoint);
    let function = HERE;
    assert_eq!(
        guard_of(&bus, Kind::Physical),
        Err(GuardError::Field(FieldError::NotPhysical { function }))
    );
    // Powered down, also between PREPARE and FREEZE.
    let bus = live(Kind::Endpoint);
    let guard = guarded(&bus, Kind::Endpoint, State::Prepared);
    guard.write_u16(HERE, cap(&bus, HERE, PM) + 4, 3).unwrap();
    assert_eq!(guard.freeze(HERE), unfit("PMCSR: PowerState"));
    assert_eq!(guard.state(HERE), State::Prepared);
    // CXL, another header, a list that loops, nothing at all.
    let bus = SimBus::new();
    let mut function = endpoint();
    let cxl = function.extended(0x23, 1, 0x10);
    let function = function
        .with_register(cxl + 4, 4, 0x0010_1e98, 0, 0)
        .with_register(cxl + 0x0c, 2, 4, 0xffff, 0);
    bus.add(HERE, function);
    assert_eq!(
        guard_of(&bus, Kind::Endpoint),
        unfit("CXL Control: Cache, Mem")
    );
    // An IDE stream by itself, also where those before it say how long they are.
    for (offset, name) in [
        (0x0c, "Link IDE Stream: Enable"),
        (0x14, "Link IDE Stream: Enable"),
        (0x20, "Selective IDE Stream: Enable"),
        (0x20 + 20 + 24, "Selective IDE Stream: Enable"),
    ] {
        let bus = SimBus::new();
        let mut function = endpoint();
        let ide = function.extended(0x30, 1, 0x60);
        // Two links, two selective streams, the first with two address blocks.
        let function = function
            .with_register(ide + 4, 4, 0x0001_2003, 0, 0)
            .with_register(ide + 0x1c, 4, 2, 0, 0)
            .with_register(ide + offset, 4, 0xff00_0001, u32::MAX, 0);
        bus.add(HERE, function);
        assert_eq!(guard_of(&bus, Kind::Endpoint), unfit(name), "{offset:#x}");
        bus.write_u32(HERE, ide + offset, 0xff00_0000).unwrap();
        let guard = guarded(&bus, Kind::Endpoint, State::Frozen);
        refused(name, guard.write_u32(HERE, ide + offset, 1));
        guard.write_u32(HERE, ide + offset, 0x0100_0000).unwrap();
    }
    // A stream that is off, whatever its status says, and what looks like one behind the capability.
    let bus = SimBus::new();
    let mut function = endpoint();
    let ide = function.extended(0x30, 1, 0x14);
    let behind = function.extended(0x000b, 1, 0x10);
    let function = function
        .with_register(ide + 4, 4, 0x0001_2003, 0, 0)
        .with_register(ide + 0x10, 4, 3, 0, 0)
        .with_register(behind + 4, 4, 1, 0, 0)
        .with_register(behind + 0x0c, 4, 1, 0, 0);
    bus.add(HERE, function);
    assert_eq!(guard_of(&bus, Kind::Endpoint), Ok(()));
    let header = |found| {
        Err(GuardError::Field(FieldError::Header {
            function: HERE,
            found,
        }))
    };
    assert_eq!(guard_of(&bus, Kind::Bridge), header(0));
    bus.poke(HERE, at(0x41, Width::U8), 0x40);
    assert!(matches!(
        guard_of(&bus, Kind::Endpoint),
        Err(GuardError::Field(FieldError::Unreadable { .. }))
    ));
    assert_eq!(guard_of(&SimBus::new(), Kind::Endpoint), header(0x7f));
    bus.fail_next(100);
    assert!(guard_of(&bus, Kind::Endpoint).is_err());
}

#[test]
fn the_kind_to_take_a_function_for() {
    for kind in Kind::ALL {
        let bus = live(kind);
        let expected = match kind {
            Kind::Endpoint => Kind::PeerEndpoint,
            Kind::Physical => Kind::PeerPhysical,
            kind => kind,
        };
        assert_eq!(kind_of(&bus, HERE), Ok(expected));
        guarded(&bus, expected, State::Updated);
    }
    // One whose virtual functions are off, whatever else is on.
    for control in [0, 0x18] {
        let bus = live(Kind::Physical);
        let offset = cap(&bus, HERE, SRIOV) + 8;
        bus.poke(HERE, at(offset, Width::U16), control);
        assert_eq!(kind_of(&bus, HERE), Ok(Kind::PeerEndpoint));
    }
    // What is not PCI Express has no extended capabilities, whatever answers there.
    let bus = SimBus::new();
    let mut function = SimFunction::endpoint(1, 2);
    let at = function.extended(0x10, 1, 0x40);
    bus.add(HERE, function.with_register(at + 8, 2, 1, 0, 0));
    assert_eq!(kind_of(&bus, HERE), Ok(Kind::PeerEndpoint));
    let absent = FieldError::Header {
        function: HERE,
        found: 0x7f,
    };
    assert_eq!(kind_of(&SimBus::new(), HERE), Err(absent));
}

#[test]
fn a_driver_adds_and_never_takes_away() {
    let bus = live(Kind::Endpoint);
    let guard = guarded(&bus, Kind::Endpoint, State::Updated);
    let exp = cap(&bus, HERE, EXP);
    for offset in [0x04, 0x10, exp + 8, 0xf1, 0x1000] {
        assert!(matches!(
            guard.add_rule(HERE, offset, 0xff, "mine", "because"),
            Err(GuardError::NotVendor { .. })
        ));
    }
    guard
        .add_rule(HERE, 0xf8, 0xff00, "mine", "because")
        .unwrap();
    // Bits beside a field of the table, in its dword.
    let pm = cap(&bus, HERE, PM) + 4;
    assert!(
        guard
            .add_rule(HERE, pm, 0x0100_8000, "mine", "because")
            .is_err()
    );
    guard
        .add_rule(HERE, pm, 0x0100_0000, "data", "because")
        .unwrap();
    refused("data", guard.write_u32(HERE, pm, 0x0100_0008));
    refused("mine", guard.write_u16(HERE, 0xf8, 0x0100));
    guard.write_u8(HERE, 0xf8, 0x77).unwrap();
    refused("Command: Bus Master", guard.write_u16(HERE, 0x04, 0));
    guard.finish(HERE).unwrap();
    guard.write_u16(HERE, 0xf8, 0x0100).unwrap();
}

/// A pointer that leads to ones or zeros ends the extended list in the middle: what it would have
/// named is not known, so the function is refused.
#[test]
fn a_list_with_a_hole_is_not_complete() {
    for hole in [0, u32::MAX] {
        let bus = live(Kind::PeerEndpoint);
        let offset = cap(&bus, HERE, ATS);
        bus.poke(HERE, at(offset, Width::U32), hole);
        // ATS is on, which an endpoint must not have.
        let prepared = Guarded::new(&bus).prepare(HERE, Kind::Endpoint);
        let function = HERE;
        let unreadable = FieldError::Unreadable { function, offset };
        assert_eq!(prepared, Err(GuardError::Field(unreadable)));
    }
}

/// "ATS on" says nothing about the unit, and "PRI on" nothing about how many requests are out.
#[test]
fn t12_the_unit_and_the_allocation_are_confirmed_too() {
    let bus = live(Kind::PeerEndpoint);
    let guard = guarded(&bus, Kind::PeerEndpoint, State::Updated);
    let on = [Setting::Ats, Setting::Pri, Setting::Pasid].map(|setting| setting.to(1));
    guard.set(HERE, &on).unwrap();
    for (field, request) in [
        (
            "ATS Control: Smallest Translation Unit",
            Setting::AtsUnit.to(1),
        ),
        (
            "Outstanding Page Request Allocation",
            Setting::PriAllocation.to(16),
        ),
    ] {
        let function = HERE;
        assert_eq!(
            guard.finish(HERE),
            Err(GuardError::Unconfirmed { function, field })
        );
        guard.set(HERE, &[request]).unwrap();
    }
    guard.finish(HERE).unwrap();
}

/// A capability that starts inside another's fixed part would take its fields off the guard.
#[test]
fn capabilities_that_overlap_are_refused() {
    let bus = SimBus::new();
    bus.add(
        HERE,
        SimFunction::endpoint(1, 2).with_pm(true).with_express(0),
    );
    let exp = cap(&bus, HERE, EXP);
    let mut last = 0x34;
    loop {
        let next = bus.peek(HERE, at(last, Width::U8)) as u16;
        if next == 0 {
            break;
        }
        last = next + 1;
    }
    Guarded::new(&bus).prepare(HERE, Kind::Endpoint).unwrap();
    // The last one points at Device Control, whose low byte is a number then.
    bus.poke(HERE, at(last, Width::U8), u32::from(exp) + 8);
    bus.write_u16(HERE, exp + 8, 0x0009).unwrap();
    let (function, offset) = (HERE, exp + 8);
    let overlap = GuardError::Field(FieldError::Unreadable { function, offset });
    let prepared = Guarded::new(&bus).prepare(HERE, Kind::Endpoint);
    assert_eq!(prepared, Err(overlap));
}

/// The same in either list, as far as every function has the capability's fields.
#[test]
fn a_capability_between_the_fields_of_another_is_refused() {
    for (kind, id, places) in [
        (Kind::Endpoint, PM, [4].as_slice()),
        (Kind::Endpoint, EXP, &[4, 8]),
        (Kind::Endpoint, ACS, &[4]),
        (Kind::PeerEndpoint, ATS, &[4]),
        (Kind::Physical, SRIOV, &[0x08, 0x10, 0x20, 0x24, 0x38]),
    ] {
        for place in places {
            let bus = live(kind);
            let around = cap(&bus, HERE, id);
            let offset = around + place;
            let pointer = u32::from(offset);
            // A vendor's, between this one and the next in the list.
            if let CapId::Standard(_) = id {
                let next = bus.peek(HERE, at(around + 1, Width::U8));
                bus.poke(HERE, at(around + 1, Width::U8), pointer);
                bus.poke(HERE, at(offset, Width::U16), next << 8 | 0x09);
            } else {
                let header = bus.peek(HERE, at(around, Width::U32));
                let changed = header & 0x000f_ffff | pointer << 20;
                bus.poke(HERE, at(around, Width::U32), changed);
                let inside = header & 0xfff0_0000 | 0x0001_000b;
                bus.poke(HERE, at(offset, Width::U32), inside);
            }
            let function = HERE;
            let overlap = FieldError::Unreadable { function, offset };
            let found = for_each_field(&bus, HERE, kind, |_| {});
            assert_eq!(found, Err(overlap), "{id:?} + {place:#x}");
        }
    }
}

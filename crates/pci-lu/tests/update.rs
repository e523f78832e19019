//! Whole updates on a simulated machine: tests 2, 3, 7 to 14, 16, 17, 21 and 25 of the policy.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/pci.rs"]
mod pci;

use std::collections::BTreeSet;

use kho_abi::pci::{functions, v2};
use kho_hal::sim::pci::{Record, SimBus, SimFunction};
use kho_hal::sim::{Faulty, SimMemory};
use kho_hal::walk::CapId;
use kho_hal::{PciConfigAccess, PciError, PhysMem, Sbdf, Width};
use kho_pci_lu::setup::{Past, Phase, Survey};
use kho_pci_lu::{
    BarError, Bars, BusNumbers, Facts, GuardError, Guarded, Kind, OutgoingForm, PreserveError,
    Registry, SetError, Setting, State, UpdateError,
};
use machine::*;
use oracle::Oracle;
use proptest::prelude::*;
use zerocopy::IntoBytes;

const V2: OutgoingForm = OutgoingForm::V2;

/// NVME[0] with translation, both virtual functions, and all above them.
fn world() -> (Bus, Devices, Vec<Sbdf>) {
    let (bus, mut devices) = machine();
    make_peer(bus, &mut devices, NVME[0]);
    (bus, devices, vec![NVME[0], VF[0], VF[2]])
}

fn peek(bus: Bus, function: Sbdf, offset: u16, width: Width) -> u32 {
    bus.peek(function, pci::at(offset, width))
}

/// The dword-aligned places that these writes touch, with the function.
fn places(writes: &[Record], function: Sbdf) -> BTreeSet<u16> {
    let of = writes.iter().filter(|write| write.function == function);
    of.map(|write| write.at.offset()).collect()
}

/// Finishes everything, as IOMMU and drivers do.
fn finish_all(
    registry: &Registry<Bus>,
    updated: kho_pci_lu::Updated<Bus>,
    devices: &Devices,
    owned: &[Sbdf],
) {
    for &function in owned {
        if devices[&function].kind == Kind::PeerEndpoint {
            registry.config().set(function, &PEER).unwrap();
        }
        let _ = updated.finish(function).unwrap();
    }
    updated.close().unwrap();
}

#[test]
fn t02_after_finish_the_log_is_that_of_a_cold_device() {
    let (bus, devices, owned) = world();
    let (registry, updated, _) = update(bus, bus, &devices, &owned);
    let live = writes(bus);
    finish_all(&registry, updated, &devices, &owned);
    // The same hardware, in the same state, without a past.
    let (other, ..) = world();
    for write in &live {
        other.write(write.function, write.at, write.value).unwrap();
    }
    assert_eq!(all_of(bus), all_of(other));
    let cold = Registry::new(other);
    for (bus, registry) in [(bus, &registry), (other, &cold)] {
        bus.record(true);
        for &function in devices.keys().filter(|f| !VF.contains(f)) {
            registry.config().init(function, &[]).unwrap();
            // And what a driver writes by itself.
            for offset in [0x04, 0x10, 0x14] {
                registry.config().write_u32(function, offset, 7).unwrap();
            }
        }
    }
    let (warm, cold) = (writes(bus), writes(other));
    let differ = |one: &[Record], other: &[Record]| {
        let only = one.iter().filter(|write| !other.contains(write));
        only.map(|write| (write.function, write.at.offset()))
            .collect::<BTreeSet<_>>()
    };
    // What is adopted for life: ACS of what was preserved, which a cold boot would set to all that
    // is supported.
    let acs = |function| (function, pci::cap(bus, function, pci::ACS) + 6);
    let adopted: BTreeSet<_> = [NVME[0], PF].map(acs).into();
    assert_eq!(differ(&warm, &cold), BTreeSet::new());
    assert_eq!(differ(&cold, &warm), adopted);
    assert_eq!(warm.len() + adopted.len(), cold.len());
}

#[test]
fn t03_who_is_not_in_the_record_sees_a_cold_boot() {
    let (bus, devices, _) = world();
    let (_, _, _) = update(bus, bus, &devices, &[NVME[0]]);
    let live = writes(bus);
    let (other, ..) = world();
    other.record(true);
    Boot::run(&Registry::new(other)).unwrap();
    let cold = writes(other);
    let preserved = [ROOT, UP, DOWN[0], NVME[0]];
    let others = |writes: &[Record]| {
        let mut writes = writes.to_vec();
        // Bus numbers stay everywhere as long as anything is incoming: DOWN[1] has its own.
        writes.retain(|w| {
            !preserved.contains(&w.function) && (w.function, w.at.offset()) != (DOWN[1], 0x18)
        });
        writes
    };
    assert_eq!(others(&live), others(&cold));
    assert!(others(&live).len() > 50);
    assert!(live.len() < cold.len());
}

#[test]
fn t07_sizes_come_from_the_record() {
    let (bus, devices, owned) = world();
    let (_, _, boot) = update(bus, bus, &devices, &owned);
    let log = writes(bus);
    for function in [ROOT, UP, DOWN[0], NVME[0], PF] {
        assert_eq!(boot.bars[&function], devices[&function].bars.unwrap());
        let sriov = pci::find_cap(bus, function, pci::SRIOV);
        for offset in places(&log, function) {
            assert!(!(0x10..0x3c).contains(&offset), "{function} {offset:#x}");
            assert!(sriov.is_none_or(|at| !(at + 0x24..at + 0x3c).contains(&offset)));
        }
        let memory = |w: &&Record| w.function == function && w.at.offset() == 4;
        assert!(log.iter().filter(memory).all(|w| w.value & 2 != 0));
    }
    let found = boot.bars[&NVME[0]];
    assert_eq!((found.bars, found.rom), ([20, 0, 14, 0, 0, 0], 16));
    assert_eq!(boot.bars[&PF].vf_bars, [14, 0, 20, 0, 0, 0]);
    // Who is not in the record was asked, with ones.
    let asked = |w: &Record| w.function == OTHER && w.at.offset() == 0x10 && w.value == u32::MAX;
    assert!(log.iter().any(asked));
    assert_eq!(boot.bars[&OTHER], devices[&OTHER].bars.unwrap());
}

/// A record of one function, and facts with these sizes beside it.
fn with_sizes(
    memory: &SimMemory,
    bus: Bus,
    function: Sbdf,
    bars: Option<Bars>,
) -> kho_core::BootData {
    let facts = Facts {
        kind: Kind::PeerEndpoint,
        identity: bus.read_u32(function, 0).unwrap(),
        class: bus.read_u32(function, 8).unwrap(),
        bars,
    };
    let known = facts.ser(function);
    let entry = v2::PciDevSer {
        domain: 0.into(),
        bdf: function.bdf().into(),
        refcount: 1.into(),
    };
    common::hand_over(memory, |tracker| {
        let object = |name, first: u64, entry: &[u8]| {
            let [header, block] = [0; 2].map(|_| tracker.alloc_preserved(4096).unwrap().0);
            let words = [first, block.as_u64()];
            tracker.mem().write(header, words.as_bytes()).unwrap();
            let block_of_one = [[0u64, 1].as_bytes(), entry].concat();
            tracker.mem().write(block, &block_of_one).unwrap();
            (name, header.as_u64())
        };
        vec![
            object(v2::NAME, 1 << 32 | 2, entry.as_bytes()),
            object(functions::NAME, 1, known.as_bytes()),
        ]
    })
}

#[test]
fn t07_sizes_that_are_missing_or_wrong() {
    let size = |bars: Bars| Some(bars);
    let right = machine().1[&OTHER].bars.unwrap();
    let with = |change: fn(&mut Bars)| {
        let mut bars = right;
        change(&mut bars);
        size(bars)
    };
    let function = OTHER;
    let misfit = |offset, log2| BarError::Misfit {
        function,
        offset,
        log2,
    };
    for (bars, error) in [
        (None, BarError::Unknown { function }),
        (
            with(|b| b.bars[0] = 21),
            BarError::Resizable {
                function,
                index: 0,
                found: 20,
                log2: 21,
            },
        ),
        (with(|b| b.bars[0] = 0), misfit(0x10, 0)),
        (with(|b| b.bars[0] = 63), misfit(0x10, 63)),
        (with(|b| b.bars[1] = 4), misfit(0x10, 20)),
        (with(|b| b.bars[2] = 15), misfit(0x18, 15)),
        (with(|b| b.bars[2] = 25), misfit(0x18, 25)),
        (with(|b| b.bars[2] = 0), misfit(0x18, 0)),
        (with(|b| b.bars[2] = 3), misfit(0x18, 3)),
        (with(|b| b.rom = 10), misfit(0x30, 10)),
        (with(|b| b.vf_bars[0] = 14), BarError::Unknown { function }),
    ] {
        let (bus, mut devices) = machine();
        let mut memory = common::memory();
        let boot = with_sizes(&memory, bus, function, bars);
        let registry = Registry::new(bus);
        let _received = receive(&mut memory, boot, &registry);
        registry.set_up(function).unwrap();
        let writes = bus.writes();
        assert_eq!(registry.bars(function), Err(UpdateError::Bars(error)));
        // Sizes that cannot be right are not handed over, either.
        devices.get_mut(&function).unwrap().bars = bars;
        let old = Registry::new(bus);
        open(&common::memory(), &old, V2, |outgoing, luo, _| {
            let tracker = outgoing.tracker();
            old.preserve(tracker, &find(&devices), function).unwrap();
            let frozen = freeze(outgoing, luo);
            assert_eq!(frozen.is_err(), bars.is_some());
        });
        assert_eq!(old.refused(), bars.map(|_| error.into()));
        assert_eq!(bus.writes(), writes, "no invitation to ask");
    }
}

/// Sizing leaves everything as it was, also where an access fails; and it is not done while virtual
/// functions are on.
#[test]
fn t07_sizing_of_a_cold_function_puts_everything_back() {
    let (bus, devices) = machine();
    let space = all_of(bus);
    let registers = (0..0x1000).step_by(4).map(|at| pci::at(at, Width::U32));
    let registers: Vec<_> = registers.map(|at| (at, bus.peek(OTHER, at))).collect();
    let flaky = Faulty::new(bus);
    let mut lost = 0;
    for n in 0.. {
        flaky.fail_at(Some(n));
        let calls = flaky.calls();
        let probed = Bars::probe(&flaky, OTHER);
        if flaky.calls() - calls <= n {
            assert_eq!(probed, Ok(devices[&OTHER].bars.unwrap()));
            break;
        }
        // Only where what fails is the write that puts a value back, that value is lost.
        lost += usize::from(all_of(bus) != space);
        for &(at, value) in &registers {
            bus.poke(OTHER, at, value);
        }
    }
    assert_eq!(all_of(bus), space);
    // Four BARs of two that are in use, the ROM, and Command: those that do not hold zero.
    assert!((1..=6).contains(&lost), "{lost}");
    let function = PF;
    assert_eq!(Bars::probe(bus, PF), Err(BarError::Unknown { function }));
    assert_eq!(all_of(bus), space);
}

/// The last BAR says that it has an upper half, and there is none.
#[test]
fn t07_a_bar_without_its_other_half() {
    let bus = SimBus::new();
    let function = SimFunction::endpoint(1, 2).with_bar32(0, 12);
    let function = function.with_register(0x24, 4, 0x0c, 0xffff_0000, 0);
    bus.add(pci::HERE, function);
    let bars = Bars::probe(&bus, pci::HERE).unwrap();
    assert_eq!(bars.bars, [12, 0, 0, 0, 0, 0]);
    let misfit = BarError::Misfit {
        function: pci::HERE,
        offset: 0x24,
        log2: 0,
    };
    assert_eq!(bars.check(&bus, pci::HERE), Err(misfit));
}

#[test]
fn t08_bus_numbers_are_inherited() {
    let (bus, devices, owned) = world();
    let (registry, _updated, boot) = update(bus, bus, &devices, &owned);
    let log = writes(bus);
    for bridge in [ROOT, UP, DOWN[0], DOWN[1]] {
        assert!(
            places(&log, bridge)
                .iter()
                .all(|o| !(0x18..0x1b).contains(o))
        );
    }
    assert_eq!(boot.closed, []);
    assert_eq!(
        registry.bus_numbers(DOWN[1], 4..=4),
        Ok(BusNumbers::Inherited(4..=4)),
        "not in the record, and kept all the same"
    );
}

#[test]
fn t08_bus_numbers_that_cannot_be() {
    // A bridge that nobody preserves, on the bus of one that is incoming.
    for numbers in [
        0x0002_0200_u32,
        0x0003_0402,
        0x0009_0502,
        0x0003_0302,
        0x0004_0401,
    ] {
        let (bus, devices, owned) = world();
        bus.poke(DOWN[1], pci::at(0x18, Width::U32), 0x4000_0000 | numbers);
        let (registry, updated, boot) = update(bus, bus, &devices, &owned);
        let log = writes(bus);
        assert_eq!(boot.closed, [DOWN[1]], "{numbers:#x}");
        let cleared = 0x4000_0000 | numbers & 0xff;
        assert_eq!(peek(bus, DOWN[1], 0x18, Width::U32), cleared);
        assert!(
            !boot.settings.contains_key(&NVME[1]),
            "nothing below is scanned"
        );
        for bridge in [ROOT, UP, DOWN[0]] {
            assert!(!places(&log, bridge).contains(&0x18), "no new numbers");
        }
        drop((registry, updated));
    }
    // One that is incoming is not written to, and what is below it is missing.
    let (bus, devices, owned) = world();
    let mut memory = common::memory();
    let boot = hand_over(&memory, &Registry::new(bus), V2, &devices, &owned);
    bus.poke(DOWN[0], pci::at(0x19, Width::U8), 0);
    let registry = Registry::new(bus);
    let received = receive(&mut memory, boot, &registry);
    bus.record(true);
    let boot = Boot::run(&registry).unwrap();
    assert_eq!(boot.closed, [DOWN[0]]);
    assert!(!places(&writes(bus), DOWN[0]).contains(&0x18));
    let refused = received.verify(&find(&devices)).unwrap_err();
    assert_eq!(refused.error, UpdateError::Missing { function: NVME[0] });
    // Without an update they are the caller's.
    let free = Registry::new(bus).bus_numbers(DOWN[0], 1..=2);
    assert_eq!(free, Ok(BusNumbers::Free));
}

/// What software may believe of a function, read by hand: setting, which of them, capability, offset,
/// shift, mask.
type Copied = (Setting, u16, Option<CapId>, u16, u32, u32);

const COPIES: &[Copied] = &[
    (Setting::BusMaster, 0, None, 0x04, 2, 1),
    (Setting::Memory, 0, None, 0x04, 1, 1),
    (Setting::BusNumbers, 0, None, 0x18, 0, 0x00ff_ffff),
    (Setting::MemoryWindow, 0, None, 0x20, 0, u32::MAX),
    (Setting::PrefetchWindow, 0, None, 0x24, 0, u32::MAX),
    (Setting::PrefetchUpper, 1, None, 0x2c, 0, u32::MAX),
    (Setting::PowerState, 0, Some(pci::PM), 4, 0, 3),
    (Setting::MaxPayload, 0, Some(pci::EXP), 8, 5, 7),
    (Setting::MaxReadRequest, 0, Some(pci::EXP), 8, 12, 7),
    (Setting::AriForwarding, 0, Some(pci::EXP), 0x28, 5, 1),
    (Setting::Acs, 0, Some(pci::ACS), 4, 16, 0xffff),
    (Setting::Ats, 0, Some(pci::ATS), 4, 31, 1),
    (Setting::AtsUnit, 0, Some(pci::ATS), 4, 16, 0x1f),
    (Setting::Pri, 0, Some(pci::PRI), 4, 0, 1),
    (Setting::PriAllocation, 0, Some(pci::PRI), 12, 0, u32::MAX),
    (Setting::Pasid, 0, Some(pci::PASID), 4, 16, 7),
    (Setting::VfEnable, 0, Some(pci::SRIOV), 8, 0, 1),
    (Setting::VfMemory, 0, Some(pci::SRIOV), 8, 3, 1),
    (Setting::NumVfs, 0, Some(pci::SRIOV), 0x10, 0, 0xffff),
    (Setting::VfPlaces, 0, Some(pci::SRIOV), 0x14, 0, u32::MAX),
    (Setting::VfPageSize, 0, Some(pci::SRIOV), 0x20, 0, u32::MAX),
    (Setting::VfBar, 0, Some(pci::SRIOV), 0x24, 0, u32::MAX),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn t09_every_copy_equals_the_hardware(
        payload in 0u16..4, read_request in 0u16..6, command in 0u16..0x800,
        acs in 0u16..0x60, ari in any::<bool>(), unit in 0u16..32, translation in any::<bool>(),
        window in 0u32..0x1000, vfs in 1u16..=4, vf_page in 0u32..3, vf_bar in 1u32..0xfff,
    ) {
        let (bus, mut devices) = machine();
        let set = |function, offset, value| bus.write_u16(function, offset, value).unwrap();
        for function in [ROOT, UP, DOWN[0], NVME[0], PF, OTHER] {
            let exp = pci::cap(bus, function, pci::EXP);
            set(function, exp + 8, payload << 5 | read_request << 12 | 0x0910);
            set(function, pci::cap(bus, function, pci::ACS) + 6, acs);
            set(function, 4, command & 0x547 | 6);
        }
        set(ROOT, pci::cap(bus, ROOT, pci::EXP) + 0x28, if ari { 0x20 } else { 0 });
        for bridge in [ROOT, UP, DOWN[0]] {
            bus.write_u32(bridge, 0x20, window << 4 | (window + 1) << 20).unwrap();
        }
        if translation {
            make_peer(bus, &mut devices, NVME[0]);
            set(NVME[0], pci::cap(bus, NVME[0], pci::ATS) + 6, 0x8000 | unit);
        }
        let sriov = pci::cap(bus, PF, pci::SRIOV);
        set(PF, sriov + 8, 0);
        bus.write_u32(PF, sriov + 0x20, 1 << (4 * vf_page)).unwrap();
        bus.write_u32(PF, sriov + 0x24, vf_bar << 20).unwrap();
        set(PF, sriov + 0x10, vfs);
        set(PF, sriov + 8, 9);
        set(VF[0], 4, 4);
        devices.retain(|f, _| !VF.contains(f) || bus.functions().contains(f));
        let owned = [NVME[0], VF[0]];
        let oracle: &Oracle = Box::leak(Box::new(Oracle::new(bus, &devices, &owned)));
        let (registry, updated, boot) = update(bus, oracle, &devices, &owned);
        prop_assert_eq!(oracle.broken(), Vec::<String>::new());
        for (&function, settings) in &boot.settings {
            for &(setting, index, cap, offset, shift, mask) in COPIES {
                let base = cap.map_or(Some(0), |id| pci::find_cap(bus, function, id));
                let copy = settings.at(setting, index);
                if let (Some(base), Some(copy)) = (base, copy) {
                    let hardware = peek(bus, function, base + offset, Width::U32) >> shift & mask;
                    prop_assert_eq!(copy, hardware, "{} {}", function, setting);
                }
                prop_assert!(copy.is_none() || base.is_some(), "{} {}", function, setting);
            }
        }
        // The interesting ones are there at all.
        for (function, setting) in [
            (NVME[0], Setting::Ats), (NVME[0], Setting::Pasid), (NVME[0], Setting::Pri),
            (ROOT, Setting::AriForwarding), (ROOT, Setting::MemoryWindow), (PF, Setting::VfPlaces),
        ] {
            prop_assert!(boot.settings[&function].get(setting).is_some());
        }
        prop_assert_eq!(boot.settings[&PF].get(Setting::NumVfs), Some(vfs.into()));
        let finished = updated.finish(NVME[0]);
        prop_assert_eq!(finished.is_err(), translation, "translation waits to be confirmed");
        drop(registry);
    }
}

#[test]
fn t10_a_request_is_done_or_refused_with_what_is_kept() {
    for kind in Kind::ALL {
        let bus = pci::live(kind);
        let guard = Guarded::new(&bus);
        guard.adopt(pci::HERE, kind).unwrap();
        let before = guard.init(pci::HERE, &[]).unwrap();
        let (mut kept, mut done) = (0, 0);
        for request in before.iter() {
            let other = request.setting.to(request.value ^ 1).at(request.index);
            let writes = bus.writes();
            match guard.set(pci::HERE, &[other]) {
                Ok(after) => {
                    assert_eq!(after.at(other.setting, other.index), Some(other.value));
                    guard.set(pci::HERE, &[request]).unwrap();
                    done += 1;
                }
                Err(SetError::Kept { found, reason, .. }) => {
                    assert_eq!(found, request.value, "{kind:?} {}", request.setting);
                    assert!(!reason.is_empty());
                    assert_eq!(bus.writes(), writes, "{kind:?} {}", request.setting);
                    kept += 1;
                }
                // Bits that the simulated function does not have.
                Err(SetError::NotTaken { found, .. }) => {
                    assert_eq!(found, request.value, "{kind:?} {}", request.setting);
                }
                Err(error) => panic!("{kind:?} {}: {error}", request.setting),
            }
            // Whatever was answered: what is asked again is what is there.
            let now = guard.init(pci::HERE, &[]).unwrap();
            assert_eq!(now.at(request.setting, request.index), Some(request.value));
        }
        assert!(kept > 5 && done > 2, "{kind:?}: {kept} {done}");
    }
    // Not there, too large, out of reach.
    let bus = pci::live(Kind::Endpoint);
    let guard = Guarded::new(&bus);
    let (function, setting) = (pci::HERE, Setting::NumVfs);
    assert_eq!(
        guard.set(pci::HERE, &[setting.to(0)]),
        Err(SetError::Absent { function, setting })
    );
    let request = Setting::MaxPayload.to(8);
    assert_eq!(
        guard.set(pci::HERE, &[request]),
        Err(SetError::Range { function, request })
    );
    let flaky = Faulty::new(&bus);
    let guard = Guarded::new(&flaky);
    let asked = [Setting::MaxPayload.to(2), Setting::BusMaster.to(0)];
    for n in 0.. {
        let again = pci::live(Kind::Endpoint);
        for dword in (0..0x1000).step_by(4) {
            let at = pci::at(dword, Width::U32);
            bus.poke(function, at, again.peek(function, at));
        }
        flaky.fail_at(Some(n));
        let calls = flaky.calls();
        let set = guard.set(function, &asked);
        if flaky.calls() - calls <= n {
            assert!(set.is_ok());
            break;
        }
        // Success only with what was asked for, whatever failed; after an error, asking again does.
        flaky.fail_at(None);
        let settings = set.or_else(|_| guard.set(function, &asked)).unwrap();
        for request in asked {
            assert_eq!(settings.get(request.setting), Some(request.value));
        }
        assert_eq!(bus.peek(function, pci::at(4, Width::U16)) & 4, 0);
    }
}

#[test]
fn t11_what_is_run_twice_writes_nothing_the_second_time() {
    for kind in Kind::ALL {
        for state in [State::Normal, State::Updated] {
            let bus = pci::live(kind);
            // Something to clear, too.
            bus.poke(pci::HERE, pci::at(0x06, Width::U16), 0x0010);
            let guard = Guarded::new(&bus);
            if state == State::Updated {
                guard.adopt(pci::HERE, kind).unwrap();
            }
            let first = guard.init(pci::HERE, &[]).unwrap();
            let writes = bus.writes();
            assert!(writes > 0);
            assert_eq!(guard.init(pci::HERE, &[]).unwrap(), first);
            assert_eq!(bus.writes(), writes, "{kind:?} {state:?}");
        }
    }
    let (bus, devices, owned) = world();
    let (registry, updated, boot) = update(bus, bus, &devices, &owned);
    let writes = bus.writes();
    for (&function, settings) in &boot.settings {
        if function != OTHER && function.bus() != 4 {
            assert_eq!(registry.config().init(function, &[]).as_ref(), Ok(settings));
        }
    }
    assert_eq!(bus.writes(), writes);
    drop(updated);
}

#[test]
fn t12_target_states_of_translation() {
    let (bus, devices, owned) = world();
    let (registry, updated, _) = update(bus, bus, &devices, &owned);
    let function = NVME[0];
    let set = |requests: &[_]| registry.config().set(function, requests);
    let writes = bus.writes();
    // Nobody has confirmed it yet.
    let unconfirmed = |field| {
        Err(UpdateError::Guard(GuardError::Unconfirmed {
            function,
            field,
        }))
    };
    let finish = || updated.finish(function).map(drop);
    assert_eq!(finish(), unconfirmed("ATS Control: Enable"));
    for (request, field, found) in [
        (Setting::Ats.to(0), "ATS Control: Enable", 1),
        (
            Setting::AtsUnit.to(5),
            "ATS Control: Smallest Translation Unit",
            1,
        ),
        (Setting::Pri.to(0), "PRI Control: Enable", 1),
        (
            Setting::PriAllocation.to(1),
            "Outstanding Page Request Allocation",
            16,
        ),
        (Setting::Pasid.to(3), "PASID Control", 1),
    ] {
        match set(&[request]) {
            Err(SetError::Kept {
                field: refused,
                found: kept,
                ..
            }) => assert_eq!((refused, kept), (field, found)),
            other => panic!("{other:?}"),
        }
    }
    // A refused request confirms nothing, and neither does one for something else.
    set(&[Setting::BusMaster.to(1)]).unwrap();
    assert_eq!(finish(), unconfirmed("ATS Control: Enable"));
    // "ATS on, unit 1": what is there; no write.
    set(&PEER[..2]).unwrap();
    assert_eq!(finish(), unconfirmed("PRI Control: Enable"));
    assert!(registry.is_incoming(function) && registry.is_incoming(ROOT));
    set(&PEER[2..]).unwrap();
    assert_eq!(bus.writes(), writes);
    finish().unwrap();
    // Now another state is the IOMMU's to choose: off, and on with another unit. PASID and PRI go
    // off after ATS, and on before it.
    bus.record(true);
    let off = [Setting::Ats, Setting::Pri, Setting::Pasid].map(|s| s.to(0));
    set(&off).unwrap();
    let [ats, pri, pasid] = [pci::ATS, pci::PRI, pci::PASID].map(|id| pci::cap(bus, function, id));
    let order = [ats + 6, pri + 4, pasid + 6];
    let log = self::writes(bus);
    let of = |log: &[Record]| {
        let offsets = log.iter().map(|w| w.at.offset());
        offsets.filter(|o| order.contains(o)).collect::<Vec<_>>()
    };
    assert_eq!(of(&log), order);
    let on = [
        Setting::Ats.to(1),
        Setting::AtsUnit.to(5),
        Setting::Pri.to(1),
        Setting::Pasid.to(1),
    ];
    bus.record(true);
    set(&on).unwrap();
    let log = self::writes(bus);
    assert_eq!(of(&log), [pasid + 6, pri + 4, ats + 6]);
    assert_eq!(peek(bus, function, ats + 6, Width::U16), 0x8005);
}

#[test]
fn t13_interrupts_are_set_up_afresh() {
    let (bus, devices, owned) = world();
    let (registry, updated, _) = update(bus, bus, &devices, &owned);
    let function = NVME[0];
    let [msi, msix] = [pci::MSI, pci::MSIX].map(|id| pci::cap(bus, function, id));
    let log: Vec<_> = writes(bus)
        .into_iter()
        .filter(|w| w.function == function)
        .collect();
    let at = |offset| log.iter().position(|w| w.at.offset() == offset).unwrap();
    // MSI-X was on: INTx Disable is set first, then it goes off.
    assert!(at(0x04) < at(msix + 2));
    assert_eq!(log[at(0x04)].value & 0x400, 0x400);
    assert_eq!(peek(bus, function, msix + 2, Width::U16) & 0xc000, 0);
    assert_eq!(peek(bus, function, msi + 2, Width::U16) & 1, 0);
    // Vectors are set up freely before FINISH.
    let config = registry.config();
    for (offset, value) in [(msi + 4, 0xfee0_1000), (msi + 8, 1), (msi + 12, 0x41)] {
        config.write_u32(function, offset, value).unwrap();
        assert_eq!(peek(bus, function, offset, Width::U32) & value, value);
    }
    config.set(function, &[Setting::Msi.to(1)]).unwrap();
    assert_eq!(peek(bus, function, msi + 2, Width::U16) & 1, 1);
    config.set(function, &[Setting::Msi.to(0)]).unwrap();
    config.set(function, &[Setting::Msix.to(2)]).unwrap();
    assert_eq!(peek(bus, function, msix + 2, Width::U16) & 0xc000, 0x8000);
    // One interrupt for each function that somebody owns, as it becomes his; also for a port.
    config.set(function, &PEER).unwrap();
    for owner in [function, VF[0], UP, PF] {
        updated.own_interrupts(owner).unwrap();
        updated.own_interrupts(owner).unwrap();
    }
    let finish = |function| updated.finish(function).unwrap().interrupts;
    assert_eq!(finish(VF[0]), [VF[0]]);
    assert_eq!(finish(function), [function, UP]);
    assert_eq!(finish(VF[2]), [PF], "nobody owns the other");
    let gone = UpdateError::NotIncoming { function };
    assert_eq!(updated.own_interrupts(function), Err(gone));
    assert_eq!(updated.finish(function), Err(gone));
    updated.close().unwrap();
}

/// CANCEL has no interrupt to give: nothing was lost.
#[test]
fn t13_no_interrupt_on_cancel() {
    let (bus, devices, owned) = world();
    let memory = common::memory();
    let registry = Registry::new(bus);
    open(&memory, &registry, V2, |outgoing, luo, _| {
        for &function in &owned {
            let tracker = outgoing.tracker();
            registry
                .preserve(tracker, &find(&devices), function)
                .unwrap();
        }
        let writes = bus.writes();
        // Neither returns anything that names a function, and delivery is as it was.
        let (): () = freeze(outgoing, luo).unwrap();
        for &function in &owned {
            let tracker = outgoing.tracker();
            let (): () = registry.unpreserve(tracker, function).unwrap();
        }
        assert_eq!(bus.writes(), writes);
    });
    let msix = pci::cap(bus, NVME[0], pci::MSIX);
    assert_eq!(peek(bus, NVME[0], msix + 2, Width::U16) & 0x8000, 0x8000);
}

#[test]
fn t14_a_physical_function_with_live_virtual_ones() {
    let (bus, devices, owned) = world();
    let before = bus.functions();
    let oracle: &Oracle = Box::leak(Box::new(Oracle::new(bus, &devices, &owned)));
    let (registry, updated, boot) = update(bus, oracle, &devices, &owned);
    assert_eq!(oracle.broken(), Vec::<String>::new());
    let sriov = pci::cap(bus, PF, pci::SRIOV);
    for offset in places(&writes(bus), PF) {
        assert!(!(sriov..sriov + 0x40).contains(&offset), "{offset:#x}");
    }
    assert_eq!(bus.functions(), before, "the same IDs");
    for vf in VF {
        assert!(
            boot.settings.contains_key(&vf),
            "{vf} is found through its PF"
        );
        assert_eq!(registry.is_incoming(vf), owned.contains(&vf));
    }
    // A PF driver that wants another number, or gives up half-way.
    let set = |request| registry.config().set(PF, &[request]);
    for request in [
        Setting::NumVfs.to(2),
        Setting::NumVfs.to(0),
        Setting::VfEnable.to(0),
        Setting::VfMemory.to(0),
        Setting::VfAri.to(1),
        Setting::VfPageSize.to(2),
        Setting::VfBar.to(0),
        Setting::VfPlaces.to(0),
        Setting::MaxReadRequest.to(0),
    ] {
        assert!(
            matches!(set(request), Err(SetError::Kept { .. })),
            "{request:?}"
        );
    }
    assert_eq!(peek(bus, PF, sriov + 8, Width::U16) & 9, 9);
    // The number that is there is no change.
    set(Setting::NumVfs.to(4)).unwrap();
    // Before the last of its functions is finished, and after.
    let _ = updated.finish(VF[0]).unwrap();
    assert!(set(Setting::VfEnable.to(0)).is_err());
    let _ = updated.finish(VF[2]).unwrap();
    set(Setting::VfEnable.to(0)).unwrap();
    assert!(!bus.functions().contains(&VF[0]));
}

/// The port's own register and state decide, whatever the child's.
#[test]
fn t16_ari_forwarding_is_the_bridges() {
    let ari = |bus: Bus, bridge| {
        peek(
            bus,
            bridge,
            pci::cap(bus, bridge, pci::EXP) + 0x28,
            Width::U16,
        ) & 0x20
    };
    for on in [false, true] {
        let (bus, devices, owned) = world();
        let at = pci::cap(bus, ROOT, pci::EXP) + 0x28;
        bus.write_u16(ROOT, at, if on { 0x20 } else { 0 }).unwrap();
        let (registry, updated, boot) = update(bus, bus, &devices, &owned);
        // The child below has the ARI capability; what is noted is what the bridge holds.
        assert!(pci::find_cap(bus, NVME[0], CapId::Extended(0x0e)).is_some());
        assert_eq!(
            boot.settings[&ROOT].get(Setting::AriForwarding),
            Some(on.into())
        );
        let other = Setting::AriForwarding.to((!on).into());
        let set = |bridge, request| registry.config().set(bridge, &[request]);
        assert!(matches!(set(ROOT, other), Err(SetError::Kept { .. })));
        // The bridge above a child that nobody preserves is not incoming: written as on any boot.
        assert!(!registry.is_incoming(NVME[1]) && !registry.is_incoming(DOWN[1]));
        set(DOWN[1], Setting::AriForwarding.to(1)).unwrap();
        assert_eq!(ari(bus, DOWN[1]), 0x20);
        // The child is finished, the bridge is not, because of another below it.
        finish_all(&registry, updated, &devices, &owned);
        assert_eq!(registry.config().state(ROOT), State::Normal);
        // Adopted until FINISH: who asks, gets, and a boot does not put back what was.
        set(ROOT, other).unwrap();
        assert_eq!(ari(bus, ROOT) != 0, !on);
        registry.config().init(ROOT, &[]).unwrap();
        assert_eq!(ari(bus, ROOT) != 0, !on);
    }
}

/// ACS is adopted for the device's life: after FINISH, and when it comes back from a reset.
#[test]
fn t02_acs_is_kept_for_life() {
    let (bus, devices, owned) = world();
    let (registry, updated, _) = update(bus, bus, &devices, &owned);
    finish_all(&registry, updated, &devices, &owned);
    let acs = |f| peek(bus, f, pci::cap(bus, f, pci::ACS) + 6, Width::U16);
    for function in [NVME[0], ROOT] {
        let before = acs(function);
        assert_ne!(before, 0);
        bus.write_u16(function, pci::cap(bus, function, pci::ACS) + 6, 0)
            .unwrap();
        registry.config().init(function, &[]).unwrap();
        assert_eq!(acs(function), before, "{function}");
    }
    assert_eq!(acs(OTHER), 0x1d, "a cold boot turns on what is supported");
}

/// A life ends with the device: another one at its place is set up as on any boot, whether it is
/// noticed by what it reads as or said to be gone.
#[test]
fn t02_another_device_has_another_life() {
    let added = || {
        SimFunction::endpoint(0x1234, 0x5678)
            .with_bar32(0, 12)
            .with_express(0)
            .with_acs(0x5f)
    };
    let cold: Bus = Box::leak(Box::default());
    cold.add(OTHER, added());
    let expected = Registry::new(cold).config().init(OTHER, &[]).unwrap();
    for same in [false, true] {
        let (bus, devices) = machine();
        let (registry, updated, _) = update(bus, bus, &devices, &[OTHER]);
        registry.removed(OTHER);
        assert!(registry.is_incoming(OTHER), "it is not finished");
        let _ = updated.finish(OTHER).unwrap();
        updated.close().unwrap();
        assert!(registry.was_preserved(OTHER));
        bus.set_present(OTHER, false);
        if same {
            bus.add(OTHER, pci::endpoint());
            assert_eq!(registry.set_up(OTHER), Ok(false));
            assert!(registry.was_preserved(OTHER), "it came back");
            registry.removed(OTHER);
            assert!(!registry.was_preserved(OTHER));
            registry.config().init(OTHER, &[]).unwrap();
            let acs = peek(bus, OTHER, pci::cap(bus, OTHER, pci::ACS) + 6, Width::U16);
            assert_eq!(acs, 0x1d);
            continue;
        }
        bus.add(OTHER, added());
        assert_eq!(registry.set_up(OTHER), Ok(false));
        assert!(!registry.was_preserved(OTHER));
        assert_eq!(registry.config().init(OTHER, &[]).unwrap(), expected);
        assert_eq!(registry.bars(OTHER).unwrap().bars, [12, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn t17_shutdown_after_the_freeze() {
    let (bus, devices, owned) = world();
    let memory = common::memory();
    let oracle: &Oracle = Box::leak(Box::new(Oracle::new(bus, &devices, &owned)));
    let registry = Registry::new(oracle);
    hand_over(&memory, &registry, V2, &devices, &owned);
    let masters = |bus: Bus| -> Vec<_> {
        let on = |f: &&Sbdf| peek(bus, **f, 4, Width::U16) & 4 != 0;
        devices.keys().filter(on).copied().collect()
    };
    assert_eq!(masters(bus).len(), devices.len());
    for &function in devices.keys() {
        let command = registry.config().read_u16(function, 4).unwrap();
        let off = registry.config().write_u16(function, 4, command & !4);
        match off {
            Ok(()) | Err(PciError::Refused { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    // The PF's own DMA is not preserved.
    assert_eq!(masters(bus), [ROOT, VF[0], VF[2], UP, DOWN[0], NVME[0]]);
    assert_eq!(oracle.broken(), Vec::<String>::new());
}

#[test]
fn t21_what_is_read_is_not_assumed() {
    let (bus, devices, owned) = world();
    // A window of 32 bits only, and a serial number.
    bus.poke(UP, pci::at(0x24, Width::U32), 0xff00_f000);
    let (registry, updated, boot) = update(bus, bus, &devices, &owned);
    let serial = |function, half| boot.settings[&function].at(Setting::Serial, half);
    assert_eq!([serial(NVME[0], 0), serial(NVME[0], 1)], [Some(7), Some(0)]);
    assert_eq!(serial(UP, 0), None, "bug 2.2.4: no capability, no number");
    let wide = |bridge| boot.settings[&bridge].get(Setting::PrefetchWindow).unwrap() & 0xf;
    assert_eq!([wide(ROOT), wide(UP)], [1, 0], "bug 2.2.5");
    assert_eq!(boot.settings[&NVME[0]].get(Setting::PowerState), Some(0));
    drop((registry, updated));
    // Bug 2.2.6: also of a function that nobody preserves and that sleeps.
    let pm = pci::cap(bus, OTHER, pci::PM) + 4;
    bus.write_u16(OTHER, pm, 3).unwrap();
    let settings = Guarded::new(bus).init(OTHER, &[]).unwrap();
    assert_eq!(settings.get(Setting::PowerState), Some(3));
}

/// Writes do happen to a live function: what the policy calls cold is as after any boot.
#[test]
fn t25_cold_fields_of_a_live_function_are_written() {
    let (bus, devices, owned) = world();
    let aer = pci::cap(bus, NVME[0], CapId::Extended(1));
    bus.poke(NVME[0], pci::at(aer + 4, Width::U32), 0x4000);
    let exp = pci::cap(bus, NVME[0], pci::EXP);
    bus.poke(NVME[0], pci::at(exp + 0x0a, Width::U16), 0x000f);
    let pm = pci::cap(bus, NVME[0], pci::PM) + 4;
    bus.poke(NVME[0], pci::at(pm, Width::U16), 0x8108);
    let _ = update(bus, bus, &devices, &owned);
    assert_eq!(peek(bus, NVME[0], 4, Width::U16) & 0x0406, 0x0406);
    assert_eq!(peek(bus, NVME[0], aer + 4, Width::U32), 0);
    assert_eq!(peek(bus, NVME[0], exp + 0x0a, Width::U16) & 0xf, 0);
    assert_eq!(peek(bus, NVME[0], pm, Width::U16), 8);
    let written = places(&writes(bus), NVME[0]);
    assert!(written.is_superset(&[0x04, aer + 4, exp + 0x0a, pm].into()));
}

/// Rows 17, 29, 65, 67 and 68 of the list write no configuration space: what they are about is read,
/// or lies behind a BAR.
#[test]
fn rows_without_a_write() {
    let (bus, devices, owned) = world();
    let (registry, updated, boot) = update(bus, bus, &devices, &owned);
    let writes = bus.writes();
    let settings = |function| &boot.settings[&function];
    // 17: the MSI-X table is reached as long as Memory Space is on, which stays.
    assert_eq!(settings(NVME[0]).get(Setting::Memory), Some(1));
    assert!(registry.config().write_u16(NVME[0], 4, 0x0404).is_err());
    // 29: the serial number.
    assert_eq!(settings(NVME[0]).get(Setting::Serial), Some(7));
    // 65: the bridge's numbers are checked, and are what it has.
    assert_eq!(
        registry.bus_numbers(UP, 1..=4),
        Ok(BusNumbers::Inherited(2..=4))
    );
    // 67, 68: power state, width of the window.
    assert_eq!(settings(UP).get(Setting::PowerState), Some(0));
    assert_eq!(settings(UP).get(Setting::PrefetchWindow), Some(0x0001_0001));
    assert_eq!(bus.writes(), writes);
    drop(updated);
}

/// A driver that asks for one field, at any time, changes that one.
#[test]
fn what_nobody_asks_for_is_left_alone() {
    for live in [false, true] {
        let (bus, devices, owned) = world();
        let (registry, _updated, _) = update(bus, bus, &devices, &owned);
        let function = if live { NVME[0] } else { NVME[1] };
        let msix = pci::cap(bus, function, pci::MSIX) + 2;
        let config = registry.config();
        config.write_u16(function, msix, 0x8000).unwrap();
        config.write_u16(function, 4, 0x0146).unwrap();
        let space = all_of(bus);
        let settings = config.set(function, &[]).unwrap();
        assert_eq!(settings.get(Setting::Msix), Some(2));
        assert_eq!(all_of(bus), space);
        config
            .set(function, &[Setting::MaxReadRequest.to(1)])
            .unwrap();
        let changed = all_of(bus);
        let changed = changed.iter().zip(&space).filter(|(new, old)| new != old);
        assert_eq!(changed.count(), 1);
    }
}

/// Bits that a one clears, or that start something, are written as zero beside what is asked for.
#[test]
fn a_request_clears_and_starts_nothing_beside_it() {
    let (bus, ..) = world();
    let guard = Guarded::new(bus);
    let pm = pci::cap(bus, OTHER, pci::PM) + 4;
    bus.poke(OTHER, pci::at(pm, Width::U16), 0x8108);
    guard.set(OTHER, &[Setting::PowerState.to(1)]).unwrap();
    assert_eq!(peek(bus, OTHER, pm, Width::U16), 0x8109);
    // A device that reads back a bit that starts something.
    let pri = pci::cap(bus, OTHER, pci::PRI) + 4;
    bus.poke(OTHER, pci::at(pri, Width::U16), 2);
    bus.record(true);
    guard.set(OTHER, &[Setting::Pri.to(1)]).unwrap();
    let written: Vec<_> = writes(bus).iter().map(|w| w.value).collect();
    assert_eq!(written, [1]);
}

/// A field of 32 bits is written whole, and what shares a register with one of 16 bits stays.
#[test]
fn a_request_changes_its_field_and_no_other() {
    let bus = pci::live(Kind::PeerEndpoint);
    let guard = Guarded::new(&bus);
    let [ats, pri] = [pci::ATS, pci::PRI].map(|id| pci::cap(&bus, pci::HERE, id));
    let all = |value| (pri + 12, Width::U32, value);
    let half = |value| (ats + 6, Width::U16, value);
    for (request, (offset, width, expected)) in [
        (Setting::PriAllocation.to(0x0002_0003), all(0x0002_0003)),
        (Setting::PriAllocation.to(0x0004_0003), all(0x0004_0003)),
        (Setting::Ats.to(0), half(0x0001)),
        (Setting::AtsUnit.to(5), half(0x0005)),
        (Setting::Ats.to(1), half(0x8005)),
    ] {
        guard.set(pci::HERE, &[request]).unwrap();
        assert_eq!(bus.peek(pci::HERE, pci::at(offset, width)), expected);
    }
}

/// A plan says beforehand whether it will write: a state that is there already is none to write.
#[test]
fn t11_a_plan_without_differences_is_empty() {
    let bus = pci::live(Kind::PeerEndpoint);
    let survey = Survey::of(&bus, pci::HERE, Kind::PeerEndpoint).unwrap();
    for (request, empty) in [
        (None, true),
        (Some(Setting::Ats.to(1)), true),
        // To what a cold boot makes of it, and elsewhere.
        (Some(Setting::Ats.to(0)), false),
        (Some(Setting::AtsUnit.to(5)), false),
    ] {
        let requests = request.as_slice();
        let plan = survey.decide(Phase::Later, Past::None, requests).unwrap();
        assert_eq!(plan.is_empty(), empty, "{request:?}");
        let reads = bus.reads();
        let writes = bus.writes();
        plan.apply(&bus).unwrap();
        assert_eq!(bus.writes() == writes, empty);
        assert_eq!(bus.reads() == reads, empty);
    }
}

/// The oracle is no yes-man: each thing that DMA needs, taken away below the guard, breaks it.
#[test]
fn the_oracle_breaks() {
    let (express, acs) = (pci::EXP, pci::ACS);
    for (function, cap, offset, value, what) in [
        (NVME[0], None, 0x04, 0x0002, "Bus Master"),
        (UP, None, 0x04, 0x0002, "Bus Master"),
        (VF[2], None, 0x04, 0x0000, "Bus Master"),
        (NVME[0], None, 0x04, 0x0004, "target"),
        (NVME[0], None, 0x16, 0x0001, "target"),
        (DOWN[0], None, 0x18, 0x0400, "path"),
        (DOWN[0], None, 0x20, 0x0000, "path"),
        (DOWN[0], None, 0x3e, 0x0040, "path"),
        (DOWN[0], Some(express), 0x10, 0x0010, "path"),
        (ROOT, Some(express), 0x28, 0x0000, "identity"),
        (NVME[0], Some(pci::ATS), 6, 0x0001, "translation"),
        (NVME[0], Some(pci::ATS), 6, 0x8002, "translation"),
        (UP, Some(acs), 6, 0x0000, "translation"),
        (NVME[0], Some(pci::PM), 4, 0x0003, "power"),
        (UP, Some(express), 8, 0x2916, "payload and tags"),
        (PF, Some(pci::SRIOV), 8, 0x0000, "virtual functions"),
    ] {
        let (bus, devices, owned) = world();
        let oracle = Oracle::new(bus, &devices, &owned);
        let at = cap.map_or(0, |id| pci::cap(bus, function, id)) + offset;
        let before = peek(bus, function, at, Width::U16) as u16;
        oracle.write_u16(function, at, before).unwrap();
        assert_eq!(oracle.broken(), Vec::<String>::new());
        oracle.write_u16(function, at, value).unwrap();
        let broken = oracle.broken();
        assert_eq!(broken.len(), 1, "{function} {at:#x}");
        // A link that is down or a bridge that has other numbers hides what is below.
        let told = broken[0].contains(what) || broken[0].contains("identity");
        assert!(told, "{broken:?} for {what}");
    }
}

/// Two requests that contradict each other: one would be without effect.
#[test]
fn t10_requests_that_contradict_each_other() {
    let bus = pci::live(Kind::Endpoint);
    let guard = Guarded::new(&bus);
    let (on, off) = (Setting::BusMaster.to(1), Setting::BusMaster.to(0));
    let before = all_of(&bus);
    let function = pci::HERE;
    for requests in [[on, off], [off, on]] {
        let request = requests[1];
        let conflict = SetError::Conflict { function, request };
        assert_eq!(guard.set(function, &requests), Err(conflict));
    }
    assert_eq!(all_of(&bus), before);
    guard.set(function, &[on, on]).unwrap();
}

/// A driver may resize a BAR until FREEZE. Sizes that nobody has said are not handed over as known.
#[test]
fn t07_sizes_are_those_of_the_freeze() {
    let (bus, devices) = machine();
    let mut memory = common::memory();
    let old = Registry::new(bus);
    let (boot, bars) = open(&memory, &old, V2, |outgoing, luo, _| {
        let unknown = Err(PreserveError::Unknown { function: OTHER });
        assert_eq!(old.set_bars(OTHER, Bars::default()), unknown);
        let before = devices[&OTHER].bars.unwrap();
        old.preserve(outgoing.tracker(), &find(&devices), OTHER)
            .unwrap();
        let size = old.config().init(OTHER, &[]).unwrap();
        let size = size.get(Setting::BarSize).unwrap() + 1;
        old.config()
            .set(OTHER, &[Setting::BarSize.to(size)])
            .unwrap();
        let resizable = BarError::Resizable {
            function: OTHER,
            index: 0,
            found: 20 + size as u8,
            log2: before.bars[0],
        };
        freeze(outgoing, luo).unwrap_err();
        assert_eq!(old.refused(), Some(resizable.into()));
        assert_eq!(old.config().state(OTHER), State::Prepared);
        assert_eq!(old.set_bars(OTHER, before), Err(resizable.into()));
        let bars = Bars::probe(bus, OTHER).unwrap();
        old.set_bars(OTHER, bars).unwrap();
        let boot = jump(outgoing, luo);
        assert_eq!(old.set_bars(OTHER, bars), Err(PreserveError::Frozen));
        (boot, bars)
    });
    let registry = Registry::new(bus);
    let _received = receive(&mut memory, boot, &registry);
    registry.set_up(OTHER).unwrap();
    assert_eq!(registry.bars(OTHER), Ok(bars));
}

/// Nobody preserves a function whose list loops; a boot turns off what it finds, as on any boot.
#[test]
fn t03_odd_functions_that_nobody_preserves() {
    let bus = SimBus::new();
    let mut function = SimFunction::endpoint(1, 2).with_msi(false, false, 0);
    let vendor = function.capability(0x09, 4);
    bus.add(pci::HERE, function.with_express(0));
    let control = pci::cap(&bus, pci::HERE, pci::MSI) + 2;
    bus.write_u16(pci::HERE, control, 1).unwrap();
    // Its pointer leads back to itself.
    let next = pci::at(vendor + 1, Width::U8);
    bus.poke(pci::HERE, next, vendor.into());
    let guard = Guarded::new(&bus);
    let settings = guard.init(pci::HERE, &[]).unwrap();
    assert_eq!(settings.get(Setting::Msi).map(|msi| msi & 1), Some(0));
    assert_eq!(bus.peek(pci::HERE, pci::at(control, Width::U16)) & 1, 0);
    // To preserve it is another matter.
    assert!(guard.prepare(pci::HERE, Kind::Endpoint).is_err());
}

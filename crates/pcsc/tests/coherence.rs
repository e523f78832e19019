//! The promise: a cached read returns what the hardware would return, whatever happened before.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction, SriovShape};
use kho_hal::{Access, PciConfigAccess, Sbdf, Width};
use kho_pcsc::{Cached, Reset, Unlisted};
use proptest::prelude::*;

/// A root port with a slot; below it a physical function with everything, a second device that
/// needs ARI forwarding, and a switch port with one more device. Beside it a conventional device.
const PORT: Sbdf = Sbdf::from_bdf(0, 0x0008);
const PF: Sbdf = Sbdf::from_bdf(0, 0x0100);
const VF: Sbdf = Sbdf::from_bdf(0, 0x0180);
const SIBLING: Sbdf = Sbdf::from_bdf(0, 0x0108);
const SWITCH: Sbdf = Sbdf::from_bdf(0, 0x0101);
const DEEP: Sbdf = Sbdf::from_bdf(0, 0x0200);
const OLD: Sbdf = Sbdf::from_bdf(0, 0x0018);
const ALL: [Sbdf; 7] = [PORT, PF, VF, SIBLING, SWITCH, DEEP, OLD];

fn vf() -> SimFunction {
    SimFunction::virtual_function()
        .with_express(0)
        .with_msix(4, 0)
        .with_ari(0)
        .with_ats()
}

fn machine() -> SimBus {
    let bus = SimBus::new();
    let port = SimFunction::bridge(0x1b36, 0x000c, 1, 3)
        .with_pm(true)
        .with_msi(false, true, 1)
        .with_express(4)
        .with_ari_forwarding()
        .with_aer()
        .with_acs(0x5f)
        .with_dpc(true);
    let shape = SriovShape {
        total: 4,
        offset: [0x80, 0x80],
        stride: [2, 1],
        device: 0x10ca,
        template: vf(),
    };
    let pf = SimFunction::endpoint(0x8086, 0x10c9)
        .multifunction()
        .with_bar64(0, 24)
        .with_bar32(3, 14)
        .with_rom(16)
        .with_pm(false)
        .with_msi(true, true, 3)
        .with_msix(10, 3)
        .with_express(0)
        .with_aer()
        .with_serial(0x1234_5678_9abc_def0)
        .with_ari(1)
        .with_sriov(shape)
        .with_vf_resizable_bar(0xff)
        .with_ats()
        .with_pri()
        .with_pasid()
        .with_resizable_bar(0, true, 0xff)
        .with_ptm();
    let sibling = SimFunction::endpoint(0x144d, 0xa808)
        .with_bar64(0, 14)
        .with_pm(false)
        .with_vendor(0x14)
        .with_express(0)
        .slow_reset(2);
    let switch = SimFunction::bridge(0x104c, 0x8233, 2, 2)
        .multifunction()
        .with_pm(false)
        .with_express(6);
    let deep = SimFunction::endpoint(0x8086, 0x10d3)
        .with_bar32(0, 17)
        .with_msi(true, false, 0)
        .with_express(0);
    let old = SimFunction::conventional(0x1af4, 0x1000)
        .with_bist()
        .with_bar32(1, 12)
        .with_vpd()
        .with_msi(false, false, 0)
        .with_af()
        .with_backdoor(0xf0, 0x2c);
    bus.add(PORT, port);
    bus.add_behind(PORT, PF, pf);
    bus.add_behind(PORT, SIBLING, sibling);
    bus.add_behind(PORT, SWITCH, switch);
    bus.add_behind(SWITCH, DEEP, deep);
    bus.add(OLD, old);
    bus
}

#[derive(Clone, Debug)]
enum Op {
    Read(Sbdf, Access),
    Sweep(Sbdf),
    Write(Sbdf, Access, u32),
    /// A write that a rule is about, to a register that is surely there.
    Named(usize, u32),
    Add(Sbdf, bool),
    Forget(Sbdf),
    /// Status that the device changes by itself.
    Status(Sbdf, u16, u8),
    ResetOutside(Sbdf, bool),
    Pull(Sbdf),
    Switch(bool),
}

/// Function, capability (0 for none), offset in it, width, values that matter.
type Named = (Sbdf, u16, u16, Width, &'static [u32]);

const NAMED: &[Named] = &[
    (
        PORT,
        0,
        0x18,
        Width::U32,
        &[0x0003_0100, 0x0003_0200, 0, 0x0001_0100],
    ),
    (SWITCH, 0, 0x19, Width::U8, &[2, 3]),
    (PORT, 0, 0x3e, Width::U16, &[0x40, 0]),
    (SWITCH, 0, 0x3e, Width::U16, &[0x40, 0]),
    (PORT, 0x01, 4, Width::U16, &[3, 0]),
    (PF, 0x01, 4, Width::U16, &[3, 0]),
    (SIBLING, 0x01, 4, Width::U16, &[3, 0]),
    (SWITCH, 0x01, 4, Width::U16, &[3, 0]),
    (PF, 0x10, 8, Width::U16, &[0x8000, 0x2810]),
    (PF, 0x10, 8, Width::U32, &[0xffff_2810, 0x2850]),
    (VF, 0x10, 8, Width::U16, &[0x8000]),
    (SIBLING, 0x10, 9, Width::U8, &[0x80]),
    (PORT, 0x10, 0x10, Width::U16, &[0x10, 0, 0x20]),
    (PORT, 0x10, 0x18, Width::U16, &[0x400, 0]),
    (PORT, 0x10, 0x28, Width::U16, &[0x20, 0]),
    (OLD, 0x13, 4, Width::U8, &[1]),
    (OLD, 0x13, 4, Width::U16, &[1]),
    (OLD, 0, 0x14, Width::U32, &[u32::MAX, 0xfe00_0000]),
    (OLD, 0x05, 4, Width::U32, &[0xfee0_0000]),
    (OLD, 0x03, 2, Width::U16, &[4, 0x8004]),
    (OLD, 0, 0x0f, Width::U8, &[0x40]),
    (PF, 0x8010, 8, Width::U16, &[0, 1, 0x11, 0x10, 0x19]),
    (PF, 0x8010, 0x10, Width::U16, &[0, 1, 2, 4]),
    (PF, 0x8010, 0x20, Width::U32, &[1, 0x10, 0x400]),
    (PF, 0x8010, 0x24, Width::U32, &[u32::MAX, 0xfe00_0000]),
    (PF, 0x8010, 0x2c, Width::U32, &[u32::MAX, 0xfe00_0000]),
    (PF, 0x8024, 8, Width::U32, &[0x0222, 0x0522, 0x0022]),
    (PF, 0x8015, 8, Width::U32, &[0x0220, 0x0520, 0x0020]),
    (PF, 0, 0x10, Width::U32, &[u32::MAX, 0xfe30_0000]),
    (PF, 0x8013, 4, Width::U16, &[2, 1]),
    (PORT, 0x801d, 6, Width::U16, &[1, 0x41]),
    (PORT, 0x801d, 8, Width::U16, &[0xffff]),
    (PF, 0x05, 0x0c, Width::U32, &[0x4041]),
    (OLD, 0, 0xf0, Width::U32, &[0x0002_1af4, 0x0003_1af4]),
    (OLD, 0, 0xf2, Width::U8, &[4, 5]),
];

/// Where a capability starts, found by walking the simulated function itself.
fn find(bus: &SimBus, function: Sbdf, capability: u16) -> Option<u16> {
    let word = |offset| bus.peek(function, Access::new(offset, Width::U16).unwrap()) as u16;
    let long = |offset| bus.peek(function, Access::new(offset, Width::U32).unwrap());
    let mut at = match capability {
        0 => return Some(0),
        0x8000.. => 0x100,
        _ => bus.peek(function, Access::new(0x34, Width::U8).unwrap()) as u16,
    };
    for _ in 0..64 {
        if at == 0 || at & 3 != 0 || at > 0xffc {
            return None;
        }
        if capability >= 0x8000 {
            let header = long(at);
            if header as u16 == capability & 0x7fff {
                return Some(at);
            }
            at = (header >> 20) as u16;
        } else {
            if word(at) & 0xff == capability {
                return Some(at);
            }
            at = word(at) >> 8;
        }
    }
    None
}

fn access() -> impl Strategy<Value = Access> {
    let offset = prop_oneof![4 => 0u16..0x100, 3 => 0x100u16..0x300, 1 => 0u16..0x1000];
    (offset, 0..3).prop_map(|(offset, width)| match width {
        0 => Access::new(offset, Width::U8).unwrap(),
        1 => Access::new(offset & !1, Width::U16).unwrap(),
        _ => Access::new(offset & !3, Width::U32).unwrap(),
    })
}

fn function() -> impl Strategy<Value = Sbdf> {
    prop::sample::select(&ALL[..])
}

fn op() -> impl Strategy<Value = Op> {
    let value = prop_oneof![
        any::<u32>(),
        Just(0),
        Just(u32::MAX),
        (0u32..32).prop_map(|b| 1 << b)
    ];
    let named = (0..NAMED.len(), any::<u32>()).prop_map(|(row, value)| Op::Named(row, value));
    prop_oneof![
        6 => (function(), access()).prop_map(|(f, a)| Op::Read(f, a)),
        6 => function().prop_map(Op::Sweep),
        4 => (function(), access(), value).prop_map(|(f, a, v)| Op::Write(f, a, v)),
        12 => named,
        6 => (function(), any::<bool>()).prop_map(|(f, unlisted)| Op::Add(f, unlisted)),
        1 => function().prop_map(Op::Forget),
        2 => (function(), 0u16..64, any::<u8>()).prop_map(|(f, n, v)| Op::Status(f, n, v)),
        1 => (function(), any::<bool>()).prop_map(|(f, cold)| Op::ResetOutside(f, cold)),
        1 => function().prop_map(Op::Pull),
        1 => any::<bool>().prop_map(Op::Switch),
    ]
}

/// Bytes that the device itself may change: status and the like, by the specification.
fn volatile(bus: &SimBus, function: Sbdf) -> Vec<u16> {
    let mut bytes = vec![0x07];
    bytes.extend((function == OLD).then_some(0x0f));
    for (capability, offsets) in [
        (0x01u16, &[5u16][..]),
        (0x03, &[2, 3, 4, 5, 6, 7]),
        (
            0x10,
            &[
                0x06, 0x07, 0x0a, 0x0b, 0x12, 0x13, 0x1a, 0x1b, 0x20, 0x22, 0x29,
            ],
        ),
        (0x13, &[5]),
        (0x8001, &[4, 5, 6, 7, 0x10, 0x11, 0x18, 0x1c, 0x20]),
        (0x8010, &[0x0a]),
        (0x8013, &[4, 6, 7]),
    ] {
        if let Some(at) = find(bus, function, capability) {
            // Slot power messages arrive at functions that face upstream (6, 7); LTR enable drops
            // in ports that face downstream (29h).
            let port = [PORT, SWITCH].contains(&function);
            let own = |byte: &&u16| {
                capability != 0x10
                    || match **byte {
                        0x06 | 0x07 => !port,
                        0x29 => port,
                        _ => true,
                    }
            };
            bytes.extend(offsets.iter().filter(own).map(|byte| at + byte));
        }
    }
    bytes
}

fn check(cache: &Cached<'_, &SimBus>, bus: &SimBus, function: Sbdf, at: Access) {
    let before = bus.peek(function, at);
    let value = cache.read(function, at).unwrap();
    let after = bus.peek(function, at);
    assert!(
        value == before || value == after,
        "{function} {:#x}+{}: cache says {value:#x}, device {before:#x} then {after:#x}",
        at.offset(),
        at.width().bytes()
    );
}

fn sweep(cache: &Cached<'_, &SimBus>, bus: &SimBus, function: Sbdf) {
    for offset in (0..0x300).step_by(4) {
        check(
            cache,
            bus,
            function,
            Access::new(offset, Width::U32).unwrap(),
        );
    }
    for offset in 0x30..0x130 {
        check(
            cache,
            bus,
            function,
            Access::new(offset, Width::U8).unwrap(),
        );
    }
}

fn run(cache: &Cached<'_, &SimBus>, bus: &SimBus, op: &Op) {
    match *op {
        Op::Read(function, at) => check(cache, bus, function, at),
        Op::Sweep(function) => sweep(cache, bus, function),
        Op::Write(function, at, value) => cache.write(function, at, value).unwrap(),
        Op::Named(row, pick) => {
            let (function, capability, offset, width, values) = NAMED[row];
            let value = values[pick as usize % values.len()];
            // Known before, so that what stays known after is what is tested.
            ALL.iter().for_each(|function| sweep(cache, bus, *function));
            if let Some(at) = find(bus, function, capability) {
                let at = Access::new(at + offset, width).unwrap();
                cache.write(function, at, value).unwrap();
            }
            ALL.iter().for_each(|function| sweep(cache, bus, *function));
        }
        Op::Add(function, unlisted) => {
            // Of simulated functions it is true that unlisted bytes are constant, but for those
            // that have a vendor's capability.
            let policy = if unlisted {
                Unlisted::Constant
            } else {
                Unlisted::PassThrough
            };
            // Bridges are in the cache before what is below, physical functions before virtual.
            for function in [PORT, SWITCH, PF, function] {
                let _ = cache.add_with(function, policy);
            }
        }
        Op::Forget(function) => cache.forget(function),
        Op::Status(function, pick, value) => {
            let bytes = volatile(bus, function);
            let at = bytes[usize::from(pick) % bytes.len()];
            // Whether there is a self test does not change.
            let value = if at == 0x0f { value | 0x80 } else { value };
            bus.poke(function, Access::new(at, Width::U8).unwrap(), value.into());
        }
        Op::ResetOutside(function, cold) => {
            let (kind, reset) = if cold {
                (ResetKind::Cold, Reset::Power)
            } else {
                (ResetKind::Function, Reset::Function)
            };
            cache.reset(function, reset);
            bus.reset(function, kind);
            cache.reset(function, reset);
            cache.reset(function, Reset::Below);
        }
        Op::Pull(function) => {
            bus.set_present(function, false);
            cache.reset(function, Reset::Power);
            cache.reset(
                function,
                Reset::Buses {
                    first: 1,
                    last: 255,
                },
            );
            cache.reset(
                PORT,
                Reset::Buses {
                    first: 1,
                    last: 255,
                },
            );
            sweep(cache, bus, function);
            bus.set_present(function, true);
        }
        Op::Switch(on) => cache.set_enabled(on),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_cache_answers_what_the_device_would(ops in prop::collection::vec(op(), 1..60)) {
        let bus = machine();
        let cache = Cached::new(&bus);
        bus.write_u16(PORT, 0x68 + 0x28, 0x20).unwrap();
        let sriov = find(&bus, PF, 0x8010).unwrap();
        bus.write_u16(PF, sriov + 0x10, 2).unwrap();
        bus.write_u16(PF, sriov + 8, 9).unwrap();
        for function in ALL {
            cache.add_with(function, Unlisted::Constant).ok();
        }
        for op in &ops {
            run(&cache, &bus, op);
        }
        cache.set_enabled(true);
        for function in ALL {
            sweep(&cache, &bus, function);
            sweep(&cache, &bus, function);
        }
    }
}

/// Tells at which moment the hardware has the new value.
struct Moment<'b>(&'b SimBus, AtomicU32);

impl PciConfigAccess for Moment<'_> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, kho_hal::PciError> {
        self.0.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), kho_hal::PciError> {
        self.0.write(function, at, value)?;
        self.1.store(value, Ordering::SeqCst);
        // Let the others run between the hardware's write and the end of the cache's.
        std::thread::yield_now();
        Ok(())
    }
}

#[test]
fn a_reader_never_sees_a_value_that_the_hardware_has_no_more() {
    let bus = machine();
    let moment = Moment(&bus, AtomicU32::new(0));
    let cache = Cached::new(&moment);
    cache.add(PORT).unwrap();
    let begun = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let floor = moment.1.load(Ordering::SeqCst);
                    let value = cache.read_u32(PORT, 0x28).unwrap();
                    let ceiling = begun.load(Ordering::SeqCst);
                    assert!(
                        (floor..=ceiling).contains(&value),
                        "{floor} {value} {ceiling}"
                    );
                }
            });
        }
        for value in 1..20_000 {
            begun.store(value, Ordering::SeqCst);
            cache.write_u32(PORT, 0x28, value).unwrap();
            assert_eq!(cache.read_u32(PORT, 0x28), Ok(value));
            if value % 64 == 0 {
                cache.reset(PORT, Reset::Function);
                cache.read_u32(PORT, 0).unwrap();
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(cache.stats().hits > 0);
}

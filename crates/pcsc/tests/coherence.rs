//! The promise: a cached read returns what the hardware would return, whatever happened before.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kho_core::Tracker;
use kho_core::outgoing::Outgoing;
use kho_hal::sim::pci::{ResetKind, SimBus};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{Access, PageSize, PciConfigAccess, PhysAddr, PhysMem, PhysRange, Sbdf, Width};
use kho_pcsc::{Cached, Reset, Saved, Unlisted, Variant};
use proptest::prelude::*;

use common::{ALL, DEEP, NAMED, PF, PORT, SIBLING, SWITCH, find, machine, volatile};

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
    /// Handed over; the successor writes to one function before it adds all.
    Kexec(Sbdf, u32),
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
        3 => (function(), any::<u32>()).prop_map(|(f, v)| Op::Kexec(f, v)),
    ]
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
        Op::Kexec(..) => unreachable!("see the caller"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_cache_answers_what_the_device_would(ops in prop::collection::vec(op(), 1..60)) {
        let bus = machine();
        let memory = SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 64 << 20)).unwrap();
        let pages: Vec<_> = (0..16u64)
            .map(|n| {
                let range = PhysRange::new(PhysAddr::new(0x10_0000 + (n << 20)), 1 << 20);
                SimAlloc::new(&memory, PageSize::Size4K, [range.unwrap()])
            })
            .collect();
        let mut own = pages.iter();
        let first = own.next().unwrap();
        let mut cache = Cached::in_pages(&bus, &memory, first, PageSize::Size4K);
        let express = find(&bus, PORT, 0x10).unwrap();
        bus.write_u16(PORT, express + 0x28, 0x20).unwrap();
        let sriov = find(&bus, PF, 0x8010).unwrap();
        bus.write_u16(PF, sriov + 0x10, 2).unwrap();
        bus.write_u16(PF, sriov + 8, 9).unwrap();
        for function in ALL {
            cache.add_with(function, Unlisted::Constant).ok();
        }
        for op in &ops {
            if let Op::Kexec(function, value) = op {
                let Some(own) = own.next() else { continue };
                let tracker = Tracker::new(&memory, own, PageSize::Size4K, &[]).unwrap();
                let outgoing = Outgoing::new(tracker).unwrap();
                let next = Cached::in_pages(&bus, &memory, own, PageSize::Size4K);
                cache.save(&outgoing).unwrap();
                cache = match outgoing.find("pcsc") {
                    None => next,
                    Some(range) => {
                        let mut blob = vec![0; range.size() as usize];
                        memory.read(range.start(), &mut blob).unwrap();
                        next.with_saved(Saved::read(&blob, Variant::Extended, |_| true).unwrap())
                    }
                };
                // The register of a bridge or a physical function that others depend on, or any.
                let at = match *function {
                    PF => sriov + 8,
                    PORT | SWITCH => 0x18,
                    SIBLING | DEEP => 0x12,
                    _ => 0x16,
                };
                if value & 1 != 0 {
                    cache.write(*function, Access::new(at, Width::U16).unwrap(), value >> 1).unwrap();
                }
                for function in ALL {
                    if cache.add_with(function, Unlisted::Constant).is_err() {
                        break;
                    }
                }
            } else {
                run(&cache, &bus, op);
            }
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
        for value in 1..4_000 {
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

//! What a caller sees of the cache, on simulated functions.
#![allow(clippy::unwrap_used, reason = "tests")]

use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction};
use kho_hal::{Access, PciConfigAccess, Sbdf, Width};
use kho_pcsc::{AddError, Cached, Reset, SavedError};

fn nic() -> SimFunction {
    SimFunction::endpoint(0x8086, 0x10c9)
        .with_bar64(0, 20)
        .with_pm(false)
        .with_msi(true, true, 3)
        .with_express(0)
        .with_aer()
}

fn at(bus: u8, device: u8) -> Sbdf {
    Sbdf::new(0, bus, device, 0).unwrap()
}

#[test]
fn the_second_read_does_not_reach_the_hardware() {
    let bus = SimBus::new();
    bus.add(at(0, 3), nic());
    let cache = Cached::new(&bus);
    cache.add(at(0, 3)).unwrap();
    let before = bus.reads();
    assert_eq!(cache.read_u32(at(0, 3), 0).unwrap(), 0x10c9_8086);
    assert_eq!(bus.reads(), before);
    assert_eq!(cache.read_u32(at(0, 3), 0x10).unwrap(), 0x0c);
    assert_eq!(cache.read_u32(at(0, 3), 0x10).unwrap(), 0x0c);
    assert_eq!(bus.reads(), before + 1);
    cache.write_u32(at(0, 3), 0x10, 0xfff0_0000).unwrap();
    assert_eq!(cache.read_u32(at(0, 3), 0x10).unwrap(), 0xfff0_000c);
    assert_eq!(bus.reads(), before + 2);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.writes), (2, 2, 1));
    assert_eq!(stats.hardware_reads, bus.reads());
    assert_eq!(stats.hit_permille(), 500);
}

#[test]
fn a_function_that_is_not_there_is_not_added() {
    let bus = SimBus::new();
    let cache = Cached::new(&bus);
    let function = at(0, 3);
    assert_eq!(cache.add(function), Err(AddError::Absent { function }));
    assert_eq!(cache.read_u32(function, 0).unwrap(), u32::MAX);
    bus.add(function, nic());
    assert_eq!(cache.read_u32(function, 0).unwrap(), 0x10c9_8086);
}

#[test]
fn after_a_reset_nothing_is_answered_until_the_device_is_seen() {
    let bus = SimBus::new();
    let function = at(0, 3);
    bus.add(function, nic().slow_reset(3));
    let cache = Cached::new(&bus);
    cache.add(function).unwrap();
    let device_control = 0x40 + 8 + 0x18 + 8;
    assert_eq!(cache.read_u8(function, 0x60).unwrap(), 0x10);
    cache.write_u16(function, device_control, 0x8000).unwrap();
    for _ in 0..3 {
        assert_eq!(cache.read_u32(function, 0).unwrap(), u32::MAX);
    }
    assert_eq!(cache.read_u32(function, 0).unwrap(), 0x10c9_8086);
    let before = bus.reads();
    assert_eq!(cache.read_u32(function, 0).unwrap(), 0x10c9_8086);
    assert_eq!(cache.read_u8(function, 0x60).unwrap(), 0x10);
    assert_eq!(bus.reads(), before);
    assert_eq!(cache.stats().resets, 1);
}

#[test]
fn the_bypass_sees_hardware_and_still_invalidates() {
    let bus = SimBus::new();
    let function = at(0, 3);
    bus.add(function, nic());
    let cache = Cached::new(&bus);
    cache.add(function).unwrap();
    cache.read_u8(function, 0x3c).unwrap();
    bus.set_present(function, false);
    assert_eq!(cache.bypass().read_u32(function, 0).unwrap(), u32::MAX);
    assert_eq!(cache.read_u32(function, 0).unwrap(), 0x10c9_8086);
    cache.reset(function, Reset::Power);
    assert_eq!(cache.read_u32(function, 0).unwrap(), u32::MAX);
    bus.set_present(function, true);
    assert_eq!(cache.read_u32(function, 0).unwrap(), 0x10c9_8086);
    assert_eq!(cache.read_u8(function, 0x3c).unwrap(), 0xff);
    cache.bypass().write_u8(function, 0x3c, 5).unwrap();
    assert_eq!(cache.read_u8(function, 0x3c).unwrap(), 5);
}

/// Whichever read of the walk is the first that a slow function answers: it is not taken for a
/// virtual function, whose identity reads as ones for good.
#[test]
fn a_function_that_becomes_ready_while_it_is_added() {
    for slow in 0..40 {
        let bus = SimBus::new();
        bus.add(at(0, 3), nic().slow_reset(slow));
        bus.reset(at(0, 3), ResetKind::Cold);
        let cache = Cached::new(&bus);
        let _ = cache.add(at(0, 3));
        // What is still slow after that answers for itself.
        for _ in 0..slow {
            cache.bypass().read_u32(at(0, 3), 0).unwrap();
        }
        let identity = Access::new(0, Width::U32).unwrap();
        let identity = bus.peek(at(0, 3), identity);
        assert_eq!(cache.read_u32(at(0, 3), 0), Ok(identity), "{slow}");
        let vendor = cache.read_u16(at(0, 3), 0).unwrap();
        let device = cache.read_u16(at(0, 3), 2).unwrap();
        let found = u32::from(device) << 16 | u32::from(vendor);
        assert_eq!(found, identity, "{slow}");
    }
}

/// Every part of the identity is stored if it is the device's, and never if it is not.
#[test]
fn a_part_of_the_identity_is_stored_if_it_is_the_devices_own() {
    let function = at(0, 3);
    let own = || nic().with_class(0x1122_3344);
    let other = SimFunction::endpoint(0x1af4, 0x2d3e).with_class(0x5566_7788);
    for offset in (0..4).chain(8..12) {
        for width in [Width::U8, Width::U16, Width::U32] {
            let Ok(access) = Access::new(offset, width) else {
                continue;
            };
            let bus = SimBus::new();
            bus.add(function, own());
            let cache = Cached::new(&bus);
            cache.add(function).unwrap();
            for (device, reads) in [(own(), 1), (other.clone(), 2)] {
                cache.reset(function, Reset::Power);
                cache.read_u32(function, 8).unwrap();
                // It goes unnoticed that there is another device now.
                bus.add(function, device);
                let truth = bus.peek(function, access);
                let before = bus.reads();
                assert_eq!(cache.read(function, access), Ok(truth));
                assert_eq!(cache.read(function, access), Ok(truth));
                assert_eq!(bus.reads(), before + reads, "{access:?}");
            }
        }
    }
}

/// Each clock tick is one call of the clock: a read takes one from its start to its end.
#[test]
fn a_clock_measures_hits_and_hardware_reads() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bus = SimBus::new();
    bus.add(at(0, 3), nic());
    let cache = Cached::new(&bus).with_clock(|| NOW.fetch_add(1, Ordering::Relaxed));
    cache.add(at(0, 3)).unwrap();
    let stats = cache.stats();
    assert_eq!((stats.hit_ticks, stats.hardware_ticks), (0, bus.reads()));
    for _ in 0..5 {
        cache.read_u32(at(0, 3), 0).unwrap();
    }
    cache.read_u32(at(0, 4), 0).unwrap();
    let since = cache.stats().since(&stats);
    assert_eq!((since.hit_ticks, since.hardware_ticks), (5, 1));
    assert_eq!((since.hits, since.bypassed), (5, 1));
    let of = |function| cache.stats_of(function).map(|stats| stats.hits);
    assert_eq!((of(at(0, 3)), of(at(0, 4))), (Some(5), None));
}

#[test]
fn errors_name_the_function_and_say_what_is_wrong() {
    let function = Sbdf::new(0, 0x3a, 0x1f, 7).unwrap();
    for (error, text) in [
        (AddError::Absent { function }, "nothing there"),
        (AddError::NotReady { function }, "not ready"),
        (AddError::Unreadable { function }, "identity unreadable"),
        (AddError::NoMemory { function }, "no memory for its cache"),
        (
            AddError::Interrupted { function },
            "changed while being added",
        ),
    ] {
        assert_eq!(error.to_string(), format!("0000:3a:1f.7: {text}"));
    }
    assert_eq!(
        SavedError::NotATree.to_string(),
        "the saved configuration space is not a device tree"
    );
    assert_eq!(
        SavedError::UnknownVersion.to_string(),
        "the saved configuration space is of an unknown version"
    );
}

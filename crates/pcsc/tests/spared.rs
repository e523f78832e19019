//! How far what happens to one function reaches: what it concerns is read anew, and nothing else.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;

use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction, SriovShape};
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};
use kho_pcsc::{AddError, Cached, Reset};

const BRIDGE: Sbdf = Sbdf::from_bdf(0, 0x0008);
const NIC: Sbdf = Sbdf::from_bdf(0, 0x0018);
const CHILD: Sbdf = Sbdf::from_bdf(0, 0x0200);
const DEEP: Sbdf = Sbdf::from_bdf(0, 0x0300);
const ALL: [Sbdf; 4] = [BRIDGE, NIC, CHILD, DEEP];

fn nic() -> SimFunction {
    SimFunction::endpoint(0x8086, 0x10c9)
        .with_bar32(0, 16)
        .with_msi(true, true, 1)
        .with_express(0)
}

/// The interrupt line, which is written, not constant.
const LINE: u16 = 0x3c;

/// Where [`nic`] has its capabilities: one directly behind the other.
const MSI: u16 = 0x40;
const EXPRESS: u16 = MSI + 0x18;

/// A bridge with two devices below it, on buses of their own, and one beside it.
fn machine() -> SimBus {
    let bus = SimBus::new();
    let bridge = SimFunction::bridge(0x1b36, 2, 2, 3)
        .with_pm(false)
        .with_express(4);
    bus.add(BRIDGE, bridge);
    bus.add(NIC, nic());
    bus.add_behind(BRIDGE, CHILD, nic());
    bus.add_behind(BRIDGE, DEEP, nic());
    for function in ALL {
        bus.poke(function, byte(LINE), 5);
    }
    bus
}

/// Whether a read is answered without the hardware.
fn is_hit<C: PciConfigAccess>(cache: &Cached<'_, C>, function: Sbdf, at: Access) -> bool {
    let before = cache.stats().hardware_reads;
    cache.read(function, at).unwrap();
    cache.stats().hardware_reads == before
}

fn byte(offset: u16) -> Access {
    Access::new(offset, Width::U8).unwrap()
}

#[test]
fn a_reset_reaches_what_loses_its_registers_by_it() {
    for (function, reset, reached) in [
        (BRIDGE, Reset::Power, &[BRIDGE, CHILD, DEEP][..]),
        (BRIDGE, Reset::Function, &[BRIDGE]),
        (BRIDGE, Reset::Below, &[CHILD, DEEP]),
        (NIC, Reset::Power, &[NIC]),
        (NIC, Reset::Function, &[NIC]),
        (DEEP, Reset::Power, &[DEEP]),
    ] {
        let bus = machine();
        let cache = Cached::new(&bus);
        for function in ALL {
            cache.add(function).unwrap();
            cache.read(function, byte(LINE)).unwrap();
        }
        cache.reset(function, reset);
        for other in ALL {
            let spared = is_hit(&cache, other, byte(LINE));
            assert_eq!(spared, !reached.contains(&other), "{function} {reset:?}");
        }
    }
}

/// On buses that are not the first.
#[test]
fn with_a_bridge_goes_what_is_below_it() {
    let bus = machine();
    let cache = Cached::new(&bus);
    for function in ALL {
        cache.add(function).unwrap();
    }
    cache.forget(BRIDGE);
    assert_eq!(ALL.map(|f| cache.contains(f)), [false, true, false, false]);
}

/// A bridge loses its bus numbers with its power state: where its children were stays known.
#[test]
fn a_bridge_that_lost_its_numbers_by_a_write_still_takes_its_children_along() {
    let bus = machine();
    let cache = Cached::new(&bus);
    for function in ALL {
        cache.add(function).unwrap();
    }
    cache.write_u16(BRIDGE, 0x44, 3).unwrap();
    bus.poke(BRIDGE, Access::new(0x18, Width::U32).unwrap(), 0);
    cache.write_u16(BRIDGE, 0x44, 0).unwrap();
    cache.forget(BRIDGE);
    assert_eq!(ALL.map(|f| cache.contains(f)), [false, true, false, false]);
}

/// A function that was taken out is none of the cache's: a write to it has no effect on others.
#[test]
fn a_write_to_a_bridge_that_was_taken_out_concerns_nobody() {
    let bus = machine();
    let cache = Cached::new(&bus);
    cache.add(BRIDGE).unwrap();
    cache.forget(BRIDGE);
    cache.add(CHILD).unwrap();
    cache.write_u8(BRIDGE, LINE, 5).unwrap();
    assert!(cache.contains(CHILD));
}

#[test]
fn a_write_spares_the_capability_before_it() {
    let bus = machine();
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    for (at, spared) in [(EXPRESS, true), (EXPRESS - 1, false), (MSI + 4, false)] {
        cache.read(NIC, byte(MSI + 4)).unwrap();
        cache.write_u8(NIC, at, 0).unwrap();
        assert_eq!(is_hit(&cache, NIC, byte(MSI + 4)), spared, "{at:#x}");
    }
}

/// PCI Express Base 5.0, 7.5.3.2: which message is used follows from how many there are.
#[test]
fn message_control_changes_the_number_in_the_express_capability() {
    let bus = SimBus::new();
    let function = SimFunction::endpoint(0x8086, 0x10c9)
        .with_msi(true, false, 1)
        .with_express(0)
        .with_msix(8, 0);
    bus.add(NIC, function);
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    let express = MSI + 0x10;
    // The last byte of the message's data, the number, device control.
    let bytes = [MSI + 0x0d, express + 3, express + 8].map(byte);
    for at in bytes {
        cache.read(NIC, at).unwrap();
        assert!(is_hit(&cache, NIC, at));
    }
    cache.write_u16(NIC, express + 0x3c + 2, 0x8000).unwrap();
    assert_eq!(bytes.map(|at| is_hit(&cache, NIC, at)), [true, false, true]);
}

#[test]
fn another_way_to_the_hardware_may_lead_to_other_values() {
    let (bus, other) = (machine(), machine());
    other.poke(NIC, byte(LINE), 7);
    let mut cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    assert_eq!(cache.read_u8(NIC, LINE), Ok(5));
    cache.replace_inner(&other);
    assert_eq!(cache.read_u8(NIC, LINE), Ok(7));
    assert_eq!(cache.read_u8(NIC, LINE), Ok(7));
    // Switched off, it asks; what was known before is not known after.
    cache.set_enabled(false);
    other.poke(NIC, byte(LINE), 8);
    assert_eq!(cache.read_u8(NIC, LINE), Ok(8));
    other.poke(NIC, byte(LINE), 9);
    cache.set_enabled(true);
    assert_eq!(cache.read_u8(NIC, LINE), Ok(9));
}

/// Whether it is a bridge is told by what is there now.
#[test]
fn an_addition_anew_forgets_the_old_header_type() {
    for old in [
        SimFunction::bridge(0x1b36, 2, 2, 3).with_express(4),
        nic().with_bist(),
    ] {
        let bus = SimBus::new();
        bus.add(NIC, old);
        let cache = Cached::new(&bus);
        cache.add(NIC).unwrap();
        bus.add(NIC, nic());
        bus.poke(NIC, byte(LINE), 5);
        cache.add(NIC).unwrap();
        // The whole identity is compared before the function is trusted again.
        cache.reset(NIC, Reset::Function);
        cache.read(NIC, byte(LINE)).unwrap();
        assert!(cache.contains(NIC));
        cache.read(NIC, byte(LINE)).unwrap();
        assert!(is_hit(&cache, NIC, byte(LINE)));
    }
}

/// A physical function that does not come back takes its virtual ones along.
#[test]
fn a_failed_addition_of_a_physical_function_forgets_its_virtual_ones() {
    let bus = SimBus::new();
    let shape = SriovShape {
        total: 4,
        offset: [0x80, 0x80],
        stride: [1, 1],
        device: 3,
        template: SimFunction::virtual_function().with_express(0),
    };
    let (physical, virtual_one) = (NIC, Sbdf::from_bdf(0, 0x0098));
    bus.add(physical, nic().with_sriov(shape));
    bus.write_u16(physical, 0x110, 2).unwrap();
    bus.write_u16(physical, 0x108, 9).unwrap();
    let cache = Cached::new(&bus);
    cache.add(physical).unwrap();
    cache.add(virtual_one).unwrap();
    bus.set_present(physical, false);
    let function = physical;
    assert_eq!(cache.add(physical), Err(AddError::Absent { function }));
    assert!(!cache.contains(virtual_one));
}

/// Answers some reads with something else than what is there, for a while.
struct Lie<'b> {
    bus: &'b SimBus,
    lie: Mutex<Option<(u16, u32)>>,
}

impl Lie<'_> {
    fn tell(&self, lie: Option<(u16, u32)>) {
        *self.lie.lock().unwrap() = lie;
    }
}

impl PciConfigAccess for Lie<'_> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let truth = self.bus.read(function, at);
        match *self.lie.lock().unwrap() {
            Some((offset, value)) if offset == at.offset() => Ok(value & at.width().mask()),
            _ => truth,
        }
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.bus.write(function, at, value)
    }
}

fn lying(bus: &SimBus) -> Cached<'static, Lie<'_>> {
    let lie = Mutex::new(None);
    Cached::new(Lie { bus, lie })
}

/// A device that is away for one of the reads that identify it says nothing; another one is not
/// the one that was there.
#[test]
fn half_an_answer_is_no_other_device() {
    for (lie, stays) in [
        ((0x08, u32::MAX), true),
        ((0x0c, u32::MAX), true),
        // Configuration retry: PCI Express Base 5.0, 2.3.2.
        ((0x00, 0xffff_0001), true),
        ((0x00, 0x10c9_8087), false),
        ((0x08, 0x1234_5678), false),
        ((0x0c, 0x0001_0000), false),
    ] {
        let bus = machine();
        let cache = lying(&bus);
        cache.add(NIC).unwrap();
        cache.reset(NIC, Reset::Power);
        cache.inner().tell(Some(lie));
        cache.read(NIC, byte(LINE)).unwrap();
        assert_eq!(cache.contains(NIC), stays, "{lie:x?}");
        assert!(!is_hit(&cache, NIC, byte(LINE)), "{lie:x?}");
        cache.inner().tell(None);
        for hit in [false, false, stays] {
            assert_eq!(is_hit(&cache, NIC, byte(LINE)), hit, "{lie:x?}");
        }
    }
}

/// Only an answer that says something is followed by the reads that identify the device.
#[test]
fn polling_a_device_that_is_not_ready_costs_one_read_each() {
    let bus = machine();
    let cache = lying(&bus);
    cache.add(NIC).unwrap();
    cache.reset(NIC, Reset::Power);
    let reads = |at: Access| {
        let before = cache.stats().hardware_reads;
        cache.read(NIC, at).unwrap();
        cache.stats().hardware_reads - before
    };
    let word = |offset| Access::new(offset, Width::U16).unwrap();
    cache.inner().tell(Some((0, 0xffff_0001)));
    assert_eq!(reads(Access::new(0, Width::U32).unwrap()), 1);
    assert_eq!(reads(word(0)), 1);
    cache.inner().tell(Some((0, u32::MAX)));
    assert_eq!(reads(word(0)), 1);
    cache.inner().tell(None);
    // A subsystem whose number happens to be 1.
    assert_eq!(cache.bypass().read_u16(NIC, 0x2e), Ok(1));
    assert_eq!([0; 3].map(|_| reads(word(0x2e))), [4, 1, 0]);
}

/// Ones of another device, which is there for a moment, are not this one's.
#[test]
fn ones_are_stored_if_the_class_beside_them_is_the_known_one() {
    let bus = SimBus::new();
    let own = || nic().with_class(0x0200_0001);
    let ones = SimFunction::endpoint(1, 2).with_register(0x2c, 4, u32::MAX, 0, 0);
    bus.add(NIC, own());
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    bus.add(NIC, ones.with_class(0x0300_0001));
    assert_eq!(cache.read_u32(NIC, 0x2c), Ok(u32::MAX));
    bus.add(NIC, own());
    assert_eq!(cache.read_u32(NIC, 0x2c), Ok(0x0001_1af4));
}

/// An addition keeps no ones: the device may have been away for that read.
#[test]
fn ones_read_by_an_addition_are_read_again() {
    let bus = SimBus::new();
    bus.add(NIC, nic().with_vendor(0x10));
    let length = 0x40 + 0x18 + 0x3c + 2;
    assert_eq!(bus.peek(NIC, byte(length)), 0x10);
    let cache = lying(&bus);
    cache.inner().tell(Some((length, u32::MAX)));
    cache.add(NIC).unwrap();
    cache.inner().tell(None);
    assert_eq!(cache.read_u8(NIC, length), Ok(0x10));
}

/// Bus numbers are those that the bridge has when it is added.
#[test]
fn a_cold_bridge_that_is_forgotten_takes_along_what_it_had() {
    let bus = machine();
    let cache = Cached::new(&bus);
    for function in ALL {
        cache.add(function).unwrap();
    }
    bus.reset(BRIDGE, ResetKind::Cold);
    bus.poke(BRIDGE, Access::new(0x18, Width::U32).unwrap(), 0);
    cache.forget(BRIDGE);
    assert_eq!(ALL.map(|f| cache.contains(f)), [false, true, false, false]);
}

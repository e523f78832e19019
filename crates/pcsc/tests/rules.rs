//! Every row of the rules' table, each with a device whose other register changes inside the
//! write, as the specification says, and that nothing else would make the cache forget.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::OnceLock;

use kho_hal::sim::pci::{SimBus, SimFunction, SriovShape};
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};
use kho_pcsc::Cached;
use kho_pcsc::rules::{RULES, VENDORS_OWN};

const TOP: Sbdf = Sbdf::from_bdf(0, 0x0008);
const BESIDE: Sbdf = Sbdf::from_bdf(0, 0x0009);
const CHILD: Sbdf = Sbdf::from_bdf(0, 0x0100);
const SECOND: Sbdf = Sbdf::from_bdf(0, 0x0108);
const FAR: Sbdf = Sbdf::from_bdf(0, 0x0500);
const VF: Sbdf = Sbdf::from_bdf(0, 0x0008 + 0x80);

const BAR: u16 = 0x10;
const SUBSYSTEM: u16 = 0x2c;

fn at(offset: u16, width: Width) -> Access {
    Access::new(offset, width).unwrap()
}

/// A write to one register that changes another one.
#[derive(Clone, Copy)]
struct Link {
    /// Which write: function and offset.
    cause: (Sbdf, u16),
    /// Its value, or any.
    value: Option<u32>,
    /// What changes: function, offset, new value.
    effect: (Sbdf, u16, u32),
}

/// Simulated functions with one more effect, which reads it through the cache in the middle of the write.
struct Device {
    bus: SimBus,
    link: Link,
    cache: OnceLock<&'static Cached<'static, &'static Device>>,
}

impl PciConfigAccess for Device {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.bus.read(function, at)
    }

    fn write(&self, function: Sbdf, access: Access, value: u32) -> Result<(), PciError> {
        let (changed, offset, new) = self.link.effect;
        if let Some(cache) = self.cache.get() {
            // What the cache learnt now would be wrong when the write is done.
            cache.read_u32(changed, offset)?;
            cache.read_u32(changed, 0)?;
            cache.read_u32(changed, offset)?;
        }
        self.bus.write(function, access, value)?;
        let fits = self.link.value.is_none_or(|fits| fits == value);
        if (function, access.offset()) == self.link.cause && fits {
            self.bus.poke(changed, at(offset, Width::U32), new);
            if let Some(cache) = self.cache.get() {
                let seen = cache.read_u32(changed, offset)?;
                assert_eq!(seen, new, "the hardware has it before the write returns");
            }
        }
        Ok(())
    }
}

/// What stands where.
type Place = (Sbdf, Option<Sbdf>, SimFunction);

/// Makes the writes, all of the width, at the link's cause; the effect must be seen after the last,
/// whether it was looked at in the middle of the write or only before.
fn shows(places: &[Place], link: Link, width: Width, writes: &[u32]) {
    for in_between in [false, true] {
        let bus = SimBus::new();
        for (place, behind, function) in places {
            match behind {
                Some(bridge) => bus.add_behind(*bridge, *place, function.clone()),
                None => bus.add(*place, function.clone()),
            }
        }
        let device: &'static Device = Box::leak(Box::new(Device {
            bus,
            link,
            cache: OnceLock::new(),
        }));
        let cache: &'static Cached<'static, _> = Box::leak(Box::new(Cached::new(device)));
        for (place, ..) in places {
            cache.add(*place).unwrap();
        }
        if in_between {
            device.cache.set(cache).ok();
        }
        let (changed, offset, new) = link.effect;
        for value in writes {
            cache.read_u32(changed, 0).unwrap();
            let before = cache.read_u32(changed, offset).unwrap();
            assert_eq!(before, cache.read_u32(changed, offset).unwrap());
            assert_ne!(before, new, "the effect came too early");
            let (cause, register) = link.cause;
            cache.write(cause, at(register, width), *value).unwrap();
        }
        let seen = cache.read_u32(changed, offset).unwrap();
        assert_eq!(seen, new, "looked at in between: {in_between}");
    }
}

fn bridge() -> SimFunction {
    SimFunction::bridge(0x1b36, 2, 1, 4)
}

/// The registers alone, read-only, without what the simulated function does with them.
fn bare(function: &SimFunction) -> SimFunction {
    let bytes = (0..0x1000).map(|offset| function.peek(at(offset, Width::U8)) as u8);
    SimFunction::from_bytes(&bytes.collect::<Vec<_>>())
}

fn leaf() -> SimFunction {
    SimFunction::endpoint(3, 4)
        .with_bar32(0, 16)
        .with_express(0)
}

fn shape() -> SriovShape {
    SriovShape {
        total: 4,
        offset: [0x80, 0x80],
        stride: [2, 1],
        device: 1,
        template: SimFunction::virtual_function(),
    }
}

/// A write to `register` of the bridge changes a BAR below it.
fn below(bridge: SimFunction, register: u16, writes: &[u32]) {
    let link = Link {
        cause: (TOP, register),
        value: writes.last().copied(),
        effect: (CHILD, BAR, 0xfe00_0000),
    };
    let places = [(TOP, None, bridge), (CHILD, Some(TOP), leaf())];
    shows(&places, link, Width::U16, writes);
}

/// A write to a register changes another one of the same function.
fn own(function: SimFunction, (register, width): (u16, Width), effect: (u16, u32), value: u32) {
    let link = Link {
        cause: (TOP, register),
        value: None,
        effect: (TOP, effect.0, effect.1),
    };
    shows(&[(TOP, None, function)], link, width, &[value]);
}

/// A write to a register of the physical function changes the function where a virtual one was.
fn virtual_function(physical: SimFunction, register: u16, value: u32) {
    let link = Link {
        cause: (TOP, register),
        value: None,
        effect: (VF, SUBSYSTEM, 0x1234_5678),
    };
    let places = [
        (TOP, None, physical),
        (VF, None, SimFunction::virtual_function()),
    ];
    shows(&places, link, Width::U16, &[value]);
}

/// The table has the rows that are tested here.
#[test]
fn no_row_is_without_a_test() {
    assert_eq!(RULES.len(), 18);
    let effects: usize = RULES.iter().map(|rule| rule.effects.len()).sum();
    assert_eq!(effects, 22);
    assert_eq!(VENDORS_OWN.len(), 3);
}

#[test]
fn r01_bus_numbers_move_what_is_below() {
    below(bridge(), 0x18, &[0x0100]);
    below(bridge(), 0x1a, &[0x0003]);
}

/// A function that was not below the bridge before the write, and is after it.
#[test]
fn r01_bus_numbers_may_cover_what_they_did_not_before() {
    let link = Link {
        cause: (TOP, 0x18),
        value: None,
        effect: (FAR, SUBSYSTEM, 0x1234_5678),
    };
    let places = [(TOP, None, bridge()), (FAR, None, leaf())];
    shows(&places, link, Width::U32, &[0x0005_0500]);
}

#[test]
fn r02_a_secondary_bus_reset_takes_hold_when_set_or_when_cleared() {
    let open = || bare(&bridge()).with_register(0x3e, 2, 0, 0xffff, 0);
    below(open(), 0x3e, &[0x40]);
    below(open(), 0x3e, &[0x40, 0]);
}

#[test]
fn r03_a_power_state_resets_the_function_and_what_is_below() {
    let pm = |function: SimFunction| {
        let mut function = function;
        let at = function.capability(0x01, 8);
        function.with_register(at + 4, 2, 0, 3, 0)
    };
    own(pm(leaf()), (0x80, Width::U16), (BAR, 0xfe00_0000), 3);
    let link = Link {
        cause: (TOP, 0x80),
        value: Some(0),
        effect: (TOP, BAR, 0xfe00_0000),
    };
    shows(&[(TOP, None, pm(leaf()))], link, Width::U16, &[3, 0]);
    below(pm(bridge()), 0x44, &[3]);
    below(pm(bridge()), 0x44, &[3, 0]);
    virtual_function(pm(leaf().with_sriov(shape())), 0x80, 3);
}

#[test]
fn r04_r05_messages_are_numbered_anew() {
    let all = || {
        SimFunction::endpoint(3, 4)
            .with_msi(true, false, 5)
            .with_msix(4, 0)
            .with_express(4)
            .with_sriov(shape())
            .with_dpc(false)
    };
    let (msi, msix, express, sriov, dpc) = (0x42, 0x52, 0x5c, 0x100, 0x140);
    for (control, value) in [(msi, 0x20), (msix, 0x8003)] {
        for (register, new) in [
            (express, 0x0742_0010),
            (sriov + 4, 0x0020_0002),
            (dpc + 4, 0x0000_0003),
        ] {
            own(all(), (control, Width::U16), (register, new), value);
        }
    }
}

#[test]
fn r06_a_common_clock_changes_the_latencies_of_the_whole_device() {
    // A virtual function may be on the next bus.
    let virtual_function = SimFunction::virtual_function().with_express(0);
    for (beside, other) in [(BESIDE, leaf()), (CHILD, virtual_function)] {
        for writes in [&[0x40][..], &[0x40, 0]] {
            let link = Link {
                cause: (TOP, 0x50),
                value: writes.last().copied(),
                effect: (beside, 0x4c, 0x0041_2044),
            };
            let places = [(TOP, None, leaf()), (beside, None, other.clone())];
            shows(&places, link, Width::U16, writes);
        }
    }
}

#[test]
fn r07_function_level_reset() {
    let plain = || leaf().with_register(0x48, 2, 0x2810, 0x7fff, 0);
    own(plain(), (0x48, Width::U16), (BAR, 0xfe00_0000), 0x8000);
    virtual_function(plain().with_sriov(shape()), 0x48, 0x8000);
}

#[test]
fn r08_r09_a_link_or_slot_that_goes_off_resets_what_is_below() {
    let port = || {
        bare(&bridge().with_express(4))
            .with_register(0x50, 2, 0, 0xffff, 0)
            .with_register(0x58, 2, 0x03c0, 0xffff, 0)
    };
    below(port(), 0x50, &[0x10]);
    below(port(), 0x50, &[0x10, 0]);
    below(port(), 0x58, &[0x07c0]);
    below(port(), 0x58, &[0x07c0, 0x03c0]);
}

#[test]
fn r10_without_ari_forwarding_other_devices_are_not_reached() {
    let bus = SimBus::new();
    bus.add(TOP, bridge().with_express(4).with_ari_forwarding());
    bus.add_behind(TOP, SECOND, leaf());
    bus.write_u16(TOP, 0x68, 0x20).unwrap();
    let cache = Cached::new(&bus);
    cache.add(TOP).unwrap();
    cache.add(SECOND).unwrap();
    assert_eq!(cache.read_u32(SECOND, 0), Ok(0x0004_0003));
    cache.write_u16(TOP, 0x68, 0).unwrap();
    assert_eq!(cache.read_u32(SECOND, 0), Ok(u32::MAX));
}

#[test]
fn r11_a_portal_bridge_routes_function_by_function() {
    let mut portal = bridge();
    let at = portal.capability(0x15, 0x24);
    let portal = portal.with_register(at + 0x1c, 4, 0, u32::MAX, 0);
    for place in [CHILD, FAR, BESIDE] {
        let link = Link {
            cause: (TOP, at + 0x1c),
            value: None,
            effect: (place, SUBSYSTEM, 0x1234_5678),
        };
        let places = [(TOP, None, portal.clone()), (place, None, leaf())];
        shows(&places, link, Width::U32, &[1]);
    }
}

#[test]
fn r12_function_level_reset_of_advanced_features() {
    let plain = || {
        let mut function = SimFunction::endpoint(3, 4).with_bar32(0, 16);
        let at = function.capability(0x13, 6);
        function.with_register(at + 2, 2, 0x0306, 0, 0)
    };
    own(plain(), (0x44, Width::U8), (BAR, 0xfe00_0000), 1);
    virtual_function(plain().with_express(0).with_sriov(shape()), 0x44, 1);
}

#[test]
fn r13_r14_virtual_functions_come_and_go() {
    virtual_function(leaf().with_sriov(shape()), 0x108, 0);
    virtual_function(leaf().with_sriov(shape()), 0x110, 2);
}

/// SR-IOV 1.1, 3.4.1.1 and 3.4.1.2: virtual functions show no vendor; those that do are found
/// where the physical function says it has them.
#[test]
fn r13_r14_virtual_functions_that_show_a_vendor() {
    let second = Sbdf::from_bdf(0, VF.bdf() + 2);
    for place in [VF, second] {
        let link = Link {
            cause: (TOP, 0x108),
            value: None,
            effect: (place, SUBSYSTEM, 0x1234_5678),
        };
        // Offset 80h, stride 2 while there are two or more.
        let physical = leaf()
            .with_sriov(shape())
            .with_register(0x110, 2, 4, 0xffff, 0);
        let physical = physical.with_register(0x116, 2, 2, 0, 0);
        let places = [(TOP, None, physical), (place, None, leaf())];
        shows(&places, link, Width::U16, &[0]);
    }
}

#[test]
fn r15_r16_a_resized_bar() {
    let resizable = leaf().with_resizable_bar(0, false, 0xff);
    own(resizable, (0x108, Width::U32), (BAR, 0xfe00_0000), 0x0220);
    let virtual_bar = leaf().with_sriov(shape()).with_vf_resizable_bar(0xff);
    own(
        virtual_bar,
        (0x148, Width::U32),
        (0x12c, 0xfe00_000c),
        0x0222,
    );
}

#[test]
fn r17_r18_containment_takes_the_link_down_and_lets_it_up() {
    let port = || {
        let port = bridge().with_express(4).with_acs(0x5f);
        let port = port.with_register(0x100, 4, 0x1081_001d, 0, 0);
        let port = port.with_register(0x106, 2, 0, 0xffff, 0);
        port.with_register(0x108, 2, 1, 0, 0)
    };
    below(port(), 0x106, &[0x40]);
    below(port(), 0x108, &[1]);
}

#[test]
fn what_means_something_to_its_vendor_alone_may_do_anything() {
    // A standard and two extended capabilities of vendors, and one of each kind that is unknown.
    for id in [0x09, 0x7e] {
        let mut function = leaf();
        let start = function.capability(id, 0x10);
        let function = function
            .with_register(start + 2, 1, 0x10, 0, 0)
            .with_register(start + 8, 4, 0, u32::MAX, 0);
        let effect = (SUBSYSTEM, 0x1234_5678);
        own(function, (start + 8, Width::U32), effect, 1);
    }
    for id in [0x000b, 0x0023, 0x0fff] {
        let function = leaf()
            .with_acs(0x5f)
            .with_register(0x100, 4, 0x0001_0000 | id, 0, 0)
            .with_register(0x104, 4, 0x0201_0001, 0, 0)
            .with_register(0x108, 4, 0, u32::MAX, 0);
        let effect = (SUBSYSTEM, 0x1234_5678);
        own(function, (0x108, Width::U32), effect, 1);
    }
    // In a bridge it may act on what is below.
    let mut port = bridge();
    let start = port.capability(0x09, 0x10);
    let port =
        port.with_register(start + 2, 1, 0x10, 0, 0)
            .with_register(start + 8, 2, 0, 0xffff, 0);
    below(port, start + 8, &[1]);
}

//! A machine in which every rule has something to act on.
#![allow(dead_code, reason = "each test uses a part")]

use kho_hal::sim::pci::{SimBus, SimFunction, SriovShape};
use kho_hal::{Access, Sbdf, Width};

/// A root port with a slot; below it a physical function with everything, a second device that
/// needs ARI forwarding, and a switch port with one more device. Beside it a conventional device.
pub const PORT: Sbdf = Sbdf::from_bdf(0, 0x0008);
pub const PF: Sbdf = Sbdf::from_bdf(0, 0x0100);
pub const VF: Sbdf = Sbdf::from_bdf(0, 0x0180);
pub const SIBLING: Sbdf = Sbdf::from_bdf(0, 0x0108);
pub const SWITCH: Sbdf = Sbdf::from_bdf(0, 0x0101);
pub const DEEP: Sbdf = Sbdf::from_bdf(0, 0x0200);
pub const OLD: Sbdf = Sbdf::from_bdf(0, 0x0018);
pub const ALL: [Sbdf; 7] = [PORT, PF, VF, SIBLING, SWITCH, DEEP, OLD];

fn vf() -> SimFunction {
    SimFunction::virtual_function()
        .with_express(0)
        .with_msix(4, 0)
        .with_ari(0)
        .with_ats()
}

pub fn machine() -> SimBus {
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

/// Function, capability (0 for none), offset in it, width, values that matter.
pub type Named = (Sbdf, u16, u16, Width, &'static [u32]);

pub const NAMED: &[Named] = &[
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
pub fn find(bus: &SimBus, function: Sbdf, capability: u16) -> Option<u16> {
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

/// Bytes that the device itself may change: status and the like, by the specification.
pub fn volatile(bus: &SimBus, function: Sbdf) -> Vec<u16> {
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

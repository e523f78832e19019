//! PCI functions: what is there, and what two programs, one after the other, do with it.
//!
//! | module | what for |
//! | --- | --- |
//! | [`cache`] | the configuration-space cache, kept across the jump |
//! | [`live`] | a function whose DMA goes on across the jump |
//! | [`edu`] | that function: QEMU's `edu` |

pub mod cache;
mod edu;
pub mod live;

use alloc::collections::BTreeMap;

use kho::hal::{Ecam, PciConfigAccess, Sbdf};
use kho::pci_lu::{Device, kind_of};

/// The functions of a machine.
pub type Functions = BTreeMap<Sbdf, Device>;

/// Finds the functions that answer on bus 0 and below its bridges, whose bus numbers firmware or a
/// predecessor has given out. Writes nothing.
pub fn enumerate(config: &Ecam) -> Functions {
    let mut functions = Functions::new();
    enumerate_bus(config, 0, None, &mut functions);
    functions
}

fn enumerate_bus(config: &Ecam, bus: u8, upstream: Option<Sbdf>, functions: &mut Functions) {
    for device in 0..32 {
        for number in 0..8 {
            let Some(function) = Sbdf::new(0, bus, device, number) else {
                continue;
            };
            if config
                .read_u16(function, 0)
                .is_ok_and(|vendor| vendor != 0xffff)
            {
                add(config, function, upstream, functions);
            }
            let header = config.read_u8(function, 0x0e).unwrap_or(0xff);
            if number == 0 && (header == 0xff || header & 0x80 == 0) {
                break;
            }
        }
    }
}

fn add(config: &Ecam, function: Sbdf, upstream: Option<Sbdf>, functions: &mut Functions) {
    let Ok(kind) = kind_of(config, function) else {
        return;
    };
    let device = Device {
        kind,
        is_virtual: false,
        acs_quirk: false,
        upstream,
        bars: None,
    };
    functions.insert(function, device);
    if kind.header_type() == 1 {
        let secondary = config.read_u8(function, 0x19).unwrap_or(0);
        if secondary > function.bus() {
            enumerate_bus(config, secondary, Some(function), functions);
        }
    }
}

/// Whether what a function is says `vendor` and `device`.
pub fn is(config: &Ecam, function: Sbdf, vendor: u16, device: u16) -> bool {
    let identity = u32::from(device) << 16 | u32::from(vendor);
    config.read_u32(function, 0) == Ok(identity)
}

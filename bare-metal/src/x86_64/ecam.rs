//! Configuration space of QEMU's q35.
//!
//! # Source
//! Intel 3 Series Express Chipset Family datasheet, 5.1.13, PCIEXBAR.
#![allow(unsafe_code, reason = "configuration space is raw memory")]

use kho::hal::{ConfigPorts, Ecam, PciConfigAccess, Sbdf};

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::memory::Frozen;

const HOST_BRIDGE: Sbdf = Sbdf::from_bdf(0, 0);
const IDENTITY: u32 = 0x29c0_8086;
const PCIEXBAR: u16 = 0x60;

/// Where the host bridge has configuration space mapped. It is asked through the ports, as it
/// cannot be asked through what it maps.
pub fn ecam(_: &Frozen, _: &Machine) -> Result<Ecam> {
    // SAFETY: `ConfigPorts::new`: this is a PC, nobody else runs, and we may access every port.
    let ports = unsafe { ConfigPorts::new() };
    let read = |offset| ports.read_u32(HOST_BRIDGE, offset).unwrap_or(0);
    if read(0) != IDENTITY {
        return Err(Error::missing("q35 host bridge"));
    }
    let (low, high) = (read(PCIEXBAR), read(PCIEXBAR + 4));
    let buses: u64 = match low >> 1 & 3 {
        0 => 256,
        1 => 128,
        2 => 64,
        _ => return Err(Error::missing("known length of configuration space")),
    };
    let base = (u64::from(high) << 32 | u64::from(low)) & !((buses << 20) - 1);
    if low & 1 == 0 || base >= 4 << 30 {
        return Err(Error::missing("configuration space below 4 GiB"));
    }
    // SAFETY: `Ecam::new`: the bridge decodes this window as configuration space from bus 0 on;
    // `paging` maps the first 4 GiB where they are, other than RAM as device memory.
    let ecam = unsafe { Ecam::new(base as usize, 0, 0..=(buses - 1) as u8) };
    if ecam.read_u32(HOST_BRIDGE, 0) != Ok(IDENTITY) {
        return Err(Error::missing("host bridge in configuration space"));
    }
    Ok(ecam)
}

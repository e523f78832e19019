//! What a program writes when it boots, whether or not there was an update.

use std::collections::BTreeMap;

use kho::hal::walk::CapId;
use kho::hal::{PciConfigAccess, PciError, Sbdf};
use kho::pci_lu::{Device, Kind};

use crate::machine::capability;

/// A write, and what became of it.
pub struct Written {
    pub result: Result<(), PciError>,
}

struct Boot<'b, C> {
    config: &'b C,
    function: Sbdf,
    written: &'b mut Vec<Written>,
}

impl<C: PciConfigAccess> Boot<'_, C> {
    fn u16(&mut self, offset: u16, change: impl FnOnce(u16) -> u16) {
        let now = self.config.read_u16(self.function, offset);
        let result = now.and_then(|now| self.config.write_u16(self.function, offset, change(now)));
        self.written.push(Written { result });
    }

    fn u32(&mut self, offset: u16, value: u32) {
        let result = self.config.write_u32(self.function, offset, value);
        self.written.push(Written { result });
    }

    fn cap(&self, id: CapId) -> Option<u16> {
        capability(self.config, self.function, id)
    }
}

/// Boots: enumeration, resources, drivers. A write that is refused is noted, and boot goes on.
pub fn boot(config: &impl PciConfigAccess, functions: &BTreeMap<Sbdf, Device>) -> Vec<Written> {
    let mut written = Vec::new();
    for (&function, device) in functions {
        let mut boot = Boot {
            config,
            function,
            written: &mut written,
        };
        enumerate(&mut boot, device);
    }
    written
}

/// Takes Bus Master away from everything, as a program does on its way out.
pub fn shut_down(
    config: &impl PciConfigAccess,
    functions: &BTreeMap<Sbdf, Device>,
) -> Vec<Written> {
    let mut written = Vec::new();
    for &function in functions.keys() {
        let mut boot = Boot {
            config,
            function,
            written: &mut written,
        };
        boot.u16(0x04, |command| command & !4);
    }
    written
}

fn enumerate<C: PciConfigAccess>(boot: &mut Boot<'_, C>, device: &Device) {
    // Interrupts first: INTx before what replaces it.
    boot.u16(0x04, |command| command | 0x400);
    for id in [0x05, 0x11] {
        if let Some(at) = boot.cap(CapId::Standard(id)) {
            boot.u16(at + 2, |control| control & !0x8001);
        }
    }
    if let Some(at) = boot.cap(CapId::Standard(0x01)) {
        boot.u16(at + 4, |_| 0x8000);
    }
    if !device.is_virtual {
        // BARs are sized with decoding off.
        boot.u16(0x04, |command| command & !3);
        let bars = if device.kind == Kind::Bridge {
            0x18
        } else {
            0x28
        };
        for bar in (0x10..bars).step_by(4) {
            let now = boot.config.read_u32(boot.function, bar).unwrap_or(0);
            boot.u32(bar, u32::MAX);
            boot.u32(bar, now);
        }
        boot.u16(0x04, |command| command | 2);
    }
    if device.kind == Kind::Bridge {
        // Numbers and windows from scratch.
        let numbers = boot.config.read_u32(boot.function, 0x18).unwrap_or(0);
        boot.u32(0x18, 0);
        boot.u32(0x18, numbers);
        boot.u16(0x3e, |control| control & !0x20);
        boot.u32(0x1c, 0xf0);
        boot.u32(0x20, 0xfff0);
    }
    if let Some(at) = boot.cap(CapId::Standard(0x10)) {
        boot.u16(at + 8, |control| control & !0x70e0 | 0x500f);
        boot.u16(at + 0x0a, |_| 0x0f);
        if device.kind == Kind::Bridge {
            boot.u16(at + 0x28, |control| control ^ 0x20);
            boot.u16(at + 0x10, |control| control | 0x60);
        }
    }
    if let Some(at) = boot.cap(CapId::Extended(0x01)) {
        boot.u32(at + 0x04, u32::MAX);
        boot.u32(at + 0x10, u32::MAX);
    }
    if let Some(at) = boot.cap(CapId::Extended(0x0d)) {
        boot.u16(at + 6, |_| 0x1f);
    }
    if let Some(at) = boot.cap(CapId::Extended(0x0f)) {
        boot.u16(at + 6, |_| 0x0001);
    }
    if let Some(at) = boot.cap(CapId::Extended(0x10)) {
        boot.u16(at + 0x08, |_| 0);
        boot.u32(at + 0x20, 1);
        boot.u16(at + 0x10, |_| 2);
    }
    // A driver has not been found yet.
    boot.u16(0x04, |command| command & !4);
}

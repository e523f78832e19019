//! Whether devices can still do DMA: an opinion of its own, which knows nothing of the policy.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeSet;
use std::sync::Mutex;

use kho_hal::sim::pci::SimBus;
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};
use kho_pci_lu::Kind;

use crate::machine::Devices;
use crate::pci;

/// A register that DMA depends on.
#[derive(Debug)]
struct Needed {
    what: &'static str,
    function: Sbdf,
    at: Access,
    mask: u32,
    value: u32,
}

/// A bus that is looked at after each write.
#[derive(Debug)]
pub struct Oracle {
    bus: &'static SimBus,
    needed: Vec<Needed>,
    broken: Mutex<Vec<String>>,
}

impl Oracle {
    /// Watches everything between each of `owned` and memory.
    pub fn new(bus: &'static SimBus, devices: &Devices, owned: &[Sbdf]) -> Self {
        let mut way = BTreeSet::new();
        for &function in owned {
            let mut next = Some(function);
            while let Some(function) = next {
                way.insert(function);
                next = devices[&function].upstream;
            }
        }
        let mut needed = Vec::new();
        for function in way {
            let kind = devices[&function].kind;
            let mut need = |what, offset, width, mask| {
                let at = pci::at(offset, width);
                let value = bus.peek(function, at) & mask;
                needed.push(Needed {
                    what,
                    function,
                    at,
                    mask,
                    value,
                });
            };
            let cap = |id| pci::find_cap(bus, function, id);
            need("identity", 0x02, Width::U16, 0xffff);
            if owned.contains(&function) || kind == Kind::Bridge {
                need("Bus Master", 0x04, Width::U16, 4);
            }
            if kind == Kind::Bridge {
                need("path", 0x18, Width::U32, 0x00ff_ffff);
                need("path", 0x20, Width::U32, u32::MAX);
                need("path", 0x3e, Width::U16, 0x40);
            }
            if kind == Kind::PeerEndpoint {
                need("target", 0x04, Width::U16, 2);
                for bar in (0x10..0x28).step_by(4) {
                    need("target", bar, Width::U32, u32::MAX);
                }
            }
            if let Some(at) = cap(pci::PM) {
                need("power", at + 4, Width::U16, 3);
            }
            if let Some(at) = cap(pci::EXP) {
                need("payload and tags", at + 8, Width::U16, 0x03e0);
                if kind == Kind::Bridge {
                    need("identity", at + 0x28, Width::U16, 0x20);
                    need("path", at + 0x10, Width::U16, 0x10);
                }
            }
            if let Some(at) = cap(pci::ACS) {
                need("translation", at + 6, Width::U16, 0xffff);
            }
            if let Some(at) = cap(pci::ATS) {
                let on = bus.peek(function, pci::at(at + 6, Width::U16)) & 0x8000 != 0;
                let mask = if on { 0x801f } else { 0x8000 };
                need("translation", at + 6, Width::U16, mask);
            }
            if let Some(at) = cap(pci::SRIOV)
                && kind.is_physical()
            {
                need("virtual functions", at + 8, Width::U16, 0x19);
                need("virtual functions", at + 0x10, Width::U16, 0xffff);
                need("virtual functions", at + 0x14, Width::U32, u32::MAX);
                need("virtual functions", at + 0x20, Width::U32, u32::MAX);
                need("virtual functions", at + 0x24, Width::U32, u32::MAX);
            }
        }
        let broken = Mutex::default();
        Self {
            bus,
            needed,
            broken,
        }
    }

    /// Each time that something was lost: by which write, and what.
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }
}

impl PciConfigAccess for Oracle {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.bus.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.bus.write(function, at, value)?;
        let lost = |need: &&Needed| self.bus.peek(need.function, need.at) & need.mask != need.value;
        if let Some(need) = self.needed.iter().find(lost) {
            self.broken.lock().unwrap().push(format!(
                "{function} {:#x} = {value:#x}: {} of {} is gone",
                at.offset(),
                need.what,
                need.function
            ));
        }
        Ok(())
    }
}

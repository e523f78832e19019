//! Whether the devices can still do DMA: an opinion of its own, which knows nothing of the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use kho::hal::sim::pci::SimBus;
use kho::hal::walk::CapId;
use kho::hal::{Access, PciConfigAccess, PciError, Sbdf, Width};
use kho::pci_lu::{Device, Kind};

use crate::machine::capability;

/// A register that DMA depends on.
struct Needed {
    what: &'static str,
    function: Sbdf,
    at: Access,
    mask: u32,
    value: u32,
}

/// A bus that is looked at after each write.
pub struct Watched {
    bus: SimBus,
    needed: Vec<Needed>,
    broken: Mutex<Vec<String>>,
}

impl Watched {
    /// Watches everything between each of `owned` and memory.
    pub fn new(bus: SimBus, owned: &[Sbdf], functions: &BTreeMap<Sbdf, Device>) -> Self {
        let mut way = BTreeSet::new();
        for &function in owned {
            let mut next = Some(function);
            while let Some(function) = next {
                way.insert(function);
                next = functions.get(&function).and_then(|device| device.upstream);
            }
        }
        let mut needed = Vec::new();
        for function in way {
            let kind = functions.get(&function).map(|device| device.kind);
            let mut need = |what, at: Option<u16>, mask| {
                let at = at.and_then(|at| Access::new(at, Width::U16).ok());
                if let Some(at) = at {
                    let value = bus.peek(function, at) & mask;
                    needed.push(Needed {
                        what,
                        function,
                        at,
                        mask,
                        value,
                    });
                }
            };
            let cap = |id, offset| Some(capability(&bus, function, id)? + offset);
            need("it answers", Some(0x02), 0xffff);
            if owned.contains(&function) || kind == Some(Kind::Bridge) {
                need("Bus Master", Some(0x04), 4);
            }
            if kind == Some(Kind::Bridge) {
                need("bus numbers", Some(0x18), 0xffff);
                need("bus numbers", Some(0x1a), 0x00ff);
            }
            need("power", cap(CapId::Standard(0x01), 4), 3);
            need("payload and tags", cap(CapId::Standard(0x10), 8), 0x03e0);
            // The unit means something only while translation is on.
            let ats = cap(CapId::Extended(0x0f), 6);
            let control = ats.and_then(|at| Access::new(at, Width::U16).ok());
            let on = control.is_some_and(|at| bus.peek(function, at) & 0x8000 != 0);
            need("translation", ats, if on { 0x801f } else { 0x8000 });
            need("redirection", cap(CapId::Extended(0x0d), 6), 0xffff);
            need("virtual functions", cap(CapId::Extended(0x10), 8), 0x19);
            need(
                "virtual functions",
                cap(CapId::Extended(0x10), 0x10),
                0xffff,
            );
        }
        let broken = Mutex::default();
        Self {
            bus,
            needed,
            broken,
        }
    }

    /// Each time that something was lost: by which write, and what.
    pub fn broken(&self) -> MutexGuard<'_, Vec<String>> {
        self.broken.lock().expect("nobody panics with it")
    }
}

impl PciConfigAccess for Watched {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.bus.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.bus.write(function, at, value)?;
        let lost = |need: &&Needed| self.bus.peek(need.function, need.at) & need.mask != need.value;
        if let Some(need) = self.needed.iter().find(lost) {
            self.broken().push(format!(
                "{function} {:#x} = {value:#x}: {} of {} is gone",
                at.offset(),
                need.what,
                need.function
            ));
        }
        Ok(())
    }
}

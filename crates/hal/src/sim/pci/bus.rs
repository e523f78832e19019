//! Many simulated functions behind one access method, which counts and records.

use std_alloc::collections::BTreeMap;
use std_alloc::vec::Vec;

use spin::mutex::SpinMutex;

use super::function::{Behaviour, Effect, ResetKind, SimFunction};
use crate::{Access, PciConfigAccess, PciError, Sbdf};

/// One access that reached the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which function.
    pub function: Sbdf,
    /// Which bytes.
    pub at: Access,
    /// What was read, or written.
    pub value: u32,
    /// Whether it was a write.
    pub write: bool,
}

/// Simulated functions, reached through [`PciConfigAccess`].
///
/// Routing follows the registers: a function put behind a bridge answers only while the bridge's
/// bus numbers cover its bus, the bridge itself answers, and nothing holds the link down. Virtual
/// functions appear and vanish with VF Enable.
#[derive(Debug, Default)]
pub struct SimBus {
    state: SpinMutex<State>,
}

#[derive(Debug, Default)]
struct State {
    functions: BTreeMap<Sbdf, Slot>,
    reads: u64,
    writes: u64,
    recording: bool,
    records: Vec<Record>,
    failing: u32,
}

#[derive(Debug)]
struct Slot {
    function: SimFunction,
    behind: Option<Sbdf>,
    present: bool,
    /// The physical function, for a virtual one.
    physical: Option<Sbdf>,
}

impl SimBus {
    /// A bus without functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a function on a root bus, in place of what was there.
    pub fn add(&self, at: Sbdf, function: SimFunction) {
        self.insert(at, function, None);
    }

    /// Puts a function behind `bridge`, which is on this bus too.
    pub fn add_behind(&self, bridge: Sbdf, at: Sbdf, function: SimFunction) {
        self.insert(at, function, Some(bridge));
    }

    fn insert(&self, at: Sbdf, function: SimFunction, behind: Option<Sbdf>) {
        let slot = Slot {
            function,
            behind,
            present: true,
            physical: None,
        };
        self.state.lock().functions.insert(at, slot);
    }

    /// Pulls the function out, or puts it back as it was, as a device does that leaves the bus.
    pub fn set_present(&self, at: Sbdf, present: bool) {
        if let Some(slot) = self.state.lock().functions.get_mut(&at) {
            slot.present = present;
        }
    }

    /// Every function there is, in address order; also those that do not answer now.
    pub fn functions(&self) -> Vec<Sbdf> {
        self.state.lock().functions.keys().copied().collect()
    }

    /// What the function would answer, without counting, recording or changing anything.
    pub fn peek(&self, at: Sbdf, access: Access) -> u32 {
        let state = self.state.lock();
        match state.functions.get(&at) {
            Some(slot) if state.reachable(at) && !slot.function.is_busy() => {
                slot.function.peek(access)
            }
            _ => access.width().mask(),
        }
    }

    /// Changes a register as the device itself would, whatever its access type.
    pub fn poke(&self, at: Sbdf, access: Access, value: u32) {
        if let Some(slot) = self.state.lock().functions.get_mut(&at) {
            slot.function.poke(access, value);
        }
    }

    /// Resets one function from outside, as its power supply or firmware would.
    pub fn reset(&self, at: Sbdf, kind: ResetKind) {
        let mut state = self.state.lock();
        if let Some(slot) = state.functions.get_mut(&at) {
            slot.function.reset(kind);
        }
        state.place_virtual_functions(at);
    }

    /// Reads that arrived, absent functions included.
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// Writes that arrived.
    pub fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// Starts or stops recording each access.
    pub fn record(&self, on: bool) {
        self.state.lock().recording = on;
    }

    /// The accesses recorded since the last call.
    pub fn take_records(&self) -> Vec<Record> {
        core::mem::take(&mut self.state.lock().records)
    }

    /// The next `count` accesses fail and reach no function.
    pub fn fail_next(&self, count: u32) {
        self.state.lock().failing = count;
    }
}

impl State {
    /// Whether every bridge on the way forwards to the function.
    fn reachable(&self, at: Sbdf) -> bool {
        let Some(slot) = self.functions.get(&at) else {
            return false;
        };
        // A virtual function answers where its physical one does.
        let (mut here, mut slot) = match slot.physical.map(|at| (at, self.functions.get(&at))) {
            None => (at, slot),
            Some((physical, Some(slot))) => (physical, slot),
            Some((_, None)) => return false,
        };
        for _ in 0..256 {
            if !slot.present {
                return false;
            }
            let Some(bridge_at) = slot.behind else {
                return true;
            };
            let Some(bridge) = self.functions.get(&bridge_at) else {
                return false;
            };
            let (secondary, subordinate) = bridge.function.buses();
            let forwarded = (secondary..=subordinate).contains(&at.bus());
            let hidden = here.device() != 0 && bridge.function.hides_devices();
            if !forwarded || hidden || bridge.function.is_closed() {
                return false;
            }
            (here, slot) = (bridge_at, bridge);
        }
        false
    }

    /// Ends: a bridge that was reached is below a root bus, so it is not below itself.
    fn reset_below(&mut self, bridge: Sbdf) {
        let below = |(at, slot): (&Sbdf, &Slot)| (slot.behind == Some(bridge)).then_some(*at);
        let below: Vec<Sbdf> = self.functions.iter().filter_map(below).collect();
        for at in below {
            if let Some(slot) = self.functions.get_mut(&at) {
                slot.function.reset(ResetKind::Cold);
            }
            self.place_virtual_functions(at);
            self.reset_below(at);
        }
    }

    /// Makes the virtual functions that the SR-IOV registers of `physical` now call for.
    fn place_virtual_functions(&mut self, physical: Sbdf) {
        let Some(slot) = self.functions.get(&physical) else {
            return;
        };
        let sriov = slot.function.behaviours.iter().find_map(|b| match b {
            Behaviour::Sriov { at, shape } => Some((*at, shape.template.clone())),
            _ => None,
        });
        let Some((at, template)) = sriov else { return };
        let registers = &slot.function.registers;
        let enabled = registers.value(at + 8, 2) & 1 != 0;
        let total = registers.value(at + 0x0e, 2);
        let count = if enabled {
            registers.value(at + 0x10, 2).min(total)
        } else {
            0
        };
        let (offset, stride) = (registers.value(at + 0x14, 2), registers.value(at + 0x16, 2));
        let places: Vec<Sbdf> = (0..count)
            .map(|n| u32::from(physical.bdf()) + offset + n * stride)
            .filter_map(|id| Some(Sbdf::from_bdf(physical.segment(), id.try_into().ok()?)))
            .collect();
        self.functions
            .retain(|at, slot| slot.physical != Some(physical) || places.contains(at));
        for place in places {
            self.functions.entry(place).or_insert_with(|| Slot {
                function: template.clone(),
                behind: None,
                present: true,
                physical: Some(physical),
            });
        }
    }

    fn arrive(&mut self, function: Sbdf, at: Access) -> Result<(), PciError> {
        if self.failing > 0 {
            self.failing -= 1;
            let offset = at.offset();
            return Err(PciError::Failed { function, offset });
        }
        Ok(())
    }

    fn note(&mut self, record: Record) {
        if self.recording {
            self.records.push(record);
        }
    }
}

impl PciConfigAccess for SimBus {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let mut state = self.state.lock();
        state.reads += 1;
        state.arrive(function, at)?;
        let reachable = state.reachable(function);
        let value = match state.functions.get_mut(&function) {
            Some(slot) if reachable => slot.function.read(at),
            _ => at.width().mask(),
        };
        let write = false;
        state.note(Record {
            function,
            at,
            value,
            write,
        });
        Ok(value)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let mut state = self.state.lock();
        state.writes += 1;
        state.arrive(function, at)?;
        let write = true;
        state.note(Record {
            function,
            at,
            value,
            write,
        });
        if !state.reachable(function) {
            return Ok(());
        }
        let effects = match state.functions.get_mut(&function) {
            Some(slot) => slot.function.write(at, value),
            None => Vec::new(),
        };
        for effect in effects {
            match effect {
                Effect::ResetBelow => state.reset_below(function),
                Effect::VirtualFunctions => state.place_virtual_functions(function),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

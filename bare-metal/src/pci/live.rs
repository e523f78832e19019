//! A function whose DMA goes on while one program ends and the next begins.
//!
//! The first program has the device copy a pattern out of memory into its buffer, preserves the
//! device and a page, and jumps while the device is copying the buffer to that page. The second
//! boots with the writes of any boot, under the guard of `kho::pci_lu`, and looks at the page.
//! `guard=off` boots without it, to show what the guard is for.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use core::convert::Infallible;

use kho::abi::pci::v2::NAME;
use kho::core::outgoing::OutgoingError;
use kho::core::outgoing::luo::{LiveFile, Luo};
use kho::hal::{Ecam, PciConfigAccess, PhysAddr, PhysMem, Sbdf};
use kho::pci_lu::{Device, OutgoingForm, Record, Registry, UpdateError};
use kho_interop_plan::{DMA_SEED, fill};
use serde_json::json;

use super::edu::{BUFFER, DEVICE, Edu, VENDOR};
use super::{Functions, enumerate, is};
use crate::arch;
use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::make::{self, Begun};
use crate::memory::Frozen;
use crate::next::Next;
use crate::say::{Sum, fact};
use crate::take_over;

const SESSION: &str = "guest";
const TOKEN: u64 = 1;

const COMMAND: u16 = 0x04;
const MEMORY_AND_BUS_MASTER: u16 = 6;
const BUS_MASTER: u16 = 4;
const BUS_NUMBERS: u16 = 0x18;

/// The device as a file; its number is the page that the device writes to.
struct DeviceFile(PhysAddr);

impl<T> LiveFile<T> for DeviceFile {
    fn compatible(&self) -> &str {
        "bare-metal-edu"
    }

    fn identity(&self) -> u64 {
        1
    }

    fn flbs(&self) -> &[&str] {
        &[NAME]
    }

    fn preserve(&mut self, _: &T) -> core::result::Result<u64, OutgoingError> {
        Ok(self.0.as_u64())
    }

    fn unpreserve(&mut self, _: &T) {}
}

/// Starts the DMA and jumps.
pub fn first(memory: &Frozen, machine: &Machine) -> Result<Infallible> {
    let guard = machine.option("guard").unwrap_or("on");
    let line = format!("interop=live-second guard={guard}");
    let next = Next::ourselves(memory, machine, line)?;
    let config = arch::ecam(memory, machine)?;
    let functions = enumerate(&config);
    let device = find(&config, &functions)?;
    for function in way(&functions, device) {
        set(&config, function, COMMAND, MEMORY_AND_BUS_MASTER)?;
    }
    let edu = Edu::new(&config, device)?;

    let Begun {
        mut outgoing,
        map,
        mut room,
        ..
    } = make::begin(machine)?;
    let tracker = outgoing.tracker();
    let (target, _) = tracker.alloc_preserved(BUFFER)?;
    let (source, _) = tracker.alloc_preserved(BUFFER)?;
    let mut pattern = [0; BUFFER as usize];
    fill(DMA_SEED, 0, &mut pattern);
    map.write(source, &pattern)?;
    edu.load(source);
    edu.wait();

    let registry: Registry<Ecam> = Registry::new(config);
    let mut luo = Luo::new(&outgoing, 0)?;
    luo.register_flb(tracker, registry.object(OutgoingForm::V2))?;
    luo.create_session(tracker, SESSION)?;
    luo.preserve_file(tracker, SESSION, TOKEN, Box::new(DeviceFile(target)))?;
    let topology = |function: Sbdf| -> Option<Device> { functions.get(&function).copied() };
    let preserved = registry.preserve(tracker, &topology, device);
    preserved.map_err(|error| Error::Other(error.to_string()))?;
    let array = room.take(PAGE.bytes(), PAGE.bytes(), 0, u64::MAX)?;
    let boot = outgoing.finalize(array, &mut [&mut luo])?.hand_over();
    edu.store(target);
    fact(
        "live",
        json!({ "device": device.to_string(), "functions": registry.outgoing_count() }),
    );
    // What any program does on its way out.
    let refused = off(&registry.config(), &functions);
    fact(
        "shutdown",
        json!({ "refused": refused, "busy": edu.is_busy() }),
    );
    arch::boot(memory, map, &mut room, machine, &next, Some(&boot))
}

/// Boots as any program does, and looks at what the device wrote.
pub fn second(memory: &Frozen, machine: &Machine) -> Result<()> {
    let config = arch::ecam(memory, machine)?;
    let functions = enumerate(&config);
    let device = find(&config, &functions)?;
    let edu = Edu::new(&config, device)?;
    let busy_at_entry = edu.is_busy();

    let incoming = take_over::check(memory, machine, machine.handover.clone()?)?;
    let mut workspace = vec![0; 4096];
    let record = Record::read(&incoming, &mut workspace);
    let record = record.map_err(|error| Error::Other(error.to_string()))?;
    let record = record.ok_or(Error::missing("record of functions"))?;
    let registry: Registry<Ecam> = Registry::new(config.clone());
    let words = |error: UpdateError| Error::Other(error.to_string());
    let received = registry.receive::<Frozen>(&record, None).map_err(words)?;
    let mut taken = 0;
    for &function in functions.keys() {
        taken += u64::from(registry.set_up(function).map_err(words)?);
    }
    let topology = |function: Sbdf| -> Option<Device> { functions.get(&function).copied() };
    let updated = received.verify(&topology);
    let updated = updated.map_err(|refused| Error::Other(refused.to_string()))?;

    let refused = if machine.option("guard") == Some("off") {
        off(&config, &functions)
    } else {
        off(&registry.config(), &functions)
    };
    let busy_after_writes = edu.is_busy();
    edu.wait();
    let luo = incoming.luo().known().ok_or(Error::missing("LUO"))?;
    let session = luo.session_named(SESSION);
    let file = session.and_then(|session| session.file(TOKEN));
    let target = PhysAddr::new(file.ok_or(Error::missing("device"))?.data());
    let bytes = incoming.bytes(target, BUFFER, &mut workspace)?;
    fact(
        "dma",
        json!({
            "functions": taken,
            "busy_at_entry": busy_at_entry,
            "refused": refused,
            "busy_after_writes": busy_after_writes,
            "sha256": Sum::of(bytes),
        }),
    );
    let _ = updated.finish(device).map_err(words)?;
    let refused = off(&registry.config(), &functions);
    fact("finished", json!({ "refused": refused }));
    Ok(())
}

fn find(config: &Ecam, functions: &Functions) -> Result<Sbdf> {
    let mut all = functions.keys().copied();
    let edu = all.find(|&function| is(config, function, VENDOR, DEVICE));
    edu.ok_or(Error::missing("edu"))
}

/// A function, and the bridges between it and memory.
fn way(functions: &Functions, from: Sbdf) -> impl Iterator<Item = Sbdf> {
    core::iter::successors(Some(from), |function| functions.get(function)?.upstream)
}

fn set(config: &impl PciConfigAccess, function: Sbdf, offset: u16, bits: u16) -> Result<()> {
    let now = config.read_u16(function, offset);
    let result = now.and_then(|now| config.write_u16(function, offset, now | bits));
    result.map_err(|error| Error::Other(error.to_string()))
}

/// Takes Bus Master from everything and bus numbers from bridges: what a boot or a shutdown does.
/// Returns how many writes were refused.
fn off(config: &impl PciConfigAccess, functions: &Functions) -> u64 {
    let mut refused = 0;
    for (&function, device) in functions {
        if device.kind.header_type() == 1 {
            let numbers = config.read_u32(function, BUS_NUMBERS).unwrap_or(0);
            if config.write_u32(function, BUS_NUMBERS, 0).is_ok() {
                let _ = config.write_u32(function, BUS_NUMBERS, numbers);
            } else {
                refused += 1;
            }
        }
        let command = config.read_u16(function, COMMAND).unwrap_or(0);
        let write = config.write_u16(function, COMMAND, command & !BUS_MASTER);
        refused += u64::from(write.is_err());
    }
    refused
}

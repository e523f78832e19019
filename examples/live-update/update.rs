//! The update: out of one program, into the next.

use std::error::Error;

use kho::abi::pci::{functions, v2};
use kho::core::incoming::{Incoming, Machine as Layout};
use kho::core::outgoing::luo::{LiveFile, Luo};
use kho::core::outgoing::{Outgoing, OutgoingError};
use kho::core::{BootData, Tracker};
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{PageSize, PhysAddr, PhysRange, Sbdf};
use kho::pci_lu::{Functions, OutgoingForm, Record, Registry, Setting, Settings};
use kho_draw::MemoryMap;

use crate::boot::{self, Written};
use crate::log::Log;
use crate::machine::Machine;
use crate::oracle::Watched;

const PAGE: PageSize = PageSize::Size4K;
const RAM: u64 = 16 << 20;
const SCRATCH: u64 = 8 << 20;

/// The guest's devices, as a file that is preserved.
struct Devices;

impl<T> LiveFile<T> for Devices {
    fn compatible(&self) -> &str {
        "example-devices"
    }
    fn identity(&self) -> u64 {
        1
    }
    fn flbs(&self) -> &[&str] {
        &[v2::NAME, functions::NAME]
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(0)
    }
    fn unpreserve(&mut self, _: &T) {}
}

/// What two programs wrote.
pub struct Update {
    /// The outgoing one, after FREEZE.
    pub shutdown: Vec<Written>,
    /// The incoming one, before FINISH.
    pub boot: Vec<Written>,
    /// The incoming one, after FINISH.
    pub after: Vec<Written>,
    /// The memory that was handed over.
    pub map: MemoryMap,
}

/// The whole update.
pub fn run(log: &Log, machine: &Machine) -> Result<Update, Box<dyn Error>> {
    let ram = PhysRange::new(PhysAddr::new(0), RAM).ok_or("no memory")?;
    let mut memory = SimMemory::new([ram])?;
    let (boot, shutdown) = outgoing(log, machine, &memory)?;

    log.step("incoming", "jump; the record is checked");
    let frozen = memory.freeze();
    let mut workspace = vec![0; 4096];
    let incoming = Incoming::check(&frozen, boot, Layout::unknown(PAGE), &mut workspace)?;
    let known = Functions::read(&incoming, &mut workspace)?;
    let record = Record::read(&incoming, &mut workspace)?.ok_or("there is no record")?;
    let registry: Registry<&'static Watched> = Registry::new(machine.config);
    let received = registry.receive(&record, known.as_ref())?;
    log.step("incoming", "enumeration: nothing is written");
    let map = MemoryMap::of([ram], &incoming);
    let mut found = 0;
    for &function in machine.functions.keys() {
        found += usize::from(registry.set_up(function)?);
    }
    let updated = received.verify(&machine.topology())?;
    println!(
        "incoming     {found} of {} functions",
        machine.functions.len()
    );
    log.step("incoming", "boot, under the policy");
    let written = boot::boot(&registry.config(), &machine.functions);
    log.step("incoming", "drivers take over");
    for &function in &machine.owned {
        take_over(&registry, function)?;
        updated.own_interrupts(function)?;
    }
    // From here on the guest's drivers may do as they please, and the oracle's part is over.
    let safe = machine.config.broken().is_empty();
    log.step("incoming", "FINISH");
    let mut interrupts = Vec::new();
    for &function in &machine.owned {
        let finished = updated.finish(function)?;
        interrupts.extend(finished.interrupts);
    }
    updated.close()?;
    println!("FINISH       one interrupt each for {}", list(&interrupts));
    log.step("incoming", "boot again, all goes through");
    let after = boot::boot(&registry.config(), &machine.functions);
    if safe {
        machine.config.broken().clear();
    }
    Ok(Update {
        shutdown,
        boot: written,
        after,
        map,
    })
}

/// A driver and the IOMMU's take a function over as it is: they ask for what it holds.
fn take_over(registry: &Registry<&'static Watched>, function: Sbdf) -> Result<(), Box<dyn Error>> {
    let found = registry.config().init(function, &[])?;
    let ask = |settings: &Settings, setting: Setting| Some(setting.to(settings.get(setting)?));
    let wanted = [Setting::BusMaster, Setting::Ats, Setting::AtsUnit];
    let wanted: Vec<_> = wanted.iter().filter_map(|&s| ask(&found, s)).collect();
    let settings = registry.config().set(function, &wanted)?;
    if settings != found {
        return Err(format!("{function} changed while it was taken over").into());
    }
    let bars = registry.bars(function)?.bars;
    let bars: Vec<_> = bars.iter().filter(|log2| **log2 > 0).collect();
    println!(
        "taken over   {function}: Bus Master {}, ATS {}, BARs of 2^{bars:?} bytes",
        found.get(Setting::BusMaster).unwrap_or(0),
        found.get(Setting::Ats).unwrap_or(0),
    );
    Ok(())
}

fn list(functions: &[Sbdf]) -> String {
    let names: Vec<_> = functions.iter().map(ToString::to_string).collect();
    names.join(" ")
}

fn outgoing(
    log: &Log,
    machine: &Machine,
    memory: &SimMemory,
) -> Result<(BootData, Vec<Written>), Box<dyn Error>> {
    log.step("outgoing", "PREPARE: files and functions");
    let heap = PhysRange::new(PhysAddr::new(1 << 20), 4 << 20).ok_or("no heap")?;
    let scratch = [PhysRange::new(PhysAddr::new(SCRATCH), 1 << 20).ok_or("no scratch")?];
    let alloc = SimAlloc::new(memory, PAGE, [heap]);
    let mut outgoing = Outgoing::new(Tracker::new(memory, &alloc, PAGE, &scratch)?)?;
    let mut luo = Luo::new(&outgoing, 0)?;
    let registry: Registry<&'static Watched> = Registry::new(machine.config);
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, registry.object(OutgoingForm::V2))?;
    luo.register_flb(tracker, registry.facts_object())?;
    luo.create_session(tracker, "guest")?;
    luo.preserve_file(tracker, "guest", 1, Box::new(Devices))?;
    for &function in &machine.owned {
        registry.preserve(tracker, &machine.topology(), function)?;
    }
    let count = registry.outgoing_count();
    println!(
        "outgoing     {} functions for {} of the guest's",
        count,
        machine.owned.len()
    );
    log.step("outgoing", "FREEZE: the record is written");
    let boot = outgoing
        .finalize(PhysAddr::new(SCRATCH), &mut [&mut luo])?
        .hand_over();
    log.step("outgoing", "shutdown, under the policy");
    let shutdown = boot::shut_down(&registry.config(), &machine.functions);
    Ok((boot, shutdown))
}

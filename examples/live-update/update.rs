//! The update: out of one program, into the next.

use std::error::Error;

use kho::abi::pci::v2::NAME;
use kho::core::incoming::{Incoming, Machine as Layout};
use kho::core::outgoing::luo::{LiveFile, Luo};
use kho::core::outgoing::{Outgoing, OutgoingError};
use kho::core::{BootData, Tracker};
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{PageSize, PhysAddr, PhysRange, Sbdf};
use kho::pci_lu::{Record, Registry};

use crate::boot::{self, Written};
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
        &[NAME]
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
}

/// The whole update.
pub fn run(machine: &Machine) -> Result<Update, Box<dyn Error>> {
    let ram = PhysRange::new(PhysAddr::new(0), RAM).ok_or("no memory")?;
    let mut memory = SimMemory::new([ram])?;
    let (boot, shutdown) = outgoing(machine, &memory)?;

    let frozen = memory.freeze();
    let mut workspace = vec![0; 4096];
    let incoming = Incoming::check(&frozen, boot, Layout::unknown(PAGE), &mut workspace)?;
    let record = Record::read(&incoming, &mut workspace)?.ok_or("there is no record")?;
    let registry: Registry<&'static Watched> = Registry::new(machine.config);
    registry.receive(&record)?;
    let mut found = 0;
    for (&function, device) in &machine.functions {
        found += usize::from(registry.set_up(function, device.kind)?);
    }
    if let Some(missing) = registry.missing(Sbdf::from_bdf(0, 0)) {
        return Err(format!("{missing} is gone").into());
    }
    registry.check_counts(&machine.topology())?;
    println!(
        "incoming     {found} of {} functions",
        machine.functions.len()
    );
    let written = boot::boot(registry.config(), &machine.functions);
    // From here on the guest's drivers may do as they please, and the oracle's part is over.
    let safe = machine.config.broken().is_empty();
    for &function in &machine.owned {
        registry.finish(&machine.topology(), function)?;
    }
    let after = boot::boot(registry.config(), &machine.functions);
    if safe {
        machine.config.broken().clear();
    }
    Ok(Update {
        shutdown,
        boot: written,
        after,
    })
}

fn outgoing(
    machine: &Machine,
    memory: &SimMemory,
) -> Result<(BootData, Vec<Written>), Box<dyn Error>> {
    let heap = PhysRange::new(PhysAddr::new(1 << 20), 4 << 20).ok_or("no heap")?;
    let scratch = [PhysRange::new(PhysAddr::new(SCRATCH), 1 << 20).ok_or("no scratch")?];
    let alloc = SimAlloc::new(memory, PAGE, [heap]);
    let mut outgoing = Outgoing::new(Tracker::new(memory, &alloc, PAGE, &scratch)?)?;
    let mut luo = Luo::new(&outgoing, 0)?;
    let registry: Registry<&'static Watched> = Registry::new(machine.config);
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, registry.object())?;
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
    let frozen = registry.freeze()?;
    let boot = outgoing
        .finalize(PhysAddr::new(SCRATCH), &mut [&mut luo])?
        .hand_over();
    frozen.jump();
    let shutdown = boot::shut_down(registry.config(), &machine.functions);
    Ok((boot, shutdown))
}

//! A small simulated machine that hands objects over.
#![allow(dead_code, reason = "each test uses a part")]

use kho_core::BootData;
use kho_core::incoming::{Incoming, Machine};
use kho_core::outgoing::luo::{Flb, LiveFile, Luo};
use kho_core::outgoing::{Outgoing, OutgoingError, Tracker};
use kho_hal::sim::{FrozenSim, SimAlloc, SimMemory};
use kho_hal::{PageSize, PhysAddr, PhysRange};

pub const PAGE: PageSize = PageSize::Size4K;

pub type SimTracker<'m> = Tracker<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;

pub fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

pub fn memory() -> SimMemory {
    SimMemory::new([range(0, 16 << 20)]).unwrap()
}

pub fn alloc(memory: &SimMemory) -> SimAlloc<&SimMemory> {
    SimAlloc::new(memory, PAGE, [range(1 << 20, 14 << 20)])
}

pub const SCRATCH: (u64, u64) = (15 << 20, 1 << 20);

/// An object that somebody else has preserved already.
pub struct Raw(pub &'static str, pub u64);

impl<T> Flb<T> for Raw {
    fn name(&self) -> &str {
        self.0
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(self.1)
    }
    fn unpreserve(&mut self, _: &T) {}
}

/// A file without contents that needs objects.
pub struct File(pub u64, pub Vec<&'static str>);

impl<T> LiveFile<T> for File {
    fn compatible(&self) -> &str {
        "device"
    }
    fn identity(&self) -> u64 {
        self.0
    }
    fn flbs(&self) -> &[&str] {
        &self.1
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(0)
    }
    fn unpreserve(&mut self, _: &T) {}
}

/// Hands over the objects that `build` makes, by name and number.
pub fn hand_over(
    memory: &SimMemory,
    build: impl FnOnce(&SimTracker<'_>) -> Vec<(&'static str, u64)>,
) -> BootData {
    let alloc = alloc(memory);
    let scratch = [range(SCRATCH.0, SCRATCH.1)];
    let tracker = Tracker::new(memory, &alloc, PAGE, &scratch).unwrap();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let tracker = outgoing.tracker();
    let objects = build(tracker);
    let names = objects.iter().map(|object| object.0).collect();
    for (name, data) in objects {
        luo.register_flb(tracker, Box::new(Raw(name, data)))
            .unwrap();
    }
    luo.create_session(tracker, "vm").unwrap();
    luo.preserve_file(tracker, "vm", 1, Box::new(File(1, names)))
        .unwrap();
    outgoing
        .finalize(PhysAddr::new(SCRATCH.0), &mut [&mut luo])
        .unwrap()
        .hand_over()
}

pub fn check<'a>(memory: &'a FrozenSim<'a>, boot: BootData) -> Incoming<'a, FrozenSim<'a>> {
    Incoming::check(memory, boot, Machine::unknown(PAGE), &mut [0; 4096]).unwrap()
}

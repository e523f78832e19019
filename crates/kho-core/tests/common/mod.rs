//! A small simulated machine for each page size.
#![allow(dead_code, reason = "each test uses a part")]

pub mod tree;

use kho_core::BootData;
use kho_core::incoming::{Incoming, IncomingError, Machine};
use kho_core::outgoing::Tracker;
use kho_hal::sim::{FrozenSim, SimAlloc, SimMemory};
use kho_hal::{Order, PageSize, PhysAddr, PhysRange};

pub fn addr(addr: u64) -> PhysAddr {
    PhysAddr::new(addr)
}

pub fn order(order: u32) -> Order {
    Order::new(order).unwrap()
}

pub fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(addr(start), size).unwrap()
}

/// Pages of the machine's memory: first page and number of pages.
pub fn pages(page: PageSize, first: u64, count: u64) -> PhysRange {
    range(first * page.bytes(), count * page.bytes())
}

/// What lives where, in pages. Everything above is what tests preserve; there is no memory behind
/// it, as preserving does not touch it.
pub const HEAP: (u64, u64) = (16, 496);
pub const SCRATCH: (u64, u64) = (512, 32);
pub const FREE: u64 = 1024;

/// A machine of which the heap and scratch are memory.
pub struct Sim {
    pub memory: SimMemory,
    pub page: PageSize,
    pub scratch: [PhysRange; 1],
}

pub type SimTracker<'m> = Tracker<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;

impl Sim {
    pub fn new(page: PageSize) -> Self {
        let memory = SimMemory::new([pages(page, 0, FREE)]).unwrap();
        let scratch = [pages(page, SCRATCH.0, SCRATCH.1)];
        Self {
            memory,
            page,
            scratch,
        }
    }

    pub fn alloc(&self) -> SimAlloc<&SimMemory> {
        SimAlloc::new(&self.memory, self.page, [pages(self.page, HEAP.0, HEAP.1)])
    }

    pub fn tracker<'m>(&'m self, alloc: &'m SimAlloc<&'m SimMemory>) -> SimTracker<'m> {
        Tracker::new(&self.memory, alloc, self.page, &self.scratch).unwrap()
    }

    /// Where the list of scratch areas goes.
    pub fn scratch_array(&self) -> PhysAddr {
        self.scratch[0].start()
    }

    pub fn machine(&self) -> Machine<'static> {
        Machine::unknown(self.page)
    }
}

pub fn check<'a>(
    memory: &'a FrozenSim<'a>,
    boot: BootData,
    page_size: PageSize,
) -> Result<Incoming<'a, FrozenSim<'a>>, IncomingError> {
    Incoming::check(memory, boot, Machine::unknown(page_size), &mut [0; 64])
}

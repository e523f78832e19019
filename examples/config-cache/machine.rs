//! The memory that two programs share, and the way of a saved cache through it.

use kho::core::Tracker;
use kho::core::outgoing::{Outgoing, OutgoingError};
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{Order, PageSize, PciConfigAccess, PhysAddr, PhysMem, PhysRange};
use kho::pcsc::{Cached, Saved, Variant};

/// Page size of the simulated machine.
pub const PAGE: PageSize = PageSize::Size4K;
const BASE: u64 = 16 << 20;

/// Memory of `bytes` bytes.
pub fn memory(bytes: u64) -> Result<SimMemory, String> {
    SimMemory::new(range(0, bytes)).map_err(|error| error.to_string())
}

/// An allocator of the part of the memory from `from` on.
pub fn pages(memory: &SimMemory, from: u64, bytes: u64) -> SimAlloc<&SimMemory> {
    SimAlloc::new(memory, PAGE, range(from, bytes))
}

fn range(from: u64, bytes: u64) -> Option<PhysRange> {
    PhysRange::new(PhysAddr::new(BASE + from), bytes)
}

/// Saves a cache, and reads it as the next program does, which has the sub-blob and the
/// predecessor's map of preserved memory. `saved` is called between
/// the two, with the size of the sub-blob in bytes.
pub fn hand_over<C: PciConfigAccess>(
    cache: &Cached<'_, C>,
    memory: &SimMemory,
    pages: &SimAlloc<&SimMemory>,
    saved: impl FnOnce(usize),
) -> Result<Saved, String> {
    let words = |error: OutgoingError| error.to_string();
    let tracker = Tracker::new(memory, pages, PAGE, &[]).map_err(words)?;
    let outgoing = Outgoing::new(tracker).map_err(words)?;
    cache.save(&outgoing).map_err(words)?;
    let blob = outgoing.find("pcsc").ok_or("nothing was saved")?;
    let mut bytes = vec![0; blob.size() as usize];
    memory
        .read(blob.start(), &mut bytes)
        .map_err(|error| error.to_string())?;
    saved(bytes.len());
    let order = Order::new(1).ok_or("no order 1")?;
    let is_preserved = |addr| outgoing.tracker().is_preserved(addr, order);
    Saved::read(&bytes, Variant::Extended, is_preserved).map_err(|error| error.to_string())
}

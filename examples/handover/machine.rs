//! The simulated machine, and what both programs know of the guest.

use std::sync::atomic::Ordering;

use kho::core::incoming::Folio;
use kho::hal::sim::SimMemory;
use kho::hal::{Order, PageSize, PhysAddr, PhysMem, PhysRange};

pub const PAGE: PageSize = PageSize::Size4K;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Start and size of each piece of RAM.
pub const RAM: [(u64, u64); 2] = [(0, 256 * MIB), (4 * GIB, GIB + 256 * MIB)];

/// Where a successor starts.
pub const SCRATCH: [(u64, u64); 1] = [(64 * MIB, 64 * MIB)];

/// Where the outgoing program allocates.
pub const HEAP: (u64, u64) = (128 * MIB, 64 * MIB);

/// A region that lives under a name.
pub const OOPS: (u64, u64) = (200 * MIB, MIB);

/// The list of scratch areas, at the end of scratch.
pub const SCRATCH_ARRAY: u64 = 128 * MIB - PAGE.bytes();

pub fn range((start, size): (u64, u64)) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).expect("the machine's ranges do not wrap")
}

/// The guest's memory: one folio of 1 GiB, 32 of 2 MiB, and 4096 single pages, every other page of
/// a stretch. With each folio comes its place in the guest's memory file, in pages.
pub fn guest() -> Vec<(u64, Folio)> {
    let folio = |addr, order| Folio {
        addr: PhysAddr::new(addr),
        order: Order::new(order).expect("a small order"),
    };
    let huge = std::iter::once(folio(4 * GIB, 18));
    let large = (0..32).map(|i| folio(5 * GIB + i * 2 * MIB, 9));
    let small = (0..4096).map(|i| folio(5 * GIB + 128 * MIB + i * 2 * PAGE.bytes(), 0));
    let mut index = 0;
    let place = |folio: Folio| {
        let at = index;
        index += folio.order.pages();
        (at, folio)
    };
    huge.chain(large).chain(small).map(place).collect()
}

/// What memory at `addr` holds: different in each word, and nothing that poison looks like.
pub fn pattern(addr: u64) -> u64 {
    (addr ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1
}

/// Fills `range` with the pattern.
pub fn fill(memory: &SimMemory, range: PhysRange) -> Result<(), kho::hal::MemError> {
    let words = memory.words(range.start(), (range.size() / 8) as usize)?;
    for (i, word) in words.iter().enumerate() {
        word.store(
            pattern(range.start().as_u64() + i as u64 * 8),
            Ordering::Relaxed,
        );
    }
    Ok(())
}

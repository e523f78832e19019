//! What the benchmarks and the measurements of memory share: a machine's memory, sets of folios,
//! and Linux's own tree.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]

pub mod arena;
pub mod calls;
pub mod handovers;
#[cfg(linux_peer)]
pub mod linux;
pub mod sets;
pub mod stack;

use kho::core::BootData;
use kho::core::incoming::{Incoming, IncomingError, Machine, Ram};
use kho::core::outgoing::{Outgoing, Tracker};
use kho::hal::{DirectMap, FrozenDirectMap, Order, PageSize, PhysAddr, PhysRange};

use arena::Arena;

/// The page size of all of it.
pub const PAGE: PageSize = PageSize::Size4K;

/// Room for the tables of any set, or for a thousand sessions.
pub const ROOM: u64 = 64 << 20;

/// A tracker whose tree lies in an [`Arena`].
pub type ArenaTracker<'a> = Tracker<'a, DirectMap<'a>, &'a Arena>;

/// `size` bytes from `start`.
pub fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

/// An empty tree in `arena`.
pub fn tracker(arena: &Arena) -> ArenaTracker<'_> {
    Tracker::new(arena.map(), arena, PAGE, &arena.scratch).unwrap()
}

/// Hands over what `tracker` tracks.
pub fn hand_over(tracker: ArenaTracker<'_>) -> BootData {
    let array = tracker.scratch()[0].start();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    outgoing.finalize(array, &mut []).unwrap().hand_over()
}

/// A handover of single pages in an arena that nobody writes any more.
pub fn handover_of(arena: &Arena, pages: &[u64]) -> BootData {
    let tracker = tracker(arena);
    for &addr in pages {
        tracker
            .preserve_folio(PhysAddr::new(addr), Order::ZERO)
            .unwrap();
    }
    hand_over(tracker)
}

/// Checks a handover, knowing what is RAM.
pub fn try_check<'a>(
    memory: &'a FrozenDirectMap<'a>,
    boot: BootData,
    workspace: &mut [u64],
) -> Result<Incoming<'a, FrozenDirectMap<'a>>, IncomingError> {
    let ram = [range(0, sets::START), range(sets::START, 2 << 40)];
    let machine = Machine {
        page_size: PAGE,
        ram: Ram::Known(&ram),
        v1_bitmaps: None,
    };
    Incoming::check(memory, boot, machine, workspace)
}

/// As [`try_check`], of a handover that is in order.
pub fn check<'a>(
    memory: &'a FrozenDirectMap<'a>,
    boot: BootData,
    workspace: &mut [u64],
) -> Incoming<'a, FrozenDirectMap<'a>> {
    try_check(memory, boot, workspace).unwrap()
}

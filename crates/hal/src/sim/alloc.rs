//! An allocator over simulated memory that counts, fails on command, and punishes misuse.

use std_alloc::collections::BTreeMap;
use std_alloc::vec::Vec;

use crate::sync::{Ordering, SpinMutex};
use crate::{AllocError, Order, PageAlloc, PageSize, PhysAddr, PhysMem, PhysRange};

/// Gives out the pages of some ranges, lowest first.
///
/// Freed pages are filled with `0xdb`, so whoever still uses them notices.
#[derive(Debug)]
pub struct SimAlloc<M> {
    mem: M,
    page: PageSize,
    state: SpinMutex<State>,
}

#[derive(Debug)]
struct State {
    /// Ascending, disjoint, not touching.
    free: Vec<PhysRange>,
    live: BTreeMap<PhysAddr, Order>,
    calls: u64,
    fail_at: Option<u64>,
}

impl<M: PhysMem> SimAlloc<M> {
    /// An allocator of the pages in `ranges`, which are page-aligned and disjoint.
    pub fn new(mem: M, page: PageSize, ranges: impl IntoIterator<Item = PhysRange>) -> Self {
        let mut free: Vec<_> = ranges.into_iter().collect();
        free.sort();
        let state = State {
            free,
            live: BTreeMap::new(),
            calls: 0,
            fail_at: None,
        };
        Self {
            mem,
            page,
            state: SpinMutex::new(state),
        }
    }

    /// Makes the `n`-th allocation from now on fail (0 is the next one), once; `None` none.
    pub fn fail_at(&self, n: Option<u64>) {
        let mut state = self.state.lock();
        state.fail_at = n.map(|n| state.calls + n);
    }

    /// How many allocations were asked for so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// What is allocated now, ascending.
    pub fn live(&self) -> Vec<(PhysAddr, Order)> {
        let state = self.state.lock();
        state
            .live
            .iter()
            .map(|(&addr, &order)| (addr, order))
            .collect()
    }

    fn fill(&self, addr: PhysAddr, order: Order, word: u64) {
        let count = self.page.words() << order.as_u32();
        let words = self.mem.words(addr, count);
        assert!(
            words.is_ok(),
            "the allocator was given {addr}, which is not memory"
        );
        for w in words.unwrap_or_default() {
            w.store(word, Ordering::Relaxed);
        }
    }
}

impl State {
    fn take(&mut self, order: Order, page: PageSize) -> Option<PhysAddr> {
        let size = order.bytes(page)?;
        let (i, found) = self.free.iter().enumerate().find_map(|(i, range)| {
            let start = range
                .start()
                .as_u64()
                .max(1)
                .checked_next_multiple_of(size)?;
            let found = PhysRange::new(PhysAddr::new(start), size)?;
            range.contains_range(found).then_some((i, found))
        })?;
        let whole = self.free.remove(i);
        let above = PhysRange::new(found.end(), whole.end().as_u64() - found.end().as_u64());
        let below = PhysRange::new(
            whole.start(),
            found.start().as_u64() - whole.start().as_u64(),
        );
        for rest in [above, below].into_iter().flatten() {
            if !rest.is_empty() {
                self.free.insert(i, rest);
            }
        }
        self.live.insert(found.start(), order);
        Some(found.start())
    }

    fn give_back(&mut self, freed: PhysRange) {
        let i = self
            .free
            .partition_point(|range| range.start() < freed.start());
        self.free.insert(i, freed);
        let mut merged: Vec<PhysRange> = Vec::with_capacity(self.free.len());
        for &range in &self.free {
            match merged.last_mut() {
                Some(last) if last.end() == range.start() => {
                    let size = last.size() + range.size();
                    *last = PhysRange::new(last.start(), size).unwrap_or(*last);
                }
                _ => merged.push(range),
            }
        }
        self.free = merged;
    }
}

impl<M: PhysMem> PageAlloc for SimAlloc<M> {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        let addr = {
            let mut state = self.state.lock();
            let call = state.calls;
            state.calls += 1;
            if state.fail_at == Some(call) {
                return Err(AllocError { order });
            }
            state.take(order, self.page).ok_or(AllocError { order })?
        };
        self.fill(addr, order, 0);
        Ok(addr)
    }

    /// # Panics
    /// If `addr` is not allocated, or with another order.
    fn free(&self, addr: PhysAddr, order: Order) {
        self.fill(addr, order, 0xdbdb_dbdb_dbdb_dbdb);
        let mut state = self.state.lock();
        let was = state.live.remove(&addr);
        assert_eq!(was, Some(order), "{addr} is freed with order {order}");
        if let Some(range) = PhysRange::folio(addr, order, self.page) {
            state.give_back(range);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sim::SimMemory;

    const PAGE: PageSize = PageSize::Size4K;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    #[test]
    fn gives_aligned_zeroed_pages_and_merges_what_comes_back() {
        let memory = SimMemory::new([range(0, 0x10000)]).unwrap();
        memory.fill(range(0, 0x10000), 0xff);
        let alloc = SimAlloc::new(&memory, PAGE, [range(0, 0x10000)]);
        let one = alloc.alloc(Order::ZERO).unwrap();
        assert_eq!(
            one,
            PhysAddr::new(0x1000),
            "page 0 means none and is never given"
        );
        let four = alloc.alloc(Order::new(2).unwrap()).unwrap();
        assert_eq!(four, PhysAddr::new(0x4000));
        let last = PhysAddr::new(0x7ff8);
        assert_eq!(memory.word(four), Some(0));
        assert_eq!(memory.word(last), Some(0));
        alloc.free(one, Order::ZERO);
        assert_ne!(memory.word(one), Some(0), "freed memory is poisoned");
        alloc.free(four, Order::new(2).unwrap());
        assert_eq!(memory.word(last), Some(0xdbdb_dbdb_dbdb_dbdb));
        let beyond = memory.word(PhysAddr::new(0x8000));
        assert_eq!(beyond, Some(u64::MAX), "and nothing else");
        assert_eq!(
            alloc.alloc(Order::new(3).unwrap()).unwrap(),
            PhysAddr::new(0x8000)
        );
        assert_eq!(alloc.live().len(), 1);
    }

    #[test]
    fn the_lowest_comes_first_and_neighbours_are_one_whatever_came_back_when() {
        let memory = SimMemory::new([range(0x4000, 0x4000)]).unwrap();
        let alloc = SimAlloc::new(&memory, PAGE, memory.ranges());
        let one = || alloc.alloc(Order::ZERO).unwrap();
        let pages = [one(), one(), one(), one()];
        alloc.free(pages[0], Order::ZERO);
        alloc.free(pages[2], Order::ZERO);
        assert_eq!([one(), one()], [pages[0], pages[2]]);
        for i in [2, 0, 3, 1] {
            alloc.free(pages[i], Order::ZERO);
        }
        let four = Order::new(2).unwrap();
        assert_eq!(alloc.alloc(four), Ok(pages[0]));
    }

    #[test]
    fn fails_when_told_and_when_full() {
        let memory = SimMemory::new([range(0x1000, 0x3000)]).unwrap();
        let alloc = SimAlloc::new(&memory, PAGE, memory.ranges());
        alloc.fail_at(Some(1));
        assert!(alloc.alloc(Order::ZERO).is_ok());
        assert!(alloc.alloc(Order::ZERO).is_err());
        assert!(alloc.alloc(Order::ZERO).is_ok());
        assert!(alloc.alloc(Order::ZERO).is_ok());
        assert_eq!(
            alloc.alloc(Order::ZERO),
            Err(AllocError { order: Order::ZERO })
        );
    }

    #[test]
    #[should_panic = "is freed with order"]
    fn a_double_free_is_noticed() {
        let memory = SimMemory::new([range(0x1000, 0x1000)]).unwrap();
        let alloc = SimAlloc::new(&memory, PAGE, memory.ranges());
        let page = alloc.alloc(Order::ZERO).unwrap();
        alloc.free(page, Order::ZERO);
        alloc.free(page, Order::ZERO);
    }
}

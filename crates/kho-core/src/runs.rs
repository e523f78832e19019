//! Preserved memory in address order, merged over the orders.
//!
//! The map keeps each order apart. Here the next run of every order waits in a list sorted by
//! address, the lowest last; the lowest leaves, and its order's next run is put in its place. With
//! the few orders that occur, and one of them usually far ahead in number, that is nearly free.

use core::sync::atomic::AtomicU64;

use kho_hal::{Order, PageSize, PhysAddr, PhysMem};

use crate::tree::{LeafCache, Run, Shared, Tree, Wraps, all_orders};

/// Most orders that a key can have: those of 4 KiB pages.
const MAX_ORDERS: usize = PageSize::Size4K.max_order().as_u32() as usize + 1;

/// A map that gives the runs of each order by ascending address.
pub(crate) trait RunsByOrder {
    /// What makes the next run cheap to find. One is kept for all orders, as one of them is usually
    /// asked for many times in a row.
    type Cache;
    type Error;

    fn new_cache() -> Self::Cache;

    /// The orders that there may be folios of, ascending.
    fn orders(&self) -> impl DoubleEndedIterator<Item = Order>;

    /// The first run of folios of `order` that starts at or after `from`, or that contains it.
    /// `place` is where the last run of this order was found, 0 at first.
    fn next_run(
        &self,
        order: Order,
        from: PhysAddr,
        place: &mut u64,
        cache: &mut Self::Cache,
    ) -> Result<Option<Run>, Self::Error>;
}

impl<'a, M: PhysMem> RunsByOrder for Tree<Shared<'a, M>> {
    type Cache = LeafCache<'a, AtomicU64>;
    type Error = Wraps;

    fn new_cache() -> Self::Cache {
        LeafCache::EMPTY
    }

    fn orders(&self) -> impl DoubleEndedIterator<Item = Order> {
        all_orders(self.page)
    }

    fn next_run(
        &self,
        order: Order,
        from: PhysAddr,
        _: &mut u64,
        cache: &mut Self::Cache,
    ) -> Result<Option<Run>, Wraps> {
        self.next_run(order, from, cache)
    }
}

/// Runs of all orders by ascending address.
#[derive(Debug)]
pub(crate) struct Runs<S: RunsByOrder> {
    map: S,
    cache: S::Cache,
    waiting: Sorted,
}

/// The next run of each order that has one; the lowest is the last of `runs[..len]`.
#[derive(Debug)]
struct Sorted {
    runs: [Waiting; MAX_ORDERS],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    run: Run,
    /// Where the map found it.
    place: u64,
}

impl<S: RunsByOrder> Runs<S> {
    /// The runs that end above `from`. A run that contains `from` starts at the folio that does.
    pub(crate) fn new(map: S, from: PhysAddr) -> Result<Self, S::Error> {
        let none = Waiting {
            run: Run::NONE,
            place: 0,
        };
        let mut waiting = Sorted {
            runs: [none; MAX_ORDERS],
            len: 0,
        };
        let mut cache = S::new_cache();
        for order in map.orders() {
            let mut place = 0;
            if let Some(run) = map.next_run(order, from, &mut place, &mut cache)? {
                waiting.len += 1;
                waiting.put_lowest(Waiting { run, place });
            }
        }
        Ok(Self {
            map,
            cache,
            waiting,
        })
    }

    pub(crate) fn try_next(&mut self) -> Result<Option<Run>, S::Error> {
        let Some(Waiting { run, mut place }) = self.waiting.lowest() else {
            return Ok(None);
        };
        let end = run.range.end();
        match self
            .map
            .next_run(run.order, end, &mut place, &mut self.cache)?
        {
            Some(run) => self.waiting.put_lowest(Waiting { run, place }),
            None => self.waiting.len -= 1,
        }
        Ok(Some(run))
    }
}

impl Sorted {
    fn lowest(&self) -> Option<Waiting> {
        let last = self.len.checked_sub(1)?;
        self.runs.get(last).copied()
    }

    /// Puts a run in the place of the lowest, or further up if others are lower.
    fn put_lowest(&mut self, new: Waiting) {
        let mut at = self.len.saturating_sub(1);
        while let Some(below) = at.checked_sub(1) {
            match self.runs.get(below) {
                Some(&other) if other.run.range.start() < new.run.range.start() => {
                    if let Some(place) = self.runs.get_mut(at) {
                        *place = other;
                    }
                    at = below;
                }
                _ => break,
            }
        }
        if let Some(place) = self.runs.get_mut(at) {
            *place = new;
        }
    }
}

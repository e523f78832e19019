//! Preserved memory in address order, merged over the orders.
//!
//! The map keeps each order apart. Here the next run of every order waits in a list sorted by
//! address, the lowest last; the lowest leaves, and its order's next run is put in its place. With
//! the few orders that occur, and one of them usually far ahead in number, that is nearly free.

use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};

use crate::incoming::Fault;
use crate::incoming::map::{Cache, Map};
use crate::tree::Run;

/// Most orders that a key can have: those of 4 KiB pages.
const MAX_ORDERS: usize = PageSize::Size4K.max_order().as_u32() as usize + 1;

/// Runs of all orders by ascending address.
#[derive(Debug)]
pub(crate) struct Runs<'a, M> {
    map: Map<'a, M>,
    cache: Cache<'a>,
    /// The next run of each order that has one; the lowest is the last of `waiting[..len]`.
    waiting: [Waiting; MAX_ORDERS],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    run: Run,
    /// Where the map found it.
    place: u64,
}

impl<'a, M: FrozenMem> Runs<'a, M> {
    /// The runs that end above `from`. A run that contains `from` starts at the folio that does.
    pub(crate) fn new(map: Map<'a, M>, from: PhysAddr) -> Result<Self, Fault> {
        let none = Waiting {
            run: Run::NONE,
            place: 0,
        };
        let mut runs = Self {
            map,
            cache: Cache::EMPTY,
            waiting: [none; MAX_ORDERS],
            len: 0,
        };
        for order in map.orders() {
            let mut place = 0;
            if let Some(run) = map.next_run(order, from, &mut place, &mut runs.cache)? {
                runs.len += 1;
                runs.put_lowest(Waiting { run, place });
            }
        }
        Ok(runs)
    }

    pub(crate) fn try_next(&mut self) -> Result<Option<Run>, Fault> {
        let Some(&lowest) = self
            .len
            .checked_sub(1)
            .and_then(|last| self.waiting.get(last))
        else {
            return Ok(None);
        };
        let Waiting { run, mut place } = lowest;
        let end = run.range.end();
        match self
            .map
            .next_run(run.order, end, &mut place, &mut self.cache)?
        {
            Some(run) => self.put_lowest(Waiting { run, place }),
            None => self.len -= 1,
        }
        Ok(Some(run))
    }

    /// Puts a run in the place of the lowest, or further up if others are lower.
    fn put_lowest(&mut self, new: Waiting) {
        let mut at = self.len.saturating_sub(1);
        while let Some(below) = at.checked_sub(1) {
            match self.waiting.get(below) {
                Some(&other) if other.run.range.start() < new.run.range.start() => {
                    if let Some(place) = self.waiting.get_mut(at) {
                        *place = other;
                    }
                    at = below;
                }
                _ => break,
            }
        }
        if let Some(place) = self.waiting.get_mut(at) {
            *place = new;
        }
    }
}

/// A folio: `2^order` contiguous, naturally aligned pages that were preserved as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folio {
    /// First byte.
    pub addr: PhysAddr,
    /// log2 of the number of pages.
    pub order: Order,
}

impl Folio {
    /// The memory of the folio.
    pub fn range(self, page: PageSize) -> PhysRange {
        // The folios of a checked map do not wrap.
        PhysRange::folio(self.addr, self.order, page).unwrap_or_default()
    }
}

/// Preserved folios by ascending address.
#[derive(Debug)]
pub struct Folios<'a, M> {
    runs: Option<Runs<'a, M>>,
    page: PageSize,
    run: Run,
    end: PhysAddr,
}

impl<'a, M: FrozenMem> Folios<'a, M> {
    /// The folios of a checked map that touch `range`.
    pub(crate) fn new(map: Map<'a, M>, range: PhysRange) -> Self {
        Self {
            runs: Runs::new(map, range.start()).ok(),
            page: map.page(),
            run: Run::NONE,
            end: range.end(),
        }
    }
}

impl<M: FrozenMem> Iterator for Folios<'_, M> {
    type Item = Folio;

    fn next(&mut self) -> Option<Folio> {
        if self.run.range.is_empty() {
            self.run = self.runs.as_mut()?.try_next().ok().flatten()?;
        }
        let Run { range, order } = self.run;
        if range.start() >= self.end {
            return None;
        }
        let size = order.bytes(self.page)?;
        let next = range.start().checked_add(size)?;
        self.run.range = PhysRange::new(next, range.size() - size)?;
        Some(Folio {
            addr: range.start(),
            order,
        })
    }
}

/// Preserved memory by ascending address, as the longest ranges without a gap.
#[derive(Debug)]
pub struct Extents<'a, M> {
    runs: Option<Runs<'a, M>>,
    ahead: Option<PhysRange>,
}

impl<'a, M: FrozenMem> Extents<'a, M> {
    pub(crate) fn new(map: Map<'a, M>) -> Self {
        let mut runs = Runs::new(map, PhysAddr::new(0)).ok();
        let ahead = next_range(&mut runs);
        Self { runs, ahead }
    }
}

impl<M: FrozenMem> Iterator for Extents<'_, M> {
    type Item = PhysRange;

    fn next(&mut self) -> Option<PhysRange> {
        let mut extent = self.ahead?;
        loop {
            self.ahead = next_range(&mut self.runs);
            match self.ahead {
                Some(next) if next.start() == extent.end() => {
                    extent = PhysRange::new(extent.start(), extent.size() + next.size())?;
                }
                _ => return Some(extent),
            }
        }
    }
}

fn next_range<M: FrozenMem>(runs: &mut Option<Runs<'_, M>>) -> Option<PhysRange> {
    Some(runs.as_mut()?.try_next().ok()??.range)
}

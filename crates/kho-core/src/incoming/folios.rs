//! Preserved memory as its takers want it: folios, or ranges without a gap.

use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};

use crate::incoming::map::Map;
use crate::runs::Runs;
use crate::tree::Run;

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
pub struct Folios<'a, M: FrozenMem> {
    runs: Option<Runs<Map<'a, M>>>,
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
pub struct Extents<'a, M: FrozenMem> {
    runs: Option<Runs<Map<'a, M>>>,
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

fn next_range<M: FrozenMem>(runs: &mut Option<Runs<Map<'_, M>>>) -> Option<PhysRange> {
    Some(runs.as_mut()?.try_next().ok()??.range)
}

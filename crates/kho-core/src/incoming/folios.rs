//! Preserved memory as its takers want it: folios, or ranges without a gap.

use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};

use crate::incoming::map::Map;
use crate::runs::{First, Runs};

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
    runs: Runs<'a, Map<'a, M>>,
    /// No folio is told that starts here or above.
    end: PhysAddr,
}

impl<'a, M: FrozenMem> Folios<'a, M> {
    /// The folios of a checked map from `first` on that start below `end`.
    #[inline]
    pub(crate) fn new(map: Map<'a, M>, first: First, end: PhysAddr) -> Self {
        Self {
            runs: Runs::new(map, first, map.folios()),
            end,
        }
    }
}

impl<M: FrozenMem> Iterator for Folios<'_, M> {
    type Item = Folio;

    #[inline]
    fn next(&mut self) -> Option<Folio> {
        // An error is memory that is no more, and so has no folios.
        let (addr, order) = self.runs.next_folio().ok()??;
        (addr < self.end).then_some(Folio { addr, order })
    }
}

/// Preserved memory by ascending address, as the longest ranges without a gap.
pub struct Extents<'a, M: FrozenMem> {
    runs: Runs<'a, Map<'a, M>>,
    ahead: Option<PhysRange>,
}

impl<'a, M: FrozenMem> Extents<'a, M> {
    #[inline]
    pub(crate) fn new(map: Map<'a, M>) -> Self {
        Self {
            runs: Runs::new(map, First::LOWEST, map.folios()),
            ahead: None,
        }
    }

    fn next_range(&mut self) -> Option<PhysRange> {
        // An error is memory that is no more, and so has no folios.
        Some(self.runs.next_run().ok()??.range)
    }
}

impl<M: FrozenMem> Iterator for Extents<'_, M> {
    type Item = PhysRange;

    fn next(&mut self) -> Option<PhysRange> {
        let mut extent = match self.ahead.take() {
            Some(range) => range,
            None => self.next_range()?,
        };
        loop {
            self.ahead = self.next_range();
            match self.ahead {
                Some(next) if next.start() == extent.end() => {
                    extent = PhysRange::new(extent.start(), extent.size() + next.size())?;
                }
                _ => return Some(extent),
            }
        }
    }
}

//! Who owns which preserved memory: each folio one owner.

use kho_hal::{FrozenMem, Order, PhysAddr, PhysRange};

use crate::incoming::map::{Lookup, Map};
use crate::incoming::places::{Share, Unfit};
use crate::incoming::{Fault, Folio, IncomingError, Report};
use crate::runs::{First, Runs};

/// Hears of all memory that a description names, and makes sure that it is preserved and that
/// nothing else names it. A folio is taken over as a whole, so whoever names a part of it owns it.
pub(crate) struct Claims<'c, 'a, M> {
    pub(crate) lookup: &'c Lookup<'c, 'a, M>,
    /// What was read besides, in [`steps`](crate::incoming::steps).
    pub(crate) work: u64,
    once: &'c mut dyn FnMut(PhysAddr, Share) -> Result<(), Unfit>,
    /// Hears of each error that the rest of the check can go on without.
    report: &'c mut Report<'c>,
}

impl<'c, 'a, M: FrozenMem> Claims<'c, 'a, M> {
    pub(crate) fn new(
        lookup: &'c Lookup<'c, 'a, M>,
        once: &'c mut dyn FnMut(PhysAddr, Share) -> Result<(), Unfit>,
        report: &'c mut Report<'c>,
    ) -> Self {
        Self {
            lookup,
            work: 0,
            once,
            report,
        }
    }

    pub(crate) fn map(&self) -> Map<'a, M> {
        self.lookup.map
    }

    /// What was checked, or `None` if it is wrong and the rest is to be checked without it.
    pub(crate) fn or_report<T>(
        &mut self,
        checked: Result<T, IncomingError>,
    ) -> Result<Option<T>, IncomingError> {
        match checked {
            Ok(checked) => Ok(Some(checked)),
            Err(error) => (self.report)(error).map(|()| None),
        }
    }

    /// One page at `addr`.
    pub(crate) fn page(&mut self, addr: PhysAddr) -> Result<(), Fault> {
        self.pages(addr, self.map().page().bytes())
    }

    /// Pages, all of them preserved in folios of whatever order.
    pub(crate) fn pages(&mut self, addr: PhysAddr, size: u64) -> Result<(), Fault> {
        if addr == PhysAddr::new(0) {
            return Err(Fault::Null { at: addr });
        }
        if !addr.is_page_aligned(self.map().page()) {
            return Err(Fault::Misaligned { addr });
        }
        let range = PhysRange::new(addr, size).ok_or(Fault::NotRam { addr, size })?;
        self.for_each_folio(range, |claims, folio| {
            Ok((claims.once)(folio.addr, Share::Whole)?)
        })
    }

    /// The pages that lie entirely inside `range`, as Linux preserves a region.
    pub(crate) fn whole_pages(&mut self, range: PhysRange) -> Result<(), Fault> {
        let page = self.map().page().bytes();
        let start = PhysAddr::new(range.start().as_u64() / page * page);
        match range.size() / page * page {
            0 => Ok(()),
            size => self.pages(start, size),
        }
    }

    /// The folio that was preserved with its head at `addr`; returns its order.
    pub(crate) fn folio(&mut self, addr: PhysAddr) -> Result<Order, Fault> {
        let folio = self.lookup.folio_containing(addr)?;
        let folio = folio.filter(|folio| folio.addr == addr);
        let folio = folio.ok_or(Fault::NotPreserved {
            range: PhysRange::new(addr, self.map().page().bytes()).unwrap_or_default(),
        })?;
        (self.once)(addr, Share::Whole)?;
        Ok(folio.order)
    }

    /// A sub-blob, or the description. Nothing says that they start at a page, so several of them may
    /// share a folio. That they are disjoint was checked; they are claimed before all else.
    pub(crate) fn blob(&mut self, blob: PhysRange) -> Result<(), Fault> {
        let page = self.map().page();
        self.for_each_folio(blob, |claims, folio| {
            let share = match blob.contains_range(folio.range(page)) {
                true => Share::Whole,
                false => Share::Part,
            };
            Ok((claims.once)(folio.addr, share)?)
        })
    }

    /// Calls `visit` with each folio of `range`, all of which must be preserved. That makes it RAM,
    /// too.
    fn for_each_folio(
        &mut self,
        range: PhysRange,
        mut visit: impl FnMut(&mut Self, Folio) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if range.is_empty() {
            return Ok(());
        }
        let first = self.lookup.folio_containing(range.start())?;
        let first = first.ok_or(Fault::NotPreserved { range })?;
        visit(self, first)?;
        match first.range(self.map().page()).end() {
            end if end >= range.end() => Ok(()),
            end if self.lookup.is_quick() => self.for_each_found(range, end, visit),
            end => self.for_each_further(range, end, visit),
        }
    }

    /// The folios of `range` from `from` on, each looked for in an index.
    fn for_each_found(
        &mut self,
        range: PhysRange,
        mut from: PhysAddr,
        mut visit: impl FnMut(&mut Self, Folio) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while from < range.end() {
            let folio = self.lookup.folio_containing(from)?;
            let folio = folio.filter(|folio| folio.addr == from);
            let folio = folio.ok_or(Fault::NotPreserved { range })?;
            visit(self, folio)?;
            from = folio.range(self.map().page()).end();
        }
        Ok(())
    }

    /// The folios of `range` from `from` on. One after the other: in a list without an index, to look
    /// for each would be to go through all of it each time.
    #[inline(never)]
    fn for_each_further(
        &mut self,
        range: PhysRange,
        mut from: PhysAddr,
        mut visit: impl FnMut(&mut Self, Folio) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.lookup.look_for_each_order()?;
        let mut runs = Runs::new(self.map(), First::EndsAbove(from), u64::MAX);
        while from < range.end() {
            let next = runs.next_folio()?.filter(|(addr, _)| *addr == from);
            let (addr, order) = next.ok_or(Fault::NotPreserved { range })?;
            let folio = Folio { addr, order };
            visit(self, folio)?;
            from = folio.range(self.map().page()).end();
        }
        Ok(())
    }
}

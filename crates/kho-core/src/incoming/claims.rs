//! Who owns which preserved memory: each folio one owner.

use kho_hal::{FrozenMem, Order, PhysAddr, PhysRange};

use crate::incoming::map::Map;
use crate::incoming::places::Unfit;
use crate::incoming::{Fault, IncomingError, Report};

/// Hears of all memory that a description names, and makes sure that it is preserved and that
/// nothing else names it. A folio is taken over as a whole, so whoever names a part of it owns it.
pub(crate) struct Claims<'c, 'a, M> {
    pub(crate) map: Map<'a, M>,
    pub(crate) once: &'c mut dyn FnMut(PhysAddr) -> Result<(), Unfit>,
    /// Hears of each error that the rest of the check can go on without.
    pub(crate) report: &'c mut Report<'c>,
}

impl<M: FrozenMem> Claims<'_, '_, M> {
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
        self.pages(addr, self.map.page().bytes())
    }

    /// Pages, all of them preserved in folios of whatever order.
    pub(crate) fn pages(&mut self, addr: PhysAddr, size: u64) -> Result<(), Fault> {
        if addr == PhysAddr::new(0) {
            return Err(Fault::Null { at: addr });
        }
        if !addr.is_page_aligned(self.map.page()) {
            return Err(Fault::Misaligned { addr });
        }
        let range = PhysRange::new(addr, size).ok_or(Fault::NotRam { addr, size })?;
        self.for_each_folio(range, |claims, folio| Ok((claims.once)(folio)?))
    }

    /// The pages that lie entirely inside `range`, as Linux preserves a region.
    pub(crate) fn whole_pages(&mut self, range: PhysRange) -> Result<(), Fault> {
        let page = self.map.page().bytes();
        let start = PhysAddr::new(range.start().as_u64() / page * page);
        match range.size() / page * page {
            0 => Ok(()),
            size => self.pages(start, size),
        }
    }

    /// The folio that was preserved with its head at `addr`; returns its order.
    pub(crate) fn folio(&mut self, addr: PhysAddr) -> Result<Order, Fault> {
        let order = self.map.order_of(addr)?.ok_or(Fault::NotPreserved {
            range: PhysRange::new(addr, self.map.page().bytes()).unwrap_or_default(),
        })?;
        (self.once)(addr)?;
        Ok(order)
    }

    /// A sub-blob. Nothing says that blobs start at a page, so a folio may be shared by several of
    /// them: `is_known` says whether an earlier one has a part of it.
    pub(crate) fn blob(
        &mut self,
        blob: PhysRange,
        is_known: impl Fn(PhysRange) -> bool,
    ) -> Result<(), Fault> {
        let page = self.map.page();
        self.for_each_folio(blob, |claims, head| {
            let order = claims.map.order_of(head)?.unwrap_or_default();
            let folio = PhysRange::folio(head, order, page).unwrap_or_default();
            // Blobs are disjoint, so only the first and the last folio can be shared.
            if !blob.contains_range(folio) && is_known(folio) {
                return Ok(());
            }
            Ok((claims.once)(head)?)
        })
    }

    /// Refuses an address that is not preserved; what is, is RAM.
    pub(crate) fn is_preserved(&self, addr: PhysAddr) -> Result<(), Fault> {
        match self.map.folio_containing(addr)? {
            Some(_) => Ok(()),
            None => Err(Fault::NotPreserved {
                range: PhysRange::new(addr, 1).unwrap_or_default(),
            }),
        }
    }

    /// Calls `visit` with the head of each folio of `range`, all of which must be preserved. That
    /// makes it RAM, too.
    fn for_each_folio(
        &mut self,
        range: PhysRange,
        mut visit: impl FnMut(&mut Self, PhysAddr) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let page = self.map.page();
        let mut from = range.start();
        while from < range.end() {
            let folio = self.map.folio_containing(from)?;
            let folio = folio.ok_or(Fault::NotPreserved { range })?;
            visit(self, folio.addr)?;
            from = folio.range(page).end();
        }
        Ok(())
    }
}

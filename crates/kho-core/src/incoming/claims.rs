//! Who owns which preserved memory: each page one owner.

use kho_hal::{FrozenMem, Order, PhysAddr, PhysRange};

use crate::incoming::Fault;
use crate::incoming::map::Map;
use crate::incoming::places::Twice;

/// Hears of all memory that a description names, and makes sure that it is preserved and that
/// nothing else names it.
pub(crate) struct Claims<'c, 'a, M> {
    pub(crate) map: Map<'a, M>,
    pub(crate) once: &'c mut dyn FnMut(PhysRange) -> Result<(), Twice>,
}

impl<M: FrozenMem> Claims<'_, '_, M> {
    /// One page at `addr`.
    pub(crate) fn page(&mut self, addr: PhysAddr) -> Result<(), Fault> {
        self.pages(addr, self.map.page().bytes())
    }

    /// Pages, all of them preserved in folios of whatever order.
    pub(crate) fn pages(&mut self, addr: PhysAddr, size: u64) -> Result<(), Fault> {
        if !addr.is_page_aligned(self.map.page()) {
            return Err(Fault::Misaligned { addr });
        }
        let range = self.preserved(addr, size)?;
        self.once(range)
    }

    /// The pages that lie entirely inside `range`.
    pub(crate) fn whole_pages(&mut self, range: PhysRange) -> Result<(), Fault> {
        let page = self.map.page().bytes();
        let start = PhysAddr::new(range.start().as_u64() / page * page);
        let size = range.size() / page * page;
        if size == 0 {
            return Ok(());
        }
        self.pages(start, size)
    }

    /// The folio that was preserved with its head at `addr`; returns its order.
    pub(crate) fn folio(&mut self, addr: PhysAddr) -> Result<Order, Fault> {
        let page = self.map.page();
        let first = PhysRange::new(addr, page.bytes()).unwrap_or_default();
        let missing = Fault::NotPreserved { range: first };
        let order = self.map.order_of(addr)?.ok_or(missing.clone())?;
        self.once(PhysRange::folio(addr, order, page).ok_or(missing)?)?;
        Ok(order)
    }

    /// The range of `size` bytes at `addr`, if all of it is preserved. That makes it RAM, too.
    pub(crate) fn preserved(&self, addr: PhysAddr, size: u64) -> Result<PhysRange, Fault> {
        let page = self.map.page();
        let range = PhysRange::new(addr, size).ok_or(Fault::NotRam { addr, size })?;
        let mut from = range.start();
        while from < range.end() {
            let folio = self.map.folio_containing(from)?;
            let folio = folio.and_then(|folio| PhysRange::folio(folio.addr, folio.order, page));
            match folio {
                Some(folio) => from = folio.end(),
                None => return Err(Fault::NotPreserved { range }),
            }
        }
        Ok(range)
    }

    /// Makes sure that nothing else claims `range`.
    pub(crate) fn once(&mut self, range: PhysRange) -> Result<(), Fault> {
        (self.once)(range).map_err(|twice| Fault::Overlap { addr: twice.page() })
    }
}

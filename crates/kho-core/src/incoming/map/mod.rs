//! The map of preserved memory as a predecessor left it.

mod check;
mod list;
mod lookup;
mod spread;
mod tree;

use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};

use crate::bits::Bits;
use crate::incoming::ascending::Sorter;
use crate::incoming::places::{Ram, Scratch};
use crate::incoming::{Fault, Folio, IncomingError, Part, Report};
use crate::runs::{FolioBits, Wraps};
use crate::tree::{Frozen, Tree, all_orders};
use check::CheckedFolios;
use list::{Header, List, Lookahead};
pub(crate) use lookup::Lookup;
pub(crate) use spread::Spread;

/// The map, before and after it is checked.
#[derive(Debug)]
pub(crate) struct Map<'a, M> {
    kind: Kind<'a, M>,
    page: PageSize,
    /// Bit `o`: there may be folios of order `o`. All ones until the folios were looked through.
    orders: u64,
    /// Number of folios, once they were looked through.
    folios: u64,
    /// Number of pages of a tree, or of chunks and bitmaps of a list, once they were looked through. No
    /// later look at the map goes further: memory may change.
    pieces: u64,
}

#[derive(Debug)]
enum Kind<'a, M> {
    Tree(Tree<Frozen<'a, M>>),
    List(List<'a, M>),
}

impl_copy!(Map);

impl_copy!(Kind);

impl<'a, M: FrozenMem> Map<'a, M> {
    pub(crate) fn new(mem: &'a M, page: PageSize, generation: Generation, start: PhysAddr) -> Self {
        let list = |header, bitmaps| Kind::List(List::new(mem, page, start, header, bitmaps));
        let kind = match generation {
            Generation::Sketch => list(Header::Sketch, V1Bitmaps::Small),
            Generation::SeriesV5 | Generation::V1Small => list(Header::V1, V1Bitmaps::Small),
            Generation::V1Page => list(Header::V1, V1Bitmaps::Page),
            _ => Kind::Tree(Tree {
                pages: Frozen(mem),
                page,
                root: start,
            }),
        };
        Self {
            kind,
            page,
            orders: u64::MAX,
            folios: u64::MAX,
            pieces: u64::MAX,
        }
    }

    /// Whether a list of chunks that starts at `start` can only be one of 512-byte bitmaps.
    pub(crate) fn proves_small(
        mem: &'a M,
        page: PageSize,
        ram: &Ram<'_>,
        start: PhysAddr,
    ) -> Result<bool, Fault> {
        List::new(mem, page, start, Header::V1, V1Bitmaps::Small).proves_small(ram)
    }

    pub(crate) fn page(&self) -> PageSize {
        self.page
    }

    /// Number of folios in a checked map.
    pub(crate) fn folios(&self) -> u64 {
        self.folios
    }

    /// Checks the map's own memory: RAM, outside scratch, each piece reached once. Says nothing of
    /// the folios.
    #[inline(never)]
    pub(crate) fn check_nodes(
        &mut self,
        ram: &Ram<'_>,
        scratch: &Scratch<'_>,
        workspace: &mut [u64],
    ) -> Result<(), Fault> {
        self.pieces = match &mut self.kind {
            Kind::Tree(root) => tree::check(root, ram, scratch, workspace)?,
            Kind::List(list) => list.check(ram, scratch, workspace)?,
        };
        Ok(())
    }

    /// Number of folios that there can be at most: what is known of it.
    fn most_folios(&self) -> u64 {
        let bits = self.page.bytes() * 8;
        self.folios.min(self.pieces.saturating_mul(bits))
    }

    /// Checks the folios: RAM, outside scratch, disjoint over all orders; and that the map's own
    /// memory is disjoint, and none of it preserved: its owner would overwrite the map. Each piece
    /// of that memory is sound already ([`Map::check_nodes`]). Counts the folios in `spread`.
    #[inline(never)]
    pub(crate) fn check_folios(
        &mut self,
        ram: &Ram<'_>,
        scratch: &Scratch<'a>,
        workspace: &mut [u64],
        spread: &mut Spread,
        report: &mut Report<'_>,
    ) -> Result<(), IncomingError> {
        let mut folios = CheckedFolios::new(*self, ram, scratch, spread, report);
        let mut end = PhysAddr::new(0);
        Sorter::new(workspace).ascending(
            0,
            |list: &mut dyn FnMut(u64)| {
                let visited = self.visit_own(&mut |at, size| list(at.as_u64() | pack(size)));
                visited.map_err(|fault| Part::Map.is(fault))
            },
            |number| {
                let own = unpack(number);
                if own.start() < end {
                    let addr = own.start();
                    folios.report(Fault::ReachedTwice { addr })?;
                }
                end = end.max(own.end());
                folios.keep_off(own)
            },
        )?;
        folios.finish()?;
        self.orders = folios.orders;
        self.folios = spread.folios();
        Ok(())
    }

    /// Calls `visit` with address and size of each piece of memory that the map itself takes.
    pub(crate) fn visit_own(&self, visit: &mut dyn FnMut(PhysAddr, u64)) -> Result<(), Fault> {
        let mut left = self.pieces;
        match &self.kind {
            Kind::Tree(tree) => tree.visit_nodes(0, &mut |node| {
                let twice = Fault::ReachedTwice { addr: node };
                left = left.checked_sub(1).ok_or(twice)?;
                visit(node, self.page.bytes());
                Ok(())
            }),
            Kind::List(list) => list.visit_own(visit),
        }
    }

    /// The folio that contains `addr`, whatever its order.
    pub(crate) fn folio_containing(&self, addr: PhysAddr) -> Result<Option<Folio>, Fault> {
        let tree = match &self.kind {
            Kind::Tree(tree) => tree,
            Kind::List(list) => {
                let bitmap = list.bitmap_containing(addr)?;
                return Ok(bitmap.and_then(|bitmap| bitmap.folio(addr)));
            }
        };
        for order in self.orders() {
            let Some(size) = order.bytes(self.page) else {
                break;
            };
            let head = PhysAddr::new(addr.as_u64() & !(size - 1));
            if tree.has(head, order)? {
                return Ok(Some(Folio { addr: head, order }));
            }
        }
        Ok(None)
    }

    /// The order of the folio whose first byte is at `addr`.
    pub(crate) fn order_of(&self, addr: PhysAddr) -> Result<Option<Order>, Fault> {
        let folio = self.folio_containing(addr)?;
        Ok(folio
            .filter(|folio| folio.addr == addr)
            .map(|folio| folio.order))
    }
}

impl<'a, M: FrozenMem> FolioBits<'a> for Map<'a, M> {
    type Word = u64;
    type Cache = Lookahead;
    type Error = Fault;

    fn new_cache() -> Lookahead {
        Lookahead::EMPTY
    }

    fn page_size(&self) -> PageSize {
        self.page
    }

    fn orders(&self) -> impl DoubleEndedIterator<Item = Order> {
        let orders = self.orders;
        all_orders(self.page).filter(move |order| orders >> order.as_u32() & 1 != 0)
    }

    fn bits(
        &self,
        order: Order,
        from: u64,
        place: &mut u64,
        ahead: &mut Lookahead,
    ) -> Result<Option<Bits<'a, u64>>, Fault> {
        // One for each piece and each order, one where an order goes on after another.
        let most = self.most_folios().saturating_add(self.pieces);
        if ahead.count() > most.saturating_mul(2).saturating_add(256) {
            let addr = PhysAddr::new(from << (self.page.shift() + order.as_u32()));
            return Err(Fault::ReachedTwice { addr });
        }
        match &self.kind {
            Kind::Tree(tree) => Ok(tree.bits(order, from)?),
            Kind::List(list) => list.bits(order, from, place, ahead),
        }
    }
}

impl From<Wraps> for Fault {
    fn from(Wraps(addr): Wraps) -> Self {
        Self::NotRam {
            addr,
            size: u64::MAX,
        }
    }
}

/// A size of 2^9 to 2^16 bytes in the low bits of an address, which is a multiple of 8.
fn pack(size: u64) -> u64 {
    u64::from(size.trailing_zeros()) - 9
}

/// Undoes [`pack`].
fn unpack(number: u64) -> PhysRange {
    let size = 1 << (9 + (number & 7));
    // What is in RAM does not wrap.
    PhysRange::new(PhysAddr::new(number & !7), size).unwrap_or_default()
}

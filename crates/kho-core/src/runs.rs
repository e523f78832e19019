//! Preserved memory in address order, merged over the orders.
//!
//! Preserved folios of one order are consecutive bits of a map, so a *run* of set bits is a stretch
//! of memory. Everything that goes through a map works on runs: a dense map costs a look at each
//! word, not at each folio.
//!
//! A map keeps each order apart. One order is being read; of every other one, the address of its
//! next run waits in a list, the lowest last. When that one is lower than the next run of the order
//! being read, the two change places. With the few orders that occur, and one of them usually far
//! ahead in number, that is nearly free.

use kho_hal::{Order, PageSize, PhysAddr, PhysRange};

use crate::bits::{Bits, Word};

/// Consecutive folios of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) range: PhysRange,
    pub(crate) order: Order,
}

/// The folios from here on reach the end of the address space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wraps(pub(crate) PhysAddr);

/// A map that has, for each order, a bit for each folio that there could be: folio `n` of an order
/// starts `n` folios above address 0.
pub(crate) trait FolioBits<'a> {
    type Word: Word + 'a;
    /// What makes the next look cheap. One is kept for all orders, as one of them is usually asked
    /// for many times in a row.
    type Cache;
    type Error: From<Wraps>;

    fn new_cache() -> Self::Cache;

    fn page_size(&self) -> PageSize;

    /// The orders that there may be folios of, ascending.
    fn orders(&self) -> impl DoubleEndedIterator<Item = Order>;

    /// The bits of `order` from folio `from` on, as many as lie together: those of the first piece
    /// of the map that has a bit for `from` or for a later folio. `place` is where the last piece
    /// of this order was found, 0 at first.
    fn bits(
        &self,
        order: Order,
        from: u64,
        place: &mut u64,
        cache: &mut Self::Cache,
    ) -> Result<Option<Bits<'a, Self::Word>>, Self::Error>;
}

/// Calls `visit` with the runs of one order, ascending.
#[cfg(feature = "alloc")]
pub(crate) fn for_each_run<'a, M, E>(
    map: &M,
    order: Order,
    visit: &mut dyn FnMut(Run) -> Result<(), E>,
) -> Result<(), E>
where
    M: FolioBits<'a>,
    E: From<M::Error>,
{
    if !map.orders().any(|present| present == order) {
        return Ok(());
    }
    let mut cache = M::new_cache();
    let mut reader = Reader::new(map, order, PhysAddr::new(0), 0, &mut cache)?;
    while reader.find(map, &mut cache)?.is_some() {
        let run = reader.take_run().map_err(M::Error::from)?;
        visit(run)?;
    }
    Ok(())
}

/// Reads the folios of one order by ascending address.
#[derive(Debug)]
struct Reader<'a, W> {
    order: Order,
    /// log2 of the size of a folio.
    shift: u32,
    bits: Bits<'a, W>,
    place: u64,
}

impl<'a, W: Word + 'a> Reader<'a, W> {
    const NONE: Self = Self {
        order: Order::ZERO,
        shift: 12,
        bits: Bits::NONE,
        place: 0,
    };

    /// Starts with the first folio of `order` that ends above `from`.
    fn new<M: FolioBits<'a, Word = W>>(
        map: &M,
        order: Order,
        from: PhysAddr,
        place: u64,
        cache: &mut M::Cache,
    ) -> Result<Self, M::Error> {
        let shift = map.page_size().shift() + order.as_u32();
        let mut reader = Self {
            order,
            shift,
            place,
            ..Self::NONE
        };
        reader.load(map, from.as_u64() >> shift, cache)?;
        Ok(reader)
    }

    /// Goes on with the piece of the map that has folio `from` or a later one.
    fn load<M: FolioBits<'a, Word = W>>(
        &mut self,
        map: &M,
        from: u64,
        cache: &mut M::Cache,
    ) -> Result<bool, M::Error> {
        let bits = match self.wraps(from) {
            false => map.bits(self.order, from, &mut self.place, cache)?,
            true => None,
        };
        let found = bits.is_some();
        self.bits = bits.unwrap_or(Bits::NONE);
        Ok(found)
    }

    /// Whether folio `n` would start beyond the last address.
    fn wraps(&self, n: u64) -> bool {
        n >> (63 - self.shift) >> 1 != 0
    }

    /// Where the next folio starts, if that is known without a look at the map.
    #[inline(always)]
    fn first(&self) -> Option<PhysAddr> {
        let bit = self.bits.first()?;
        Some(PhysAddr::new(bit << self.shift))
    }

    /// Where the next folio starts.
    fn find<M: FolioBits<'a, Word = W>>(
        &mut self,
        map: &M,
        cache: &mut M::Cache,
    ) -> Result<Option<PhysAddr>, M::Error> {
        while self.bits.find().is_none() {
            if !self.load(map, self.bits.end(), cache)? {
                return Ok(None);
            }
        }
        Ok(self.first())
    }

    /// Takes the run that starts with the folio that was found. It ends with its piece of the map at
    /// the latest, so it may go on in the next run.
    #[inline(always)]
    fn take_run(&mut self) -> Result<Run, Wraps> {
        let start = self.bits.first().unwrap_or(0);
        let end = self.bits.take_run();
        // What ends below the last address has a size that fits.
        let addr = PhysAddr::new(start << self.shift);
        match PhysRange::new(addr, (end - start) << self.shift) {
            Some(range) if !self.wraps(end) => Ok(Run {
                range,
                order: self.order,
            }),
            _ => Err(Wraps(addr)),
        }
    }
}

/// Most orders that a map can have: those of 4 KiB pages.
const MAX_ORDERS: usize = PageSize::Size4K.max_order().as_u32() as usize + 1;

/// Folios of all orders by ascending address.
#[derive(Debug)]
pub(crate) struct Runs<'a, M: FolioBits<'a>> {
    map: M,
    cache: M::Cache,
    /// Where to begin, until it is done.
    first: Option<First>,
    /// The order that is being read.
    current: Reader<'a, M::Word>,
    waiting: Waiting,
    /// How many words may still be looked for.
    left: u64,
}

/// Some folios of one order at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// From the first byte of the first to the last byte of the last.
    pub(crate) range: PhysRange,
    pub(crate) order: Order,
    /// How many they are.
    pub(crate) folios: u64,
}

/// With which folio to begin. It is looked up when it is asked for, so that this is built where it
/// stays: it is large, and moved it would take its place on the stack twice.
#[derive(Clone, Copy, Debug)]
pub(crate) enum First {
    /// The first that ends above an address.
    EndsAbove(PhysAddr),
    /// The first that starts at an address or above.
    StartsFrom(PhysAddr),
}

impl First {
    /// The lowest of all.
    pub(crate) const LOWEST: Self = Self::EndsAbove(PhysAddr::new(0));
}

impl<'a, M: FolioBits<'a>> Runs<'a, M> {
    /// With `most` folios in the map: memory may change, and then no more words of it are looked for than
    /// could each have one.
    #[inline]
    pub(crate) fn new(map: M, first: First, most: u64) -> Self {
        Self {
            map,
            cache: M::new_cache(),
            first: Some(first),
            // At the end, one finds none.
            left: most.saturating_add(1),
            current: Reader::NONE,
            waiting: Waiting::NONE,
        }
    }

    /// What is read.
    pub(crate) fn map(&self) -> &M {
        &self.map
    }

    /// Looks up the first folio of each order.
    fn start(&mut self, first: First) -> Result<(), M::Error> {
        let (First::EndsAbove(from) | First::StartsFrom(from)) = first;
        for order in self.map.orders() {
            let mut reader = Reader::new(&self.map, order, from, 0, &mut self.cache)?;
            let mut found = reader.find(&self.map, &mut self.cache)?;
            if matches!(first, First::StartsFrom(_)) && found.is_some_and(|addr| addr < from) {
                reader.bits.take_bit();
                found = reader.find(&self.map, &mut self.cache)?;
            }
            if let Some(addr) = found {
                self.waiting.insert(addr, order, reader.place);
            }
        }
        Ok(())
    }

    /// The next run.
    #[inline(always)]
    pub(crate) fn next_run(&mut self) -> Result<Option<Run>, M::Error> {
        if self.find()?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.current.take_run()?))
    }

    /// Address and order of the next folio.
    #[inline(always)]
    pub(crate) fn next_folio(&mut self) -> Result<Option<(PhysAddr, Order)>, M::Error> {
        let Some(addr) = self.find()? else {
            return Ok(None);
        };
        self.current.bits.take_bit();
        Ok(Some((addr, self.current.order)))
    }

    /// The next run; or, where `may_join` agrees, all that a word of the map has, and no folio of
    /// another order lies between.
    #[inline(always)]
    pub(crate) fn next_stretch(
        &mut self,
        may_join: impl FnOnce(PhysRange) -> bool,
    ) -> Result<Option<Stretch>, M::Error> {
        let Some(start) = self.find()? else {
            return Ok(None);
        };
        let Reader { order, shift, .. } = self.current;
        if let Some((end, folios)) = self.current.bits.word()
            && !self.current.wraps(end)
            && let Some(size) = (end << shift).checked_sub(start.as_u64())
            && let Some(range) = PhysRange::new(start, size)
            && range.end() <= self.waiting.lowest
            && may_join(range)
        {
            self.current.bits.take_word();
            let folios = folios.into();
            return Ok(Some(Stretch {
                range,
                order,
                folios,
            }));
        }
        let Run { range, order } = self.current.take_run()?;
        let folios = range.size() >> shift;
        Ok(Some(Stretch {
            range,
            order,
            folios,
        }))
    }

    /// Where the next folio starts; it is of the current order then.
    #[inline(always)]
    fn find(&mut self) -> Result<Option<PhysAddr>, M::Error> {
        match self.current.first() {
            Some(addr) if addr <= self.waiting.lowest => Ok(Some(addr)),
            _ => self.look_up(),
        }
    }

    #[inline(never)]
    fn look_up(&mut self) -> Result<Option<PhysAddr>, M::Error> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        if let Some(first) = self.first.take() {
            self.start(first)?;
        }
        loop {
            match self.current.find(&self.map, &mut self.cache)? {
                Some(addr) if addr <= self.waiting.lowest => return Ok(Some(addr)),
                Some(addr) => {
                    let Reader { order, place, .. } = self.current;
                    self.waiting.insert(addr, order, place);
                }
                None => {}
            }
            let Some((addr, order, place)) = self.waiting.take_lowest() else {
                return Ok(None);
            };
            self.current = Reader::new(&self.map, order, addr, place, &mut self.cache)?;
        }
    }
}

/// Where the next folio of every order starts, but for the current order.
#[derive(Debug)]
struct Waiting {
    /// By descending address. The order is in the low bits, which are 0 in the address of a page;
    /// the other number is where the map found it.
    orders: [(u64, u64); MAX_ORDERS],
    len: usize,
    /// The lowest address.
    lowest: PhysAddr,
}

impl Waiting {
    const NONE: Self = Self {
        orders: [(0, 0); MAX_ORDERS],
        len: 0,
        lowest: PhysAddr::new(u64::MAX),
    };

    fn insert(&mut self, addr: PhysAddr, order: Order, place: u64) {
        let new = addr.as_u64() | u64::from(order.as_u32());
        let mut free = self.len;
        while let Some(below) = free.checked_sub(1) {
            match self.orders.get(below) {
                Some(&other) if other.0 < new => {
                    if let Some(free) = self.orders.get_mut(free) {
                        *free = other;
                    }
                    free = below;
                }
                _ => break,
            }
        }
        if let Some(free) = self.orders.get_mut(free) {
            *free = (new, place);
            self.len += 1;
        }
        self.lowest = self.lowest.min(addr);
    }

    fn take_lowest(&mut self) -> Option<(PhysAddr, Order, u64)> {
        self.len = self.len.checked_sub(1)?;
        let &(at, place) = self.orders.get(self.len)?;
        let next = self.len.checked_sub(1).and_then(|i| self.orders.get(i));
        self.lowest = PhysAddr::new(next.map_or(u64::MAX, |(at, _)| at & !63));
        Some((
            PhysAddr::new(at & !63),
            Order::new((at & 63) as u32)?,
            place,
        ))
    }
}

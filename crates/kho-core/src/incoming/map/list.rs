//! Linked chunks of bitmaps.
//!
//! Linux writes the entries of each order by ascending address, and then the next run of an order
//! is found where the last one ended. A short list in any other sequence is read as well, by looking
//! through all of it for each few bitmaps.

use kho_abi::chunk::{ChunkEntry, ChunkHeader, SketchChunkHeader, V1Bitmaps, chunk_capacity};
use kho_hal::{FrozenMem, Order, PageSize, PhysAddr};

use super::tree::check_page;
use crate::bits::Bits;
use crate::incoming::ascending::Sorter;
use crate::incoming::places::{Ram, Scratch};
use crate::incoming::{Fault, Folio, read};

/// Which fields a chunk starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Sketch,
    V1,
}

/// A list by its first chunk.
#[derive(Debug)]
pub(super) struct List<'a, M> {
    mem: &'a M,
    page: PageSize,
    head: PhysAddr,
    header: Header,
    bitmaps: V1Bitmaps,
    /// Whether each order's entries ascend.
    sorted: bool,
    /// Number of chunks, once they were counted: no later walk goes further.
    chunks: u64,
    /// Number of entries in them.
    entries: u64,
}

/// Most chunks and entries in a list whose entries do not ascend: each entry costs a look at all.
const MAX_UNSORTED: u64 = 1 << 12;

/// The next bitmaps of one order in a list whose entries do not ascend, and how often any map was
/// looked at.
#[derive(Debug)]
pub(crate) struct Lookahead {
    order: Order,
    /// Where a bitmap starts, and its place in the list; ascending.
    entries: [(u64, u64); Self::LEN],
    len: usize,
    /// What the entries were looked up for: none is missing from here on.
    from: u64,
    /// Looks at the map, of whichever kind, so far.
    looks: u64,
}

impl Lookahead {
    const LEN: usize = 8;

    pub(crate) const EMPTY: Self = Self {
        order: Order::ZERO,
        entries: [(0, 0); Self::LEN],
        len: 0,
        from: u64::MAX,
        looks: 0,
    };

    /// Counts one more look at the map; returns how many they are.
    pub(super) fn count(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }

    fn known(&self) -> &[(u64, u64)] {
        self.entries.get(..self.len).unwrap_or_default()
    }

    /// Takes an entry in if it is one of the lowest.
    fn offer(&mut self, entry: (u64, u64)) {
        let at = self.known().partition_point(|known| *known < entry);
        if at < Self::LEN {
            self.len = (self.len + 1).min(Self::LEN);
            if let Some(later) = self.entries.get_mut(at..self.len) {
                later.rotate_right(1);
                if let Some(first) = later.first_mut() {
                    *first = entry;
                }
            }
        }
    }
}

impl_copy!(List);

#[derive(Clone, Copy)]
struct Chunk<'a> {
    at: PhysAddr,
    order: Order,
    next: PhysAddr,
    entries: &'a [ChunkEntry],
}

/// A bitmap in its place: bit `b` stands for the folio `b` folios after `start`.
#[derive(Clone, Copy)]
pub(super) struct Bitmap<'a> {
    order: Order,
    /// log2 of the size of a folio.
    shift: u32,
    start: u64,
    words: &'a [u64],
}

impl Bitmap<'_> {
    /// The folio of this bitmap that contains `addr`.
    pub(super) fn folio(&self, addr: PhysAddr) -> Option<Folio> {
        let bit = addr.as_u64().checked_sub(self.start)? >> self.shift;
        let word = *self.words.get(usize::try_from(bit / 64).ok()?)?;
        (word >> (bit % 64) & 1 != 0).then_some(Folio {
            addr: PhysAddr::new(self.start + (bit << self.shift)),
            order: self.order,
        })
    }
}

impl<'a, M: FrozenMem> List<'a, M> {
    pub(super) fn new(
        mem: &'a M,
        page: PageSize,
        head: PhysAddr,
        header: Header,
        bitmaps: V1Bitmaps,
    ) -> Self {
        Self {
            mem,
            page,
            head,
            header,
            bitmaps,
            sorted: true,
            chunks: u64::MAX,
            entries: u64::MAX,
        }
    }

    /// Number of entries in a checked list.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// What it costs to look through a checked list.
    pub(super) fn len(&self) -> u64 {
        self.chunks.saturating_add(self.entries)
    }

    fn chunk(&self, at: PhysAddr) -> Result<Chunk<'a>, Fault> {
        let header = size_of::<ChunkHeader>();
        let (next, order, count) = match self.header {
            Header::V1 => {
                let header: &ChunkHeader = read::object(self.mem, at)?;
                (header.next, header.order, header.num_elms)
            }
            Header::Sketch => {
                let header: &SketchChunkHeader = read::object(self.mem, at)?;
                (header.next, header.order, header.num_elms)
            }
        };
        let max = self.page.max_order();
        let found = Order::new(order.get()).filter(|order| *order <= max);
        let max_count = chunk_capacity(self.page) as u64;
        let count = u64::from(count.get());
        if count > max_count {
            return Err(Fault::Count {
                at,
                found: count,
                max: max_count,
            });
        }
        Ok(Chunk {
            at,
            order: found.ok_or(Fault::Count {
                at,
                found: order.get().into(),
                max: max.as_u32().into(),
            })?,
            next: PhysAddr::new(next.get()),
            entries: read::array(self.mem, offset(at, header), count as usize)?,
        })
    }

    /// Calls `visit` with each chunk until it returns false.
    fn walk(&self, visit: &mut dyn FnMut(Chunk<'a>) -> Result<bool, Fault>) -> Result<(), Fault> {
        // That the chunks are RAM was checked before.
        self.walk_in(&Ram::Unknown, visit)
    }

    /// Calls `visit` with each chunk until it returns false; reads none that is not in `ram`. Finds
    /// a cycle with two pointers, one of which stays behind.
    fn walk_in(
        &self,
        ram: &Ram<'_>,
        visit: &mut dyn FnMut(Chunk<'a>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut behind = self.head;
        let (mut steps, mut limit) = (0u64, 1u64);
        let mut at = self.head;
        while at != PhysAddr::new(0) {
            if !at.is_page_aligned(self.page) {
                return Err(Fault::Misaligned { addr: at });
            }
            ram.range(at, self.page.bytes())?;
            let chunk = self.chunk(at)?;
            if !visit(chunk)? {
                return Ok(());
            }
            at = chunk.next;
            if at == behind {
                return Err(Fault::ReachedTwice { addr: at });
            }
            steps += 1;
            if steps == limit {
                behind = at;
                limit = limit.saturating_mul(2);
                steps = 0;
            }
        }
        Ok(())
    }

    /// Number of bits in a bitmap.
    fn bitmap_bits(&self) -> u64 {
        self.bitmaps.bytes(self.page) as u64 * 8
    }

    /// log2 of what a bitmap of `bitmaps` covers in bytes; may exceed 63.
    fn cover_shift(&self, order: Order, bitmaps: V1Bitmaps) -> u32 {
        let bits = bitmaps.bytes(self.page) * 8;
        bits.trailing_zeros() + order.as_u32() + self.page.shift()
    }

    fn bitmap(&self, order: Order, entry: &ChunkEntry) -> Result<Bitmap<'a>, Fault> {
        self.bitmap_at(order, entry.phys_start.get(), entry.bitmap.get())
    }

    fn bitmap_at(&self, order: Order, start: u64, bitmap: u64) -> Result<Bitmap<'a>, Fault> {
        let at = PhysAddr::new(bitmap);
        Ok(Bitmap {
            order,
            shift: order.as_u32() + self.page.shift(),
            start,
            words: read::array(self.mem, at, (self.bitmap_bits() / 64) as usize)?,
        })
    }

    /// Whether something in the list is impossible with bitmaps of a page.
    pub(super) fn proves_small(&self, ram: &Ram<'_>) -> Result<bool, Fault> {
        let mut proved = false;
        self.walk_in(ram, &mut |chunk| {
            let cover = self.cover_shift(chunk.order, V1Bitmaps::Page);
            proved = chunk.entries.iter().any(|entry| {
                let bitmap = PhysAddr::new(entry.bitmap.get());
                !bitmap.is_page_aligned(self.page) || !is_multiple(entry.phys_start.get(), cover)
            });
            Ok(!proved)
        })?;
        Ok(proved)
    }

    /// Checks chunks and bitmaps: in place, readable, and without cycles; says which order entries
    /// come in. Returns how many chunks and bitmaps there are. That they are disjoint is the caller's to check.
    ///
    /// Linux 6.16 and 6.17 could put chunks and bitmaps into scratch, where they are safe only
    /// until something is allocated; that is tolerated for 512-byte bitmaps, which no later kernel
    /// writes.
    pub(super) fn check(
        &mut self,
        ram: &Ram<'_>,
        scratch: &Scratch<'_>,
        workspace: &mut [u64],
    ) -> Result<u64, Fault> {
        let none = Scratch::NONE;
        let scratch = match self.bitmaps {
            V1Bitmaps::Small => &none,
            V1Bitmaps::Page => scratch,
        };
        // By order: one more than where the last bitmap starts.
        let mut after = [0; 64];
        let (mut sorted, mut chunks, mut entries) = (true, 0, 0);
        self.walk_in(ram, &mut |chunk| {
            check_page(chunk.at, self.page.bytes(), ram, scratch)?;
            chunks += 1;
            entries += chunk.entries.len() as u64;
            for (i, entry) in chunk.entries.iter().enumerate() {
                let at = offset(chunk.at, (i + 1) * size_of::<ChunkEntry>());
                let start = entry.phys_start.get();
                if !is_multiple(start, self.cover_shift(chunk.order, self.bitmaps)) {
                    let addr = PhysAddr::new(start);
                    return Err(Fault::Misaligned { addr });
                }
                self.check_bitmap(at, entry, ram, scratch)?;
                self.bitmap(chunk.order, entry)?;
                if let Some(after) = after.get_mut(chunk.order.as_u32() as usize) {
                    sorted &= *after <= start;
                    *after = start + 1;
                }
            }
            Ok(true)
        })?;
        (self.sorted, self.chunks, self.entries) = (sorted, chunks, entries);
        let pieces = chunks + entries;
        if sorted {
            return Ok(pieces);
        }
        if self.len() > MAX_UNSORTED {
            return Err(Fault::Unsorted { at: self.head });
        }
        let mut sorter = Sorter::new(workspace);
        for (order, after) in (0..).zip(&after) {
            if let (Some(order), 1..) = (Order::new(order), after) {
                self.check_starts(order, &mut sorter)?;
            }
        }
        Ok(pieces)
    }

    fn check_bitmap(
        &self,
        at: PhysAddr,
        entry: &ChunkEntry,
        ram: &Ram<'_>,
        scratch: &Scratch<'_>,
    ) -> Result<(), Fault> {
        let bitmap = PhysAddr::new(entry.bitmap.get());
        if bitmap == PhysAddr::new(0) {
            return Err(Fault::Null { at });
        }
        let align = match self.bitmaps {
            V1Bitmaps::Small => 8,
            V1Bitmaps::Page => self.page.bytes(),
        };
        if !bitmap.is_aligned_to(align) {
            return Err(Fault::Misaligned { addr: bitmap });
        }
        scratch.refuse(ram.range(bitmap, self.bitmaps.bytes(self.page) as u64)?)
    }

    /// In a list in any sequence: no two bitmaps of an order start at one address.
    fn check_starts(&self, order: Order, sorter: &mut Sorter<'_>) -> Result<(), Fault> {
        let starts = |list: &mut dyn FnMut(u64)| {
            self.for_each_entry(order, &mut |_, entry| list(entry.phys_start.get()))
        };
        sorter.unique(self.len(), starts, |start| Fault::Overlap {
            addr: PhysAddr::new(start),
        })
    }

    /// Calls `visit` with each entry of `order` and its place.
    fn for_each_entry(
        &self,
        order: Order,
        visit: &mut dyn FnMut(u64, &'a ChunkEntry),
    ) -> Result<(), Fault> {
        self.walk(&mut |chunk| {
            if chunk.order == order {
                let places = chunk.at.as_u64()..;
                places
                    .zip(chunk.entries)
                    .for_each(|(place, entry)| visit(place, entry));
            }
            Ok(true)
        })
    }

    /// Chunk and number of the entry at a place: the address of the chunk plus the number.
    fn chunk_and_number(&self, place: u64) -> (PhysAddr, usize) {
        let page = self.page.bytes();
        (PhysAddr::new(place / page * page), (place % page) as usize)
    }

    /// Calls `visit` with address and size of each chunk and each bitmap.
    pub(super) fn visit_own(&self, visit: &mut dyn FnMut(PhysAddr, u64)) -> Result<(), Fault> {
        self.walk(&mut |chunk| {
            visit(chunk.at, self.page.bytes());
            for entry in chunk.entries {
                let bitmap = PhysAddr::new(entry.bitmap.get());
                visit(bitmap, self.bitmaps.bytes(self.page) as u64);
            }
            Ok(true)
        })
    }

    /// The bitmap with the folio that contains `addr`. Looks through the list once.
    pub(super) fn bitmap_containing(&self, addr: PhysAddr) -> Result<Option<Bitmap<'a>>, Fault> {
        let mut found = None;
        self.walk(&mut |chunk| {
            let cover = self.cover_shift(chunk.order, self.bitmaps);
            for entry in chunk.entries {
                let inside = addr.as_u64().checked_sub(entry.phys_start.get());
                if inside.is_some_and(|inside| inside.checked_shr(cover).unwrap_or(0) == 0) {
                    let bitmap = self.bitmap(chunk.order, entry)?;
                    if bitmap.folio(addr).is_some() {
                        found = Some(bitmap);
                    }
                }
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// Fills `index` with start and order of each bitmap, and where it is.
    pub(super) fn fill(&self, index: &mut [[u64; 2]]) -> Result<(), Fault> {
        if index.is_empty() {
            return Ok(());
        }
        let mut places = index.iter_mut();
        self.walk(&mut |chunk| {
            for (entry, place) in chunk.entries.iter().zip(&mut places) {
                // A start is a multiple of far more than there are orders.
                let key = entry.phys_start.get() | u64::from(chunk.order.as_u32());
                *place = [key, entry.bitmap.get()];
            }
            Ok(true)
        })?;
        index.sort_unstable();
        Ok(())
    }

    /// As [`List::bitmap_containing`], by the index.
    pub(super) fn find(
        &self,
        index: &[[u64; 2]],
        orders: impl Iterator<Item = Order>,
        addr: PhysAddr,
    ) -> Result<Option<Bitmap<'a>>, Fault> {
        for order in orders {
            let below = u64::MAX
                .checked_shl(self.cover_shift(order, self.bitmaps))
                .unwrap_or(0);
            let start = addr.as_u64() & below;
            let key = start | u64::from(order.as_u32());
            if let Ok(found) = index.binary_search_by_key(&key, |[key, _]| *key)
                && let Some(&[_, bitmap]) = index.get(found)
            {
                let bitmap = self.bitmap_at(order, start, bitmap)?;
                if bitmap.folio(addr).is_some() {
                    return Ok(Some(bitmap));
                }
            }
        }
        Ok(None)
    }

    /// The bits of `order` from folio `from` on, as many as lie in the first bitmap that has one for
    /// `from` or for a later folio. `place` is where the last bitmap was found.
    pub(super) fn bits(
        &self,
        order: Order,
        from: u64,
        place: &mut u64,
        ahead: &mut Lookahead,
    ) -> Result<Option<Bits<'a, u64>>, Fault> {
        let shift = order.as_u32() + self.page.shift();
        let bitmap = if self.sorted {
            self.next_bitmap(order, from << shift, place)?
        } else {
            self.lowest_bitmap(order, from << shift, place, ahead)?
        };
        Ok(bitmap.map(|bitmap| Bits::new(bitmap.start >> shift, bitmap.words, from)))
    }

    /// Whether a bitmap that starts at `start` covers something at or after `from`.
    fn reaches(&self, order: Order, start: u64, from: u64) -> bool {
        u128::from(start) + (1 << self.cover_shift(order, self.bitmaps)) > from.into()
    }

    /// As [`List::next_bitmap`], in a list in any sequence.
    fn lowest_bitmap(
        &self,
        order: Order,
        from: u64,
        place: &mut u64,
        ahead: &mut Lookahead,
    ) -> Result<Option<Bitmap<'a>>, Fault> {
        // Where folios of two orders take turns, this is asked for time and again.
        if let Some(last) = self.entry(*place)?
            && last.phys_start.get() <= from
            && self.reaches(order, last.phys_start.get(), from)
        {
            return self.bitmap(order, last).map(Some);
        }
        let next = |ahead: &Lookahead| {
            let mut known = ahead.known().iter();
            known
                .find(|(start, _)| self.reaches(order, *start, from))
                .copied()
        };
        let covered = ahead.order == order && ahead.from <= from;
        let mut found = next(ahead).filter(|_| covered);
        if found.is_none() {
            *ahead = Lookahead {
                order,
                from,
                looks: ahead.looks,
                ..Lookahead::EMPTY
            };
            self.for_each_entry(order, &mut |place, entry| {
                let start = entry.phys_start.get();
                if self.reaches(order, start, from) {
                    ahead.offer((start, place));
                }
            })?;
            found = next(ahead);
        }
        let Some((_, found)) = found else {
            return Ok(None);
        };
        *place = found;
        let entry = self.entry(found)?;
        entry.map(|entry| self.bitmap(order, entry)).transpose()
    }

    /// The entry at a place; none at 0.
    fn entry(&self, place: u64) -> Result<Option<&'a ChunkEntry>, Fault> {
        if place == 0 {
            return Ok(None);
        }
        let (chunk, number) = self.chunk_and_number(place);
        let at = offset(chunk, (number + 1) * size_of::<ChunkEntry>());
        Ok(Some(read::object(self.mem, at)?))
    }

    /// The bitmap of `order` with the lowest start that covers something at or after `from`, in a
    /// list whose entries ascend.
    fn next_bitmap(
        &self,
        order: Order,
        from: u64,
        place: &mut u64,
    ) -> Result<Option<Bitmap<'a>>, Fault> {
        let reaches = |entry: &ChunkEntry| self.reaches(order, entry.phys_start.get(), from);
        let (mut at, mut index) = match *place {
            0 => (self.head, 0),
            place => self.chunk_and_number(place),
        };
        for _ in 0..self.chunks {
            if at == PhysAddr::new(0) {
                break;
            }
            let chunk = self.chunk(at)?;
            if chunk.order == order {
                let entries = chunk.entries.iter().enumerate().skip(index);
                for (i, entry) in entries {
                    if reaches(entry) {
                        *place = at.as_u64() + i as u64;
                        return self.bitmap(order, entry).map(Some);
                    }
                }
            }
            (at, index) = (chunk.next, 0);
        }
        Ok(None)
    }
}

fn offset(at: PhysAddr, bytes: usize) -> PhysAddr {
    PhysAddr::new(at.as_u64().saturating_add(bytes as u64))
}

/// Whether `number` is a multiple of `2^shift`.
fn is_multiple(number: u64, shift: u32) -> bool {
    number.trailing_zeros() >= shift || number == 0
}

//! The map of preserved memory as a predecessor left it: a radix tree.
//!
//! Preserved folios of one order are consecutive keys, so a *run* of set bits is a stretch of
//! memory. Everything here works on runs: a dense map costs a look at each word, not at each folio.

use kho_abi::radix::{self, Key};
use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};

use crate::incoming::places::{Ram, Scratch, Twice, each_page_once};
use crate::incoming::runs::Runs;
use crate::incoming::{Fault, Folio, read};

/// The tree, before and after it is checked.
#[derive(Debug)]
pub(crate) struct Map<'a, M> {
    mem: &'a M,
    page: PageSize,
    root: PhysAddr,
    /// Bit `o`: there may be folios of order `o`. All ones until the folios were looked through.
    orders: u64,
}

impl<M> Clone for Map<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Map<'_, M> {}

/// Consecutive folios of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) range: PhysRange,
    pub(crate) order: Order,
}

/// The leaf that was looked at last. A leaf holds the keys from `base` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafCache<'a> {
    base: u64,
    words: &'a [u64],
}

impl LeafCache<'_> {
    pub(crate) const EMPTY: Self = Self {
        base: u64::MAX,
        words: &[],
    };
}

impl<'a, M: FrozenMem> Map<'a, M> {
    pub(crate) fn new(mem: &'a M, page: PageSize, root: PhysAddr) -> Self {
        Self {
            mem,
            page,
            root,
            orders: u64::MAX,
        }
    }

    pub(crate) fn root(&self) -> PhysAddr {
        self.root
    }

    pub(crate) fn page(&self) -> PageSize {
        self.page
    }

    /// Checks the tree's own pages: RAM, outside scratch, each reached once; only entries of the
    /// root in use that some address needs. Says nothing of the folios.
    pub(crate) fn check_nodes(
        &self,
        ram: &Ram<'_>,
        scratch: &Scratch<'_>,
        workspace: &mut [u64],
    ) -> Result<(), Fault> {
        let check = |node: PhysAddr| {
            if !node.is_page_aligned(self.page) {
                return Err(Fault::Misaligned { addr: node });
            }
            let range = ram.range(node, self.page.bytes())?;
            scratch.refuse(range)?;
            Ok(range)
        };
        check(self.root)?;
        self.check_root_slots()?;
        // Level by level: no table is entered before it is known that all tables of its level are
        // different, so a shared table cannot multiply the work.
        for level in (0..radix::depth(self.page)).rev() {
            each_page_once(workspace, self.page, |claim| {
                self.visit_nodes(level, &mut |node| {
                    let range = check(node)?;
                    claim(range).map_err(|twice: Twice| Fault::ReachedTwice { addr: twice.page() })
                })
            })?;
        }
        // That the leaves can be read is part of the check as well.
        self.visit_nodes(0, &mut |node| Ok(self.words(node).map(|_| ())?))
    }

    /// Checks the folios: RAM, outside scratch, disjoint over all orders. The tree's pages are
    /// sound already ([`Map::check_nodes`]).
    pub(crate) fn check_folios(
        &mut self,
        ram: &Ram<'_>,
        scratch: &Scratch<'_>,
    ) -> Result<(), Fault> {
        let mut runs = Runs::new(*self, PhysAddr::new(0))?;
        let mut present = 0;
        let mut end = PhysAddr::new(0);
        while let Some(run) = runs.try_next()? {
            let start = run.range.start();
            if start < end {
                return Err(Fault::Overlap { addr: start });
            }
            end = run.range.end();
            scratch.refuse(ram.range(start, run.range.size())?)?;
            present |= 1 << run.order.as_u32();
        }
        self.orders = present;
        Ok(())
    }

    /// Checks that no page of the tree is preserved: its owner would overwrite the map.
    pub(crate) fn check_nodes_are_apart(&self) -> Result<(), Fault> {
        self.visit_nodes(0, &mut |node| match self.folio_containing(node)? {
            Some(_) => Err(Fault::Overlap { addr: node }),
            None => Ok(()),
        })
    }

    /// The orders that there may be folios of, ascending.
    pub(crate) fn orders(&self) -> impl DoubleEndedIterator<Item = Order> + use<M> {
        let orders = self.orders;
        (0..=self.page.max_order().as_u32())
            .filter(move |order| orders >> order & 1 != 0)
            .filter_map(Order::new)
    }

    /// Calls `visit` for every page of the tree, from the root's level down to `level`.
    pub(crate) fn visit_nodes(
        &self,
        level: u32,
        visit: &mut dyn FnMut(PhysAddr) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.visit_below(self.root, radix::depth(self.page) - 1, level, visit)
    }

    /// Recursive to the depth of the tree, 6 at most.
    fn visit_below(
        &self,
        node: PhysAddr,
        level: u32,
        last: u32,
        visit: &mut dyn FnMut(PhysAddr) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        visit(node)?;
        if level > last {
            for &child in self.words(node)? {
                if child != 0 {
                    self.visit_below(PhysAddr::new(child), level - 1, last, visit)?;
                }
            }
        }
        Ok(())
    }

    fn check_root_slots(&self) -> Result<(), Fault> {
        let shift = root_shift(self.page);
        for (slot, &child) in self.words(self.root)?.iter().enumerate() {
            if child != 0 && slot != 0 {
                // All keys behind a slot have one marker bit, and so one order. The lowest address
                // among them must be below 2^52, which is the marker's bit less 12.
                let lowest = (slot as u64).checked_shl(shift).unwrap_or(0);
                let marker = 1 << (slot.ilog2() + shift);
                if marker >> radix::key_width(self.page) != 0 || lowest - marker >= marker >> 12 {
                    return Err(Fault::Geometry {
                        at: self.root,
                        slot,
                    });
                }
            }
        }
        Ok(())
    }

    fn words(&self, node: PhysAddr) -> Result<&'a [u64], kho_hal::MemError> {
        read::array(self.mem, node, self.page.words())
    }

    /// The first leaf that holds a key in `from..=last`.
    fn leaf_from(&self, from: u64, last: u64) -> Result<Option<LeafCache<'a>>, Fault> {
        let leaf_shift = radix::leaf_shift(self.page);
        let table_shift = radix::table_shift(self.page);
        let top = radix::depth(self.page) - 1;
        let mut key = from;
        'descend: loop {
            let mut node = self.words(self.root)?;
            for level in (1..=top).rev() {
                let shift = (level - 1) * table_shift + leaf_shift;
                let index = radix::table_index(Key::new(key), level, self.page);
                let entries = node.get(index..).unwrap_or_default();
                let Some(skip) = entries.iter().position(|&child| child != 0) else {
                    // Nothing more in this table: go on with the first key of the next one.
                    let span = shift + table_shift;
                    let next = (key >> span) + 1;
                    if level == top || next > last >> span {
                        return Ok(None);
                    }
                    key = next << span;
                    continue 'descend;
                };
                if skip > 0 {
                    key = ((key >> shift) + skip as u64) << shift;
                    if key > last {
                        return Ok(None);
                    }
                }
                node = self.words(PhysAddr::new(entries.get(skip).copied().unwrap_or(0)))?;
            }
            return Ok(Some(LeafCache {
                base: key >> leaf_shift << leaf_shift,
                words: node,
            }));
        }
    }

    /// The first set key in `from..=last`, and one past the last of the set keys that follow it
    /// without a gap.
    fn next_keys(
        &self,
        from: u64,
        last: u64,
        cache: &mut LeafCache<'a>,
    ) -> Result<Option<(u64, u64)>, Fault> {
        let leaf_shift = radix::leaf_shift(self.page);
        let mut found: Option<(u64, u64)> = None;
        let mut from = from;
        while from <= last {
            if from >> leaf_shift != cache.base >> leaf_shift {
                match self.leaf_from(from, last)? {
                    Some(leaf) => *cache = leaf,
                    None => break,
                }
            }
            let base = cache.base;
            let first = from.max(base) - base;
            let end = (last - base + 1).min(1 << leaf_shift);
            if let Some((_, run_end)) = found
                && run_end != base + first
            {
                break;
            }
            match bit_run(cache.words, first as usize, end as usize) {
                Some((a, b)) => {
                    let (a, b) = (base + a as u64, base + b as u64);
                    match &mut found {
                        Some((_, run_end)) if *run_end == a => *run_end = b,
                        Some(_) => break,
                        None => found = Some((a, b)),
                    }
                    if b < base + end {
                        break;
                    }
                    from = b;
                }
                None if found.is_some() => break,
                None => from = base + end,
            }
        }
        Ok(found)
    }

    /// The first run of folios of `order` that starts at or after `from`, or that contains it.
    pub(crate) fn next_run(
        &self,
        order: Order,
        from: PhysAddr,
        cache: &mut LeafCache<'a>,
    ) -> Result<Option<Run>, Fault> {
        let shift = self.page.shift() + order.as_u32();
        let Some(marker) = 1u64.checked_shl(64 - shift) else {
            return Ok(None);
        };
        // A folio that starts at a lower address contains `from`, if any does.
        let first = marker | from.as_u64().checked_shr(shift).unwrap_or(0);
        let last = marker | (marker - 1);
        let keys = self.next_keys(first, last, cache)?;
        keys.map(|(start, end)| {
            let addr = PhysAddr::new((start - marker) << shift);
            let not_ram = Fault::NotRam {
                addr,
                size: u64::MAX,
            };
            let size = (end - start)
                .checked_mul(1 << shift)
                .ok_or(not_ram.clone())?;
            let range = PhysRange::new(addr, size).ok_or(not_ram)?;
            Ok(Run { range, order })
        })
        .transpose()
    }

    /// Whether exactly this folio is in the map.
    pub(crate) fn has(&self, addr: PhysAddr, order: Order) -> Result<bool, Fault> {
        let Ok(key) = Key::encode(addr, order, self.page) else {
            return Ok(false);
        };
        let mut node = self.words(self.root)?;
        for level in (1..radix::depth(self.page)).rev() {
            let index = radix::table_index(key, level, self.page);
            match node.get(index) {
                None | Some(0) => return Ok(false),
                Some(&child) => node = self.words(PhysAddr::new(child))?,
            }
        }
        let bit = radix::leaf_bit(key, self.page);
        let word = node.get(bit / 64).copied().unwrap_or(0);
        Ok(word >> (bit % 64) & 1 != 0)
    }

    /// The order of the folio whose first byte is at `addr`.
    pub(crate) fn order_of(&self, addr: PhysAddr) -> Result<Option<Order>, Fault> {
        for order in self.orders() {
            if self.has(addr, order)? {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    /// The folio that contains `addr`, whatever its order.
    pub(crate) fn folio_containing(&self, addr: PhysAddr) -> Result<Option<Folio>, Fault> {
        for order in self.orders() {
            let Some(size) = order.bytes(self.page) else {
                break;
            };
            let head = PhysAddr::new(addr.as_u64() & !(size - 1));
            if self.has(head, order)? {
                return Ok(Some(Folio { addr: head, order }));
            }
        }
        Ok(None)
    }
}

/// The shift from a key to the index in the root.
const fn root_shift(page: PageSize) -> u32 {
    (radix::depth(page) - 2) * radix::table_shift(page) + radix::leaf_shift(page)
}

/// The first run of set bits in `from..end`, cut off at `end`.
fn bit_run(words: &[u64], from: usize, end: usize) -> Option<(usize, usize)> {
    let start = first_bit(words, from, end, 0)?;
    let stop = first_bit(words, start, end, u64::MAX).unwrap_or(end);
    Some((start, stop))
}

/// The first bit in `from..end` that is set in `word ^ flip`.
fn first_bit(words: &[u64], from: usize, end: usize, flip: u64) -> Option<usize> {
    let mut index = from / 64;
    let mut word = (words.get(index)? ^ flip) & (u64::MAX << (from % 64));
    while word == 0 {
        index += 1;
        if index * 64 >= end {
            return None;
        }
        word = words.get(index)? ^ flip;
    }
    let bit = index * 64 + word.trailing_zeros() as usize;
    (bit < end).then_some(bit)
}

#[cfg(test)]
mod tests {
    use bitvec::prelude::*;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs of bits against another library's.
        #[test]
        fn runs_of_bits(
            words in prop::collection::vec(
                prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 1..8
            ),
            from in 0usize..600, end in 0usize..600,
        ) {
            let end = end.min(words.len() * 64);
            let bits = words.view_bits::<Lsb0>();
            let window = bits.get(from..end);
            let start = window.and_then(BitSlice::first_one).map(|bit| from + bit);
            let expected = start.map(|start| {
                let rest = bits.get(start..end).and_then(BitSlice::first_zero);
                (start, rest.map_or(end, |bit| start + bit))
            });
            prop_assert_eq!(bit_run(&words, from, end), expected);
        }
    }
}

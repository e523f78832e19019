//! Reading the radix tree, one's own or a predecessor's.
//!
//! Preserved folios of one order are consecutive keys, so a *run* of set bits is a stretch of
//! memory. Everything here works on runs: a dense map costs a look at each word, not at each folio.

use core::sync::atomic::{AtomicU64, Ordering};

use kho_abi::radix::{self, Key};
use kho_hal::{FrozenMem, MemError, Order, PageSize, PhysAddr, PhysMem, PhysRange};

use crate::incoming::read;

/// Consecutive folios of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) range: PhysRange,
    pub(crate) order: Order,
}

impl Run {
    pub(crate) const NONE: Self = Self {
        range: match PhysRange::new(PhysAddr::new(0), 0) {
            Some(range) => range,
            None => panic!("an empty range is a range"),
        },
        order: Order::ZERO,
    };

    /// `count` folios of `order` from `addr` on; `None` if they wrap.
    pub(crate) fn new(addr: PhysAddr, order: Order, count: u64, page: PageSize) -> Option<Self> {
        let size = count.checked_mul(order.bytes(page)?)?;
        let range = PhysRange::new(addr, size)?;
        Some(Self { range, order })
    }
}

/// A word of a page of the tree.
pub(crate) trait Word {
    fn get(&self) -> u64;
}

impl Word for u64 {
    fn get(&self) -> u64 {
        *self
    }
}

impl Word for AtomicU64 {
    fn get(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
}

/// Where the pages of a tree lie.
pub(crate) trait Pages<'a>: Copy {
    type Word: Word + 'a;

    fn words(self, at: PhysAddr, count: usize) -> Result<&'a [Self::Word], MemError>;
}

/// Pages that nobody writes.
#[derive(Debug)]
pub(crate) struct Frozen<'a, M>(pub(crate) &'a M);

/// Pages that are being written.
#[derive(Debug)]
pub(crate) struct Shared<'a, M>(pub(crate) &'a M);

impl_copy!(Frozen);

impl_copy!(Shared);

impl<'a, M: FrozenMem> Pages<'a> for Frozen<'a, M> {
    type Word = u64;

    fn words(self, at: PhysAddr, count: usize) -> Result<&'a [u64], MemError> {
        read::array(self.0, at, count)
    }
}

impl<'a, M: PhysMem> Pages<'a> for Shared<'a, M> {
    type Word = AtomicU64;

    fn words(self, at: PhysAddr, count: usize) -> Result<&'a [AtomicU64], MemError> {
        self.0.words(at, count)
    }
}

/// A tree by its root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<P> {
    pub(crate) pages: P,
    pub(crate) page: PageSize,
    pub(crate) root: PhysAddr,
}

/// The leaf that was looked at last. A leaf holds the keys from `base` on.
#[derive(Debug)]
pub(crate) struct LeafCache<'a, W> {
    base: u64,
    words: &'a [W],
}

impl<W> LeafCache<'_, W> {
    pub(crate) const EMPTY: Self = Self {
        base: u64::MAX,
        words: &[],
    };
}

impl<'a, P: Pages<'a>> Tree<P> {
    /// Calls `visit` for every page of the tree, from the root's level down to `level`. What
    /// `visit` refuses is not entered.
    pub(crate) fn visit_nodes<E: From<MemError>>(
        &self,
        level: u32,
        visit: &mut dyn FnMut(PhysAddr) -> Result<(), E>,
    ) -> Result<(), E> {
        self.visit_below(self.root, radix::depth(self.page) - 1, level, visit)
    }

    /// As [`Tree::visit_nodes`] down to the leaves, for a tree with a level less.
    pub(crate) fn visit_short<E: From<MemError>>(
        &self,
        visit: &mut dyn FnMut(PhysAddr) -> Result<(), E>,
    ) -> Result<(), E> {
        self.visit_below(self.root, radix::depth(self.page) - 2, 0, visit)
    }

    /// Recursive to the depth of the tree, 6 at most.
    fn visit_below<E: From<MemError>>(
        &self,
        node: PhysAddr,
        level: u32,
        last: u32,
        visit: &mut dyn FnMut(PhysAddr) -> Result<(), E>,
    ) -> Result<(), E> {
        visit(node)?;
        if level > last {
            for child in self.words(node)? {
                match child.get() {
                    0 => {}
                    child => self.visit_below(PhysAddr::new(child), level - 1, last, visit)?,
                }
            }
        }
        Ok(())
    }

    pub(crate) fn words(&self, node: PhysAddr) -> Result<&'a [P::Word], MemError> {
        self.pages.words(node, self.page.words())
    }

    /// The first leaf that holds a key in `from..=last`.
    fn leaf_from(&self, from: u64, last: u64) -> Result<Option<LeafCache<'a, P::Word>>, MemError> {
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
                let Some(skip) = entries.iter().position(|child| child.get() != 0) else {
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
                let child = entries.get(skip).map_or(0, Word::get);
                node = self.words(PhysAddr::new(child))?;
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
        cache: &mut LeafCache<'a, P::Word>,
    ) -> Result<Option<(u64, u64)>, MemError> {
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
        cache: &mut LeafCache<'a, P::Word>,
    ) -> Result<Option<Run>, Wraps> {
        let shift = self.page.shift() + order.as_u32();
        let marker = 1u64 << (64 - shift);
        // A folio that starts at a lower address contains `from`, if any does.
        let first = marker | from.as_u64().checked_shr(shift).unwrap_or(0);
        let last = marker | (marker - 1);
        let keys = self.next_keys(first, last, cache).map_err(Wraps::Memory)?;
        keys.map(|(start, end)| {
            let addr = PhysAddr::new((start - marker) << shift);
            Run::new(addr, order, end - start, self.page).ok_or(Wraps::At(addr))
        })
        .transpose()
    }

    /// Whether exactly this folio is in the tree.
    pub(crate) fn has(&self, addr: PhysAddr, order: Order) -> Result<bool, MemError> {
        match Key::encode(addr, order, self.page) {
            Ok(key) => self.has_key(key),
            Err(_) => Ok(false),
        }
    }

    /// Whether the bit of this key is set.
    pub(crate) fn has_key(&self, key: Key) -> Result<bool, MemError> {
        let mut node = self.root;
        for level in (1..radix::depth(self.page)).rev() {
            let index = radix::table_index(key, level, self.page) as u64;
            match self.word(node, index)? {
                0 => return Ok(false),
                child => node = PhysAddr::new(child),
            }
        }
        let bit = radix::leaf_bit(key, self.page) as u64;
        Ok(self.word(node, bit / 64)? >> (bit % 64) & 1 != 0)
    }

    fn word(&self, node: PhysAddr, index: u64) -> Result<u64, MemError> {
        let words = self.words(node)?;
        Ok(words.get(index as usize).map_or(0, Word::get))
    }
}

/// A run could not be told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wraps {
    /// The tree's memory is not there.
    Memory(MemError),
    /// The folios from here on reach the end of the address space.
    At(PhysAddr),
}

/// Every order that a folio can have, ascending.
pub(crate) fn all_orders(page: PageSize) -> impl DoubleEndedIterator<Item = Order> {
    (0..=page.max_order().as_u32()).filter_map(Order::new)
}

/// The first run of set bits in `from..end`, cut off at `end`.
pub(crate) fn bit_run<W: Word>(words: &[W], from: usize, end: usize) -> Option<(usize, usize)> {
    let start = first_bit(words, from, end, 0)?;
    let stop = first_bit(words, start, end, u64::MAX).unwrap_or(end);
    Some((start, stop))
}

/// The first bit in `from..end` that is set in `word ^ flip`.
fn first_bit<W: Word>(words: &[W], from: usize, end: usize, flip: u64) -> Option<usize> {
    let mut index = from / 64;
    let mut word = (words.get(index)?.get() ^ flip) & (u64::MAX << (from % 64));
    while word == 0 {
        index += 1;
        if index * 64 >= end {
            return None;
        }
        word = words.get(index)?.get() ^ flip;
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

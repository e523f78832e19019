//! Reading the radix tree, one's own or a predecessor's.

use kho_abi::radix::{self, Key};
use kho_hal::sync::AtomicU64;
use kho_hal::{FrozenMem, MemError, Order, PageSize, PhysAddr, PhysMem};

use crate::OutgoingError;
use crate::bits::{Bits, Word};
use crate::incoming::read;
use crate::runs::FolioBits;

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

/// A leaf that holds the keys from `base` on.
struct Leaf<'a, W> {
    base: u64,
    words: &'a [W],
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
    fn leaf_from(&self, from: u64, last: u64) -> Result<Option<Leaf<'a, P::Word>>, MemError> {
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
            return Ok(Some(Leaf {
                base: key >> leaf_shift << leaf_shift,
                words: node,
            }));
        }
    }

    /// The bits of `order` from folio `from` on, as many as lie in the first leaf that has a bit for
    /// `from` or for a later folio.
    pub(crate) fn bits(
        &self,
        order: Order,
        from: u64,
    ) -> Result<Option<Bits<'a, P::Word>>, MemError> {
        // The keys of the order: as many as it has folios, from the one of address 0 on.
        let keys = 1u64 << (64 - self.page.shift() - order.as_u32());
        let Some(Leaf { base, words }) = self.leaf_from(keys | from, keys | (keys - 1))? else {
            return Ok(None);
        };
        if let Some(base) = base.checked_sub(keys) {
            return Ok(Some(Bits::new(base, words, from)));
        }
        // Large orders have so few folios that they share the first leaf.
        let first = keys as usize / 64;
        if first > 0 {
            let words = words.get(first..first * 2).unwrap_or_default();
            return Ok(Some(Bits::new(0, words, from)));
        }
        let word = words.first().map_or(0, Word::get) >> keys & ((1 << keys) - 1);
        Ok(Some(Bits::of_word(word, from)))
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

/// Every order that a folio can have, ascending.
pub(crate) fn all_orders(page: PageSize) -> impl DoubleEndedIterator<Item = Order> {
    (0..=page.max_order().as_u32()).filter_map(Order::new)
}

impl<'a, M: PhysMem> FolioBits<'a> for Tree<Shared<'a, M>> {
    type Word = AtomicU64;
    type Cache = ();
    type Error = OutgoingError;

    fn new_cache() {}

    fn page_size(&self) -> PageSize {
        self.page
    }

    fn orders(&self) -> impl DoubleEndedIterator<Item = Order> {
        all_orders(self.page)
    }

    fn bits(
        &self,
        order: Order,
        from: u64,
        _: &mut u64,
        (): &mut (),
    ) -> Result<Option<Bits<'a, AtomicU64>>, OutgoingError> {
        Ok(self.bits(order, from)?)
    }
}

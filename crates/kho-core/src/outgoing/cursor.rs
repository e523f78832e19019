//! Setting or clearing many bits of the tree, a word at a time.

use kho_abi::radix::{self, Key};
use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem, PhysRange};

use crate::outgoing::split::Nodes;
use crate::outgoing::tracker::folio_range;
use crate::{OutgoingError, Tracker};

/// What is done to a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Preserve,
    Unpreserve,
}

impl Edit {
    pub(super) fn undo(self) -> Self {
        match self {
            Self::Preserve => Self::Unpreserve,
            Self::Unpreserve => Self::Preserve,
        }
    }

    /// Changes the bits of `mask`; returns those that were as they should become.
    fn apply(self, word: &AtomicU64, mask: u64) -> u64 {
        match self {
            Self::Preserve => word.fetch_or(mask, Ordering::Relaxed) & mask,
            Self::Unpreserve => !word.fetch_and(!mask, Ordering::Relaxed) & mask,
        }
    }

    /// Says that the folio is as it should become.
    fn refuse(self, addr: PhysAddr, order: Order) -> OutgoingError {
        match self {
            Self::Preserve => OutgoingError::AlreadyPreserved { addr, order },
            Self::Unpreserve => OutgoingError::NotPreserved { addr, order },
        }
    }
}

/// A place in the tree: keeps the path to the last leaf, and collects the folios of one word, to
/// change them all at once.
pub(super) struct Cursor<'t, 's, M, A, N> {
    tracker: &'t Tracker<'s, M, A, N>,
    edit: Edit,
    /// The number of the leaf, counted through all keys, and its words.
    leaf: u64,
    words: &'t [AtomicU64],
    /// The number of a word, counted likewise, and the bits of it to change.
    word: u64,
    mask: u64,
    /// What the word's bits stand for, if they can be set without another look: folios of one order
    /// outside scratch.
    span: Option<Span>,
    /// How many bits were changed, those of `mask` not among them.
    pub(super) done: u64,
}

/// 64 folios of an order, from an address on.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    order: Order,
    /// log2 of the size of a folio.
    shift: u32,
}

impl Span {
    /// Which of them starts at `addr`.
    #[inline(always)]
    fn bit(self, addr: PhysAddr) -> Option<u32> {
        // A distance that is no multiple of the size comes out large, as does a negative one.
        let number = addr.as_u64().wrapping_sub(self.start);
        let number = number.rotate_right(self.shift);
        (number < 64).then_some(number as u32)
    }
}

impl<'t, 's, M: PhysMem, A: PageAlloc, N: Nodes> Cursor<'t, 's, M, A, N> {
    pub(super) fn new(tracker: &'t Tracker<'s, M, A, N>, edit: Edit) -> Self {
        Self {
            tracker,
            edit,
            leaf: u64::MAX,
            words: &[],
            word: u64::MAX,
            mask: 0,
            span: None,
            done: 0,
        }
    }

    /// Changes folios. On an error some are changed, the first [`Cursor::done`] of them.
    #[inline]
    pub(super) fn folios(
        &mut self,
        mut folios: impl Iterator<Item = (PhysAddr, Order)>,
    ) -> Result<(), OutgoingError> {
        loop {
            // Not in memory while one folio follows the other: that would cost more than the rest.
            let (span, mut mask) = (self.span, self.mask);
            let elsewhere = folios.find(|&(addr, order)| {
                let bit = span.filter(|span| span.order == order);
                match bit.and_then(|span| span.bit(addr)) {
                    Some(bit) if mask >> bit & 1 == 0 => {
                        mask |= 1 << bit;
                        false
                    }
                    _ => true,
                }
            });
            self.mask = mask;
            match elsewhere {
                Some((addr, order)) => self.folio(addr, order)?,
                None => return self.flush(),
            }
        }
    }

    /// Changes a folio in another word, or one that needs a look, at the latest with
    /// [`Cursor::flush`].
    #[inline(never)]
    fn folio(&mut self, addr: PhysAddr, order: Order) -> Result<(), OutgoingError> {
        let page = self.tracker.page_size();
        let key = Key::encode(addr, order, page)?;
        if self.edit == Edit::Preserve {
            self.tracker
                .refuse_scratch(folio_range(addr, order, page)?)?;
        }
        let number = key.as_u64();
        let bit = 1 << (number % 64);
        if self.word != number / 64 || self.mask & bit != 0 {
            self.flush()?;
            self.word = number / 64;
            self.span = self.span(order);
        }
        self.mask |= bit;
        Ok(())
    }

    /// What the word's bits stand for, one of them being a folio of `order`.
    fn span(&self, order: Order) -> Option<Span> {
        let page = self.tracker.page_size();
        // Orders share no word but the first, whose first bit is no folio's.
        let (start, _) = Key::new(self.word * 64).decode(page).ok()?;
        let size = order.bytes(page)?.checked_mul(64)?;
        let range = PhysRange::new(start, size)?;
        let clear = self.edit == Edit::Unpreserve || self.tracker.refuse_scratch(range).is_ok();
        clear.then(|| Span {
            start: start.as_u64(),
            order,
            shift: page.shift() + order.as_u32(),
        })
    }

    /// Changes `count` folios that follow each other, from this key on.
    pub(super) fn run(&mut self, first: Key, count: u64) -> Result<(), OutgoingError> {
        let (mut key, mut left) = (first.as_u64(), count);
        while left > 0 {
            let bits = (64 - key % 64).min(left);
            self.word = key / 64;
            self.mask = (u64::MAX >> (64 - bits)) << (key % 64);
            self.flush()?;
            key += bits;
            left -= bits;
        }
        Ok(())
    }

    /// Changes what was collected. On an error none of it is changed.
    pub(super) fn flush(&mut self) -> Result<(), OutgoingError> {
        let mask = core::mem::take(&mut self.mask);
        if mask == 0 {
            return Ok(());
        }
        let first = self.word * 64;
        let page = self.tracker.page_size();
        let leaf_shift = radix::leaf_shift(page);
        if first >> leaf_shift != self.leaf {
            let leaf = match self.edit {
                Edit::Preserve => Some(self.tracker.leaf(Key::new(first), page)?),
                Edit::Unpreserve => self.tracker.find_leaf(Key::new(first), page)?,
            };
            let leaf = leaf.ok_or_else(|| self.refusal(mask))?;
            self.words = self.tracker.entries(leaf)?;
            self.leaf = first >> leaf_shift;
        }
        let index = self.word & ((1 << (leaf_shift - 6)) - 1);
        let Some(word) = self.words.get(index as usize) else {
            return Err(self.refusal(mask));
        };
        let refused = self.edit.apply(word, mask);
        if refused != 0 {
            self.edit.undo().apply(word, mask & !refused);
            return Err(self.refusal(refused));
        }
        self.done += u64::from(mask.count_ones());
        Ok(())
    }

    /// The error for the first of some bits of the word.
    #[cold]
    fn refusal(&self, bits: u64) -> OutgoingError {
        let key = Key::new(self.word * 64 + u64::from(bits.trailing_zeros()));
        let folio = key.decode(self.tracker.page_size());
        // Nothing but keys of folios is collected.
        let (addr, order) = folio.unwrap_or_default();
        self.edit.refuse(addr, order)
    }
}

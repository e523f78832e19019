//! The memory behind one cached function.
//!
//! # Format
//! ```text
//!      0 ..  4096   register values, in offset order
//!   4096 ..  4608   bitmap: bytes that may be cached
//!   4608 ..  5120   bitmap: bytes whose value is known
//! ```
//! This is `struct pcsc_data` for 4096-byte spaces, so that pages can be handed to the next
//! program as they lie. Bit n of a bitmap stands for byte n.

use std_alloc::boxed::Box;

use kho_hal::sync::AtomicU64;

/// Words of one bitmap; fewer for the model checker.
pub(crate) const MAP: usize = if cfg!(loom) { 1 } else { 64 };
/// Lines of configuration space.
pub(crate) const LINES: usize = MAP * crate::line::PER_WORD;
/// Words of register values.
pub(crate) const VALUES: usize = MAP * 8;
/// Words of all.
pub(crate) const WORDS: usize = VALUES + 2 * MAP;

/// Register values and bitmaps of one function.
#[derive(Debug)]
pub(crate) enum Space<'m> {
    Heap(Box<[AtomicU64]>),
    /// Pages that can survive: their physical address, and their words.
    Pages(kho_hal::PhysAddr, &'m [AtomicU64]),
}

impl Space<'_> {
    pub(crate) fn heap() -> Self {
        Self::Heap((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Heap(words) => words,
            Self::Pages(_, words) => words,
        }
    }

    /// The word with the register value at `offset`.
    #[inline]
    pub(crate) fn value(&self, offset: u16) -> Option<&AtomicU64> {
        self.words().get(usize::from(offset >> 3))
    }

    /// Word `n` of the bitmap of bytes that may be cached.
    pub(crate) fn cacheable(&self, n: usize) -> Option<&AtomicU64> {
        self.words().get(VALUES + n)
    }

    /// Word `n` of the bitmap of bytes whose value is known.
    pub(crate) fn known(&self, n: usize) -> Option<&AtomicU64> {
        self.words().get(VALUES + MAP + n)
    }
}

#[cfg(not(loom))]
impl<'m> crate::cache::Pages<'m> {
    /// New pages for one function.
    pub(crate) fn space(&self) -> Option<Space<'m>> {
        let order = self.order()?;
        let addr = self.alloc.alloc(order).ok()?;
        match self.mem.words(addr, WORDS) {
            Ok(words) => Some(Space::Pages(addr, words)),
            Err(_) => {
                self.alloc.free(addr, order);
                None
            }
        }
    }

    /// Pages for [`WORDS`] words.
    pub(crate) fn order(&self) -> Option<kho_hal::Order> {
        kho_hal::Order::for_bytes(8 * WORDS as u64, self.page_size)
    }
}

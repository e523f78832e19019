//! Writes whose effects are not confined to one function of the cache: to functions that are not
//! in it, but may be when the write is done, and such as act on other functions. Nothing that is
//! read while one is under way is stored.
//!
//! A reader claims its line and then looks at the count; a writer counts itself in and then
//! invalidates the line. So a claim that the writer does not see is refused by its generation.
//!
//! A write to a function that is not in the cache has no line to invalidate. It counts itself in,
//! looks once more whether the function is there, and if not goes ahead; an addition starts first
//! and then looks at the count. So one of the two sees the other: either the write goes the way of
//! writes to known functions, or nothing is stored. When the write is done it looks again: an
//! addition that it does not see then reads the hardware after the write.

use kho_hal::sync::{AtomicU64, Ordering, fence};

pub(crate) struct WideWrites(AtomicU64);

impl WideWrites {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A write begins; invalidate, or look the function up, after this.
    pub(crate) fn enter(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// It is over, and what it affected is invalidated once more.
    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// An addition has begun, or a write is done; whoever did it looks at the other after this.
    pub(crate) fn look(&self) {
        fence(Ordering::SeqCst);
    }

    /// Whether such writes are under way.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }
}

//! Writes to functions that are not in the cache, but may be when the write is done.
//!
//! Such a write counts itself in, looks once more whether the function is in the cache, and if not
//! goes ahead; an addition starts first and then looks at the count. So one of the two sees the
//! other: either the write goes the way of writes to known functions, or nothing that is read
//! while it is under way is stored. When the write is done it looks again: an addition that it
//! does not see then reads the hardware after the write.

use crate::sync::{AtomicU64, Ordering, fence};

pub(crate) struct Strangers(AtomicU64);

impl Strangers {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A write begins; the function has to be looked up after this.
    pub(crate) fn enter(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// It is over.
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

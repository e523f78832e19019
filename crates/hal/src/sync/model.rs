//! What the model checker sees.
//!
//! loom remembers of an atomic only the last access. Where a CPU loads and then stores, its own load
//! hides that another had loaded before, and no order is tried in which that one comes later
//! (tokio-rs/loom, issues 166 and 392). So each word has a twin, which every access changes: of two
//! accesses to a word, either can be first.

use loom::sync::atomic::{self, Ordering};
use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// As `core`'s.
#[derive(Debug)]
pub struct AtomicU64 {
    value: atomic::AtomicU64,
    twin: atomic::AtomicBool,
}

impl AtomicU64 {
    /// A word with this value.
    pub fn new(value: u64) -> Self {
        Self {
            value: atomic::AtomicU64::new(value),
            twin: atomic::AtomicBool::new(false),
        }
    }

    /// The word, after the checker had its choice of who is next.
    fn access(&self) -> &atomic::AtomicU64 {
        // Relaxed: it orders nothing else.
        self.twin.fetch_or(false, Ordering::Relaxed);
        &self.value
    }

    /// As `core`'s.
    pub fn load(&self, order: Ordering) -> u64 {
        self.access().load(order)
    }

    /// As `core`'s.
    pub fn store(&self, value: u64, order: Ordering) {
        self.access().store(value, order);
    }

    /// As `core`'s.
    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.access().swap(value, order)
    }

    /// As `core`'s.
    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.access().fetch_add(value, order)
    }

    /// As `core`'s.
    pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.access().fetch_sub(value, order)
    }

    /// As `core`'s.
    pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.access().fetch_and(value, order)
    }

    /// As `core`'s.
    pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.access().fetch_or(value, order)
    }

    /// As `core`'s.
    ///
    /// # Errors
    /// As `core`'s.
    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.access()
            .compare_exchange(current, new, success, failure)
    }
}

/// As `spin`'s.
#[derive(Debug, Default)]
pub struct SpinMutex<T>(loom::sync::Mutex<T>);

impl<T> SpinMutex<T> {
    /// An open lock.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// As `spin`'s.
    ///
    /// # Panics
    /// If a CPU has panicked with the lock.
    #[expect(clippy::unwrap_used, reason = "the model has failed already")]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

/// As `spin`'s.
#[derive(Debug, Default)]
pub struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// An open lock.
    pub fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
    }

    /// As `spin`'s.
    ///
    /// # Panics
    /// If a CPU has panicked with the lock.
    #[expect(clippy::unwrap_used, reason = "the model has failed already")]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap()
    }

    /// As `spin`'s.
    ///
    /// # Panics
    /// If a CPU has panicked with the lock.
    #[expect(clippy::unwrap_used, reason = "the model has failed already")]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std_alloc::sync::Arc;

    use super::*;

    /// Without the twin one of the two is never seen.
    #[test]
    fn a_load_comes_before_and_after_what_another_loads_and_stores() {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let all = Arc::clone(&seen);
        loom::model(move || {
            let word = loom::sync::Arc::new(AtomicU64::new(0));
            let other = loom::sync::Arc::clone(&word);
            let other = loom::thread::spawn(move || {
                let _ = other.load(Ordering::Relaxed);
                other.store(1, Ordering::Relaxed);
            });
            let found = word.load(Ordering::Relaxed);
            other.join().unwrap();
            all.lock().unwrap().insert(found);
        });
        assert_eq!(*seen.lock().unwrap(), BTreeSet::from([0, 1]));
    }
}

//! Memory whose n-th access fails.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{FrozenMem, MemError, PhysAddr, PhysMem};

/// Wraps a backend; counts its accesses and makes one of them fail.
#[derive(Debug)]
pub struct Faulty<M> {
    inner: M,
    calls: AtomicU64,
    fail_at: AtomicU64,
}

impl<M> Faulty<M> {
    /// Wraps `inner`; nothing fails yet.
    pub const fn new(inner: M) -> Self {
        Self {
            inner,
            calls: AtomicU64::new(0),
            fail_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Makes the `n`-th access from now on fail (0 is the next one), once; `None` none.
    pub fn fail_at(&self, n: Option<u64>) {
        let at = n.map_or(u64::MAX, |n| self.calls() + n);
        self.fail_at.store(at, Ordering::Relaxed);
    }

    /// How many accesses there were so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn access(&self, addr: PhysAddr, len: u64) -> Result<&M, MemError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call == self.fail_at.load(Ordering::Relaxed) {
            return Err(MemError::Absent { addr, len });
        }
        Ok(&self.inner)
    }
}

impl<M: PhysMem> PhysMem for Faulty<M> {
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        self.access(addr, count as u64 * 8)?.words(addr, count)
    }
}

impl<M: FrozenMem> FrozenMem for Faulty<M> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        self.access(addr, len as u64)?.bytes(addr, len)
    }
}

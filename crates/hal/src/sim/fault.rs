//! Memory and configuration space whose n-th access fails.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{Access, FrozenMem, MemError, PciConfigAccess, PciError, PhysAddr, PhysMem, Sbdf};

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

    /// Counts an access; `None` if it is the one that fails.
    fn access(&self) -> Option<&M> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        (call != self.fail_at.load(Ordering::Relaxed)).then_some(&self.inner)
    }

    fn memory(&self, addr: PhysAddr, len: u64) -> Result<&M, MemError> {
        self.access().ok_or(MemError::Absent { addr, len })
    }

    fn config(&self, function: Sbdf, at: Access) -> Result<&M, PciError> {
        let offset = at.offset();
        self.access().ok_or(PciError::Failed { function, offset })
    }
}

impl<M: PhysMem> PhysMem for Faulty<M> {
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        self.memory(addr, count as u64 * 8)?.words(addr, count)
    }
}

impl<M: FrozenMem> FrozenMem for Faulty<M> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        self.memory(addr, len as u64)?.bytes(addr, len)
    }
}

impl<C: PciConfigAccess> PciConfigAccess for Faulty<C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.config(function, at)?.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.config(function, at)?.write(function, at, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysRange;
    use crate::sim::SimMemory;

    #[test]
    fn a_failure_says_what_was_asked_for() {
        let addr = PhysAddr::new(0x1000);
        let range = PhysRange::new(addr, 0x1000).unwrap();
        let mut memory = SimMemory::new([range]).unwrap();
        let faulty = Faulty::new(&memory);
        faulty.fail_at(Some(0));
        let absent = MemError::Absent { addr, len: 24 };
        assert_eq!(faulty.words(addr, 3).unwrap_err(), absent);
        let faulty = Faulty::new(memory.freeze());
        faulty.fail_at(Some(0));
        let absent = MemError::Absent { addr, len: 3 };
        assert_eq!(faulty.bytes(addr, 3).unwrap_err(), absent);
    }
}

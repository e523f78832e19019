//! Configuration space whose n-th access fails.

use std::sync::atomic::{AtomicU64, Ordering};

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};

#[derive(Debug)]
pub struct Flaky<C> {
    inner: C,
    left: AtomicU64,
}

impl<C> Flaky<C> {
    pub fn new(inner: C) -> Self {
        let left = AtomicU64::new(u64::MAX);
        Self { inner, left }
    }

    /// Makes the `n`-th access from now on fail (0 is the next one), once; `None` none.
    pub fn fail_at(&self, n: Option<u64>) {
        self.left.store(n.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the access that was to fail has failed.
    pub fn fired(&self) -> bool {
        self.left.load(Ordering::Relaxed) > u64::MAX / 2
    }

    fn access(&self, function: Sbdf, at: Access) -> Result<(), PciError> {
        let offset = at.offset();
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(PciError::Failed { function, offset }),
            _ => Ok(()),
        }
    }
}

impl<C: PciConfigAccess> PciConfigAccess for Flaky<C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.access(function, at)?;
        self.inner.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.access(function, at)?;
        self.inner.write(function, at, value)
    }
}

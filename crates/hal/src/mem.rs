//! Physical memory, lent by address.

use core::fmt;

use crate::sync::{AtomicU64, Ordering};
use crate::{PhysAddr, PhysRange};

/// Why memory could not be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemError {
    /// Part of `len` bytes at `addr` is not memory, or not memory that this backend may lend.
    Absent {
        /// First byte asked for.
        addr: PhysAddr,
        /// How many bytes were asked for.
        len: u64,
    },
    /// `addr` is not a multiple of 8, the size of a word.
    Misaligned {
        /// The address asked for.
        addr: PhysAddr,
    },
}

impl fmt::Display for MemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { addr, len } => write!(f, "no memory for {len} bytes at {addr}"),
            Self::Misaligned { addr } => write!(f, "{addr} is not aligned to a 64-bit word"),
        }
    }
}

impl core::error::Error for MemError {}

/// Memory that nobody writes while it is lent: what a predecessor left behind.
///
/// # What the implementer does
/// * Checks bounds: every address comes from a predecessor that is not trusted. Memory that is
///   not there is [`MemError::Absent`], never a panic.
/// * Lends a slice whose address is congruent to `addr` modulo 8, so that words inside it can be
///   read as words. Callers check this and treat the opposite as an error.
///
/// # What the caller may rely on
/// Two calls normally return the same bytes, but no caller's memory safety may depend on it: a
/// device can still be writing. Whoever checks and then reads again must survive a difference.
pub trait FrozenMem {
    /// Borrows `len` bytes at `addr`, an address of any alignment.
    ///
    /// # Errors
    /// [`MemError::Absent`] if any of the bytes is not there.
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError>;
}

/// Memory that several CPUs may write: where a handover is being made.
///
/// All access is by 64-bit atomic words, so no order of calls is a data race.
pub trait PhysMem {
    /// Borrows `count` words at `addr`.
    ///
    /// # Errors
    /// * [`MemError::Misaligned`]: `addr` is not a multiple of 8.
    /// * [`MemError::Absent`]: any of the words is not there.
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError>;

    /// Copies `bytes` to `addr`, an address of any alignment.
    ///
    /// Whole words are stored once each, lowest first; a word that is only partly covered is
    /// read, changed and stored back, so nobody else may write it meanwhile. The copy as a whole
    /// is not atomic.
    ///
    /// # Errors
    /// As [`PhysMem::words`]; then nothing was written.
    fn write(&self, addr: PhysAddr, bytes: &[u8]) -> Result<(), MemError> {
        let (words, skip) = covering_words(self, addr, bytes.len())?;
        let mut rest = bytes;
        let mut skip = skip;
        for word in words {
            let mut raw = if skip == 0 && rest.len() >= 8 {
                [0; 8]
            } else {
                word.load(Ordering::Relaxed).to_le_bytes()
            };
            let room = raw.get_mut(skip..).unwrap_or_default();
            let n = room.len().min(rest.len());
            let (now, later) = rest.split_at(n);
            if let Some(room) = room.get_mut(..n) {
                room.copy_from_slice(now);
            }
            word.store(u64::from_le_bytes(raw), Ordering::Relaxed);
            rest = later;
            skip = 0;
        }
        Ok(())
    }

    /// Copies from `addr`, an address of any alignment, into `bytes`.
    ///
    /// # Errors
    /// As [`PhysMem::words`]; then `bytes` is unchanged.
    fn read(&self, addr: PhysAddr, bytes: &mut [u8]) -> Result<(), MemError> {
        let (words, mut skip) = covering_words(self, addr, bytes.len())?;
        let mut rest = bytes;
        for word in words {
            let raw = word.load(Ordering::Relaxed).to_le_bytes();
            let have = raw.get(skip..).unwrap_or_default();
            let n = have.len().min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(have.get(..n).unwrap_or_default());
            rest = later;
            skip = 0;
        }
        Ok(())
    }
}

/// The words that `len` bytes at `addr` touch, and how many bytes of the first to skip.
fn covering_words<M: PhysMem + ?Sized>(
    mem: &M,
    addr: PhysAddr,
    len: usize,
) -> Result<(&[AtomicU64], usize), MemError> {
    if len == 0 {
        return Ok((&[], 0));
    }
    let skip = addr.as_u64() % 8;
    let first = PhysAddr::new(addr.as_u64() - skip);
    let count = (len as u64)
        .checked_add(skip)
        .ok_or(MemError::Absent {
            addr,
            len: len as u64,
        })?
        .div_ceil(8);
    let words = mem.words(first, count as usize)?;
    Ok((words, skip as usize))
}

impl<M: PhysMem + ?Sized> PhysMem for &M {
    #[inline]
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        (**self).words(addr, count)
    }
}

impl<M: FrozenMem + ?Sized> FrozenMem for &M {
    #[inline]
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        (**self).bytes(addr, len)
    }
}

/// The range of `len` bytes at `addr`, or the error a backend returns for it.
#[inline]
pub(crate) fn wanted(addr: PhysAddr, len: u64) -> Result<PhysRange, MemError> {
    PhysRange::new(addr, len).ok_or(MemError::Absent { addr, len })
}

/// The range of `count` words at `addr`, or the error a backend returns for it.
#[inline]
pub(crate) fn wanted_words(addr: PhysAddr, count: usize) -> Result<PhysRange, MemError> {
    if !addr.is_aligned_to(8) {
        return Err(MemError::Misaligned { addr });
    }
    wanted(addr, (count as u64).saturating_mul(8))
}

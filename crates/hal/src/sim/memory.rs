//! Simulated physical memory.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use std_alloc::boxed::Box;
use std_alloc::vec::Vec;
use zerocopy::{FromZeros, IntoBytes};

use crate::mem::{wanted, wanted_words};
use crate::{FrozenMem, MemError, PhysAddr, PhysMem, PhysRange};

/// The memory of a simulated machine: any number of separate regions.
#[derive(Debug, Default)]
pub struct SimMemory {
    /// Ascending and disjoint; neighbours that touch are one region.
    regions: Vec<Region>,
}

/// Whole words from `range.start()`, which is a multiple of 8. The last word can reach beyond
/// `range.end()`, and nothing beyond it is lent.
#[derive(Debug)]
struct Region {
    range: PhysRange,
    words: Box<[AtomicU64]>,
}

/// Two pieces of memory claim the same address, or one starts in the middle of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Where the second piece starts.
    pub addr: PhysAddr,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory at {} overlaps another piece or is not aligned to a word",
            self.addr
        )
    }
}

impl core::error::Error for Overlap {}

impl SimMemory {
    /// Zeroed memory in each of `ranges`.
    ///
    /// # Errors
    /// [`Overlap`], also for a range that does not start at a multiple of 8.
    ///
    /// # Panics
    /// If the host has not enough memory.
    pub fn new(ranges: impl IntoIterator<Item = PhysRange>) -> Result<Self, Overlap> {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
        ranges.sort();
        let mut merged: Vec<PhysRange> = Vec::new();
        for range in ranges {
            let overlap = Overlap {
                addr: range.start(),
            };
            match merged.last_mut() {
                Some(last) if last.end() > range.start() => return Err(overlap),
                Some(last) if last.end() == range.start() => {
                    let size = last.size() + range.size();
                    *last = PhysRange::new(last.start(), size).ok_or(overlap)?;
                }
                _ if !range.start().is_aligned_to(8) => return Err(overlap),
                _ => merged.push(range),
            }
        }
        let regions = merged.into_iter().map(Region::zeroed).collect();
        Ok(Self { regions })
    }

    /// Memory with the given contents, such as the segments of a core file.
    ///
    /// # Errors
    /// As [`SimMemory::new`].
    pub fn from_pieces(pieces: &[(PhysAddr, &[u8])]) -> Result<Self, Overlap> {
        let range = |&(addr, bytes): &(PhysAddr, &[u8])| {
            PhysRange::new(addr, bytes.len() as u64).ok_or(Overlap { addr })
        };
        let ranges = pieces.iter().map(range).collect::<Result<Vec<_>, _>>()?;
        let memory = Self::new(ranges)?;
        for &(addr, bytes) in pieces {
            memory.write(addr, bytes).map_err(|_| Overlap { addr })?;
        }
        Ok(memory)
    }

    /// The contents of a RAM file whose first byte is physical address `base`.
    ///
    /// # Errors
    /// As [`SimMemory::new`].
    pub fn from_raw(base: PhysAddr, bytes: &[u8]) -> Result<Self, Overlap> {
        Self::from_pieces(&[(base, bytes)])
    }

    /// The regions, ascending; regions that touch are one.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.regions.iter().map(|region| region.range)
    }

    /// Sets every byte of the part of `range` that is memory.
    pub fn fill(&self, range: PhysRange, byte: u8) {
        let pattern = [byte; 64];
        for region in &self.regions {
            let mut addr = region.range.start().max(range.start());
            let end = region.range.end().min(range.end());
            while addr < end {
                let left = end.as_u64() - addr.as_u64();
                // Whole cache lines from the first aligned address on, so no word is torn.
                let step = (64 - addr.as_u64() % 64).min(left);
                let bytes = pattern.get(..step as usize).unwrap_or_default();
                if self.write(addr, bytes).is_err() {
                    return;
                }
                addr = PhysAddr::new(addr.as_u64() + step);
            }
        }
    }

    /// Overwrites all memory outside `keep`, as the next program's own use would.
    ///
    /// `keep` is sorted and disjoint.
    pub fn poison_all_but(&self, keep: impl IntoIterator<Item = PhysRange>, byte: u8) {
        let mut from = PhysAddr::new(0);
        let end = PhysRange::new(PhysAddr::new(u64::MAX), 0);
        for kept in keep.into_iter().chain(end) {
            let gap = kept.start().checked_offset_from(from).unwrap_or(0);
            if let Some(gap) = PhysRange::new(from, gap) {
                self.fill(gap, byte);
            }
            from = from.max(kept.end());
        }
    }

    /// Stops all writing for as long as the result lives: the moment of the kexec.
    pub fn freeze(&mut self) -> FrozenSim<'_> {
        let regions = self.regions.iter_mut().map(|region| FrozenRegion {
            range: region.range,
            bytes: region.words.as_mut_bytes(),
        });
        FrozenSim {
            regions: regions.collect(),
        }
    }
}

impl Region {
    fn zeroed(range: PhysRange) -> Self {
        let count = range.size().div_ceil(8) as usize;
        let words = <[AtomicU64]>::new_box_zeroed_with_elems(count);
        assert!(words.is_ok(), "the host has no memory for {range}");
        Self {
            range,
            words: words.unwrap_or_default(),
        }
    }
}

impl PhysMem for SimMemory {
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        let wanted = wanted_words(addr, count)?;
        let absent = MemError::Absent {
            addr,
            len: wanted.size(),
        };
        let after = self.regions.partition_point(|r| r.range.start() <= addr);
        let region = after.checked_sub(1).and_then(|i| self.regions.get(i));
        let region = region.ok_or(absent)?;
        let first = (addr.as_u64() - region.range.start().as_u64()) / 8;
        let last = first.saturating_add(count as u64);
        region
            .words
            .get(first as usize..last as usize)
            .ok_or(absent)
    }
}

/// Simulated memory that nobody can write any more.
#[derive(Debug)]
pub struct FrozenSim<'a> {
    regions: Vec<FrozenRegion<'a>>,
}

#[derive(Debug)]
struct FrozenRegion<'a> {
    range: PhysRange,
    bytes: &'a [u8],
}

impl FrozenSim<'_> {
    /// The regions, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.regions.iter().map(|region| region.range)
    }
}

impl FrozenMem for FrozenSim<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let wanted = wanted(addr, len as u64)?;
        let absent = MemError::Absent {
            addr,
            len: len as u64,
        };
        let after = self.regions.partition_point(|r| r.range.start() <= addr);
        let region = after.checked_sub(1).and_then(|i| self.regions.get(i));
        let region = region
            .filter(|region| region.range.contains_range(wanted))
            .ok_or(absent)?;
        let first = (addr.as_u64() - region.range.start().as_u64()) as usize;
        region.bytes.get(first..first + len).ok_or(absent)
    }
}

/// Reads one word without freezing, for tests that look while programs run.
impl SimMemory {
    /// The word at `addr`, if there is one.
    pub fn word(&self, addr: PhysAddr) -> Option<u64> {
        let words = self.words(addr, 1).ok()?;
        Some(words.first()?.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    #[test]
    fn regions_that_touch_are_one_and_gaps_are_absent() {
        let pieces: [(PhysAddr, &[u8]); 3] = [
            (PhysAddr::new(0x2000), &[2; 16]),
            (PhysAddr::new(0x1ff0), &[1; 16]),
            (PhysAddr::new(0x4000), &[4; 3]),
        ];
        let mut memory = SimMemory::from_pieces(&pieces).unwrap();
        assert_eq!(
            memory.ranges().collect::<Vec<_>>(),
            [range(0x1ff0, 32), range(0x4000, 3)]
        );
        let frozen = memory.freeze();
        assert_eq!(
            frozen.bytes(PhysAddr::new(0x1ffe), 4).unwrap(),
            [1, 1, 2, 2]
        );
        assert_eq!(frozen.bytes(PhysAddr::new(0x4000), 3).unwrap(), [4; 3]);
        for (addr, len) in [(0x4000, 4), (0x200f, 2), (0, 1), (u64::MAX, 1), (0x4003, 1)] {
            assert!(frozen.bytes(PhysAddr::new(addr), len).is_err(), "{addr:#x}");
        }
    }

    #[test]
    fn overlapping_pieces_are_refused() {
        assert_eq!(
            SimMemory::new([range(0x1000, 0x1000), range(0x1ff8, 8)]).unwrap_err(),
            Overlap {
                addr: PhysAddr::new(0x1ff8)
            }
        );
        assert!(SimMemory::new([range(0x1001, 8)]).is_err());
    }

    #[test]
    fn poison_spares_what_is_kept() {
        let mut memory = SimMemory::new([range(0x1000, 0x3000)]).unwrap();
        memory.poison_all_but([range(0, 0x1001), range(0x2003, 5)], 0xaa);
        let frozen = memory.freeze();
        let bytes = frozen.bytes(PhysAddr::new(0x1000), 0x3000).unwrap();
        for (i, &byte) in bytes.iter().enumerate() {
            let kept = i == 0 || (0x1003..0x1008).contains(&i);
            assert_eq!(byte, if kept { 0 } else { 0xaa }, "{i:#x}");
        }
    }
}

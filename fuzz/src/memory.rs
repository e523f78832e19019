//! Memory with gaps, of which words can be changed.

use std::cell::{Cell, RefCell};

use kho::core::incoming::Ram;
use kho::hal::{FrozenMem, MemError, PhysAddr, PhysRange};
use zerocopy::IntoBytes;

/// What a machine has in its memory: whole words, ascending and disjoint.
#[derive(Clone)]
pub struct Memory(Vec<(PhysRange, Vec<u64>)>);

impl Memory {
    /// A copy of these ranges of `memory`, which are ascending, disjoint and of whole words.
    pub fn copy(memory: &impl FrozenMem, ranges: impl IntoIterator<Item = PhysRange>) -> Self {
        let piece = |range: PhysRange| {
            let bytes = memory.bytes(range.start(), range.size() as usize);
            let words = bytes.expect("all of it").chunks_exact(8);
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            (range, words.map(word).collect())
        };
        Self(ranges.into_iter().map(piece).collect())
    }

    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.0.iter().map(|(range, _)| *range)
    }

    pub fn bytes(&self, at: u64, len: u64) -> Option<&[u8]> {
        let wanted = PhysRange::new(PhysAddr::new(at), len)?;
        let after = self
            .0
            .partition_point(|(range, _)| range.end() <= wanted.start());
        let (range, words) = self.0.get(after)?;
        let skip = wanted.start().checked_offset_from(range.start())? as usize;
        words.as_bytes().get(skip..)?.get(..len as usize)
    }

    pub fn word(&self, at: u64) -> Option<u64> {
        let bytes = self.bytes(at, 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Writes what there is memory for.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = PhysAddr::new(at);
        let after = self.0.partition_point(|(range, _)| range.end() <= at);
        let Some((range, words)) = self.0.get_mut(after) else {
            return;
        };
        if let Some(skip) = at.checked_offset_from(range.start()) {
            let place = &mut words.as_mut_bytes()[skip as usize..];
            let len = place.len().min(bytes.len());
            place[..len].copy_from_slice(&bytes[..len]);
        }
    }

    /// The memory for a reader who was told what is RAM.
    pub fn lend<'m>(&'m self, ram: Ram<'m>) -> Lent<'m> {
        Lent {
            memory: self,
            ram,
            reads: Cell::new(0),
            noted: RefCell::default(),
        }
    }
}

/// Memory that counts and notes what it lends, and has registers wherever RAM is said not to be.
pub struct Lent<'m> {
    memory: &'m Memory,
    ram: Ram<'m>,
    reads: Cell<u64>,
    /// Each different answer once.
    noted: RefCell<Option<Vec<(u64, u64)>>>,
}

impl Lent<'_> {
    /// How often it was read since this was asked last.
    pub fn reads(&self) -> u64 {
        self.reads.take()
    }

    /// From now on each read is noted.
    pub fn note(&self) {
        self.noted.replace(Some(Vec::new()));
    }

    /// What was read, address and length, ascending.
    pub fn noted(&self) -> Vec<(u64, u64)> {
        let mut noted = self.noted.take().unwrap_or_default();
        noted.sort_unstable();
        noted.dedup();
        noted
    }
}

impl FrozenMem for Lent<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        self.reads.set(self.reads.get() + 1);
        let absent = MemError::Absent {
            addr,
            len: len as u64,
        };
        if let Ram::Known(ram) = self.ram {
            let wanted = PhysRange::new(addr, len as u64).ok_or(absent)?;
            let after = ram.partition_point(|ram| ram.end() <= addr);
            let is_ram = ram.get(after).is_some_and(|ram| ram.contains_range(wanted));
            assert!(is_ram || len == 0, "{wanted} is read and is not RAM");
        }
        if let Some(noted) = &mut *self.noted.borrow_mut() {
            noted.push((addr.as_u64(), len as u64));
        }
        let bytes = self.memory.bytes(addr.as_u64(), len as u64);
        bytes.ok_or(absent)
    }
}

/// The same memory, ascending, ranges that touch or overlap as one.
pub fn merged(mut ranges: Vec<PhysRange>) -> Vec<PhysRange> {
    ranges.sort();
    let mut merged: Vec<PhysRange> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match merged.last_mut() {
            Some(last) if last.end() >= range.start() => {
                let end = last.end().max(range.end());
                let size = end.as_u64() - last.start().as_u64();
                *last = PhysRange::new(last.start(), size).expect("both end below 2^64");
            }
            _ => merged.push(range),
        }
    }
    merged
}

//! Physical memory in a file, read where it is asked for.
//!
//! A description is small, whatever the machine: of an image of 1 TiB, some thousand pages are
//! read. So nothing is read before it is asked for, and what was read is kept.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use elsa::FrozenMap;
use kho::hal::{FrozenMem, MemError, PageSize, PhysAddr, PhysRange};
use zerocopy::{FromZeros, IntoBytes};

use crate::progress::Progress;

/// What is read at once, where a file has it.
const BLOCK: u64 = 64 << 10;

/// A file that has pieces of physical memory.
pub struct FileMem {
    file: File,
    /// Ascending, disjoint: which memory is where in the file.
    pieces: Vec<(PhysRange, u64)>,
    /// The same memory; pieces that touch are one.
    ranges: Vec<PhysRange>,
    /// What was read, by first address and length: whole words, from a multiple of 8 on.
    read: FrozenMap<(u64, u64), Box<[u64]>>,
    failed: RefCell<Option<io::Error>>,
    /// The pages that were asked for, if anybody wants to know.
    looked_at: Option<(PageSize, RefCell<BTreeSet<PhysAddr>>)>,
    progress: Progress,
}

impl FileMem {
    /// Memory that lies at these places of the file. What is there twice is the same twice: a vmcore
    /// has the kernel's own memory by itself and with all other, and QEMU's dumps of virtual memory
    /// name each mapping. The first place is taken.
    pub fn new(file: File, mut places: Vec<(PhysRange, u64)>) -> Self {
        places.sort();
        let (mut pieces, mut ranges) = (Vec::new(), Vec::<PhysRange>::new());
        for (range, offset) in places {
            let known = ranges.last().map_or(0, |last| last.end().as_u64());
            let skip = known.saturating_sub(range.start().as_u64());
            let Some(size) = range.size().checked_sub(skip).filter(|&size| size > 0) else {
                continue;
            };
            let start = PhysAddr::new(range.start().as_u64() + skip);
            let range = PhysRange::new(start, size).unwrap_or_default();
            pieces.push((range, offset + skip));
            match ranges.last_mut() {
                Some(last) if last.end() == start => {
                    *last = PhysRange::new(last.start(), last.size() + size).unwrap_or(*last);
                }
                _ => ranges.push(range),
            }
        }
        Self {
            file,
            pieces,
            ranges,
            read: FrozenMap::new(),
            failed: RefCell::new(None),
            looked_at: None,
            progress: Progress::new("reading the description", None),
        }
    }

    /// Notes from now on which pages are asked for.
    pub fn note(&mut self, page: PageSize) {
        self.looked_at = Some((page, RefCell::default()));
    }

    /// The pages that were asked for since, ascending.
    pub fn looked_at(&self) -> Vec<PhysAddr> {
        let pages = self.looked_at.as_ref().map(|(_, pages)| pages.borrow());
        pages
            .iter()
            .flat_map(|pages| pages.iter().copied())
            .collect()
    }

    fn look_at(&self, range: PhysRange) {
        if let Some((page, pages)) = &self.looked_at {
            let first = range.start().as_u64() / page.bytes();
            let end = range.end().as_u64().div_ceil(page.bytes());
            let all = (first..end).map(|number| PhysAddr::new(number * page.bytes()));
            pages.borrow_mut().extend(all);
        }
    }

    /// The memory that the file has, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.ranges.iter().copied()
    }

    /// How much that is, in bytes.
    pub fn size(&self) -> u64 {
        // Disjoint ranges of one address space: all of it at most.
        self.ranges()
            .fold(0, |size, range| range.size().saturating_add(size))
    }

    /// The memory of `range` that the file has, ascending.
    pub fn parts(&self, range: PhysRange) -> impl Iterator<Item = PhysRange> + '_ {
        let first = self.ranges.partition_point(|r| r.end() <= range.start());
        let ranges = self.ranges.get(first..).unwrap_or_default().iter();
        ranges.map_while(move |known| {
            let start = known.start().max(range.start());
            let size = known.end().min(range.end()).checked_offset_from(start)?;
            PhysRange::new(start, size).filter(|part| !part.is_empty())
        })
    }

    /// What went wrong with the file, the first time that something did.
    pub fn failure(&self) -> Option<io::Error> {
        self.failed.borrow_mut().take()
    }

    /// Copies memory without keeping it.
    pub fn copy(&self, addr: PhysAddr, bytes: &mut [u8]) -> Result<(), MemError> {
        let (absent, wanted) = wanted(addr, bytes.len())?;
        self.range(wanted).ok_or(absent)?;
        self.look_at(wanted);
        self.load(addr, bytes, absent)
    }

    /// Reads memory that the file has.
    fn load(&self, addr: PhysAddr, bytes: &mut [u8], absent: MemError) -> Result<(), MemError> {
        let mut at = addr;
        let mut rest = bytes;
        let first = self
            .pieces
            .partition_point(|(range, _)| range.end() <= addr);
        for &(range, offset) in self.pieces.get(first..).unwrap_or_default() {
            let skip = at.checked_offset_from(range.start()).ok_or(absent)?;
            let here = (range.size() - skip).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(here as usize);
            self.file
                .read_exact_at(now, offset + skip)
                .map_err(|error| {
                    self.failed.borrow_mut().get_or_insert(error);
                    absent
                })?;
            rest = later;
            if rest.is_empty() {
                break;
            }
            at = range.end();
        }
        Ok(())
    }

    fn range(&self, wanted: PhysRange) -> Option<PhysRange> {
        let after = self.ranges.partition_point(|r| r.start() <= wanted.start());
        let range = *self.ranges.get(after.checked_sub(1)?)?;
        range.contains_range(wanted).then_some(range)
    }

    /// The whole words that cover `range`; what is not of the range is zero.
    fn words(&self, range: PhysRange) -> Result<&[u64], MemError> {
        let key = (range.start().as_u64(), range.size());
        if let Some(words) = self.read.get(&key) {
            return Ok(words);
        }
        let skip = range.start().as_u64() % 8;
        let absent = MemError::Absent {
            addr: range.start(),
            len: range.size(),
        };
        let count = (skip + range.size()).div_ceil(8);
        let words = <[u64]>::new_box_zeroed_with_elems(count as usize);
        let mut words = words.map_err(|_| absent)?;
        let (from, to) = (skip as usize, (skip + range.size()) as usize);
        let place = words.as_mut_bytes().get_mut(from..to).ok_or(absent)?;
        self.load(range.start(), place, absent)?;
        self.progress.advance(range.size());
        Ok(self.read.insert(key, words))
    }
}

impl FrozenMem for FileMem {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let (absent, wanted) = wanted(addr, len)?;
        let range = self.range(wanted).ok_or(absent)?;
        self.look_at(wanted);
        // The block around it, as far as the file has it; or just this, if it is in two blocks.
        let (block, last) = (
            addr.as_u64() / BLOCK,
            wanted.end().as_u64().saturating_sub(1) / BLOCK,
        );
        let piece = if block == last {
            let start = range.start().as_u64().max(block * BLOCK);
            let end = range
                .end()
                .as_u64()
                .min((block * BLOCK).saturating_add(BLOCK));
            PhysRange::new(PhysAddr::new(start), end - start).ok_or(absent)?
        } else {
            wanted
        };
        let words = self.words(piece)?;
        let skip = piece.start().as_u64() % 8 + (addr.as_u64() - piece.start().as_u64());
        let bytes = words.as_bytes().get(skip as usize..);
        bytes.and_then(|bytes| bytes.get(..len)).ok_or(absent)
    }
}

fn wanted(addr: PhysAddr, len: usize) -> Result<(MemError, PhysRange), MemError> {
    let len = len as u64;
    let absent = MemError::Absent { addr, len };
    Ok((absent, PhysRange::new(addr, len).ok_or(absent)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests {
    use std::io::Write;

    use super::*;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    /// Each byte of the file is the low byte of its place. Tests run at the same time: each has a
    /// name of its own.
    fn file(name: &str) -> File {
        let name = format!("kho-inspect-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let bytes: Vec<_> = (0..0x30_0000u32)
            .map(|i| i as u8 ^ (i >> 8) as u8)
            .collect();
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn byte(offset: u64) -> u8 {
        offset as u8 ^ (offset >> 8) as u8
    }

    #[test]
    fn every_byte_comes_from_its_place() {
        // Two pieces that touch in memory and not in the file, with odd borders; one apart.
        let pieces = vec![
            (range(0x20_0003, 0x1_2345), 0x10_0000),
            (range(0x10_0001, 0x10_0002), 0x7),
            (range(0x40_0000, 0x10), 0x20_0000),
        ];
        let memory = FileMem::new(file("places"), pieces.clone());
        assert_eq!(
            memory.ranges().collect::<Vec<_>>(),
            [range(0x10_0001, 0x11_2347), range(0x40_0000, 0x10)]
        );
        let expected = |addr: u64| {
            let (range, offset) = pieces
                .iter()
                .find(|(range, _)| range.contains(PhysAddr::new(addr)))
                .unwrap();
            byte(offset + addr - range.start().as_u64())
        };
        for (addr, len) in [
            (0x10_0001, 1),
            (0x10_0001, 0x11_2347),
            (0x1f_fffe, 9),
            (0x20_0000, 3),
            (0x20_0000, 4),
            (0x21_2347, 1),
            (0x18_fffd, 0x1_0007),
            (0x40_0000, 16),
            (0x40_000f, 1),
        ] {
            let found = memory.bytes(PhysAddr::new(addr), len).unwrap();
            let all = (addr..addr + len as u64).map(expected);
            assert!(all.eq(found.iter().copied()), "{addr:#x}");
            assert_eq!(found.as_ptr().addr() as u64 % 8, addr % 8, "{addr:#x}");
        }
        for (addr, len) in [
            (0x10_0000, 1),
            (0x21_2348, 1),
            (0x40_000f, 2),
            (u64::MAX, 2),
        ] {
            assert!(memory.bytes(PhysAddr::new(addr), len).is_err(), "{addr:#x}");
        }
        assert!(memory.failure().is_none());
    }

    /// Of blocks; of what lies in two blocks, just that.
    #[test]
    fn what_is_read_is_a_block() {
        let memory = FileMem::new(file("blocks"), vec![(range(0x2_8000, 0x1_c000), 0)]);
        for (addr, len, read) in [
            (0x3_0000, 1, vec![(0x3_0000, BLOCK)]),
            (0x3_1234, 0x100, vec![]),
            (0x3_ffff, 1, vec![]),
            (0x3_ffff, 2, vec![(0x3_ffff, 2)]),
            (0x2_8000, 0x8000, vec![(0x2_8000, 0x8000)]),
            (0x2_c000, 1, vec![]),
            (0x4_3fff, 1, vec![(0x4_0000, 0x4000)]),
        ] {
            let before = memory.read.len();
            assert!(memory.bytes(PhysAddr::new(addr), len).is_ok());
            assert_eq!(memory.read.len() - before, read.len(), "{addr:#x}");
            let all = read.iter().all(|place| memory.read.get(place).is_some());
            assert!(all, "{addr:#x}");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_and_not_forgotten() {
        let memory = FileMem::new(file("early"), vec![(range(0, 0x40_0000), 0)]);
        assert!(memory.bytes(PhysAddr::new(0x2f_0000), 0x10).is_ok());
        assert!(memory.bytes(PhysAddr::new(0x3f_0000), 0x10).is_err());
        assert!(memory.failure().is_some());
    }

    /// As in a vmcore: the kernel's memory first, then all memory.
    #[test]
    fn memory_that_is_in_the_file_twice_is_read_once() {
        let places = vec![
            (range(0x1000, 0x800), 0x9000),
            (range(0x1000, 0), 0x1_0000),
            (range(0x400, 0x2000), 0x2_0000),
            (range(0x2000, 0x1000), 0x3_0000),
        ];
        let memory = FileMem::new(file("twice"), places);
        assert_eq!(memory.ranges().collect::<Vec<_>>(), [range(0x400, 0x2c00)]);
        let found = memory.bytes(PhysAddr::new(0x400), 0x2c00).unwrap();
        let first = (0..0x2000).map(|i| byte(0x2_0000 + i));
        let rest = (0x400..0x1000).map(|i| byte(0x3_0000 + i));
        assert!(first.chain(rest).eq(found.iter().copied()));
    }
}

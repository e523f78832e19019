//! Looking for a handover in memory of which nothing else is known.

use kho::core::incoming::RootFdt;
use kho::hal::{PageSize, PhysAddr};

use crate::memory::FileMem;
use crate::progress::Progress;

/// How a flattened device tree starts (Devicetree Specification 0.4, 5.2); its size follows.
const MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();

/// How much memory is read at once.
const CHUNK: u64 = 1 << 20;

/// Longer descriptions than this are not looked for.
const MAX_FDT: u64 = 1 << 20;

/// More of them are not looked at: each may lead to all of the memory.
const MOST: usize = 64;

/// Each root description in `memory`, at the start of a page as Linux has it: its address, and how
/// much memory it may take. What cannot be read has none.
///
/// # Errors
/// If there are too many, or if what looks like descriptions is longer than the memory, so that each
/// lies in others.
pub fn roots(memory: &FileMem, page: PageSize) -> Result<Vec<(PhysAddr, u64)>, &'static str> {
    let total = memory.size();
    let mut search = Search {
        memory,
        left: total.saturating_add(MAX_FDT),
        fdt: Vec::new(),
    };
    let progress = Progress::new("looking for descriptions", Some(total));
    let (mut roots, mut buffer) = (Vec::new(), vec![0; CHUNK as usize]);
    for range in memory.ranges() {
        let end = range.end().as_u64();
        let mut at = range.start().as_u64().next_multiple_of(page.bytes());
        while at < end {
            let len = CHUNK.min(end - at);
            let chunk = buffer.get_mut(..len as usize).unwrap_or_default();
            let whole = memory.copy(PhysAddr::new(at), chunk).is_ok();
            let addrs = (at..end).step_by(page.as_usize()).map(PhysAddr::new);
            for (addr, bytes) in addrs.zip(chunk.chunks_mut(page.as_usize())) {
                // A kernel that protects some of its memory gives out the rest, a page at a time.
                if whole || memory.copy(addr, bytes).is_ok() {
                    roots.extend(search.root(addr, bytes)?);
                    if roots.len() > MOST {
                        return Err("there are too many descriptions: choose with --kho-data");
                    }
                }
            }
            progress.advance(len);
            at += len;
        }
    }
    Ok(roots)
}

struct Search<'m> {
    memory: &'m FileMem,
    /// How much may still be taken for a description.
    left: u64,
    /// The bytes of one that is looked at.
    fdt: Vec<u8>,
}

impl Search<'_> {
    /// The description at `addr`, which is in the page with these bytes, if there is one.
    fn root(
        &mut self,
        addr: PhysAddr,
        bytes: &[u8],
    ) -> Result<Option<(PhysAddr, u64)>, &'static str> {
        let size = bytes.strip_prefix(&MAGIC).and_then(<[u8]>::first_chunk);
        let size = size.map_or(0, |size| u64::from(u32::from_be_bytes(*size)));
        if size == 0 || size > MAX_FDT {
            return Ok(None);
        }
        let left = self.left.checked_sub(size);
        self.left = left.ok_or("descriptions overlap: choose with --kho-data")?;
        self.fdt.resize(size as usize, 0);
        let read = self.memory.copy(addr, &mut self.fdt);
        let is_root = read.is_ok() && RootFdt::parse(&self.fdt, addr).is_ok();
        Ok(is_root.then_some((addr, size.max(bytes.len() as u64))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests {
    use std::fs::File;

    use kho::core::outgoing::{Outgoing, Tracker};
    use kho::hal::sim::{SimAlloc, SimMemory};
    use kho::hal::{FrozenMem, PhysRange};

    use super::*;

    /// This process reads its own memory as a file, in which pages that are not mapped give an
    /// error, as those do in `/dev/mem` that a kernel protects.
    #[test]
    fn what_cannot_be_read_hides_nothing_else() {
        let page = PageSize::Size4K;
        let range = |start, size| PhysRange::new(PhysAddr::new(start), size).unwrap();
        let mut simulated = SimMemory::new([range(0, 1 << 20)]).unwrap();
        let boot = {
            let scratch = [range(0x8_0000, 0x8_0000)];
            let alloc = SimAlloc::new(&simulated, page, [range(0, 0x8_0000)]);
            let tracker = Tracker::new(&simulated, &alloc, page, &scratch).unwrap();
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let list = PhysAddr::new(0x8_0000);
            outgoing.finalize(list, &mut []).unwrap().hand_over()
        };
        let frozen = simulated.freeze();
        let bytes = frozen.bytes(PhysAddr::new(0), 1 << 20).unwrap();
        let place = bytes.as_ptr().addr() as u64;
        let file = File::open("/proc/self/mem").unwrap();
        // Nothing is mapped at the lowest addresses of a process.
        let pieces = vec![(range(0, 1 << 20), place), (range(1 << 20, 1 << 16), 0)];
        let memory = FileMem::new(file, pieces);
        assert_eq!(roots(&memory, page).unwrap(), [(boot.fdt_addr, 4096)]);
        assert!(memory.failure().is_some());

        // A chunk of which only the start can be read.
        let file = File::open("/proc/self/mem").unwrap();
        let pieces = vec![(range(0, 0x8_0000), place), (range(0x8_0000, 0x8_0000), 0)];
        let memory = FileMem::new(file, pieces);
        assert_eq!(roots(&memory, page).unwrap(), [(boot.fdt_addr, 4096)]);
    }

    /// A root description with a map, and nothing else.
    fn description() -> Vec<u8> {
        let mut fdt = Vec::new();
        let words = [
            0xd00d_feed_u32,
            0,
            56,
            136,
            40,
            17,
            16,
            0,
            32,
            80,
            0,
            0,
            0,
            0,
        ];
        fdt.extend(words.map(u32::to_be_bytes).as_flattened());
        for word in [1, 0, 3, 7, 0] {
            fdt.extend(u32::to_be_bytes(word));
        }
        fdt.extend(b"kho-v4\0\0");
        for word in [3, 8, 11] {
            fdt.extend(u32::to_be_bytes(word));
        }
        fdt.extend([1; 8]);
        for word in [2, 9] {
            fdt.extend(u32::to_be_bytes(word));
        }
        let structure = (fdt.len() - 56) as u32;
        fdt.extend(b"compatible\0preserved-memory-map\0");
        let total = fdt.len() as u32;
        for (field, number) in [(4, total), (12, 56 + structure), (36, structure)] {
            fdt.splice(field..field + 4, number.to_be_bytes());
        }
        fdt.splice(32..36, 32u32.to_be_bytes());
        fdt
    }

    /// Where [`roots_in`] has its memory.
    const START: PhysAddr = PhysAddr::new(0x1_0000);

    fn roots_in(bytes: &[u8]) -> Result<Vec<(PhysAddr, u64)>, &'static str> {
        let file = File::open("/proc/self/mem").unwrap();
        let range = PhysRange::new(START, bytes.len() as u64).unwrap();
        let memory = FileMem::new(file, vec![(range, bytes.as_ptr().addr() as u64)]);
        roots(&memory, PageSize::Size4K)
    }

    /// Also in a page that the memory has only the start of.
    #[test]
    fn descriptions_up_to_the_largest_are_found() {
        let least = description().len() as u64;
        for (size, found) in [
            (least, Some(least)),
            (4096, Some(4096)),
            (MAX_FDT, Some(MAX_FDT)),
            (MAX_FDT + 4, None),
        ] {
            let mut bytes = description();
            bytes.resize(size as usize, 0);
            bytes.splice(4..8, (size as u32).to_be_bytes());
            let found = found.map(|size| (START, size));
            assert_eq!(roots_in(&bytes).unwrap(), Vec::from_iter(found), "{size}");
        }
    }

    /// Pages that all start like a description of the largest size, and pages that all are one.
    #[test]
    fn what_is_looked_at_is_not_much_more_than_the_memory() {
        let whole = description();
        let looks_like = [MAGIC, (1u32 << 20).to_be_bytes()].concat();
        for (start, pages, found) in [
            (whole.clone(), MOST, Ok(MOST)),
            (whole, MOST + 1, Err(())),
            (looks_like.clone(), 1, Ok(0)),
            (looks_like, 512, Err(())),
        ] {
            let mut bytes = vec![0u8; pages << 12];
            for page in bytes.chunks_mut(4096) {
                page.iter_mut()
                    .zip(&start)
                    .for_each(|(to, from)| *to = *from);
            }
            let roots = roots_in(&bytes);
            assert_eq!(
                roots.map(|roots| roots.len()).map_err(|_| ()),
                found,
                "{pages}"
            );
        }
    }
}

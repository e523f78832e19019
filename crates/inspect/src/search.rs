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

/// Each root description in `memory`, at the start of a page as Linux has it: its address, and how
/// much memory it may take. What cannot be read has none.
pub fn roots(memory: &FileMem, page: PageSize) -> Vec<(PhysAddr, u64)> {
    let total = memory.ranges().map(|range| range.size()).sum();
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
                    roots.extend(root(memory, addr, bytes));
                }
            }
            progress.advance(len);
            at += len;
        }
    }
    roots
}

/// The description at `addr`, which is in the page with these bytes, if there is one.
fn root(memory: &FileMem, addr: PhysAddr, bytes: &[u8]) -> Option<(PhysAddr, u64)> {
    let size = bytes.strip_prefix(&MAGIC)?.first_chunk()?;
    let size = u64::from(u32::from_be_bytes(*size));
    if size > MAX_FDT {
        return None;
    }
    // Not kept: what looks like long descriptions may be on every page.
    let mut fdt = vec![0; size as usize];
    memory.copy(addr, &mut fdt).ok()?;
    RootFdt::parse(&fdt, addr).ok()?;
    Some((addr, size.max(bytes.len() as u64)))
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
        assert_eq!(roots(&memory, page), [(boot.fdt_addr, 4096)]);
        assert!(memory.failure().is_some());

        // A chunk of which only the start can be read.
        let file = File::open("/proc/self/mem").unwrap();
        let pieces = vec![(range(0, 0x8_0000), place), (range(0x8_0000, 0x8_0000), 0)];
        let memory = FileMem::new(file, pieces);
        assert_eq!(roots(&memory, page), [(boot.fdt_addr, 4096)]);
    }

    #[test]
    fn what_only_looks_like_descriptions_is_not_kept() {
        let mut page = vec![0; 4096];
        let header = MAGIC.into_iter().chain((MAX_FDT as u32).to_be_bytes());
        page.splice(..8, header);
        let path = std::env::temp_dir().join(format!("kho-inspect-like-{}", std::process::id()));
        std::fs::write(&path, page.repeat(1024)).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let range = PhysRange::new(PhysAddr::new(0), 4 << 20).unwrap();
        let memory = FileMem::new(file, vec![(range, 0)]);
        assert_eq!(roots(&memory, PageSize::Size4K), []);
        assert_eq!(memory.kept(), 0);
    }
}

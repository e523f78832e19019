//! The same handover in another generation of the format, as a core file.

use std::collections::BTreeMap;

use kho::abi::fdt::Generation;
use kho::core::BootPlace;
use kho::core::incoming::Incoming;
use kho::core::translate::translate;
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::core_file;
use crate::image::Arch;
use crate::memory::FileMem;

/// Between two pieces of known memory that are this close, there is memory as well.
const MAX_GAP: u64 = 64 << 20;

/// How much memory to look for.
const ENOUGH: u64 = 256 << 20;

/// A core file with the memory of `memory`, in which the handover is translated.
pub fn core(
    memory: &FileMem,
    incoming: &Incoming<'_, FileMem>,
    to: Generation,
    place: BootPlace,
    (arch, entry): (Arch, PhysAddr),
) -> Result<Vec<u8>, String> {
    let page = incoming.page_size();
    let free = free_memory(memory, incoming);
    let mut new = SimMemory::new(free.iter().copied()).map_err(|error| error.to_string())?;
    let translated = {
        let alloc = SimAlloc::new(&new, page, free);
        translate(incoming, to, &new, &alloc).map_err(|error| error.to_string())?
    };
    let new = new.freeze();
    // Pages by address; what was written comes over what was there.
    let mut pages = BTreeMap::new();
    for range in memory.ranges() {
        add_pages(&mut pages, memory, range, page)?;
    }
    for &(addr, order) in &translated.pages {
        let range = PhysRange::folio(addr, order, page).ok_or("the new description wraps")?;
        add_pages(&mut pages, &new, range, page)?;
    }
    let pieces: Vec<_> = pages.iter().map(|(&addr, &bytes)| (addr, bytes)).collect();
    let mut whole = SimMemory::from_pieces(&pieces).map_err(|error| error.to_string())?;
    translated
        .boot
        .replace(&whole, place)
        .map_err(|error| error.to_string())?;
    core_file::write(&whole.freeze(), page, arch, entry)
}

/// Memory that neither the handover nor scratch uses: gaps between what is known to be memory.
fn free_memory(memory: &FileMem, incoming: &Incoming<'_, FileMem>) -> Vec<PhysRange> {
    let known = memory.ranges().chain(incoming.extents());
    let known = known.chain(incoming.scratch().areas()).collect();
    gaps(known, incoming.page_size())
}

/// The whole pages between ranges, where not many are.
fn gaps(mut known: Vec<PhysRange>, page: PageSize) -> Vec<PhysRange> {
    // Of an empty scratch area, nothing is known to be memory.
    known.retain(|range| !range.is_empty());
    known.sort();
    let page = page.bytes();
    let (mut free, mut total) = (Vec::new(), 0);
    let mut end: Option<u64> = None;
    for range in known {
        let first = end.and_then(|end| end.checked_next_multiple_of(page));
        let last = range.start().as_u64() / page * page;
        let size = first.map_or(0, |first| last.saturating_sub(first));
        if (1..=MAX_GAP).contains(&size) && total < ENOUGH {
            free.extend(PhysRange::new(PhysAddr::new(last - size), size));
            total += size;
        }
        end = end.max(Some(range.end().as_u64()));
    }
    free
}

fn add_pages<'m>(
    pages: &mut BTreeMap<PhysAddr, &'m [u8]>,
    memory: &'m impl FrozenMem,
    range: PhysRange,
    page: PageSize,
) -> Result<(), String> {
    let bytes = memory.bytes(range.start(), range.size() as usize);
    let bytes = bytes.map_err(|error| error.to_string())?;
    for (i, piece) in bytes.chunks(page.as_usize()).enumerate() {
        let addr = range.start().as_u64() + i as u64 * page.bytes();
        pages.insert(PhysAddr::new(addr), piece);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests {
    use super::*;

    fn between(known: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let range = |&(start, size)| PhysRange::new(PhysAddr::new(start), size).unwrap();
        let gaps = gaps(known.iter().map(range).collect(), PageSize::Size4K);
        let numbers = |gap: &PhysRange| (gap.start().as_u64(), gap.size());
        gaps.iter().map(numbers).collect()
    }

    #[test]
    fn gaps_are_whole_pages_between_known_memory() {
        let top = u64::MAX - 0x50;
        let rows: [(&[_], &[_]); 9] = [
            (&[], &[]),
            (&[(0x5000, 0x1000)], &[]),
            (&[(0x8000, 0x1000), (0x1000, 0x1000)], &[(0x2000, 0x6000)]),
            (&[(0x1000, 0x1000), (0x2000, 0x1000)], &[]),
            // The page in which one ends, and that in which the next starts, are not free.
            (&[(0x1000, 0x801), (0x4fff, 0x1)], &[(0x2000, 0x2000)]),
            (&[(0x1000, 0x801), (0x1ffe, 0x1)], &[]),
            // One in another, and one that is empty, change nothing.
            (
                &[(0x1000, 0x8000), (0x2000, 0x1000), (0xb000, 0x1000)],
                &[(0x9000, 0x2000)],
            ),
            (
                &[(0x1000, 0x1000), (0x3000, 0), (0x5000, 0x1000)],
                &[(0x2000, 0x3000)],
            ),
            (&[(top - 0x1000, 0x1000), (top + 1, 0x10)], &[]),
        ];
        for (known, expected) in rows {
            assert_eq!(between(known), expected, "{known:x?}");
        }
    }

    #[test]
    fn large_gaps_may_be_no_memory_and_enough_is_enough() {
        for (gap, found) in [(MAX_GAP, 1), (MAX_GAP + 0x1000, 0)] {
            let known = [(0, 0x1000), (0x1000 + gap, 0x1000)];
            assert_eq!(between(&known).len(), found, "{gap:#x}");
        }
        let known: Vec<_> = (0..8).map(|i| (i * (MAX_GAP + 0x1000), 0x1000)).collect();
        let most = ENOUGH / MAX_GAP;
        assert_eq!(between(&known).len() as u64, most);
    }
}

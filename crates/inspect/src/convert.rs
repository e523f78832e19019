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
    let page = incoming.page_size().bytes();
    let mut known: Vec<_> = memory.ranges().chain(incoming.extents()).collect();
    known.extend(incoming.scratch().areas().filter(|area| !area.is_empty()));
    known.sort();
    let (mut free, mut total) = (Vec::new(), 0);
    let mut end: Option<PhysAddr> = None;
    for range in known {
        if let Some(end) = end
            && end < range.start()
            && total < ENOUGH
        {
            let first = end.as_u64().next_multiple_of(page);
            let last = range.start().as_u64() / page * page;
            let size = last.saturating_sub(first);
            if size > 0 && size <= MAX_GAP {
                free.extend(PhysRange::new(PhysAddr::new(first), size));
                total += size;
            }
        }
        end = Some(end.unwrap_or_default().max(range.end()));
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

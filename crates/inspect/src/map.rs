//! What lies where in the machine's memory.

use kho::core::incoming::Incoming;
use kho::hal::{FrozenMem, PhysAddr, PhysRange};
use kho_draw::{Kind, MemoryMap};

use crate::memory::FileMem;

/// Preserved memory, the description, scratch, and what else the image has.
pub fn of(memory: &FileMem, incoming: &Incoming<'_, FileMem>) -> MemoryMap {
    let mut map = MemoryMap::new();
    let mut own = description(incoming);
    own.sort();
    own.dedup();
    let is_own = |range: PhysRange| {
        let after = own.partition_point(|own| own.start() <= range.start());
        let before = after.checked_sub(1).and_then(|i| own.get(i));
        before.is_some_and(|own| own.contains(range.start()))
    };
    for range in memory.ranges() {
        map.add(range, Kind::Other);
    }
    for &range in &own {
        map.add(range, Kind::Description);
    }
    for area in incoming.scratch().areas() {
        map.add(area, Kind::Scratch);
    }
    let page = incoming.page_size();
    let mut ahead: Option<(PhysRange, Kind)> = None;
    for folio in incoming.folios() {
        let range = folio.range(page);
        if is_own(range) {
            continue;
        }
        let kind = Kind::preserved(range.size());
        // Neighbours of a kind are added as one.
        ahead = match ahead {
            Some((before, same)) if same == kind && before.end() == range.start() => {
                PhysRange::new(before.start(), before.size() + range.size()).map(|all| (all, kind))
            }
            before => {
                before
                    .into_iter()
                    .for_each(|(range, kind)| map.add(range, kind));
                Some((range, kind))
            }
        };
    }
    ahead
        .into_iter()
        .for_each(|(range, kind)| map.add(range, kind));
    map
}

/// The memory of the description itself: the map, and the folios of root FDT and sub-blobs.
fn description<M: FrozenMem>(incoming: &Incoming<'_, M>) -> Vec<PhysRange> {
    let mut own = Vec::new();
    incoming.for_each_map_page(|page| own.push(page));
    let fdt = PhysRange::new(incoming.boot_data().fdt_addr, incoming.fdt_size() as u64);
    let blobs = incoming.subtrees().map(|blob| blob.range);
    for range in blobs.chain(fdt) {
        // An FDT in scratch, as early generations have it, is scratch.
        let folios = incoming.folios_in(range);
        own.extend(folios.map(|folio| folio.range(incoming.page_size())));
    }
    own
}

/// How many bytes of memory the description takes: map, root FDT, sub-blobs, the list of scratch
/// areas.
pub fn cost<M: FrozenMem>(incoming: &Incoming<'_, M>) -> [u64; 4] {
    let mut map = 0;
    incoming.for_each_map_page(|page: PhysRange| map += page.size());
    let blobs = incoming.subtrees().map(|blob| blob.range.size()).sum();
    let fdt = incoming.fdt_size() as u64;
    [map, fdt, blobs, incoming.boot_data().scratch_size]
}

/// Whether all of `range` is preserved.
pub fn is_preserved<M: FrozenMem>(incoming: &Incoming<'_, M>, range: PhysRange) -> bool {
    let mut at: PhysAddr = range.start();
    for folio in incoming.folios_in(range) {
        let folio = folio.range(incoming.page_size());
        if folio.start() > at {
            return false;
        }
        at = folio.end();
    }
    at >= range.end()
}

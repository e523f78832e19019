//! What of the machine's memory the handover takes.

use kho::core::incoming::Incoming;
use kho::hal::{FrozenMem, PhysAddr, PhysRange};

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

//! What a handover takes of a machine's memory.

use kho_core::incoming::Incoming;
use kho_hal::{FrozenMem, PhysRange};

use crate::{Kind, MemoryMap};

impl MemoryMap {
    /// Preserved memory, the description, scratch, and what else of `ram` there is.
    pub fn of<M: FrozenMem>(
        ram: impl IntoIterator<Item = PhysRange>,
        incoming: &Incoming<'_, M>,
    ) -> Self {
        let mut map = Self::new();
        let mut own = description(incoming);
        own.sort();
        own.dedup();
        let is_own = |range: PhysRange| {
            let after = own.partition_point(|own| own.start() <= range.start());
            let before = after.checked_sub(1).and_then(|i| own.get(i));
            before.is_some_and(|own| own.contains(range.start()))
        };
        for range in ram {
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
                    PhysRange::new(before.start(), before.size() + range.size())
                        .map(|all| (all, kind))
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

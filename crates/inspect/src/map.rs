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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests {
    use kho::core::incoming::Machine;
    use kho::core::outgoing::{Outgoing, Tracker};
    use kho::hal::sim::{SimAlloc, SimMemory};
    use kho::hal::{Order, PageSize};

    use super::*;

    #[test]
    fn what_is_preserved_has_no_gap() {
        let page = PageSize::Size4K;
        let range = |start, size| PhysRange::new(PhysAddr::new(start), size).unwrap();
        let mut memory = SimMemory::new([range(0, 1 << 20)]).unwrap();
        let scratch = [range(0x8_0000, 0x8_0000)];
        let boot = {
            let alloc = SimAlloc::new(&memory, page, [range(0x1000, 0x3_f000)]);
            let tracker = Tracker::new(&memory, &alloc, page, &scratch).unwrap();
            let mut outgoing = Outgoing::new(tracker).unwrap();
            for (addr, order) in [(0x6_0000, 1), (0x6_2000, 0), (0x6_4000, 2)] {
                let order = Order::new(order).unwrap();
                let folio = outgoing
                    .tracker()
                    .preserve_folio(PhysAddr::new(addr), order);
                folio.unwrap();
            }
            let list = PhysAddr::new(0x8_0000);
            outgoing.finalize(list, &mut []).unwrap().hand_over()
        };
        let (frozen, mut workspace) = (memory.freeze(), vec![0; 1 << 12]);
        let machine = Machine::unknown(page);
        let incoming = Incoming::check(&frozen, boot, machine, &mut workspace).unwrap();
        for (start, size, preserved) in [
            (0x6_0000, 0x2000, true),
            (0x6_0000, 0x3000, true),
            (0x6_1800, 0x1000, true),
            (0x6_2fff, 1, true),
            (0x6_2fff, 2, false),
            (0x6_0000, 0x5000, false),
            (0x5_ffff, 2, false),
            (0x6_3fff, 2, false),
            (0x6_4000, 0x4000, true),
            (0x6_4000, 0x4001, false),
            (0x7_0000, 1, false),
        ] {
            let found = is_preserved(&incoming, range(start, size));
            assert_eq!(found, preserved, "{size:#x} at {start:#x}");
        }
    }
}

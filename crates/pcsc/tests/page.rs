//! What a saved page says of its function, one thing at a time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::Ordering;

use kho_core::Tracker;
use kho_core::outgoing::Outgoing;
use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{PageSize, PciConfigAccess, PhysAddr, PhysMem, PhysRange, Sbdf};
use kho_pcsc::{Added, Cached, Distrust, Saved, Variant};
use vm_fdt::FdtWriter;

const PAGE: PageSize = PageSize::Size4K;
const F: Sbdf = Sbdf::from_bdf(0, 0x0008);
const BASE: u64 = 0x10_0000;

/// Where [`nic`] has its MSI capability, and in it the message's address.
const MSI: u16 = 0x40;
const ADDRESS: u16 = MSI + 4;
const DATA: u16 = MSI + 0x0c;

fn nic() -> SimFunction {
    SimFunction::endpoint(0x8086, 0x10c9)
        .with_msi(true, true, 1)
        .with_express(0)
}

fn range(from: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(from), size).unwrap()
}

/// One function of which everything was read, then written to by `last`, and saved.
struct Handover {
    bus: SimBus,
    memory: SimMemory,
    blob: Vec<u8>,
    page: PhysAddr,
}

impl Handover {
    fn of(function: SimFunction, last: impl FnOnce(&Cached<'_, &SimBus>)) -> Self {
        let bus = SimBus::new();
        bus.add(F, function);
        let memory = SimMemory::new([range(BASE, 8 << 20)]).unwrap();
        let (blob, page) = {
            let pages = SimAlloc::new(&memory, PAGE, [range(BASE, 4 << 20)]);
            let cache = Cached::in_pages(&bus, &memory, &pages, PAGE);
            cache.add(F).unwrap();
            for offset in (0..0x1000).step_by(4) {
                cache.read_u32(F, offset).unwrap();
            }
            last(&cache);
            let tracker = Tracker::new(&memory, &pages, PAGE, &[]).unwrap();
            let outgoing = Outgoing::new(tracker).unwrap();
            assert_eq!(cache.save(&outgoing).unwrap(), 1);
            let found = outgoing.find("pcsc").unwrap();
            let mut blob = vec![0; found.size() as usize];
            memory.read(found.start(), &mut blob).unwrap();
            let saved = Saved::read(&blob, Variant::Extended, |_| true).unwrap();
            (blob, saved.find(F).unwrap())
        };
        Self {
            bus,
            memory,
            blob,
            page,
        }
    }

    /// Takes the function over, and tells how, with how many reads, and which of the offsets are
    /// answered at their second read without the hardware.
    fn taken(&self, blob: &[u8], offsets: &[u16]) -> (Added, u64, Vec<bool>) {
        let saved = Saved::read(blob, Variant::Extended, |_| true).unwrap();
        let pages = SimAlloc::new(&self.memory, PAGE, [range(BASE + (4 << 20), 4 << 20)]);
        let cache = Cached::in_pages(&self.bus, &self.memory, &pages, PAGE).with_saved(saved);
        let reads = self.bus.reads();
        let how = cache.add(F).unwrap();
        let added = self.bus.reads() - reads;
        let is_hit = |offset: &u16| {
            cache.read_u8(F, *offset).unwrap();
            let reads = self.bus.reads();
            cache.read_u8(F, *offset).unwrap();
            self.bus.reads() == reads
        };
        (how, added, offsets.iter().map(is_hit).collect())
    }
}

#[test]
fn a_header_type_other_than_0_is_restored() {
    let handover = Handover::of(nic().multifunction(), |_| ());
    let (how, reads, _) = handover.taken(&handover.blob, &[]);
    assert_eq!((how, reads), (Added::Restored, 3));
}

/// What is known of the walk is known of what the walk finds.
#[test]
fn a_pointer_that_the_page_does_not_know_leads_nowhere() {
    for known in [true, false] {
        let handover = Handover::of(nic(), |_| ());
        let map = PhysAddr::new(handover.page.as_u64() + 4096 + 512);
        let map = &handover.memory.words(map, 1).unwrap()[0];
        assert!(map.load(Ordering::Relaxed) >> 0x34 & 1 != 0);
        if !known {
            map.fetch_and(!(1 << 0x34), Ordering::Relaxed);
        }
        let (how, reads, hits) = handover.taken(&handover.blob, &[ADDRESS, 0x3c]);
        assert_eq!((how, reads), (Added::Restored, 3));
        assert_eq!(hits[0], known);
    }
}

/// A self test is the device's; where there is none, its register is zero.
#[test]
fn whether_there_is_a_self_test_is_seen_by_the_identity_check() {
    for (function, is_fixed) in [(nic(), true), (nic().with_bist(), false)] {
        let handover = Handover::of(function, |_| ());
        let (how, _, hits) = handover.taken(&handover.blob, &[0x0f]);
        assert_eq!((how, hits), (Added::Restored, vec![is_fixed]));
    }
}

/// Status says whether there is a list, and the page does not know it.
#[test]
fn the_pointer_to_the_list_is_restored() {
    let handover = Handover::of(nic(), |_| ());
    let (how, _, hits) = handover.taken(&handover.blob, &[0x34, ADDRESS]);
    assert_eq!((how, hits), (Added::Restored, vec![true, true]));
    let handover = Handover::of(SimFunction::conventional(1, 2), |_| ());
    let (how, _, hits) = handover.taken(&handover.blob, &[0x34, 0x10]);
    assert_eq!((how, hits), (Added::Restored, vec![false, true]));
}

/// Where the message's data is follows from message control, which was written.
#[test]
fn what_the_walk_looks_at_is_read_again_for_the_save() {
    let handover = Handover::of(nic(), |cache| {
        cache.write_u16(F, MSI + 2, 0x10).unwrap();
    });
    let (how, reads, hits) = handover.taken(&handover.blob, &[ADDRESS, DATA]);
    assert_eq!((how, reads), (Added::Restored, 3));
    assert_eq!(hits, [true, true]);
}

/// The page and its bitmaps take two pages, not more.
#[test]
fn a_page_at_the_end_of_memory_is_taken() {
    let handover = Handover::of(nic(), |_| ());
    let last = BASE + (8 << 20) - 0x2000;
    let mut bytes = vec![0; 0x2000];
    handover.memory.read(handover.page, &mut bytes).unwrap();
    handover.memory.write(PhysAddr::new(last), &bytes).unwrap();
    for (data, expected) in [
        (last, Added::Restored),
        (last + 0x1000, Added::Distrusted(Distrust::Damaged)),
        (last + 8, Added::Distrusted(Distrust::Damaged)),
        (0, Added::Distrusted(Distrust::Damaged)),
    ] {
        let (how, ..) = handover.taken(&tree(&[("pv", 1)], data), &[]);
        assert_eq!(how, expected, "{data:#x}");
    }
}

/// A description of [`F`] alone, with these numbers in its root.
fn tree(numbers: &[(&str, u32)], data: u64) -> Vec<u8> {
    let mut tree = FdtWriter::new().unwrap();
    let root = tree.begin_node("").unwrap();
    tree.property_string("compatible", "pcsc-v1").unwrap();
    for (name, value) in numbers {
        tree.property(name, &value.to_le_bytes()).unwrap();
    }
    let node = tree.begin_node("dev_0000_00_01_0").unwrap();
    tree.property("da", &data.to_le_bytes()).unwrap();
    tree.end_node(node).unwrap();
    tree.end_node(root).unwrap();
    tree.finish().unwrap()
}

#[test]
fn only_one_property_says_which_rules_there_were() {
    for (numbers, same) in [
        (&[("pv", 1)][..], true),
        (&[("pv", 1), ("zz", 2)], true),
        (&[("pv", 2), ("zz", 1)], false),
        (&[("zz", 1)], false),
        (&[], false),
    ] {
        let tree = tree(numbers, 0x1000);
        let saved = Saved::read(&tree, Variant::Extended, |_| true).unwrap();
        assert_eq!(saved.has_same_rules(), same, "{numbers:?}");
    }
}

#[test]
fn a_page_that_is_not_preserved_is_not_used() {
    let tree = tree(&[("pv", 1)], 0x1000);
    let read = |is_preserved: &dyn Fn(PhysAddr) -> bool| {
        let saved = Saved::read(&tree, Variant::Extended, is_preserved).unwrap();
        (saved.find(F), saved.damaged())
    };
    let page = PhysAddr::new(0x1000);
    assert_eq!(read(&|addr| addr == page), (Some(page), 0));
    assert_eq!(read(&|addr| addr != page), (None, 1));
}

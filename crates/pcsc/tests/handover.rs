//! Saving the cache, and taking it over after a simulated kexec.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use kho_core::Tracker;
use kho_core::outgoing::{Outgoing, Participant};
use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{
    Access, Order, PageSize, PciConfigAccess, PhysAddr, PhysMem, PhysRange, Sbdf, Width,
};
use kho_pcsc::{Added, Cached, Distrust, Reset, Saved, SavedError, Unlisted, Variant};
use proptest::prelude::*;

/// Stands for the predecessor's map, which has whole pages only.
fn is_page(addr: PhysAddr) -> bool {
    addr.as_u64().is_multiple_of(0x1000)
}

const PAGE: PageSize = PageSize::Size4K;

fn at(device: u8) -> Sbdf {
    Sbdf::new(0, 1, device, 0).unwrap()
}

fn nic(device: u16) -> SimFunction {
    SimFunction::endpoint(0x8086, device)
        .with_bar64(0, 20)
        .with_pm(true)
        .with_msi(true, false, 3)
        .with_msix(8, 3)
        .with_express(0)
        .with_aer()
        .with_serial(7)
}

fn memory() -> SimMemory {
    SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 16 << 20)).unwrap()
}

fn alloc(memory: &SimMemory, from: u64) -> SimAlloc<&SimMemory> {
    let range = PhysRange::new(PhysAddr::new(from), 8 << 20).unwrap();
    SimAlloc::new(memory, PAGE, [range])
}

/// What a test changes in a saved machine: the description, and the memory.
struct Handover {
    bus: SimBus,
    memory: SimMemory,
    blob: Vec<u8>,
}

/// Four functions with warm caches, saved.
fn saved() -> Handover {
    let bus = SimBus::new();
    let memory = memory();
    let blob = {
        let pages = alloc(&memory, 0x10_0000);
        let cache = Cached::in_pages(&bus, &memory, &pages, PAGE);
        for device in 0..4 {
            bus.add(at(device), nic(0x1000 + u16::from(device)));
            cache.add_with(at(device), Unlisted::Constant).unwrap();
            for offset in (0..0x1000).step_by(4) {
                cache.read_u32(at(device), offset).unwrap();
            }
        }
        bus.add(at(9), SimFunction::bridge(0x1b36, 2, 5, 6));
        cache.add(at(9)).unwrap();
        let tracker = Tracker::new(&memory, &pages, PAGE, &[]).unwrap();
        let outgoing = Outgoing::new(tracker).unwrap();
        assert_eq!(cache.save(&outgoing).unwrap(), 4);
        let range = outgoing.find("pcsc").unwrap();
        let mut blob = vec![0; range.size() as usize];
        memory.read(range.start(), &mut blob).unwrap();
        let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
        for device in 0..4 {
            let addr = saved.find(at(device)).unwrap();
            assert!(
                outgoing
                    .tracker()
                    .is_preserved(addr, Order::new(1).unwrap())
            );
        }
        cache.unsave(&outgoing).unwrap();
        let addr = saved.find(at(0)).unwrap();
        assert!(
            !outgoing
                .tracker()
                .is_preserved(addr, Order::new(1).unwrap())
        );
        assert_eq!(cache.save(&outgoing).unwrap(), 4);
        blob
    };
    Handover { bus, memory, blob }
}

/// Until the jump, what is invalidated leaves the page, and nothing else does.
#[test]
fn what_is_invalidated_after_the_save_is_not_handed_over() {
    let bus = SimBus::new();
    let memory = memory();
    let pages = alloc(&memory, 0x10_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE);
    for device in 0..3 {
        bus.add(at(device), nic(0x1000 + u16::from(device)));
        cache.add(at(device)).unwrap();
        for offset in (0..0x200).step_by(4) {
            cache.read_u32(at(device), offset).unwrap();
        }
    }
    let tracker = Tracker::new(&memory, &pages, PAGE, &[]).unwrap();
    let outgoing = Outgoing::new(tracker).unwrap();
    cache.save(&outgoing).unwrap();
    cache.write_u32(at(0), 0x10, 0xfff0_0000).unwrap();
    cache.reset(at(1), Reset::Function);
    cache.reset(at(2), Reset::Power);
    let range = outgoing.find("pcsc").unwrap();
    let mut blob = vec![0; range.size() as usize];
    memory.read(range.start(), &mut blob).unwrap();
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    let others = alloc(&memory, 0x90_0000);
    let next = Cached::in_pages(&bus, &memory, &others, PAGE).with_saved(saved);
    for (device, added) in [
        (0, Added::Restored),
        (1, Added::Restored),
        (2, Added::Distrusted(Distrust::Unidentified)),
    ] {
        assert_eq!(next.add(at(device)), Ok(added));
    }
    // BAR 0, BAR 1, subsystem, MSI address, serial number: of the first function all but BAR 0,
    // of the second the constants.
    for (device, expected) in [(0, [1, 0, 0, 0, 0]), (1, [1, 1, 0, 1, 0])] {
        let reads = [0x10, 0x14, 0x2c, 0x4c, 0x14c].map(|offset| {
            let access = Access::new(offset, Width::U32).unwrap();
            let before = bus.reads();
            assert_eq!(
                next.read(at(device), access),
                Ok(bus.peek(at(device), access))
            );
            bus.reads() - before
        });
        assert_eq!(reads, expected, "function {device}");
    }
}

/// What the first words of a page's two bitmaps must say, bit by bit.
#[test]
fn a_page_has_to_name_its_device_and_must_not_mark_status() {
    let Handover { bus, memory, blob } = saved();
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    let addr = saved.find(at(0)).unwrap().as_u64();
    let map = |byte: u64| &memory.words(PhysAddr::new(addr + byte), 1).unwrap()[0];
    let (marked, known) = (map(4096), map(4608));
    let order = std::sync::atomic::Ordering::Relaxed;
    let (was_marked, was_known) = (marked.load(order), known.load(order));
    let add = || {
        let pages = alloc(&memory, 0x90_0000);
        let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved.clone());
        cache.add(at(0)).unwrap()
    };
    let bytes = |ranges: &[std::ops::Range<u32>], bit: u32| ranges.iter().any(|r| r.contains(&bit));
    for bit in 0..64 {
        let name = (0..4).contains(&bit);
        let status = bytes(&[4..8, 0x35..0x3c], bit);
        let identity = bytes(&[0..4, 8..12, 0x0e..0x0f], bit);
        marked.fetch_xor(1 << bit, order);
        let expected = match (name || status, identity) {
            (true, _) => Added::Distrusted(Distrust::Damaged),
            (false, true) => Added::Distrusted(Distrust::Unidentified),
            (false, false) => Added::Restored,
        };
        assert_eq!(add(), expected, "mark {bit:x}");
        marked.store(was_marked, order);
        known.fetch_and(!(1 << bit), order);
        let expected = match identity {
            true => Added::Distrusted(Distrust::Unidentified),
            false => Added::Restored,
        };
        assert_eq!(add(), expected, "value {bit:x}");
        marked.store(was_marked, order);
        known.store(was_known, order);
    }
}

/// What is learned after the save arrives if the cache takes part in the handover's last step.
#[test]
fn what_is_learned_after_the_save_is_handed_over() {
    for takes_part in [false, true] {
        let bus = SimBus::new();
        bus.add(at(0), nic(0x1000));
        let memory = memory();
        let pages = alloc(&memory, 0x10_0000);
        let cache = Cached::in_pages(&bus, &memory, &pages, PAGE);
        cache.add(at(0)).unwrap();
        let scratch = [PhysRange::new(PhysAddr::new(0x100_0000), 1 << 20).unwrap()];
        let tracker = Tracker::new(&memory, &pages, PAGE, &scratch).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        cache.save(&outgoing).unwrap();
        let range = outgoing.find("pcsc").unwrap();
        cache.read_u32(at(0), 0x10).unwrap();
        {
            let mut participant = &cache;
            let mut all: [&mut dyn Participant<_>; 1] = [&mut participant];
            let participants = if takes_part { &mut all[..] } else { &mut [] };
            let ready = outgoing.finalize(PhysAddr::new(0x100_0000), participants);
            assert!(ready.is_ok());
        }
        let mut blob = vec![0; range.size() as usize];
        memory.read(range.start(), &mut blob).unwrap();
        let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
        let others = alloc(&memory, 0x90_0000);
        let next = Cached::in_pages(&bus, &memory, &others, PAGE).with_saved(saved);
        assert_eq!(next.add(at(0)), Ok(Added::Restored));
        // The first use looks at its capabilities.
        next.read_u32(at(0), 0x2c).unwrap();
        let before = bus.reads();
        next.read_u32(at(0), 0x10).unwrap();
        assert_eq!(bus.reads() == before, takes_part);
    }
}

#[test]
fn a_restored_function_needs_three_reads_and_then_none() {
    let Handover { bus, memory, blob } = saved();
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    assert_eq!(
        (saved.len(), saved.damaged(), saved.has_same_rules()),
        (4, 0, true)
    );
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
    for device in 0..4 {
        let before = bus.reads();
        let added = cache.add_with(at(device), Unlisted::Constant);
        assert_eq!(added, Ok(Added::Restored));
        assert_eq!(bus.reads(), before + 3);
        let mut hits = 0;
        for offset in (0..0x1000).step_by(4) {
            let access = Access::new(offset, Width::U32).unwrap();
            let truth = bus.peek(at(device), access);
            let before = bus.reads();
            assert_eq!(cache.read(at(device), access), Ok(truth), "{offset:#x}");
            hits += u32::from(bus.reads() == before);
        }
        assert!(hits > 990, "{hits}");
    }
    assert_eq!(
        pages.calls(),
        0,
        "no page is allocated for what is restored"
    );
    assert_eq!(cache.add(at(9)), Ok(Added::Inferred));
    // Writes are judged by the capabilities that the page knows of.
    cache.write_u32(at(0), 0x10, 0xfff0_0000).unwrap();
    assert_eq!(cache.read_u32(at(0), 0x10), Ok(0xfff0_000c));
    let msi = 0x40 + 8 + 4;
    cache.write_u32(at(0), msi, 0xfee0_0000).unwrap();
    assert_eq!(cache.read_u32(at(0), msi), Ok(0xfee0_0000));
}

#[test]
fn another_device_at_the_same_address_is_not_restored() {
    let Handover { bus, memory, blob } = saved();
    bus.add(at(0), nic(0x2000));
    bus.add(at(1), nic(0x1001).with_class(0x0200_0001));
    bus.add(at(2), nic(0x1002).multifunction());
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
    for device in 0..3 {
        assert_eq!(
            cache.add(at(device)),
            Ok(Added::Distrusted(Distrust::Changed))
        );
        let value = cache.read_u32(at(device), 0).unwrap();
        assert_eq!(
            value,
            bus.peek(at(device), Access::new(0, Width::U32).unwrap())
        );
    }
    assert_eq!(cache.add(at(3)), Ok(Added::Restored));
    // Reset by firmware in between: what the identity does not show has to be told.
    bus.reset(at(3), ResetKind::Cold);
    cache.reset(at(3), Reset::Power);
    assert_eq!(cache.read_u32(at(3), 0x10), Ok(0x0c));
}

#[test]
fn other_rules_keep_values_and_infer_anew() {
    let Handover {
        bus,
        memory,
        mut blob,
    } = saved();
    // The value of "pv" is the only property with one native 1 of four bytes.
    let needle = [0, 0, 0, 4, 0, 0, 0, 11, 1, 0, 0, 0];
    let place = blob.windows(12).position(|w| w == needle).unwrap();
    blob[place + 8] = 2;
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    assert!(!saved.has_same_rules());
    let addr = saved.find(at(0)).unwrap();
    // The other rules marked a status register, and had its value.
    let word = |byte: u64| PhysAddr::new(addr.as_u64() + byte);
    let device_status = 0x40 + 8 + 16 + 12 + 0x0a;
    for map in [4096, 4608] {
        let words = memory.words(word(map + 8), 1).unwrap();
        words[0].fetch_or(
            3 << (device_status - 64),
            std::sync::atomic::Ordering::Relaxed,
        );
    }
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
    assert_eq!(cache.add(at(0)), Ok(Added::Restored));
    let status = Access::new(device_status, Width::U16).unwrap();
    bus.poke(at(0), status, 0x0009);
    assert_eq!(cache.read(at(0), status), Ok(9));
    let before = bus.reads();
    assert_eq!(cache.read_u32(at(0), 0x10), Ok(0x0c));
    assert_eq!(bus.reads(), before, "values are kept");
}

#[test]
fn the_conventional_variant_is_copied_and_a_wrong_variant_is_noticed() {
    let Handover { bus, memory, blob } = saved();
    let saved = Saved::read(&blob, Variant::Conventional, is_page).unwrap();
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved.clone());
    assert_eq!(cache.add(at(0)), Ok(Added::Distrusted(Distrust::Damaged)));
    // A page as the other variant has it: header, and marks for what names the device.
    let addr = saved.find(at(1)).unwrap();
    let words = memory.words(addr, 40).unwrap();
    let store = |n: usize, value| words[n].store(value, std::sync::atomic::Ordering::Relaxed);
    store(2, 0x0bad_0000_0000_000c);
    for (map, value) in [(32, 0x0000_0000_00ff_4f0f), (36, 0x0000_0000_00ff_4f0f)] {
        (map..map + 4).for_each(|n| store(n, 0));
        store(map, value);
    }
    assert_eq!(cache.add(at(1)), Ok(Added::Restored));
    assert_eq!(cache.read_u32(at(1), 0), Ok(0x1001_8086));
    assert_eq!(cache.read_u32(at(1), 0x10), Ok(0x0c));
    assert_eq!(
        cache.read_u32(at(1), 0x14),
        Ok(0x0bad_0000),
        "as it was saved"
    );
}

#[test]
fn nothing_to_save_adds_nothing_and_a_failure_leaves_nothing() {
    let bus = SimBus::new();
    bus.add(at(0), nic(1));
    bus.add(at(1), nic(2));
    let memory = memory();
    let pages = alloc(&memory, 0x10_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE);
    let tracker = Tracker::new(&memory, &pages, PAGE, &[]).unwrap();
    let outgoing = Outgoing::new(tracker).unwrap();
    assert_eq!(cache.save(&outgoing).unwrap(), 0);
    assert_eq!(outgoing.find("pcsc"), None);
    cache.add(at(0)).unwrap();
    cache.add(at(1)).unwrap();
    for n in 0..8 {
        pages.fail_at(Some(n));
        if cache.save(&outgoing).is_ok() {
            break;
        }
        assert_eq!(outgoing.find("pcsc"), None);
        pages.fail_at(None);
        assert_eq!(cache.save(&outgoing).unwrap(), 2, "after failure {n}");
        cache.unsave(&outgoing).unwrap();
    }
    assert!(cache.unsave(&outgoing).is_ok());
    assert!(cache.unsave(&outgoing).is_err());
}

#[test]
fn a_foreign_blob_is_refused() {
    let Handover { mut blob, .. } = saved();
    assert_eq!(
        Saved::read(&[], Variant::Extended, is_page).unwrap_err(),
        SavedError::NotATree
    );
    let place = blob.windows(7).position(|w| w == b"pcsc-v1").unwrap();
    blob[place + 6] = b'2';
    assert_eq!(
        Saved::read(&blob, Variant::Extended, is_page).unwrap_err(),
        SavedError::UnknownVersion
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the description and the pages say: no panic, and what is not restored is cold.
    #[test]
    fn a_damaged_description_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        pages_too in any::<bool>(),
    ) {
        let Handover { bus, memory, mut blob } = saved();
        for (index, value) in &changes {
            let index = index.index(blob.len());
            blob[index] = *value;
        }
        let Ok(saved) = Saved::read(&blob, Variant::Extended, is_page) else { return Ok(()) };
        if pages_too {
            for device in 0..4 {
                if let Some(words) = saved.find(at(device)).and_then(|a| memory.words(a, 640).ok()) {
                    for (index, value) in &changes {
                        words[512 + index.index(8)].store(
                            u64::from(*value) << 16,
                            std::sync::atomic::Ordering::Relaxed,
                        );
                    }
                }
            }
        }
        let pages = alloc(&memory, 0x90_0000);
        let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
        for device in 0..4 {
            cache.add(at(device)).unwrap();
            for offset in (0..0x200).step_by(4) {
                cache.read_u32(at(device), offset).unwrap();
            }
            cache.write_u16(at(device), 4, 6).unwrap();
        }
    }
}

/// However deep the description is, and however many nodes it has, 64 KiB of stack are enough.
#[test]
fn reading_takes_a_small_stack() {
    const DEPTH: usize = 100_000;
    let mut fdt = vm_fdt::FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_string("compatible", "pcsc-v1").unwrap();
    for device in 0..2000 {
        let (bus, device, function) = (device >> 8, device >> 3 & 31, device & 7);
        let name = format!("dev_0000_{bus:02x}_{device:02x}_{function:x}");
        let node = fdt.begin_node(&name).unwrap();
        fdt.end_node(node).unwrap();
    }
    let inner = fdt.begin_node("n").unwrap();
    fdt.end_node(inner).unwrap();
    fdt.end_node(root).unwrap();
    let mut blob = fdt.finish().unwrap();
    // The writer's own limit is 64, so deeper nodes are put between its bytes.
    let begin = [0, 0, 0, 1, b'n', 0, 0, 0];
    let at = blob.windows(8).position(|window| window == begin).unwrap();
    let more = [begin.repeat(DEPTH), [0, 0, 0, 2].repeat(DEPTH)].concat();
    blob.splice(at..at, more.iter().copied());
    for field in [4, 12, 36] {
        let was = u32::from_be_bytes(blob[field..field + 4].try_into().unwrap());
        blob[field..field + 4].copy_from_slice(&(was + more.len() as u32).to_be_bytes());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let read = || Saved::read(&blob, Variant::Extended, is_page).map(|saved| saved.len());
        let read = thread.spawn_scoped(scope, read).unwrap().join().unwrap();
        assert_eq!(read, Ok(2000));
    });
}

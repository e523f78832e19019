//! What the published series gets wrong, one test each, in the order of its list.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::OnceLock;

use kho_core::Tracker;
use kho_core::outgoing::Outgoing;
use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction, SriovShape};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{Access, PageSize, PciConfigAccess, PciError, PhysAddr, PhysRange, Sbdf, Width};
use kho_pcsc::{AddError, Added, Cached, Distrust, Reset, Saved, Unlisted, Variant};

/// Stands for the predecessor's map, which has whole pages only.
fn is_page(addr: PhysAddr) -> bool {
    addr.as_u64().is_multiple_of(0x1000)
}

const NIC: Sbdf = Sbdf::from_bdf(0, 0x0100);

fn one(function: SimFunction) -> SimBus {
    let bus = SimBus::new();
    bus.add(NIC, function);
    bus
}

/// The cache's answer is the device's.
fn same(cache: &Cached<'_, &SimBus>, bus: &SimBus, offset: u16, width: Width) -> u32 {
    let at = Access::new(offset, width).unwrap();
    let value = cache.read(NIC, at).unwrap();
    assert_eq!(value, bus.peek(NIC, at), "{offset:#x}");
    value
}

#[test]
fn d01_a_write_over_cacheable_and_other_bytes_invalidates_what_it_touches() {
    let bus = one(SimFunction::endpoint(0x8086, 1).with_express(0));
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    assert_eq!(same(&cache, &bus, 0x48, Width::U16), 0x2810);
    // Device control and device status in one.
    cache.write_u32(NIC, 0x48, 0x000f_2850).unwrap();
    assert_eq!(same(&cache, &bus, 0x48, Width::U16), 0x2850);
}

/// Reads through the cache in the middle of each write.
#[derive(Default)]
struct Racing {
    bus: SimBus,
    cache: OnceLock<&'static Cached<'static, &'static Racing>>,
}

impl PciConfigAccess for Racing {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.bus.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        if let Some(cache) = self.cache.get() {
            cache.read(function, at).unwrap();
        }
        self.bus.write(function, at, value)
    }
}

#[test]
fn d02_a_read_between_invalidation_and_write_does_not_keep_the_old_value() {
    let racing: &'static Racing = Box::leak(Box::default());
    racing.bus.add(NIC, SimFunction::endpoint(0x8086, 1));
    let cache: &'static Cached<'static, _> = Box::leak(Box::new(Cached::new(racing)));
    cache.add(NIC).unwrap();
    racing.cache.set(cache).ok();
    cache.write_u8(NIC, 0x3c, 7).unwrap();
    assert_eq!(cache.read_u8(NIC, 0x3c), Ok(7));
    racing.bus.fail_next(0);
    cache.write_u8(NIC, 0x3c, 9).unwrap();
    assert_eq!(cache.read_u8(NIC, 0x3c), Ok(9));
}

#[test]
fn d03_polling_the_vpd_flag_ends() {
    let bus = one(SimFunction::endpoint(0x8086, 1).with_vpd());
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    cache.write_u16(NIC, 0x42, 0x0010).unwrap();
    let done = (0..10).any(|_| cache.read_u16(NIC, 0x42).unwrap() & 0x8000 != 0);
    assert!(done);
}

#[test]
fn d04_a_self_test_is_seen_to_end() {
    let bus = one(SimFunction::endpoint(0x8086, 1).with_bist());
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    cache.write_u8(NIC, 0x0f, 0x40).unwrap();
    let done = (0..10).any(|_| cache.read_u8(NIC, 0x0f).unwrap() & 0x40 == 0);
    assert!(done);
    assert_eq!(cache.read_u8(NIC, 0x0f), Ok(0x81));
}

#[test]
fn d05_the_answers_of_an_absent_device_are_not_kept() {
    let bus = one(SimFunction::endpoint(0x8086, 1)
        .with_bar32(0, 12)
        .with_serial(5));
    let cache = Cached::new(&bus);
    bus.set_present(NIC, false);
    assert_eq!(cache.add(NIC), Err(AddError::Absent { function: NIC }));
    bus.set_present(NIC, true);
    cache.add(NIC).unwrap();
    bus.set_present(NIC, false);
    for offset in [0x10, 0x2c, 0x104] {
        assert_eq!(cache.read_u32(NIC, offset), Ok(u32::MAX));
    }
    bus.set_present(NIC, true);
    for offset in [0x10, 0x2c, 0x104] {
        same(&cache, &bus, offset, Width::U32);
    }
}

#[test]
fn d06_registers_that_follow_another_write_are_invalidated() {
    let shape = SriovShape {
        total: 4,
        offset: [0x80, 1],
        stride: [2, 1],
        device: 2,
        template: SimFunction::virtual_function().with_express(0),
    };
    let function = SimFunction::endpoint(0x8086, 1)
        .with_express(0)
        .with_sriov(shape);
    let bus = one(function);
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    assert_eq!(same(&cache, &bus, 0x114, Width::U32), 0x0000_0080);
    cache.write_u16(NIC, 0x110, 4).unwrap();
    assert_eq!(same(&cache, &bus, 0x114, Width::U32), 0x0002_0080);
    cache.write_u16(NIC, 0x108, 0x10).unwrap();
    assert_eq!(same(&cache, &bus, 0x114, Width::U32), 0x0001_0001);
    // The bit that starts a function-level reset reads as zero, and the rest is at its default.
    cache.write_u16(NIC, 0x48, 0xa850).unwrap();
    same(&cache, &bus, 0, Width::U32);
    assert_eq!(same(&cache, &bus, 0x48, Width::U16), 0x2810);
    let port = Sbdf::from_bdf(0, 8);
    bus.add(port, SimFunction::bridge(0x1b36, 2, 4, 5).with_express(4));
    cache.add(port).unwrap();
    cache.write_u16(port, 0x50, 0x20).unwrap();
    assert_eq!(cache.read_u16(port, 0x50), Ok(0), "retrain link");
}

#[test]
fn d07_a_short_capability_does_not_reach_into_the_next_registers() {
    // Version 1, endpoint: 14h bytes. A vendor's status register follows, then another capability.
    let mut function = SimFunction::conventional(0x8086, 1);
    let express = function.capability(0x10, 0x14);
    let function = function
        .with_register(express + 2, 2, 0x0001, 0, 0)
        .with_register(express + 0x14, 4, 0x11, 0, 0)
        .with_register(0xf8, 1, 0x10, 0, 0)
        .with_register(0xfa, 2, 0x0002, 0, 0)
        .with_register(express + 1, 1, 0xf8, 0, 0);
    let bus = one(function);
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    for value in 0..4 {
        bus.poke(NIC, Access::new(0x54, Width::U32).unwrap(), value);
        same(&cache, &bus, 0x54, Width::U32);
    }
    // A capability that would end beyond the space.
    same(&cache, &bus, 0xfc, Width::U32);
    assert_eq!(cache.read_u32(NIC, 0x100), Ok(u32::MAX));
}

#[test]
fn d08_what_was_written_while_off_is_seen_when_on() {
    let bus = one(SimFunction::endpoint(0x8086, 1));
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    same(&cache, &bus, 0x3c, Width::U8);
    cache.set_enabled(false);
    bus.write_u8(NIC, 0x3c, 3).unwrap();
    cache.set_enabled(true);
    assert_eq!(same(&cache, &bus, 0x3c, Width::U8), 3);
    same(&cache, &bus, 0, Width::U32);
    assert_eq!(same(&cache, &bus, 0x3c, Width::U8), 3);
}

#[test]
fn d09_bridges_can_be_reset() {
    let bus = one(SimFunction::bridge(0x1b36, 2, 4, 5).with_express(4));
    let cache = Cached::new(&bus);
    for reset in [Reset::Function, Reset::Power, Reset::Below] {
        cache.reset(NIC, reset);
    }
    cache.add(NIC).unwrap();
    for reset in [Reset::Function, Reset::Power, Reset::Below] {
        cache.reset(NIC, reset);
        same(&cache, &bus, 0, Width::U32);
        same(&cache, &bus, 0x18, Width::U32);
    }
}

#[test]
fn d10_reads_during_a_reset_leave_nothing_behind() {
    let bus = one(SimFunction::endpoint(0x8086, 1).with_bar32(0, 12));
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    cache.write_u32(NIC, 0x10, 0xfe00_0000).unwrap();
    cache.reset(NIC, Reset::Function);
    // Somebody reads before the device has reset itself.
    same(&cache, &bus, 0, Width::U32);
    same(&cache, &bus, 0x10, Width::U32);
    bus.reset(NIC, ResetKind::Function);
    cache.reset(NIC, Reset::Function);
    assert_eq!(same(&cache, &bus, 0x10, Width::U32), 0);
}

#[test]
fn d11_switched_off_everything_goes_through() {
    let bus = one(SimFunction::endpoint(0x8086, 1));
    let cache = Cached::new(&bus);
    cache.set_enabled(false);
    cache.add(NIC).unwrap();
    for _ in 0..3 {
        let before = bus.reads();
        same(&cache, &bus, 0, Width::U32);
        assert_eq!(bus.reads(), before + 1);
    }
    cache.write_u8(NIC, 0x3c, 3).unwrap();
    assert_eq!(same(&cache, &bus, 0x3c, Width::U8), 3);
}

#[test]
fn d12_cpus_may_fill_invalidate_and_reset_at_once() {
    let bus = one(SimFunction::endpoint(0x8086, 1).with_msi(true, true, 1));
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..2000).for_each(|n| cache.write_u32(NIC, 0x44, n << 2).unwrap()));
        scope.spawn(|| (0..200).for_each(|_| cache.reset(NIC, Reset::Function)));
        scope.spawn(|| (0..4000).for_each(|_| assert!(cache.read_u32(NIC, 0x44).is_ok())));
        scope.spawn(|| (0..4000).for_each(|_| assert!(cache.read_u32(NIC, 0).is_ok())));
    });
    assert_eq!(same(&cache, &bus, 0x44, Width::U32), 1999 << 2);
}

fn memory() -> SimMemory {
    SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 4 << 20)).unwrap()
}

fn pages(memory: &SimMemory) -> SimAlloc<&SimMemory> {
    let range = PhysRange::new(PhysAddr::new(0x10_0000), 4 << 20).unwrap();
    SimAlloc::new(memory, PageSize::Size4K, [range])
}

#[test]
fn d13_a_failed_save_leaves_nothing_preserved() {
    let bus = one(SimFunction::endpoint(0x8086, 1));
    let memory = memory();
    let pages = pages(&memory);
    let cache = Cached::in_pages(&bus, &memory, &pages, PageSize::Size4K);
    cache.add(NIC).unwrap();
    let tracker = Tracker::new(&memory, &pages, PageSize::Size4K, &[]).unwrap();
    let outgoing = Outgoing::new(tracker).unwrap();
    let taken = outgoing.add_blob("pcsc", &[1]).unwrap();
    assert!(cache.save(&outgoing).is_err());
    assert_eq!(outgoing.find("pcsc"), Some(taken));
    outgoing.remove_blob("pcsc").unwrap();
    assert_eq!(cache.save(&outgoing).unwrap(), 1);
}

/// A cache with these functions, saved: the sub-blob.
fn blob(bus: &SimBus, memory: &SimMemory, functions: &[Sbdf]) -> Vec<u8> {
    use kho_hal::PhysMem;
    let pages = pages(memory);
    let cache = Cached::in_pages(bus, memory, &pages, PageSize::Size4K);
    for function in functions {
        cache.add(*function).unwrap();
    }
    let tracker = Tracker::new(memory, &pages, PageSize::Size4K, &[]).unwrap();
    let outgoing = Outgoing::new(tracker).unwrap();
    cache.save(&outgoing).unwrap();
    let range = outgoing.find("pcsc").unwrap();
    let mut blob = vec![0; range.size() as usize];
    memory.read(range.start(), &mut blob).unwrap();
    blob
}

#[test]
fn d14_segments_above_16_bits_stay_apart() {
    let bus = SimBus::new();
    let functions = [Sbdf::from_bdf(1, 0x0100), Sbdf::from_bdf(0x1_0001, 0x0100)];
    for (function, device) in functions.iter().zip(1..) {
        bus.add(*function, SimFunction::endpoint(0x8086, device));
    }
    let memory = memory();
    let saved = Saved::read(&blob(&bus, &memory, &functions), Variant::Extended, is_page).unwrap();
    assert_ne!(saved.find(functions[0]), saved.find(functions[1]));
    let cache = Cached::new(&bus);
    functions
        .iter()
        .for_each(|function| assert!(cache.add(*function).is_ok()));
    assert_eq!(cache.read_u16(functions[0], 2), Ok(1));
    assert_eq!(cache.read_u16(functions[1], 2), Ok(2));
}

#[test]
fn d15_identity_and_variant_are_checked() {
    let bus = one(SimFunction::endpoint(0x8086, 1));
    let memory = memory();
    let blob = blob(&bus, &memory, &[NIC]);
    // Beyond what the predecessor used.
    let rest = PhysRange::new(PhysAddr::new(0x30_0000), 2 << 20).unwrap();
    let pages = SimAlloc::new(&memory, PageSize::Size4K, [rest]);
    let add = |variant| {
        let saved = Saved::read(&blob, variant, is_page).unwrap();
        let cache = Cached::in_pages(&bus, &memory, &pages, PageSize::Size4K).with_saved(saved);
        cache.add(NIC).unwrap()
    };
    assert_eq!(add(Variant::Extended), Added::Restored);
    assert_eq!(
        add(Variant::Conventional),
        Added::Distrusted(Distrust::Damaged)
    );
    bus.add(NIC, SimFunction::endpoint(0x8086, 2));
    assert_eq!(add(Variant::Extended), Added::Distrusted(Distrust::Changed));
}

#[test]
fn d16_bar_sizing_and_resizing_show_what_the_device_says() {
    let function = SimFunction::endpoint(0x8086, 1).with_bar64(0, 20);
    let bus = one(function.with_resizable_bar(0, true, 0xff).with_express(0));
    let cache = Cached::new(&bus);
    cache.add(NIC).unwrap();
    let before = same(&cache, &bus, 0x10, Width::U32);
    cache.write_u32(NIC, 0x10, u32::MAX).unwrap();
    assert_eq!(same(&cache, &bus, 0x10, Width::U32), 0xfff0_000c);
    cache.write_u32(NIC, 0x10, before).unwrap();
    assert_eq!(same(&cache, &bus, 0x10, Width::U32), before);
    cache.write_u32(NIC, 0x10, 0xfff0_0000).unwrap();
    same(&cache, &bus, 0x10, Width::U32);
    cache.write_u32(NIC, 0x108, 0x0420).unwrap();
    assert_eq!(same(&cache, &bus, 0x10, Width::U32), 0xff00_000c);
}

#[test]
fn d17_what_firmware_does_on_a_power_transition_is_seen() {
    let bus = one(SimFunction::endpoint(0x8086, 1).with_pm(true));
    let cache = Cached::new(&bus);
    cache.add_with(NIC, Unlisted::PassThrough).unwrap();
    same(&cache, &bus, 0x3c, Width::U8);
    cache.write_u16(NIC, 0x44, 3).unwrap();
    bus.poke(NIC, Access::new(0x3c, Width::U8).unwrap(), 0x0b);
    cache.write_u16(NIC, 0x44, 0).unwrap();
    same(&cache, &bus, 0, Width::U32);
    assert_eq!(same(&cache, &bus, 0x3c, Width::U8), 0x0b);
}

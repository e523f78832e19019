//! How much is answered without the hardware, and what a write takes away: exactly that, neither
//! less (an old value would be answered) nor more (the hardware would be asked for nothing).
//! `answered.txt` and `extent.txt` have it, to hold against the specification.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fmt::Write;

use kho_core::Tracker;
use kho_core::outgoing::Outgoing;
use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{Access, PageSize, PciConfigAccess, PhysAddr, PhysMem, PhysRange, Sbdf, Width};
use kho_pcsc::bits::ByteSet;
use kho_pcsc::{Cached, Inference, Saved, Unlisted, Variant};

use common::{DEEP, NAMED, OLD, PF, PORT, SIBLING, SWITCH, VF, find, machine};

/// Functions that nothing of [`machine`] is above: an endpoint and a virtual function on buses that
/// no bridge covers, a virtual function on bus 1 of another segment, and a flattening portal bridge.
const FAR: Sbdf = Sbdf::from_bdf(0, 0x0500);
const LONE: Sbdf = Sbdf::from_bdf(0, 0x0600);
const ELSEWHERE: Sbdf = Sbdf::from_bdf(1, 0x0108);
const PORTAL: Sbdf = Sbdf::from_bdf(0, 0x0020);

/// Every function, bridges first.
const NAMES: [(&str, Sbdf); 11] = [
    ("port", PORT),
    ("portal", PORTAL),
    ("switch", SWITCH),
    ("pf", PF),
    ("vf", VF),
    ("sibling", SIBLING),
    ("deep", DEEP),
    ("old", OLD),
    ("far", FAR),
    ("lone", LONE),
    ("elsewhere", ELSEWHERE),
];

fn name(function: Sbdf) -> &'static str {
    NAMES.iter().find(|(_, at)| *at == function).unwrap().0
}

/// No register that matters lies beyond.
const END: u16 = 0x200;

fn full_machine() -> SimBus {
    let bus = machine();
    bus.add(FAR, SimFunction::endpoint(0x10ec, 1).with_express(0));
    bus.add(LONE, SimFunction::virtual_function().with_express(0));
    bus.add(ELSEWHERE, SimFunction::virtual_function().with_express(0));
    let mut portal = SimFunction::bridge(0x1b36, 3, 7, 7);
    let at = portal.capability(0x15, 0x24);
    bus.add(PORTAL, portal.with_register(at + 0x1c, 4, 0, u32::MAX, 0));
    // All devices of the port are reached, and there are two virtual functions.
    let express = find(&bus, PORT, 0x10).unwrap();
    bus.write_u16(PORT, express + 0x28, 0x20).unwrap();
    let sriov = find(&bus, PF, 0x8010).unwrap();
    bus.write_u16(PF, sriov + 0x10, 2).unwrap();
    bus.write_u16(PF, sriov + 8, 9).unwrap();
    bus
}

/// Reads every byte once; those that did not need the hardware.
fn answered(cache: &Cached<'_, &SimBus>, bus: &SimBus, function: Sbdf, end: u16) -> ByteSet {
    // After a reset, which may take two reads, a first answer settles the function. Status is
    // never stored.
    for _ in 0..3 {
        cache.read_u16(function, 6).unwrap();
    }
    let mut answered = ByteSet::EMPTY;
    for offset in 0..end {
        let before = bus.reads();
        let at = Access::new(offset, Width::U8).unwrap();
        cache.read(function, at).unwrap();
        if bus.reads() == before {
            answered.insert(offset..offset + 1);
        }
    }
    answered
}

/// The bytes of `a` without those of `b`.
fn without(a: &ByteSet, b: &ByteSet) -> ByteSet {
    let mut rest = ByteSet::EMPTY;
    let left = a.ranges().flatten().filter(|offset| !b.contains(*offset));
    left.for_each(|offset| rest.insert(offset..offset + 1));
    rest
}

fn listed(bytes: &ByteSet) -> String {
    let mut text = String::new();
    for range in bytes.ranges() {
        let last = range.end - 1;
        match range.len() {
            1 => write!(text, " {last:x}").unwrap(),
            _ => write!(text, " {:x}-{last:x}", range.start).unwrap(),
        }
    }
    text
}

/// What never changes while the same device is there.
fn constants(bus: &SimBus, function: Sbdf) -> ByteSet {
    let mut source = |at: Access| Some(bus.peek(function, at));
    let inference = Inference::new(&mut source).unwrap();
    let mut constant = inference.constant;
    for bytes in kho_pcsc::table::fixed(inference.header_type, inference.has_bist) {
        constant.insert(bytes);
    }
    constant
}

/// What became of a function, in a word or as the bytes that the hardware is asked for again.
fn lost(cache: &Cached<'_, &SimBus>, bus: &SimBus, function: Sbdf, before: &ByteSet) -> String {
    if !cache.contains(function) {
        return " forgotten".into();
    }
    let after = answered(cache, bus, function, END);
    let lost = without(before, &after);
    assert_eq!(without(&after, before), ByteSet::EMPTY);
    if lost.count() == 0 {
        String::new()
    } else if after.count() == 0 {
        " everything".into()
    } else if lost == without(before, &constants(bus, function)) {
        " all but constants".into()
    } else {
        listed(&lost)
    }
}

/// Writes by name that are not in [`NAMED`]: registers without an effect elsewhere, a
/// vendor's, reserved ones, and numbers of far buses.
const MORE: &[(Sbdf, u16, u16, Width, &[u32])] = &[
    (PF, 0, 0x04, Width::U16, &[6]),
    (PF, 0, 0x06, Width::U16, &[0xffff]),
    (PF, 0, 0x3c, Width::U8, &[9]),
    (PF, 0x11, 2, Width::U16, &[0x8000]),
    (PF, 0x10, 0x10, Width::U16, &[0x40, 0x40, 0]),
    (PF, 0x8001, 8, Width::U32, &[1]),
    (PF, 0x8001, 0, Width::U32, &[1]),
    (PF, 0, 0xfc, Width::U32, &[1]),
    (PORT, 0x8001, 0x2c, Width::U32, &[7]),
    (PORT, 0x05, 2, Width::U16, &[0x10]),
    (PORT, 0, 0x3c, Width::U16, &[0x0105]),
    (OLD, 0, 0x0c, Width::U16, &[0x4010]),
    (PORT, 0, 0x20, Width::U32, &[0xfe10_fe00]),
    (PORT, 0, 0x18, Width::U32, &[0x0005_0500, 0x0003_0100]),
    (PORT, 0, 0xfc, Width::U32, &[1]),
    (PORTAL, 0x15, 0x1c, Width::U32, &[1]),
    (PORTAL, 0x15, 0x24, Width::U32, &[1]),
    (SIBLING, 0x09, 4, Width::U32, &[1]),
    (SWITCH, 0x10, 0x10, Width::U16, &[0x40]),
    (DEEP, 0x05, 2, Width::U16, &[1]),
    (OLD, 0, 0x04, Width::U32, &[0xffff_0007]),
];

/// One line for each function that the write concerns.
#[test]
fn a_write_takes_away_what_it_changes_and_no_more() {
    let mut text = String::new();
    for (function, capability, offset, width, values) in NAMED.iter().chain(MORE) {
        let bus = full_machine();
        let cache = Cached::new(&bus);
        for (_, function) in NAMES {
            cache.add(function).unwrap();
        }
        let start = find(&bus, *function, *capability).unwrap();
        for value in *values {
            let warm = NAMES.map(|(_, function)| {
                let is_there = cache.contains(function) || cache.add(function).is_ok();
                answered(&cache, &bus, function, END);
                is_there.then(|| answered(&cache, &bus, function, END))
            });
            let at = Access::new(start + offset, *width).unwrap();
            cache.write(*function, at, *value).unwrap();
            let width = width.bytes();
            let place = format!("{capability:x}+{offset:x}");
            writeln!(text, "{} {place} {width} {value:x}", name(*function)).unwrap();
            for ((name, function), before) in NAMES.into_iter().zip(warm) {
                let Some(before) = before else { continue };
                let lost = lost(&cache, &bus, function, &before);
                if !lost.is_empty() {
                    writeln!(text, "    {name}{lost}").unwrap();
                }
            }
            assert_eq!(cache.stats().hardware_reads, bus.reads());
        }
    }
    compare(&text, "extent.txt", include_str!("extent.txt"));
}

/// A write into what a capability has for certain is judged by the table; one byte further, the
/// register is not known and may do anything. Lengths: PCI Local Bus 3.0, 6.8.1 (MSI) and 6.8.2;
/// PCI Express Base 5.0, chapter 7, the figures of the capabilities.
#[test]
fn a_write_behind_what_a_capability_surely_has_may_do_anything() {
    use kho_pcsc::CapId::{Extended, Standard};
    // Capability, a register that says how long it is, its sure length.
    #[rustfmt::skip]
    let table = [
        (Standard(0x01), None, 8),
        (Standard(0x03), None, 8),
        (Standard(0x05), Some((2, 0x0000)), 0x0a),
        (Standard(0x05), Some((2, 0x0080)), 0x0e),
        (Standard(0x05), Some((2, 0x0100)), 0x14),
        (Standard(0x05), Some((2, 0x0180)), 0x18),
        (Standard(0x10), Some((2, 0x0001)), 0x14),
        (Standard(0x10), Some((2, 0x0002)), 0x3c),
        (Standard(0x11), None, 12),
        (Standard(0x13), None, 6),
        (Standard(0x14), None, 4),
        (Extended(0x0001), None, 0x48),
        (Extended(0x0005), None, 4),
        (Extended(0x000d), None, 8),
        (Extended(0x0010), None, 0x40),
        (Extended(0x0013), None, 16),
        (Extended(0x0015), Some((8, 1 << 5)), 12),
        (Extended(0x0015), Some((8, 3 << 5)), 28),
        (Extended(0x0015), Some((8, 6 << 5)), 52),
        (Extended(0x0017), None, 12),
        (Extended(0x001d), None, 12),
        (Extended(0x0024), Some((8, 2 << 5)), 20),
        // A vendor's, and one that is not known.
        (Standard(0x09), Some((2, 0x0020)), 0),
        (Extended(0x000b), Some((6, 0x0200)), 0),
        (Extended(0x0fff), None, 0),
    ];
    for (id, register, length) in table {
        let (mut function, start) = match id {
            Standard(id) => {
                let mut function = SimFunction::conventional(0x1af4, 2);
                let start = function.capability(id, 0x60);
                (function, start)
            }
            Extended(id) => {
                let mut function = SimFunction::endpoint(0x1af4, 2).with_express(0);
                let start = function.extended(id, 1, 0x60);
                (function, start)
            }
        };
        if let Some((at, value)) = register {
            function = function.with_register(start + at, 2, value, 0, 0);
        }
        let bus = SimBus::new();
        bus.add(FAR, function);
        let cache = Cached::new(&bus);
        for offset in 0..0x60 {
            cache.add(FAR).unwrap();
            cache.read_u32(FAR, 0x2c).unwrap();
            cache.write_u8(FAR, start + offset, 0).unwrap();
            let before = bus.reads();
            cache.read_u32(FAR, 0x2c).unwrap();
            let judged = bus.reads() == before;
            assert_eq!(judged, offset < length, "{id:x?} {register:x?} {offset:x}");
        }
    }
}

/// The same writes by a successor, before it adds what a predecessor saved: a function that the
/// write concerns is not taken over as it was saved.
#[test]
fn what_a_write_concerns_is_not_restored_after_it() {
    let mut text = String::new();
    for (function, capability, offset, width, values) in NAMED.iter().chain(MORE) {
        let bus = full_machine();
        let memory = memory();
        let saved = saved(&bus, &memory);
        let start = find(&bus, *function, *capability).unwrap();
        let others = pages(&memory, 0x90_0000);
        let cache = Cached::in_pages(&bus, &memory, &others, PageSize::Size4K).with_saved(saved);
        for first in [PORT, PORTAL, SWITCH, PF, *function] {
            if !cache.contains(first) {
                cache.add(first).unwrap();
            }
        }
        let at = Access::new(start + offset, *width).unwrap();
        cache.write(*function, at, values[0]).unwrap();
        let (width, value) = (width.bytes(), values[0]);
        let place = format!("{capability:x}+{offset:x}");
        writeln!(text, "{} {place} {width} {value:x}", name(*function)).unwrap();
        for (name, function) in NAMES {
            if ![PORT, PORTAL, SWITCH, PF].contains(&function) && !cache.contains(function) {
                match cache.add(function) {
                    Ok(kho_pcsc::Added::Restored) => {}
                    Ok(other) => writeln!(text, "    {name} {other:?}").unwrap(),
                    Err(error) => writeln!(text, "    {error}").unwrap(),
                }
            }
        }
    }
    compare(&text, "restored.txt", include_str!("restored.txt"));
}

fn memory() -> SimMemory {
    SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 16 << 20)).unwrap()
}

fn pages(memory: &SimMemory, from: u64) -> SimAlloc<&SimMemory> {
    let range = PhysRange::new(PhysAddr::new(from), 8 << 20).unwrap();
    SimAlloc::new(memory, PageSize::Size4K, [range])
}

/// What a predecessor saves of all functions.
fn saved(bus: &SimBus, memory: &SimMemory) -> Saved {
    let pages = pages(memory, 0x10_0000);
    let cache = Cached::in_pages(bus, memory, &pages, PageSize::Size4K);
    for (_, function) in NAMES {
        cache.add(function).unwrap();
        answered(&cache, bus, function, END);
    }
    let tracker = Tracker::new(memory, &pages, PageSize::Size4K, &[]).unwrap();
    let outgoing = Outgoing::new(tracker).unwrap();
    cache.save(&outgoing).unwrap();
    let range = outgoing.find("pcsc").unwrap();
    let mut blob = vec![0; range.size() as usize];
    memory.read(range.start(), &mut blob).unwrap();
    Saved::read(&blob, Variant::Extended, |_| true).unwrap()
}

/// What is answered at the second read, by what the owner says about unlisted bytes.
#[test]
fn what_is_answered_follows_from_the_capabilities_and_the_owners_word() {
    let mut text = String::new();
    for (name, function) in NAMES {
        for unlisted in [Unlisted::PassThrough, Unlisted::Constant, Unlisted::Absent] {
            let bus = full_machine();
            let cache = Cached::new(&bus);
            cache.add_with(function, unlisted).unwrap();
            let first = answered(&cache, &bus, function, 0x1000);
            let second = answered(&cache, &bus, function, 0x1000);
            assert_eq!(without(&first, &second), ByteSet::EMPTY);
            writeln!(text, "{name} {unlisted:?}").unwrap();
            writeln!(text, "    added   {}", listed(&first)).unwrap();
            writeln!(text, "    answered{}", listed(&second)).unwrap();
        }
    }
    compare(&text, "answered.txt", include_str!("answered.txt"));
}

/// Compares with the file; what was found is left beside the test program if it differs.
///
/// Lines of the file that begin with `#` are remarks.
fn compare(found: &str, file: &str, expected: &str) {
    let expected = expected.lines().filter(|line| !line.starts_with('#'));
    if !found.lines().eq(expected.clone()) {
        let path = format!("{}/{file}", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&path, found).unwrap();
        let mut lines = found.lines().zip(expected);
        let differ = lines.find(|(found, expected)| found != expected);
        panic!("{file} differs from {path}, first in {differ:?}");
    }
}

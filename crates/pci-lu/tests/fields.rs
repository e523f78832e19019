//! Where fields are that occur more than once, or only under a condition.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::{Access, Sbdf, Width};
use kho_pci_lu::{FieldError, Kind, for_each_field};

const HERE: Sbdf = Sbdf::from_bdf(0, 0x0018);

/// Dword from the capability's start, bits and index of every field of this name.
fn places(function: SimFunction, kind: Kind, name: &str) -> Vec<(u16, u32, u16)> {
    let bus = SimBus::new();
    bus.add(HERE, function);
    let mut found = Vec::new();
    for_each_field(&bus, HERE, kind, |field| {
        if field.row.field == name {
            found.push((field.dword - field.base, field.bits, field.index));
        }
    })
    .unwrap();
    found
}

/// An endpoint with an extended capability of `len` bytes that holds these registers, and another
/// one behind it.
fn with(id: u16, len: u16, registers: &[(u16, u32)]) -> SimFunction {
    let mut function = SimFunction::endpoint(0x8086, 2).with_express(0);
    let start = function.extended(id, 1, len);
    for (at, value) in registers {
        function = function.with_register(start + at, 4, *value, 0, 0);
    }
    function.with_serial(7)
}

/// One bit, in these dwords.
fn bit0(dwords: &[u16]) -> Vec<(u16, u32, u16)> {
    (0..)
        .zip(dwords)
        .map(|(index, dword)| (*dword, 1, index))
        .collect()
}

/// PCI Express Base 6.0, 7.9.26: blocks of the link streams, 8 bytes each, as many as traffic
/// classes; then the selective streams of 20 bytes, each with its blocks of addresses, 12 bytes
/// each. Bits 0 and 1 of the capability register say which there are.
#[test]
fn streams_are_where_those_before_them_end() {
    let capability = |links: u32, selectives: u32| {
        let has = u32::from(links > 0) | u32::from(selectives > 0) << 1;
        // Both counts are one less than there are, and there is no telling if there are any.
        has | links.saturating_sub(1) << 13 | selectives.saturating_sub(1) << 16
    };
    let link = |function| places(function, Kind::Endpoint, "Link IDE Stream: Enable");
    let selective = |function| places(function, Kind::Endpoint, "Selective IDE Stream: Enable");
    let ide = |len, links, selectives, registers: &[(u16, u32)]| {
        let mut all = vec![(4, capability(links, selectives))];
        all.extend(registers);
        with(0x30, len, &all)
    };
    let none = ide(0x80, 0, 0, &[]);
    assert_eq!(
        (link(none.clone()), selective(none)),
        (bit0(&[]), bit0(&[]))
    );
    // Counts that mean nothing.
    let none = with(0x30, 0x80, &[(4, 0x0002_4000)]);
    assert_eq!(
        (link(none.clone()), selective(none)),
        (bit0(&[]), bit0(&[]))
    );
    let links = ide(0x80, 3, 0, &[]);
    assert_eq!(link(links.clone()), bit0(&[0x0c, 0x14, 0x1c]));
    assert_eq!(selective(links), bit0(&[]));
    assert_eq!(link(ide(0x80, 8, 0, &[])).len(), 8);
    // One block of addresses in the first, none in the second, two in the third.
    let three = ide(0xc0, 0, 3, &[(0x0c, 1), (0x2c, 0), (0x40, 2)]);
    assert_eq!(link(three.clone()), bit0(&[]));
    assert_eq!(selective(three), bit0(&[0x10, 0x30, 0x44]));
    // The same behind two links; other bits of the registers do not matter.
    let both = || [(0x1c, 0xffff_fff1), (0x3c, 0xffff_fff0), (0x50, 2)];
    let both = |len| ide(len, 2, 3, &both());
    assert_eq!(link(both(0xc0)), bit0(&[0x0c, 0x14]));
    assert_eq!(selective(both(0xc0)), bit0(&[0x20, 0x40, 0x54]));
    // What would lie in the next capability is not there.
    assert_eq!(selective(both(0x58)), bit0(&[0x20, 0x40, 0x54]));
    assert_eq!(selective(both(0x54)), bit0(&[0x20, 0x40]));
    assert_eq!(link(ide(0x14, 2, 0, &[])), bit0(&[0x0c]));
}

/// PCI Express Base 5.0, 7.7.8.2 and 7.7.8.4: bit 5 says that there is a vector; it has a bit for each
/// port, 15:8, where 0 stands for 256.
#[test]
fn the_egress_vector_has_a_bit_for_each_port() {
    for (capability, dwords) in [
        (0x0000_0120, 1),
        (0x0000_2020, 1),
        (0x0000_2120, 2),
        (0x0000_ff20, 8),
        (0x0000_0020, 8),
        (0xffff_0120, 1),
        (0x0000_015f, 0),
        (0x0000_017f, 1),
    ] {
        let function = with(0x0d, 0x40, &[(4, capability)]);
        let found = places(function, Kind::Endpoint, "ACS Egress Control Vector");
        let expected: Vec<_> = (0..dwords).map(|n| (8 + 4 * n, u32::MAX, n)).collect();
        assert_eq!(found, expected, "{capability:x}");
    }
}

/// PCI Express Base 5.0, 7.8.6.3 (resizable BARs: bits 7:5 of the first control register), 7.9.1.2
/// (virtual channels: bits 2:0, besides the first) and 7.9.13.2 (steering tags: 26:16, one less,
/// two bytes each, here if 10:9 are 1).
#[test]
fn counted_fields_are_as_many_as_the_register_says() {
    let dwords = |id, registers: &[_], name| {
        let found = places(with(id, 0x80, registers), Kind::PeerEndpoint, name);
        let indices: Vec<_> = found.iter().map(|(.., index)| *index).collect();
        assert!(indices.into_iter().eq(0..found.len() as u16));
        found
            .into_iter()
            .map(|(dword, bits, _)| (dword, bits))
            .collect::<Vec<_>>()
    };
    let bars = |control| dwords(0x15, &[(8, control)], "BAR Size");
    assert_eq!(bars(0), []);
    assert_eq!(bars(0xffff_ff3f), [(8, 0x3f00)]);
    assert_eq!(bars(0x60), [(8, 0x3f00), (0x10, 0x3f00), (0x18, 0x3f00)]);
    let channels = |register| dwords(0x02, &[(4, register)], "VC Resource Control");
    assert_eq!(channels(0xffff_fff8), [(0x14, 0x870e_00ff)]);
    let two = [(0x14, 0x870e_00ff), (0x20, 0x870e_00ff)];
    assert_eq!(channels(1), two);
    let tags = |register| dwords(0x17, &[(4, register)], "TPH Steering Table");
    assert_eq!(tags(0), []);
    assert_eq!(tags(0x0001_0400), [], "in the MSI-X table");
    assert_eq!(tags(0x0000_0200), [(0x0c, 0xffff)]);
    let three = [(0x0c, 0xffff), (0x0c, 0xffff_0000), (0x10, 0xffff)];
    assert_eq!(tags(0x0002_0200), three);
}

/// PCI Express Base 5.0, 7.5.3.2: version and slot; 7.5.1.1.13: the pin is 0 without INTx.
#[test]
fn conditional_fields_are_there_if_the_condition_holds() {
    let express = |port: u8, flags: u32| {
        let function = match port {
            0 => SimFunction::endpoint(0x8086, 2),
            _ => SimFunction::bridge(0x1b36, 2, 1, 1),
        };
        function
            .with_express(port)
            .with_register(0x42, 2, flags, 0, 0)
    };
    let has = |function, kind, name| !places(function, kind, name).is_empty();
    let timeout = "Device Control 2: completion timeout";
    for (version, there) in [(1, false), (2, true), (3, true), (0xf, true)] {
        assert_eq!(has(express(0, version), Kind::Endpoint, timeout), there);
    }
    let slot = "Slot Control: power, interlock";
    assert!(has(express(4, 0x0142), Kind::Bridge, slot));
    assert!(!has(express(4, 0xfe42), Kind::Bridge, slot));
    for (pin, there) in [(0, false), (1, true), (4, true)] {
        let function = express(0, 2).with_register(0x3c, 4, 0xff | pin << 8, 0xff, 0);
        assert_eq!(
            has(function, Kind::Endpoint, "Command: INTx Disable"),
            there
        );
    }
}

/// PCI Express Base 5.0, 7.9.6: vendor in 15:0 behind the header, the vendor's number behind that.
#[test]
fn a_designated_capability_is_its_vendors() {
    for (id, vendor, number, there) in [
        (0x23, 0x1e98, 0, true),
        (0x23, 0xffff_1e98, 0xffff_0000, true),
        (0x23, 0x8086, 0, false),
        (0x23, 0x1e98, 3, false),
        (0x0b, 0x1e98, 0, false),
    ] {
        let function = with(id, 0x40, &[(4, vendor), (8, number)]);
        let found = places(function, Kind::Endpoint, "CXL Control: Cache, Mem");
        assert_eq!(!found.is_empty(), there, "{id:#x} {vendor:#x} {number:#x}");
    }
}

/// Of two lists that lead back into themselves, the one that is walked first is named; the second one
/// is PCI Express's.
#[test]
fn a_list_that_ends_badly_is_named() {
    let express = SimFunction::endpoint(0x8086, 2).with_express(0);
    let conventional = SimFunction::endpoint(0x8086, 2).with_pm(true);
    let pointers = [(0x41, Width::U8, 0x40), (0x100, Width::U32, 0x1001_0003)];
    for (function, loops, expected) in [
        (&express, &pointers[..1], Some(0x40)),
        (&express, &pointers[1..], Some(0x100)),
        (&express, &pointers[..], Some(0x40)),
        (&conventional, &pointers[..], Some(0x40)),
        (&conventional, &pointers[1..], None),
    ] {
        let bus = SimBus::new();
        bus.add(HERE, function.clone().with_serial(7));
        for &(offset, width, value) in loops {
            bus.poke(HERE, Access::new(offset, width).unwrap(), value);
        }
        let found = for_each_field(&bus, HERE, Kind::Endpoint, |_| {});
        let unreadable = |offset| FieldError::Unreadable {
            function: HERE,
            offset,
        };
        assert_eq!(found.err(), expected.map(unreadable), "{loops:x?}");
    }
}

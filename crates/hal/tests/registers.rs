//! The registers of simulated functions, each bit with what software can do to it.
//!
//! `registers.txt` is what a reader checks against the specification; the tables in it are found
//! by trying each bit, as software would.
#![cfg(not(loom))]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

use std::collections::BTreeMap;
use std::fmt::Write;

use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction, SriovShape};
use kho_hal::{Access, PciConfigAccess, Sbdf, Width};

const HERE: Sbdf = Sbdf::from_bdf(0, 0x0100);

fn dword(offset: u16) -> Access {
    Access::new(offset, Width::U32).unwrap()
}

/// All dwords there are.
fn dwords(function: &SimFunction) -> impl Iterator<Item = Access> {
    // Beyond its space a function answers with ones.
    let conventional = function.peek(dword(0x100)) == u32::MAX;
    let size = if conventional { 256 } else { 4096 };
    (0..size).step_by(4).map(dword)
}

/// What the dword holds after the device put `before` there and software writes `value`.
fn written(function: &SimFunction, at: Access, before: u32, value: u32) -> u32 {
    let mut function = function.clone();
    function.poke(at, before);
    let bus = SimBus::new();
    bus.add(HERE, function);
    bus.write(HERE, at, value).unwrap();
    bus.peek(HERE, at)
}

/// The table of a function: offset; value; bits that software can set and clear; that it clears by
/// writing one; that are zero after any write; that survive a function-level reset.
fn table(function: &SimFunction) -> String {
    let mut after = function.clone();
    for at in dwords(function) {
        after.poke(at, !function.peek(at));
    }
    let mut cold = after.clone();
    after.reset(ResetKind::Function);
    cold.reset(ResetKind::Cold);
    let mut table = String::new();
    for at in dwords(function) {
        let value = function.peek(at);
        assert_eq!(cold.peek(at), value, "{at:?} after a cold reset");
        let kept = !(after.peek(at) ^ !value);
        let (mut writable, mut clears, mut acts) = (0, 0, 0);
        // Most of the space does nothing at all.
        let inert = written(function, at, 0, u32::MAX) == 0
            && written(function, at, u32::MAX, u32::MAX) == u32::MAX;
        for bit in (0..32).map(|n| 1 << n).filter(|_| !inert) {
            let (without, with) = (value & !bit, value | bit);
            let sets = written(function, at, without, with) & bit != 0;
            let zero_clears = written(function, at, with, without) & bit == 0;
            let one_clears = written(function, at, with, with) & bit == 0;
            match (sets, zero_clears, one_clears) {
                (true, true, false) => writable |= bit,
                (false, false, true) => clears |= bit,
                (false, true, true) => acts |= bit,
                // What the device itself keeps up to date is set again whatever is written.
                (false, false, false) | (true, false, false) => {}
                other => panic!("{at:?}, {bit:#x}: {other:?}"),
            }
        }
        if [value, writable, clears, acts, kept] != [0; 5] {
            write!(table, "{:03x}", at.offset()).unwrap();
            for bits in [value, writable, clears, acts, kept] {
                match bits {
                    0 => table += "         -",
                    bits => write!(table, " {:04x}_{:04x}", bits >> 16, bits & 0xffff).unwrap(),
                }
            }
            table.push('\n');
        }
    }
    table
}

/// A network controller with virtual functions.
fn endpoint() -> SimFunction {
    let shape = SriovShape {
        total: 7,
        offset: [0x80, 1],
        stride: [2, 1],
        device: 0x10ca,
        template: SimFunction::virtual_function(),
    };
    SimFunction::endpoint(0x8086, 0x10c9)
        .with_class(0x0200_0013)
        .multifunction()
        .with_bist()
        .with_bar32(0, 17)
        .with_bar64(2, 34)
        .with_bar64(4, 14)
        .with_rom(20)
        .with_pm(true)
        .with_vpd()
        .with_msi(true, true, 5)
        .with_msix(10, 4)
        .with_express(0)
        .with_vendor(9)
        .with_aer()
        .with_acs(0x1fe5)
        .with_ari(3)
        .with_serial(0x0123_4567_89ab_cdef)
        .with_ats()
        .with_pri()
        .with_pasid()
        .with_ptm()
        .with_resizable_bar(2, true, 0x01f0)
        .with_resizable_bar(0, false, 0x000f)
        .with_sriov(shape)
        .with_vf_resizable_bar(0x0007)
}

/// What conventional PCI has in place of PCI Express, and the smaller shapes of MSI.
fn conventional() -> SimFunction {
    SimFunction::conventional(0x1af4, 0x1000)
        .with_bar32(5, 4)
        .with_pm(false)
        .with_msi(false, false, 0)
        .with_msi(true, false, 1)
        .with_msi(false, true, 2)
        .with_af()
        .with_vendor(3)
        .with_register(0xe0, 4, 0x1234_5678, 0x00ff_0000, 0xff00_0000)
        .with_backdoor(0xe4, 0x2c)
}

fn root_port() -> SimFunction {
    SimFunction::bridge(0x1b36, 0x000c, 2, 5)
        .with_rom(11)
        .with_express(4)
        .with_ari_forwarding()
        .with_aer()
        .with_acs(0x5f)
        .with_dpc(true)
}

fn downstream_port() -> SimFunction {
    SimFunction::bridge(0x104c, 0x8233, 3, 3)
        .with_express(6)
        .with_dpc(false)
}

fn functions() -> BTreeMap<&'static str, SimFunction> {
    let upstream = SimFunction::bridge(0x104c, 0x8232, 2, 4).with_express(5);
    let captured = |header: u8| {
        let mut bytes = [0; 4096];
        bytes[..4].copy_from_slice(&[0x86, 0x80, 0x34, 0x12]);
        bytes[0x0e] = header;
        SimFunction::from_bytes(&bytes)
    };
    BTreeMap::from([
        ("endpoint", endpoint()),
        ("conventional", conventional()),
        (
            "virtual function",
            SimFunction::virtual_function().with_express(0),
        ),
        ("root port", root_port()),
        ("upstream port", upstream),
        ("downstream port", downstream_port()),
        ("endpoint from bytes", captured(0x80)),
        ("bridge from bytes", captured(0x01)),
    ])
}

/// The golden text by function: names of registers, which follow two spaces, apart.
fn golden() -> BTreeMap<&'static str, String> {
    let text = include_str!("registers.txt");
    let sections = text.split("\n[").skip(1).map(|section| {
        let (name, lines) = section.split_once("]\n").unwrap();
        let lines = lines
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let columns = lines.map(|line| line.get(..53).unwrap_or(line).trim_end().to_owned() + "\n");
        (name, columns.collect())
    });
    sections.collect()
}

#[test]
fn every_register_is_as_the_specification_says() {
    let golden = golden();
    let functions = functions();
    assert!(golden.keys().eq(functions.keys()), "{:?}", functions.keys());
    for (name, function) in functions {
        let table = table(&function);
        assert_eq!(table, golden[name], "{name} has these:\n{table}");
    }
}

/// Sizes, indices and counts outside their range are taken to the nearest in it.
#[test]
fn parts_are_clamped_to_what_registers_can_say() {
    let same = |out: SimFunction, inside: SimFunction| assert_eq!(table(&out), table(&inside));
    let new = || SimFunction::endpoint(1, 2);
    same(new().with_bar32(9, 2), new().with_bar32(5, 4));
    same(new().with_bar32(0, 40), new().with_bar32(0, 31));
    same(new().with_bar64(4, 0), new().with_bar64(4, 4));
    same(new().with_bar64(0, 64), new().with_bar64(0, 63));
    same(new().with_rom(0), new().with_rom(11));
    same(new().with_rom(30), new().with_rom(24));
    same(
        new().with_msi(true, false, 7),
        new().with_msi(true, false, 5),
    );
    same(new().with_msix(0, 8), new().with_msix(1, 0));
    same(new().with_msix(u16::MAX, 15), new().with_msix(2048, 7));
    same(new().with_express(0x14), new().with_express(4));
    same(
        new().with_resizable_bar(0x20, false, 1),
        new().with_resizable_bar(5, false, 1),
    );
    let wide = new().with_bar64(0, 36);
    assert_eq!(written(&wide, dword(0x10), 0x0c, u32::MAX), 0x0000_000c);
    assert_eq!(written(&wide, dword(0x14), 0, u32::MAX), 0xffff_fff0);
    assert_eq!(new().with_msix(2048, 7).peek(dword(0x40)) >> 16, 0x7ff);
    let mut versions = new();
    assert_eq!(versions.extended(0x18, 0x12, 8), 0x100);
    assert_eq!(versions.peek(dword(0x100)), 0x0002_0018);
}

#[test]
fn a_multifunction_device_stays_one() {
    let once = || SimFunction::endpoint(1, 2).multifunction();
    assert_eq!(table(&once().multifunction()), table(&once()));
}

/// PCI Express Base, 7.5.3.3: endpoints of each kind have function-level reset, others have not.
#[test]
fn endpoints_alone_have_function_level_reset() {
    for port_type in 0..16 {
        let function = SimFunction::endpoint(1, 2).with_express(port_type);
        let endpoint = [0, 1, 9].contains(&port_type);
        assert_eq!(
            function.peek(dword(0x44)) & 1 << 28 != 0,
            endpoint,
            "{port_type}"
        );
        let slot = [4, 6].contains(&port_type);
        assert_eq!(
            function.peek(dword(0x40)) >> 24 & 1 == 1,
            slot,
            "{port_type}"
        );
    }
}

#[test]
fn capabilities_follow_one_another_until_the_space_is_full() {
    let mut function = SimFunction::endpoint(1, 2);
    assert_eq!(function.capability(9, 0xc1), 0);
    assert_eq!(function.capability(9, 0), 0x40, "four bytes at least");
    assert_eq!(function.capability(9, 5), 0x44);
    assert_eq!(function.capability(9, 0xb5), 0);
    assert_eq!(function.capability(9, 0xb4), 0x4c, "to the last byte");
    assert_eq!(function.capability(9, 1), 0);
    assert_eq!(function.extended(0xb, 1, 0xf01), 0);
    assert_eq!(function.extended(0xb, 1, 0), 0x100);
    assert_eq!(function.extended(0xb, 1, 6), 0x104);
    assert_eq!(function.extended(0xb, 1, 0xef4), 0x10c, "to the last byte");
    assert_eq!(function.extended(0xb, 1, 4), 0);
    assert_eq!(SimFunction::conventional(1, 2).extended(0xb, 1, 4), 0);
}

/// Not even a register of the header changes.
#[test]
fn a_full_function_is_left_as_it_is() {
    let mut full = SimFunction::endpoint(1, 2);
    assert_eq!(full.capability(9, 0xc0), 0x40);
    assert_eq!(full.extended(0xb, 1, 0xf00), 0x100);
    let shape = SriovShape {
        total: 1,
        offset: [1, 1],
        stride: [1, 1],
        device: 3,
        template: SimFunction::virtual_function(),
    };
    let parts: [fn(SimFunction) -> SimFunction; 20] = [
        |f| f.with_pm(false),
        SimFunction::with_vpd,
        |f| f.with_msi(true, true, 5),
        |f| f.with_msix(5, 1),
        |f| f.with_vendor(8),
        SimFunction::with_af,
        |f| f.with_express(0),
        |f| f.with_express(4),
        SimFunction::with_aer,
        |f| f.with_acs(0xff),
        |f| f.with_ari(1),
        |f| f.with_serial(u64::MAX),
        SimFunction::with_ats,
        SimFunction::with_pri,
        SimFunction::with_pasid,
        |f| f.with_dpc(true),
        SimFunction::with_ptm,
        |f| f.with_resizable_bar(0, true, 1),
        |f| f.with_vf_resizable_bar(1),
        SimFunction::with_bist,
    ];
    let before = table(&full);
    let (bist, parts) = parts.split_last().unwrap();
    for (i, part) in parts.iter().enumerate() {
        assert_eq!(table(&part(full.clone())), before, "part {i}");
    }
    assert_eq!(table(&full.clone().with_sriov(shape)), before);
    assert_ne!(table(&bist(full)), before, "which needs no capability");
}

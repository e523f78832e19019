//! Descriptions that are wrong in ways that no writer of ours is.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use common::{FREE, Sim, addr, order, pages};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_core::BootData;
use kho_core::incoming::{Fault, Folio, Incoming, IncomingError, Machine, Part};
use kho_core::outgoing::{Outgoing, StateTree};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{PageSize, PhysMem};

const PAGE: PageSize = PageSize::Size4K;

fn handover(generation: Generation, folios: &[(u64, u32)]) -> (Sim, BootData) {
    let sim = Sim::new(PAGE);
    let boot = {
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        for &(at, o) in folios {
            tracker.preserve_folio(addr(at), order(o)).unwrap();
        }
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let array = sim.scratch_array();
        outgoing
            .finalize_as(generation, array, &mut [], &StateTree::new())
            .unwrap()
            .hand_over()
    };
    (sim, boot)
}

/// As [`handover`] in the oldest mainline generation, with memory for more bitmaps.
fn large_handover(folios: &[(u64, u32)]) -> (Sim, BootData) {
    let heap = pages(PAGE, 1 << 26, 1 << 11);
    let sim = Sim {
        memory: SimMemory::new([pages(PAGE, 0, FREE), heap]).unwrap(),
        ..Sim::new(PAGE)
    };
    let boot = {
        let alloc = SimAlloc::new(&sim.memory, PAGE, [heap]);
        let tracker = sim.tracker(&alloc);
        for &(at, o) in folios {
            tracker.preserve_folio(addr(at), order(o)).unwrap();
        }
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let (array, state) = (sim.scratch_array(), StateTree::new());
        let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        ready.unwrap().hand_over()
    };
    (sim, boot)
}

fn check(sim: &mut Sim, boot: BootData) -> Result<Vec<Folio>, IncomingError> {
    let frozen = sim.memory.freeze();
    let machine = Machine {
        v1_bitmaps: Some(V1Bitmaps::Small),
        ..Machine::unknown(PAGE)
    };
    let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 64])?;
    Ok(incoming.folios().collect())
}

fn write(sim: &Sim, at: u64, word: u64) {
    sim.memory.write(addr(at), &word.to_le_bytes()).unwrap();
}

/// The value of `preserved-memory-map`: the description starts with it, after `compatible`.
fn map(sim: &Sim, boot: BootData) -> u64 {
    let mut map = [0; 8];
    sim.memory
        .read(addr(boot.fdt_addr.as_u64() + 0x60), &mut map)
        .unwrap();
    u64::from_le_bytes(map)
}

/// Keys 0 and 1 name no folio, but have bits in the leaf of the largest orders.
#[test]
fn bits_that_stand_for_no_folio() {
    for key in [0, 1] {
        // A folio of an order so large that its key is in that leaf.
        let (mut sim, boot) = handover(Generation::V4, &[(1 << 51, 39)]);
        assert!(check(&mut sim, boot).is_ok());
        let mut node = map(&sim, boot);
        for _ in 0..5 {
            node = sim.memory.word(addr(node)).unwrap();
        }
        let word = sim.memory.word(addr(node)).unwrap();
        write(&sim, node, word | 1 << key);
        let error = check(&mut sim, boot).unwrap_err();
        assert_eq!(
            (error.part, error.fault),
            (
                Part::Map,
                Fault::NotAFolio {
                    at: addr(map(&sim, boot))
                }
            )
        );
    }
}

/// The two largest folios, which are all of the address space: a range of that size is none.
#[test]
fn folios_that_are_the_address_space() {
    let (mut sim, boot) = handover(Generation::V4, &[(1 << 51, 39)]);
    let mut node = map(&sim, boot);
    for _ in 0..5 {
        node = sim.memory.word(addr(node)).unwrap();
    }
    let word = sim.memory.word(addr(node)).unwrap();
    write(&sim, node, word | 0b1100);
    let (part, fault) = (
        Part::Map,
        Fault::NotRam {
            addr: addr(0),
            size: u64::MAX,
        },
    );
    assert_eq!(check(&mut sim, boot), Err(IncomingError { part, fault }));
}

/// Of two properties with one name, readers would take either.
#[test]
fn properties_of_one_name() {
    let (mut sim, boot) = handover(Generation::Sketch, &[(FREE << 12, 0)]);
    assert!(check(&mut sim, boot).is_ok());
    // The sketch has two widths that nobody needs; the second gets the name of the first.
    let mut name = [0; 4];
    sim.memory
        .read(addr(boot.fdt_addr.as_u64() + 0x64), &mut name)
        .unwrap();
    sim.memory
        .write(addr(boot.fdt_addr.as_u64() + 0x78), &name)
        .unwrap();
    let error = check(&mut sim, boot).unwrap_err();
    let fault = Fault::Duplicate { at: boot.fdt_addr };
    assert_eq!((error.part, error.fault), (Part::RootFdt, fault));
}

/// From v1 on the description's own page is preserved, unless nothing at all is.
#[test]
fn a_description_that_would_be_overwritten() {
    let (mut sim, boot) = handover(Generation::V1Small, &[(FREE << 12, 0)]);
    let head = map(&sim, boot);
    let bitmap = sim.memory.word(addr(head + 24)).unwrap();
    let page = boot.fdt_addr.as_u64() >> 12;
    let at = bitmap + page / 64 * 8;
    let word = sim.memory.word(addr(at)).unwrap();
    write(&sim, at, word & !(1 << (page % 64)));
    let error = check(&mut sim, boot).unwrap_err();
    assert!(matches!(error.fault, Fault::NotPreserved { .. }), "{error}");
    assert_eq!(error.part, Part::RootFdt);
    let mut none = [0; 8];
    none.copy_from_slice(&0u64.to_le_bytes());
    sim.memory
        .write(addr(boot.fdt_addr.as_u64() + 0x60), &none)
        .unwrap();
    assert_eq!(
        check(&mut sim, boot),
        Ok(vec![]),
        "an empty list, as Linux 6.16 may write"
    );
}

/// Entries in any sequence are read in address order; two of one start are refused.
#[test]
fn lists_in_any_sequence() {
    // 200 bitmaps of 4096 pages, in one chunk.
    let folios: Vec<_> = (0..200)
        .map(|i| ((FREE + (i << 12) + i % 7) << 12, 0))
        .collect();
    let (mut sim, boot) = handover(Generation::V1Small, &folios);
    let expected = check(&mut sim, boot).unwrap();
    assert_eq!(expected.len(), 201);
    let head = map(&sim, boot);
    let entry = |sim: &Sim, i: u64| {
        let at = head + 16 + i * 16;
        (
            sim.memory.word(addr(at)).unwrap(),
            sim.memory.word(addr(at + 8)).unwrap(),
        )
    };
    let put = |sim: &Sim, i: u64, (start, bitmap): (u64, u64)| {
        write(sim, head + 16 + i * 16, start);
        write(sim, head + 24 + i * 16, bitmap);
    };
    let entries: Vec<_> = (0..200).map(|i| entry(&sim, i)).collect();
    for i in 0..200 {
        put(&sim, i, entries[(i as usize * 77 + 5) % 200]);
    }
    assert_eq!(check(&mut sim, boot), Ok(expected));
    let (start, _) = entry(&sim, 3);
    let (_, bitmap) = entry(&sim, 9);
    put(&sim, 9, (start, bitmap));
    let error = check(&mut sim, boot).unwrap_err();
    assert!(matches!(error.fault, Fault::Overlap { .. }), "{error}");
}

/// In a list that does not ascend, each bitmap costs a look at all.
#[test]
fn long_lists_in_another_sequence() {
    for (extra, is_read) in [(0, true), (200, false)] {
        let folios: Vec<_> = (0..3900 + extra)
            .map(|i| ((FREE + (i << 12)) << 12, 0))
            .collect();
        let (mut sim, boot) = large_handover(&folios);
        let head = map(&sim, boot);
        let word = |at: u64| sim.memory.word(addr(at)).unwrap();
        let (first, second) = ([16, 24], [32, 40]);
        let entries = [first, second].map(|entry| entry.map(|at| word(head + at)));
        for (at, number) in [second, first]
            .as_flattened()
            .iter()
            .zip(entries.as_flattened())
        {
            write(&sim, head + at, *number);
        }
        match check(&mut sim, boot) {
            Ok(found) => assert!(is_read && found.len() > folios.len()),
            Err(error) => {
                assert!(!is_read, "{error}");
                assert!(matches!(error.fault, Fault::Unsorted { .. }), "{error}");
            }
        }
    }
}

/// Linux before 7.1-rc6 made trees of four levels for 16 KiB pages. Ours has five; the one below
/// its root is such a tree. Whatever the folios, it is refused, and by name where that shows.
#[test]
fn trees_that_lack_a_level() {
    let page = PageSize::Size16K;
    for (folios, slot) in [
        (&[(0x1_4000_0000u64, 0u32)][..], 1),
        (&[(0x1_4020_0000, 7)], 0),
    ] {
        let mut sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            for &(at, o) in folios {
                tracker.preserve_folio(addr(at), order(o)).unwrap();
            }
            let mut outgoing = Outgoing::new(tracker).unwrap();
            outgoing
                .finalize(sim.scratch_array(), &mut [])
                .unwrap()
                .hand_over()
        };
        let root = map(&sim, boot);
        let short = sim.memory.word(addr(root + slot * 8)).unwrap();
        assert_ne!(short, 0);
        write(&sim, boot.fdt_addr.as_u64() + 0x60, short);
        let frozen = sim.memory.freeze();
        let check = Incoming::check(&frozen, boot, Machine::unknown(page), &mut [0; 64]);
        let error = check.map(drop).unwrap_err();
        assert_eq!(
            (error.part, error.fault),
            (Part::Map, Fault::ShortTree { at: addr(short) })
        );
        // With a leaf that is nowhere, it makes no sense as a tree of four levels either.
        let mut node = short;
        for level in (1..4).rev() {
            let entries = (0..2048).map(|i| node + i * 8);
            let mut used = entries.filter(|&at| sim.memory.word(addr(at)).unwrap() != 0);
            let entry = used.next().unwrap();
            node = sim.memory.word(addr(entry)).unwrap();
            if level == 1 {
                write(&sim, entry, node + 8);
            }
        }
        let frozen = sim.memory.freeze();
        let check = Incoming::check(&frozen, boot, Machine::unknown(page), &mut [0; 64]);
        let error = check.map(drop).unwrap_err();
        assert_eq!(error.part, Part::Map);
        assert!(!matches!(error.fault, Fault::ShortTree { .. }), "{error}");
    }
}

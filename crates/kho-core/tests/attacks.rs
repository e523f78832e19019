//! What a predecessor could do to its successor: each attack is refused, by name.
//!
//! Every attack is one change to a handover that has everything in it. Memory is lent by a backend
//! that fails the test when a register is read, or when reading does not end. The table in
//! `docs/security.md` names these tests.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use common::{HEAP, Sim, addr, order, pages, range};
use kho_abi::fdt::Generation;
use kho_core::Tracker;
use kho_core::incoming::{Fault, Incoming, IncomingError, Machine, Part};
use kho_core::outgoing::{Outgoing, StateTree};
use kho_hal::sim::SimMemory;
use kho_hal::{FrozenMem, MemError, Order, PageSize, PhysAddr, PhysMem, PhysRange};
use victim::{MMIO, Victim, listed, spare, victim};
use vm_fdt::FdtWriter;

const PAGE: u64 = 4096;

#[test]
fn without_an_attack_all_is_accepted() {
    victim().take_over().unwrap();
    for generation in LISTS {
        listed(generation).take_over().unwrap();
    }
}

const LISTS: [Generation; 4] = [
    Generation::Sketch,
    Generation::SeriesV5,
    Generation::V1Small,
    Generation::V1Page,
];

fn refusal(victim: &Victim) -> IncomingError {
    victim.take_over().unwrap_err()
}

/// One test for each attack on a handover of the newest generation: what is done, and how it is
/// refused.
macro_rules! attacks {
    ($($(#[$doc:meta])* $name:ident: $attack:expr => $part:pat, $fault:pat,)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let mut victim = victim();
            let attack: fn(&mut Victim) = $attack;
            attack(&mut victim);
            let IncomingError { part, fault } = refusal(&victim);
            assert!(matches!((part, &fault), ($part, $fault)), "{part}: {fault}");
        }
    )*};
}

/// The same with a list of chunks, in each generation that has one.
macro_rules! list_attacks {
    ($($(#[$doc:meta])* $name:ident: $attack:expr => $fault:pat,)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            for generation in LISTS {
                let mut victim = listed(generation);
                let attack: fn(&mut Victim) = $attack;
                attack(&mut victim);
                let IncomingError { part, fault } = refusal(&victim);
                assert_eq!(part, Part::Map, "{generation:?}: {fault}");
                assert!(matches!(&fault, $fault), "{generation:?}: {fault}");
            }
        }
    )*};
}

/// Offsets of fields.
const SESSION: u64 = 16;
const SESSION_FILES: u64 = SESSION + 64;
const SESSION_COUNT: u64 = SESSION + 72;
const FILE_DATA: u64 = 16 + 48;
const FILE_TOKEN: u64 = 16 + 56;
const FILE_LEN: u64 = 64;
const MEMFD_SIZE: u64 = 8;
const MEMFD_COUNT: u64 = 24;
const MEMFD_LIST: u64 = 32;
const MEMFD_PAGES: u64 = 40;
const MEMFD_ORDER: u64 = 46;

// Cycles, and one thing reached twice.
attacks! {
    tree_root_links_itself: |v| v.put(v.path()[0].1, v.at.map)
        => Part::Map, Fault::ReachedTwice { .. } | Fault::Overlap { .. },
    tree_table_links_itself: |v| {
        for (table, entry) in v.path().into_iter().skip(1) {
            let was = v.word(entry);
            v.put(entry, table);
            refusal(v);
            v.put(entry, was);
        }
        let (table, entry) = v.path()[2];
        v.put(entry, table);
    } => Part::Map, Fault::ReachedTwice { .. } | Fault::Overlap { .. },
    tree_table_links_the_root: |v| v.put(v.path()[3].1, v.at.map)
        => Part::Map, Fault::ReachedTwice { .. } | Fault::Overlap { .. },
    tree_leaf_with_two_parents: |v| v.put(v.path()[4].1 + 8, v.leaf())
        => Part::Map, Fault::ReachedTwice { .. },
    tree_table_with_two_parents: |v| v.put(v.path()[2].1 + 8, v.path()[3].0)
        => Part::Map, Fault::ReachedTwice { .. },
    /// A tree whose tables are all one would have 512^5 paths.
    tree_that_multiplies: |v| {
        let path = v.path();
        for (table, child) in path[1..].iter().map(|p| p.0).zip(path[2..].iter().map(|p| p.0)) {
            for i in 0..512 {
                v.put(table + i * 8, child);
            }
        }
    } => Part::Map, Fault::ReachedTwice { .. },
    area_list_links_itself: |v| {
        let first = v.at.area.first.get();
        v.put(first, first);
    } => Part::Subtree, Fault::Overlap { .. },
    area_list_is_a_cycle: |v| {
        let first = v.at.area.first.get();
        v.put(v.word(first), first);
    } => Part::Subtree, Fault::Null { .. },
    area_with_a_page_twice: |v| {
        let first = v.at.area.first.get();
        v.put(first + 16, v.word(first + 8));
    } => Part::Subtree, Fault::Overlap { .. },
    area_that_holds_its_own_list: |v| {
        let first = v.at.area.first.get();
        v.put(first + 16, first);
    } => Part::Subtree, Fault::Overlap { .. },
    memory_file_whose_list_links_itself: |v| v.put(v.at.list, v.at.list)
        => Part::Memfd, Fault::Null { .. },
    memory_file_with_a_folio_twice: |v| v.put(v.at.folios + 32, v.word(v.at.folios))
        => Part::Memfd, Fault::Overlap { .. },
    memory_file_whose_list_is_itself: |v| v.put(v.at.memfd + MEMFD_LIST, v.at.memfd)
        => Part::Memfd, Fault::Overlap { .. },
    session_blocks_link_themselves: |v| v.put(v.at.sessions, v.at.sessions)
        => Part::Luo, Fault::Overlap { .. },
    file_blocks_link_themselves: |v| v.put(v.at.files, v.at.files)
        => Part::Luo, Fault::Overlap { .. },
    file_blocks_lead_back_to_the_sessions: |v| v.put(v.at.files, v.at.sessions)
        => Part::Luo, Fault::Overlap { .. },
    blocks_are_a_cycle: |v| v.put(v.word(v.at.blocks), v.at.blocks)
        => Part::Subtree, Fault::Overlap { .. },
    two_sessions_with_the_same_files: |v| v.put(v.at.sessions + SESSION_FILES + 80, v.at.files)
        => Part::Luo, Fault::Overlap { .. },
    two_files_with_the_same_memory: |v| {
        let mut entry = [0; FILE_LEN as usize];
        v.sim.memory.read(addr(v.at.files + 16), &mut entry).unwrap();
        v.put_bytes(v.at.other_files + 16, &entry);
    } => Part::Memfd, Fault::Overlap { .. },
    blocks_that_are_another_users: |v| v.at.blocks = v.at.files
        => Part::Subtree, Fault::Overlap { .. },
    sub_blobs_at_one_place: |v| v.put(v.in_root(v.at.note), v.at.luo)
        => Part::Subtree, Fault::Overlap { .. },
    sub_blob_that_is_the_description: |v| v.put(v.in_root(v.at.note), v.at.boot.fdt_addr.as_u64())
        => Part::Subtree, Fault::Overlap { .. },
}

list_attacks! {
    chunk_links_itself: |v| v.put(v.at.map + v.next_offset(), v.at.map)
        => Fault::ReachedTwice { .. },
    chunks_are_a_cycle: |v| {
        let chunks = v.chunks();
        v.put(chunks.last().unwrap() + v.next_offset(), chunks[1]);
    } => Fault::ReachedTwice { .. },
    bitmap_with_two_parents: |v| {
        let chunks = v.chunks();
        v.put(chunks[1] + 24, v.word(chunks[0] + 24));
    } => Fault::ReachedTwice { .. },
    bitmap_that_is_its_chunk: |v| v.put(v.at.map + 24, v.at.map)
        => Fault::ReachedTwice { .. },
    bitmap_in_its_chunk: |v| v.put(v.at.map + 24, v.at.map + PAGE / 2)
        => Fault::ReachedTwice { .. } | Fault::Misaligned { .. } | Fault::NotPageBitmaps { .. },
    two_bitmaps_for_one_place: |v| {
        v.put_bytes(v.at.map + 12 - v.next_offset(), &2u32.to_le_bytes());
        v.put(v.at.map + 32, v.word(v.at.map + 16));
        v.put(v.at.map + 40, spare(v, 0, false));
    } => Fault::Overlap { .. } | Fault::Unsorted { .. },
}

/// Every address that a handover holds, by name. Where a 0 is legal, it ends a list.
fn pointers(v: &Victim) -> Vec<(&'static str, u64)> {
    let at = &v.at;
    let path = v.path();
    let first = at.area.first.get();
    vec![
        ("map", v.in_root(at.map)),
        ("table in the root of the tree", path[0].1),
        ("table", path[2].1),
        ("leaf", path[4].1),
        ("sub-blob", v.in_root(at.note)),
        ("sub-blob with sessions", v.in_root(at.luo)),
        ("sub-blob with regions", v.in_root(at.memblock)),
        ("sub-blob with metadata", v.in_root(at.metadata)),
        (
            "region",
            v.find(at.memblock, &(victim::REGION.0 << 12).to_le_bytes()),
        ),
        ("sessions", at.luo + 16),
        ("objects", at.luo + 24),
        ("next block of sessions", at.sessions),
        ("files", at.sessions + SESSION_FILES),
        ("next block of files", at.files),
        ("memory file", at.files + FILE_DATA),
        ("list of folios", at.memfd + MEMFD_LIST),
        ("next page of the list", at.list),
        ("page of the array of folios", at.list + 8),
        ("next page of an area's list", first),
        ("page of an area", first + 8),
        ("next block", at.blocks),
    ]
}

/// Puts `target` in the place of every address; all are refused.
fn every_pointer_to(target: impl Fn(&Victim, u64) -> u64) {
    let names: Vec<_> = pointers(&victim())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (i, name) in names.into_iter().enumerate() {
        let v = victim();
        let place = pointers(&v)[i].1;
        v.put(place, target(&v, v.word(place)));
        assert!(v.take_over().is_err(), "{name} was accepted");
    }
    for generation in LISTS {
        for place in ["next chunk", "bitmap", "map"] {
            let v = listed(generation);
            let at = match place {
                "map" => v.in_root(v.at.map),
                "bitmap" => v.at.map + 24,
                _ => v.at.map + v.next_offset(),
            };
            v.put(at, target(&v, v.word(at)));
            assert!(
                v.take_over().is_err(),
                "{place} of {generation:?} was accepted"
            );
        }
    }
}

/// Puts `target` in the place of both addresses of the boot data; both are refused.
fn boot_data_to(target: u64) {
    for place in 0..2 {
        let mut v = victim();
        let boot = &mut v.at.boot;
        match place {
            0 => boot.fdt_addr = addr(target),
            _ => boot.scratch_addr = addr(target),
        }
        assert!(v.take_over().is_err(), "{target:#x} was accepted");
    }
}

#[test]
fn pointers_to_registers() {
    every_pointer_to(|_, _| MMIO.0 << 12);
    boot_data_to(MMIO.0 << 12);
}

/// A page of the heap that nothing uses, and neither the page behind it.
const LAST: u64 = HEAP.0 + HEAP.1 - 2;

/// A handover with a tree as its only sub-blob, whose size the description does not say, and where
/// that is; [`LAST`] is preserved.
fn blob_without_a_size(generation: Generation) -> (Victim, u64) {
    let sim = victim::machine();
    let tree = {
        let mut fdt = FdtWriter::new().unwrap();
        let node = fdt.begin_node("").unwrap();
        fdt.end_node(node).unwrap();
        fdt.finish().unwrap()
    };
    let (boot, blob) = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let blob = outgoing.add_blob("tree", &tree).unwrap();
        let spare = pages(sim.page, LAST, 1).start();
        outgoing
            .tracker()
            .preserve_folio(spare, Order::ZERO)
            .unwrap();
        let state = StateTree::new();
        let ready = outgoing.finalize_as(generation, sim.scratch_array(), &mut [], &state);
        (ready.unwrap().hand_over(), blob.start().as_u64())
    };
    let mut v = listed(generation);
    v.sim.memory = sim.memory;
    v.at.boot = boot;
    v.take_over().unwrap();
    (v, blob)
}

/// Where the description does not say how long a sub-blob is, its first words are read.
#[test]
fn sub_blobs_without_a_size_that_are_registers() {
    for generation in [Generation::V1Small, Generation::V1Page] {
        let (v, blob) = blob_without_a_size(generation);
        v.put(v.in_root(blob), MMIO.0 << 12);
        assert!(v.take_over().is_err());
    }
}

/// The last page of RAM before a hole, preserved, and what the check says if `attack` puts a part of
/// the handover there that goes on in the hole.
fn at_the_end_of_ram(mut v: Victim, attack: impl Fn(&mut Victim, u64)) -> Fault {
    let last = spare(&v, 1, v.generation.has_radix_tree());
    attack(&mut v, last);
    let lent = v.lent().without((last >> 12) + 1);
    let checked = lent.check(v.at.boot, v.generation);
    checked.map(drop).unwrap_err().fault
}

#[test]
fn description_at_the_end_of_ram() {
    let fault = at_the_end_of_ram(victim(), |v, last| {
        let mut bytes = vec![0; PAGE as usize];
        v.sim.memory.read(v.at.boot.fdt_addr, &mut bytes).unwrap();
        v.put_bytes(last, &bytes);
        v.put_bytes(last + 4, &(2 * PAGE as u32).to_be_bytes());
        v.at.boot.fdt_addr = addr(last);
        v.at.boot.fdt_size = 2 * PAGE;
    });
    assert!(matches!(fault, Fault::NotRam { .. }), "{fault}");
}

/// Of a sub-blob that is shorter than what it starts with, no more is read than there is.
#[test]
fn sub_blobs_at_the_end_of_ram() {
    let parts: [fn(&Victim) -> u64; 4] = [
        |v| v.at.luo,
        |v| v.at.memblock,
        |v| v.at.metadata,
        |v| v.at.note,
    ];
    for (i, part) in parts.into_iter().enumerate() {
        for size in 1..8 {
            let v = victim();
            let last = spare(&v, 1, true);
            let place = v.in_root(part(&v));
            v.put(place, last + PAGE - size);
            v.put(place - 20, size);
            let lent = v.lent().without((last >> 12) + 1);
            let checked = lent.check(v.at.boot, v.generation).map(drop);
            // Of the last two, the library understands nothing that it could refuse.
            assert_eq!(checked.is_ok(), i > 1, "{i}, {size}: {checked:?}");
        }
    }
}

#[test]
fn sub_blobs_without_a_size_at_the_end_of_ram() {
    for generation in [Generation::V1Small, Generation::V1Page] {
        for (less, accepted) in [(4, false), (8, true)] {
            let (v, blob) = blob_without_a_size(generation);
            let last = LAST * PAGE;
            v.put_bytes(last + PAGE - 8, &[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 8]);
            v.put(v.in_root(blob), last + PAGE - less);
            let lent = v.lent().without((last >> 12) + 1);
            let checked = lent.check(v.at.boot, v.generation).map(drop);
            assert_eq!(checked.is_ok(), accepted, "{less}: {checked:?}");
        }
    }
}

#[test]
fn pointers_outside_memory() {
    for target in [
        1 << 41,
        (1 << 52) - PAGE,
        1 << 52,
        !(PAGE - 1),
        u64::MAX - 7,
    ] {
        every_pointer_to(|_, _| target);
        boot_data_to(target);
    }
}

#[test]
fn pointers_to_ram_that_is_not_there() {
    every_pointer_to(|_, _| (victim::RAM_END - 2) << 12);
    boot_data_to((victim::RAM_END - 2) << 12);
}

#[test]
fn pointers_that_are_not_aligned() {
    for bytes in [1, 4, 8, 0x800] {
        let v = victim();
        for (i, (name, _)) in pointers(&v).into_iter().enumerate() {
            // A sub-blob may start anywhere, and so may a region: Linux preserves the pages.
            if !name.starts_with("sub-blob") && name != "region" {
                let v = victim();
                let place = pointers(&v)[i].1;
                v.put(place, v.word(place) + bytes);
                assert!(v.take_over().is_err(), "{name} + {bytes} was accepted");
            }
        }
    }
}

/// Pages of the map, which are not preserved, and of the description, which has an owner.
#[test]
fn pointers_into_the_description_itself() {
    every_pointer_to(|v, was| match v.generation.has_radix_tree() {
        true => v.path()[1..3]
            .iter()
            .map(|p| p.0)
            .find(|&table| table != was)
            .unwrap(),
        false => v.boot_fdt(),
    });
    let v = victim();
    for (i, (name, _)) in pointers(&v).into_iter().enumerate() {
        let v = victim();
        let place = pointers(&v)[i].1;
        v.put(place, v.boot_fdt());
        assert!(v.take_over().is_err(), "{name} was accepted");
    }
}

#[test]
fn pointers_to_scratch() {
    let scratch = (common::SCRATCH.0 + 4) << 12;
    let v = victim();
    for (i, (name, _)) in pointers(&v).into_iter().enumerate() {
        let v = victim();
        let place = pointers(&v)[i].1;
        v.put(place, scratch);
        assert!(v.take_over().is_err(), "{name} was accepted");
    }
    // Linux 6.16 and 6.17 may have put chunks and small bitmaps into scratch.
    let v = listed(Generation::V1Page);
    v.put(v.at.map + 24, scratch);
    assert!(matches!(refusal(&v).fault, Fault::InScratch { .. }));
}

#[test]
fn pointers_that_are_null() {
    let ends = [
        "next", "table", "leaf", "sessions", "objects", "list of", "page of",
    ];
    let v = victim();
    for (i, (name, _)) in pointers(&v).into_iter().enumerate() {
        let v = victim();
        let place = pointers(&v)[i].1;
        v.put(place, 0);
        let may_end = ends.iter().any(|end| name.starts_with(end));
        assert!(may_end || v.take_over().is_err(), "{name} was accepted");
    }
}

/// A handover of what `preserve` does to a tree whose writer does not look, with this scratch.
fn handover_of(scratch: PhysRange, preserve: impl Fn(&Careless<'_>)) -> IncomingError {
    let mut sim = Sim::new(PageSize::Size4K);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let boot = outgoing
            .finalize(sim.scratch_array(), &mut [])
            .unwrap()
            .hand_over();
        let careless = Tracker::new(&sim.memory, &alloc, sim.page, &[]).unwrap();
        careless.preserve_folio(boot.fdt_addr, Order::ZERO).unwrap();
        preserve(&careless);
        put(
            &sim,
            boot.fdt_addr.as_u64() + 0x60,
            careless.root().as_u64(),
        );
        boot
    };
    put(&sim, boot.scratch_addr.as_u64(), scratch.start().as_u64());
    put(&sim, boot.scratch_addr.as_u64() + 8, scratch.size());
    let frozen = sim.memory.freeze();
    let machine = Machine::unknown(PageSize::Size4K);
    Incoming::check(&frozen, boot, machine, &mut [0; 64])
        .map(drop)
        .unwrap_err()
}

fn put(sim: &Sim, at: u64, word: u64) {
    sim.memory.write(addr(at), &word.to_le_bytes()).unwrap();
}

type Careless<'m> = Tracker<
    'm,
    &'m kho_hal::sim::SimMemory,
    &'m kho_hal::sim::SimAlloc<&'m kho_hal::sim::SimMemory>,
>;

/// Orders whose folios can lie below the end of what a machine can address.
fn orders() -> impl Iterator<Item = Order> {
    (0..=39).map(order)
}

#[test]
fn a_folio_of_every_order_over_another() {
    let scratch = range(512 * PAGE, 16 * PAGE);
    for o in orders() {
        let size = o.bytes(PageSize::Size4K).unwrap();
        let start = size.max(1 << 30);
        // Inside at the end, and, where there is such an order, around it.
        let last = start + size - PAGE;
        let inside = (o.as_u32() > 0).then_some((last, Order::ZERO));
        let around = Order::new(o.as_u32() + 1)
            .filter(|o| o.as_u32() <= 39)
            .map(|o| (start / (size * 2) * (size * 2), o))
            .filter(|&(at, _)| at != 0);
        for other in [inside, around].into_iter().flatten() {
            let error = handover_of(scratch, |careless| {
                careless.preserve_folio(addr(start), o).unwrap();
                careless.preserve_folio(addr(other.0), other.1).unwrap();
            });
            assert!(
                matches!(error.fault, Fault::Overlap { .. }),
                "order {o} and {other:?}: {error}"
            );
        }
    }
}

#[test]
fn a_folio_of_every_order_over_scratch() {
    for o in orders() {
        let size = o.bytes(PageSize::Size4K).unwrap();
        let start = size.max(1 << 30);
        for touched in [start, start + size / 2 / PAGE * PAGE, start + size - PAGE] {
            let error = handover_of(range(touched, PAGE), |careless| {
                careless.preserve_folio(addr(start), o).unwrap();
            });
            assert!(
                matches!(error.fault, Fault::InScratch { .. }),
                "order {o}: {error}"
            );
        }
    }
}

#[test]
fn a_folio_of_every_order_beyond_ram() {
    // Those of order 0 have an entry of the root that no address needs.
    for o in (1..=50).map(order) {
        // The last that ends below the end of the address space.
        let size = o.bytes(PageSize::Size4K).unwrap();
        let start = addr(0u64.wrapping_sub(size * 2));
        let error = handover_of(range(512 * PAGE, 16 * PAGE), |careless| {
            careless.preserve_folio(start, o).unwrap();
        });
        let fault = Fault::NotRam { addr: start, size };
        assert_eq!(error.fault, fault, "order {o}");
    }
}

/// None of as many orders as there can be is forgotten, the largest and lowest folio included.
#[test]
fn a_folio_of_every_order_at_once() {
    let error = handover_of(range(512 * PAGE, 16 * PAGE), |careless| {
        // The description is of order 0.
        for o in (1..=50).map(order) {
            let size = o.bytes(PageSize::Size4K).unwrap();
            let start = addr(0u64.wrapping_sub(size * 2));
            careless.preserve_folio(start, o).unwrap();
        }
        careless.preserve_folio(addr(0), order(51)).unwrap();
    });
    let (addr, size) = (addr(0), 1 << 63);
    assert_eq!(error.fault, Fault::NotRam { addr, size });
}

#[test]
fn a_folio_of_every_order_over_the_map() {
    for o in orders() {
        let size = o.bytes(PageSize::Size4K).unwrap();
        let error = handover_of(range(1 << 51, PAGE), |careless| {
            let at = careless.root().as_u64() / size * size;
            careless.preserve_folio(addr(at), o).unwrap();
        });
        assert!(
            matches!(error.fault, Fault::Overlap { .. }),
            "order {o}: {error}"
        );
    }
}

#[test]
fn a_folio_of_every_order_over_the_description() {
    for o in orders().skip(1) {
        let size = o.bytes(PageSize::Size4K).unwrap();
        let error = handover_of(range(1 << 51, PAGE), |careless| {
            let mut fdt = 0;
            let first = (HEAP.0..HEAP.0 + HEAP.1).map(|page| page * PAGE);
            for page in first {
                if careless.is_preserved(addr(page), Order::ZERO) {
                    fdt = page;
                }
            }
            careless.preserve_folio(addr(fdt / size * size), o).unwrap();
        });
        assert!(
            matches!(error.fault, Fault::Overlap { .. }),
            "order {o}: {error}"
        );
    }
}

// Numbers that wrap, and counts that lie.
attacks! {
    entries_of_the_root_that_no_address_needs: |v| {
        let leaf = v.leaf();
        v.put(v.at.map + 8 * 511, leaf);
    } => Part::Map, Fault::Geometry { .. },
    description_that_ends_beyond_memory: |v| v.put_bytes(v.at.boot.fdt_addr.as_u64() + 4, &[0xff; 4])
        => Part::RootFdt, Fault::Count { .. },
    description_longer_than_its_page: |v| v.at.boot.fdt_size = 16
        => Part::RootFdt, Fault::Count { .. },
    sub_blob_that_wraps: |v| v.put_bytes(v.in_root(v.at.note) - 20, &[0xff; 8])
        => Part::Subtree, Fault::NotRam { .. },
    sub_blob_longer_than_its_folio: |v| v.put(v.in_root(v.at.note) - 20, PAGE + 1)
        => Part::Subtree, Fault::Overlap { .. } | Fault::NotPreserved { .. },
    sub_blob_shorter_than_its_structure: |v| v.put(v.in_root(v.at.luo) - 20, 31)
        => Part::Luo, Fault::Mismatch { found: 31, .. },
    sub_blob_shorter_than_its_version: |v| v.put(v.in_root(v.at.luo) - 20, 7)
        => Part::Luo, Fault::Mismatch { found: 7, expected: 8, .. },
    sub_blob_of_size_zero: |v| v.put(v.in_root(v.at.note) - 20, 0)
        => Part::Subtree, Fault::Count { found: 0, .. },
    region_that_wraps: |v| {
        let size = v.find(v.at.memblock, &(victim::REGION.1 * PAGE).to_le_bytes());
        v.put(size, u64::MAX);
    } => Part::ReserveMem, Fault::NotRam { .. },
    region_beyond_what_is_preserved: |v| {
        let size = v.find(v.at.memblock, &(victim::REGION.1 * PAGE).to_le_bytes());
        v.put(size, (victim::REGION.1 + 1) * PAGE);
    } => Part::ReserveMem, Fault::NotPreserved { .. },
    area_of_an_order_that_wraps: |v| v.at.area.order = 64.into()
        => Part::Subtree, Fault::Count { found: 64, .. },
    area_of_the_largest_order: |v| {
        v.at.area.order = 51.into();
        v.at.area.total_pages = u32::MAX.into();
    } => Part::Subtree, Fault::Mismatch { .. },
    area_of_no_pages: |v| v.at.area.total_pages = 0.into()
        => Part::Subtree, Fault::Mismatch { found: 0, .. },
    area_of_fewer_pages: |v| v.at.area.total_pages = 599.into()
        => Part::Subtree, Fault::Count { found: 600, .. },
    area_of_more_pages: |v| v.at.area.total_pages = 601.into()
        => Part::Subtree, Fault::Mismatch { found: 600, .. },
    area_of_most_pages: |v| v.at.area.total_pages = u32::MAX.into()
        => Part::Subtree, Fault::Mismatch { found: 600, .. },
    /// Entry 300 would be found behind the terminator, where nothing was checked.
    area_whose_first_page_ends_early: |v| {
        let first = v.at.area.first.get();
        let second = v.word(first);
        for i in 300..511 {
            v.put(second + (1 + 89 + i - 300) * 8, v.word(first + (1 + i) * 8));
            v.put(first + (1 + i) * 8, MMIO.0 << 12);
        }
        v.put(first + 301 * 8, 0);
    } => Part::Subtree, Fault::Null { .. },
    area_that_is_not_whole_groups: |v| v.at.area.order = 4.into()
        => Part::Subtree, Fault::Mismatch { .. },
    area_with_unknown_flags: |v| v.at.area.flags = 4.into()
        => Part::Subtree, Fault::Flags { found: 4, .. },
    memory_file_of_an_order_that_wraps: |v| v.put_bytes(v.at.memfd + MEMFD_ORDER, &[0xff, 0xff])
        => Part::Memfd, Fault::Count { found: 0xffff, .. },
    memory_file_of_most_folios: |v| v.put(v.at.memfd + MEMFD_COUNT, u64::MAX)
        => Part::Memfd, Fault::Count { found: u64::MAX, .. },
    memory_file_of_more_folios: |v| v.put(v.at.memfd + MEMFD_COUNT, 257)
        => Part::Memfd, Fault::Count { found: 257, .. },
    memory_file_of_more_pages: |v| v.put_bytes(v.at.memfd + MEMFD_PAGES, &[2])
        => Part::Memfd, Fault::Mismatch { .. },
    memory_file_shorter_than_its_folios: |v| v.put(v.at.memfd + MEMFD_SIZE, 5 * PAGE)
        => Part::Memfd, Fault::Unsorted { .. },
    memory_file_with_an_index_that_wraps: |v| v.put(v.at.folios + 40, u64::MAX)
        => Part::Memfd, Fault::Unsorted { .. },
    memory_file_whose_folios_descend: |v| v.put(v.at.folios + 8, 3)
        => Part::Memfd, Fault::Unsorted { .. },
    memory_file_whose_folios_overlap_in_the_file: |v| v.put(v.at.folios + 40, 3)
        => Part::Memfd, Fault::Unsorted { .. },
    memory_file_with_the_middle_of_a_folio: |v| v.put(v.at.folios + 16, v.word(v.at.folios + 16) + 1)
        => Part::Memfd, Fault::NotPreserved { .. },
    memory_file_with_unknown_seals: |v| v.put_bytes(v.at.memfd + 16, &[0x41])
        => Part::Memfd, Fault::Flags { found: 0x41, .. },
    block_of_no_entries: |v| v.put(v.at.sessions + 8, 0)
        => Part::Luo, Fault::Count { found: 0, .. },
    block_of_more_entries_than_fit: |v| v.put(v.at.sessions + 8, 52)
        => Part::Luo, Fault::Count { found: 52, max: 51, .. },
    block_of_most_entries: |v| v.put(v.at.blocks + 8, u64::MAX)
        => Part::Subtree, Fault::Count { found: u64::MAX, max: 63, .. },
    session_of_fewer_files: |v| v.put(v.at.sessions + SESSION_COUNT, 0)
        => Part::Luo, Fault::Mismatch { found: 0, expected: 1, .. },
    session_of_most_files: |v| v.put(v.at.sessions + SESSION_COUNT, u64::MAX)
        => Part::Luo, Fault::Mismatch { found: u64::MAX, expected: 1, .. },
    session_whose_files_are_gone: |v| v.put(v.at.sessions + SESSION_FILES, 0)
        => Part::Luo, Fault::Mismatch { found: 1, expected: 0, .. },
    objects_on_more_pages: |v| v.put(v.at.flbs, 2)
        => Part::Luo, Fault::Mismatch { found: 2, expected: 1, .. },
    objects_beyond_their_page: |v| v.put(v.at.flbs + 8, 64)
        => Part::Luo, Fault::Count { found: 64, max: 63, .. },
    objects_without_end: |v| v.put(v.at.flbs + 8, u64::MAX)
        => Part::Luo, Fault::Count { found: u64::MAX, .. },
    scratch_that_is_not_whole_entries: |v| v.at.boot.scratch_size = 17
        => Part::Scratch, Fault::Count { found: 17, .. },
    scratch_of_too_many_areas: |v| v.at.boot.scratch_size = 1 << 20
        => Part::Scratch, Fault::Count { .. },
    scratch_of_most_areas: |v| v.at.boot.scratch_size = !15
        => Part::Scratch, Fault::Count { .. },
    scratch_that_wraps: |v| v.put(v.at.boot.scratch_addr.as_u64() + 8, u64::MAX)
        => Part::Scratch, Fault::NotRam { .. },
    scratch_outside_memory: |v| v.put(v.at.boot.scratch_addr.as_u64(), MMIO.0 << 12)
        => Part::Scratch, Fault::NotRam { .. },
    scratch_areas_that_overlap: |v| {
        let array = v.at.boot.scratch_addr.as_u64();
        v.put(array + 16, v.word(array) + PAGE);
        v.put(array + 24, 1);
        v.at.boot.scratch_size = 32;
    } => Part::Scratch, Fault::Overlap { .. },
    scratch_over_the_map: |v| {
        let array = v.at.boot.scratch_addr.as_u64();
        v.put(array, v.at.map);
        v.put(array + 8, PAGE);
    } => Part::Map, Fault::InScratch { .. },
    scratch_over_the_description: |v| {
        let array = v.at.boot.scratch_addr.as_u64();
        v.put(array, v.at.boot.fdt_addr.as_u64());
        v.put(array + 8, PAGE);
    } => Part::Map, Fault::InScratch { .. },
    scratch_over_a_memory_file: |v| {
        let array = v.at.boot.scratch_addr.as_u64();
        v.put(array, victim::FILE[1].0 << 12);
        v.put(array + 8, 1);
    } => Part::Map, Fault::InScratch { .. },
    no_handover_at_all: |v| v.at.boot.fdt_addr = addr(0)
        => Part::RootFdt, Fault::NoHandover,
}

list_attacks! {
    chunk_of_an_order_that_wraps: |v| {
        let order = v.at.map + 8 - v.next_offset();
        v.put_bytes(order, &64u32.to_le_bytes());
    } => Fault::Count { found: 64, .. },
    chunk_of_the_largest_order: |v| {
        let order = v.at.map + 8 - v.next_offset();
        v.put_bytes(order, &[0xff; 4]);
    } => Fault::Count { found: 0xffff_ffff, .. },
    chunk_of_more_entries_than_fit: |v| {
        let count = v.at.map + 12 - v.next_offset();
        v.put_bytes(count, &256u32.to_le_bytes());
    } => Fault::Count { found: 256, max: 255, .. },
    chunk_of_most_entries: |v| {
        let count = v.at.map + 12 - v.next_offset();
        v.put_bytes(count, &[0xff; 4]);
    } => Fault::Count { found: 0xffff_ffff, .. },
    chunk_of_entries_that_are_not_there: |v| {
        let count = v.at.map + 12 - v.next_offset();
        v.put_bytes(count, &200u32.to_le_bytes());
    } => Fault::Null { .. } | Fault::Overlap { .. },
    bitmap_at_the_end_of_the_address_space: |v| {
        v.put(v.at.map + 16, !0 << 27);
        v.put(v.word(v.at.map + 24), u64::MAX);
    } => Fault::NotRam { .. },
    bitmap_that_starts_at_no_multiple: |v| v.put(v.at.map + 16, v.word(v.at.map + 16) + PAGE)
        => Fault::Misaligned { .. } | Fault::NotPageBitmaps { .. },
    bitmap_for_memory_that_is_not_there: |v| v.put(v.at.map + 16, 1 << 40)
        => Fault::NotRam { .. },
}

// Names.
attacks! {
    session_name_without_end: |v| v.put_bytes(v.at.sessions + SESSION, &[b'x'; 64])
        => Part::Luo, Fault::Name { .. },
    session_without_a_name: |v| v.put_bytes(v.at.sessions + SESSION, &[0; 64])
        => Part::Luo, Fault::Name { .. },
    sessions_of_one_name: |v| v.put_bytes(v.at.sessions + SESSION + 80, b"vm0")
        => Part::Luo, Fault::Duplicate { .. },
    handler_name_without_end: |v| v.put_bytes(v.at.files + 16, &[b'm'; 48])
        => Part::Luo, Fault::Name { .. },
    object_name_without_end: |v| v.put_bytes(v.at.flbs + 16, &[b'o'; 48])
        => Part::Luo, Fault::Name { .. },
    objects_of_one_name: |v| {
        v.put(v.at.flbs + 8, 2);
        v.put_bytes(v.at.flbs + 16 + 64, b"object");
    } => Part::Luo, Fault::Duplicate { .. },
    files_of_one_token: |v| {
        v.put(v.at.other_files + 8, 2);
        v.put(v.at.sessions + SESSION_COUNT + 80, 2);
        v.put_bytes(v.at.other_files + 16 + FILE_LEN, b"nothing-v1");
        v.put(v.at.other_files + FILE_TOKEN + FILE_LEN, 1);
    } => Part::Luo, Fault::Duplicate { .. },
    sub_blobs_of_one_name: |v| {
        let fdt = v.at.boot.fdt_addr.as_u64();
        // A shorter name, and a NOP where the longer one ended.
        v.put_bytes(v.find(fdt, b"note\0"), b"LUO\0\0\0\0\x04");
    } => Part::RootFdt, Fault::Duplicate { .. },
    property_name_without_end: |v| {
        // The strings block is the last of the tree: one byte less, and its last name has no NUL.
        let fdt = v.at.boot.fdt_addr.as_u64();
        let mut size = [0; 4];
        v.sim.memory.read(addr(fdt + 32), &mut size).unwrap();
        let less = u32::from_be_bytes(size) - 1;
        v.put_bytes(fdt + 32, &less.to_be_bytes());
    } => Part::RootFdt, Fault::Fdt { .. },
    description_that_goes_on_behind_ram: |v| {
        v.put_bytes(v.boot_fdt() + 4, &u32::MAX.to_be_bytes());
        v.at.boot.fdt_size = 1 << 40;
    } => Part::RootFdt, Fault::NotRam { .. },
    version_without_end: |v| {
        let fdt = v.at.boot.fdt_addr.as_u64();
        v.put_bytes(v.find(fdt, b"kho-v4\0") + 6, b"x");
    } => Part::RootFdt, Fault::UnknownVersion { .. },
    region_name_without_end: |v| {
        let mut page = [0; 4096];
        v.sim.memory.read(addr(v.at.memblock), &mut page).unwrap();
        let at = v.find(v.at.memblock, b"oops\0");
        let structure = u64::from(u32::from_be_bytes(page[8..12].try_into().unwrap()));
        let size = at - v.at.memblock - structure + 4;
        v.put_bytes(v.at.memblock + 36, &(size as u32).to_be_bytes());
    } => Part::ReserveMem, Fault::Fdt { .. },
}

/// A description as somebody else may write one, in the place of the victim's; it may be longer.
fn replace_description(victim: &mut Victim, bytes: &[u8]) {
    // Its own memory, so that it can be of any length: RAM behind the heap is not used.
    let at = pages(victim.sim.page, 600, 400).start();
    victim.sim.memory.write(at, bytes).unwrap();
    victim.at.boot.fdt_addr = at;
    victim.at.boot.fdt_size = 400 * PAGE;
}

fn nested(depth: usize, root: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    // The writer's own limit is 64, so deeper nodes are put between its bytes.
    let mut fdt = FdtWriter::new().unwrap();
    let node = fdt.begin_node("").unwrap();
    root(&mut fdt);
    let inner = fdt.begin_node("n").unwrap();
    fdt.end_node(inner).unwrap();
    fdt.end_node(node).unwrap();
    let mut bytes = fdt.finish().unwrap();
    let begin = [0, 0, 0, 1, b'n', 0, 0, 0];
    let at = bytes.windows(8).position(|window| window == begin).unwrap();
    let more = [begin.repeat(depth), [0, 0, 0, 2].repeat(depth)].concat();
    bytes.splice(at..at, more.iter().copied());
    let grown = more.len() as u32;
    // Total size, strings' offset, size of the structure block.
    for field in [4, 12, 36] {
        let was = u32::from_be_bytes(bytes[field..field + 4].try_into().unwrap());
        bytes[field..field + 4].copy_from_slice(&(was + grown).to_be_bytes());
    }
    bytes
}

/// 100,000 nodes in one another: neither the stack nor the time depends on the depth.
#[test]
fn a_deep_description() {
    for (compatible, map) in [
        ("kho-v4", "preserved-memory-map"),
        ("linux-kho,v1", "preserved-folio-map"),
    ] {
        let mut victim = victim();
        let root = victim.at.map.to_le_bytes();
        let bytes = nested(100_000, |fdt| {
            fdt.property_string("compatible", compatible).unwrap();
            fdt.property(map, &root).unwrap();
        });
        replace_description(&mut victim, &bytes);
        let error = refusal(&victim);
        assert_eq!(error.part, Part::RootFdt, "{error}");
    }
}

/// 10,000 blocks are what Linux takes; one more is refused, and a cycle that long is noticed.
#[test]
fn a_chain_of_too_many_blocks() {
    const FIRST: u64 = 1 << 14;
    const BLOCKS: u64 = 10_001;
    let page = PageSize::Size4K;
    let memory = [pages(page, 0, 1024), pages(page, FIRST, BLOCKS)];
    let sim = Sim {
        memory: SimMemory::new(memory).unwrap(),
        ..Sim::new(page)
    };
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for block in FIRST..FIRST + BLOCKS {
            let tracker = outgoing.tracker();
            tracker
                .preserve_folio(addr(block << 12), Order::ZERO)
                .unwrap();
            let next = if block + 1 < FIRST + BLOCKS {
                (block + 1) << 12
            } else {
                0
            };
            put(&sim, block << 12, next);
            put(&sim, (block << 12) + 8, 1);
        }
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        ready.unwrap().hand_over()
    };
    let lent = victim::Lent::new(&sim);
    let incoming = lent.check(boot, Generation::V4).unwrap();
    let mut workspace = [0; 256];
    let mut blocks = |first: u64| {
        let blocks = incoming.blocks::<[u8; 64]>(addr(first << 12), &mut workspace);
        blocks.map(|blocks| blocks.iter().count())
    };
    assert_eq!(blocks(FIRST + 1), Ok(10_000));
    let error = blocks(FIRST).unwrap_err();
    assert!(
        matches!(
            error.fault,
            Fault::Count {
                found: 10_001,
                max: 10_000,
                ..
            }
        ),
        "{error}"
    );
}

/// Whoever is told another page size than the predecessor had is told nothing: the tree does not fit
/// it, or its pages lie wrong.
#[test]
fn read_with_another_page_size() {
    let pairs = PageSize::ALL.map(|page| PageSize::ALL.map(|other| (page, other)));
    let pairs = pairs.into_iter().flatten();
    for (page, other) in pairs.filter(|(page, other)| page != other) {
        let sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            outgoing.add_blob("note", b"hello").unwrap();
            let tracker = outgoing.tracker();
            let at = pages(page, common::FREE, 1).start();
            tracker.preserve_folio(at, order(3)).unwrap();
            let ready = outgoing.finalize(sim.scratch_array(), &mut []);
            ready.unwrap().hand_over()
        };
        let other = Sim { page: other, ..sim };
        let lent = victim::Lent::new(&other);
        let checked = lent.check(boot, Generation::V4).map(drop);
        assert!(checked.is_err(), "{page:?} as {:?}", other.page);
    }
}

/// Nodes side by side, and two of them with one name.
#[test]
fn a_wide_description() {
    for twice in [false, true] {
        let mut victim = listed(Generation::Sketch);
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_string("compatible", "linux-kho,v1").unwrap();
        fdt.property("preserved-folio-map", &victim.at.map.to_le_bytes())
            .unwrap();
        for i in 0..5000 {
            let name = if twice && i == 4999 { 7 } else { i };
            let node = fdt.begin_node(&format!("node{name}")).unwrap();
            fdt.property_u32("number", i).unwrap();
            fdt.end_node(node).unwrap();
        }
        fdt.end_node(root).unwrap();
        replace_description(&mut victim, &fdt.finish().unwrap());
        let lent = victim.lent();
        let machine = Machine::unknown(victim.sim.page);
        let checked = Incoming::check(&lent, victim.at.boot, machine, &mut [0; 4096]);
        match checked.map(drop) {
            Ok(()) => assert!(!twice),
            Err(error) => assert!(
                twice && matches!(error.fault, Fault::Duplicate { .. }),
                "{error}"
            ),
        }
    }
}

/// A look at a folio of a sub-blob is not a look at each other sub-blob.
#[test]
fn a_sub_blob_of_many_folios() {
    const FIRST: u64 = 900;
    const PAGES: u64 = 1 << 14;
    const OTHERS: u64 = 40;
    let page = PageSize::Size4K;
    let sim = Sim::new(page);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for i in FIRST..FIRST + PAGES {
            let tracker = outgoing.tracker();
            tracker.preserve_folio(addr(i << 12), Order::ZERO).unwrap();
        }
        // The description says newest first, so the large one is compared with all.
        let large = pages(page, FIRST, PAGES);
        outgoing.add_subtree("large", large).unwrap();
        let tree = |size: u64| [0xd00d_feed, size as u32].map(u32::to_be_bytes).concat();
        sim.memory
            .write(large.start(), &tree(large.size()))
            .unwrap();
        for i in 0..OTHERS {
            outgoing.add_blob(&format!("b{i}"), &tree(8)).unwrap();
        }
        let state = StateTree::new();
        let array = sim.scratch_array();
        let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        ready.unwrap().hand_over()
    };
    let lent = victim::Lent::new(&sim);
    let machine = Machine {
        v1_bitmaps: Some(kho_abi::chunk::V1Bitmaps::Small),
        ..Machine::unknown(page)
    };
    let incoming = Incoming::check(&lent, boot, machine, &mut [0; 1 << 9]).unwrap();
    assert_eq!(incoming.subtrees().count() as u64, 1 + OTHERS);
    // In this generation, sizes of sub-blobs are read from them, so that each look is counted.
    let reads = lent.reads();
    assert!(reads < PAGES, "{reads} reads");
}

/// With a window of 64 pages, each of 40 sub-blobs takes a look at all others; that look must not
/// compare each with each.
#[test]
fn sub_blobs_far_apart() {
    const BLOBS: u64 = 40;
    let page = PageSize::Size4K;
    let sim = Sim {
        memory: SimMemory::new([pages(page, 0, 1 << 13)]).unwrap(),
        ..Sim::new(page)
    };
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for i in 0..BLOBS {
            let at = addr((common::FREE + i * 64) << 12);
            let tracker = outgoing.tracker();
            tracker.preserve_folio(at, Order::ZERO).unwrap();
            let tree = [0xd00d_feed_u32, 8].map(u32::to_be_bytes);
            sim.memory.write(at, tree.as_flattened()).unwrap();
            let blob = PhysRange::new(at, 8).unwrap();
            outgoing.add_subtree(&format!("b{i}"), blob).unwrap();
        }
        let state = StateTree::new();
        let array = sim.scratch_array();
        let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        ready.unwrap().hand_over()
    };
    let lent = victim::Lent::new(&sim);
    let machine = Machine {
        v1_bitmaps: Some(kho_abi::chunk::V1Bitmaps::Small),
        ..Machine::unknown(page)
    };
    let incoming = Incoming::check(&lent, boot, machine, &mut [0; 1]).unwrap();
    assert_eq!(incoming.subtrees().count() as u64, BLOBS);
    let reads = lent.reads();
    assert!(reads < 30_000, "{reads} reads");
}

/// Many properties may share one long name, of which each would look for the end.
#[test]
fn property_names_of_more_than_255_bytes() {
    for len in [255, 256] {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_null("p").unwrap();
        fdt.end_node(root).unwrap();
        // The writer makes none that long. The name is the last of the tree.
        let mut tree = fdt.finish().unwrap();
        tree.pop();
        tree.extend(vec![b'p'; len - 1]);
        tree.push(0);
        for field in [4, 32] {
            let place = &mut tree[field..field + 4];
            let was = u32::from_be_bytes((&*place).try_into().unwrap());
            place.copy_from_slice(&(was + len as u32 - 1).to_be_bytes());
        }
        let last = kho_core::Tokens::new(&tree).unwrap().last();
        assert_eq!(last == Some(kho_core::Token::End), len == 255, "{len}");
    }
}

/// Memory that changes at its `at`-th read, as a device may do that still writes.
struct Changing<'a> {
    before: &'a victim::Lent<'a>,
    after: &'a [u8],
    start: PhysAddr,
    at: u64,
}

impl FrozenMem for Changing<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let bytes = self.before.bytes(addr, len)?;
        let offset = addr.as_u64().wrapping_sub(self.start.as_u64()) as usize;
        match self.after.get(offset..offset.saturating_add(len)) {
            Some(changed) if self.before.reads() > self.at => Ok(changed),
            _ => Ok(bytes),
        }
    }
}

/// Pieces that only their owner knows of: preserved, named once, and nobody else's.
#[test]
fn pieces_with_two_owners() {
    let v = victim();
    let lone = victim::LONE.0 << 12;
    let lent = v.lent();
    let incoming = lent.check(v.at.boot, v.generation).unwrap();
    let fault = |pieces: &[(u64, u64)]| {
        let pieces = || pieces.iter().map(|&(at, size)| (addr(at), size));
        let checked = incoming.one_owner(&mut [0; 64], pieces);
        checked.err().map(|error| error.fault)
    };
    let own = [(lone, PAGE), (v.at.blocks, PAGE)];
    assert_eq!(fault(&own), None);
    for twice in [(lone, PAGE), (lone + PAGE, 1)] {
        let found = fault(&[own[0], own[1], twice]);
        assert!(matches!(found, Some(Fault::Overlap { .. })), "{found:?}");
    }
    let at = v.at;
    let fdt = v.boot_fdt();
    let parts = [
        fdt,
        at.note,
        at.luo,
        at.sessions,
        at.files,
        at.memfd,
        at.list,
        at.folios,
    ];
    for part in parts.into_iter().chain([victim::FILE[1].0 << 12]) {
        let found = fault(&[own[0], (part / PAGE * PAGE, 1)]);
        assert!(
            matches!(found, Some(Fault::Overlap { .. })),
            "{part:#x}: {found:?}"
        );
    }
    let found = fault(&[own[0], (at.map, PAGE)]);
    assert!(
        matches!(found, Some(Fault::NotPreserved { .. })),
        "{found:?}"
    );
}

/// Whenever memory changes, and to whatever: no panic, and an end.
#[test]
fn memory_that_changes_after_it_was_checked() {
    let v = victim();
    let heap = victim::heap();
    let mut words = vec![0u64; (heap.size() / 8) as usize];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let reads = {
        let lent = v.lent();
        victim::ask_everything(&lent.check(v.at.boot, v.generation).unwrap());
        lent.reads()
    };
    let lent = v.lent();
    for kind in 0..5 {
        let original = {
            let mut bytes = vec![0; heap.size() as usize];
            v.sim.memory.read(heap.start(), &mut bytes).unwrap();
            bytes
        };
        for (i, word) in words.iter_mut().enumerate() {
            let was = u64::from_le_bytes(original[i * 8..i * 8 + 8].try_into().unwrap());
            *word = match kind {
                0 => 0,
                1 => u64::MAX,
                // What was an address, or small, is another one.
                2 if was != 0 => heap.start().as_u64() + random() % heap.size() / PAGE * PAGE,
                3 if random() % 4 == 0 => random() >> (random() % 64),
                // Every list is a cycle, and every table the same.
                4 => heap.start().as_u64(),
                _ => was,
            };
        }
        for at in (0..reads).step_by(reads as usize / 60) {
            lent.forget_reads();
            let mem = Changing {
                before: &lent,
                after: zerocopy::IntoBytes::as_bytes(words.as_slice()),
                start: heap.start(),
                at,
            };
            if let Ok(incoming) =
                Incoming::check(&mem, v.at.boot, Machine::unknown(v.sim.page), &mut [0; 64])
            {
                victim::ask_everything(&incoming);
            }
        }
    }
}

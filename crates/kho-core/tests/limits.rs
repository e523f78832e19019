//! Where the outgoing side ends: the last that it takes, the first that it does not, and the error
//! that says so.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use common::{FREE, Sim, SimTracker, addr, order, pages, range};
use kho_abi::NameError;
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_abi::radix::KeyError;
use kho_core::Tracker;
use kho_core::incoming::{Folio, Incoming, Machine, Region};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile};
use kho_core::outgoing::{
    BlockSet, Outgoing, OutgoingError, Participants, StateTree, Value, reserve_mem, vmalloc,
    write_scratch_array,
};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{AllocError, MemError, Order, PageSize, PhysRange};

const PAGE: PageSize = PageSize::Size4K;

fn name_of_at_most(max: usize) -> OutgoingError {
    OutgoingError::Name(NameError { max })
}

#[test]
fn blocks() {
    // Two entries a block.
    type Entry = [u8; 2000];
    let memory = SimMemory::new([pages(PAGE, 0, 10_100)]).unwrap();
    let alloc = SimAlloc::new(&memory, PAGE, [pages(PAGE, 1, 10_099)]);
    let tracker = Tracker::new(&memory, &alloc, PAGE, &[]).unwrap();
    let mut set = BlockSet::<Entry>::default();
    assert!(set.is_empty());
    let refused = Err(OutgoingError::TooMany { max: 20_000 });
    assert_eq!(set.resize(&tracker, 20_001), refused);
    assert_eq!(set.resize(&tracker, 20_003), refused);
    set.resize(&tracker, 20_000).unwrap();
    assert!(!set.is_empty());
    set.write(&tracker, 19_999, &[1; 2000]).unwrap();
}

#[test]
fn lists_of_bitmaps() {
    // 8 bitmaps share a page, 255 entries a chunk.
    for bitmaps in [1, 7, 8, 9, 254, 255, 256, 510, 511] {
        let mut sim = Sim::new(PAGE);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            for i in 0..bitmaps {
                let page = addr((FREE + (i << 12)) << 12);
                tracker.preserve_folio(page, Order::ZERO).unwrap();
            }
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let before = alloc.live().len() as u64;
            let array = sim.scratch_array();
            let state = StateTree::new();
            let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
            let boot = ready.unwrap().hand_over();
            let list = alloc.live().len() as u64 - before - 1;
            let expected = bitmaps.div_ceil(8) + bitmaps.div_ceil(255);
            assert_eq!(list, expected, "{bitmaps} bitmaps");
            boot
        };
        let frozen = sim.memory.freeze();
        let machine = Machine {
            v1_bitmaps: Some(V1Bitmaps::Small),
            ..Machine::unknown(PAGE)
        };
        let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 64]).unwrap();
        let count = incoming.folios().count() as u64;
        assert_eq!(count, bitmaps + 1, "and the description");
    }
}

/// What is written for a handover lies below what was preserved, and is listed before it.
#[test]
fn lists_ascend() {
    let mut sim = Sim::new(PAGE);
    let boot = {
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        // Of the order that the blob below has, in two bitmaps.
        for first in [FREE, FREE + (1 << 14)] {
            tracker.preserve_folio(addr(first << 12), order(1)).unwrap();
        }
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let mut state = StateTree::new();
        state.add_node(&[], "a").unwrap();
        let long = Value::Bytes(&[7; 5000]);
        state.add_property(&["a"], "p", long).unwrap();
        let array = sim.scratch_array();
        let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        ready.unwrap().hand_over()
    };
    let frozen = sim.memory.freeze();
    let machine = Machine {
        v1_bitmaps: Some(V1Bitmaps::Small),
        ..Machine::unknown(PAGE)
    };
    let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 64]).unwrap();
    assert_eq!(incoming.folios().count(), 4);
}

#[test]
fn sub_blobs() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    for range in [pages(PAGE, FREE, 0), pages(PAGE, 0, 1)] {
        let refused = Err(OutgoingError::BadRange { range });
        assert_eq!(outgoing.add_subtree("blob", range), refused);
    }
    // 200 users, of whom a page cannot name all.
    let mut state = StateTree::new();
    for user in 0..200 {
        state.add_node(&[], &format!("user{user}")).unwrap();
    }
    let array = sim.scratch_array();
    for generation in Generation::ALL {
        let ready = outgoing.finalize_as(generation, array, &mut [], &state);
        match ready.map(|ready| ready.hand_over()) {
            Ok(_) => assert!(generation.is_nested()),
            Err(error) => assert!(
                matches!(error, OutgoingError::Full { needed, available: 4096 } if needed > 4096),
                "{error}"
            ),
        }
    }
}

#[test]
fn names_in_a_state_tree() {
    let (fits, long) = ("n".repeat(31), "n".repeat(32));
    let mut state = StateTree::new();
    let refused = Err(name_of_at_most(31));
    assert_eq!(state.add_node(&[], &long), refused);
    assert_eq!(state.add_property(&[], &long, Value::U32(1)), refused);
    state.add_node(&[], &fits).unwrap();
    state.add_property(&[], &fits, Value::U32(1)).unwrap();
    // What one of the two may be called, the other may not.
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    for (node, property) in [("a#", "p"), ("a", "p@1")] {
        let mut state = StateTree::new();
        state.add_node(&[], node).unwrap();
        state
            .add_property(&[node], property, Value::U32(1))
            .unwrap();
        let array = sim.scratch_array();
        let ready = outgoing.finalize_as(Generation::Sketch, array, &mut [], &state);
        assert_eq!(ready.map(drop), Err(name_of_at_most(31)));
    }
}

#[test]
fn regions() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let publish = |names: &[&str]| {
        let region = |(i, &name)| Region {
            name,
            range: pages(PAGE, FREE + i as u64, 1),
        };
        let regions: Vec<_> = names.iter().enumerate().map(region).collect();
        reserve_mem::publish(&outgoing, &regions)
    };
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let too_many = Err(OutgoingError::TooMany { max: 8 });
    assert_eq!(publish(&names), too_many);
    assert_eq!(publish(&names[..9]), too_many);
    assert_eq!(publish(&["a", "b", "a"]), Err(OutgoingError::Exists));
    for length in [16, 17] {
        let long = "n".repeat(length);
        assert_eq!(publish(&["a", &long]), Err(name_of_at_most(15)));
    }
    let fits = "n".repeat(15);
    publish(&["a", "b", "c", "d", "e", "f", "g", &fits]).unwrap();
}

#[test]
fn memory_files() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let at = |page, o| Folio {
        addr: addr(page << 12),
        order: order(o),
    };
    // Two pages and a byte.
    fn file(folios: &[(u64, Folio)], seals: u32) -> MemfdFile<'_> {
        MemfdFile {
            pos: 0,
            size: 8193,
            seals,
            folios,
        }
    }
    let good = at(FREE, 0);
    for (folios, bad) in [
        ([(1, good), (0, at(FREE + 1, 0))], 1),
        ([(1, good), (1, at(FREE + 1, 0))], 1),
        ([(0, at(FREE, 1)), (1, at(FREE + 2, 0))], 1),
        ([(0, good), (3, at(FREE + 1, 0))], 1),
        ([(0, at(0, 0)), (1, good)], 0),
    ] {
        let range = folios[bad].1.range(PAGE);
        let refused = OutgoingError::BadRange { range };
        let preserved = memfd::preserve(&tracker, file(&folios, 0));
        assert_eq!(preserved.unwrap_err(), refused, "{folios:?}");
    }
    let folios = [(0, at(FREE, 1)), (2, at(FREE + 2, 0))];
    let sealed = memfd::preserve(&tracker, file(&folios, 0x40));
    let refused = OutgoingError::TooMany { max: 0x3f };
    assert_eq!(sealed.unwrap_err(), refused);
    let preserved = memfd::preserve(&tracker, file(&folios, 0x3f)).unwrap();
    memfd::unpreserve(&tracker, file(&folios, 0x3f), preserved).unwrap();
}

#[test]
fn areas() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let group = |i: u64| addr((FREE + i * 2) << 12);
    let refused = OutgoingError::BadRange {
        range: PhysRange::default(),
    };
    for groups in [&[][..], &[group(0), addr(0)]] {
        let preserved = vmalloc::preserve(&tracker, groups, Order::ZERO);
        assert_eq!(preserved.unwrap_err(), refused);
    }
    // Unpreserving needs memory from the fifth page of the list on.
    for (chunks, expected) in [(1, 0), (4, 0), (5, 1)] {
        let groups: Vec<_> = (0..chunks * 511 - 1).map(group).collect();
        let area = vmalloc::preserve(&tracker, &groups, Order::ZERO).unwrap();
        let before = (alloc.live().len() as u64, alloc.calls());
        vmalloc::unpreserve(&tracker, &area).unwrap();
        assert_eq!(alloc.calls() - before.1, expected, "{chunks} pages");
        assert_eq!(before.0 - alloc.live().len() as u64, chunks);
    }
}

/// A list of more pages than a page has room for the addresses of.
#[test]
fn areas_of_very_many_pages() {
    let memory = SimMemory::new([pages(PAGE, 0, FREE)]).unwrap();
    let alloc = SimAlloc::new(&memory, PAGE, [pages(PAGE, 1, FREE - 1)]);
    let tracker = Tracker::new(&memory, &alloc, PAGE, &[]).unwrap();
    for (chunks, room) in [(512, 0), (513, 1)] {
        let group = |i: u64| addr((FREE + i) << 12);
        let groups: Vec<_> = (0..chunks * 511 - 1).map(group).collect();
        let area = vmalloc::preserve(&tracker, &groups, Order::ZERO).unwrap();
        alloc.fail_at(Some(0));
        let order = order(room);
        let refused = Err(OutgoingError::Alloc(AllocError { order }));
        assert_eq!(vmalloc::unpreserve(&tracker, &area), refused);
        alloc.fail_at(None);
        vmalloc::unpreserve(&tracker, &area).unwrap();
    }
}

/// An area of which a group is missing stays as it is: without that group, with the others.
#[test]
fn areas_with_a_gap() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let groups: Vec<_> = (0..4).map(|i| addr((FREE + i * 2) << 12)).collect();
    for gap in 0..4 {
        let area = vmalloc::preserve(&tracker, &groups, Order::ZERO).unwrap();
        tracker.unpreserve_folio(groups[gap], Order::ZERO).unwrap();
        let refused = OutgoingError::NotPreserved {
            addr: groups[gap],
            order: Order::ZERO,
        };
        assert_eq!(vmalloc::unpreserve(&tracker, &area), Err(refused));
        for (i, &group) in groups.iter().enumerate() {
            assert_eq!(
                tracker.is_preserved(group, Order::ZERO),
                i != gap,
                "{i} {gap}"
            );
        }
        tracker.preserve_folio(groups[gap], Order::ZERO).unwrap();
        vmalloc::unpreserve(&tracker, &area).unwrap();
    }
}

#[test]
fn scratch_arrays() {
    let memory = SimMemory::new([range(0x1000, 0x1000)]).unwrap();
    let areas = [pages(PAGE, 1, 1), pages(PAGE, 5, 3), pages(PAGE, 9, 1)];
    // The last bytes of the area, behind which there is no memory.
    assert_eq!(write_scratch_array(&memory, addr(0x1fd0), &areas), Ok(48));
    for (i, area) in (0..).zip(areas) {
        let word = |at: u64| memory.word(addr(0x1fd0 + i * 16 + at));
        let expected = (Some(area.start().as_u64()), Some(area.size()));
        assert_eq!((word(0), word(8)), expected);
    }
    for at in [addr(0x1fd8), addr(0xff8)] {
        let refused = Err(OutgoingError::BadScratch { addr: at });
        assert_eq!(write_scratch_array(&memory, at, &areas), refused);
    }
}

struct File(u64);

impl<'m> LiveFile<SimTracker<'m>> for File {
    fn compatible(&self) -> &str {
        "file-v1"
    }
    fn identity(&self) -> u64 {
        self.0
    }
    fn preserve(&mut self, _: &SimTracker<'m>) -> Result<u64, OutgoingError> {
        Ok(self.0)
    }
    fn unpreserve(&mut self, _: &SimTracker<'m>) {}
}

/// What was preserved can be described: nothing is allocated any more.
#[test]
fn sessions_without_memory() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    assert_eq!(format!("{luo:?}"), "Luo { sessions: 0, .. }");
    luo.create_session(outgoing.tracker(), "s").unwrap();
    for token in 0..64 {
        luo.preserve_file(outgoing.tracker(), "s", token, Box::new(File(token)))
            .unwrap();
        let calls = alloc.calls();
        let array = sim.scratch_array();
        let participants: Participants<'_, _> = &mut [&mut luo];
        let ready = outgoing.finalize(array, participants).unwrap();
        let shown = format!("{ready:?}");
        assert!(
            shown.starts_with("Finalized { boot: BootData { "),
            "{shown}"
        );
        ready.abort();
        assert_eq!(alloc.calls(), calls, "{token} files");
    }
    assert_eq!(format!("{luo:?}"), "Luo { sessions: 1, .. }");
}

#[test]
fn errors_say_what_is_wrong() {
    let (at, o) = (addr(0x3000), order(2));
    let (range, scratch) = (pages(PAGE, 3, 2), pages(PAGE, 4, 1));
    let misaligned = KeyError::Misaligned { addr: at, order: o };
    let absent = MemError::Absent { addr: at, len: 8 };
    let free = AllocError { order: o };
    let name = NameError { max: 15 };
    let rows = [
        (OutgoingError::Memory(absent), absent.to_string()),
        (OutgoingError::Alloc(free), free.to_string()),
        (OutgoingError::Key(misaligned), misaligned.to_string()),
        (OutgoingError::Name(name), name.to_string()),
    ];
    for (error, expected) in rows {
        assert_eq!(error.to_string(), expected);
    }
    let rows = [
        (OutgoingError::NoMemory, "no room on the heap"),
        (
            OutgoingError::InScratch { range, scratch },
            "0x3000..0x5000 touches the scratch area 0x4000..0x5000",
        ),
        (
            OutgoingError::AlreadyPreserved { addr: at, order: o },
            "0x3000 is preserved already with order 2",
        ),
        (
            OutgoingError::NotPreserved { addr: at, order: o },
            "0x3000 is not preserved with order 2",
        ),
        (
            OutgoingError::BadRange { range },
            "0x3000..0x5000 is empty or not page-aligned",
        ),
        (
            OutgoingError::Full {
                needed: 4100,
                available: 4096,
            },
            "the description needs 4100 bytes and has 4096",
        ),
        (
            OutgoingError::TooMany { max: 8 },
            "the format allows 8 at most",
        ),
        (
            OutgoingError::Overlap { addr: at },
            "0x3000 is preserved under two orders",
        ),
        (OutgoingError::Refused(-5), "a callback refused with -5"),
    ];
    for (error, expected) in rows {
        assert_eq!(error.to_string(), expected);
    }
}

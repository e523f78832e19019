//! Where the outgoing side ends: the last that it takes, the first that it does not, and the error
//! that says so.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{FREE, Sim, SimTracker, addr, check, order, pages, range};
use kho_abi::NameError;
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_abi::radix::KeyError;
use kho_core::Tracker;
use kho_core::incoming::{Folio, Incoming, Machine, Region, RootFdt};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile};
use kho_core::outgoing::{
    BlockSet, Outgoing, OutgoingError, Participants, StateTree, Value, reserve_mem, vmalloc,
    write_scratch_array,
};
use kho_core::translate::{TranslateError, translate};
use kho_hal::sim::{Faulty, SimAlloc, SimMemory};
use kho_hal::{AllocError, FrozenMem, MemError, Order, PageSize, PhysAddr, PhysMem, PhysRange};
use vm_fdt::FdtWriter;

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

#[test]
fn names_and_ranges_of_sub_blobs() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let long = "a".repeat(31);
    outgoing.add_blob(&long, b"x").unwrap();
    let name = |max| Err(OutgoingError::Name(NameError { max }));
    for bad in ["", "a/b", "1st", &format!("{long}a")] {
        assert_eq!(outgoing.add_blob(bad, b"x").map(drop), name(31), "{bad:?}");
    }
    for bad in [range(FREE << 12, 0), range(0, 8)] {
        let refused = Err(OutgoingError::BadRange { range: bad });
        assert_eq!(outgoing.add_subtree("b", bad), refused);
    }
    let region = |name, i: u64| Region {
        name,
        range: pages(PAGE, FREE + i, 1),
    };
    let names: Vec<_> = (0..9).map(|i| format!("region{i}")).collect();
    let regions: Vec<_> = (0..).zip(&names).map(|(i, n)| region(n, i)).collect();
    let too_many = Err(OutgoingError::TooMany { max: 8 });
    assert_eq!(reserve_mem::publish(&outgoing, &regions), too_many);
    let long = [region("of-16-characters", 9)];
    assert_eq!(reserve_mem::publish(&outgoing, &long), name(15));
    let same = [region("r", 9), region("s", 10), region("r", 11)];
    let exists = Err(OutgoingError::Exists);
    assert_eq!(reserve_mem::publish(&outgoing, &same), exists);
    let mut most = regions[..8].to_vec();
    most[5].name = "of-15-character";
    reserve_mem::publish(&outgoing, &most).unwrap();
}

#[test]
fn folios_of_a_memory_file() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let folio = |at: u64, o| Folio {
        addr: addr(at << 12),
        order: order(o),
    };
    let preserve = |folios: &[(u64, Folio)]| {
        let file = MemfdFile {
            pos: 0,
            size: (4 << 12) + 1,
            seals: 0,
            folios,
        };
        memfd::preserve(&tracker, file)
    };
    let first = (0, folio(FREE, 1));
    for bad in [
        // In the middle of the one before; behind the end; at address 0.
        (1, folio(FREE + 2, 0)),
        (5, folio(FREE + 2, 0)),
        (3, folio(0, 0)),
    ] {
        let range = PhysRange::new(bad.1.addr, 4096).unwrap();
        let refused = OutgoingError::BadRange { range };
        assert_eq!(preserve(&[first, bad]).map(drop), Err(refused));
    }
    preserve(&[first, (2, folio(FREE + 2, 0)), (4, folio(FREE + 4, 2))]).unwrap();
}

/// A file of which only its handler knows, and how often it is frozen.
struct Frozen(Rc<Cell<i32>>);

impl<T> LiveFile<T> for Frozen {
    fn compatible(&self) -> &str {
        "frozen-v1"
    }
    fn identity(&self) -> u64 {
        Rc::as_ptr(&self.0).addr() as u64
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(0)
    }
    fn unpreserve(&mut self, _: &T) {}
    fn freeze(&mut self, _: &T, data: u64) -> Result<u64, OutgoingError> {
        self.0.set(self.0.get() + 1);
        Ok(data)
    }
    fn unfreeze(&mut self, _: &T) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whatever access fails, a file is as often unfrozen as it was frozen.
#[test]
fn files_that_cannot_be_written() {
    let sim = Sim::new(PAGE);
    let memory = Faulty::new(&sim.memory);
    let alloc = sim.alloc();
    let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch).unwrap();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let frozen = [0, 0].map(|n| Rc::new(Cell::new(n)));
    luo.create_session(outgoing.tracker(), "vm").unwrap();
    for (token, count) in (0..).zip(&frozen) {
        let tracker = outgoing.tracker();
        let file = || Box::new(Frozen(Rc::clone(count)));
        alloc.fail_at(Some(0));
        let refused = luo.preserve_file(tracker, "vm", token, file());
        // The first needs a block, in which there is room for the second.
        assert_eq!(refused.is_err(), token == 0);
        alloc.fail_at(None);
        if token == 0 {
            luo.preserve_file(tracker, "vm", token, file()).unwrap();
        }
    }
    assert!(format!("{luo:?}").contains("sessions: 1"), "{luo:?}");
    let mut failed = 0;
    for n in 0.. {
        memory.fail_at(Some(n));
        let calls = memory.calls();
        let array = sim.scratch_array();
        match outgoing.finalize(array, &mut [&mut luo]) {
            Ok(finalized) => {
                memory.fail_at(None);
                assert!(format!("{finalized:?}").contains("boot: BootData"));
                finalized.abort();
            }
            Err(_) => failed += 1,
        }
        let counts = frozen.each_ref().map(|count| count.get());
        assert_eq!(counts, [0, 0], "access {n}");
        if memory.calls() - calls <= n {
            break;
        }
    }
    assert!(failed > 3, "{failed}");
}

/// A handover of single pages, the `n`-th of them here.
fn handover(count: u64, place: impl Fn(u64) -> u64) -> (Sim, kho_core::BootData) {
    let sim = Sim::new(PAGE);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for i in 0..count {
            let at = addr(place(i) << 12);
            outgoing.tracker().preserve_folio(at, order(0)).unwrap();
        }
        let finalized = outgoing.finalize(sim.scratch_array(), &mut []);
        finalized.unwrap().hand_over()
    };
    (sim, boot)
}

/// Eight bitmaps share a page, 255 entries a chunk; the old description's page is left out, and the
/// new one's comes where it belongs.
#[test]
fn pages_of_a_list() {
    for count in [1, 7, 8, 254, 255, 256, 300] {
        // Each in the middle of its bitmap, the last but one below the new description.
        let place = |i: u64| ((i + 1) << 12) + 2048;
        let (mut sim, boot) = handover(count, place);
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, PAGE).unwrap();
        let new = pages(PAGE, place(count / 2) + 1, 200);
        let mut memory = SimMemory::new([new]).unwrap();
        let translated = {
            let alloc = SimAlloc::new(&memory, PAGE, [new]);
            translate(&incoming, Generation::V1Small, &memory, &alloc).unwrap()
        };
        let written = translated.pages.len() as u64;
        // The description, chunks, bitmaps.
        let expected = 1 + count.div_ceil(255) + count.div_ceil(8);
        assert_eq!(written, expected, "{count}");
        let boot = translated.boot;
        let written = memory.freeze();
        let both = Both(&frozen, &written);
        let machine = Machine {
            v1_bitmaps: Some(V1Bitmaps::Small),
            ..Machine::unknown(PAGE)
        };
        let again = Incoming::check(&both, boot, machine, &mut [0; 1024]).unwrap();
        let found: Vec<_> = again.folios().map(|folio| folio.addr).collect();
        let mut all: Vec<_> = (0..count).map(|i| addr(place(i) << 12)).collect();
        all.push(boot.fdt_addr);
        all.sort();
        assert_eq!(found, all, "{count}");
    }
}

/// Two pieces of frozen memory as one.
struct Both<'a, M>(&'a M, &'a M);

impl<M: FrozenMem> FrozenMem for Both<'_, M> {
    fn bytes(&self, at: PhysAddr, len: usize) -> Result<&[u8], kho_hal::MemError> {
        self.0.bytes(at, len).or_else(|_| self.1.bytes(at, len))
    }
}

/// What users keep in the root may be nested deeper than a tree of ours.
#[test]
fn inline_data_that_is_nested_deeply() {
    let nested = |depth: usize| {
        let sim = Sim::new(PAGE);
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let state = StateTree::new();
            let array = sim.scratch_array();
            let ready = outgoing.finalize_as(Generation::Sketch, array, &mut [], &state);
            ready.unwrap().hand_over()
        };
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_string("compatible", Generation::Sketch.compatible())
            .unwrap();
        fdt.property("preserved-folio-map", &[0; 8]).unwrap();
        let node = fdt.begin_node("n").unwrap();
        fdt.end_node(node).unwrap();
        fdt.end_node(root).unwrap();
        let mut bytes = fdt.finish().unwrap();
        // Further nodes in the last one, as the writer makes no more than 64.
        let begin = [0, 0, 0, 1, b'n', 0, 0, 0];
        let at = bytes.windows(8).position(|window| window == begin);
        let more = [begin.repeat(depth - 1), [0, 0, 0, 2].repeat(depth - 1)].concat();
        let at = at.unwrap() + 8;
        bytes.splice(at..at, more.iter().copied());
        // Total size, strings' offset, size of the structure block.
        for field in [4, 12, 36] {
            let was = u32::from_be_bytes(bytes[field..field + 4].try_into().unwrap());
            let grown = was + more.len() as u32;
            bytes[field..field + 4].copy_from_slice(&grown.to_be_bytes());
        }
        sim.memory.write(boot.fdt_addr, &bytes).unwrap();
        (sim, boot)
    };
    for (depth, expected) in [(60, Ok(())), (80, Err(64))] {
        let (mut sim, boot) = nested(depth);
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, PAGE).unwrap();
        let space = pages(PAGE, 1 << 20, 64);
        let memory = SimMemory::new([space]).unwrap();
        let alloc = SimAlloc::new(&memory, PAGE, [space]);
        let translated = translate(&incoming, Generation::V4, &memory, &alloc).map(drop);
        let too_many = |max| TranslateError::Outgoing(OutgoingError::TooMany { max });
        assert_eq!(translated, expected.map_err(too_many), "{depth}");
    }
}

/// What a description says of itself, without its map.
#[test]
fn what_a_description_says() {
    for generation in Generation::ALL {
        let mut sim = Sim::new(PAGE);
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let state = StateTree::new();
            let array = sim.scratch_array();
            let ready = outgoing.finalize_as(generation, array, &mut [], &state);
            ready.unwrap().hand_over()
        };
        let frozen = sim.memory.freeze();
        let size = frozen.bytes(boot.fdt_addr, 8).unwrap()[4..].try_into();
        let size = u32::from_be_bytes(size.unwrap());
        let bytes = frozen.bytes(boot.fdt_addr, size as usize).unwrap();
        let root = RootFdt::parse(bytes, boot.fdt_addr).unwrap();
        assert_eq!(root.compatible(), generation.compatible());
        let is_open = matches!(generation, Generation::V1Small | Generation::V1Page);
        assert_eq!(root.generation(), (!is_open).then_some(generation));
        assert_eq!(root.total_size(), size as usize);
    }
}

//! The work that a check does grows as its input does, whatever the input: here memory counts the bytes
//! that it lends. Each input is made at several sizes, and was worse than linear once.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::tree::inline;
use common::{FREE, SCRATCH, Sim, addr, order, pages};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_abi::memblock;
use kho_abi::vmalloc::KhoVmalloc;
use kho_core::BootData;
use kho_core::Tracker;
use kho_core::incoming::{Fault, Folio, Incoming, IncomingError, Machine, Part};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile};
use kho_core::outgoing::{Outgoing, OutgoingError, StateTree, vmalloc};
use kho_hal::sim::{FrozenSim, SimAlloc, SimMemory};
use kho_hal::{FrozenMem, MemError, Order, PageSize, PhysAddr, PhysMem, PhysRange};
use vm_fdt::FdtWriter;

const PAGE: PageSize = PageSize::Size4K;

/// Memory that counts the bytes that it lends.
struct Counting<'a> {
    memory: FrozenSim<'a>,
    lent: AtomicU64,
}

impl<'a> Counting<'a> {
    fn new(sim: &'a mut Sim) -> Self {
        Self {
            memory: sim.memory.freeze(),
            lent: AtomicU64::new(0),
        }
    }

    fn lent(&self) -> u64 {
        self.lent.swap(0, Ordering::Relaxed)
    }

    fn check(
        &self,
        boot: BootData,
        workspace: &mut [u64],
    ) -> Result<Incoming<'_, Self>, IncomingError> {
        let machine = Machine {
            v1_bitmaps: Some(V1Bitmaps::Small),
            ..Machine::unknown(PAGE)
        };
        Incoming::check(self, boot, machine, workspace)
    }

    /// A check with as much workspace as it asks for, once.
    fn check_as_asked(
        &self,
        boot: BootData,
        workspace: &mut Vec<u64>,
    ) -> Result<Incoming<'_, Self>, IncomingError> {
        if let Err(IncomingError {
            fault: Fault::Workspace { words },
            ..
        }) = self.check(boot, workspace)
        {
            assert!(words > workspace.len() as u64);
            workspace.resize(words as usize, 0);
        }
        self.check(boot, workspace)
    }
}

impl FrozenMem for Counting<'_> {
    fn bytes(&self, at: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        self.lent.fetch_add(len as u64, Ordering::Relaxed);
        self.memory.bytes(at, len)
    }
}

/// Twice the input is about twice the work.
fn assert_linear(what: &str, work: &[u64]) {
    println!("{what}: {work:?} bytes lent");
    for pair in work.windows(2) {
        assert!(pair[1] < pair[0] * 5 / 2, "{what}: {work:?} bytes lent");
    }
}

/// A machine whose heap has this many pages, of which nothing is scratch's.
fn machine(heap: u64) -> (Sim, PhysRange) {
    let first = SCRATCH.0 + SCRATCH.1;
    let sim = Sim {
        memory: SimMemory::new([pages(PAGE, 0, first + heap)]).unwrap(),
        ..Sim::new(PAGE)
    };
    (sim, pages(PAGE, first, heap))
}

type Tracking<'m> = Tracker<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;

/// A memory file of folios of one page each, at these pages.
struct Pages(Vec<u64>);

impl Pages {
    fn folios(&self) -> Vec<(u64, Folio)> {
        let folio = |(index, page): (usize, &u64)| {
            let folio = Folio {
                addr: addr(page << 12),
                order: Order::ZERO,
            };
            (index as u64, folio)
        };
        self.0.iter().enumerate().map(folio).collect()
    }
}

impl<'m> LiveFile<Tracking<'m>> for Pages {
    fn compatible(&self) -> &str {
        kho_abi::memfd::COMPATIBLE
    }
    fn identity(&self) -> u64 {
        1
    }
    fn flbs(&self) -> &[&str] {
        &[]
    }
    fn preserve(&mut self, tracker: &Tracking<'m>) -> Result<u64, OutgoingError> {
        let folios = self.folios();
        let file = MemfdFile {
            pos: 0,
            size: (folios.len() as u64) << 12,
            seals: 0,
            folios: &folios,
        };
        Ok(memfd::preserve(tracker, file)?.data())
    }
    fn unpreserve(&mut self, _: &Tracking<'m>) {}
}

/// A handover of a memory file, and of what `more` adds.
fn memory_file(
    sim: &Sim,
    heap: PhysRange,
    file: Vec<u64>,
    more: impl FnOnce(&mut Outgoing<'_, &SimMemory, &SimAlloc<&SimMemory>>),
) -> BootData {
    let alloc = SimAlloc::new(&sim.memory, PAGE, [heap]);
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let tracker = outgoing.tracker();
    luo.create_session(tracker, "vm").unwrap();
    luo.preserve_file(tracker, "vm", 1, Box::new(Pages(file)))
        .unwrap();
    more(&mut outgoing);
    let array = sim.scratch_array();
    outgoing
        .finalize(array, &mut [&mut luo])
        .unwrap()
        .hand_over()
}

/// A list in which each of `count` pages has a bitmap of its own, and the area of these pages.
fn scattered_area(count: u64) -> (Sim, BootData, KhoVmalloc) {
    let (sim, heap) = machine(count);
    let (boot, area) = {
        let alloc = SimAlloc::new(&sim.memory, PAGE, [heap]);
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let pages: Vec<_> = (1..=count).map(|i| addr(i << 24)).collect();
        let area = vmalloc::preserve(outgoing.tracker(), &pages, Order::ZERO).unwrap();
        let (array, state) = (sim.scratch_array(), StateTree::new());
        let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        (ready.unwrap().hand_over(), area)
    };
    (sim, boot, area)
}

/// To look for each page of an area is not to look through the list for each.
#[test]
fn an_area_in_a_long_list() {
    let work = [1000, 2000, 4000].map(|count| {
        let (mut sim, boot, area) = scattered_area(count);
        let memory = Counting::new(&mut sim);
        let incoming = memory.check(boot, &mut [0; 1 << 14]).unwrap();
        memory.lent();
        let area = incoming.vmalloc(area, &mut vec![0; 1 << 19]);
        assert_eq!(area.unwrap().groups().count() as u64, count);
        memory.lent()
    });
    assert_linear("an area in a long list", &work);
}

/// Without room for an index the list may be looked through a few times; for more, more workspace is
/// asked for, and is enough.
#[test]
fn an_area_in_a_list_without_an_index() {
    for (count, is_enough) in [(300, true), (6000, false)] {
        let (mut sim, boot, area) = scattered_area(count);
        let memory = Counting::new(&mut sim);
        let incoming = memory.check(boot, &mut [0; 1 << 14]).unwrap();
        memory.lent();
        // A window has all of these pages, and half of it has no room for two words for each.
        let window = (count as usize) << (24 - 12 - 6);
        let mut workspace = vec![0; if is_enough { 2 * count as usize } else { 256 }];
        let first = incoming.vmalloc(area, &mut workspace).err();
        println!("{count} without an index: {} bytes lent", memory.lent());
        match first {
            None => assert!(is_enough),
            Some(IncomingError { fault, .. }) => {
                assert!(!is_enough);
                let Fault::Workspace { words } = fault else {
                    panic!("{fault}");
                };
                assert!((words as usize) < 2 * window, "{words}");
                workspace.resize(words as usize, 0);
                incoming.vmalloc(area, &mut workspace).unwrap();
            }
        }
    }
}

/// Entries that stand for nothing are looked at once, and so is the list of their pages.
#[test]
fn a_file_of_holes() {
    let work = [4096, 8192, 16384].map(|count| {
        let (mut sim, heap) = machine(count / 8);
        let file = (0..count).map(|i| (1 << 16) + i).collect();
        let boot = memory_file(&sim, heap, file, |_| ());
        let entries: Vec<_> = {
            let memory = Counting::new(&mut sim);
            let incoming = memory.check(boot, &mut [0; 4096]).unwrap();
            let session = incoming.luo().known().unwrap().session_named("vm");
            let file = session.unwrap().file(1).unwrap().memfd().unwrap();
            file.vmalloc().groups().collect()
        };
        // All but the first and the last.
        for (i, page) in entries.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == entries.len());
            let start = page.start().as_u64() + if first { 16 } else { 0 };
            let end = page.end().as_u64() - if last { 16 } else { 0 };
            let zeroes = vec![0; (end - start) as usize];
            sim.memory.write(addr(start), &zeroes).unwrap();
        }
        let memory = Counting::new(&mut sim);
        let incoming = memory.check(boot, &mut [0; 4096]).unwrap();
        let session = incoming.luo().known().unwrap().session_named("vm");
        let file = session.unwrap().file(1).unwrap().memfd().unwrap();
        memory.lent();
        let offset = |at: u64| file.locate(at).map(|segment| segment.offset);
        let last = (count - 1) << 12;
        assert_eq!(offset(5), Some(5));
        assert_eq!(offset(last + 5), Some(last + 5));
        for hole in [1 << 12, last / 2, last - 1] {
            assert_eq!(offset(hole), None);
        }
        memory.lent()
    });
    assert_linear("a file of holes", &work);
    // The list of their pages has one page itself: what matters is how often it is read.
    assert!(work[2] < 16384 * 256, "{work:?} bytes lent");
}

/// Folios of two orders that take turns, in a list that does not ascend.
#[test]
fn orders_that_take_turns() {
    let work = [250, 500, 1000].map(|turns| {
        let mut sim = Sim::new(PAGE);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            let near = (0..turns).flat_map(|i| [(FREE * 4 + i * 4, 0), (FREE * 4 + i * 4 + 2, 1)]);
            let far = (16..16 + turns / 5).map(|i| (i << 12, 0));
            for (page, o) in near.chain(far) {
                tracker.preserve_folio(addr(page << 12), order(o)).unwrap();
            }
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let (array, state) = (sim.scratch_array(), StateTree::new());
            let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
            ready.unwrap().hand_over()
        };
        // The last two entries of order 0 change places.
        let map = {
            let memory = Counting::new(&mut sim);
            let incoming = memory.check(boot, &mut [0; 4096]).unwrap();
            incoming.map_addr().as_u64()
        };
        let word = |at: u64| sim.memory.word(addr(at)).unwrap();
        let chunks =
            std::iter::successors(Some(map), |&chunk| Some(word(chunk)).filter(|&c| c != 0));
        let is_first = |&chunk: &u64| word(chunk + 8) & 0xffff_ffff == 0;
        let chunk = chunks.into_iter().find(is_first).unwrap();
        let count = word(chunk + 8) >> 32;
        let last = chunk + 16 * count;
        let bytes: Vec<_> = [last, last + 8, last - 16, last - 8]
            .iter()
            .flat_map(|&at| word(at).to_le_bytes())
            .collect();
        sim.memory.write(addr(last - 16), &bytes).unwrap();
        let memory = Counting::new(&mut sim);
        let incoming = memory.check(boot, &mut [0; 4096]).unwrap();
        let expected = turns * 2 + turns / 5 + 1;
        assert_eq!(incoming.folios().count() as u64, expected);
        memory.lent()
    });
    assert_linear("orders that take turns", &work);
}

/// A tree of regions is read in each pass over all claims, so that a long one allows few of them.
#[test]
fn regions_that_are_read_time_and_again() {
    const BLOB: u64 = 2048;
    let (mut sim, heap) = machine(8192);
    let file = (0..300).map(|i| (1 << 20) + (i << 12)).collect();
    let boot = memory_file(&sim, heap, file, |outgoing| {
        let mut tree = FdtWriter::new().unwrap();
        let root = tree.begin_node("").unwrap();
        tree.property_string("compatible", memblock::COMPATIBLE)
            .unwrap();
        tree.property("filler", &vec![0; (BLOB as usize - 1) << 12])
            .unwrap();
        tree.end_node(root).unwrap();
        outgoing
            .add_blob(memblock::NODE, &tree.finish().unwrap())
            .unwrap();
    });
    let memory = Counting::new(&mut sim);
    let error = memory.check(boot, &mut [0; 1]).err().unwrap();
    assert!(matches!(error.fault, Fault::Workspace { .. }), "{error}");
    let spent = memory.lent();
    println!("regions: {spent} bytes lent");
    assert!(spent < 80 * (BLOB << 12), "{spent} bytes lent");
    let mut workspace = vec![0; 1];
    memory.check_as_asked(boot, &mut workspace).unwrap();
}

/// To compare names is to go through all that lies between them. Whatever the names are, it is done a
/// few times, or a workspace is asked for, and that is enough.
#[test]
fn names_in_a_large_description() {
    const NODES: usize = 4000;
    for (twice, same) in [(false, false), (true, false), (false, true)] {
        let (mut sim, boot) = inline(0, |tree| {
            tree.begin("large");
            for _ in 0..60_000 {
                tree.begin("n");
                tree.end();
            }
            tree.end();
            for i in 0..NODES {
                let name = if twice && i == NODES - 1 { 7 } else { i };
                tree.begin(&format!("n{name}"));
                tree.end();
            }
            tree.begin("properties");
            for i in 0..NODES {
                let name = if same && i == NODES - 1 { 7 } else { i };
                tree.property(&format!("p{name}"), &[]);
            }
            tree.end();
        });
        let memory = Counting::new(&mut sim);
        let words = 8 * (NODES as u64 + 2);
        if !twice && !same {
            let error = memory.check(boot, &mut [0; 256]).err().unwrap();
            assert_eq!(error.part, Part::RootFdt);
            assert_eq!(error.fault, Fault::Workspace { words });
        }
        let mut workspace = vec![0; words as usize];
        match memory.check(boot, &mut workspace).map(drop) {
            Ok(()) => assert!(!twice && !same),
            Err(IncomingError { part, fault }) => {
                assert!(twice || same);
                assert_eq!(part, Part::RootFdt);
                assert!(matches!(fault, Fault::Duplicate { .. }), "{fault}");
            }
        }
    }
}

/// A name that cannot be compared in a fixed number of steps is none.
#[test]
fn names_of_more_than_64_bytes() {
    for (len, is_name) in [(64, true), (65, false)] {
        let (mut sim, boot) = inline(0, |tree| {
            tree.begin(&format!("n@{}", "0".repeat(len - 2)));
            tree.end();
        });
        let memory = Counting::new(&mut sim);
        let checked = memory.check(boot, &mut [0; 256]);
        let fault = checked.err().map(|error| error.fault);
        assert_eq!(fault.is_none(), is_name, "{fault:?}");
        assert!(matches!(fault, None | Some(Fault::Name { .. })));
    }
}

/// As many regions as there may be, the first of which has much in it.
#[test]
fn regions_of_one_name() {
    for twice in [false, true] {
        let (mut sim, boot) = inline(0, |tree| {
            tree.begin(memblock::NODE);
            tree.property("compatible", b"memblock-v1\0");
            for i in 0..256 {
                let name = if twice && i == 255 { 7 } else { i };
                tree.begin(&format!("r{name}"));
                tree.property("compatible", b"reserve-mem-v1\0");
                tree.property("start", &(1u64 << 20).to_le_bytes());
                tree.property("size", &8u64.to_le_bytes());
                for _ in 0..if i == 0 { 60_000 } else { 0 } {
                    tree.begin("n");
                    tree.end();
                }
                tree.end();
            }
            tree.end();
        });
        let memory = Counting::new(&mut sim);
        let checked = memory.check(boot, &mut [0; 4096]);
        match checked {
            Ok(incoming) => {
                assert!(!twice);
                assert_eq!(incoming.reserve_mem().iter().count(), 256);
            }
            Err(IncomingError { part, fault }) => {
                assert!(twice);
                // The root says nothing of the names inside a node.
                assert_eq!(part, Part::ReserveMem);
                assert!(matches!(fault, Fault::Duplicate { .. }), "{fault}");
            }
        }
    }
}

//! The most that can be handed over, and what one more is refused with.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{FREE, Sim, addr, check, order, pages, range};
use kho_abi::NameError;
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_core::incoming::{Folio, Incoming, Machine, Region, RootFdt};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile};
use kho_core::outgoing::{BlockSet, Outgoing, OutgoingError, StateTree, Tracker, reserve_mem};
use kho_core::translate::{TranslateError, translate};
use kho_hal::sim::{Faulty, SimAlloc, SimMemory};
use kho_hal::{FrozenMem, PageSize, PhysAddr, PhysMem, PhysRange};
use vm_fdt::FdtWriter;

const PAGE: PageSize = PageSize::Size4K;

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
fn blocks() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let mut set = BlockSet::<[u8; 64]>::default();
    // The machine's memory ends earlier than what the format allows.
    let most = 10_000 * 63;
    let full = set.resize(&tracker, most).unwrap_err();
    assert!(matches!(full, OutgoingError::Alloc(_)), "{full}");
    let max = most as u64;
    let too_many = Err(OutgoingError::TooMany { max });
    assert_eq!(set.resize(&tracker, most + 1), too_many);
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

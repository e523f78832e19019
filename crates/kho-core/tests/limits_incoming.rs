//! Where the incoming side ends: the last that it takes, the error for one more, and which entry is wrong.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use common::{FREE, HEAP, Sim, addr, order, pages, range};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::{BLOB_SIZE, Generation, PRESERVED_DATA, PRESERVED_MEMORY_MAP};
use kho_abi::memblock::{COMPATIBLE, NODE, REGION_COMPATIBLE, SIZE, START};
use kho_core::incoming::{Component, Fault, Folio, Incoming, IncomingError, Machine, Part};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile, Preserved};
use kho_core::outgoing::{Outgoing, OutgoingError, StateTree};
use kho_hal::sim::{FrozenSim, SimMemory};
use kho_hal::{PageSize, PhysAddr, PhysMem};
use victim::{Victim, listed, victim};
use vm_fdt::FdtWriter;

fn refusal(victim: &Victim) -> (Part, Fault) {
    let IncomingError { part, fault } = victim.take_over().unwrap_err();
    (part, fault)
}

#[test]
fn description() {
    let mut v = victim();
    let size = v.boot_fdt() + 4;
    v.put_bytes(size, &4096u32.to_be_bytes());
    v.take_over().unwrap();
    v.at.boot.fdt_size = 8192;
    v.put_bytes(size, &4097u32.to_be_bytes());
    let fault = Fault::Count {
        at: v.at.boot.fdt_addr,
        found: 4097,
        max: 4096,
    };
    assert_eq!(refusal(&v), (Part::RootFdt, fault));
}

#[test]
fn scratch_areas() {
    let mut v = victim();
    // Areas of size 0 are legal.
    v.at.boot.scratch_size = 1026 * 16;
    v.take_over().unwrap();
    v.at.boot.scratch_size += 16;
    let fault = Fault::Count {
        at: v.at.boot.scratch_addr,
        found: 1027 * 16,
        max: 1026 * 16,
    };
    assert_eq!(refusal(&v), (Part::Scratch, fault));
}

#[test]
fn objects_of_files() {
    let v = victim();
    let object = |i: u64| v.at.flbs + 16 + i * 64;
    v.put(v.at.flbs + 8, 63);
    for i in 1..63 {
        v.put_bytes(object(i), format!("object {i}").as_bytes());
    }
    v.take_over().unwrap();
    {
        let lent = v.lent();
        let incoming = lent.check(v.at.boot, v.generation).unwrap();
        let luo = incoming.luo().known().unwrap();
        assert_eq!(luo.flbs().len(), 63);
        let found = luo.flb("object 40").unwrap();
        assert!(std::ptr::eq(found, luo.flbs().get(40).unwrap()));
        assert!(luo.flb("object 63").is_none());
        assert_eq!(luo.flb_pages(), 1);
    }
    v.put_bytes(object(50), b"object 7\0");
    let at = addr(v.at.flbs);
    assert_eq!(refusal(&v), (Part::Luo, Fault::Duplicate { at }));
    v.put_bytes(object(3), &[0; 48]);
    let at = addr(object(3));
    assert_eq!(refusal(&v), (Part::Luo, Fault::Name { at }));
    // Without objects, there is no page for them.
    v.put(v.at.luo + 24, 0);
    let lent = v.lent();
    let incoming = lent.check(v.at.boot, v.generation).unwrap();
    assert_eq!(incoming.luo().known().unwrap().flb_pages(), 0);
}

/// Regions of less than a page, of which nothing is preserved, by name.
fn check_regions(names: &[String]) -> Result<usize, IncomingError> {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_string("compatible", COMPATIBLE).unwrap();
    for name in names {
        let node = fdt.begin_node(name).unwrap();
        fdt.property_string("compatible", REGION_COMPATIBLE)
            .unwrap();
        fdt.property(START, &1u64.to_le_bytes()).unwrap();
        fdt.property(SIZE, &2u64.to_le_bytes()).unwrap();
        fdt.end_node(node).unwrap();
    }
    fdt.end_node(root).unwrap();
    let (boot, blob) = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let blob = outgoing.add_blob(NODE, &fdt.finish().unwrap()).unwrap();
        let finalized = outgoing.finalize(sim.scratch_array(), &mut []);
        (finalized.unwrap().hand_over(), blob.start())
    };
    let frozen = sim.memory.freeze();
    let incoming = common::check(&frozen, boot, page).map_err(|error| {
        assert_eq!(error.part, Part::ReserveMem);
        match error.fault {
            Fault::Count { at, .. } | Fault::Duplicate { at } => assert_eq!(at, blob),
            _ => {}
        }
        error
    })?;
    Ok(incoming.reserve_mem().iter().count())
}

#[test]
fn regions() {
    let mut names: Vec<_> = (0..257).map(|i| format!("r{i}")).collect();
    let error = check_regions(&names).unwrap_err().fault;
    let is_count = |fault: &Fault| {
        matches!(
            fault,
            Fault::Count {
                found: 257,
                max: 256,
                ..
            }
        )
    };
    assert!(is_count(&error), "{error}");
    names.pop();
    assert_eq!(check_regions(&names), Ok(256));
    names.pop();
    names.push("r17".to_owned());
    let error = check_regions(&names).unwrap_err().fault;
    assert!(matches!(error, Fault::Duplicate { .. }), "{error}");
}

#[test]
fn metadata_of_another_form() {
    let is_known = |v: &Victim| {
        let lent = v.lent();
        let incoming = lent.check(v.at.boot, v.generation).unwrap();
        let metadata = incoming.metadata();
        assert!(!matches!(metadata, Component::Absent));
        metadata.known().is_some()
    };
    let v = victim();
    assert!(is_known(&v));
    v.put_bytes(v.at.metadata, &2u32.to_le_bytes());
    assert!(!is_known(&v));
    let v = victim();
    v.put_bytes(v.at.metadata + 4, &[0xff]);
    assert!(!is_known(&v), "a release that is no text");
}

/// A memory file of these folios.
struct Memory {
    folios: Vec<(u64, Folio)>,
    preserved: Option<Preserved>,
}

impl Memory {
    fn file(&self) -> MemfdFile<'_> {
        MemfdFile {
            pos: 0,
            size: FOLIOS << 12,
            seals: 0,
            folios: &self.folios,
        }
    }
}

impl<'m> LiveFile<common::SimTracker<'m>> for Memory {
    fn compatible(&self) -> &str {
        kho_abi::memfd::COMPATIBLE
    }
    fn identity(&self) -> u64 {
        1
    }
    fn preserve(&mut self, tracker: &common::SimTracker<'m>) -> Result<u64, OutgoingError> {
        let preserved = memfd::preserve(tracker, self.file())?;
        self.preserved = Some(preserved);
        Ok(preserved.data())
    }
    fn unpreserve(&mut self, tracker: &common::SimTracker<'m>) {
        let preserved = self.preserved.take().unwrap();
        memfd::unpreserve(tracker, self.file(), preserved).unwrap();
    }
}

/// Folios in a file, a page of them and some of a second page.
const FOLIOS: u64 = 256 + 44;

/// Where folio `index` of the file is; not in the order of the file.
fn place(index: u64) -> PhysAddr {
    addr((FREE + (index * 7) % FOLIOS * 2) << 12)
}

/// A machine that handed over a file of so many pages, how, and where its descriptor is.
fn memory_file(count: u64) -> (Sim, kho_core::BootData, u64) {
    let sim = Sim::new(PageSize::Size4K);
    let folio = |index| {
        let order = order(0);
        let addr = place(index);
        (index, Folio { addr, order })
    };
    let file = Memory {
        folios: (0..count).map(folio).collect(),
        preserved: None,
    };
    let (boot, at) = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let tracker = outgoing.tracker();
        // What is moved later goes here.
        let spare = pages(sim.page, SPARE, 1).start();
        tracker.preserve_folio(spare, order(0)).unwrap();
        let mut luo = Luo::new(&outgoing, 0).unwrap();
        luo.create_session(tracker, "vm").unwrap();
        luo.preserve_file(tracker, "vm", 1, Box::new(file)).unwrap();
        let boot = outgoing
            .finalize(sim.scratch_array(), &mut [&mut luo])
            .unwrap()
            .hand_over();
        let lent = victim::Lent::new(&sim);
        let machine = Machine::unknown(sim.page);
        let incoming = Incoming::check(&lent, boot, machine, &mut [0; 64]).unwrap();
        let session = incoming.luo().known().unwrap().session_named("vm").unwrap();
        (boot, session.file(1).unwrap().data())
    };
    (sim, boot, at)
}

/// A page of memory, of which nobody else knows.
const SPARE: u64 = FREE - 1;

/// Makes sure that the file has its folios but for `holes`, wherever one looks.
fn assert_file(frozen: &FrozenSim<'_>, boot: kho_core::BootData, count: u64, holes: &[u64]) {
    let incoming = common::check(frozen, boot, PageSize::Size4K).unwrap();
    let session = incoming.luo().known().unwrap().session_named("vm").unwrap();
    let file = session.file(1).unwrap().memfd().unwrap();
    let expected = |i: u64| (!holes.contains(&i)).then(|| place(i));
    let segments = file.segments().map(|s| (s.offset >> 12, s.range.start()));
    let all = (0..count).filter_map(|i| Some((i, expected(i)?)));
    assert_eq!(segments.collect::<Vec<_>>(), all.collect::<Vec<_>>());
    for i in 0..=count {
        let found = file.locate(i << 12).map(|segment| segment.range.start());
        let expected = expected(i).filter(|_| i < count);
        assert_eq!(found, expected, "page {i} without {holes:?}");
    }
}

fn put(sim: &Sim, at: u64, word: u64) {
    sim.memory.write(addr(at), &word.to_le_bytes()).unwrap();
}

/// Each page of the array is read as far as it goes, and the last as far as it has entries.
#[test]
fn entries_of_a_memory_file() {
    let (mut sim, boot, at) = memory_file(FOLIOS);
    let list = sim.memory.word(addr(at + 32)).unwrap();
    let array = sim.memory.word(addr(list + 8)).unwrap();
    let second = sim.memory.word(addr(list + 16)).unwrap();
    // The second page of the array goes elsewhere, and what is behind the last entry is none.
    let spare = SPARE << 12;
    for word in (0..4096).step_by(8) {
        let entry = sim.memory.word(addr(second + word)).unwrap();
        put(&sim, spare + word, if word < 44 * 16 { entry } else { !0 });
        put(&sim, second + word, !0);
    }
    put(&sim, list + 16, spare);
    assert_file(&sim.memory.freeze(), boot, FOLIOS, &[]);
    for (entry, index) in [(array + 5 * 16, 3), (spare + 7 * 16, 1000)] {
        let was = sim.memory.word(addr(entry + 8)).unwrap();
        put(&sim, entry + 8, index);
        let frozen = sim.memory.freeze();
        let checked = common::check(&frozen, boot, PageSize::Size4K).map(drop);
        let fault = Fault::Unsorted { at: addr(entry) };
        let part = Part::Memfd;
        assert_eq!(checked, Err(IncomingError { part, fault }));
        put(&sim, entry + 8, was);
    }
}

/// Holes that fill what is looked at first, and those at the end of a full page of the array.
#[test]
fn holes_in_a_memory_file() {
    const COUNT: u64 = 256;
    for holes in [
        0..0,
        0..1,
        6..200,
        128..129,
        128..255,
        128..256,
        200..256,
        255..256,
        0..255,
        0..256,
    ] {
        let holes: Vec<u64> = holes.collect();
        let (mut sim, boot, at) = memory_file(COUNT);
        let list = sim.memory.word(addr(at + 32)).unwrap();
        let array = sim.memory.word(addr(list + 8)).unwrap();
        for hole in &holes {
            put(&sim, array + hole * 16, 0);
            put(&sim, array + hole * 16 + 8, 0);
        }
        assert_file(&sim.memory.freeze(), boot, COUNT, &holes);
    }
}

/// Names are told apart however few words there are to sort them in.
#[test]
fn names_of_sessions_in_little_memory() {
    let mut sim = Sim::new(PageSize::Size4K);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let mut luo = Luo::new(&outgoing, 0).unwrap();
        for i in 0..90 {
            let name = format!("vm{i}");
            luo.create_session(outgoing.tracker(), &name).unwrap();
        }
        outgoing
            .finalize(sim.scratch_array(), &mut [&mut luo])
            .unwrap()
            .hand_over()
    };
    let frozen = sim.memory.freeze();
    for words in 0..3 {
        let machine = Machine::unknown(PageSize::Size4K);
        let incoming = Incoming::check(&frozen, boot, machine, &mut vec![0; words]).unwrap();
        assert_eq!(incoming.luo().known().unwrap().sessions().count(), 90);
    }
}

/// The sentence that people read.
#[test]
fn errors_name_the_part() {
    let mut v = victim();
    v.at.boot.fdt_addr = addr(0);
    let error = v.take_over().unwrap_err();
    assert_eq!(error.to_string(), "root FDT: there is no handover");
}

/// Sub-blobs may lie side by side in one page; one byte that two have is named.
#[test]
fn sub_blobs_side_by_side() {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let at = (FREE << 12) + 0x100;
    let mut check = |second: u64| {
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let folio = addr(FREE << 12);
            outgoing.tracker().preserve_folio(folio, order(0)).unwrap();
            for (name, start) in [("a", at), ("b", second)] {
                outgoing.add_subtree(name, range(start, 16)).unwrap();
            }
            let finalized = outgoing.finalize(sim.scratch_array(), &mut []);
            finalized.unwrap().hand_over()
        };
        let frozen = sim.memory.freeze();
        common::check(&frozen, boot, page).map(drop)
    };
    for apart in [at + 16, at - 16, at + 17] {
        assert_eq!(check(apart), Ok(()));
    }
    for (second, addr) in [
        (at + 15, addr(at + 15)),
        (at - 15, addr(at)),
        (at, addr(at)),
    ] {
        let (part, fault) = (Part::Subtree, Fault::Overlap { addr });
        assert_eq!(check(second), Err(IncomingError { part, fault }));
    }
}

/// A description with one sub-blob, whose node has these properties.
fn with_blob(v: &Victim, compatible: &str, properties: &[(&str, &[u8])]) {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_string("compatible", compatible).unwrap();
    fdt.property(PRESERVED_MEMORY_MAP, &v.at.map.to_le_bytes())
        .unwrap();
    let node = fdt.begin_node("tree").unwrap();
    for (name, value) in properties {
        fdt.property(name, value).unwrap();
    }
    fdt.end_node(node).unwrap();
    fdt.end_node(root).unwrap();
    v.put_bytes(v.boot_fdt(), &fdt.finish().unwrap());
}

/// Where a size may be missing, one that is no number is still wrong; elsewhere it may not.
#[test]
fn sizes_of_sub_blobs() {
    let v = victim();
    let tree = [0xd00d_feed_u32, 48].map(u32::to_be_bytes).concat();
    v.put_bytes(v.at.note, &tree);
    let at = v.at.note.to_le_bytes();
    let check = |compatible, properties: &[(&str, &[u8])]| {
        with_blob(&v, compatible, properties);
        let lent = v.lent();
        let machine = Machine::unknown(v.sim.page);
        let incoming = Incoming::check(&lent, v.at.boot, machine, &mut [0; 64])?;
        Ok(incoming.subtree("tree").unwrap().range.size())
    };
    let size = 5u64.to_le_bytes();
    let is_missing = IncomingError {
        part: Part::Subtree,
        fault: Fault::Property {
            at: v.at.boot.fdt_addr,
            name: BLOB_SIZE,
        },
    };
    for compatible in ["kho-v2", "kho-v3", "kho-v4"] {
        let place: (&str, &[u8]) = (PRESERVED_DATA, &at);
        let found = check(compatible, &[(BLOB_SIZE, &size), place]);
        assert_eq!(found, Ok(5), "{compatible}");
        let found = check(compatible, &[(BLOB_SIZE, &size[..4]), place]);
        assert_eq!(found, Err(is_missing.clone()), "{compatible}");
        let found = check(compatible, &[place]);
        let expected = match compatible {
            "kho-v2" => Ok(48),
            _ => Err(is_missing.clone()),
        };
        assert_eq!(found, expected, "{compatible}");
    }
}

#[test]
fn entries_of_an_area() {
    let entry = |list: u64, i: u64| addr(list + 8 + i * 8);
    // The list says that it has more pages.
    let v = victim();
    let first = v.at.area.first.get();
    let second = v.word(first);
    let third = victim::spare(&v, 0, true);
    v.put(second, third);
    v.put(
        entry(second, 89).as_u64(),
        v.word(entry(second, 88).as_u64()),
    );
    let at = entry(second, 89);
    let max = 600;
    let fault = Fault::Count {
        at,
        found: 601,
        max,
    };
    assert_eq!(refusal(&v), (Part::Subtree, fault));
    // The first ends early.
    let v = victim();
    v.put(entry(first, 7).as_u64(), 0);
    let at = entry(first, 7);
    assert_eq!(refusal(&v), (Part::Subtree, Fault::Null { at }));
    // An area of 510 pages needs one page, one of 511 two: more are refused.
    for (pages, used) in [(510u32, 1), (511, 2)] {
        let mut v = victim();
        v.at.area.total_pages = pages.into();
        for i in u64::from(pages)..511 {
            v.put(entry(first, i).as_u64(), 0);
        }
        v.put(entry(second, 0).as_u64(), 0);
        v.put(first, if used == 2 { second } else { 0 });
        v.take_over().unwrap();
        let (last, more) = match used {
            1 => (first, second),
            _ => (second, victim::spare(&v, 0, true)),
        };
        v.put(last, more);
        let fault = match used {
            // It ends early.
            1 => Fault::Null {
                at: entry(first, 510),
            },
            _ => Fault::Null {
                at: entry(second, 0),
            },
        };
        assert_eq!(refusal(&v), (Part::Subtree, fault));
    }
}

/// Entries of the root beyond those that 52 bits of addresses need.
#[test]
fn slots_of_the_root_of_the_tree() {
    let v = victim();
    let leaf = v.leaf();
    for slot in [3usize, 4, 5, 6, 8, 16, 256, 511] {
        let entry = v.at.map + slot as u64 * 8;
        v.put(entry, leaf);
        let at = addr(v.at.map);
        assert_eq!(refusal(&v), (Part::Map, Fault::Geometry { at, slot }));
        v.put(entry, 0);
    }
    v.take_over().unwrap();
}

/// What a reader makes of a list of chunks, whose entries say what a bitmap stands for and where it
/// is.
fn check_list(
    bits: u64,
    chunks: &[&[(u64, u64)]],
    v1_bitmaps: Option<V1Bitmaps>,
) -> Result<Generation, IncomingError> {
    let mut v = listed(Generation::V1Small);
    let first = 1 << 12;
    let count = chunks.len() as u64;
    v.sim.memory = {
        let memory = SimMemory::new([pages(v.sim.page, 0, FREE), pages(v.sim.page, first, count)]);
        let memory = memory.unwrap();
        let mut heap = vec![0; FREE as usize * 4096];
        v.sim.memory.read(addr(0), &mut heap).unwrap();
        memory.write(addr(0), &heap).unwrap();
        memory
    };
    for (i, entries) in (first..).zip(chunks) {
        let chunk = i << 12;
        let next = if i + 1 < first + count {
            (i + 1) << 12
        } else {
            0
        };
        let mut bytes = [next, (entries.len() as u64) << 32]
            .map(u64::to_le_bytes)
            .concat();
        for (start, bitmap) in entries.iter() {
            bytes.extend(start.to_le_bytes());
            bytes.extend(bitmap.to_le_bytes());
        }
        v.put_bytes(chunk, &bytes);
    }
    v.put(v.in_root(v.at.map), first << 12);
    v.put(SPARE_BITMAPS, bits);
    let frozen = v.sim.memory.freeze();
    let machine = Machine {
        v1_bitmaps,
        ..Machine::unknown(v.sim.page)
    };
    let mut workspace = vec![0; 1 << 17];
    let incoming = Incoming::check(&frozen, v.at.boot, machine, &mut workspace)?;
    Ok(incoming.generation())
}

/// A place in the heap that nobody uses.
const SPARE_BITMAPS: u64 = (HEAP.0 + HEAP.1 - 4) << 12;

/// One entry proves how large the bitmaps are, by what it stands for or by where its bitmap is.
#[test]
fn what_proves_the_size_of_bitmaps() {
    // What a bitmap of a page stands for, and one of 512 bytes.
    const PAGE: u64 = 1 << 27;
    const SMALL: u64 = 1 << 24;
    let plain: &[(u64, u64)] = &[(0, SPARE_BITMAPS), (PAGE, SPARE_BITMAPS + 4096)];
    let by_start: &[(u64, u64)] = &[
        (2 * PAGE, SPARE_BITMAPS + 8192),
        (3 * PAGE + SMALL, SPARE_BITMAPS + 12288),
    ];
    let by_bitmap: &[(u64, u64)] = &[
        (2 * PAGE, SPARE_BITMAPS + 8192),
        (3 * PAGE, SPARE_BITMAPS + 8704),
    ];
    let small = Ok(Generation::V1Small);
    for proof in [by_start, by_bitmap] {
        assert_eq!(check_list(0, &[proof], None), small);
        assert_eq!(check_list(0, &[plain, proof], None), small);
        assert_eq!(check_list(0, &[proof, plain], None), small);
    }
    let error = check_list(0, &[plain], None).unwrap_err();
    assert!(matches!(error.fault, Fault::Ambiguous { .. }), "{error}");
}

/// Each look at a list that is not sorted is one at all of it, so it may not be long.
#[test]
fn entries_of_a_list_that_is_not_sorted() {
    let check = |count: u64, is_sorted: bool| {
        let start = |i: u64| if is_sorted { i } else { count - i } << 24;
        let entries: Vec<_> = (0..count).map(|i| (start(i), SPARE_BITMAPS)).collect();
        let chunks: Vec<_> = entries.chunks(255).collect();
        // In the end, all the bitmaps are one, in which there is a folio.
        check_list(1, &chunks, Some(V1Bitmaps::Small)).unwrap_err()
    };
    let twice = |error: IncomingError| matches!(error.fault, Fault::ReachedTwice { .. });
    // With the 16 chunks, 4,096.
    let most = 4080;
    assert!(twice(check(most, false)));
    let (part, at) = (Part::Map, addr(1 << 24));
    let fault = Fault::Unsorted { at };
    assert_eq!(check(most + 1, false), IncomingError { part, fault });
    assert!(twice(check(most + 1, true)));
}

#[test]
fn entries_of_a_list() {
    for generation in [Generation::V1Small, Generation::Sketch] {
        let v = listed(generation);
        let at = addr(v.at.map + 32);
        v.put(at.as_u64() + 8, 0);
        assert_eq!(refusal(&v), (Part::Map, Fault::Null { at }));
    }
}

/// In a list that is not sorted, eight bitmaps are found with one look.
#[test]
fn looks_at_a_list_that_is_not_sorted() {
    const FOLIOS: u64 = 160;
    let sim = Sim::new(PageSize::Size4K);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for i in 0..FOLIOS {
            let at = addr((FREE + (i << 13)) << 12);
            outgoing.tracker().preserve_folio(at, order(1)).unwrap();
        }
        let state = StateTree::new();
        let array = sim.scratch_array();
        let finalized = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        finalized.unwrap().hand_over()
    };
    let word = |at: u64| sim.memory.word(addr(at)).unwrap();
    let machine = Machine {
        v1_bitmaps: Some(V1Bitmaps::Small),
        ..Machine::unknown(sim.page)
    };
    let read = || {
        let lent = victim::Lent::new(&sim);
        let incoming = Incoming::check(&lent, boot, machine, &mut [0; 256]).unwrap();
        lent.forget_reads();
        let folios: Vec<_> = incoming.folios().collect();
        (incoming.map_addr(), folios, lent.reads())
    };
    let (map, folios, _) = read();
    assert_eq!(folios.len() as u64, 1 + FOLIOS);
    // The second chunk has those of order 1; the first and the last change places.
    let entry = |i: u64| word(map.as_u64()) + 16 + i * 16;
    for half in [0, 8] {
        let (first, last) = (entry(0) + half, entry(FOLIOS - 1) + half);
        let was = [word(first), word(last)];
        put(&sim, first, was[1]);
        put(&sim, last, was[0]);
    }
    let (_, same, reads) = read();
    assert_eq!(same, folios);
    // For each folio, its bitmap and, twice, its entry; for each eighth, the list.
    assert!(reads < FOLIOS * 4, "{reads} reads");
}

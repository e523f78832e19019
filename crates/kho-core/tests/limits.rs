//! The most that is accepted, and what one more is refused with; and which entry is wrong.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use common::{FREE, Sim, addr, order, pages};
use kho_abi::memblock::{COMPATIBLE, NODE, REGION_COMPATIBLE, SIZE, START};
use kho_core::incoming::{Component, Fault, Folio, Incoming, IncomingError, Machine, Part};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile, Preserved};
use kho_core::outgoing::{Outgoing, OutgoingError};
use kho_hal::sim::FrozenSim;
use kho_hal::{PageSize, PhysAddr, PhysMem};
use victim::{Victim, victim};
use vm_fdt::FdtWriter;

fn refusal(victim: &Victim) -> (Part, Fault) {
    let IncomingError { part, fault } = victim.take_over().unwrap_err();
    (part, fault)
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

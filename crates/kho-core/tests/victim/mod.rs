//! A handover with everything in it, and where each part lies, so that it can be damaged.
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_abi::vmalloc::KhoVmalloc;
use kho_core::incoming::{Folio, Incoming, IncomingError, Machine, Ram, Region};
use kho_core::outgoing::luo::{Flb, LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile, Preserved};
use kho_core::outgoing::{
    BlockSet, Outgoing, OutgoingError, StateTree, metadata, reserve_mem, vmalloc,
};
use kho_core::{BootData, Tracker};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{FrozenMem, MemError, PageSize, PhysAddr, PhysMem, PhysRange};

use crate::common::{FREE, HEAP, SCRATCH, Sim, addr, order, pages, range};

pub type SimOutgoing<'m> = Outgoing<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;
type SimTracker<'m> = Tracker<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;

/// Registers: they can be read, and must not be.
pub const MMIO: (u64, u64) = (1 << 20, 16);

/// Where RAM ends, in pages. Preserved folios between [`FREE`] and here have no memory behind them.
pub const RAM_END: u64 = 1 << 16;

/// The region that is reserved by name.
pub const REGION: (u64, u64) = (FREE + 64, 10);

/// The folios of the memory file: first page and order.
pub const FILE: [(u64, u32); 3] = [(FREE + 128, 0), (FREE + 132, 2), (FREE + 136, 0)];

/// A folio that nothing in the library names.
pub const LONE: (u64, u32) = (FREE + 8, 3);

/// Where the parts of a handover are.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    pub boot: BootData,
    /// The first page of the map.
    pub map: u64,
    /// The sub-blobs.
    pub note: u64,
    pub metadata: u64,
    pub memblock: u64,
    pub luo: u64,
    /// What LUO leads to.
    pub sessions: u64,
    pub flbs: u64,
    pub files: u64,
    /// The files of the second session.
    pub other_files: u64,
    pub memfd: u64,
    /// The list of the pages that hold the memory file's folios, and the first of these pages.
    pub list: u64,
    pub folios: u64,
    /// An area and blocks that only their owner knows of.
    pub area: KhoVmalloc,
    pub blocks: u64,
}

pub struct Victim {
    pub sim: Sim,
    pub generation: Generation,
    pub at: Parts,
}

/// What a victim's file or object is.
enum Live {
    Memory(Option<Preserved>),
    Nothing,
}

fn folios() -> Vec<(u64, Folio)> {
    let mut index = 0;
    let place = |(first, o): (u64, u32)| {
        let folio = Folio {
            addr: addr(first << 12),
            order: order(o),
        };
        let at = index;
        index += folio.order.pages();
        (at, folio)
    };
    FILE.into_iter().map(place).collect()
}

fn file(folios: &[(u64, Folio)]) -> MemfdFile<'_> {
    MemfdFile {
        pos: 5,
        size: (6 << 12) - 9,
        seals: 1,
        folios,
    }
}

impl<'m> LiveFile<SimTracker<'m>> for Live {
    fn compatible(&self) -> &str {
        match self {
            Self::Memory(_) => kho_abi::memfd::COMPATIBLE,
            Self::Nothing => "nothing-v1",
        }
    }
    fn identity(&self) -> u64 {
        matches!(self, Self::Memory(_)).into()
    }
    fn flbs(&self) -> &[&str] {
        &["object"]
    }
    fn preserve(&mut self, tracker: &SimTracker<'m>) -> Result<u64, OutgoingError> {
        match self {
            Self::Memory(preserved) => Ok(preserved
                .insert(memfd::preserve(tracker, file(&folios()))?)
                .data()),
            Self::Nothing => Ok(0),
        }
    }
    fn unpreserve(&mut self, tracker: &SimTracker<'m>) {
        if let Self::Memory(Some(preserved)) = *self {
            memfd::unpreserve(tracker, file(&folios()), preserved).unwrap();
        }
    }
}

impl<'m> Flb<SimTracker<'m>> for Live {
    fn name(&self) -> &str {
        "object"
    }
    fn preserve(&mut self, _: &SimTracker<'m>) -> Result<u64, OutgoingError> {
        Ok(9)
    }
    fn unpreserve(&mut self, _: &SimTracker<'m>) {}
}

/// Adds everything that a handover with sub-blobs can have; returns area and blocks.
fn fill(outgoing: &SimOutgoing<'_>) -> (KhoVmalloc, u64) {
    let page = outgoing.tracker().page_size();
    metadata::publish(outgoing, "victim", None).unwrap();
    let region = Region {
        name: "oops",
        range: pages(page, REGION.0, REGION.1),
    };
    reserve_mem::publish(outgoing, &[region]).unwrap();
    outgoing.add_blob("note", b"hello").unwrap();
    let groups: Vec<_> = (0..600)
        .map(|i| addr((FREE + 2000 + i * 2) << 12))
        .collect();
    let area = vmalloc::preserve(outgoing.tracker(), &groups, order(0)).unwrap();
    let mut blocks = BlockSet::<[u8; 64]>::default();
    blocks.resize(outgoing.tracker(), 70).unwrap();
    (area, blocks.head().as_u64())
}

/// Memory with registers next to it.
pub fn machine() -> Sim {
    let page = PageSize::Size4K;
    let memory = [pages(page, 0, FREE), pages(page, MMIO.0, MMIO.1)];
    Sim {
        memory: SimMemory::new(memory).unwrap(),
        page,
        scratch: [pages(page, SCRATCH.0, SCRATCH.1)],
    }
}

/// A handover in the newest generation.
pub fn victim() -> Victim {
    let sim = machine();
    let (boot, map, area, blocks) = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let (lone, o) = LONE;
        let tracker = outgoing.tracker();
        tracker.preserve_folio(addr(lone << 12), order(o)).unwrap();
        let (area, blocks) = fill(&outgoing);
        let tracker = outgoing.tracker();
        let mut luo = Luo::new(&outgoing, 0).unwrap();
        luo.register_flb(tracker, Box::new(Live::Nothing)).unwrap();
        luo.create_session(tracker, "vm0").unwrap();
        luo.create_session(tracker, "vm1").unwrap();
        luo.preserve_file(tracker, "vm0", 1, Box::new(Live::Memory(None)))
            .unwrap();
        luo.preserve_file(tracker, "vm1", 1, Box::new(Live::Nothing))
            .unwrap();
        let map = tracker.root().as_u64();
        let boot = outgoing
            .finalize(sim.scratch_array(), &mut [&mut luo])
            .unwrap()
            .hand_over();
        (boot, map, area, blocks)
    };
    let at = parts(&sim, boot, map, area, blocks);
    Victim {
        sim,
        generation: Generation::V4,
        at,
    }
}

fn parts(sim: &Sim, boot: BootData, map: u64, area: KhoVmalloc, blocks: u64) -> Parts {
    let word = |at: u64| sim.memory.word(addr(at)).unwrap();
    let lent = Lent::new(sim);
    let incoming = lent.check(boot, Generation::V4).unwrap();
    let find = |name: &str| {
        let blob = incoming.subtree(name).unwrap();
        blob.range.start().as_u64()
    };
    let luo = find(kho_abi::luo::NODE);
    let sessions = word(luo + 16);
    let files = word(sessions + 16 + 64);
    let memfd = word(files + 16 + 48);
    let list = word(memfd + 32);
    Parts {
        boot,
        map,
        note: find("note"),
        metadata: find(kho_abi::metadata::NODE),
        memblock: find(kho_abi::memblock::NODE),
        luo,
        sessions,
        flbs: word(luo + 24),
        files,
        other_files: word(sessions + 16 + 80 + 64),
        memfd,
        list,
        folios: word(list + 8),
        area,
        blocks,
    }
}

/// A handover whose map is a list of chunks: of each order 0, 1 and 3 some folios, so that there
/// are several chunks.
pub fn listed(generation: Generation) -> Victim {
    let sim = machine();
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let tracker = outgoing.tracker();
        for (first, o) in [(FREE + 1, 0), (FREE + 0x3000, 0), (FREE + 2, 1), LONE] {
            tracker.preserve_folio(addr(first << 12), order(o)).unwrap();
        }
        let state = StateTree::new();
        let finalized = outgoing.finalize_as(generation, sim.scratch_array(), &mut [], &state);
        finalized.unwrap().hand_over()
    };
    let map = {
        let lent = Lent::new(&sim);
        let incoming = lent.check(boot, generation).unwrap();
        incoming.map_addr().as_u64()
    };
    let none = KhoVmalloc {
        first: 0.into(),
        total_pages: 0.into(),
        flags: 0.into(),
        order: 0.into(),
    };
    let at = Parts {
        boot,
        map,
        note: 0,
        metadata: 0,
        memblock: 0,
        luo: 0,
        sessions: 0,
        flbs: 0,
        files: 0,
        other_files: 0,
        memfd: 0,
        list: 0,
        folios: 0,
        area: none,
        blocks: 0,
    };
    Victim {
        sim,
        generation,
        at,
    }
}

impl Victim {
    /// Where the description is.
    pub fn boot_fdt(&self) -> u64 {
        self.at.boot.fdt_addr.as_u64()
    }

    pub fn word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.sim.memory.read(addr(at), &mut word).unwrap();
        u64::from_le_bytes(word)
    }

    pub fn put(&self, at: u64, word: u64) {
        self.put_bytes(at, &word.to_le_bytes());
    }

    pub fn put_bytes(&self, at: u64, bytes: &[u8]) {
        self.sim.memory.write(addr(at), bytes).unwrap();
    }

    /// Where the root description has this number; it occurs once.
    pub fn in_root(&self, number: u64) -> u64 {
        self.find(self.at.boot.fdt_addr.as_u64(), &number.to_le_bytes())
    }

    /// Where the page at `at` has these bytes, from a multiple of 4 on; they occur once.
    pub fn find(&self, at: u64, bytes: &[u8]) -> u64 {
        let mut page = [0; 4096];
        self.sim.memory.read(addr(at), &mut page).unwrap();
        let mut found = (0..page.len())
            .step_by(4)
            .filter(|&i| page[i..].starts_with(bytes));
        let (first, second) = (found.next(), found.next());
        assert_eq!(second, None, "{bytes:x?} occurs twice at {at:#x}");
        at + first.unwrap() as u64
    }

    /// The way from the root of the tree to the leaf of order 0: tables and the entries taken.
    pub fn path(&self) -> Vec<(u64, u64)> {
        let mut path = Vec::new();
        let mut node = self.at.map;
        for _ in 1..kho_abi::radix::depth(self.sim.page) {
            let entries = (0..512).map(|i| node + i * 8);
            // The key of order 0 has the highest bit, so it is the last.
            let entry = entries.rev().find(|&at| self.word(at) != 0).unwrap();
            path.push((node, entry));
            node = self.word(entry);
        }
        path
    }

    /// The leaf of order 0.
    pub fn leaf(&self) -> u64 {
        let path = self.path();
        self.word(path.last().unwrap().1)
    }

    /// Takes a folio out of the tree, which the writer's own tree is as well.
    pub fn forget(&self, folio: Folio) {
        let key = kho_abi::radix::Key::encode(folio.addr, folio.order, self.sim.page).unwrap();
        let mut node = self.at.map;
        for level in (1..kho_abi::radix::depth(self.sim.page)).rev() {
            let index = kho_abi::radix::table_index(key, level, self.sim.page);
            node = self.word(node + index as u64 * 8);
        }
        let bit = kho_abi::radix::leaf_bit(key, self.sim.page) as u64;
        let word = node + bit / 64 * 8;
        assert_ne!(self.word(word) & 1 << (bit % 64), 0);
        self.put(word, self.word(word) & !(1 << (bit % 64)));
    }

    /// The chunks of a list.
    pub fn chunks(&self) -> Vec<u64> {
        let next = |&chunk: &u64| Some(self.word(chunk + self.next_offset())).filter(|&c| c != 0);
        std::iter::successors(Some(self.at.map), next).collect()
    }

    /// Where a chunk has the address of the next.
    pub fn next_offset(&self) -> u64 {
        if self.generation == Generation::Sketch {
            8
        } else {
            0
        }
    }

    pub fn lent(&self) -> Lent<'_> {
        Lent::new(&self.sim)
    }

    /// Everything that can be asked for: the check, and all that follows from it.
    pub fn take_over(&self) -> Result<(), IncomingError> {
        let lent = self.lent();
        let incoming = lent.check(self.at.boot, self.generation)?;
        ask_everything(&incoming);
        if self.at.blocks != 0 {
            let mut workspace = [0; 64];
            incoming.vmalloc(self.at.area, &mut workspace)?;
            incoming.blocks::<[u8; 64]>(addr(self.at.blocks), &mut workspace)?;
        }
        Ok(())
    }
}

/// Calls every accessor and follows all that it returns.
pub fn ask_everything<M: FrozenMem>(incoming: &Incoming<'_, M>) {
    let mut found = 0u64;
    let mut note = |number: u64| found = found.wrapping_add(number);
    incoming
        .folios()
        .for_each(|folio| note(folio.addr.as_u64()));
    incoming.extents().for_each(|extent| {
        note(extent.size());
        incoming
            .restore_pages(extent)
            .into_iter()
            .flatten()
            .for_each(|f| note(f.addr.as_u64()));
        note(incoming.folio_containing(extent.start()).is_some().into());
        note(incoming.restore_folio(extent.start()).is_some().into());
    });
    incoming.for_each_map_page(|page| note(page.size()));
    incoming
        .scratch()
        .areas()
        .for_each(|area| note(area.size()));
    incoming.subtrees().for_each(|blob| note(blob.range.size()));
    note(
        incoming
            .metadata()
            .known()
            .map_or(0, |metadata| metadata.kexec_count.get().into()),
    );
    incoming
        .reserve_mem()
        .iter()
        .for_each(|region| note(region.range.size()));
    note(
        incoming
            .reserve_mem()
            .find("oops")
            .map_or(0, |region| region.range.size()),
    );
    let Some(luo) = incoming.luo().known() else {
        return;
    };
    luo.flbs().iter().for_each(|flb| note(flb.count.get()));
    for session in luo.sessions() {
        note(session.name().len() as u64);
        for file in session.files() {
            note(file.token());
            let Some(memory) = file.memfd() else { continue };
            memory.segments().for_each(|segment| note(segment.offset));
            memory
                .vmalloc()
                .chunks()
                .for_each(|chunk| note(chunk.as_u64()));
            memory
                .vmalloc()
                .groups()
                .for_each(|group| note(group.size()));
            for at in (0..8).map(|i| i << 12).chain([u64::MAX]) {
                note(memory.locate(at).is_some().into());
                note(memory.vmalloc().locate(at).is_some().into());
            }
        }
    }
    std::hint::black_box(found);
}

/// All RAM and scratch as it is now, and who reads what.
///
/// Registers can be read here, as on a machine, and whoever does fails the test. So does who was told
/// what is RAM and reads a byte that is none, or who reads without end.
pub struct Lent<'a> {
    bytes: Vec<(PhysRange, Vec<u64>)>,
    reads: AtomicU64,
    /// Whether the reader was told what is RAM.
    told: AtomicBool,
    pub ram: Vec<PhysRange>,
    page: PageSize,
    sim: std::marker::PhantomData<&'a Sim>,
}

/// More reads than any check of a handover of these tests takes.
const MAX_READS: u64 = 2_000_000;

impl<'a> Lent<'a> {
    pub fn new(sim: &'a Sim) -> Self {
        let copy = |range: PhysRange| {
            let words = sim.memory.words(range.start(), (range.size() / 8) as usize);
            let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
            (range, words.unwrap().iter().map(load).collect())
        };
        Self {
            bytes: sim.memory.ranges().map(copy).collect(),
            reads: AtomicU64::new(0),
            told: AtomicBool::new(false),
            // On many machines there are registers, or nothing, at address 0.
            ram: vec![pages(sim.page, 1, RAM_END - 1)],
            page: sim.page,
            sim: std::marker::PhantomData,
        }
    }

    pub fn check(
        &self,
        boot: BootData,
        generation: Generation,
    ) -> Result<Incoming<'_, Self>, IncomingError> {
        let machine = Machine {
            page_size: self.page,
            ram: Ram::Known(&self.ram),
            v1_bitmaps: match generation {
                Generation::V1Small => Some(V1Bitmaps::Small),
                Generation::V1Page => Some(V1Bitmaps::Page),
                _ => None,
            },
        };
        self.told.store(true, Ordering::Relaxed);
        let checked = Incoming::check(self, boot, machine, &mut [0; 64]);
        // What people are told is what the check refuses, and it does not read on without end.
        let problems = self.diagnose(boot, machine);
        match &checked {
            Ok(_) => assert_eq!(problems, Ok(Vec::new())),
            Err(error) => {
                let known = |problems: &[IncomingError]| problems.contains(error);
                assert!(
                    problems.as_deref().map_or_else(|_| true, known),
                    "{error} is not one of {problems:?}"
                );
            }
        }
        checked
    }

    /// The same where RAM ends below this page, and goes on behind it.
    pub fn without(mut self, hole: u64) -> Self {
        self.ram = vec![
            pages(self.page, 1, hole - 1),
            pages(self.page, hole + 1, RAM_END - hole - 1),
        ];
        self
    }

    /// Every problem, or that the workspace is too small to tell.
    pub fn diagnose(
        &self,
        boot: BootData,
        machine: Machine<'_>,
    ) -> Result<Vec<IncomingError>, IncomingError> {
        let knows = matches!(machine.ram, Ram::Known(_));
        self.told.store(knows, Ordering::Relaxed);
        let mut problems = Vec::new();
        let report = |error| {
            if !problems.contains(&error) {
                problems.push(error);
            }
        };
        Incoming::diagnose(self, boot, machine, &mut [0; 64], report)?;
        Ok(problems)
    }

    /// Counts anew.
    pub fn forget_reads(&self) {
        self.reads.store(0, Ordering::Relaxed);
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl FrozenMem for Lent<'_> {
    fn bytes(&self, at: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(reads < MAX_READS, "reading does not end");
        let absent = MemError::Absent {
            addr: at,
            len: len as u64,
        };
        let wanted = PhysRange::new(at, len as u64).ok_or(absent)?;
        let mmio = pages(self.page, MMIO.0, MMIO.1);
        assert!(!mmio.overlaps(wanted), "a register at {at} was read");
        let told = self.told.load(Ordering::Relaxed);
        assert!(
            !told || self.ram.iter().any(|ram| ram.contains_range(wanted)),
            "{len} bytes at {at} were read, and are no RAM"
        );
        let inside = |(range, _): &&(PhysRange, Vec<u64>)| range.contains_range(wanted);
        let (range, words) = self.bytes.iter().find(inside).ok_or(absent)?;
        let from = (at.as_u64() - range.start().as_u64()) as usize;
        zerocopy::IntoBytes::as_bytes(words.as_slice())
            .get(from..from + len)
            .ok_or(absent)
    }
}

/// A range that is the heap, from which all descriptions come.
pub fn heap() -> PhysRange {
    range(HEAP.0 << 12, HEAP.1 << 12)
}

/// A free page of the heap, zeroed and marked as used in `victim`'s map if it is to be preserved.
pub fn spare(victim: &Victim, n: u64, preserved: bool) -> u64 {
    let at = (HEAP.0 + HEAP.1 - 1 - n) << 12;
    if preserved {
        let page = at >> 12;
        let word = victim.leaf() + page / 64 * 8;
        victim.put(word, victim.word(word) | 1 << (page % 64));
    }
    at
}

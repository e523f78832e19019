//! The n-th allocation or the n-th access to memory fails, for every n and every operation.
//!
//! Afterwards the state is as before or as after, nothing leaks, and a retry succeeds
//! ([`every_failure`]). Of an outgoing operation the state is what a successor would read: preserved
//! folios and sub-blobs, and what is allocated besides the tree, which never shrinks.
//!
//! The tables are in the order of the public functions: each that touches memory or allocates pages
//! has its line.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use std::sync::atomic::Ordering;

use common::{FREE, Sim, addr, order, pages};
use kho_abi::fdt::Generation;
use kho_abi::luo::LuoFileSer;
use kho_abi::vmalloc::KhoVmalloc;
use kho_core::incoming::{Folio, Region};
use kho_core::outgoing::luo::{Flb, LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile};
use kho_core::outgoing::{
    BlockSet, Outgoing, OutgoingError, Participant, StateTree, Value, metadata, reserve_mem,
    vmalloc, write_scratch_array,
};
use kho_core::{BootData, BootPlace, Tracker};
use kho_hal::sim::{Attempt, Failing, Faulty, SimAlloc, SimMemory, every_failure};
use kho_hal::{Order, PageSize, PhysAddr, PhysMem, PhysRange};

const PAGE: PageSize = PageSize::Size4K;

type Memory<'m> = &'m Faulty<&'m SimMemory>;
type Alloc<'m> = &'m SimAlloc<&'m SimMemory>;
type Out<'m> = Outgoing<'m, Memory<'m>, Alloc<'m>>;
type Track<'m> = Tracker<'m, Memory<'m>, Alloc<'m>>;

/// What an operation needs besides the handover.
#[derive(Default)]
struct World<'m> {
    page: Option<(PhysAddr, Order)>,
    area: Option<KhoVmalloc>,
    file: Option<memfd::Preserved>,
    blocks: BlockSet<LuoFileSer>,
    luo: Option<Luo<Track<'m>>>,
}

type Prepare = for<'m> fn(&Out<'m>, &mut World<'m>);
type Work = for<'m> fn(&mut Out<'m>, &mut World<'m>) -> Result<(), OutgoingError>;

/// What a successor would find, and what is allocated besides the tree's pages.
#[derive(Debug, PartialEq)]
struct State {
    folios: Vec<(PhysAddr, Order)>,
    description: Vec<u8>,
    live: Vec<(PhysAddr, Order)>,
    blocks: Vec<u64>,
    sessions: Vec<(Vec<u8>, Vec<u64>)>,
    objects: Vec<(String, u64)>,
}

fn state<'m>(outgoing: &mut Out<'m>, world: &mut World<'m>, sim: &Sim) -> State {
    let mut tree = Vec::new();
    let note = |page| tree.push(page);
    outgoing.tracker().for_each_page(note).unwrap();
    let mut folios = Vec::new();
    leaves(sim, outgoing.tracker().root().as_u64(), 5, 0, &mut folios);
    let fdt = fdt_of(sim);
    let mut description = vec![0; 4096];
    sim.memory.read(fdt, &mut description).unwrap();
    // Behind its end there may be the rest of a longer one.
    let len = u32::from_be_bytes(description[4..8].try_into().unwrap());
    description.truncate(len as usize);
    let mut live = outgoing.tracker().page_alloc().live();
    live.retain(|(page, _)| !tree.contains(page));
    let tokens = world.blocks.iter(outgoing.tracker());
    let blocks = tokens.map(|entry| entry.unwrap().token.get()).collect();
    let (mut sessions, mut objects) = (Vec::new(), Vec::new());
    if let Some(luo) = &mut world.luo {
        let array = sim.scratch_array();
        let boot = outgoing
            .finalize(array, &mut [&mut *luo])
            .unwrap()
            .hand_over();
        let lent = victim::Lent::new(sim);
        let incoming = lent.check(boot, Generation::V4).unwrap();
        let found = incoming.luo().known().unwrap();
        for session in found.sessions() {
            let files = session.files().map(|file| file.token());
            sessions.push((session.name().to_vec(), files.collect()));
        }
        let object = |flb: &kho_abi::luo::LuoFlbSer| (flb.name.to_string(), flb.count.get());
        objects = found.flbs().iter().map(object).collect();
        luo.unfreeze(outgoing.tracker());
    }
    State {
        folios,
        description,
        live,
        blocks,
        sessions,
        objects,
    }
}

/// The folios of a tree of 4 KiB pages, read bit by bit.
fn leaves(sim: &Sim, node: u64, level: u32, key: u64, folios: &mut Vec<(PhysAddr, Order)>) {
    let words = sim.memory.words(addr(node), 512).unwrap();
    for (i, word) in (0..).zip(words) {
        let word = word.load(Ordering::Relaxed);
        if word == 0 {
            continue;
        }
        if level > 0 {
            leaves(sim, word, level - 1, key << 9 | i, folios);
        }
        for bit in (0..64).filter(|bit| level == 0 && word >> bit & 1 != 0) {
            let key = key << 15 | i << 6 | bit;
            let order_bit = 63 - key.leading_zeros();
            let o = 52 - order_bit;
            folios.push((addr((key ^ 1 << order_bit) << (12 + o)), order(o)));
        }
    }
}

/// An operation on a handover.
struct Operation<'t, 'm> {
    sim: &'t Sim,
    memory: Memory<'m>,
    alloc: Alloc<'m>,
    outgoing: Out<'m>,
    world: World<'m>,
    work: Work,
}

impl Attempt for Operation<'_, '_> {
    type State = State;
    type Error = OutgoingError;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![("allocation", self.alloc), ("access", self.memory)]
    }

    fn state(&mut self) -> State {
        state(&mut self.outgoing, &mut self.world, self.sim)
    }

    fn work(&mut self) -> Result<(), OutgoingError> {
        (self.work)(&mut self.outgoing, &mut self.world).inspect_err(|error| {
            let named = matches!(error, OutgoingError::Alloc(_) | OutgoingError::Memory(_));
            assert!(named, "not what failed: {error}");
        })
    }
}

fn every_failure_of(prepare: Prepare, work: Work) -> u64 {
    every_failure(|attempt| {
        let sim = Sim::new(PAGE);
        let memory = Faulty::new(&sim.memory);
        let alloc = sim.alloc();
        let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch).unwrap();
        let outgoing = Outgoing::new(tracker).unwrap();
        let mut world = World::default();
        prepare(&outgoing, &mut world);
        attempt(&mut Operation {
            sim: &sim,
            memory: &memory,
            alloc: &alloc,
            outgoing,
            world,
            work,
        });
    })
}

/// The only page of the heap that starts with the magic of a tree, when nothing else was added.
fn fdt_of(sim: &Sim) -> PhysAddr {
    let magic = u64::from(u32::from_le_bytes([0xd0, 0x0d, 0xfe, 0xed]));
    let heap = common::HEAP;
    (heap.0..heap.0 + heap.1)
        .map(|page| addr(page << 12))
        .find(|&page| sim.memory.word(page).unwrap() & 0xffff_ffff == magic)
        .unwrap()
}

fn folios() -> Vec<(u64, Folio)> {
    (0..300)
        .map(|i| {
            let folio = Folio {
                addr: addr((FREE + i) << 12),
                order: Order::ZERO,
            };
            (i, folio)
        })
        .collect()
}

fn file(folios: &[(u64, Folio)]) -> MemfdFile<'_> {
    MemfdFile {
        pos: 0,
        size: 300 << 12,
        seals: 0,
        folios,
    }
}

/// Folios of two orders, far enough apart for several leaves.
fn spread() -> impl Iterator<Item = (PhysAddr, Order)> + Clone {
    (0..300).map(|i| (addr((FREE + i * 512) << 12), order(i as u32 % 2)))
}

/// Finalizes in a generation, with what users hand over in nodes; they become sub-blobs or stay inline.
fn finalize_as(o: &mut Out<'_>, generation: Generation) -> Result<(), OutgoingError> {
    let array = addr(common::SCRATCH.0 << 12);
    let mut state = StateTree::new();
    for name in ["a", "b"] {
        state.add_node(&[], name).unwrap();
        let value = Value::Bytes(&[7; 5000]);
        let value = if generation.is_nested() {
            value
        } else {
            Value::U64(7)
        };
        state.add_property(&[name], "p", value).unwrap();
    }
    let ready = o.finalize_as(generation, array, &mut [], &state);
    ready.map(|ready| ready.abort())
}

fn preserve_many(o: &Out<'_>) {
    let range = pages(PAGE, FREE + 1, 5_000);
    o.tracker().preserve_pages(range).unwrap();
}

/// So many groups that the list of them has `chunks` pages.
fn groups(chunks: u64) -> Vec<PhysAddr> {
    (0..chunks * 511 - 3)
        .map(|i| addr((FREE + i * 2) << 12))
        .collect()
}

fn with_area(o: &Out<'_>, w: &mut World<'_>, chunks: u64) {
    let groups = groups(chunks);
    w.area = Some(vmalloc::preserve(o.tracker(), &groups, Order::ZERO).unwrap());
}

/// Destroys LUO, which does not say why it could not be, but comes back.
fn destroy_luo<'m>(o: &Out<'m>, w: &mut World<'m>) -> Result<(), OutgoingError> {
    let luo = w.luo.take().unwrap();
    luo.destroy(o).map_err(|left| {
        w.luo = Some(left);
        OutgoingError::Memory(kho_hal::MemError::Misaligned { addr: addr(1) })
    })
}

fn region() -> Region<'static> {
    Region {
        name: "r",
        range: pages(PAGE, FREE + 5001, 77),
    }
}

/// A file that preserves a page, and an object that it needs.
struct Live {
    number: u64,
    frozen: bool,
}

impl Live {
    fn new(number: u64) -> Box<Self> {
        Box::new(Self {
            number,
            frozen: false,
        })
    }
}

impl<'m> LiveFile<Track<'m>> for Live {
    fn compatible(&self) -> &str {
        "live-v1"
    }
    fn identity(&self) -> u64 {
        self.number
    }
    fn flbs(&self) -> &[&str] {
        &["object"]
    }
    fn preserve(&mut self, tracker: &Track<'m>) -> Result<u64, OutgoingError> {
        tracker.preserve_folio(addr((FREE + self.number) << 12), Order::ZERO)?;
        Ok(self.number)
    }
    fn unpreserve(&mut self, tracker: &Track<'m>) {
        let page = addr((FREE + self.number) << 12);
        // The test makes one access fail, which may be this one.
        if tracker.unpreserve_folio(page, Order::ZERO).is_err() {
            tracker.unpreserve_folio(page, Order::ZERO).unwrap();
        }
    }
    fn freeze(&mut self, _: &Track<'m>, data: u64) -> Result<u64, OutgoingError> {
        assert!(!self.frozen);
        self.frozen = true;
        Ok(data)
    }
    fn unfreeze(&mut self, _: &Track<'m>) {
        assert!(self.frozen);
        self.frozen = false;
    }
}

impl<'m> Flb<Track<'m>> for Live {
    fn name(&self) -> &str {
        "object"
    }
    fn preserve(&mut self, tracker: &Track<'m>) -> Result<u64, OutgoingError> {
        LiveFile::preserve(self, tracker)
    }
    fn unpreserve(&mut self, tracker: &Track<'m>) {
        LiveFile::unpreserve(self, tracker);
    }
    fn freeze(&mut self, tracker: &Track<'m>) -> Result<(), OutgoingError> {
        LiveFile::freeze(self, tracker, 0).map(drop)
    }
    fn unfreeze(&mut self, tracker: &Track<'m>) {
        LiveFile::unfreeze(self, tracker);
    }
}

/// A session with files, so many that one more needs a block.
fn with_session<'m>(o: &Out<'m>, w: &mut World<'m>) {
    let mut luo = Luo::new(o, 0).unwrap();
    luo.register_flb(o.tracker(), Live::new(999)).unwrap();
    luo.create_session(o.tracker(), "zero").unwrap();
    luo.create_session(o.tracker(), "one").unwrap();
    for i in 1..64 {
        luo.preserve_file(o.tracker(), "one", i, Live::new(i))
            .unwrap();
    }
    w.luo = Some(luo);
}

fn luo<'w, 'm>(w: &'w mut World<'m>) -> &'w mut Luo<Track<'m>> {
    w.luo.as_mut().unwrap()
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $prepare:expr => $work:expr;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let faults = every_failure_of($prepare, $work);
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

// `Tracker`.
operations! {
    preserving_a_folio: |_, _| {} => |o, _| o.tracker().preserve_folio(addr(FREE << 12), order(3));
    preserving_folios: |_, _| {} => |o, _| o.tracker().preserve_folios(spread());
    unpreserving_folios: |o, _| o.tracker().preserve_folios(spread()).unwrap()
        => |o, _| o.tracker().unpreserve_folios(spread());
    preserving_a_run: |_, _| {}
        => |o, _| o.tracker().preserve_run(pages(PAGE, FREE, 1 << 18), order(1));
    unpreserving_a_run: |o, _| {
        o.tracker().preserve_run(pages(PAGE, FREE, 1 << 18), order(1)).unwrap();
    } => |o, _| o.tracker().unpreserve_run(pages(PAGE, FREE, 1 << 18), order(1));
    unpreserving_a_folio: |o, _| o.tracker().preserve_folio(addr(FREE << 12), order(3)).unwrap()
        => |o, _| o.tracker().unpreserve_folio(addr(FREE << 12), order(3));
    preserving_pages: |_, _| {} => |o, _| o.tracker().preserve_pages(pages(PAGE, FREE + 1, 5_000));
    unpreserving_pages: |o, _| preserve_many(o)
        => |o, _| o.tracker().unpreserve_pages(pages(PAGE, FREE + 1, 5_000));
    checking_pages: |o, _| preserve_many(o)
        => |o, _| o.tracker().check_pages_preserved(pages(PAGE, FREE + 1, 5_000));
    allocating_preserved_memory: |_, _| {} => |o, _| o.tracker().alloc_preserved(9000).map(drop);
    freeing_preserved_memory: |o, w| w.page = Some(o.tracker().alloc_preserved(9000).unwrap())
        => |o, w| {
            let (addr, order) = w.page.unwrap();
            o.tracker().free_preserved(addr, order)
        };
    visiting_pages: |o, _| preserve_many(o) => |o, _| {
        let mut pages = 0;
        o.tracker().for_each_page(|_| pages += 1)?;
        assert_eq!(pages, 52);
        Ok(())
    };
}

// `Outgoing`.
operations! {
    adding_a_subtree: |_, _| {} => |o, _| o.add_subtree("s", pages(PAGE, FREE, 1));
    removing_a_subtree: |o, _| o.add_subtree("s", pages(PAGE, FREE, 1)).unwrap()
        => |o, _| o.remove_subtree("s").map(drop);
    adding_a_sub_blob: |_, _| {} => |o, _| o.add_blob("b", &[1; 9000]).map(drop);
    removing_a_sub_blob: |o, _| { o.add_blob("b", &[1; 9000]).unwrap(); }
        => |o, _| o.remove_blob("b");
    finalizing: with_session => |o, w| {
        let array = addr(common::SCRATCH.0 << 12);
        o.finalize(array, &mut [luo(w)]).map(|ready| ready.abort())
    };
    finalizing_as_a_sketch: |o, _| preserve_many(o) => |o, _| finalize_as(o, Generation::Sketch);
    finalizing_as_series_v5: |o, _| preserve_many(o) => |o, _| finalize_as(o, Generation::SeriesV5);
    finalizing_as_v1_with_small_bitmaps: |o, _| preserve_many(o)
        => |o, _| finalize_as(o, Generation::V1Small);
    finalizing_as_v1_with_pages: |o, _| preserve_many(o)
        => |o, _| finalize_as(o, Generation::V1Page);
    finalizing_as_v2: |o, _| preserve_many(o) => |o, _| finalize_as(o, Generation::V2);
    finalizing_as_v3: |o, _| preserve_many(o) => |o, _| finalize_as(o, Generation::V3);
    finalizing_as_v4: |o, _| preserve_many(o) => |o, _| finalize_as(o, Generation::V4);
}

// `BlockSet`.
operations! {
    growing_blocks: |o, w| w.blocks.resize(o.tracker(), 3).unwrap()
        => |o, w| w.blocks.resize(o.tracker(), 200);
    shrinking_blocks: |o, w| w.blocks.resize(o.tracker(), 200).unwrap()
        => |o, w| w.blocks.resize(o.tracker(), 3);
    writing_an_entry: |o, w| w.blocks.resize(o.tracker(), 200).unwrap() => |o, w| {
        let mut entry = w.blocks.read(o.tracker(), 199)?;
        entry.token = 7.into();
        w.blocks.write(o.tracker(), 199, &entry)
    };
    reading_entries: |o, w| w.blocks.resize(o.tracker(), 200).unwrap()
        => |o, w| w.blocks.iter(o.tracker()).try_for_each(|entry| entry.map(drop));
}

// `vmalloc`, `memfd`, `metadata` and `reserve_mem`.
operations! {
    preserving_an_area: |_, _| {} => |o, w| {
        w.area = Some(vmalloc::preserve(o.tracker(), &groups(2), Order::ZERO)?);
        Ok(())
    };
    unpreserving_an_area: |o, w| with_area(o, w, 2)
        => |o, w| vmalloc::unpreserve(o.tracker(), &w.area.unwrap());
    /// The list has so many pages that they are gathered in memory.
    unpreserving_a_large_area: |o, w| with_area(o, w, 5)
        => |o, w| vmalloc::unpreserve(o.tracker(), &w.area.unwrap());
    preserving_a_memory_file: |_, _| {} => |o, w| {
        w.file = Some(memfd::preserve(o.tracker(), file(&folios()))?);
        Ok(())
    };
    unpreserving_a_memory_file: |o, w| {
        w.file = Some(memfd::preserve(o.tracker(), file(&folios())).unwrap());
    } => |o, w| memfd::unpreserve(o.tracker(), file(&folios()), w.file.unwrap());
    moving_in_a_memory_file: |o, w| {
        w.file = Some(memfd::preserve(o.tracker(), file(&folios())).unwrap());
    } => |o, w| memfd::set_pos(o.tracker(), w.file.unwrap(), 5);
    publishing_metadata: |_, _| {} => |o, _| metadata::publish(o, "r", None);
    publishing_regions: |_, _| {} => |o, _| reserve_mem::publish(o, &[region()]);
}

// `Luo`; it is frozen and unfrozen as one finalizes.
operations! {
    starting_luo: |_, _| {} => |o, w| {
        w.luo = Some(Luo::new(o, 0)?);
        Ok(())
    };
    destroying_luo: with_session => |o, w| destroy_luo(o, w);
    creating_a_session: with_session => |o, w| luo(w).create_session(o.tracker(), "two");
    destroying_a_session: with_session => |o, w| luo(w).destroy_session(o.tracker(), "one");
    preserving_a_file: with_session
        => |o, w| luo(w).preserve_file(o.tracker(), "one", 64, Live::new(64));
}

/// [`Tracker::new`] and [`Outgoing::new`], before there is anything to compare.
struct Start<'m> {
    sim: &'m Sim,
    memory: Memory<'m>,
    alloc: Alloc<'m>,
    started: Option<Out<'m>>,
}

impl Attempt for Start<'_> {
    type State = Vec<(PhysAddr, Order)>;
    type Error = OutgoingError;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![("allocation", self.alloc), ("access", self.memory)]
    }

    fn state(&mut self) -> Self::State {
        self.alloc.live()
    }

    fn work(&mut self) -> Result<(), OutgoingError> {
        let tracker = Tracker::new(self.memory, self.alloc, PAGE, &self.sim.scratch)?;
        self.started = Some(Outgoing::new(tracker)?);
        Ok(())
    }
}

#[test]
fn starting() {
    let faults = every_failure(|attempt| {
        let sim = Sim::new(PAGE);
        let memory = Faulty::new(&sim.memory);
        let alloc = sim.alloc();
        attempt(&mut Start {
            sim: &sim,
            memory: &memory,
            alloc: &alloc,
            started: None,
        });
    });
    println!("{faults} faults in starting");
    assert!(faults > 0);
}

/// [`Outgoing::destroy`] and [`Tracker::destroy`]: what is left can be destroyed again.
#[test]
fn destroying() {
    let mut faults = 0;
    for n in 0.. {
        let sim = Sim::new(PAGE);
        let memory = Faulty::new(&sim.memory);
        let alloc = sim.alloc();
        let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch).unwrap();
        let outgoing = Outgoing::new(tracker).unwrap();
        preserve_many(&outgoing);
        memory.fail_at(Some(n));
        let (tree, again) = match outgoing.destroy() {
            Ok(()) => (alloc.live(), true),
            Err(left) => {
                assert!(left.destroy().is_ok(), "again after access {n}");
                (alloc.live(), false)
            }
        };
        memory.fail_at(None);
        assert_eq!(tree, [], "access {n} leaks");
        let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch).unwrap();
        tracker.preserve_folios(spread()).unwrap();
        memory.fail_at(Some(n));
        let done = match tracker.destroy() {
            Ok(()) => true,
            Err(left) => {
                // It is sound, and has forgotten what was freed: tables of larger orders come first.
                let another = (addr((FREE + 514) << 12), order(1));
                left.preserve_folio(another.0, another.1).unwrap();
                assert!(left.is_preserved(another.0, another.1));
                assert!(left.destroy().is_ok(), "again after access {n}");
                false
            }
        };
        assert_eq!(alloc.live(), [], "access {n} leaks");
        faults += u64::from(!again) + u64::from(!done);
        if again && done {
            break;
        }
    }
    println!("{faults} faults in destroying");
    assert!(faults > 0);
}

/// Something that is written to memory, and what stands there.
struct Written<'t> {
    memory: &'t Faulty<&'t SimMemory>,
    at: PhysRange,
    write: &'t dyn Fn(&Faulty<&SimMemory>) -> Result<(), OutgoingError>,
}

impl Attempt for Written<'_> {
    type State = Vec<u8>;
    type Error = OutgoingError;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![("access", self.memory)]
    }

    fn state(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.at.size() as usize];
        self.memory.read(self.at.start(), &mut bytes).unwrap();
        bytes
    }

    fn work(&mut self) -> Result<(), OutgoingError> {
        (self.write)(self.memory)
    }
}

fn every_failure_of_writing(
    write: impl Fn(&Faulty<&SimMemory>) -> Result<(), OutgoingError>,
) -> u64 {
    every_failure(|attempt| {
        let memory = SimMemory::new([pages(PAGE, 1, 1)]).unwrap();
        attempt(&mut Written {
            memory: &Faulty::new(&memory),
            at: pages(PAGE, 1, 1),
            write: &write,
        });
    })
}

/// [`write_scratch_array`].
#[test]
fn writing_scratch_areas() {
    let areas = [pages(PAGE, 1, 1), pages(PAGE, 5, 3), pages(PAGE, 9, 1)];
    let faults = every_failure_of_writing(|memory| {
        write_scratch_array(memory, addr(0x1100), &areas).map(drop)
    });
    println!("{faults} faults in writing_scratch_areas");
    assert!(faults > 0);
}

/// [`BootData::replace`]: both places are as before or both are new.
#[test]
fn replacing_boot_data() {
    let boot = BootData {
        fdt_addr: addr(0x1000),
        fdt_size: 1,
        scratch_addr: addr(0x2000),
        scratch_size: 16,
    };
    let chosen = |cells| BootPlace::Chosen {
        fdt: addr(0x1104),
        scratch: addr(0x120c),
        address_cells: cells,
        size_cells: cells,
    };
    let mut faults = 0;
    for place in [BootPlace::SetupData(addr(0x1000)), chosen(1), chosen(2)] {
        faults += every_failure_of_writing(|memory| boot.replace(memory, place));
    }
    println!("{faults} faults in replacing_boot_data");
    assert!(faults >= 3);
    // As before also where the last number does not fit.
    let memory = SimMemory::new([pages(PAGE, 1, 1)]).unwrap();
    let large = BootData {
        scratch_size: 1 << 32,
        ..boot
    };
    let max = u32::MAX.into();
    let refused = large.replace(&memory, chosen(1));
    assert_eq!(refused, Err(OutgoingError::TooMany { max }));
    assert_eq!(memory.word(addr(0x1100)), Some(0));
}

//! The n-th allocation or the n-th access to memory fails, for every n and every operation.
//!
//! Afterwards the state is as before or as after, nothing leaks, and a retry succeeds. The state is
//! what a successor would read: preserved folios and sub-blobs, and what is allocated besides the
//! tree, which never shrinks.
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
use kho_core::incoming::{Fault, Folio, Incoming, Machine, Region};
use kho_core::outgoing::luo::{Flb, LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile};
use kho_core::outgoing::{
    BlockSet, Outgoing, OutgoingError, Participant, StateTree, metadata, reserve_mem, vmalloc,
};
use kho_core::preflight::{Consumer, preflight};
use kho_core::translate::translate;
use kho_core::{BootData, BootPlace, Tracker};
use kho_hal::sim::{Faulty, SimAlloc, SimMemory};
use kho_hal::{Order, PageSize, PhysAddr, PhysMem};

const PAGE: PageSize = PageSize::Size4K;

type Memory<'m> = &'m Faulty<&'m SimMemory>;
type Alloc<'m> = &'m SimAlloc<&'m SimMemory>;
type Out<'m> = Outgoing<'m, Memory<'m>, Alloc<'m>>;
type Track<'m> = Tracker<'m, Memory<'m>, Alloc<'m>>;

/// What is made to fail.
#[derive(Clone, Copy, Debug)]
enum What {
    Allocation,
    Access,
}

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

/// What is there while an operation is tried.
struct On<'m> {
    memory: Memory<'m>,
    alloc: Alloc<'m>,
}

impl On<'_> {
    fn fail(&self, what: What, n: Option<u64>) {
        match what {
            What::Allocation => self.alloc.fail_at(n),
            What::Access => self.memory.fail_at(n),
        }
    }

    fn calls(&self, what: What) -> u64 {
        match what {
            What::Allocation => self.alloc.calls(),
            What::Access => self.memory.calls(),
        }
    }
}

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

fn state<'m>(outgoing: &mut Out<'m>, world: &mut World<'m>, sim: &Sim, on: &On<'_>) -> State {
    let mut tree = Vec::new();
    outgoing.tracker().for_each_page(|page| tree.push(page));
    let mut folios = Vec::new();
    leaves(sim, outgoing.tracker().root().as_u64(), 5, 0, &mut folios);
    let fdt = fdt_of(sim);
    let mut description = vec![0; 4096];
    sim.memory.read(fdt, &mut description).unwrap();
    // Behind its end there may be the rest of a longer one.
    let len = u32::from_be_bytes(description[4..8].try_into().unwrap());
    description.truncate(len as usize);
    let mut live = on.alloc.live();
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

/// Tries `work` with each failure in turn; returns how many there were.
fn every_failure(name: &str, prepare: Prepare, work: Work) -> u64 {
    let mut faults = 0;
    let whole = whole(prepare, work);
    for what in [What::Allocation, What::Access] {
        // Long operations do the same again and again: after some hundred, not every access fails.
        for n in (0..300).chain((300..).step_by(61)) {
            let sim = Sim::new(PAGE);
            let memory = Faulty::new(&sim.memory);
            let alloc = sim.alloc();
            let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch).unwrap();
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let mut world = World::default();
            let on = On {
                memory: &memory,
                alloc: &alloc,
            };
            prepare(&outgoing, &mut world);
            let before = state(&mut outgoing, &mut world, &sim, &on);
            on.fail(what, Some(n));
            let calls = on.calls(what);
            let result = work(&mut outgoing, &mut world);
            let failed = on.calls(what) - calls > n;
            on.fail(what, None);
            if !failed {
                result.unwrap();
                break;
            }
            faults += 1;
            let after = state(&mut outgoing, &mut world, &sim, &on);
            if result.is_err() {
                assert_eq!(after, before, "{name}: {what:?} {n} changed something");
                let retried = work(&mut outgoing, &mut world);
                assert_eq!(retried, Ok(()), "{name}: retry after {what:?} {n}");
            }
            let mut now = state(&mut outgoing, &mut world, &sim, &on);
            if result.is_ok() && LEAKS.contains(&name) {
                now.live.retain(|page| whole.live.contains(page));
            }
            assert_eq!(now, whole, "{name}: not all was done after {what:?} {n}");
        }
    }
    faults
}

/// Whoever frees the pages of a list finds each by the one before; what fails then is lost.
const LEAKS: [&str; 2] = ["unpreserving_an_area", "unpreserving_a_memory_file"];

/// What is there when nothing fails.
fn whole(prepare: Prepare, work: Work) -> State {
    let sim = Sim::new(PAGE);
    let memory = Faulty::new(&sim.memory);
    let alloc = sim.alloc();
    let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch).unwrap();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    let mut world = World::default();
    let on = On {
        memory: &memory,
        alloc: &alloc,
    };
    prepare(&outgoing, &mut world);
    work(&mut outgoing, &mut world).unwrap();
    state(&mut outgoing, &mut world, &sim, &on)
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

/// Finalizes in a generation whose map is not the tree that is kept.
fn finalize_as(o: &mut Out<'_>, generation: Generation) -> Result<(), OutgoingError> {
    let array = addr(common::SCRATCH.0 << 12);
    let ready = o.finalize_as(generation, array, &mut [], &StateTree::new());
    ready.map(|ready| ready.abort())
}

fn preserve_many(o: &Out<'_>) {
    let range = pages(PAGE, FREE + 1, 5_000);
    o.tracker().preserve_pages(range).unwrap();
}

fn groups() -> Vec<PhysAddr> {
    (0..520).map(|i| addr((FREE + i * 2) << 12)).collect()
}

fn region() -> Region<'static> {
    Region {
        name: "r",
        range: pages(PAGE, FREE + 5001, 77),
    }
}

/// A file that preserves a page, and an object that it needs.
struct Live(u64);

impl<'m> LiveFile<Track<'m>> for Live {
    fn compatible(&self) -> &str {
        "live-v1"
    }
    fn identity(&self) -> u64 {
        self.0
    }
    fn flbs(&self) -> &[&str] {
        &["object"]
    }
    fn preserve(&mut self, tracker: &Track<'m>) -> Result<u64, OutgoingError> {
        tracker.preserve_folio(addr((FREE + self.0) << 12), Order::ZERO)?;
        Ok(self.0)
    }
    fn unpreserve(&mut self, tracker: &Track<'m>) {
        let page = addr((FREE + self.0) << 12);
        // The test makes one access fail, which may be this one.
        if tracker.unpreserve_folio(page, Order::ZERO).is_err() {
            tracker.unpreserve_folio(page, Order::ZERO).unwrap();
        }
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
}

/// A session with files, so many that one more needs a block.
fn with_session<'m>(o: &Out<'m>, w: &mut World<'m>) {
    let mut luo = Luo::new(o, 0).unwrap();
    luo.register_flb(o.tracker(), Box::new(Live(999))).unwrap();
    luo.create_session(o.tracker(), "zero").unwrap();
    luo.create_session(o.tracker(), "one").unwrap();
    for i in 1..64 {
        luo.preserve_file(o.tracker(), "one", i, Box::new(Live(i)))
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
            let faults = every_failure(stringify!($name), $prepare, $work);
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

operations! {
    preserving_a_folio: |_, _| {} => |o, _| o.tracker().preserve_folio(addr(FREE << 12), order(3));
    preserving_pages: |_, _| {} => |o, _| o.tracker().preserve_pages(pages(PAGE, FREE + 1, 5_000));
    unpreserving_a_folio: |o, _| o.tracker().preserve_folio(addr(FREE << 12), order(3)).unwrap()
        => |o, _| o.tracker().unpreserve_folio(addr(FREE << 12), order(3));
    unpreserving_pages: |o, _| o.tracker().preserve_pages(pages(PAGE, FREE + 1, 5_000)).unwrap()
        => |o, _| o.tracker().unpreserve_pages(pages(PAGE, FREE + 1, 5_000));
    preserving_folios: |_, _| {} => |o, _| o.tracker().preserve_folios(spread());
    unpreserving_folios: |o, _| o.tracker().preserve_folios(spread()).unwrap()
        => |o, _| o.tracker().unpreserve_folios(spread());
    preserving_a_run: |_, _| {}
        => |o, _| o.tracker().preserve_run(pages(PAGE, FREE, 1 << 18), order(1));
    unpreserving_a_run: |o, _| {
        o.tracker().preserve_run(pages(PAGE, FREE, 1 << 18), order(1)).unwrap();
    } => |o, _| o.tracker().unpreserve_run(pages(PAGE, FREE, 1 << 18), order(1));
    freeing_preserved_memory: |o, w| w.page = Some(o.tracker().alloc_preserved(9000).unwrap())
        => |o, w| {
            let (addr, order) = w.page.unwrap();
            o.tracker().free_preserved(addr, order)
        };
    allocating_preserved_memory: |_, _| {} => |o, _| o.tracker().alloc_preserved(9000).map(drop);
    adding_a_sub_blob: |_, _| {} => |o, _| o.add_blob("b", &[1; 9000]).map(drop);
    removing_a_sub_blob: |o, _| { o.add_blob("b", &[1; 9000]).unwrap(); }
        => |o, _| o.remove_blob("b");
    adding_a_subtree: |_, _| {} => |o, _| o.add_subtree("s", pages(PAGE, FREE, 1));
    removing_a_subtree: |o, _| o.add_subtree("s", pages(PAGE, FREE, 1)).unwrap()
        => |o, _| o.remove_subtree("s").map(drop);
    publishing_metadata: |_, _| {} => |o, _| metadata::publish(o, "r", None);
    publishing_regions: |_, _| {} => |o, _| reserve_mem::publish(o, &[region()]);
    preserving_an_area: |_, _| {} => |o, w| {
        w.area = Some(vmalloc::preserve(o.tracker(), &groups(), Order::ZERO)?);
        Ok(())
    };
    unpreserving_an_area: |o, w| {
        w.area = Some(vmalloc::preserve(o.tracker(), &groups(), Order::ZERO).unwrap());
    } => |o, w| vmalloc::unpreserve(o.tracker(), &w.area.unwrap());
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
    writing_an_entry: |o, w| w.blocks.resize(o.tracker(), 200).unwrap() => |o, w| {
        let mut entry = w.blocks.read(o.tracker(), 199)?;
        entry.token = 7.into();
        w.blocks.write(o.tracker(), 199, &entry)
    };
    growing_blocks: |o, w| w.blocks.resize(o.tracker(), 3).unwrap()
        => |o, w| w.blocks.resize(o.tracker(), 200);
    shrinking_blocks: |o, w| w.blocks.resize(o.tracker(), 200).unwrap()
        => |o, w| w.blocks.resize(o.tracker(), 3);
    starting_luo: |_, _| {} => |o, w| {
        w.luo = Some(Luo::new(o, 0)?);
        Ok(())
    };
    creating_a_session: with_session => |o, w| luo(w).create_session(o.tracker(), "two");
    destroying_a_session: with_session => |o, w| luo(w).destroy_session(o.tracker(), "one");
    preserving_a_file: with_session
        => |o, w| luo(w).preserve_file(o.tracker(), "one", 64, Box::new(Live(64)));
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
}

/// The tree and the description, before there is anything to compare: all or nothing is allocated.
#[test]
fn starting() {
    let mut faults = 0;
    for (what, n) in [What::Allocation, What::Access]
        .into_iter()
        .flat_map(|what| (0..300).map(move |n| (what, n)))
    {
        let sim = Sim::new(PAGE);
        let memory = Faulty::new(&sim.memory);
        let alloc = sim.alloc();
        let on = On {
            memory: &memory,
            alloc: &alloc,
        };
        let start = || {
            let tracker = Tracker::new(&memory, &alloc, PAGE, &sim.scratch)?;
            Outgoing::new(tracker)
        };
        on.fail(what, Some(n));
        let calls = on.calls(what);
        let started = start().map(Outgoing::destroy);
        let failed = on.calls(what) > calls + n;
        on.fail(what, None);
        faults += u64::from(failed);
        // What cannot report, such as giving back, may leave something.
        assert!(started.is_ok() || alloc.live().is_empty(), "{what:?} {n}");
        assert!(start().is_ok(), "retry after {what:?} {n}");
    }
    println!("{faults} faults in starting");
    assert!(faults > 0);
}

/// The check, with every read failing in turn: an error that names the memory, and a retry succeeds.
#[test]
fn checking_a_handover() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let machine = Machine::unknown(PAGE);
    let check = || Incoming::check(&memory, v.at.boot, machine, &mut [0; 64]).map(drop);
    assert_eq!(check(), Ok(()));
    let reads = memory.calls();
    for n in 0..reads {
        memory.fail_at(Some(n));
        let failed = check();
        memory.fail_at(None);
        // The metadata is what nothing depends on.
        let fault = failed.map_err(|error| error.fault);
        assert!(
            matches!(fault, Ok(()) | Err(Fault::Memory(_))),
            "{n}: {fault:?}"
        );
    }
    assert_eq!(check(), Ok(()));
    println!("{reads} faults in checking_a_handover");
}

/// What is asked for after the check, with every read failing in turn: less is found, and nothing
/// that is not there.
#[test]
fn reading_a_handover() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let machine = Machine::unknown(PAGE);
    let incoming = Incoming::check(&memory, v.at.boot, machine, &mut [0; 64]).unwrap();
    let before = memory.calls();
    let all: Vec<_> = incoming.folios().collect();
    let folio_reads = memory.calls() - before;
    for n in 0..folio_reads {
        memory.fail_at(Some(n));
        let found: Vec<_> = incoming.folios().collect();
        memory.fail_at(None);
        assert!(found.iter().all(|folio| all.contains(folio)), "{n}");
        assert!(found.is_sorted());
    }
    let before = memory.calls();
    victim::ask_everything(&incoming);
    let reads = memory.calls() - before;
    // Each goes through everything, so only some of the many.
    let step = reads / 100;
    for n in (0..reads).step_by(step as usize) {
        lent.forget_reads();
        memory.fail_at(Some(n));
        victim::ask_everything(&incoming);
        memory.fail_at(None);
    }
    println!(
        "{} faults in reading_a_handover",
        reads / step + folio_reads
    );
}

/// What only its owner knows of, what a consumer will do with it, and the boot data: with every read
/// failing in turn, an error or less is found.
#[test]
fn looking_further() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let machine = Machine::unknown(PAGE);
    let incoming = Incoming::check(&memory, v.at.boot, machine, &mut [0; 64]).unwrap();
    let node = v.at.boot.to_setup_data(addr(0));
    let mut small = SimMemory::new([pages(PAGE, 1, 1)]).unwrap();
    small.write(addr(0x1000), &node).unwrap();
    small.write(addr(0x1e00), &0x1000u64.to_le_bytes()).unwrap();
    let frozen = small.freeze();
    let boot_memory = Faulty::new(&frozen);
    let area = || incoming.vmalloc(v.at.area, &mut [0; 256]).map(drop);
    let head = addr(v.at.blocks);
    let blocks = || {
        let blocks = incoming.blocks::<[u8; 64]>(head, &mut [0; 256]);
        blocks.map(drop)
    };
    let page = addr(victim::LONE.0 << 12);
    let bytes = || incoming.bytes(page, 1, &mut [0; 256]).map(drop);
    let mut faults = 0;
    for look in [&area as &dyn Fn() -> Result<(), _>, &blocks, &bytes] {
        let found = look();
        // Each goes through everything first, so only some of the many.
        for n in (0..).step_by(5) {
            lent.forget_reads();
            memory.fail_at(Some(n));
            let calls = memory.calls();
            let failed = look();
            memory.fail_at(None);
            if memory.calls() - calls <= n {
                assert_eq!(failed, found);
                break;
            }
            faults += 1;
            // The metadata is what nothing depends on.
            let fault = failed.clone().map_err(|error| error.fault);
            assert!(
                matches!(fault, Err(Fault::Memory(_))) || failed == found,
                "{n}: {fault:?}"
            );
        }
        assert_eq!(look(), found);
    }
    let before = memory.calls();
    let all = preflight(&incoming, Consumer::Ours);
    for n in 0..memory.calls() - before {
        memory.fail_at(Some(n));
        let _ = preflight(&incoming, Consumer::Ours);
        memory.fail_at(None);
        assert_eq!(preflight(&incoming, Consumer::Ours), all, "{n}");
        faults += 1;
    }
    let params = addr(0x1e00 - kho_abi::boot::BOOT_PARAMS_SETUP_DATA);
    let look = || BootData::from_boot_params(&boot_memory, params);
    assert_eq!(look().map(|(boot, _)| boot), Ok(v.at.boot));
    let reads = boot_memory.calls();
    for n in 0..reads {
        boot_memory.fail_at(Some(n));
        let failed = look().map_err(|error| error.fault);
        boot_memory.fail_at(None);
        assert!(matches!(failed, Err(Fault::Memory(_))), "{n}: {failed:?}");
        assert!(look().is_ok());
        faults += 1;
    }
    println!("{faults} faults in looking_further");
}

/// A translation, with every allocation, every read and every write failing in turn.
#[test]
fn translating() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let machine = Machine::unknown(PAGE);
    let incoming = Incoming::check(&memory, v.at.boot, machine, &mut [0; 64]).unwrap();
    let mut faults = 0;
    for (source, n) in (0..3).flat_map(|source| (0..400).map(move |n| (source, n))) {
        let target = SimMemory::new([pages(PAGE, 1 << 22, 256)]).unwrap();
        let out = Faulty::new(&target);
        let alloc = SimAlloc::new(&target, PAGE, target.ranges());
        match source {
            0 => alloc.fail_at(Some(n)),
            1 => out.fail_at(Some(n)),
            _ => memory.fail_at(Some(n)),
        }
        let (reads, writes) = (memory.calls(), out.calls());
        let result = translate(&incoming, Generation::V3, &out, &alloc);
        let failed = match source {
            0 => alloc.calls() > n,
            1 => out.calls() - writes > n,
            _ => memory.calls() - reads > n,
        };
        memory.fail_at(None);
        faults += u64::from(failed);
        match result {
            Ok(_) => assert!(!failed, "source {source}, {n}: not reported"),
            Err(_) => assert_eq!(alloc.live(), [], "source {source}, {n} leaks"),
        }
    }
    println!("{faults} faults in translating");
}

/// The four numbers, when a write fails: both places are as before or both are new.
#[test]
fn replacing_boot_data() {
    let memory = SimMemory::new([pages(PAGE, 1, 1)]).unwrap();
    let boot = BootData {
        fdt_addr: addr(0x1000),
        fdt_size: 1,
        scratch_addr: addr(0x2000),
        scratch_size: 16,
    };
    let out = Faulty::new(&memory);
    out.fail_at(Some(0));
    let place = BootPlace::SetupData(addr(0x1000));
    assert!(boot.replace(&out, place).is_err());
    assert_eq!(memory.word(addr(0x1010)), Some(0));
    assert_eq!(boot.replace(&out, place), Ok(()));
    assert_eq!(memory.word(addr(0x1010)), Some(0x1000));
}

//! The n-th read fails as a handover is checked, read or translated, for every n.
//!
//! The check, and what is checked later, says that it was memory, and a retry succeeds. What is asked of
//! a checked handover cannot fail: less is found then, and nothing that is not there.
//!
//! The tables are in the order of the public functions: each that touches memory has its line.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use std::fmt::Debug;
use std::num::NonZeroUsize;

use common::{FREE, addr, pages};
use kho_abi::fdt::Generation;
use kho_core::BootData;
use kho_core::incoming::{Fault, Incoming, IncomingError, Machine, Ram, Region};
use kho_core::outgoing::{Outgoing, StateTree, reserve_mem};
use kho_core::preflight::{Consumer, preflight};
use kho_core::translate::{TranslateError, translate};
use kho_hal::sim::{Attempt, Failing, Faulty, SimAlloc, SimMemory, every_failure};
use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysMem, PhysRange};

const PAGE: PageSize = PageSize::Size4K;

/// [`translate`].
struct Translation<'t> {
    incoming: &'t Incoming<'t, Faulty<&'t victim::Lent<'t>>>,
    source: &'t Faulty<&'t victim::Lent<'t>>,
    target: &'t Faulty<&'t SimMemory>,
    alloc: &'t SimAlloc<&'t SimMemory>,
    to: Generation,
}

impl Attempt for Translation<'_> {
    type State = Vec<(PhysAddr, Order)>;
    type Error = TranslateError;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![
            ("allocation", self.alloc),
            ("write", self.target),
            ("read", self.source),
        ]
    }

    fn state(&mut self) -> Self::State {
        self.alloc.live()
    }

    fn work(&mut self) -> Result<(), TranslateError> {
        translate(self.incoming, self.to, self.target, self.alloc).map(|translated| {
            assert_eq!(translated.pages.len(), self.alloc.live().len());
        })
    }
}

fn every_failure_of_translating(v: &victim::Victim, to: Generation) -> u64 {
    let lent = v.lent();
    let source = Faulty::new(&lent);
    let incoming = Incoming::check(&source, v.at.boot, machine(v), &mut [0; 64]).unwrap();
    every_failure(|attempt| {
        lent.forget_reads();
        let memory = SimMemory::new([pages(PAGE, 1 << 22, 256)]).unwrap();
        let target = Faulty::new(&memory);
        let alloc = SimAlloc::new(&memory, PAGE, memory.ranges());
        attempt(&mut Translation {
            incoming: &incoming,
            source: &source,
            target: &target,
            alloc: &alloc,
            to,
        });
    })
}

#[test]
fn translating() {
    let mut faults = every_failure_of_translating(&victim::victim(), Generation::V3);
    let listed = victim::listed(Generation::SeriesV5);
    for to in [Generation::Sketch, Generation::V1Small, Generation::V4] {
        faults += every_failure_of_translating(&listed, to);
    }
    println!("{faults} faults in translating");
}

/// What a victim's reader has to be told.
fn machine(v: &victim::Victim) -> Machine<'static> {
    Machine {
        page_size: PAGE,
        ram: Ram::Unknown,
        v1_bitmaps: match v.generation {
            Generation::V1Small => Some(kho_abi::chunk::V1Bitmaps::Small),
            Generation::V1Page => Some(kho_abi::chunk::V1Bitmaps::Page),
            _ => None,
        },
    }
}

/// Something that is read: what is found, or an error.
struct Reading<'t, M, T> {
    memory: &'t Faulty<M>,
    look: &'t dyn Fn() -> Result<T, IncomingError>,
    /// What is found when nothing fails.
    whole: T,
}

impl<M, T: PartialEq + Debug> Attempt for Reading<'_, M, T> {
    type State = ();
    type Error = IncomingError;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![("read", self.memory)]
    }

    fn state(&mut self) {}

    fn work(&mut self) -> Result<(), IncomingError> {
        let found = (self.look)().inspect_err(|error| {
            let named = matches!(error.fault, Fault::Memory(_));
            assert!(named, "not what failed: {error}");
        })?;
        assert_eq!(found, self.whole);
        Ok(())
    }
}

fn every_failure_of_reading<M, T: PartialEq + Debug>(
    memory: &Faulty<M>,
    look: impl Fn() -> Result<T, IncomingError>,
) -> u64 {
    every_failure(|attempt| {
        attempt(&mut Reading {
            memory,
            look: &look,
            whole: look().unwrap(),
        });
    })
}

/// [`BootData::from_boot_params`], [`BootData::from_setup_data`] and [`BootData::from_device_tree`].
#[test]
fn reading_boot_data() {
    let boot = BootData {
        fdt_addr: addr(0x3000),
        fdt_size: 4096,
        scratch_addr: addr(0x4000),
        scratch_size: 16,
    };
    let params = addr(0x1e00 - kho_abi::boot::BOOT_PARAMS_SETUP_DATA);
    let mut memory = SimMemory::new([pages(PAGE, 1, 2)]).unwrap();
    memory
        .write(addr(0x1000), &boot.to_setup_data(addr(0)))
        .unwrap();
    memory
        .write(addr(0x1e00), &0x1000u64.to_le_bytes())
        .unwrap();
    let mut fdt = vm_fdt::FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    let chosen = fdt.begin_node("chosen").unwrap();
    for (name, value) in boot.to_chosen() {
        fdt.property(name, &value).unwrap();
    }
    fdt.end_node(chosen).unwrap();
    fdt.end_node(root).unwrap();
    memory.write(addr(0x2000), &fdt.finish().unwrap()).unwrap();
    let frozen = memory.freeze();
    let memory = Faulty::new(&frozen);
    let faults = every_failure_of_reading(&memory, || BootData::from_boot_params(&memory, params))
        + every_failure_of_reading(&memory, || BootData::from_setup_data(&memory, addr(0x1000)))
        + every_failure_of_reading(&memory, || {
            BootData::from_device_tree(&memory, addr(0x2000))
        });
    println!("{faults} faults in reading_boot_data");
    assert!(faults > 0);
}

/// [`Incoming::check`]. The metadata is what nothing depends on: it is not understood where it cannot be
/// read.
#[test]
fn checking_a_handover() {
    let mut faults = 0;
    let listed = [
        Generation::Sketch,
        Generation::SeriesV5,
        Generation::V1Small,
        Generation::V1Page,
    ];
    let listed = listed.into_iter().map(victim::listed);
    for v in listed.chain([victim::victim()]) {
        let lent = v.lent();
        let memory = Faulty::new(&lent);
        faults += every_failure_of_reading(&memory, || {
            lent.forget_reads();
            Incoming::check(&memory, v.at.boot, machine(&v), &mut [0; 64]).map(drop)
        });
    }
    println!("{faults} faults in checking_a_handover");
}

/// [`Incoming::diagnose`]: problems are reported, unless it was the metadata that could not be read,
/// and of each the memory is the reason.
#[test]
fn diagnosing_a_handover() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let faults = every_failure_of_reading(&memory, || {
        lent.forget_reads();
        let mut first = Ok(());
        Incoming::diagnose(&memory, v.at.boot, machine(&v), &mut [0; 64], |problem| {
            if matches!(problem.fault, Fault::Memory(_)) {
                first = first.clone().and(Err(problem));
            }
        })?;
        first
    });
    println!("{faults} faults in diagnosing_a_handover");
}

/// [`Incoming::vmalloc`], [`Incoming::bytes`] and [`Incoming::blocks`], which go through everything
/// first.
#[test]
fn reading_what_its_owner_knows() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let incoming = Incoming::check(&memory, v.at.boot, machine(&v), &mut [0; 64]).unwrap();
    let area = || {
        lent.forget_reads();
        incoming.vmalloc(v.at.area, &mut [0; 256]).map(drop)
    };
    let bytes = || {
        lent.forget_reads();
        let page = addr(victim::LONE.0 << 12);
        // There is no memory behind it.
        match incoming.bytes(page, 1, &mut [0; 256]) {
            Err(error) if error.fault == Fault::Memory(absent(page)) => Ok(()),
            other => other.map(drop),
        }
    };
    let blocks = || {
        lent.forget_reads();
        let blocks = incoming.blocks::<[u8; 64]>(addr(v.at.blocks), &mut [0; 256]);
        blocks.map(drop)
    };
    let faults = every_failure_of_reading(&memory, area)
        + every_failure_of_reading(&memory, bytes)
        + every_failure_of_reading(&memory, blocks);
    println!("{faults} faults in reading_what_its_owner_knows");
}

fn absent(addr: PhysAddr) -> kho_hal::MemError {
    kho_hal::MemError::Absent { addr, len: 1 }
}

type Source<'t> = Faulty<&'t victim::Lent<'t>>;

/// What can be asked for after the check, as numbers and names.
type Ask = for<'a> fn(&Incoming<'a, Source<'a>>, &victim::Victim) -> Vec<String>;

/// What cannot fail any more: less may be found, but nothing else.
struct Asking<'t> {
    memory: &'t Source<'t>,
    lent: &'t victim::Lent<'t>,
    incoming: &'t Incoming<'t, Source<'t>>,
    victim: &'t victim::Victim,
    ask: Ask,
    whole: &'t [String],
}

impl Attempt for Asking<'_> {
    type State = ();
    type Error = &'static str;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![("read", self.memory)]
    }

    fn state(&mut self) {}

    fn work(&mut self) -> Result<(), &'static str> {
        self.lent.forget_reads();
        let found = (self.ask)(self.incoming, self.victim);
        if found == self.whole {
            return Ok(());
        }
        for thing in &found {
            assert!(self.whole.contains(thing), "{thing} is not there");
        }
        Err("less was found")
    }
}

fn every_failure_of_asking(v: &victim::Victim, ask: Ask) -> u64 {
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let incoming = Incoming::check(&memory, v.at.boot, machine(v), &mut [0; 64]).unwrap();
    let whole = ask(&incoming, v);
    assert!(!whole.is_empty());
    every_failure(|attempt| {
        attempt(&mut Asking {
            memory: &memory,
            lent: &lent,
            incoming: &incoming,
            victim: v,
            ask,
            whole: &whole,
        });
    })
}

fn all(things: impl IntoIterator<Item: Debug>) -> Vec<String> {
    // Whatever fails, it ends.
    let things = things.into_iter().take(5000);
    things.map(|thing| format!("{thing:x?}")).collect()
}

/// The pages of ranges, which may be cut short.
fn pages_of(ranges: impl IntoIterator<Item = PhysRange>) -> Vec<String> {
    let pages = |range: PhysRange| range.start().as_u64() >> 12..range.end().as_u64() >> 12;
    all(ranges.into_iter().flat_map(pages))
}

/// What is known of an area: two of them are asked the same.
fn area<'a, M: FrozenMem>(area: &kho_core::incoming::Vmalloc<'a, M>) -> Vec<String> {
    let places = [0, 4096, 8192, u64::MAX];
    let mut found = all(area.groups());
    found.extend(all(area.chunks()));
    found.extend(all(places.iter().filter_map(|&at| area.locate(at))));
    found
}

macro_rules! questions {
    ($victims:expr; $($name:ident: $ask:expr;)*) => {$(
        #[test]
        fn $name() {
            let faults: u64 = $victims.iter().map(|v| every_failure_of_asking(v, $ask)).sum();
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

// The map of `Incoming`, as a tree and as a list.
questions! {
    [victim::victim(), victim::listed(Generation::V1Small)];
    visiting_map_pages: |i, _| {
        let mut pages = Vec::new();
        i.for_each_map_page(|page| pages.push(page));
        all(pages)
    };
    asking_for_folios: |i, _| all(i.folios());
    asking_for_folios_in_a_range: |i, _| all(i.folios_in(pages(PAGE, 0, FREE + 128)));
    splitting_folios: |i, _| all(i.split(NonZeroUsize::new(3).unwrap()).flatten());
    asking_for_extents: |i, _| pages_of(i.extents());
    asking_for_the_folio_of_an_address: |i, v| all(i.folio_containing(addr(v.boot_fdt() + 8)));
    restoring_a_folio: |i, _| all(i.restore_folio(addr(victim::LONE.0 << 12)));
    restoring_pages: |i, _| all(i.restore_pages(pages(PAGE, victim::LONE.0, 8)).into_iter().flatten());
}

// Sub-blobs that say themselves how long they are.
questions! {
    [with_blob()];
    asking_for_sub_blobs: |i, _| all(i.subtrees());
    asking_for_a_sub_blob: |i, _| all(i.subtree("memblock"));
}

/// A list of chunks, and a sub-blob whose size is in its memory only.
fn with_blob() -> victim::Victim {
    let sim = victim::machine();
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let region = Region {
            name: "r",
            range: pages(PAGE, FREE + 5001, 77),
        };
        reserve_mem::publish(&outgoing, &[region]).unwrap();
        let (array, state) = (sim.scratch_array(), StateTree::new());
        let ready = outgoing.finalize_as(Generation::V1Small, array, &mut [], &state);
        ready.unwrap().hand_over()
    };
    let mut victim = victim::listed(Generation::V1Small);
    victim.sim = sim;
    victim.at.boot = boot;
    victim
}

// What sub-blobs lead to.
questions! {
    [victim::victim()];
    asking_for_sessions: |i, _| all(i.luo().known().unwrap().sessions().map(|s| s.name()));
    asking_for_a_session: |i, _| {
        let session = i.luo().known().unwrap().session_named("vm1");
        all(session.map(|session| session.count()))
    };
    asking_for_files: |i, _| {
        let sessions = i.luo().known().unwrap().sessions();
        all(sessions.flat_map(|session| session.files()).map(|file| (file.token(), file.data())))
    };
    asking_for_a_file: |i, _| all(in_memory(i).map(|file| file.data()));
    asking_for_a_memory_file: |i, _| {
        let Some(file) = in_memory(i).and_then(|file| file.memfd()) else { return Vec::new() };
        let mut found = all(file.folios());
        found.extend(all(file.segments()));
        found.extend(all((0..8).filter_map(|at| file.locate(at << 12))));
        found
    };
    asking_for_an_area: |i, v| {
        let mut found = Vec::new();
        if let Some(file) = in_memory(i).and_then(|file| file.memfd()) {
            found.extend(area(&file.vmalloc()));
        }
        if let Ok(list) = i.vmalloc(v.at.area, &mut [0; 256]) {
            found.extend(area(&list));
        }
        found
    };
    asking_for_blocks: |i, v| {
        let blocks = i.blocks::<[u8; 64]>(addr(v.at.blocks), &mut [0; 256]);
        let Ok(blocks) = blocks else { return Vec::new() };
        let mut found = all(blocks.blocks());
        found.extend(all(blocks.iter()));
        found
    };
}

/// The file of the first session.
fn in_memory<'a, M: FrozenMem>(
    incoming: &Incoming<'a, M>,
) -> Option<kho_core::incoming::File<'a, M>> {
    incoming
        .luo()
        .known()
        .unwrap()
        .session_named("vm0")?
        .file(1)
}

/// [`preflight`]: another verdict at worst.
#[test]
fn asking_what_a_consumer_does() {
    let v = victim::victim();
    let lent = v.lent();
    let memory = Faulty::new(&lent);
    let incoming = Incoming::check(&memory, v.at.boot, machine(&v), &mut [0; 64]).unwrap();
    let ask = || {
        lent.forget_reads();
        preflight(&incoming, Consumer::Ours)
    };
    let calls = memory.calls();
    let whole = ask();
    let faults = memory.calls() - calls;
    for n in 0..faults {
        memory.fail_at(Some(n));
        ask();
        assert_eq!(ask(), whole, "{n}");
    }
    println!("{faults} faults in asking_what_a_consumer_does");
    assert!(faults > 0);
}

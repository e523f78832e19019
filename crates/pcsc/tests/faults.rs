//! The n-th allocation, the n-th access to memory or the n-th access to configuration space fails, for
//! every n and every operation; or the n-th read is answered with ones, as where a function is gone.
//!
//! Afterwards the state is as before or as after, nothing leaks, and a retry succeeds
//! ([`every_failure`]). And whatever failed, what the cache answers is what the devices hold. What
//! is remembered is no part of the state: less of it may be left.
//!
//! The tables are in the order of the public functions: each that touches memory or configuration
//! space, or allocates, has its line.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{DEEP, OLD, PF, PORT, SWITCH, VF, find, machine};
use kho_core::Tracker;
use kho_core::outgoing::{Outgoing, Participant};
use kho_hal::sim::pci::SimBus;
use kho_hal::sim::{Attempt, Failing, Faulty, SimAlloc, SimMemory, every_failure};
use kho_hal::{
    Access, Order, PageSize, PciConfigAccess, PciError, PhysAddr, PhysMem, PhysRange, Sbdf, Width,
};
use kho_pcsc::{Added, Cached, Distrust, Reset, Saved, Unlisted, Variant};

const PAGE: PageSize = PageSize::Size4K;

/// Configuration space one of whose reads is answered with ones.
struct Ones<C> {
    inner: C,
    reads: AtomicU64,
    at: AtomicU64,
}

impl<C: PciConfigAccess> PciConfigAccess for Ones<C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        if read == self.at.load(Ordering::Relaxed) {
            return Ok(at.width().mask());
        }
        self.inner.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.inner.write(function, at, value)
    }
}

impl<C> Failing for Ones<C> {
    fn fail_at(&self, n: Option<u64>) {
        let at = n.map_or(u64::MAX, |n| self.calls() + n);
        self.at.store(at, Ordering::Relaxed);
    }

    fn calls(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

type Memory<'m> = &'m Faulty<&'m SimMemory>;
type Pages<'m> = &'m SimAlloc<&'m SimMemory>;
type Config<'m> = &'m Ones<Faulty<&'m SimBus>>;
type Cache<'m> = Cached<'m, Config<'m>>;
type Out<'m> = Outgoing<'m, Memory<'m>, Pages<'m>>;

/// A cache on a machine, and a handover that is open.
struct Operation<'m> {
    bus: &'m SimBus,
    config: Config<'m>,
    memory: Memory<'m>,
    pages: Pages<'m>,
    cache: Cache<'m>,
    outgoing: Out<'m>,
    work: Work,
}

type Prepare = for<'m> fn(&Cache<'m>, &Out<'m>);
type Work = for<'m> fn(&Cache<'m>, &Out<'m>) -> Result<(), String>;

/// What a failure leaves as it was.
#[derive(Debug, PartialEq)]
struct State {
    /// A hash of the registers of every function; from 300h on there are none.
    registers: u64,
    /// What is preserved.
    preserved: Vec<(PhysAddr, Order)>,
    blob: bool,
}

impl Attempt for Operation<'_> {
    type State = State;
    type Error = String;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![
            ("allocation", self.pages),
            ("access to memory", self.memory),
            ("access to configuration space", &self.config.inner),
            ("answer", self.config),
        ]
    }

    fn state(&mut self) -> State {
        let mut registers = DefaultHasher::new();
        for function in self.bus.functions() {
            for offset in (0..0x300).step_by(4) {
                let at = Access::new(offset, Width::U32).unwrap();
                let held = self.bus.peek(function, at);
                let answered = self.cache.read(function, at);
                assert_eq!(answered, Ok(held), "{function} {offset:#x}");
                registers.write_u32(held);
            }
        }
        let tracker = self.outgoing.tracker();
        let mut own = Vec::new();
        tracker.for_each_page(|page| own.push(page)).unwrap();
        let live = self.pages.live().into_iter();
        let live = live.filter(|(page, _)| !own.contains(page));
        let (preserved, rest): (Vec<_>, Vec<_>) =
            live.partition(|&(page, order)| tracker.is_preserved(page, order));
        // A function keeps its memory for its return, and has no more.
        let functions = KNOWN.iter().chain([&LATER]);
        let functions = functions.filter(|&&function| self.cache.stats_of(function).is_some());
        let theirs = |&&(_, order): &&(PhysAddr, Order)| order.as_u32() == 1;
        let spaces = rest.iter().chain(&preserved).filter(theirs).count();
        assert!(spaces <= functions.count(), "{rest:?} {preserved:?}");
        assert!(rest.iter().all(|page| theirs(&page)), "{rest:?}");
        State {
            registers: registers.finish(),
            preserved,
            blob: self.outgoing.find("pcsc").is_some(),
        }
    }

    fn work(&mut self) -> Result<(), String> {
        (self.work)(&self.cache, &self.outgoing)
    }
}

fn memory() -> SimMemory {
    SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 1 << 20)).unwrap()
}

fn pages(memory: &SimMemory, from: u64) -> SimAlloc<&SimMemory> {
    let range = PhysRange::new(PhysAddr::new(from), 1 << 19).unwrap();
    SimAlloc::new(memory, PAGE, [range])
}

/// What a predecessor saved of the machine's endpoints.
fn saved(bus: &SimBus, memory: &SimMemory) -> Saved {
    let pages = pages(memory, 0x10_0000);
    let cache = Cached::in_pages(bus, memory, &pages, PAGE);
    for function in [PORT, PF, SWITCH, DEEP, OLD] {
        cache.add(function).unwrap();
    }
    let outgoing = Outgoing::new(Tracker::new(memory, &pages, PAGE, &[]).unwrap()).unwrap();
    cache.save(&outgoing).unwrap();
    let range = outgoing.find("pcsc").unwrap();
    let mut blob = vec![0; range.size() as usize];
    memory.read(range.start(), &mut blob).unwrap();
    Saved::read(&blob, Variant::Extended, |addr| addr.is_page_aligned(PAGE)).unwrap()
}

fn every_failure_of(restores: bool, prepare: Prepare, work: Work) -> u64 {
    every_failure(|attempt| {
        let bus = machine();
        // As a driver leaves it: virtual functions, and a bridge that is numbered.
        let sriov = find(&bus, PF, 0x8010).unwrap();
        bus.write_u16(PF, sriov + 0x10, 2).unwrap();
        bus.write_u16(PF, sriov + 8, 9).unwrap();
        let sim = memory();
        let saved = restores.then(|| saved(&bus, &sim));
        let memory = Faulty::new(&sim);
        let pages = pages(&sim, 0x18_0000);
        let config = Ones {
            inner: Faulty::new(&bus),
            reads: AtomicU64::new(0),
            at: AtomicU64::new(u64::MAX),
        };
        let mut cache = Cached::in_pages(&config, &memory, &pages, PAGE);
        if let Some(saved) = saved {
            cache = cache.with_saved(saved);
        }
        let tracker = Tracker::new(&memory, &pages, PAGE, &[]).unwrap();
        let outgoing = Outgoing::new(tracker).unwrap();
        prepare(&cache, &outgoing);
        attempt(&mut Operation {
            bus: &bus,
            config: &config,
            memory: &memory,
            pages: &pages,
            cache,
            outgoing,
            work,
        });
    })
}

/// Takes these in, and gets to know some of their registers.
fn add(cache: &Cache<'_>, functions: &[Sbdf]) {
    for &function in functions {
        cache.add_with(function, Unlisted::PassThrough).unwrap();
        for offset in (0..0x140).step_by(4) {
            cache.read_u32(function, offset).unwrap();
        }
    }
}

const KNOWN: [Sbdf; 6] = [PORT, PF, VF, SWITCH, DEEP, OLD];

/// The other virtual function.
const LATER: Sbdf = Sbdf::from_bdf(0, 0x0182);

fn known(cache: &Cache<'_>, _: &Out<'_>) {
    add(cache, &KNOWN);
}

fn known_and_saved(cache: &Cache<'_>, outgoing: &Out<'_>) {
    known(cache, outgoing);
    cache.save(outgoing).unwrap();
    // Added since, so it is not preserved.
    cache.add(LATER).unwrap();
}

/// Where a capability of a function is.
fn cap(function: Sbdf, id: u16) -> u16 {
    find(&machine(), function, id).unwrap()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Adds a function; where that fails, it is not in the cache.
fn try_to_add(cache: &Cache<'_>, function: Sbdf) -> Result<Added, String> {
    cache.add(function).map_err(|error| {
        assert!(!cache.contains(function));
        text(error)
    })
}

/// What cannot report a failure has done all of it.
fn gone(cache: &Cache<'_>, functions: &[Sbdf]) -> Result<(), String> {
    assert!(functions.iter().all(|&f| !cache.contains(f)));
    Ok(())
}

macro_rules! operations {
    ($restores:expr; $($(#[$doc:meta])* $name:ident: $prepare:expr => $work:expr;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let faults = every_failure_of($restores, $prepare, $work);
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

// `Cached::add` and `Cached::add_with`.
operations! {
    false;
    adding_a_bridge: |_, _| {} => |c, _| try_to_add(c, PORT).map(drop);
    adding_a_physical_function: |c, _| add(c, &[PORT]) => |c, _| try_to_add(c, PF).map(drop);
    adding_a_virtual_function: |c, _| add(c, &[PORT, PF]) => |c, _| try_to_add(c, VF).map(drop);
    adding_a_conventional_function: |_, _| {} => |c, _| try_to_add(c, OLD).map(drop);
    adding_anew: known => |c, _| try_to_add(c, PF).map(drop);
    adding_with_what_its_owner_says: |_, _| {}
        => |c, _| c.add_with(OLD, Unlisted::Constant).map(drop).map_err(text);
}

// The same, with what a predecessor saved: it is used, or not believed.
operations! {
    true;
    restoring: |c, _| add(c, &[PORT]) => |c, _| {
        let added = try_to_add(c, PF)?;
        assert!(matches!(added, Added::Restored | Added::Distrusted(Distrust::Changed | Distrust::Damaged)));
        Ok(())
    };
    restoring_a_conventional_function: |_, _| {} => |c, _| try_to_add(c, OLD).map(drop);
    adding_what_was_touched: |c, _| c.reset(PF, Reset::Power)
        => |c, _| try_to_add(c, PF).map(drop);
    /// Pages that cannot be looked at count as those of virtual functions.
    forgetting_before_it_is_added: |c, _| add(c, &[PORT, PF]) => |c, _| {
        c.forget(PF);
        gone(c, &[PF])
    };
}

// `Cached::forget` and `Cached::reset`.
operations! {
    false;
    forgetting_a_bridge: known => |c, _| {
        c.forget(PORT);
        gone(c, &[PORT, PF, VF, SWITCH, DEEP])
    };
    forgetting_a_physical_function: known => |c, _| {
        c.forget(PF);
        gone(c, &[PF, VF])
    };
    resetting_a_function: known => |c, _| {
        c.reset(PF, Reset::Function);
        gone(c, &[VF])
    };
    resetting_power: known => |c, _| {
        c.reset(PORT, Reset::Power);
        Ok(())
    };
    resetting_below: known => |c, _| {
        c.reset(PORT, Reset::Below);
        Ok(())
    };
}

// `Cached` as an access method, and `Cached::bypass`.
operations! {
    false;
    reading: |c, _| [PORT, PF, VF].iter().for_each(|&f| { c.add(f).unwrap(); }) => |c, _| {
        let reads = [PORT, PF, VF].into_iter().flat_map(|f| (0..0x40).map(move |at| (f, at * 8)));
        reads.into_iter().try_for_each(|(f, at)| c.read_u32(f, at).map(drop)).map_err(text)
    };
    reading_after_a_reset: |c, o| {
        known(c, o);
        c.reset(PF, Reset::Function);
    } => |c, _| c.read_u32(PF, 0x10).map(drop).map_err(text);
    reading_past_the_cache: known => |c, _| c.bypass().read_u32(PF, 0x10).map(drop).map_err(text);
    writing: known => |c, _| c.write_u32(PF, 0x10, 0xfe00_0000).map_err(text);
    writing_past_the_cache: known => |c, _| c.bypass().write_u16(PF, 4, 6).map_err(text);
    writing_to_what_is_not_added: |c, _| add(c, &[PORT, PF, OLD])
        => |c, _| c.write_u32(DEEP, 0x10, 0xfe00_0000).map_err(text);
    writing_what_resets: known => |c, _| c.write_u16(PF, cap(PF, 0x10) + 8, 0x8000).map_err(text);
    writing_what_resets_all_below: known => |c, _| c.write_u16(SWITCH, 0x3e, 0x40).map_err(text);
    writing_bus_numbers: known => |c, _| c.write_u32(SWITCH, 0x18, 0x0003_0301).map_err(text);
    writing_that_virtual_functions_are_off: known
        => |c, _| c.write_u16(PF, cap(PF, 0x8010) + 8, 0).map_err(text);
    writing_what_moves_virtual_functions: |c, o| {
        known(c, o);
        c.write_u16(PF, cap(PF, 0x8010) + 8, 0).unwrap();
    } => |c, _| c.write_u16(PF, cap(PF, 0x8010) + 8, 0x19).map_err(text);
    writing_links: known => |c, _| c.write_u16(PORT, cap(PORT, 0x10) + 0x10, 0x20).map_err(text);
    writing_ari_forwarding: known
        => |c, _| c.write_u16(PORT, cap(PORT, 0x10) + 0x28, 0x20).map_err(text);
}

// `Cached::save`, `Cached::unsave`, and what a participant does.
operations! {
    false;
    saving: known => |c, o| c.save(o).map(drop).map_err(text);
    unsaving: known_and_saved => |c, o| c.unsave(o).map_err(text);
    freezing: known_and_saved => |mut c, o| {
        Participant::freeze(&mut c, o.tracker()).map_err(text)?;
        Participant::unfreeze(&mut c, o.tracker());
        Ok(())
    };
}

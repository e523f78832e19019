//! The registry and its guard under the model checker: every interleaving with at most three
//! preemptions.
//!
//! Run with `RUSTFLAGS='--cfg loom' cargo test -p kho-pci-lu --release --test loom`.
#![cfg(loom)]

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use kho_core::BootData;
use kho_core::incoming::{Incoming, Machine};
use kho_core::outgoing::luo::{Flb, LiveFile, Luo};
use kho_core::outgoing::{Outgoing, OutgoingError, Participant, Tracker};
use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::sim::{ModelMemory, SimAlloc};
use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{
    Access, AllocError, FrozenMem, MemError, Order, PageAlloc, PageSize, PciConfigAccess, PciError,
    PhysAddr, PhysMem, PhysRange, Sbdf,
};
use kho_pci_lu::registry::Object;
use kho_pci_lu::{Device, Kind, OutgoingForm, PreserveError, Record, Registry, State, Updated};
use loom::thread::{self, JoinHandle};
use zerocopy::{FromBytes, IntoBytes};

const PAGE: PageSize = PageSize::Size4K;
const PORT: Sbdf = Sbdf::from_bdf(0, 0x0018);
const DRIVES: [Sbdf; 2] = [Sbdf::from_bdf(0, 0x0100), Sbdf::from_bdf(0, 0x0200)];

/// A root port with two drives behind it; every write is an event to loom.
#[derive(Clone, Debug)]
struct Bus {
    bus: Arc<SimBus>,
    writes: Arc<AtomicU64>,
}

impl Bus {
    fn new() -> Self {
        let bus = SimBus::default();
        bus.add(PORT, SimFunction::bridge(0x1b36, 0xc, 1, 2).with_express(4));
        for drive in DRIVES {
            let function = SimFunction::endpoint(0x1af4, 0x1001).with_express(0);
            bus.add_behind(PORT, drive, function);
        }
        for function in [PORT, DRIVES[0], DRIVES[1]] {
            bus.write_u16(function, 4, 6).unwrap();
        }
        Self {
            bus: Arc::new(bus),
            writes: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Whether the function may do DMA: an event, too.
    fn is_master(&self, function: Sbdf) -> bool {
        self.writes.load(Ordering::Relaxed);
        self.bus.read_u16(function, 4).unwrap() & 4 != 0
    }
}

impl PciConfigAccess for Bus {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.bus.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bus.write(function, at, value)
    }
}

fn topology(function: Sbdf) -> Option<Device> {
    let (kind, upstream) = match function {
        PORT => (Kind::Bridge, None),
        _ if DRIVES.contains(&function) => (Kind::Endpoint, Some(PORT)),
        _ => return None,
    };
    Some(Device {
        kind,
        is_virtual: false,
        acs_quirk: false,
        upstream,
        bars: None,
    })
}

/// An allocator that several CPUs have.
#[derive(Clone)]
struct Pages(Arc<SimAlloc<ModelMemory>>);

impl PageAlloc for Pages {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        self.0.alloc(order)
    }

    fn free(&self, addr: PhysAddr, order: Order) {
        self.0.free(addr, order);
    }
}

type SharedTracker = Tracker<'static, ModelMemory, Pages>;

/// The machine's pages by number.
fn pages(first: u64, count: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(first * PAGE.bytes()), count * PAGE.bytes()).unwrap()
}

fn ram() -> PhysRange {
    pages(1, 25)
}

fn scratch() -> PhysRange {
    pages(1, 1)
}

fn tracker(memory: &ModelMemory) -> (Pages, SharedTracker) {
    let alloc = SimAlloc::new(memory.clone(), PAGE, [pages(2, 24)]);
    let pages = Pages(Arc::new(alloc));
    let scratch = Box::leak(Box::new([scratch()]));
    let tracker = Tracker::new(memory.clone(), pages.clone(), PAGE, scratch).unwrap();
    (pages, tracker)
}

fn every_order(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.max_branches = 1 << 20;
    let orders = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&orders);
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

/// Clears Bus Master, if it is allowed to.
fn stop<C: PciConfigAccess>(registry: &Registry<C>, function: Sbdf) -> bool {
    registry.config().write_u16(function, 4, 2).is_ok()
}

/// The outgoing program; a file needs the record.
struct Old {
    bus: Bus,
    registry: Registry<Bus>,
    tracker: Arc<SharedTracker>,
    object: Box<Object<Bus>>,
    record: PhysAddr,
    pages: Pages,
    /// What is allocated while nothing is preserved.
    idle: Vec<(PhysAddr, Order)>,
}

impl Old {
    fn new() -> Self {
        let bus = Bus::new();
        let memory = ModelMemory::new(ram());
        let (pages, tracker) = tracker(&memory);
        let registry = Registry::new(bus.clone());
        let mut object = registry.object(OutgoingForm::V2);
        let record = PhysAddr::new(object.preserve(&tracker).unwrap());
        // The way in the tree to where entries will be is there from now on.
        registry.preserve(&tracker, &topology, DRIVES[0]).unwrap();
        registry.unpreserve(&tracker, DRIVES[0]).unwrap();
        let idle = pages.0.live();
        Self {
            bus,
            registry,
            tracker: Arc::new(tracker),
            object,
            record,
            pages,
            idle,
        }
    }

    /// Another CPU.
    fn spawn<R: 'static>(
        &self,
        work: impl FnOnce(&Registry<Bus>, &SharedTracker) -> R + 'static,
    ) -> JoinHandle<R> {
        let (registry, tracker) = (self.registry.clone(), Arc::clone(&self.tracker));
        thread::spawn(move || work(&registry, &tracker))
    }

    fn preserve(&self, drive: Sbdf) -> Result<(), PreserveError> {
        self.registry.preserve(&*self.tracker, &topology, drive)
    }

    fn unpreserve(&self, drive: Sbdf) -> Result<(), PreserveError> {
        self.registry.unpreserve(&*self.tracker, drive)
    }

    /// Version and number of functions, as the successor reads them.
    fn written(&self) -> (u32, u32) {
        let mut header = [0; 8];
        self.tracker.mem().read(self.record, &mut header).unwrap();
        let [version, count] = <[u32; 2]>::read_from_bytes(&header).unwrap();
        (version, count)
    }
}

#[test]
fn two_cpus_count_on_one_bridge() {
    every_order(|| {
        let old = Old::new();
        let both = |old: &Old| {
            assert_eq!(old.registry.outgoing_refcount(PORT), 2);
            assert_eq!(old.registry.outgoing_count(), 3);
        };
        let other = old.spawn(|registry, tracker| {
            registry.preserve(tracker, &topology, DRIVES[1]).unwrap();
        });
        old.preserve(DRIVES[0]).unwrap();
        other.join().unwrap();
        both(&old);
        let other = old.spawn(|registry, tracker| registry.unpreserve(tracker, DRIVES[1]));
        old.unpreserve(DRIVES[0]).unwrap();
        other.join().unwrap().unwrap();
        assert_eq!(old.registry.outgoing_count(), 0);
        assert_eq!(old.pages.0.live(), old.idle, "a page is lost");
    });
}

#[test]
fn one_of_two_cpus_preserves_a_function() {
    every_order(|| {
        let old = Old::new();
        let other = old.spawn(|registry, tracker| registry.preserve(tracker, &topology, DRIVES[0]));
        let won = [old.preserve(DRIVES[0]), other.join().unwrap()];
        let busy = PreserveError::Busy {
            function: DRIVES[0],
        };
        assert!(won == [Ok(()), Err(busy)] || won == [Err(busy), Ok(())]);
        assert_eq!(old.registry.outgoing_refcount(PORT), 1);
    });
}

/// Who joins while the machine freezes is in the record, or is told that he is not.
#[test]
fn the_record_has_who_joined() {
    every_order(|| {
        let mut old = Old::new();
        old.preserve(DRIVES[0]).unwrap();
        let other = old.spawn(|registry, tracker| registry.preserve(tracker, &topology, DRIVES[1]));
        old.object.freeze(&old.tracker).unwrap();
        let written = old.written();
        match other.join().unwrap() {
            Ok(()) => assert_eq!(written, (2, 3)),
            Err(PreserveError::Frozen) => assert_eq!(written, (2, 2)),
            Err(error) => panic!("{error}"),
        }
        let states = [PORT, DRIVES[0]].map(|function| old.registry.config().state(function));
        assert_eq!(states, [State::Frozen; 2]);
    });
}

#[test]
fn the_record_has_nobody_who_left() {
    every_order(|| {
        let mut old = Old::new();
        old.preserve(DRIVES[0]).unwrap();
        old.preserve(DRIVES[1]).unwrap();
        let other = old.spawn(|registry, tracker| registry.unpreserve(tracker, DRIVES[1]));
        old.object.freeze(&old.tracker).unwrap();
        match other.join().unwrap() {
            Ok(()) => assert_eq!(old.written(), (2, 2)),
            Err(PreserveError::Frozen) => assert_eq!(old.written(), (2, 3)),
            Err(error) => panic!("{error}"),
        }
    });
}

/// When FREEZE has returned, no write is under way that stops DMA.
#[test]
fn nothing_stops_dma_after_freeze() {
    every_order(|| {
        let mut old = Old::new();
        old.preserve(DRIVES[0]).unwrap();
        let other = old.spawn(|registry, _| [PORT, DRIVES[0]].map(|at| stop(registry, at)));
        old.object.freeze(&old.tracker).unwrap();
        let frozen = [PORT, DRIVES[0]].map(|at| old.bus.is_master(at));
        let stopped = other.join().unwrap();
        assert_eq!([PORT, DRIVES[0]].map(|at| old.bus.is_master(at)), frozen);
        assert_eq!(stopped.map(|stopped| !stopped), frozen);
    });
}

/// Memory after the jump.
struct Image(Vec<u64>);

impl FrozenMem for Image {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let absent = MemError::Absent {
            addr,
            len: len as u64,
        };
        let at = addr.as_u64().checked_sub(ram().start().as_u64());
        let bytes = at.and_then(|at| self.0.as_bytes().get(at as usize..));
        bytes.and_then(|bytes| bytes.get(..len)).ok_or(absent)
    }
}

/// A file without contents that needs the record.
struct File;

impl<T> LiveFile<T> for File {
    fn compatible(&self) -> &str {
        "device"
    }
    fn identity(&self) -> u64 {
        1
    }
    fn flbs(&self) -> &[&str] {
        &["pci"]
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(0)
    }
    fn unpreserve(&mut self, _: &T) {}
}

/// What a program without other CPUs hands over: both drives.
fn handed_over() -> (Image, BootData) {
    let result = Arc::new(Mutex::new(None));
    let made = Arc::clone(&result);
    every_order(move || {
        let memory = ModelMemory::new(ram());
        let (_, tracker) = tracker(&memory);
        let registry = Registry::new(Bus::new());
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let mut luo = Luo::new(&outgoing, 0).unwrap();
        let tracker = outgoing.tracker();
        luo.register_flb(tracker, registry.object(OutgoingForm::V2))
            .unwrap();
        luo.create_session(tracker, "vm").unwrap();
        luo.preserve_file(tracker, "vm", 1, Box::new(File)).unwrap();
        for drive in DRIVES {
            registry.preserve(tracker, &topology, drive).unwrap();
        }
        let mut participants: [&mut dyn Participant<_>; 1] = [&mut luo];
        let frozen = outgoing.finalize(scratch().start(), &mut participants);
        let boot = frozen.unwrap().hand_over();
        let mut image = vec![0u64; ram().size() as usize / 8];
        memory.read(ram().start(), image.as_mut_bytes()).unwrap();
        *made.lock().unwrap() = Some((Image(image), boot));
    });
    result.lock().unwrap().take().unwrap()
}

/// The incoming program before enumeration: both drives and the port are closed.
fn every_order_of_an_update(
    run: impl Fn(Bus, Registry<Bus>, &dyn Fn(&Registry<Bus>) -> Updated<Bus>) + Send + Sync + 'static,
) {
    let (image, boot) = handed_over();
    every_order(move || {
        let mut workspace = vec![0; 4096];
        let machine = Machine::unknown(PAGE);
        let incoming = Incoming::check(&image, boot, machine, &mut workspace).unwrap();
        let mut workspace = vec![0; 4096];
        let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
        let bus = Bus::new();
        let registry = Registry::new(bus.clone());
        let received = Mutex::new(Some(registry.receive::<Image>(&record, None).unwrap()));
        run(bus, registry, &|registry| {
            for function in [PORT, DRIVES[0], DRIVES[1]] {
                assert!(registry.set_up(function).unwrap());
            }
            let received = received.lock().unwrap().take().unwrap();
            received.verify(&topology).unwrap()
        });
    });
}

/// From the first moment to the end of the update there is none in which DMA can be stopped.
#[test]
fn nothing_stops_dma_while_functions_are_found() {
    every_order_of_an_update(|bus, registry, enumerate| {
        let other = {
            let registry = registry.clone();
            thread::spawn(move || [PORT, DRIVES[0]].map(|at| stop(&registry, at)))
        };
        let _updated = enumerate(&registry);
        assert_eq!(other.join().unwrap(), [false; 2]);
        assert_eq!([PORT, DRIVES[0]].map(|at| bus.is_master(at)), [true; 2]);
    });
}

/// The port is written to as on any boot when both drives are finished, by whichever CPU.
#[test]
fn the_last_of_two_cpus_frees_the_bridge() {
    every_order_of_an_update(|_, registry, enumerate| {
        let updated = Arc::new(enumerate(&registry));
        let other = {
            let (registry, updated) = (registry.clone(), Arc::clone(&updated));
            thread::spawn(move || {
                let _ = updated.finish(DRIVES[1]).unwrap();
                stop(&registry, PORT)
            })
        };
        let before = registry.incoming_count();
        let stopped = stop(&registry, PORT);
        assert!(!stopped, "this CPU's drive depends on it, {before} left");
        let _ = updated.finish(DRIVES[0]).unwrap();
        let stopped = [stop(&registry, PORT), other.join().unwrap()];
        assert!(stopped.contains(&true), "both are finished");
        assert_eq!(registry.incoming_count(), 0);
        assert!(stop(&registry, PORT));
        assert!(!registry.config().is_guarded(PORT));
    });
}

#[test]
fn one_of_two_cpus_finishes_a_function() {
    every_order_of_an_update(|_, registry, enumerate| {
        let updated = Arc::new(enumerate(&registry));
        let other = {
            let updated = Arc::clone(&updated);
            thread::spawn(move || updated.finish(DRIVES[0]).is_ok())
        };
        let won = [updated.finish(DRIVES[0]).is_ok(), other.join().unwrap()];
        assert!(won == [true, false] || won == [false, true]);
        assert_eq!(registry.incoming_count(), 2);
        assert!(!stop(&registry, PORT));
    });
}

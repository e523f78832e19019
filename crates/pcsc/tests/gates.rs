//! Sequences and interleavings that were answered wrongly once: an access is stopped at a chosen
//! moment, or a device answers as one does that is not ready.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use kho_core::Tracker;
use kho_core::outgoing::Outgoing;
use kho_hal::sim::pci::{ResetKind, SimBus, SimFunction, SriovShape};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{
    Access, PageSize, PciConfigAccess, PciError, PhysAddr, PhysMem, PhysRange, Sbdf, Width,
};
use kho_pcsc::{Added, Cached, Reset, Saved, Variant};

const PAGE: PageSize = PageSize::Size4K;
const F0: Sbdf = Sbdf::from_bdf(0, 0x0100);
const F1: Sbdf = Sbdf::from_bdf(0, 0x0101);
const VF: Sbdf = Sbdf::from_bdf(0, 0x0180);

fn acc(offset: u16, width: Width) -> Access {
    Access::new(offset, width).unwrap()
}

fn is_page(addr: PhysAddr) -> bool {
    addr.as_u64().is_multiple_of(0x1000)
}

fn memory() -> SimMemory {
    SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 16 << 20)).unwrap()
}

fn alloc(memory: &SimMemory, from: u64) -> SimAlloc<&SimMemory> {
    let range = PhysRange::new(PhysAddr::new(from), 8 << 20).unwrap();
    SimAlloc::new(memory, PAGE, [range])
}

/// Every register of these functions known, saved; with another "pv" if `other`.
fn saved(bus: &SimBus, memory: &SimMemory, functions: &[Sbdf], other: bool) -> Saved {
    let pages = alloc(memory, 0x10_0000);
    let cache = Cached::in_pages(bus, memory, &pages, PAGE);
    for f in functions {
        cache.add(*f).unwrap();
        for offset in (0..0x1000).step_by(4) {
            cache.read_u32(*f, offset).unwrap();
        }
    }
    let outgoing = Outgoing::new(Tracker::new(memory, &pages, PAGE, &[]).unwrap()).unwrap();
    assert_eq!(cache.save(&outgoing).unwrap(), functions.len());
    let range = outgoing.find("pcsc").unwrap();
    let mut blob = vec![0; range.size() as usize];
    memory.read(range.start(), &mut blob).unwrap();
    if other {
        let needle = [0, 0, 0, 4, 0, 0, 0, 11, 1, 0, 0, 0];
        let place = blob.windows(12).position(|w| w == needle).unwrap();
        blob[place + 8] = 2;
    }
    Saved::read(&blob, Variant::Extended, is_page).unwrap()
}

/// One access stopped once: before it reaches the hardware, or after.
struct Stop {
    what: (Sbdf, u16, bool),
    after: bool,
    arrived: Sender<()>,
    go: Mutex<Receiver<()>>,
}
struct Gates<'b> {
    bus: &'b SimBus,
    stops: Mutex<Vec<Stop>>,
}
impl<'b> Gates<'b> {
    fn new(bus: &'b SimBus) -> Self {
        Self {
            bus,
            stops: Mutex::default(),
        }
    }
    fn stop(&self, f: Sbdf, offset: u16, write: bool, after: bool) -> (Receiver<()>, Sender<()>) {
        let ((arrived, has), (release, go)) = (channel(), channel());
        let go = Mutex::new(go);
        self.stops.lock().unwrap().push(Stop {
            what: (f, offset, write),
            after,
            arrived,
            go,
        });
        (has, release)
    }
    fn pass(&self, f: Sbdf, at: Access, write: bool, after: bool) {
        let stop = {
            let mut stops = self.stops.lock().unwrap();
            let n = stops
                .iter()
                .position(|s| s.what == (f, at.offset(), write) && s.after == after);
            n.map(|n| stops.remove(n))
        };
        if let Some(stop) = stop {
            let _ = stop.arrived.send(());
            let _ = stop.go.lock().unwrap().recv();
        }
    }
}
impl PciConfigAccess for Gates<'_> {
    fn read(&self, f: Sbdf, at: Access) -> Result<u32, PciError> {
        self.pass(f, at, false, false);
        let value = self.bus.read(f, at);
        self.pass(f, at, false, true);
        value
    }
    fn write(&self, f: Sbdf, at: Access, v: u32) -> Result<(), PciError> {
        self.pass(f, at, true, false);
        let result = self.bus.write(f, at, v);
        self.pass(f, at, true, true);
        result
    }
}

/// What is read twice is stored: nothing that blocks it was left behind.
fn learns<C: PciConfigAccess>(cache: &Cached<'_, C>, f: Sbdf) {
    cache.reset(f, Reset::Power);
    cache.read_u32(f, 8).unwrap();
    for reads in [1, 0] {
        let before = cache.stats().hardware_reads;
        cache.read_u32(f, 0x2c).unwrap();
        assert_eq!(cache.stats().hardware_reads, before + reads);
    }
}

/// A restore after a write: the write went through the cache, the page is older.
#[test]
fn a_write_before_the_addition_is_not_undone_by_a_restore() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::endpoint(0x1af4, 2)
            .with_bar32(0, 16)
            .with_express(0),
    );
    let memory = memory();
    let saved = saved(&bus, &memory, &[F0], false);
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
    cache.write_u32(F0, 0x10, 0xfe00_0000).unwrap();
    let _ = cache.add(F0);
    assert_eq!(cache.read_u32(F0, 0x10), Ok(0xfe00_0000));
}

/// A machine whose function [`F0`] has two virtual functions, and where its SR-IOV capability is.
fn with_virtual_functions() -> (SimBus, u16) {
    let bus = SimBus::new();
    let shape = SriovShape {
        total: 4,
        offset: [0x80, 0x80],
        stride: [1, 1],
        device: 3,
        template: SimFunction::virtual_function()
            .with_express(0)
            .with_msix(4, 0),
    };
    bus.add(
        F0,
        SimFunction::endpoint(0x1af4, 2)
            .with_express(0)
            .with_ari(0)
            .with_sriov(shape),
    );
    let sriov = 0x108;
    bus.write_u16(F0, sriov + 0x10, 2).unwrap();
    bus.write_u16(F0, sriov + 8, 9).unwrap();
    (bus, sriov)
}

/// The same for virtual functions: the physical one, which the cache knows, makes them anew.
#[test]
fn virtual_functions_made_anew_before_their_addition() {
    let (bus, sriov) = with_virtual_functions();
    let msix = (0x40..0x100)
        .step_by(4)
        .find(|at| bus.peek(VF, acc(*at, Width::U8)) == 0x11)
        .unwrap();
    bus.write_u16(VF, msix + 2, 0x8000).unwrap();
    let memory = memory();
    let saved = saved(&bus, &memory, &[F0, VF], false);
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
    assert_eq!(cache.add(F0), Ok(Added::Restored));
    // As Linux does when it finds VF Enable set: off, and on again by the driver.
    cache.write_u16(F0, sriov + 8, 0).unwrap();
    cache.write_u16(F0, sriov + 8, 9).unwrap();
    let _ = cache.add(VF);
    assert_eq!(
        cache.read_u16(VF, msix + 2).map(u32::from),
        Ok(bus.peek(VF, acc(msix + 2, Width::U16)))
    );
}

/// A predecessor with other rules marked VPD.
#[test]
fn the_marks_of_other_rules_are_not_used() {
    for concurrent in [true, false] {
        let bus = SimBus::new();
        bus.add(
            F0,
            SimFunction::endpoint(0x1af4, 2).with_vpd().with_express(0),
        );
        let vpd = 0x42;
        assert_eq!(bus.peek(F0, acc(0x40, Width::U8)), 3);
        let memory = memory();
        let saved = saved(&bus, &memory, &[F0], true);
        let addr = saved.find(F0).unwrap();
        let map = memory
            .words(PhysAddr::new(addr.as_u64() + 4096 + 8), 1)
            .unwrap();
        map[0].fetch_or(3 << 2, std::sync::atomic::Ordering::Relaxed);
        let pages = alloc(&memory, 0x90_0000);
        let gates = Gates::new(&bus);
        let cache = Cached::in_pages(&gates, &memory, &pages, PAGE).with_saved(saved);
        if concurrent {
            let (has, go) = gates.stop(F0, 0x0e, false, false);
            std::thread::scope(|scope| {
                let adder = scope.spawn(|| cache.add(F0));
                has.recv().unwrap();
                cache.read_u16(F0, vpd).unwrap();
                go.send(()).unwrap();
                assert_eq!(adder.join().unwrap(), Ok(Added::Restored));
            });
        } else {
            assert_eq!(cache.add(F0), Ok(Added::Restored));
            bus.fail_next(1);
            cache.read_u16(F0, vpd).unwrap_err();
            cache.read_u16(F0, vpd).unwrap();
        }
        cache.read_u32(F0, 0x2c).unwrap();
        bus.poke(F0, acc(vpd, Width::U16), 0x8000);
        assert_eq!(
            cache.read_u16(F0, vpd),
            Ok(0x8000),
            "concurrent: {concurrent}"
        );
    }
}

/// An addition anew beside a vendor's write that began before it and ends in it.
#[test]
fn an_addition_keeps_nothing_that_it_read_before_a_write_ended() {
    let bus = SimBus::new();
    let serial = 0x148;
    bus.add(
        F0,
        SimFunction::endpoint(0x1af4, 2)
            .with_express(0)
            .with_aer()
            .with_serial(7)
            .with_backdoor(0xf0, serial),
    );
    let header = bus.peek(F0, acc(serial, Width::U32));
    assert_eq!(header & 0xffff, 3, "{header:x}");
    let gates = Gates::new(&bus);
    let cache = Cached::new(&gates);
    cache.add(F0).unwrap();
    let (writing, write) = gates.stop(F0, 0xf0, true, false);
    let (reading, read) = gates.stop(F0, serial, false, true);
    std::thread::scope(|scope| {
        // Another version of the capability.
        let writer = scope.spawn(|| cache.write_u32(F0, 0xf0, header ^ 0x3_0000).unwrap());
        writing.recv().unwrap();
        let adder = scope.spawn(|| cache.add(F0));
        reading.recv().unwrap();
        write.send(()).unwrap();
        writer.join().unwrap();
        read.send(()).unwrap();
        adder.join().unwrap().unwrap();
    });
    let truth = bus.peek(F0, acc(serial, Width::U32));
    assert_eq!(truth, header ^ 0x3_0000);
    assert_eq!(cache.read_u32(F0, serial), Ok(truth));
}

/// Hot-plug, told as `Reset::Buses` says; the other device is of the same vendor.
#[test]
fn half_an_identity_is_none() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::endpoint(0x8086, 2)
            .with_msi(true, false, 0)
            .with_express(0),
    );
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    bus.add(
        F0,
        SimFunction::endpoint(0x8086, 3).with_vpd().with_express(0),
    );
    cache.reset(Sbdf::from_bdf(0, 8), Reset::Buses { first: 1, last: 1 });
    assert_eq!(cache.read_u16(F0, 0), Ok(0x8086));
    cache.read_u16(F0, 0x42).unwrap();
    bus.poke(F0, acc(0x42, Width::U16), 0x8000);
    assert_eq!(cache.read_u16(F0, 0x42), Ok(0x8000));
}

struct NotReady<'b>(&'b SimBus, std::sync::atomic::AtomicBool);
impl PciConfigAccess for NotReady<'_> {
    fn read(&self, f: Sbdf, at: Access) -> Result<u32, PciError> {
        let value = self.0.read(f, at)?;
        let away = self.1.load(std::sync::atomic::Ordering::SeqCst);
        Ok(match (away, at.offset(), at.width()) {
            (false, ..) => value,
            // Retry completion made visible to software: PCI Express Base 5.0, 2.3.2.
            (true, 0, Width::U32) => 0xffff_0001,
            (true, 0, Width::U16) => 1,
            (true, ..) => at.width().mask(),
        })
    }
    fn write(&self, f: Sbdf, at: Access, v: u32) -> Result<(), PciError> {
        self.0.write(f, at, v)
    }
}

/// "Configuration retry" answers are not stored (defect 5), nor kept over the reset.
#[test]
fn a_retry_answer_is_not_kept() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::endpoint(0x8086, 2).with_express(0));
    let access = NotReady(&bus, false.into());
    let away = |on| access.1.store(on, std::sync::atomic::Ordering::SeqCst);
    let cache = Cached::new(&access);
    cache.add(F0).unwrap();
    cache.reset(F0, Reset::Power);
    cache.read_u32(F0, 8).unwrap();
    // A reset by its driver's own means, told when it is over.
    away(true);
    assert_eq!(cache.read_u32(F0, 0), Ok(0xffff_0001));
    away(false);
    let polled = cache.read_u32(F0, 0);
    cache.reset(F0, Reset::Function);
    cache.read_u32(F0, 8).unwrap();
    assert_eq!(
        cache.read_u32(F0, 0),
        Ok(0x0002_8086),
        "after the reset was told; polled {polled:x?}"
    );
}

/// The same with everything told before and after: a miss under way spoils what is kept.
#[test]
fn a_fill_that_is_refused_does_not_spoil_what_is_kept() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::endpoint(0x8086, 2).with_express(0));
    let access = NotReady(&bus, false.into());
    let gates = GatedNotReady {
        inner: &access,
        gates: Gates::new(&bus),
    };
    let away = |on| access.1.store(on, std::sync::atomic::Ordering::SeqCst);
    let cache = Cached::new(&gates);
    cache.add(F0).unwrap();
    cache.reset(F0, Reset::Power);
    cache.read_u32(F0, 8).unwrap();
    assert_eq!(cache.read_u16(F0, 0), Ok(0x8086));
    let (has, go) = gates.gates.stop(F0, 0, false, false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| cache.read_u32(F0, 0));
        has.recv().unwrap();
        cache.reset(F0, Reset::Function);
        away(true);
        go.send(()).unwrap();
        reader.join().unwrap().unwrap();
        away(false);
        cache.reset(F0, Reset::Function);
    });
    cache.read_u32(F0, 8).unwrap();
    assert_eq!(cache.read_u16(F0, 0), Ok(0x8086));
}
struct GatedNotReady<'b> {
    inner: &'b NotReady<'b>,
    gates: Gates<'b>,
}
impl PciConfigAccess for GatedNotReady<'_> {
    fn read(&self, f: Sbdf, at: Access) -> Result<u32, PciError> {
        self.gates.pass(f, at, false, false);
        self.inner.read(f, at)
    }
    fn write(&self, f: Sbdf, at: Access, v: u32) -> Result<(), PciError> {
        self.inner.write(f, at, v)
    }
}

/// Told that the physical function lost power, while it is away.
#[test]
fn virtual_functions_go_with_the_power_of_a_restored_physical_one() {
    let (bus, _) = with_virtual_functions();
    let memory = memory();
    let saved = saved(&bus, &memory, &[F0], true);
    let pages = alloc(&memory, 0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PAGE).with_saved(saved);
    assert_eq!(cache.add(F0), Ok(Added::Restored));
    assert_eq!(cache.add(VF), Ok(Added::Inferred));
    cache.read_u32(VF, 8).unwrap();
    bus.reset(F0, ResetKind::Cold);
    bus.set_present(F0, false);
    cache.reset(F0, Reset::Power);
    bus.set_present(F0, true);
    assert_eq!(cache.read_u32(VF, 8), Ok(bus.peek(VF, acc(8, Width::U32))));
}

/// PCI Express Base 5.0, 7.5.3.19: the transmit margin goes back to 0 when the link is trained anew.
#[test]
fn transmit_margin_is_the_links() {
    let bus = SimBus::new();
    let port = SimFunction::bridge(0x1b36, 2, 1, 1).with_express(4);
    let at = Sbdf::from_bdf(0, 8);
    let express = 0x40;
    bus.add(at, port);
    let cache = Cached::new(&bus);
    cache.add(at).unwrap();
    cache.write_u16(at, express + 0x30, 0x0083).unwrap();
    bus.poke(at, acc(express + 0x30, Width::U16), 0x0083);
    assert_eq!(cache.read_u16(at, express + 0x30), Ok(0x0083));
    // The link goes down and up: the port's own software asks for it.
    cache.write_u16(at, 0x3e, 0x40).unwrap();
    cache.write_u16(at, 0x3e, 0).unwrap();
    bus.poke(at, acc(express + 0x30, Width::U16), 0x0003);
    assert_eq!(cache.read_u16(at, express + 0x30), Ok(0x0003));
}

/// "A write into a capability whose meaning is the vendor's" can do anything: also to PMCSR.
#[test]
fn what_a_vendors_write_did_to_the_power_state_is_not_taken_for_known() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::endpoint(0x1af4, 2)
            .with_bar32(0, 16)
            .with_pm(false)
            .with_vendor(0x10)
            .with_express(0),
    );
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.write_u32(F0, 0x10, 0xfe00_0000).unwrap();
    // The device enters D3hot by its vendor's register.
    cache.write_u32(F0, 0x4c, 3).unwrap();
    bus.poke(F0, acc(0x44, Width::U16), 3);
    assert_eq!(cache.read_u32(F0, 0x10), Ok(0xfe00_0000));
    cache.write_u16(F0, 0x44, 0).unwrap();
    assert_eq!(
        cache.read_u32(F0, 0x10),
        Ok(bus.peek(F0, acc(0x10, Width::U32)))
    );
}

/// Two writes to link control of one function: the one that seemed to change nothing lands last.
#[test]
fn a_write_that_another_one_made_wide() {
    let bus = SimBus::new();
    for f in [F0, F1] {
        bus.add(
            f,
            SimFunction::endpoint(0x1af4, 2)
                .multifunction()
                .with_express(0),
        );
    }
    let gates = Gates::new(&bus);
    let cache = Cached::new(&gates);
    cache.add(F0).unwrap();
    cache.add(F1).unwrap();
    let (before, go) = gates.stop(F0, 0x50, true, false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| cache.write_u16(F0, 0x50, 0).unwrap());
        before.recv().unwrap();
        cache.write_u16(F0, 0x50, 0x40).unwrap();
        bus.poke(F1, acc(0x4c, Width::U32), 0x0041_2044);
        assert_eq!(cache.read_u32(F1, 0x4c), Ok(0x0041_2044));
        let (after, end) = gates.stop(F0, 0x50, true, true);
        go.send(()).unwrap();
        after.recv().unwrap();
        bus.poke(F1, acc(0x4c, Width::U32), 0x0041_1044);
        let seen = cache.read_u32(F1, 0x4c);
        end.send(()).unwrap();
        writer.join().unwrap();
        assert_eq!(seen, Ok(0x0041_1044));
    });
    learns(&cache, F0);
    learns(&cache, F1);
}

/// A physical function whose VF Enable is cleared while it is added anew.
#[test]
fn vf_enable_is_cleared_while_the_physical_function_is_added_anew() {
    let (bus, sriov) = with_virtual_functions();
    let gates = Gates::new(&bus);
    let cache = Cached::new(&gates);
    cache.add(F0).unwrap();
    cache.add(VF).unwrap();
    cache.read_u32(VF, 8).unwrap();
    let (has, go) = gates.stop(F0, 0x0e, false, false);
    std::thread::scope(|scope| {
        let adder = scope.spawn(|| cache.add(F0));
        has.recv().unwrap();
        cache.write_u16(F0, sriov + 8, 0).unwrap();
        let seen = cache.read_u32(VF, 8);
        go.send(()).unwrap();
        adder.join().unwrap().unwrap();
        assert_eq!(seen, Ok(bus.peek(VF, acc(8, Width::U32))));
    });
    learns(&cache, F0);
}

/// What is on the buses above goes if the function may be a bridge, and only then.
#[test]
fn a_write_to_a_function_that_is_being_added() {
    let above = Sbdf::from_bdf(0, 0x0200);
    let beside = Sbdf::from_bdf(0, 0x0108);
    let endpoint = SimFunction::endpoint(0x1af4, 2).with_pm(false);
    let bridge = SimFunction::bridge(0x1b36, 2, 2, 2).with_pm(false);
    // While it is walked, and when that is over.
    for (function, is_bridge, moment) in [
        (endpoint.clone(), false, 0x34),
        (endpoint, false, 0x44),
        (bridge.clone(), true, 0x34),
        (bridge, true, 0x44),
    ] {
        let bus = SimBus::new();
        bus.add(F0, function);
        for f in [above, beside] {
            bus.add(f, SimFunction::endpoint(3, 4).with_express(0));
        }
        let gates = Gates::new(&bus);
        let cache = Cached::new(&gates);
        cache.add(above).unwrap();
        cache.add(beside).unwrap();
        let (has, go) = gates.stop(F0, moment, false, false);
        std::thread::scope(|scope| {
            let adder = scope.spawn(|| cache.add(F0));
            has.recv().unwrap();
            cache.write_u8(F0, 0x3c, 5).unwrap();
            go.send(()).unwrap();
            assert_eq!(adder.join().unwrap(), Ok(Added::Inferred));
        });
        assert_eq!(cache.contains(above), !is_bridge);
        assert!(cache.contains(beside));
        assert_eq!(cache.read_u8(F0, 0x3c), Ok(5));
        learns(&cache, F0);
        learns(&cache, beside);
    }
}

/// A write that began before its function was added anew may have been to another one.
#[test]
fn a_write_that_ends_after_an_addition_anew() {
    let above = Sbdf::from_bdf(0, 0x0200);
    let bus = SimBus::new();
    bus.add(F0, SimFunction::bridge(0x1b36, 2, 2, 2).with_express(4));
    bus.add(above, SimFunction::endpoint(3, 4).with_express(0));
    let gates = Gates::new(&bus);
    let cache = Cached::new(&gates);
    cache.add(F0).unwrap();
    let resets = || cache.stats_of(F0).unwrap().resets;
    let before = resets();
    let (has, go) = gates.stop(F0, 0x3c, true, false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| cache.write_u8(F0, 0x3c, 5).unwrap());
        has.recv().unwrap();
        cache.add(F0).unwrap();
        cache.add(above).unwrap();
        go.send(()).unwrap();
        writer.join().unwrap();
    });
    assert!(cache.contains(F0));
    assert_eq!(resets(), before + 1);
    assert!(!cache.contains(above));
    learns(&cache, F0);
}

/// A power state that another write changed meanwhile: the one that seemed to do nothing resets.
#[test]
fn a_write_that_another_one_made_a_reset() {
    let bus = SimBus::new();
    let function = SimFunction::endpoint(0x1af4, 2).with_pm(false);
    bus.add(F0, function.slow_reset(2));
    let gates = Gates::new(&bus);
    let cache = Cached::new(&gates);
    cache.add(F0).unwrap();
    let (has, go) = gates.stop(F0, 0x44, true, false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| cache.write_u16(F0, 0x44, 0).unwrap());
        has.recv().unwrap();
        cache.write_u16(F0, 0x44, 3).unwrap();
        assert_eq!(cache.read_u32(F0, 0), Ok(0x0002_1af4));
        assert_eq!(cache.read_u32(F0, 0), Ok(0x0002_1af4));
        go.send(()).unwrap();
        writer.join().unwrap();
    });
    assert_eq!(cache.read_u32(F0, 0), Ok(u32::MAX));
}

/// What is read of another function is stored if the write cannot concern it.
#[test]
fn a_write_that_concerns_its_own_function_alone() {
    let msi = 0x40;
    for (offset, stored) in [(0x10, true), (msi + 2, true), (0x60, false)] {
        let bus = SimBus::new();
        for f in [F0, F1] {
            bus.add(
                f,
                SimFunction::endpoint(0x1af4, 2)
                    .multifunction()
                    .with_bar32(0, 16)
                    .with_msi(true, false, 1)
                    .with_express(0),
            );
        }
        let gates = Gates::new(&bus);
        let cache = Cached::new(&gates);
        cache.add(F0).unwrap();
        cache.add(F1).unwrap();
        let (has, go) = gates.stop(F0, offset, true, false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| cache.write_u16(F0, offset, 0).unwrap());
            has.recv().unwrap();
            cache.read_u32(F1, 0x10).unwrap();
            let before = bus.reads();
            cache.read_u32(F1, 0x10).unwrap();
            let reads = bus.reads() - before;
            go.send(()).unwrap();
            writer.join().unwrap();
            assert_eq!(reads == 0, stored, "{offset:#x}");
        });
        learns(&cache, F1);
    }
}

//! Sequences after which a cached read must not differ from the hardware: what the specification
//! says happens beside a write, and what other CPUs do at the same time.
#![allow(
    missing_docs,
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
use kho_pcsc::{Added, Cached, Reset, Saved, Unlisted, Variant};

/// Stands for the predecessor's map, which has whole pages only.
fn is_page(addr: PhysAddr) -> bool {
    addr.as_u64().is_multiple_of(0x1000)
}

const F0: Sbdf = Sbdf::from_bdf(0, 0x0008);
const F1: Sbdf = Sbdf::from_bdf(0, 0x0009);
const CHILD: Sbdf = Sbdf::from_bdf(0, 0x0108);

fn acc(offset: u16, width: Width) -> Access {
    Access::new(offset, width).unwrap()
}

/// Spec side effects that SimFunction does not model: run after each write.
struct Hook<F>(SimBus, F);
impl<F: Fn(&SimBus, Sbdf, Access, u32)> PciConfigAccess for Hook<F> {
    fn read(&self, f: Sbdf, at: Access) -> Result<u32, PciError> {
        self.0.read(f, at)
    }
    fn write(&self, f: Sbdf, at: Access, v: u32) -> Result<(), PciError> {
        self.0.write(f, at, v)?;
        (self.1)(&self.0, f, at, v);
        Ok(())
    }
}

fn shape() -> SriovShape {
    SriovShape {
        total: 4,
        offset: [0x80, 0x80],
        stride: [2, 1],
        device: 1,
        template: SimFunction::virtual_function(),
    }
}

/// PCI Express Base 5.0, 7.5.3.2: the interrupt message number is updated when software writes
/// Multiple Message Enable.
#[test]
fn interrupt_message_number_follows_msi_control() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::bridge(0x1b36, 2, 1, 1)
            .with_msi(true, false, 5)
            .with_express(4)
            .with_dpc(false),
    );
    let (msi, express, dpc) = (0x40u16, 0x50u16, 0x100u16);
    assert_eq!(bus.peek(F0, acc(express, Width::U8)), 0x10);
    let hooked = Hook(bus, |bus: &SimBus, f: Sbdf, at: Access, v: u32| {
        if at.offset() == msi + 2 {
            let number = if v >> 4 & 7 != 0 { 3 } else { 0 };
            let flags = bus.peek(f, acc(express + 2, Width::U16)) & !0x3e00 | number << 9;
            bus.poke(f, acc(express + 2, Width::U16), flags);
            let cap = bus.peek(f, acc(dpc + 4, Width::U16)) & !0x1f | number;
            bus.poke(f, acc(dpc + 4, Width::U16), cap);
        }
    });
    let cache = Cached::new(&hooked);
    cache.add(F0).unwrap();
    cache.read_u16(F0, express + 2).unwrap();
    cache.read_u16(F0, dpc + 4).unwrap();
    cache.write_u16(F0, msi + 2, 0x21).unwrap();
    assert_eq!(
        u32::from(cache.read_u16(F0, dpc + 4).unwrap()),
        hooked.0.peek(F0, acc(dpc + 4, Width::U16)),
        "DPC capability"
    );
    assert_eq!(
        u32::from(cache.read_u16(F0, express + 2).unwrap()),
        hooked.0.peek(F0, acc(express + 2, Width::U16)),
        "PCIe flags"
    );
}

/// PCI Express Base 5.0, 9.3.3.3.5: ARI Capable Hierarchy stands only in the lowest-numbered physical
/// function and affects all of them.
#[test]
fn ari_hierarchy_of_pf0_moves_the_vfs_of_pf1() {
    let bus = SimBus::new();
    for f in [F0, F1] {
        bus.add(
            f,
            SimFunction::endpoint(0x1af4, 2)
                .multifunction()
                .with_express(0)
                .with_sriov(shape()),
        );
    }
    let hooked = Hook(bus, |bus: &SimBus, f: Sbdf, at: Access, v: u32| {
        if f == F0 && at.offset() == 0x108 {
            bus.poke(
                F1,
                acc(0x116, Width::U16),
                if v & 0x10 != 0 { 1 } else { 2 },
            );
        }
    });
    let cache = Cached::new(&hooked);
    cache.add(F0).unwrap();
    cache.add(F1).unwrap();
    cache.write_u16(F1, 0x110, 4).unwrap();
    assert_eq!(cache.read_u16(F1, 0x116), Ok(2));
    cache.write_u16(F0, 0x108, 0x10).unwrap();
    assert_eq!(cache.read_u16(F1, 0x116), Ok(1));
}

/// PCI Express Base 5.0, 7.5.3.7 and 7.5.3.6: exit latencies follow the common clock configuration, which is
/// one for the whole device.
#[test]
fn common_clock_in_f1_changes_exit_latency_in_f0() {
    let bus = SimBus::new();
    for f in [F0, F1] {
        bus.add(
            f,
            SimFunction::endpoint(0x1af4, 2)
                .multifunction()
                .with_express(0),
        );
    }
    let hooked = Hook(bus, |bus: &SimBus, f: Sbdf, at: Access, v: u32| {
        if f == F1 && at.offset() == 0x50 && v & 0x40 != 0 {
            bus.poke(F0, acc(0x4c, Width::U32), 0x0041_2044);
        }
    });
    let cache = Cached::new(&hooked);
    cache.add(F0).unwrap();
    cache.add(F1).unwrap();
    cache.write_u16(F0, 0x50, 0x40).unwrap();
    cache.read_u32(F0, 0x4c).unwrap();
    cache.write_u16(F1, 0x50, 0x40).unwrap();
    assert_eq!(cache.read_u32(F0, 0x4c), Ok(0x0041_2044));
}

/// PCI Express Base 5.0, 7.5.1.2.4: the device sets the validation status (3:1) and its details (7:4).
#[test]
fn rom_validation_status_is_the_devices() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::endpoint(0x1af4, 2).with_rom(16));
    bus.poke(F0, acc(0x30, Width::U32), 0xfe00_0002);
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    assert_eq!(cache.read_u32(F0, 0x30), Ok(0xfe00_0002));
    bus.poke(F0, acc(0x30, Width::U32), 0xfe00_0006);
    assert_eq!(cache.read_u32(F0, 0x30), Ok(0xfe00_0006));
}

/// PCI Express Base 5.0, 2.3.1.1 and 6.6.1: a device that is not ready answers nothing, and then does.
#[test]
fn a_device_that_becomes_ready_while_it_is_added_is_no_virtual_function() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::endpoint(0x8086, 2)
            .with_bar32(0, 16)
            .slow_reset(1),
    );
    bus.reset(F0, ResetKind::Cold);
    let cache = Cached::new(&bus);
    let _ = cache.add(F0);
    assert_eq!(cache.read_u32(F0, 0), Ok(bus.peek(F0, acc(0, Width::U32))));
}

/// PCI-to-PCI Bridge 1.2, 3.2.5.3: bus numbers are 0 after a reset, so nothing below answers.
#[test]
fn power_loss_of_a_bridge_is_the_end_of_what_is_below() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::bridge(0x1b36, 2, 0, 0).with_express(4));
    bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4).with_bar32(0, 16));
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.write_u32(F0, 0x18, 0x0001_0100).unwrap();
    cache.add(CHILD).unwrap();
    cache.read_u32(CHILD, 0x10).unwrap();
    bus.reset(F0, ResetKind::Cold);
    cache.reset(F0, Reset::Power);
    cache.reset(F0, Reset::Below);
    assert_eq!(
        cache.read_u32(CHILD, 0x10),
        Ok(bus.peek(CHILD, acc(0x10, Width::U32)))
    );
}

/// PCI-to-PCI Bridge 1.2, 3.2.5.3: what was below is not found by asking the bridge.
#[test]
fn forgetting_a_bridge_that_lost_its_numbers_forgets_what_is_below() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::bridge(0x1b36, 2, 0, 0).with_express(4));
    bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4).with_bar32(0, 16));
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.write_u32(F0, 0x18, 0x0001_0100).unwrap();
    cache.add(CHILD).unwrap();
    bus.reset(F0, ResetKind::Cold);
    cache.forget(F0);
    assert_eq!(cache.read_u32(CHILD, 0), Ok(u32::MAX));
}

/// PC Card Standard, CardBus bridges: bus numbers and the reset bit stand where a PCI bridge has them.
#[test]
fn a_cardbus_bridge_moves_what_is_below() {
    let bus = SimBus::new();
    let mut bytes = vec![0u8; 256];
    bytes[..4].copy_from_slice(&[1, 0, 2, 0]);
    bytes[0x0b] = 6;
    bytes[0x0a] = 7;
    bytes[0x0e] = 2;
    bus.add(
        F0,
        SimFunction::from_bytes(&bytes).with_register(0x18, 4, 0x0001_0100, u32::MAX, 0),
    );
    bus.add_behind(F0, CHILD, SimFunction::conventional(3, 4).with_bar32(0, 12));
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.add(CHILD).unwrap();
    cache.write_u32(F0, 0x18, 0x0002_0200).unwrap();
    assert_eq!(
        cache.read_u32(CHILD, 0),
        Ok(bus.peek(CHILD, acc(0, Width::U32)))
    );
}

fn backdoor(function: SimFunction, offset: u16) {
    let bus = SimBus::new();
    bus.add(F0, function.with_backdoor(offset, 0x2c));
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.read_u32(F0, 0x2c).unwrap();
    cache.write_u32(F0, offset, 0x0007_0007).unwrap();
    assert_eq!(cache.read_u32(F0, 0x2c), Ok(0x0007_0007));
}

/// PCI Express Base 5.0, 7.9: bytes behind the last capability are not defined.
#[test]
fn vendor_registers_behind_the_last_extended_capability() {
    backdoor(
        SimFunction::endpoint(0x1af4, 2)
            .with_express(0)
            .with_acs(0x5f),
        0xf00,
    );
}

/// PCI Express Base 1.1, 7.8: an endpoint has no slot, root or version 2 registers.
#[test]
fn vendor_registers_behind_a_version_1_express_capability() {
    let mut function = SimFunction::endpoint(0x1af4, 2);
    let at = function.capability(0x10, 0x14);
    backdoor(function.with_register(at + 2, 2, 1, 0, 0), at + 0x30);
}

/// PCI Local Bus 3.0, 6.8.1: the message control says how long the capability is.
#[test]
fn vendor_registers_behind_a_short_msi_capability() {
    backdoor(
        SimFunction::conventional(0x1af4, 2).with_msi(false, false, 0),
        0x50,
    );
}

/// PCI Express Base 5.0, 7.5.3.16: forwarding still holds when the write that ends it fails.
#[test]
fn a_failed_write_is_not_taken_for_done() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::bridge(0x1b36, 2, 1, 1)
            .with_express(4)
            .with_ari_forwarding(),
    );
    bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4));
    let control = 0x40 + 0x28;
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.write_u16(F0, control, 0x20).unwrap();
    cache.add(CHILD).unwrap();
    bus.fail_next(2); // the look at the bus numbers, and the write
    assert!(cache.write_u16(F0, control, 0).is_err());
    let _ = cache.add(CHILD);
    assert_eq!(cache.read_u32(CHILD, 0), Ok(0x0004_0003));
    cache.write_u16(F0, control, 0).unwrap();
    assert_eq!(cache.read_u32(CHILD, 0), Ok(u32::MAX));
}

/// PCI Express Base 5.0, 6.2.10: the link is down until software clears the trigger status.
#[test]
fn containment_that_ends_was_a_reset_below() {
    let bus = SimBus::new();
    bus.add(
        F0,
        SimFunction::bridge(0x1b36, 2, 1, 1)
            .with_express(4)
            .with_dpc(false),
    );
    bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4).with_bar32(0, 16));
    let cache = Cached::new(&bus);
    cache.add(F0).unwrap();
    cache.add(CHILD).unwrap();
    cache.write_u32(CHILD, 0x10, 0xfe00_0000).unwrap();
    cache.read_u32(CHILD, 0x10).unwrap();
    bus.poke(F0, acc(0x108, Width::U16), 1);
    bus.reset(CHILD, ResetKind::Function);
    cache.write_u16(F0, 0x108, 1).unwrap();
    assert_eq!(
        cache.read_u32(CHILD, 0x10),
        Ok(bus.peek(CHILD, acc(0x10, Width::U32)))
    );
}

/// Stops a chosen access before it reaches the hardware until told to go on.
struct Gate<'b> {
    bus: &'b SimBus,
    stop: (Sbdf, u16, bool),
    arrived: Mutex<Option<Sender<()>>>,
    go: Mutex<Receiver<()>>,
}
impl Gate<'_> {
    fn wait(&self, f: Sbdf, at: Access, write: bool) {
        if (f, at.offset(), write) != self.stop {
            return;
        }
        let arrived = self.arrived.lock().unwrap().take();
        if let Some(arrived) = arrived {
            arrived.send(()).unwrap();
            self.go.lock().unwrap().recv().unwrap();
        }
    }
}
impl PciConfigAccess for Gate<'_> {
    fn read(&self, f: Sbdf, at: Access) -> Result<u32, PciError> {
        self.wait(f, at, false);
        self.bus.read(f, at)
    }
    fn write(&self, f: Sbdf, at: Access, v: u32) -> Result<(), PciError> {
        self.wait(f, at, true);
        self.bus.write(f, at, v)
    }
}

/// The promise of the cache: a write is seen by every read that begins after it.
#[test]
fn a_write_that_began_before_the_function_was_added() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::endpoint(3, 4).with_bar32(0, 16));
    let ((arrived, has_arrived), (release, go)) = (channel(), channel());
    let gate = Gate {
        bus: &bus,
        stop: (F0, 0x10, true),
        arrived: Mutex::new(Some(arrived)),
        go: Mutex::new(go),
    };
    let cache = Cached::new(gate);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| cache.write_u32(F0, 0x10, 0xfe00_0000).unwrap());
        has_arrived.recv().unwrap();
        cache.add(F0).unwrap();
        assert_eq!(cache.read_u32(F0, 0x10), Ok(0));
        release.send(()).unwrap();
        writer.join().unwrap();
    });
    assert_eq!(cache.read_u32(F0, 0x10), Ok(0xfe00_0000));
}

/// PCI-to-PCI Bridge 1.2, 3.2.5: bus numbers decide who answers below.
#[test]
fn a_bus_number_written_while_the_bridge_is_added_anew() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::bridge(0x1b36, 2, 1, 1).with_express(4));
    bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4));
    let ((arrived, has_arrived), (release, go)) = (channel(), channel());
    let gate = Gate {
        bus: &bus,
        stop: (F0, 0x34, false),
        arrived: Mutex::new(None),
        go: Mutex::new(go),
    };
    let cache = Cached::new(gate);
    cache.add(F0).unwrap();
    cache.add(CHILD).unwrap();
    *cache.inner().arrived.lock().unwrap() = Some(arrived);
    std::thread::scope(|scope| {
        let adder = scope.spawn(|| cache.add(F0));
        has_arrived.recv().unwrap();
        cache.write_u32(F0, 0x18, 0x0002_0200).unwrap();
        release.send(()).unwrap();
        let _ = adder.join().unwrap();
    });
    assert_eq!(
        cache.read_u32(CHILD, 0),
        Ok(bus.peek(CHILD, acc(0, Width::U32)))
    );
}

/// What is below a bridge is in the cache only while the bridge is.
#[test]
fn a_bridge_that_is_reset_or_forgotten_while_it_is_added_anew() {
    for forgotten in [false, true] {
        let bus = SimBus::new();
        bus.add(F0, SimFunction::bridge(0x1b36, 2, 1, 1).with_express(4));
        bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4));
        let ((arrived, has_arrived), (release, go)) = (channel(), channel());
        let gate = Gate {
            bus: &bus,
            stop: (F0, 0x34, false),
            arrived: Mutex::new(None),
            go: Mutex::new(go),
        };
        let cache = Cached::new(gate);
        cache.add(F0).unwrap();
        cache.add(CHILD).unwrap();
        *cache.inner().arrived.lock().unwrap() = Some(arrived);
        std::thread::scope(|scope| {
            let adder = scope.spawn(|| cache.add(F0));
            has_arrived.recv().unwrap();
            if forgotten {
                cache.forget(F0);
                assert!(!cache.contains(CHILD), "it went with the bridge");
            } else {
                cache.set_enabled(true);
            }
            release.send(()).unwrap();
            assert_eq!(adder.join().unwrap().is_err(), forgotten);
        });
        assert_eq!(cache.contains(F0), !forgotten);
        cache.write_u32(F0, 0x18, 0x0002_0200).unwrap();
        assert_eq!(cache.read_u32(CHILD, 0), Ok(u32::MAX));
    }
}

/// The promise of the cache: a function that was added stays until it is taken out.
#[test]
fn two_additions_at_once_leave_the_one_that_succeeded() {
    let bus = SimBus::new();
    bus.add(F0, SimFunction::bridge(0x1b36, 2, 1, 1).with_express(4));
    bus.add_behind(F0, CHILD, SimFunction::endpoint(3, 4));
    let ((arrived, has_arrived), (release, go)) = (channel(), channel());
    let gate = Gate {
        bus: &bus,
        stop: (F0, 0x34, false),
        arrived: Mutex::new(Some(arrived)),
        go: Mutex::new(go),
    };
    let cache = Cached::new(gate);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| cache.add(F0));
        has_arrived.recv().unwrap();
        // Waits for the slow one.
        let other = scope.spawn(|| cache.add_with(F0, Unlisted::Constant));
        std::thread::yield_now();
        release.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), Ok(Added::Inferred));
        assert_eq!(other.join().unwrap(), Ok(Added::Inferred));
    });
    assert!(cache.contains(F0), "added, and nobody took it out");
}

/// Two nodes of the sub-blob that name the same page.
#[test]
fn two_functions_never_share_a_saved_page() {
    let nic = || {
        SimFunction::virtual_function()
            .with_express(0)
            .with_msix(4, 0)
    };
    let bus = SimBus::new();
    let memory = SimMemory::new(PhysRange::new(PhysAddr::new(0x10_0000), 16 << 20)).unwrap();
    let alloc = |from| {
        SimAlloc::new(
            &memory,
            PageSize::Size4K,
            [PhysRange::new(PhysAddr::new(from), 8 << 20).unwrap()],
        )
    };
    let pages = alloc(0x10_0000);
    let cache = Cached::in_pages(&bus, &memory, &pages, PageSize::Size4K);
    for f in [F0, F1] {
        bus.add(f, nic());
        cache.add(f).unwrap();
    }
    let outgoing =
        Outgoing::new(Tracker::new(&memory, &pages, PageSize::Size4K, &[]).unwrap()).unwrap();
    cache.save(&outgoing).unwrap();
    let range = outgoing.find("pcsc").unwrap();
    let mut blob = vec![0; range.size() as usize];
    memory.read(range.start(), &mut blob).unwrap();
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    let (a, b) = (
        saved.find(F0).unwrap().as_u64().to_le_bytes(),
        saved.find(F1).unwrap().as_u64().to_le_bytes(),
    );
    let place = blob.windows(8).position(|w| w == b).unwrap();
    blob[place..place + 8].copy_from_slice(&a);
    let saved = Saved::read(&blob, Variant::Extended, is_page).unwrap();
    let second = alloc(0x90_0000);
    let cache = Cached::in_pages(&bus, &memory, &second, PageSize::Size4K).with_saved(saved);
    let _ = (cache.add(F0), cache.add(F1));
    // MSI-X control differs between the two.
    let msix = (0x40..0x100)
        .step_by(4)
        .find(|o| bus.peek(F0, acc(*o, Width::U8)) == 0x11)
        .unwrap();
    cache.write_u16(F0, msix + 2, 0x8000).unwrap();
    assert_eq!(cache.read_u16(F0, msix + 2), Ok(0x8003));
    assert_eq!(cache.read_u16(F1, msix + 2), Ok(0x0003));
    assert_eq!(cache.read_u16(F0, msix + 2), Ok(0x8003));
}

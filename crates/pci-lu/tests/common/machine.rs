//! A simulated machine, and a program that boots on it.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use kho_core::outgoing::luo::Luo;
use kho_core::outgoing::{Outgoing, Participant, Tracker};
use kho_core::{BootData, OutgoingError};
use kho_hal::sim::pci::{Record as Access, SimBus, SimFunction};
use kho_hal::sim::{Faulty, SimAlloc, SimMemory};
use kho_hal::{PciConfigAccess, PhysAddr, Sbdf, Width};
use kho_pci_lu::{
    Bars, BusNumbers, Device, Functions, Kind, OutgoingForm, Received, Record, Registry, Request,
    Setting, Settings, UpdateError, Updated,
};

use crate::common::{File, PAGE, SCRATCH, alloc, check, range};
use crate::pci;

pub const ROOT: Sbdf = Sbdf::from_bdf(0, 0x0018);
pub const UP: Sbdf = Sbdf::from_bdf(0, 0x0100);
pub const DOWN: [Sbdf; 2] = [Sbdf::from_bdf(0, 0x0200), Sbdf::from_bdf(0, 0x0208)];
pub const NVME: [Sbdf; 2] = [Sbdf::from_bdf(0, 0x0300), Sbdf::from_bdf(0, 0x0400)];
pub const PF: Sbdf = Sbdf::from_bdf(0, 0x0020);
pub const VF: [Sbdf; 4] = [
    Sbdf::from_bdf(0, 0x0028),
    Sbdf::from_bdf(0, 0x0029),
    Sbdf::from_bdf(0, 0x002a),
    Sbdf::from_bdf(0, 0x002b),
];
/// On the root bus; nobody preserves it unless a test does.
pub const OTHER: Sbdf = Sbdf::from_bdf(0, 0x0030);

pub type Bus = &'static SimBus;
pub type Devices = BTreeMap<Sbdf, Device>;

/// A root port, a switch, an endpoint below each of its ports, a physical function with four
/// virtual ones and another endpoint on the root bus; all of it live, as drivers have left it.
pub fn machine() -> (Bus, Devices) {
    let bus: &SimBus = Box::leak(Box::default());
    let port = |secondary, subordinate, kind| {
        SimFunction::bridge(0x1b36, 0xc, secondary, subordinate)
            .with_pm(true)
            .with_msi(false, false, 0)
            .with_express(kind)
            .with_aer()
            .with_acs(0x5f)
    };
    bus.add(ROOT, port(1, 4, 4));
    bus.add_behind(ROOT, UP, port(2, 4, 5));
    bus.add_behind(UP, DOWN[0], port(3, 3, 6));
    bus.add_behind(UP, DOWN[1], port(4, 4, 6));
    bus.add_behind(DOWN[0], NVME[0], pci::endpoint());
    bus.add_behind(DOWN[1], NVME[1], pci::endpoint());
    bus.add(PF, pci::physical());
    bus.add(OTHER, pci::endpoint());
    let mut devices = Devices::new();
    let mut put = |function, kind, upstream| {
        let bars = match upstream {
            Some(PF) => Some(Bars::default()),
            _ => Some(Bars::probe(bus, function).unwrap()),
        };
        let device = Device {
            kind,
            is_virtual: upstream == Some(PF),
            acs_quirk: false,
            upstream,
            bars,
        };
        devices.insert(function, device);
    };
    put(ROOT, Kind::Bridge, None);
    put(UP, Kind::Bridge, Some(ROOT));
    for (down, nvme) in DOWN.into_iter().zip(NVME) {
        put(down, Kind::Bridge, Some(UP));
        put(nvme, Kind::Endpoint, Some(down));
    }
    put(PF, Kind::Physical, None);
    put(OTHER, Kind::Endpoint, None);
    let set = |function, offset, value| bus.write_u16(function, offset, value).unwrap();
    let cap = |function, id| pci::cap(bus, function, id);
    for bridge in [ROOT, UP, DOWN[0], DOWN[1]] {
        bus.write_u32(
            bridge,
            0x18,
            bus.read_u32(bridge, 0x18).unwrap() | u32::from(bridge.bus()),
        )
        .unwrap();
        bus.write_u32(bridge, 0x20, 0xfbf0_fb00).unwrap();
        set(bridge, cap(bridge, pci::EXP) + 8, 0x2936);
        set(bridge, cap(bridge, pci::ACS) + 6, 0x1d);
        set(bridge, 4, 6);
    }
    set(ROOT, cap(ROOT, pci::EXP) + 0x28, 0x20);
    for (n, function) in [NVME[0], NVME[1], OTHER].into_iter().enumerate() {
        bus.write_u32(function, 0x14, 0x38 + n as u32).unwrap();
        bus.write_u32(function, 0x18, 0xfb00_4000 + 0x10_0000 * n as u32)
            .unwrap();
        set(function, cap(function, pci::EXP) + 8, 0x2936);
        set(function, cap(function, pci::ACS) + 6, 0x10);
        set(function, cap(function, pci::MSIX) + 2, 0x8000);
        set(function, 4, 6);
    }
    let sriov = cap(PF, pci::SRIOV);
    bus.write_u32(PF, sriov + 0x24, 0xd000_0000).unwrap();
    set(PF, sriov + 0x10, 4);
    set(PF, sriov + 8, 9);
    set(PF, 4, 6);
    for vf in VF {
        let device = Device {
            kind: Kind::Endpoint,
            is_virtual: true,
            acs_quirk: false,
            upstream: Some(PF),
            bars: Some(Bars::default()),
        };
        devices.insert(vf, device);
        set(vf, 4, 4);
    }
    assert_eq!(devices.len(), 12);
    assert_eq!(bus.functions().len(), 12);
    (bus, devices)
}

pub fn find(devices: &Devices) -> impl Fn(Sbdf) -> Option<Device> + '_ {
    |function| devices.get(&function).copied()
}

/// Every register of every function.
pub fn all_of(bus: &SimBus) -> Vec<u32> {
    let dwords = |f| {
        (0..0x1000)
            .step_by(4)
            .map(move |o| (f, pci::at(o, Width::U32)))
    };
    let all = bus.functions().into_iter().flat_map(dwords);
    all.map(|(f, at)| bus.peek(f, at)).collect()
}

pub type Faults<'m> = Faulty<&'m SimMemory>;
pub type FaultyAlloc<'m> = SimAlloc<&'m SimMemory>;
pub type HarnessTracker<'h> = Tracker<'h, &'h Faults<'h>, &'h FaultyAlloc<'h>>;
pub type HarnessOutgoing<'h> = Outgoing<'h, &'h Faults<'h>, &'h FaultyAlloc<'h>>;
pub type HarnessLuo<'h> = Luo<HarnessTracker<'h>>;

/// Runs `act` with an open handover in which a file needs the record of `registry`, in this form.
pub fn open<C: PciConfigAccess + 'static, R>(
    memory: &SimMemory,
    registry: &Registry<C>,
    form: OutgoingForm,
    act: impl for<'h> FnOnce(&mut HarnessOutgoing<'h>, &mut HarnessLuo<'h>, &'h Faults<'h>) -> R,
) -> R {
    let faults = Faulty::new(memory);
    let alloc = alloc(memory);
    let scratch = [range(SCRATCH.0, SCRATCH.1)];
    let tracker = Tracker::new(&faults, &alloc, PAGE, &scratch).unwrap();
    let mut outgoing = Outgoing::new(tracker).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, registry.object(form)).unwrap();
    luo.register_flb(tracker, registry.facts_object()).unwrap();
    luo.create_session(tracker, "vm").unwrap();
    let names = vec![form.name(), kho_abi::pci::functions::NAME];
    luo.preserve_file(tracker, "vm", 1, Box::new(File(1, names)))
        .unwrap();
    act(&mut outgoing, &mut luo, &faults)
}

/// FREEZE and the jump.
pub fn jump<'h>(outgoing: &mut HarnessOutgoing<'h>, luo: &mut HarnessLuo<'h>) -> BootData {
    freeze(outgoing, luo).unwrap();
    let mut participants: [&mut dyn Participant<_>; 1] = [luo];
    let frozen = outgoing.finalize(PhysAddr::new(SCRATCH.0), &mut participants);
    frozen.unwrap().hand_over()
}

/// FREEZE, and CANCEL.
pub fn freeze<'h>(
    outgoing: &mut HarnessOutgoing<'h>,
    luo: &mut HarnessLuo<'h>,
) -> Result<(), OutgoingError> {
    let mut participants: [&mut dyn Participant<_>; 1] = [luo];
    let frozen = outgoing.finalize(PhysAddr::new(SCRATCH.0), &mut participants)?;
    frozen.abort();
    Ok(())
}

/// The outgoing program's whole part: preserves these functions, and jumps.
pub fn hand_over<C: PciConfigAccess + 'static>(
    memory: &SimMemory,
    registry: &Registry<C>,
    form: OutgoingForm,
    devices: &Devices,
    functions: &[Sbdf],
) -> BootData {
    open(memory, registry, form, |outgoing, luo, _| {
        for &function in functions {
            registry
                .preserve(outgoing.tracker(), &find(devices), function)
                .unwrap();
        }
        jump(outgoing, luo)
    })
}

/// What a record says, after a handover.
pub fn entries(memory: &mut SimMemory, boot: BootData) -> Vec<(Sbdf, u16)> {
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = [0; 4096];
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    record.iter().map(|e| (e.function, e.refcount)).collect()
}

/// The incoming program's first step.
pub fn receive<C: PciConfigAccess>(
    memory: &mut SimMemory,
    boot: BootData,
    registry: &Registry<C>,
) -> Received<C> {
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = vec![0; 16384];
    let functions = Functions::read(&incoming, &mut workspace).unwrap();
    let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
    registry.receive(&record, functions.as_ref()).unwrap()
}

/// From one program into the next: preserves these functions, jumps, boots. Returns the new
/// registry, the state after enumeration, and what enumeration found.
pub fn update<C: PciConfigAccess + Copy + std::fmt::Debug + 'static>(
    bus: Bus,
    config: C,
    devices: &Devices,
    functions: &[Sbdf],
) -> (Registry<C>, Updated<C>, Boot) {
    let mut memory = crate::common::memory();
    let old = Registry::new(config);
    let boot = hand_over(&memory, &old, OutgoingForm::V2, devices, functions);
    let registry = Registry::new(config);
    let received = receive(&mut memory, boot, &registry);
    bus.take_records();
    bus.record(true);
    let boot = Boot::run(&registry).unwrap();
    bus.record(false);
    let updated = received.verify(&find(devices)).unwrap();
    (registry, updated, boot)
}

/// What a program finds as it boots: the same code whether or not there was an update.
#[derive(Debug, Default)]
pub struct Boot {
    pub settings: BTreeMap<Sbdf, Settings>,
    pub bars: BTreeMap<Sbdf, Bars>,
    pub closed: Vec<Sbdf>,
    next_bus: u8,
}

impl Boot {
    /// Enumerates everything from bus 0.
    pub fn run<C: PciConfigAccess>(registry: &Registry<C>) -> Result<Self, UpdateError> {
        let mut boot = Self::default();
        boot.bus(registry, 0, 1..=255)?;
        Ok(boot)
    }

    fn bus<C: PciConfigAccess>(
        &mut self,
        registry: &Registry<C>,
        bus: u8,
        mut within: RangeInclusive<u8>,
    ) -> Result<(), UpdateError> {
        for devfn in 0..=255u8 {
            let function = Sbdf::from_bdf(0, u16::from(bus) << 8 | u16::from(devfn));
            let identity = registry.config().read_u32(function, 0).unwrap();
            if identity == u32::MAX || self.settings.contains_key(&function) {
                continue;
            }
            self.function(registry, function)?;
            if registry.config().read_u8(function, 0x0e).unwrap() & 0x7f == 1 {
                match registry.bus_numbers(function, within.clone())? {
                    BusNumbers::Inherited(below) => {
                        self.bus(registry, *below.start(), below.clone())?;
                        within = below.end().saturating_add(1)..=*within.end();
                    }
                    BusNumbers::Closed => self.closed.push(function),
                    BusNumbers::Free => self.assign(registry, function)?,
                }
            }
        }
        Ok(())
    }

    /// Bus numbers as on any boot: forgotten, and given anew in the order of the scan.
    fn assign<C: PciConfigAccess>(
        &mut self,
        registry: &Registry<C>,
        bridge: Sbdf,
    ) -> Result<(), UpdateError> {
        let write = |secondary: u8, subordinate: u8| {
            let bytes = [bridge.bus(), secondary, subordinate, 0];
            let config = registry.config();
            config
                .write_u32(bridge, 0x18, u32::from_le_bytes(bytes))
                .unwrap();
        };
        write(0, 0);
        self.next_bus += 1;
        let secondary = self.next_bus;
        write(secondary, 255);
        self.bus(registry, secondary, secondary..=255)?;
        write(secondary, self.next_bus);
        Ok(())
    }

    fn function<C: PciConfigAccess>(
        &mut self,
        registry: &Registry<C>,
        function: Sbdf,
    ) -> Result<(), UpdateError> {
        registry.set_up(function)?;
        // A cold boot turns virtual functions off before it asks for the sizes of their BARs.
        let settings = registry.config().init(function, &[]).unwrap();
        let bars = registry.bars(function)?;
        let count = settings.get(Setting::NumVfs).unwrap_or(0);
        if settings.get(Setting::VfEnable) == Some(1) {
            let places = settings.get(Setting::VfPlaces).unwrap();
            let (offset, stride) = (places & 0xffff, places >> 16);
            for n in 0..count {
                let bdf = u32::from(function.bdf()) + offset + n * stride;
                let vf = Sbdf::from_bdf(function.segment(), bdf as u16);
                registry.set_up(vf)?;
                self.settings
                    .insert(vf, registry.config().init(vf, &[]).unwrap());
            }
        }
        self.settings.insert(function, settings);
        self.bars.insert(function, bars);
        Ok(())
    }
}

/// Turns translation on in an endpoint, and peers: the registers, and what enumeration knows.
pub fn make_peer(bus: &SimBus, devices: &mut Devices, function: Sbdf) {
    let set = |id, offset, value| {
        let at = pci::cap(bus, function, id) + offset;
        bus.write_u16(function, at, value).unwrap();
    };
    set(pci::PASID, 6, 1);
    set(pci::PRI, 12, 16);
    set(pci::PRI, 4, 1);
    set(pci::ATS, 6, 0x8001);
    devices.get_mut(&function).unwrap().kind = Kind::PeerEndpoint;
}

/// What the IOMMU's driver asks for, who knows what [`make_peer`] has done.
pub const PEER: [Request; 5] = [
    Setting::Ats.to(1),
    Setting::AtsUnit.to(1),
    Setting::Pri.to(1),
    Setting::PriAllocation.to(16),
    Setting::Pasid.to(1),
];

/// The writes among these accesses.
pub fn writes(bus: &SimBus) -> Vec<Access> {
    let mut records = bus.take_records();
    records.retain(|record| record.write);
    records
}

//! The simulated machine, and what enumeration finds of it.

use std::collections::BTreeMap;

use kho::hal::sim::pci::{SimBus, SimFunction, SriovShape};
use kho::hal::walk::{CapId, walk_extended, walk_standard};
use kho::hal::{Access, PciConfigAccess, Sbdf};
use kho::pci_lu::{Bars, Device, Kind};

use crate::oracle::Watched;

pub const ROOT: Sbdf = Sbdf::from_bdf(0, 0x0018);
pub const UP: Sbdf = Sbdf::from_bdf(0, 0x0100);
pub const DOWN: Sbdf = Sbdf::from_bdf(0, 0x0200);
pub const NVME: Sbdf = Sbdf::from_bdf(0, 0x0300);
pub const CARD: Sbdf = Sbdf::from_bdf(0, 0x0020);
/// Nobody preserves it.
pub const OTHER: Sbdf = Sbdf::from_bdf(0, 0x0030);

/// A machine whose devices run.
pub struct Machine {
    pub config: &'static Watched,
    pub functions: BTreeMap<Sbdf, Device>,
    /// What the guest owns.
    pub owned: Vec<Sbdf>,
}

impl Machine {
    pub fn live() -> Self {
        let bus = SimBus::new();
        let port = |secondary, kind| {
            SimFunction::bridge(0x1b36, 0xc, secondary, 3)
                .with_pm(true)
                .with_msi(false, false, 0)
                .with_express(kind)
                .with_aer()
                .with_acs(0x1f)
        };
        bus.add(ROOT, port(1, 4).with_ari_forwarding());
        bus.add_behind(ROOT, UP, port(2, 5));
        bus.add_behind(UP, DOWN, port(3, 6));
        let endpoint = |device| {
            SimFunction::endpoint(0x1af4, device)
                .with_bar64(0, 14)
                .with_pm(true)
                .with_msix(8, 0)
                .with_express(0)
                .with_aer()
                .with_ats()
        };
        bus.add_behind(DOWN, NVME, endpoint(0x1001));
        bus.add(OTHER, endpoint(0x1002));
        let template = SimFunction::virtual_function().with_express(0).with_ats();
        bus.add(
            CARD,
            endpoint(0x1000).with_sriov(SriovShape {
                total: 4,
                offset: [8, 4],
                stride: [1, 1],
                device: 0x1003,
                template,
            }),
        );
        // Asked for when nothing ran yet.
        let sizes = |function| Bars::probe(&bus, function).ok();
        let mut functions = BTreeMap::new();
        for (function, kind, upstream) in [
            (ROOT, Kind::Bridge, None),
            (UP, Kind::Bridge, Some(ROOT)),
            (DOWN, Kind::Bridge, Some(UP)),
            (NVME, Kind::PeerEndpoint, Some(DOWN)),
            (CARD, Kind::Physical, None),
            (OTHER, Kind::Endpoint, None),
        ] {
            functions.insert(function, device(kind, upstream, sizes(function)));
        }
        run(&bus);
        let places = bus.functions().into_iter();
        let virtual_functions: Vec<_> = places.filter(|f| !functions.contains_key(f)).collect();
        for &function in &virtual_functions {
            functions.insert(
                function,
                device(Kind::Endpoint, Some(CARD), Some(Bars::default())),
            );
            set(&bus, function, 0x04, 4);
        }
        let owned = [&[NVME], virtual_functions.as_slice()].concat();
        let config = Box::leak(Box::new(Watched::new(bus, &owned, &functions)));
        Self {
            config,
            functions,
            owned,
        }
    }

    /// What the registry asks of enumeration.
    pub fn topology(&self) -> impl Fn(Sbdf) -> Option<Device> + '_ {
        |function| self.functions.get(&function).copied()
    }
}

fn device(kind: Kind, upstream: Option<Sbdf>, bars: Option<Bars>) -> Device {
    Device {
        kind,
        is_virtual: upstream == Some(CARD),
        acs_quirk: false,
        upstream,
        bars,
    }
}

/// What the drivers of the outgoing program did long ago.
fn run(bus: &SimBus) {
    for function in [ROOT, UP, DOWN, NVME, CARD, OTHER] {
        set(bus, function, 0x04, 6);
        if let Some(acs) = capability(bus, function, CapId::Extended(0x0d)) {
            set(bus, function, acs + 6, 0x1d);
        }
        if let Some(express) = capability(bus, function, CapId::Standard(0x10)) {
            set(bus, function, express + 8, 0x2930);
        }
    }
    for bridge in [ROOT, UP, DOWN] {
        set(bus, bridge, 0x20, 0xfb00);
        set(bus, bridge, 0x22, 0xfbf0);
    }
    for function in [NVME, OTHER] {
        set(bus, function, 0x12, 0xfb00);
    }
    if let Some(ats) = capability(bus, NVME, CapId::Extended(0x0f)) {
        set(bus, NVME, ats + 6, 0x8000);
    }
    if let Some(sriov) = capability(bus, CARD, CapId::Extended(0x10)) {
        set(bus, CARD, sriov + 0x10, 2);
        set(bus, CARD, sriov + 0x08, 9);
    }
}

fn set(bus: &SimBus, function: Sbdf, offset: u16, value: u16) {
    bus.write_u16(function, offset, value)
        .expect("the simulated bus does not fail");
}

/// Where a capability is.
pub fn capability(config: &impl PciConfigAccess, function: Sbdf, id: CapId) -> Option<u16> {
    let mut source = |at: Access| config.read(function, at).ok();
    let header_type = config.read_u8(function, 0x0e).ok()? & 0x7f;
    let mut found = None;
    let _ = walk_standard(&mut source, header_type, |cap| {
        found = found.or((cap.id == id).then_some(cap.offset));
    });
    let _ = walk_extended(&mut source, |cap| {
        found = found.or((cap.id == id).then_some(cap.offset));
    });
    found
}

//! A function of each kind, live, with every capability that the simulation has.
#![allow(dead_code, reason = "each test uses a part")]

use kho_hal::sim::pci::{SimBus, SimFunction, SriovShape};
use kho_hal::walk::{CapId, walk_extended, walk_standard};
use kho_hal::{Access, PciConfigAccess, Sbdf, Width};
use kho_pci_lu::Kind;

pub const PM: CapId = CapId::Standard(0x01);
pub const MSI: CapId = CapId::Standard(0x05);
pub const PCIX: CapId = CapId::Standard(0x07);
pub const EXP: CapId = CapId::Standard(0x10);
pub const MSIX: CapId = CapId::Standard(0x11);
pub const AF: CapId = CapId::Standard(0x13);
pub const ACS: CapId = CapId::Extended(0x0d);
pub const ATS: CapId = CapId::Extended(0x0f);
pub const SRIOV: CapId = CapId::Extended(0x10);
pub const PRI: CapId = CapId::Extended(0x13);
pub const PASID: CapId = CapId::Extended(0x1b);
pub const DPC: CapId = CapId::Extended(0x1d);

/// Where the function under test is.
pub const HERE: Sbdf = Sbdf::from_bdf(0, 0x0018);

pub fn at(offset: u16, width: Width) -> Access {
    Access::new(offset, width).unwrap()
}

/// The capability's offset; panics if there is none.
pub fn cap(bus: &SimBus, function: Sbdf, id: CapId) -> u16 {
    find_cap(bus, function, id).unwrap()
}

/// The capability's offset.
pub fn find_cap(bus: &SimBus, function: Sbdf, id: CapId) -> Option<u16> {
    let mut found = None;
    let mut source = |at: Access| Some(bus.peek(function, at));
    walk_standard(&mut source, 0, |cap| {
        found = found.or((cap.id == id).then_some(cap.offset));
    });
    walk_extended(&mut source, |cap| {
        found = found.or((cap.id == id).then_some(cap.offset));
    });
    found
}

pub fn endpoint() -> SimFunction {
    let mut function = SimFunction::endpoint(0x10de, 0x2330)
        .with_bar64(0, 24)
        .with_bar32(2, 14)
        .with_rom(16)
        .with_bist()
        .with_pm(true)
        .with_msi(true, true, 3)
        .with_msix(8, 2)
        .with_af()
        .with_express(0)
        .with_aer()
        .with_serial(7)
        .with_acs(0x5f)
        .with_ari(1)
        .with_ats()
        .with_pri()
        .with_pasid()
        .with_ptm()
        .with_resizable_bar(0, true, 0xff);
    let pcix = function.capability(0x07, 8);
    let vc = function.extended(0x0002, 1, 0x28);
    let l1ss = function.extended(0x001e, 1, 0x10);
    let tph = function.extended(0x0017, 1, 0x0c);
    let ltr = function.extended(0x0018, 1, 0x08);
    function
        .with_register(pcix + 2, 2, 0, 0x7f, 0)
        .with_register(vc + 4, 4, 1, 0, 0)
        .with_register(vc + 0x0c, 2, 0, 0x0e, 0)
        .with_register(vc + 0x14, 4, 0x8000_0001, 0x070e_00fe, 0)
        .with_register(vc + 0x20, 4, 0x0100_0000, 0x870e_00fe, 0)
        .with_register(l1ss + 8, 4, 0, 0xe3ff_ff0f, 0)
        .with_register(l1ss + 12, 4, 0, 0xff, 0)
        .with_register(tph + 8, 4, 0, 0x0307, 0)
        .with_register(ltr + 4, 4, 0, 0x1fff_1fff, 0)
}

pub fn physical() -> SimFunction {
    endpoint()
        .with_sriov(SriovShape {
            total: 8,
            offset: [8, 4],
            stride: [1, 2],
            device: 0x2331,
            template: SimFunction::virtual_function().with_express(0).with_ats(),
        })
        .with_vf_resizable_bar(0xff)
}

pub fn bridge(port_type: u8) -> SimFunction {
    SimFunction::bridge(0x1b36, 0x000c, 1, 4)
        .with_rom(11)
        .with_pm(true)
        .with_msi(false, false, 0)
        .with_express(port_type)
        .with_ari_forwarding()
        .with_aer()
        .with_acs(0x7f)
        .with_dpc(true)
        .with_ptm()
}

/// A bus with a live function of this kind at [`HERE`].
pub fn live(kind: Kind) -> SimBus {
    let bus = SimBus::new();
    let function = match kind {
        Kind::Endpoint | Kind::PeerEndpoint => endpoint(),
        Kind::Bridge => bridge(4),
        Kind::Physical | Kind::PeerPhysical => physical(),
    };
    bus.add(HERE, function);
    let set = |offset, width, value| bus.write(HERE, at(offset, width), value).unwrap();
    set(0x04, Width::U16, 0x0546);
    if kind == Kind::Bridge {
        set(0x1c, Width::U16, 0x2010);
        set(0x20, Width::U32, 0xfbf0_fb00);
        set(0x24, Width::U32, 0x0ff1_0001);
        set(0x28, Width::U32, 0x38);
        set(0x2c, Width::U32, 0x38);
    } else {
        set(0x10, Width::U32, 0xe000_0000);
        set(0x14, Width::U32, 0x38);
        set(0x18, Width::U32, 0xfb00_0000);
    }
    let exp = cap(&bus, HERE, EXP);
    set(exp + 0x08, Width::U16, 0x2936);
    set(cap(&bus, HERE, ACS) + 6, Width::U16, 0x1d);
    match kind {
        Kind::Endpoint => {}
        Kind::PeerEndpoint => {
            set(cap(&bus, HERE, PASID) + 6, Width::U16, 1);
            set(cap(&bus, HERE, PRI) + 12, Width::U32, 16);
            set(cap(&bus, HERE, PRI) + 4, Width::U16, 1);
            set(cap(&bus, HERE, ATS) + 6, Width::U16, 0x8001);
        }
        Kind::Bridge => set(exp + 0x28, Width::U16, 0x20),
        Kind::Physical | Kind::PeerPhysical => {
            let sriov = cap(&bus, HERE, SRIOV);
            set(sriov + 0x20, Width::U32, 1);
            set(sriov + 0x24, Width::U32, 0xd000_0000);
            set(sriov + 0x10, Width::U16, 4);
            set(sriov + 0x08, Width::U16, 0x09);
        }
    }
    bus
}

//! Configuration space through `pci_types` and `virtio-drivers`, in both directions.
#![cfg(all(feature = "pci_types", feature = "virtio-drivers"))]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]
#![allow(unsafe_code, reason = "the adapters' constructors are unsafe")]

use std::cell::RefCell;

use kho_adapters::NarrowWrites;
use kho_adapters::config_region::{FromConfigRegion, ToConfigRegion};
use kho_adapters::virtio::{FromConfiguration, ToConfiguration};
use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};
use pci_types::capability::PciCapability;
use pci_types::{Bar, EndpointHeader, HeaderType, PciAddress, PciHeader};
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};

const DRIVE: u16 = 0x3a18;

/// A segment with a drive at 3a:03.0 that has all kinds of registers.
fn bus(segment: u32) -> (SimBus, Sbdf) {
    let (bus, drive) = (SimBus::new(), Sbdf::from_bdf(segment, DRIVE));
    let function = SimFunction::endpoint(0x1af4, 0x1042)
        .with_bar64(0, 14)
        .with_msix(8, 0)
        .with_express(0)
        .with_aer();
    bus.add(drive, function);
    (bus, drive)
}

fn quiet(_: PciError) {}

fn panics(error: PciError) {
    panic!("{error}");
}

/// Both adapters, one on top of the other, over the same function.
fn around<'a>(
    bus: &'a SimBus,
    segment: u32,
    narrow: NarrowWrites,
) -> [(Box<dyn PciConfigAccess + 'a>, u16); 2] {
    let to = ToConfigRegion::new(bus, panics as fn(_));
    // SAFETY: a simulated bus answers at every place.
    let region = unsafe { FromConfigRegion::new(to, 4096, narrow) };
    let to = ToConfiguration::new(bus, segment, panics as fn(_));
    let cam = FromConfiguration::new(to, segment, narrow);
    [(Box::new(region), 4096), (Box::new(cam), 256)]
}

#[test]
fn every_register_reads_as_it_is() {
    let (bus, drive) = bus(2);
    for (config, space) in around(&bus, 2, NarrowWrites::Refuse) {
        for width in [Width::U8, Width::U16, Width::U32] {
            for offset in (0..4096).step_by(width.bytes().into()) {
                let at = Access::new(offset, width).unwrap();
                let expected = if offset < space {
                    bus.read(drive, at)
                } else {
                    Err(PciError::Unreachable {
                        function: drive,
                        offset: offset & !3,
                    })
                };
                assert_eq!(config.read(drive, at), expected, "{offset:#x}");
            }
        }
        let absent = Sbdf::from_bdf(2, 0x3a20);
        assert_eq!(config.read_u16(absent, 0), Ok(0xffff));
    }
}

#[test]
fn a_narrow_write_is_refused_before_anything_is_accessed() {
    let (bus, drive) = bus(0);
    for (config, _) in around(&bus, 0, NarrowWrites::Refuse) {
        let before = (bus.reads(), bus.writes());
        for written in [
            config.write_u8(drive, 0x3c, 5),
            config.write_u16(drive, 0x04, 6),
        ] {
            assert!(
                matches!(written, Err(PciError::Refused { function, .. }) if function == drive)
            );
        }
        assert_eq!((bus.reads(), bus.writes()), before);
        config.write_u32(drive, 0x10, 0xdead_4000).unwrap();
        assert_eq!(bus.read_u32(drive, 0x10).unwrap() & !0xf, 0xdead_4000);
        bus.write_u32(drive, 0x10, 0).unwrap();
    }
}

/// What is asked for happens; what is beside it and write-one-to-clear is lost, as documented.
#[test]
fn a_widened_write_clears_what_is_beside_it() {
    let (bus, drive) = bus(0);
    let status = Access::new(0x06, Width::U16).unwrap();
    for (config, _) in around(&bus, 0, NarrowWrites::Widen) {
        bus.write_u16(drive, 0x04, 0).unwrap();
        bus.poke(drive, status, bus.peek(drive, status) | 0x8000);
        config.write_u8(drive, 0x3c, 11).unwrap();
        assert_eq!(bus.read_u8(drive, 0x3c), Ok(11));
        assert_eq!(bus.read_u16(drive, 0x06).unwrap() & 0x8000, 0x8000);
        config.write_u16(drive, 0x04, 0x0006).unwrap();
        assert_eq!(bus.read_u16(drive, 0x04), Ok(0x0006));
        assert_eq!(bus.read_u16(drive, 0x06).unwrap() & 0x8000, 0);
        bus.write_u8(drive, 0x3c, 0).unwrap();
        config.write_u32(drive, 0x10, 0xe1ff_4000).unwrap();
        config.write_u8(drive, 0x12, 0xcd).unwrap();
        assert_eq!(bus.read_u32(drive, 0x10).unwrap() & !0xf, 0xe1cd_4000);
        bus.write_u32(drive, 0x10, 0).unwrap();
    }
}

#[test]
fn what_cannot_be_named_is_out_of_reach() {
    let (bus, drive) = bus(0);
    let [(region, _), (cam, _)] = around(&bus, 0, NarrowWrites::Refuse);
    let before = bus.reads();
    for (config, segment) in [(&region, 0x1_0000), (&cam, 1)] {
        let function = Sbdf::from_bdf(segment, DRIVE);
        let offset = 0;
        let unreachable = PciError::Unreachable { function, offset };
        assert_eq!(config.read_u32(function, 0), Err(unreachable));
        assert_eq!(config.write_u32(function, 0, 0), Err(unreachable));
    }
    assert_eq!(bus.reads(), before);
    let to = ToConfigRegion::new(&bus, panics as fn(_));
    // SAFETY: a simulated bus answers at every place.
    let short = unsafe { FromConfigRegion::new(to, 256, NarrowWrites::Refuse) };
    assert_eq!(short.read_u32(drive, 252), bus.read_u32(drive, 252));
    let (function, offset) = (drive, 256);
    let unreachable = PciError::Unreachable { function, offset };
    assert_eq!(short.read_u32(drive, 256), Err(unreachable));
}

#[test]
fn failures_are_told_and_read_as_ones() {
    let (bus, drive) = bus(0);
    let errors = RefCell::new(Vec::new());
    let told = |error| errors.borrow_mut().push(error);
    let region = ToConfigRegion::new(&bus, told);
    let mut cam = ToConfiguration::new(&bus, 0, told);
    let place = DeviceFunction {
        bus: 0x3a,
        device: 3,
        function: 0,
    };
    bus.fail_next(2);
    let id = PciHeader::new(PciAddress::new(0, 0x3a, 3, 0)).id(region);
    assert_eq!(id, (0xffff, 0xffff));
    assert_eq!(cam.read_word(place, 0), u32::MAX);
    // An offset in the middle of four bytes is an error of the caller's.
    cam.write_word(place, 2, 0);
    let offset = 0;
    let failed = PciError::Failed {
        function: drive,
        offset,
    };
    let bad = PciError::BadAccess {
        offset: 2,
        width: Width::U32,
    };
    assert_eq!(*errors.borrow(), [failed, failed, bad]);
    let nowhere = DeviceFunction {
        device: 32,
        ..place
    };
    assert_eq!(cam.read_word(nowhere, 0), u32::MAX);
    assert_eq!(errors.borrow().len(), 3);
}

#[test]
fn pci_types_finds_what_the_function_has() {
    let (bus, drive) = bus(0x12);
    bus.write_u32(drive, 0x10, 0xe000_0000).unwrap();
    bus.write_u32(drive, 0x14, 0x1).unwrap();
    let access = ToConfigRegion::new(&bus, panics);
    let header = PciHeader::new(PciAddress::new(0x12, 0x3a, 3, 0));
    assert_eq!(header.header_type(access), HeaderType::Endpoint);
    let endpoint = EndpointHeader::from_header(header, access).unwrap();
    let bar = endpoint.bar(0, access).unwrap();
    assert!(
        matches!(
            bar,
            Bar::Memory64 {
                address: 0x1_e000_0000,
                size: 0x4000,
                ..
            }
        ),
        "{bar:?}"
    );
    let found = endpoint.capabilities(&access);
    let kinds: Vec<_> = found
        .map(|found| matches!(found, PciCapability::MsiX(_)))
        .collect();
    assert_eq!(kinds.len(), 2);
    assert_eq!(kinds.iter().filter(|&&is_msix| is_msix).count(), 1);
}

#[test]
fn virtio_drivers_finds_what_the_function_has() {
    let (bus, drive) = bus(0);
    let mut root = PciRoot::new(ToConfiguration::new(&bus, 0, quiet as fn(_)));
    let (place, info) = root.enumerate_bus(0x3a).next().unwrap();
    assert_eq!((place.device, place.function), (3, 0));
    assert_eq!((info.vendor_id, info.device_id), (0x1af4, 0x1042));
    let bar = root.bar_info(place, 0).unwrap().unwrap();
    assert_eq!(bar.memory_address_size().unwrap().1, 0x4000);
    root.set_command(place, Command::MEMORY_SPACE | Command::BUS_MASTER);
    assert_eq!(bus.read_u16(drive, 0x04), Ok(0x0006));
    assert_eq!(root.capabilities(place).count(), 2);
}

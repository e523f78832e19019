//! `virtio-drivers` 0.13: its `ConfigurationAccess` as a `PciConfigAccess`, and the other way round.
#![allow(
    unsafe_code,
    reason = "ConfigurationAccess declares an unsafe function"
)]

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

use crate::NarrowWrites;
use crate::dwords::{Dwords, Widened};

/// A `ConfigurationAccess` as a [`PciConfigAccess`].
///
/// It reaches one segment, and the first 256 bytes of each function: a register's offset has eight
/// bits. Reads of 8 and 16 bits read the four bytes around them. Narrow writes are refused by
/// default; see [`NarrowWrites`].
#[derive(Debug)]
pub struct FromConfiguration<C>(Widened<Cam<C>>);

#[derive(Debug)]
struct Cam<C> {
    access: C,
    segment: u32,
}

impl<C: ConfigurationAccess> FromConfiguration<C> {
    /// Accesses through `access`, which reaches the functions of `segment`.
    pub const fn new(access: C, segment: u32, narrow: NarrowWrites) -> Self {
        Self(Widened::new(Cam { access, segment }, narrow))
    }
}

impl<C> Cam<C> {
    fn place(&self, function: Sbdf, offset: u16) -> Result<(DeviceFunction, u8), PciError> {
        let place = DeviceFunction {
            bus: function.bus(),
            device: function.device(),
            function: function.function(),
        };
        u8::try_from(offset)
            .ok()
            .filter(|_| function.segment() == self.segment)
            .map(|offset| (place, offset))
            .ok_or(PciError::Unreachable { function, offset })
    }
}

impl<C: ConfigurationAccess> Dwords for Cam<C> {
    fn load(&mut self, function: Sbdf, offset: u16) -> Result<u32, PciError> {
        let (place, offset) = self.place(function, offset)?;
        Ok(self.access.read_word(place, offset))
    }

    fn store(&mut self, function: Sbdf, offset: u16, value: u32) -> Result<(), PciError> {
        let (place, offset) = self.place(function, offset)?;
        self.access.write_word(place, offset, value);
        Ok(())
    }
}

impl<C: ConfigurationAccess> PciConfigAccess for FromConfiguration<C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.0.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.0.write(function, at, value)
    }
}

/// A [`PciConfigAccess`], such as a cache or a guard, as a `ConfigurationAccess`.
///
/// `virtio-drivers` has no errors here. A read that fails returns all ones, as an absent function
/// does, a write that fails is dropped, and `on_error` is told of both.
///
/// # Example
/// ```
/// use kho_adapters::virtio::ToConfiguration;
/// use kho_hal::Sbdf;
/// use kho_hal::sim::pci::{SimBus, SimFunction};
/// use virtio_drivers::transport::pci::bus::PciRoot;
///
/// let bus = SimBus::new();
/// bus.add(Sbdf::from_bdf(0, 0x0018), SimFunction::endpoint(0x1af4, 0x1042));
/// let root = PciRoot::new(ToConfiguration::new(&bus, 0, |error| panic!("{error}")));
/// let (at, found) = root.enumerate_bus(0).next().unwrap();
/// assert_eq!((at.device, found.vendor_id, found.device_id), (3, 0x1af4, 0x1042));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ToConfiguration<C, F> {
    access: C,
    segment: u32,
    on_error: F,
}

impl<C: PciConfigAccess, F: Fn(PciError)> ToConfiguration<C, F> {
    /// Accesses the functions of `segment` through `access`.
    pub const fn new(access: C, segment: u32, on_error: F) -> Self {
        Self {
            access,
            segment,
            on_error,
        }
    }

    /// The function, or `None` for a device above 31 or a function above 7: there is none.
    const fn function(&self, at: DeviceFunction) -> Option<Sbdf> {
        Sbdf::new(self.segment, at.bus, at.device, at.function)
    }
}

impl<C, F> ConfigurationAccess for ToConfiguration<C, F>
where
    C: PciConfigAccess + Clone,
    F: Fn(PciError) + Clone,
{
    fn read_word(&self, at: DeviceFunction, offset: u8) -> u32 {
        let Some(function) = self.function(at) else {
            return u32::MAX;
        };
        let read = self.access.read_u32(function, offset.into());
        read.unwrap_or_else(|error| {
            (self.on_error)(error);
            u32::MAX
        })
    }

    fn write_word(&mut self, at: DeviceFunction, offset: u8, data: u32) {
        if let Some(function) = self.function(at) {
            let written = self.access.write_u32(function, offset.into(), data);
            written.unwrap_or_else(&self.on_error);
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

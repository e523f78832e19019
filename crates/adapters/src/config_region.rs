//! `pci_types` 0.10: its `ConfigRegionAccess` as a `PciConfigAccess`, and the other way round.
#![allow(
    unsafe_code,
    reason = "the functions of ConfigRegionAccess are unsafe to call and to declare"
)]

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};
use pci_types::{ConfigRegionAccess, PciAddress};

use crate::NarrowWrites;
use crate::dwords::{Dwords, Widened};

/// A `ConfigRegionAccess` as a [`PciConfigAccess`].
///
/// Reads of 8 and 16 bits read the four bytes around them. Narrow writes are refused by default;
/// see [`NarrowWrites`]. Segments above 0xffff, which `pci_types` cannot name, are out of reach.
#[derive(Debug)]
pub struct FromConfigRegion<C>(Widened<Region<C>>);

#[derive(Debug)]
struct Region<C> {
    access: C,
    space: u16,
}

impl<C: ConfigRegionAccess> FromConfigRegion<C> {
    /// Accesses through `access`, of which the first `space` bytes of each function are in reach:
    /// 256, or 4096 if it is an ECAM.
    ///
    /// # Safety
    /// `access` may be called for every address, and for every multiple of 4 below `space`.
    pub const unsafe fn new(access: C, space: u16, narrow: NarrowWrites) -> Self {
        Self(Widened::new(Region { access, space }, narrow))
    }
}

impl<C> Region<C> {
    fn address(&self, function: Sbdf, offset: u16) -> Result<PciAddress, PciError> {
        let (bus, device) = (function.bus(), function.device());
        u16::try_from(function.segment())
            .ok()
            .filter(|_| offset < self.space)
            .map(|segment| PciAddress::new(segment, bus, device, function.function()))
            .ok_or(PciError::Unreachable { function, offset })
    }
}

impl<C: ConfigRegionAccess> Dwords for Region<C> {
    fn load(&mut self, function: Sbdf, offset: u16) -> Result<u32, PciError> {
        let address = self.address(function, offset)?;
        // SAFETY: `FromConfigRegion::new` allows every address and every offset below `space`,
        // which `address` checked.
        Ok(unsafe { self.access.read(address, offset) })
    }

    fn store(&mut self, function: Sbdf, offset: u16, value: u32) -> Result<(), PciError> {
        let address = self.address(function, offset)?;
        // SAFETY: as in `load`. What a write does to the machine is for the caller of
        // `PciConfigAccess::write` to answer for.
        unsafe { self.access.write(address, offset, value) };
        Ok(())
    }
}

impl<C: ConfigRegionAccess> PciConfigAccess for FromConfigRegion<C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.0.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.0.write(function, at, value)
    }
}

/// A [`PciConfigAccess`], such as a cache or a guard, as a `ConfigRegionAccess`.
///
/// `pci_types` has no errors. A read that fails returns all ones, as an absent function does, a
/// write that fails is dropped, and `on_error` is told of both.
#[derive(Clone, Copy, Debug)]
pub struct ToConfigRegion<C, F> {
    access: C,
    on_error: F,
}

impl<C: PciConfigAccess, F: Fn(PciError)> ToConfigRegion<C, F> {
    /// Accesses through `access`.
    pub const fn new(access: C, on_error: F) -> Self {
        Self { access, on_error }
    }
}

fn function(address: PciAddress) -> Sbdf {
    let bdf = u16::from(address.bus()) << 8
        | u16::from(address.device()) << 3
        | u16::from(address.function());
    Sbdf::from_bdf(address.segment().into(), bdf)
}

impl<C: PciConfigAccess, F: Fn(PciError)> ConfigRegionAccess for ToConfigRegion<C, F> {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let read = self.access.read_u32(function(address), offset);
        read.unwrap_or_else(|error| {
            (self.on_error)(error);
            u32::MAX
        })
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let written = self.access.write_u32(function(address), offset, value);
        written.unwrap_or_else(&self.on_error);
    }
}

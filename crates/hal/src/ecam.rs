//! A real backend: configuration space that is mapped into memory.
#![allow(
    unsafe_code,
    reason = "turning the address of a register into a pointer is what this backend is for"
)]

use core::ops::RangeInclusive;
use core::ptr::with_exposed_provenance_mut as pointer;

use crate::{Access, PciConfigAccess, PciError, Sbdf, Width};

/// Configuration space by the Enhanced Configuration Access Mechanism: 4096 bytes for each
/// function, 1 MiB for each bus.
///
/// The base counts from bus 0, as in ACPI's MCFG table, also where the first bus is another.
///
/// An access is ordered with other accesses to the same device, not with accesses to memory: who
/// enables a device's DMA puts the barrier that the architecture asks for before it.
///
/// # Source
/// PCI Express Base 5.0, 7.2.2; PCI Firmware 3.3, 4.1.2.
#[derive(Clone, Debug)]
pub struct Ecam {
    base: usize,
    segment: u32,
    buses: RangeInclusive<u8>,
}

impl Ecam {
    /// The functions on `buses` of one segment. `base` is the virtual address at which bus 0 is
    /// mapped, or would be if it is not among them.
    ///
    /// # Safety
    /// For as long as this object or a copy of it exists:
    /// * the space of every bus in `buses`, 1 MiB at `base + (bus << 20)`, is mapped as device
    ///   memory, readable and writable, and does not wrap;
    /// * it is configuration space: nothing else is reached through it, and no Rust reference
    ///   covers it.
    ///
    /// What writes do to the machine is for the caller of [`PciConfigAccess::write`] to answer for:
    /// a device that is given an address of memory will use it.
    pub const unsafe fn new(base: usize, segment: u32, buses: RangeInclusive<u8>) -> Self {
        Self {
            base,
            segment,
            buses,
        }
    }

    /// The address of a register.
    fn register(&self, function: Sbdf, at: Access) -> Result<usize, PciError> {
        if function.segment() != self.segment || !self.buses.contains(&function.bus()) {
            return Err(PciError::Unreachable {
                function,
                offset: at.offset(),
            });
        }
        let offset = usize::from(function.bdf()) << 12 | usize::from(at.offset());
        Ok(self.base.wrapping_add(offset))
    }
}

impl PciConfigAccess for Ecam {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let register = self.register(function, at)?;
        // SAFETY, of each `read_volatile`:
        // * valid: `register` checked the bus, so the address is in the space that `new` requires
        //   to be mapped while `self` lives;
        // * aligned: the space is, and an `Access` is aligned to its width;
        // * initialised: any bits are a number, also the ones of a function that is absent;
        // * no aliasing: `new` requires that no reference covers the space.
        // The device may change the value at any time; that is why the read is volatile.
        Ok(match at.width() {
            // SAFETY: above.
            Width::U8 => unsafe { pointer::<u8>(register).read_volatile() }.into(),
            // SAFETY: above.
            Width::U16 => unsafe { pointer::<u16>(register).read_volatile() }.into(),
            // SAFETY: above.
            Width::U32 => unsafe { pointer::<u32>(register).read_volatile() },
        })
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let register = self.register(function, at)?;
        // SAFETY, of each `write_volatile`: valid, aligned and not aliased as in `read`.
        match at.width() {
            // SAFETY: above.
            Width::U8 => unsafe { pointer::<u8>(register).write_volatile(value as u8) },
            // SAFETY: above.
            Width::U16 => unsafe { pointer::<u16>(register).write_volatile(value as u16) },
            // SAFETY: above.
            Width::U32 => unsafe { pointer::<u32>(register).write_volatile(value) },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const BUS: usize = 1 << 20;

    /// Two buses of memory, 5 and 6, seen through the mechanism.
    fn with_window(test: impl FnOnce(&Ecam)) -> Vec<u32> {
        let mut window = vec![0u32; 2 * BUS / 4];
        let base = window.as_mut_ptr().expose_provenance();
        // SAFETY: `new`: buses 5 and 6 are the window, which lives and is not touched while the
        // object does; that it is memory and no device makes no difference to the accesses.
        let ecam = unsafe { Ecam::new(base.wrapping_sub(5 * BUS), 2, 5..=6) };
        test(&ecam);
        window
    }

    #[test]
    fn every_register_is_where_the_specification_puts_it() {
        let window = with_window(|ecam| {
            let function = Sbdf::new(2, 6, 0x1f, 7).unwrap();
            ecam.write_u32(function, 0xffc, 0x1234_5678).unwrap();
            ecam.write_u8(function, 0x3d, 0xab).unwrap();
            ecam.write_u16(function, 0x3e, 0xcdef).unwrap();
            assert_eq!(ecam.read_u32(function, 0x3c), Ok(0xcdef_ab00));
            assert_eq!(ecam.read_u16(function, 0xffe), Ok(0x1234));
            assert_eq!(ecam.read_u8(function, 0xffd), Ok(0x56));
            let first = Sbdf::new(2, 5, 0, 0).unwrap();
            ecam.write_u32(first, 0, 0x8086_29c0).unwrap();
        });
        let function = BUS + 0xff000;
        let mut expected = vec![0; 2 * BUS / 4];
        expected[0] = 0x8086_29c0;
        expected[(function + 0x3c) / 4] = 0xcdef_ab00;
        expected[(function + 0xffc) / 4] = 0x1234_5678;
        assert_eq!(window, expected);
    }

    #[test]
    fn what_is_not_mapped_is_out_of_reach() {
        let window = with_window(|ecam| {
            for (segment, bus) in [(2, 4), (2, 7), (2, 0), (2, 255), (0, 5), (0x1_0002, 5)] {
                let function = Sbdf::new(segment, bus, 0, 0).unwrap();
                let unreachable = PciError::Unreachable {
                    function,
                    offset: 4,
                };
                assert_eq!(ecam.read_u16(function, 4), Err(unreachable));
                assert_eq!(ecam.write_u16(function, 4, 7), Err(unreachable));
            }
        });
        assert!(window.iter().all(|&word| word == 0));
    }
}

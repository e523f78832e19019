//! A real backend: configuration space by the two ports of a PC.
#![allow(
    unsafe_code,
    reason = "port accesses are instructions that the language does not have"
)]

use core::arch::asm;

use spin::mutex::SpinMutex;

use crate::{Access, PciConfigAccess, PciError, Sbdf, Width};

/// Configuration space by mechanism 1 of a PC: a function and a register are selected through one
/// port, and accessed through another.
///
/// Reaches the first 256 bytes of functions in segment 0: enough to find out where the rest is
/// ([`crate::Ecam`]). The two steps are under a lock that all objects of this type share; so it
/// must not be used in an interrupt handler that can interrupt another use.
///
/// # Source
/// PCI Local Bus 3.0, 3.2.2.3.2.
#[derive(Debug)]
pub struct ConfigPorts(());

/// What is selected is a property of the machine.
static SELECTED: SpinMutex<()> = SpinMutex::new(());

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

impl ConfigPorts {
    /// The ports of this machine.
    ///
    /// # Safety
    /// For as long as this object exists:
    /// * the program may access ports 0xcf8 to 0xcff, and they are those of a PC;
    /// * nobody else uses them, but for objects of this type.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// What to write to the address port, and which data port to access.
fn select(function: Sbdf, at: Access) -> Result<(u32, u16), PciError> {
    let offset = at.offset();
    if function.segment() != 0 || offset > 0xff {
        return Err(PciError::Unreachable { function, offset });
    }
    let address = 1 << 31 | u32::from(function.bdf()) << 8 | u32::from(offset & 0xfc);
    Ok((address, DATA + (offset & 3)))
}

impl PciConfigAccess for ConfigPorts {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let (address, port) = select(function, at)?;
        let _selected = SELECTED.lock();
        write_port(ADDRESS, Width::U32, address);
        Ok(read_port(port, at.width()))
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let (address, port) = select(function, at)?;
        let _selected = SELECTED.lock();
        write_port(ADDRESS, Width::U32, address);
        write_port(port, at.width(), value);
        Ok(())
    }
}

/// Only for the two ports, of an object that exists.
fn read_port(port: u16, width: Width) -> u32 {
    let (byte, word, dword): (u8, u16, u32);
    // SAFETY, of each instruction: `ConfigPorts::new` requires that the program may access these
    // ports; reading one touches no memory, and what it answers is any number.
    match width {
        Width::U8 => {
            // SAFETY: above.
            unsafe { asm!("in al, dx", in("dx") port, out("al") byte, options(nostack)) };
            byte.into()
        }
        Width::U16 => {
            // SAFETY: above.
            unsafe { asm!("in ax, dx", in("dx") port, out("ax") word, options(nostack)) };
            word.into()
        }
        Width::U32 => {
            // SAFETY: above.
            unsafe { asm!("in eax, dx", in("dx") port, out("eax") dword, options(nostack)) };
            dword
        }
    }
}

/// Only for the two ports, of an object that exists.
fn write_port(port: u16, width: Width, value: u32) {
    let (byte, word) = (value as u8, value as u16);
    // SAFETY, of each instruction: as in `read_port`. What a write does to a device is the
    // caller's to answer for, as with every `PciConfigAccess`.
    match width {
        // SAFETY: above.
        Width::U8 => unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nostack)) },
        // SAFETY: above.
        Width::U16 => unsafe { asm!("out dx, ax", in("dx") port, in("ax") word, options(nostack)) },
        // SAFETY: above.
        Width::U32 => unsafe {
            asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack));
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_as_the_specification_says() {
        let function = Sbdf::new(0, 0x3a, 0x1f, 7).unwrap();
        for (offset, width, expected) in [
            (0, Width::U32, (0x803a_ff00, 0xcfc)),
            (0x3d, Width::U8, (0x803a_ff3c, 0xcfd)),
            (0x3e, Width::U16, (0x803a_ff3c, 0xcfe)),
            (0xff, Width::U8, (0x803a_fffc, 0xcff)),
        ] {
            let at = Access::new(offset, width).unwrap();
            assert_eq!(select(function, at), Ok(expected));
        }
    }

    #[test]
    fn extended_space_and_other_segments_are_out_of_reach() {
        for (segment, offset) in [(0, 0x100), (0, 0xffc), (1, 0)] {
            let function = Sbdf::new(segment, 0, 0, 0).unwrap();
            let at = Access::new(offset, Width::U32).unwrap();
            let unreachable = PciError::Unreachable { function, offset };
            assert_eq!(select(function, at), Err(unreachable));
        }
    }
}

//! The PL011 of QEMU's `virt`, as Linux or QEMU set it up.
#![allow(unsafe_code, reason = "device registers are raw memory")]

use core::ptr::with_exposed_provenance_mut;

/// The first serial line.
pub struct Serial;

const PL011: usize = 0x0900_0000;
const DATA: usize = PL011;
const FLAGS: usize = PL011 + 0x18;
const TRANSMIT_FULL: u32 = 0x20;

impl Serial {
    /// Sends one byte.
    pub fn send(byte: u8) {
        let (data, flags) = (
            with_exposed_provenance_mut::<u32>(DATA),
            with_exposed_provenance_mut::<u32>(FLAGS),
        );
        // SAFETY: `read_volatile`: `virt` has the device at this address, which `head.s` maps as
        // Device memory; the register is aligned and has no side effect.
        while unsafe { flags.read_volatile() } & TRANSMIT_FULL != 0 {}
        // SAFETY: `write_volatile`: as above; it sends the byte.
        unsafe { data.write_volatile(byte.into()) };
    }
}

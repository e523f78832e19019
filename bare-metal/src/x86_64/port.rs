//! Ports: the first serial line, and q35's switch.
#![allow(unsafe_code, reason = "port accesses are instructions of their own")]

use core::arch::asm;

/// The first serial line, as firmware or Linux set it up.
pub struct Serial;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 0x20;

impl Serial {
    /// Sends one byte.
    pub fn send(byte: u8) {
        loop {
            let status: u8;
            // SAFETY: reading the line status of a 16550 touches no memory.
            unsafe {
                asm!("in al, dx", in("dx") LINE_STATUS, out("al") status, options(nomem, nostack, preserves_flags))
            };
            if status & TRANSMITTER_EMPTY != 0 {
                break;
            }
        }
        // SAFETY: neither does sending a byte.
        unsafe {
            asm!("out dx, al", in("dx") COM1, in("al") byte, options(nomem, nostack, preserves_flags))
        };
    }
}

/// Writes SLP_EN with type 0 to PM1a_CNT, where QEMU's firmware puts it on q35.
pub fn power_off() {
    const PM1A_CNT: u16 = 0x604;
    // SAFETY: it touches no memory; the machine stops.
    unsafe {
        asm!("out dx, ax", in("dx") PM1A_CNT, in("ax") 0x2000u16, options(nomem, nostack, preserves_flags))
    };
}

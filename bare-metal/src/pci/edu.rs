//! QEMU's `edu`: a device that copies memory, slowly.
//!
//! # Source
//! QEMU `docs/specs/edu.rst`.
#![allow(unsafe_code, reason = "device registers are raw memory")]

use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{Ordering, fence};

use kho::hal::{Ecam, PciConfigAccess, PhysAddr, Sbdf};

use crate::error::{Error, Result};

pub const VENDOR: u16 = 0x1234;
pub const DEVICE: u16 = 0x11e8;
/// Bytes of its buffer.
pub const BUFFER: u64 = 4096;

const IDENTITY: usize = 0x00;
const SOURCE: usize = 0x80;
const TARGET: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const RUN: u64 = 1;
const TO_MEMORY: u64 = 2;
/// Where the device has its buffer, in its own addresses.
const OWN: u64 = 0x4_0000;

/// The device's registers.
pub struct Edu {
    registers: usize,
}

impl Edu {
    /// The device at `function`, whose memory decoding is on.
    pub fn new(config: &Ecam, function: Sbdf) -> Result<Self> {
        let bar = config.read_u32(function, 0x10);
        let bar = bar.map_err(|_| Error::missing("BAR of edu"))? & !0xf;
        let edu = Self {
            registers: bar as usize,
        };
        // The low byte says edu, the high one its version.
        if bar == 0 || edu.read(IDENTITY) as u32 & 0xff != 0xed {
            return Err(Error::missing("edu behind its BAR"));
        }
        Ok(edu)
    }

    /// Starts to copy memory into the device's buffer.
    pub fn load(&self, from: PhysAddr) {
        self.copy(from.as_u64(), OWN, RUN);
    }

    /// Starts to copy the device's buffer to memory.
    pub fn store(&self, to: PhysAddr) {
        self.copy(OWN, to.as_u64(), RUN | TO_MEMORY);
    }

    /// Whether it is still copying.
    pub fn is_busy(&self) -> bool {
        self.read(COMMAND) & RUN != 0
    }

    /// Waits until it has copied.
    pub fn wait(&self) {
        while self.is_busy() {
            // It takes a tenth of a second, and asking an emulated device is slow.
            for _ in 0..10_000 {
                core::hint::spin_loop();
            }
        }
        // What the device wrote is seen by what comes after.
        fence(Ordering::SeqCst);
    }

    fn copy(&self, source: u64, target: u64, command: u64) {
        // What was written to memory is there before the device looks.
        fence(Ordering::SeqCst);
        self.write(SOURCE, source);
        self.write(TARGET, target);
        self.write(COUNT, BUFFER);
        self.write(COMMAND, command);
    }

    fn read(&self, offset: usize) -> u64 {
        let register = with_exposed_provenance_mut::<u32>(self.registers + offset);
        // SAFETY: `read_volatile`: the BAR, which firmware or Linux set, is the device's 1 MiB of
        // registers, mapped where it is as device memory; the register is aligned.
        unsafe { register.read_volatile() }.into()
    }

    fn write(&self, offset: usize, value: u64) {
        let register = with_exposed_provenance_mut::<u64>(self.registers + offset);
        // SAFETY: `write_volatile`: as in `read`. Where the device will write is the caller's to
        // answer for: pages that were allocated for it.
        unsafe { register.write_volatile(value) };
    }
}

//! A PC: booted by the 64-bit Linux boot protocol.
#![allow(unsafe_code, reason = "instructions that the language does not have")]

mod boot_params;
mod ecam;
mod linux;
mod paging;
mod port;

use core::arch::global_asm;
use core::fmt;

pub use ecam::ecam;
use kho::hal::PhysAddr;
pub use linux::boot;
pub use port::Serial;

use crate::error::Result;
use crate::machine::Machine;

pub const NAME: &str = "x86_64";

global_asm!(include_str!("head.s"), main = sym crate::main);

/// The machine that the boot parameters at `entry` describe; from here on all of its RAM and its
/// devices are mapped where they are.
pub fn machine(entry: PhysAddr) -> Result<Machine> {
    let machine = boot_params::machine(entry)?;
    paging::start(&machine.ram)?;
    Ok(machine)
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(Self::send);
        Ok(())
    }
}

/// Asks QEMU's q35 to switch itself off (S5).
pub fn power_off() -> ! {
    port::power_off();
    loop {
        core::hint::spin_loop();
    }
}

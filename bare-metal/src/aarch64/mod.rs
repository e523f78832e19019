//! QEMU's `virt`: booted as arm64 Linux is, at EL1.
#![allow(unsafe_code, reason = "instructions that the language does not have")]

mod device_tree;
mod linux;
mod serial;

use core::arch::{asm, global_asm};
use core::fmt;

pub use device_tree::{ecam, machine};
pub use linux::boot;
pub use serial::Serial;

use crate::say::fact;

pub const NAME: &str = "aarch64";

global_asm!(include_str!("head.s"), main = sym crate::main, exception = sym exception);

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(Self::send);
        Ok(())
    }
}

/// PSCI SYSTEM_OFF, by way of the hypervisor that `virt` stands in for.
pub fn power_off() -> ! {
    const SYSTEM_OFF: u64 = 0x8400_0008;
    loop {
        // SAFETY: PSCI defines the call; it does not return, or the machine goes on.
        unsafe { asm!("hvc #0", in("x0") SYSTEM_OFF, options(nomem, nostack)) };
    }
}

/// Every exception ends here.
extern "C" fn exception(syndrome: u64, at: u64, address: u64) -> ! {
    let what = alloc::format!("exception {syndrome:#x} at {at:#x}, address {address:#x}");
    fact("error", serde_json::json!({ "what": what }));
    power_off()
}

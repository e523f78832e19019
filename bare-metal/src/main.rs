//! A bare-metal program that takes over from Linux and hands over to Linux.
//!
//! It is what a unikernel's author would write: the library's traits over this machine's memory and
//! devices, and a few lines of the library. Linux can kexec it, as can QEMU, on x86_64 (in the form
//! of a bzImage, by the 64-bit entry) and on aarch64 (as an Image, at EL1). What it finds it states
//! on the serial line, one JSON object a line.
//!
//! | module | what for |
//! | --- | --- |
//! | `x86_64`, `aarch64` | first instructions, serial line, boot data, the jump to a kernel |
//! | [`memory`] | who may use which memory, and the library's direct maps over it |
//! | [`pages`] | free pages |
//! | [`take_over`] | check a handover and say what is in it |
//! | [`make`] | a handover from nothing |
//! | [`damage`] | handovers that are wrong |
//! | [`hand_over`] | keep what was handed over, and hand it on |
//! | [`next`] | the next kernel: where it comes from, where it goes |
//! | [`pci`] | PCI functions across the jump to ourselves |
//! | [`say`] | facts on the serial line |
//!
//! What it does is said by `interop=` on its command line: see [`jobs`].
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

mod damage;
mod error;
mod hand_over;
mod heap;
mod image;
mod jobs;
mod machine;
mod make;
mod memory;
mod next;
mod pages;
mod pci;
mod ranges;
mod say;
mod take_over;

use kho::hal::PhysAddr;
use serde_json::json;

/// What the first instructions call: `entry` is the address of the boot parameters (x86_64) or the
/// device tree (aarch64). Everything is mapped where it is.
extern "C" fn main(entry: u64) -> ! {
    heap::start();
    match jobs::run(PhysAddr::new(entry)) {
        Ok(()) => say::fact("off", json!({})),
        Err(error) => say::fact("error", json!({ "what": alloc::format!("{error}") })),
    }
    arch::power_off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    // Without the heap, which may be what failed.
    let _ = writeln!(arch::Serial, "\npanic: {info}");
    arch::power_off()
}

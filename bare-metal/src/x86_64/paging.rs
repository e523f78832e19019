//! The identity map: all RAM, and the first 4 GiB with the devices in it.
//!
//! The boot loader's map need not cover devices, and lies in memory that is not ours.
#![allow(unsafe_code, reason = "loading CR3 is an instruction")]

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use kho::hal::PhysRange;

use crate::error::{Error, Result};

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn address(&self) -> u64 {
        (&raw const *self).addr() as u64
    }
}

/// Its first entry covers 512 GiB.
static ROOT: Table = Table::new();
static POINTERS: Table = Table::new();

/// Present, writable.
const TABLE: u64 = 3;
const LARGE_PAGE: u64 = 0x83;
/// Write-through and cache-disabled: strong uncacheable.
const DEVICE: u64 = 0x18;

const GIB: u64 = 1 << 30;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Below this are the devices that 32-bit addresses reach.
const DEVICES_END: u64 = 4 * GIB;

/// Makes the map and switches to it.
pub fn start(ram: &[PhysRange]) -> Result<()> {
    let is_ram = |addr: u64| {
        let mut ends = ram
            .iter()
            .map(|range| (range.start().as_u64(), range.end().as_u64()));
        ends.any(|(start, end)| start < addr + LARGE_PAGE_BYTES && addr < end)
    };
    let top = ram.iter().map(|range| range.end().as_u64()).max();
    let top = top.unwrap_or(0).max(DEVICES_END);
    if top > 512 * GIB {
        return Err(Error::missing("map for RAM above 512 GiB"));
    }
    let mut addr = 0;
    for pointer in &POINTERS.0 {
        if addr >= top {
            break;
        }
        let directory = Box::leak(Box::new(Table::new()));
        for entry in &directory.0 {
            let kind = if is_ram(addr) { 0 } else { DEVICE };
            entry.store(addr | LARGE_PAGE | kind, Ordering::Relaxed);
            addr += LARGE_PAGE_BYTES;
        }
        pointer.store(directory.address() | TABLE, Ordering::Relaxed);
    }
    if let Some(first) = ROOT.0.first() {
        first.store(POINTERS.address() | TABLE, Ordering::Relaxed);
    }
    // SAFETY: the map has this code, its stack and its data where they are, as the old one had:
    // the image is RAM. The tables are statics or leaked, so they stay.
    unsafe { asm!("mov cr3, {}", in(reg) ROOT.address(), options(nostack, preserves_flags)) };
    Ok(())
}

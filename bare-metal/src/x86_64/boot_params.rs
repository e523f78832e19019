//! The boot parameters, as the 64-bit Linux boot protocol passes them.
//!
//! # Source
//! Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`.
#![allow(unsafe_code, reason = "the boot loader's word is all there is")]

use alloc::string::String;
use alloc::vec::Vec;

use kho::core::{BootData, BootPlace, SETUP_DATA_LEN};
use kho::hal::{FrozenDirectMap, FrozenMem, PhysAddr, PhysRange};

use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};

pub const EXT_RAMDISK_IMAGE: usize = 0xc0;
pub const EXT_RAMDISK_SIZE: usize = 0xc4;
const EXT_CMD_LINE: usize = 0xc8;
pub const E820_ENTRIES: usize = 0x1e8;
pub const RAMDISK_IMAGE: usize = 0x218;
pub const RAMDISK_SIZE: usize = 0x21c;
pub const CMD_LINE: usize = 0x228;
const CMDLINE_SIZE: usize = 0x238;
/// Address of the first node of setup_data.
pub const SETUP_DATA: usize = 0x250;
pub const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const E820_RAM: u32 = 1;
/// What real mode reaches.
pub const LOW_MEMORY: u64 = 1 << 20;

/// The number at `offset`; 0 beyond the end.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

/// As [`u32_at`], of 64 bits.
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

/// The machine that the boot parameters at `entry` describe.
pub fn machine(entry: PhysAddr) -> Result<Machine> {
    let page = PhysRange::new(entry, PAGE.bytes()).ok_or(Error::missing("boot parameters"))?;
    let low = [PhysRange::new(PhysAddr::new(PAGE.bytes()), 2 << 30).unwrap_or_default()];
    // SAFETY: `FrozenDirectMap::new`: the boot protocol has the boot parameters, the command line
    // and what they lead to mapped where they are; nothing is written before this function
    // returns, and the map does not outlive it; page 0 is not in it.
    let memory = unsafe { FrozenDirectMap::new(0, &low) };
    let params = memory.bytes(page.start(), PAGE.as_usize())?;
    let ram = ram(params);
    let initrd = {
        let high = |low, ext| u64::from(u32_at(params, low)) | u64::from(u32_at(params, ext)) << 32;
        let start = PhysAddr::new(high(RAMDISK_IMAGE, EXT_RAMDISK_IMAGE));
        let size = high(RAMDISK_SIZE, EXT_RAMDISK_SIZE);
        PhysRange::new(start, size).filter(|range| !range.is_empty())
    };
    let line = PhysAddr::new(
        u64::from(u32_at(params, CMD_LINE)) | u64::from(u32_at(params, EXT_CMD_LINE)) << 32,
    );
    let limit = u32_at(params, CMDLINE_SIZE).min(4096);
    let text = memory.bytes(line, limit as usize)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let handover = BootData::from_boot_params(&memory, entry);
    let mut boot_memory = alloc::vec![page];
    // A Linux that comes after us puts its trampolines there before it looks at what is preserved.
    boot_memory.extend(PhysRange::new(PhysAddr::new(0), LOW_MEMORY));
    boot_memory.extend(PhysRange::new(line, text.len() as u64 + 1));
    boot_memory.extend(initrd);
    if let Ok((_, BootPlace::SetupData(node))) = handover {
        boot_memory.extend(PhysRange::new(node, SETUP_DATA_LEN as u64));
    }
    Ok(Machine {
        entry,
        ram,
        cmdline: String::from_utf8_lossy(text).into_owned(),
        initrd,
        boot_memory,
        handover: handover.map(|(data, _)| data),
    })
}

/// Usable memory, without page 0.
fn ram(params: &[u8]) -> Vec<PhysRange> {
    let count = params.get(E820_ENTRIES).copied().unwrap_or(0);
    let table = params.get(E820_TABLE..).unwrap_or_default();
    let entries = table.chunks_exact(E820_ENTRY).take(count.into());
    let mut ram: Vec<_> = entries
        .filter(|entry| u32_at(entry, 16) == E820_RAM)
        .filter_map(|entry| PhysRange::new(PhysAddr::new(u64_at(entry, 0)), u64_at(entry, 8)))
        .collect();
    ram.sort();
    let page_0 = PhysRange::new(PhysAddr::new(0), PAGE.bytes());
    crate::ranges::without(&ram, page_0)
}

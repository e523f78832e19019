//! Starting a kernel by the 64-bit Linux boot protocol.
//!
//! # Source
//! Linux `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol".
#![allow(unsafe_code, reason = "a jump is an instruction")]

use core::arch::asm;
use core::convert::Infallible;

use kho::core::BootData;
use kho::hal::{FrozenMem, PhysAddr, PhysMem};
use serde_json::json;

use super::boot_params::{
    CMD_LINE, E820_ENTRIES, E820_TABLE, EXT_RAMDISK_IMAGE, EXT_RAMDISK_SIZE, LOW_MEMORY,
    RAMDISK_IMAGE, RAMDISK_SIZE, SETUP_DATA, u32_at, u64_at,
};
use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::memory::{Frozen, Writable};
use crate::next::{Next, Room};
use crate::say::fact;

const ACPI_RSDP: usize = 0x70;
const HEADER: usize = 0x1f1;
const JUMP_OFFSET: usize = 0x201;
const MAGIC: usize = 0x202;
const LOADER: usize = 0x210;
const INITRD_MAX: usize = 0x22c;
const ALIGNMENT: usize = 0x230;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_MAX: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
/// Of the 64-bit entry, from where the protected-mode part is loaded.
const ENTRY: u64 = 0x200;
const FOUR_GIB: u64 = 4 << 30;

/// Puts the kernel into scratch, tells it of the handover, and jumps.
pub fn boot(
    memory: &Frozen,
    map: &Writable,
    room: &mut Room,
    machine: &Machine,
    next: &Next,
    handover: Option<&BootData>,
) -> Result<Infallible> {
    let head = next.kernel.read(memory, 0, PAGE.as_usize())?;
    let is_64_bit = u32_at(&head, XLOADFLAGS) & 1 != 0;
    if head.get(MAGIC..MAGIC + 4) != Some(b"HdrS") || !is_64_bit {
        return Err(Error::missing("64-bit entry in the kernel"));
    }
    let sectors = match head.get(HEADER) {
        Some(0) | None => 4,
        Some(&sectors) => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let size = u64::from(u32_at(&head, INIT_SIZE)).max(next.kernel.size() - setup);
    let (align, preferred) = (u32_at(&head, ALIGNMENT), u64_at(&head, PREF_ADDRESS));
    let kernel = room.take(size, align.into(), preferred, FOUR_GIB)?;
    next.kernel.copy(memory, setup, map, kernel)?;

    let mut params = [0; 4096];
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(place) = params.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    let end = MAGIC + usize::from(head.get(JUMP_OFFSET).copied().unwrap_or(0));
    put(HEADER, head.get(HEADER..end).unwrap_or_default());
    put(LOADER, &[0xff]);
    // What only the firmware knew.
    let ours = memory.bytes(machine.entry, PAGE.as_usize())?;
    for (offset, size) in [(ACPI_RSDP, 8), (E820_ENTRIES, 1), (E820_TABLE, 128 * 20)] {
        put(offset, ours.get(offset..offset + size).unwrap_or_default());
    }
    let initrd_size = next.initrd.size();
    if initrd_size > 0 {
        let max = u64::from(u32_at(&head, INITRD_MAX)) + 1;
        let initrd = room.take(initrd_size, PAGE.bytes(), LOW_MEMORY, max)?;
        next.initrd.copy(memory, 0, map, initrd)?;
        put(RAMDISK_IMAGE, &(initrd.as_u64() as u32).to_le_bytes());
        put(RAMDISK_SIZE, &(initrd_size as u32).to_le_bytes());
        put(EXT_RAMDISK_IMAGE, &[0; 4]);
        put(
            EXT_RAMDISK_SIZE,
            &((initrd_size >> 32) as u32).to_le_bytes(),
        );
    }
    // Parameters, setup_data, command line.
    let place = room.take(3 * PAGE.bytes(), PAGE.bytes(), LOW_MEMORY, FOUR_GIB)?;
    let at = |page: u64| PhysAddr::new(place.as_u64() + page * PAGE.bytes());
    if next.cmdline.len() > u32_at(&head, CMDLINE_MAX).min(4095) as usize {
        return Err(Error::missing("room for the command line"));
    }
    map.write(at(2), next.cmdline.as_bytes())?;
    map.write(
        PhysAddr::new(at(2).as_u64() + next.cmdline.len() as u64),
        &[0],
    )?;
    put(CMD_LINE, &(at(2).as_u64() as u32).to_le_bytes());
    if let Some(handover) = handover {
        map.write(at(1), &handover.to_setup_data(PhysAddr::new(0)))?;
        put(SETUP_DATA, &at(1).as_u64().to_le_bytes());
    }
    map.write(at(0), &params)?;
    let (kernel, params) = (kernel.as_u64(), at(0).as_u64());
    fact(
        "jump",
        json!({ "kernel": kernel, "boot_params": params, "cmdline": next.cmdline }),
    );
    // SAFETY: nothing of this program is used again. The kernel's code is at this address; it and
    // its parameters are mapped where they are, and so is our segment table, as the protocol asks.
    unsafe {
        asm!(
            "cli",
            "jmp rax",
            in("rax") kernel + ENTRY,
            in("rsi") params,
            options(noreturn),
        )
    }
}

//! Starting a kernel as arm64 Linux is started.
//!
//! # Source
//! Linux `Documentation/arch/arm64/booting.rst`.
#![allow(
    unsafe_code,
    reason = "a jump is an instruction, and so is cleaning a cache"
)]

use alloc::vec::Vec;
use core::arch::asm;
use core::convert::Infallible;

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use kho::core::BootData;
use kho::hal::{PhysAddr, PhysMem, PhysRange};
use serde_json::json;

use super::device_tree;
use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::memory::{Frozen, Writable};
use crate::next::{Next, Room};
use crate::say::fact;

const MAGIC: usize = 56;
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const ALIGNMENT: u64 = 2 << 20;
const MAX_TREE: usize = 2 << 20;

/// Puts the kernel into scratch, tells it of the handover, and jumps.
pub fn boot(
    memory: &Frozen,
    map: &Writable,
    room: &mut Room,
    machine: &Machine,
    next: &Next,
    handover: Option<&BootData>,
) -> Result<Infallible> {
    let head = next.kernel.read(memory, 0, 64)?;
    if head.get(MAGIC..MAGIC + 4) != Some(b"ARM\x64") {
        return Err(Error::missing("arm64 kernel"));
    }
    let number = |offset: usize| {
        let bytes = head.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let offset = number(TEXT_OFFSET);
    let size = number(IMAGE_SIZE).max(next.kernel.size());
    let base = room.take(offset + size, ALIGNMENT, 0, u64::MAX)?;
    let kernel = PhysAddr::new(base.as_u64() + offset);
    next.kernel.copy(memory, 0, map, kernel)?;
    let mut loaded = Vec::from_iter(PhysRange::new(kernel, next.kernel.size()));
    let initrd_size = next.initrd.size();
    let mut initrd = None;
    if initrd_size > 0 {
        let place = room.take(initrd_size, PAGE.bytes(), 0, u64::MAX)?;
        next.initrd.copy(memory, 0, map, place)?;
        initrd = PhysRange::new(place, initrd_size);
        loaded.extend(initrd);
    }
    let tree = tree(memory, machine, next, initrd, handover)?;
    let place = room.take(tree.len() as u64, PAGE.bytes(), 0, u64::MAX)?;
    map.write(place, &tree)?;
    loaded.extend(PhysRange::new(place, tree.len() as u64));
    let (kernel, tree) = (kernel.as_u64(), place.as_u64());
    fact(
        "jump",
        json!({ "kernel": kernel, "device_tree": tree, "cmdline": next.cmdline }),
    );
    for range in loaded {
        clean(range);
    }
    // SAFETY: nothing of this program is used again. The kernel is in memory at this address,
    // cleaned from the cache; this code is mapped where it is, so the MMU can go.
    unsafe {
        asm!(
            "dsb sy",
            "mrs x4, sctlr_el1",
            "mov x5, #0x1005",
            "bic x4, x4, x5",
            "msr sctlr_el1, x4",
            "isb",
            "ic iallu",
            "dsb sy",
            "isb",
            "br x8",
            in("x8") kernel,
            in("x0") tree,
            in("x1") 0,
            in("x2") 0,
            in("x3") 0,
            options(noreturn),
        )
    }
}

/// Our device tree with another `/chosen`.
fn tree(
    memory: &Frozen,
    machine: &Machine,
    next: &Next,
    initrd: Option<PhysRange>,
    handover: Option<&BootData>,
) -> Result<Vec<u8>> {
    let invalid = || Error::missing("valid device tree");
    let ours = Fdt::new(device_tree::tree(memory, machine.entry)?).map_err(|_| invalid())?;
    let mut tree = DeviceTree::from_fdt(&ours);
    if tree.root.child_mut("chosen").is_none() {
        let chosen = DeviceTreeNode::new("chosen").map_err(|_| invalid())?;
        tree.root.add_child(chosen);
    }
    let chosen = tree.root.child_mut("chosen").ok_or(invalid())?;
    let mut set = |name: &str, value: Option<Vec<u8>>| -> Result<()> {
        chosen.remove_property(name);
        if let Some(value) = value {
            let property = DeviceTreeProperty::new(name, value.as_slice());
            chosen.add_property(property.map_err(|_| invalid())?);
        }
        Ok(())
    };
    let line = [next.cmdline.as_bytes(), &[0]].concat();
    set("bootargs", Some(line))?;
    let be = |addr: PhysAddr| addr.as_u64().to_be_bytes().to_vec();
    set("linux,initrd-start", initrd.map(|range| be(range.start())))?;
    set("linux,initrd-end", initrd.map(|range| be(range.end())))?;
    for name in [
        kho::abi::boot::CHOSEN_KHO_FDT,
        kho::abi::boot::CHOSEN_KHO_SCRATCH,
    ] {
        set(name, None)?;
    }
    for (name, value) in handover.iter().flat_map(|handover| handover.to_chosen()) {
        set(name, Some(value.to_vec()))?;
    }
    let tree = tree.to_dtb();
    if tree.len() > MAX_TREE {
        return Err(Error::missing("device tree of 2 MiB at most"));
    }
    Ok(tree)
}

/// Cleans and invalidates `range` to the point of coherency, as the next kernel starts without a
/// cache.
fn clean(range: PhysRange) {
    let kind: u64;
    // SAFETY: reading CTR_EL0 changes nothing.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) kind, options(nomem, nostack, preserves_flags)) };
    // DminLine: log2 of the words in the smallest line of all data caches.
    let line = 4u64 << (kind >> 16 & 15);
    let first = range.start().as_u64() & !(line - 1);
    for line in (first..range.end().as_u64()).step_by(line as usize) {
        // SAFETY: cleaning a cache line changes no memory; the address is mapped.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
}

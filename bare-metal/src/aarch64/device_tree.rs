//! The device tree, as arm64 Linux is given it.
//!
//! # Source
//! Linux `Documentation/arch/arm64/booting.rst`; Devicetree Specification 0.4, 3.4 and 3.6.
#![allow(unsafe_code, reason = "the boot loader's word is all there is")]

use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use kho::core::BootData;
use kho::hal::{Ecam, FrozenDirectMap, FrozenMem, PhysAddr, PhysRange};

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::memory::Frozen;

/// Of a flattened device tree.
const HEADER: usize = 40;
/// RAM that `head.s` maps.
const MAPPED: (u64, u64) = (1 << 30, 3 << 30);

/// The machine that the device tree at `entry` describes.
pub fn machine(entry: PhysAddr) -> Result<Machine> {
    let mapped = [PhysRange::new(PhysAddr::new(MAPPED.0), MAPPED.1).unwrap_or_default()];
    // SAFETY: `FrozenDirectMap::new`: `head.s` maps RAM of the first 4 GiB where it is; nothing is
    // written before this function returns, and the map does not outlive it; page 0 is not in it.
    let memory = unsafe { FrozenDirectMap::new(0, &mapped) };
    let tree = tree(&memory, entry)?;
    let fdt = Fdt::new(tree).map_err(|_| Error::missing("valid device tree"))?;
    let root = fdt.root();
    let mut ram = Vec::new();
    for node in root
        .children()
        .filter(|node| value(*node, "device_type") == Some(b"memory\0"))
    {
        let reg = value(node, "reg").unwrap_or_default();
        let numbers = reg.chunks_exact(16);
        ram.extend(numbers.filter_map(pair));
    }
    ram.sort();
    if !ram
        .iter()
        .all(|range| mapped.iter().any(|mapped| mapped.contains_range(*range)))
    {
        return Err(Error::missing("map for RAM outside 1 to 4 GiB"));
    }
    let chosen = root.child("chosen").ok_or(Error::missing("/chosen"))?;
    let line = value(chosen, "bootargs").unwrap_or_default();
    let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let number = |name| value(chosen, name).and_then(be);
    let initrd = number("linux,initrd-start").and_then(|start| {
        let size = number("linux,initrd-end")?.checked_sub(start)?;
        PhysRange::new(PhysAddr::new(start), size).filter(|range| !range.is_empty())
    });
    let handover = BootData::from_device_tree(&memory, entry);
    let mut boot_memory = Vec::from_iter(initrd);
    boot_memory.extend(PhysRange::new(entry, tree.len() as u64));
    Ok(Machine {
        entry,
        ram,
        cmdline: String::from_utf8_lossy(line).into_owned(),
        initrd,
        boot_memory,
        handover: handover.map(|(data, _)| data),
    })
}

/// The configuration space that the device tree names.
pub fn ecam(memory: &Frozen, machine: &Machine) -> Result<Ecam> {
    const COMPATIBLE: &[u8] = b"pci-host-ecam-generic\0";
    let fdt = Fdt::new(tree(memory, machine.entry)?);
    let fdt = fdt.map_err(|_| Error::missing("valid device tree"))?;
    let root = fdt.root();
    let mut nodes = root.children();
    let node = nodes.find(|node| value(*node, "compatible") == Some(COMPATIBLE));
    let reg = node.and_then(|node| value(node, "reg"));
    let window = reg
        .and_then(pair)
        .ok_or(Error::missing("PCI host bridge"))?;
    let last = (window.size() >> 20).clamp(1, 256) as u16 - 1;
    // SAFETY: `Ecam::new`: the device tree says that the window is configuration space from bus 0
    // on; `head.s` maps the first 512 GiB where they are, other than RAM as device memory.
    Ok(unsafe { Ecam::new(window.start().as_u64() as usize, 0, 0..=last as u8) })
}

/// The bytes of the device tree at `at`.
pub fn tree<M: FrozenMem>(memory: &M, at: PhysAddr) -> Result<&[u8]> {
    let header = memory.bytes(at, HEADER)?;
    let size = header.get(4..8).and_then(be);
    let size = size.ok_or(Error::missing("device tree"))?;
    Ok(memory.bytes(at, size as usize)?)
}

fn value<'a>(node: FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    node.property(name)?.value_as().ok()
}

/// An address and a size, of two cells each.
fn pair(cells: &[u8]) -> Option<PhysRange> {
    let (start, size) = cells.split_at_checked(8)?;
    PhysRange::new(PhysAddr::new(be(start)?), be(size)?)
}

/// One or two cells as a number.
fn be(cells: &[u8]) -> Option<u64> {
    if let Ok(one) = cells.try_into() {
        return Some(u32::from_be_bytes(one).into());
    }
    Some(u64::from_be_bytes(cells.try_into().ok()?))
}

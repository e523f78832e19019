//! Flattened device trees that a predecessor left.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use kho_abi::fdt::COMPATIBLE;
use kho_hal::{FrozenMem, PhysAddr};
use zerocopy::big_endian::U32;

use crate::incoming::error::FdtError;
use crate::incoming::{Fault, read};
use crate::tokens::MAGIC;

/// The checked tree at `addr`, which has at most `max` bytes.
pub(crate) fn tree<M: FrozenMem>(mem: &M, addr: PhysAddr, max: u64) -> Result<Fdt<'_>, Fault> {
    let (_, len) = magic_and_size_within(mem, addr, max)?;
    parse(mem.bytes(addr, len as usize)?, addr)
}

/// Bytes that are looked at before a tree's size is known.
pub(crate) const MIN_SIZE: u64 = 8;

/// The first two words of the header of the tree at `addr`. The size is at least theirs.
pub(crate) fn magic_and_size<M: FrozenMem>(mem: &M, addr: PhysAddr) -> Result<(u32, u32), Fault> {
    let [magic, size]: &[U32; 2] = read::object(mem, addr)?;
    Ok((magic.get(), size.get().max(8)))
}

/// The same of a tree that has at most `max` bytes; no more are looked at.
pub(crate) fn magic_and_size_within<M: FrozenMem>(
    mem: &M,
    addr: PhysAddr,
    max: u64,
) -> Result<(u32, u32), Fault> {
    let count = |found| Fault::Count {
        at: addr,
        found,
        max,
    };
    if max < MIN_SIZE {
        return Err(count(MIN_SIZE));
    }
    let (magic, size) = magic_and_size(mem, addr)?;
    if u64::from(size) > max {
        return Err(count(size.into()));
    }
    Ok((magic, size))
}

/// The size of a blob that has none recorded, and so must be a tree.
pub(crate) fn blob_size<M: FrozenMem>(mem: &M, addr: PhysAddr) -> Result<u64, Fault> {
    match magic_and_size(mem, addr)? {
        (MAGIC, size) => Ok(size.into()),
        _ => Err(Fault::NoSize { at: addr }),
    }
}

/// The checked tree in `bytes`, which were read at `addr`.
pub(crate) fn parse(bytes: &[u8], addr: PhysAddr) -> Result<Fdt<'_>, Fault> {
    Fdt::new(bytes).map_err(|cause| Fault::Fdt {
        at: addr,
        cause: FdtError::strict(cause),
    })
}

/// The child of `node` with exactly this name.
pub(crate) fn child<'a>(node: FdtNode<'a>, name: &str) -> Option<FdtNode<'a>> {
    node.children().find(|child| child.name() == name)
}

/// The value of the property `name` of `node`.
pub(crate) fn property<'a>(node: FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    let property = node.properties().find(|property| property.name() == name)?;
    property.value_as().ok()
}

/// The value of the property `name` of `node` as a native u64.
pub(crate) fn number(node: FdtNode<'_>, name: &str) -> Option<u64> {
    let value = property(node, name)?;
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

/// Whether one of the strings of the property `compatible` of `node` is `text`.
pub(crate) fn is_compatible(node: FdtNode<'_>, text: &str) -> bool {
    property(node, COMPATIBLE).is_some_and(|value| has_string(value, text))
}

/// Whether `text` is one of the strings, each with its NUL, that `value` consists of.
pub(crate) fn has_string(value: &[u8], text: &str) -> bool {
    let Some((&0, strings)) = value.split_last() else {
        return false;
    };
    strings
        .split(|&byte| byte == 0)
        .any(|string| string == text.as_bytes())
}

//! Flattened device trees that a predecessor left.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use kho_abi::fdt::COMPATIBLE;
use kho_hal::{FrozenMem, PhysAddr};
use zerocopy::big_endian::U32;

use crate::incoming::error::FdtError;
use crate::incoming::places::Ram;
use crate::incoming::{Fault, read};
use crate::tokens::MAGIC;

/// The checked tree at `addr`, which has at most `max` bytes.
pub(crate) fn tree<'a, M: FrozenMem>(
    mem: &'a M,
    ram: &Ram<'_>,
    addr: PhysAddr,
    max: u64,
) -> Result<Fdt<'a>, Fault> {
    // What is not RAM may be registers: it is not read at all.
    ram.range(addr, MIN_SIZE)?;
    let (_, len) = magic_and_size(mem, addr, max)?;
    if u64::from(len) > max {
        return Err(Fault::Count {
            at: addr,
            found: len.into(),
            max,
        });
    }
    ram.range(addr, len.into())?;
    parse(mem.bytes(addr, len as usize)?, addr)
}

/// Bytes that are looked at before a tree's size is known.
const MIN_SIZE: u64 = 8;

/// The first two words of the header of the tree at `addr`, which has at most `max` bytes. The size is
/// at least theirs.
pub(crate) fn magic_and_size<M: FrozenMem>(
    mem: &M,
    addr: PhysAddr,
    max: u64,
) -> Result<(u32, u32), Fault> {
    if max < MIN_SIZE {
        return Err(Fault::Count {
            at: addr,
            found: MIN_SIZE,
            max,
        });
    }
    let [magic, size]: &[U32; 2] = read::object(mem, addr)?;
    Ok((magic.get(), size.get().max(8)))
}

/// The size of a blob that has none recorded, and so must be a tree, which starts at a multiple of 8:
/// what is read is on one page.
pub(crate) fn blob_size<M: FrozenMem>(mem: &M, addr: PhysAddr) -> Result<u64, Fault> {
    if !addr.is_aligned_to(MIN_SIZE) {
        return Err(Fault::Misaligned { addr });
    }
    match magic_and_size(mem, addr, u64::MAX)? {
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

//! Writing the root description.

use alloc::string::String;
use alloc::vec::Vec;

use kho_abi::NameError;
use kho_abi::fdt::{COMPATIBLE, Generation, MAX_NODE_NAME, PRESERVED_MEMORY_MAP};
use kho_hal::{PhysAddr, PhysRange};
use vm_fdt::FdtWriter;

use crate::OutgoingError;
use crate::outgoing::generation::describe_blob;

/// A sub-blob to describe.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) name: String,
    pub(crate) range: PhysRange,
}

/// The root FDT of the newest generation. Nodes come in the reverse order of `blobs` and sizes before addresses, as Linux
/// writes them.
pub(crate) fn write(map: PhysAddr, blobs: &[Blob]) -> Result<Vec<u8>, OutgoingError> {
    tree(|fdt| {
        fdt.property_string(COMPATIBLE, Generation::V4.compatible())?;
        fdt.property(PRESERVED_MEMORY_MAP, &map.as_u64().to_le_bytes())?;
        for blob in blobs.iter().rev() {
            let node = fdt.begin_node(&blob.name)?;
            describe_blob(fdt, Generation::V4, blob.range)?;
            fdt.end_node(node)?;
        }
        Ok(())
    })
}

/// A flattened device tree whose root `fill` fills.
pub(crate) fn tree(
    fill: impl FnOnce(&mut FdtWriter) -> Result<(), vm_fdt::Error>,
) -> Result<Vec<u8>, OutgoingError> {
    let write = || {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fill(&mut fdt)?;
        fdt.end_node(root)?;
        fdt.finish()
    };
    write().map_err(|error| match error {
        vm_fdt::Error::InvalidNodeName | vm_fdt::Error::InvalidPropertyName => {
            OutgoingError::Name(NameError { max: MAX_NODE_NAME })
        }
        vm_fdt::Error::NodeDepthTooLarge => OutgoingError::TooMany { max: MAX_DEPTH },
        // Nodes are closed in order, so what is left is a tree of over 4 GiB.
        _ => OutgoingError::TooMany {
            max: u32::MAX.into(),
        },
    })
}

/// Deepest nesting that the writer can take.
const MAX_DEPTH: u64 = 64;

/// Whether a node can have this name: what device trees allow, without a unit address.
pub(crate) fn check_name(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b",._+-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NODE_NAME || !name.bytes().all(allowed) {
        return Err(NameError { max: MAX_NODE_NAME });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_31_bytes() {
        let refused = Err(NameError { max: 31 });
        for (length, expected) in [
            (0, refused),
            (1, Ok(())),
            (31, Ok(())),
            (32, refused),
            (33, refused),
        ] {
            assert_eq!(check_name(&"n".repeat(length)), expected, "{length}");
        }
    }

    #[test]
    fn what_the_writer_refuses_has_a_name() {
        let name = OutgoingError::Name(NameError { max: 31 });
        let node = tree(|fdt| fdt.begin_node("a node").map(drop));
        assert_eq!(node, Err(name));
        let property = tree(|fdt| fdt.property_u32("a property", 1));
        assert_eq!(property, Err(name));
        // The root is one.
        let nested = |levels| {
            tree(|fdt| {
                let nodes = (1..levels).map(|_| fdt.begin_node("n"));
                let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
                nodes
                    .into_iter()
                    .rev()
                    .try_for_each(|node| fdt.end_node(node))
            })
        };
        assert!(nested(64).is_ok());
        let too_many = OutgoingError::TooMany { max: 64 };
        assert_eq!(nested(65), Err(too_many));
    }
}

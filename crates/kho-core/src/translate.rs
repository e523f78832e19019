//! Translating a handover from one generation of the format into another.
//!
//! The folios stay where they are; only the map and the description are written anew. Sub-blobs
//! keep their address and their bytes. Generations that keep users' data inline get a copy of each
//! sub-blob's tree instead of its address, and from inline data a sub-blob is made.
//!
//! Nothing is lost: what the other generation cannot express is refused.

use alloc::vec::Vec;
use core::fmt;

use dtoolkit::Node;
use kho_abi::fdt::Generation;
use kho_hal::{FrozenMem, Order, PageAlloc, PhysAddr, PhysMem, PhysRange};

use crate::incoming::{Fault, Folio, Incoming, Ram, fdt};
use crate::outgoing::generation::{Content, Writer};
use crate::{BootData, OutgoingError};

/// Why a handover was not translated. Nothing was written, or it was freed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TranslateError {
    /// The new description could not be written.
    Outgoing(OutgoingError),
    /// A sub-blob would not arrive as it is.
    Lossy {
        /// The sub-blob.
        blob: PhysRange,
        /// What would be lost.
        reason: Loss,
    },
}

/// What a generation cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// The blob is no flattened device tree, and the generation has only those.
    NotATree,
    /// The blob is longer than the tree in it, and the generation records no size.
    Size,
    /// The blob's tree reserves memory, and an inline node cannot.
    Reservations,
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outgoing(cause) => cause.fmt(f),
            Self::Lossy { blob, reason } => write!(f, "the sub-blob at {blob} {reason}"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotATree => "is no device tree, which is all that this generation can carry",
            Self::Size => "has a size that this generation cannot record",
            Self::Reservations => "reserves memory, which an inline node cannot",
        })
    }
}

impl core::error::Error for TranslateError {}

impl From<OutgoingError> for TranslateError {
    fn from(cause: OutgoingError) -> Self {
        Self::Outgoing(cause)
    }
}

/// A handover in another generation.
#[derive(Clone, Debug)]
pub struct Translated {
    /// What the successor must be told. The list of scratch areas is the one that was there.
    pub boot: BootData,
    /// The pages of the new description, its map and new sub-blobs. The map's pages are not
    /// preserved by it and must be left alone until the successor has read them. To drop the
    /// translation, free all of them.
    pub pages: Vec<(PhysAddr, Order)>,
}

/// Writes the handover `incoming` once more, in generation `to`. The pages come from `alloc` and
/// are written through `mem`; they lie apart from everything in `incoming` and its scratch.
///
/// The old description is not preserved by the new one; the old map never was.
///
/// # Errors
/// [`TranslateError`]; what was allocated is freed.
pub fn translate<M: FrozenMem, D: PhysMem, A: PageAlloc>(
    incoming: &Incoming<'_, M>,
    to: Generation,
    mem: &D,
    alloc: &A,
) -> Result<Translated, TranslateError> {
    let mut contents = Vec::new();
    for node in incoming.root().inline_nodes() {
        contents.push((node.name(), Content::Node(node)));
    }
    for blob in incoming.root().try_subtrees(incoming.mem()) {
        let blob = blob.map_err(OutgoingError::from)?;
        let lossy = |reason| TranslateError::Lossy {
            blob: blob.range,
            reason,
        };
        let content = if to.has_radix_tree() {
            Content::Blob(blob.range)
        } else {
            let tree = fdt::tree(
                incoming.mem(),
                &Ram::Unknown,
                blob.range.start(),
                blob.range.size(),
            );
            let tree = tree.map_err(|_| lossy(Loss::NotATree))?;
            if !to.is_nested() {
                if tree.data().len() as u64 != blob.range.size() {
                    return Err(lossy(Loss::Size));
                }
                Content::Blob(blob.range)
            } else if tree.memory_reservations().next().is_some() {
                return Err(lossy(Loss::Reservations));
            } else {
                Content::Node(tree.root())
            }
        };
        contents.push((blob.name, content));
    }
    let old = incoming.boot_data();
    // The folio of the old description goes with it, unless a sub-blob lies there as well.
    let order = incoming.map().order_of(old.fdt_addr);
    let replaced = order.map_err(OutgoingError::from)?.map(|order| Folio {
        addr: old.fdt_addr,
        order,
    });
    let replaced = replaced.filter(|folio| {
        let folio = folio.range(incoming.page_size());
        incoming.subtrees().all(|blob| !blob.range.overlaps(folio))
    });
    let written = Writer {
        mem,
        alloc,
        page: incoming.page_size(),
        generation: to,
        source: incoming.map(),
        replaced,
        added: Vec::new(),
        contents,
        pages: Vec::new(),
    }
    .write()?;
    let boot = BootData {
        fdt_addr: written.fdt,
        fdt_size: written.fdt_size,
        ..old
    };
    Ok(Translated {
        boot,
        pages: written.pages,
    })
}

/// The map was checked, so this is memory that is suddenly not there.
impl From<Fault> for OutgoingError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Memory(cause) => Self::Memory(cause),
            _ => Self::BadRange {
                range: PhysRange::default(),
            },
        }
    }
}

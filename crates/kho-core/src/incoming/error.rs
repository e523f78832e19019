//! What can be wrong with a predecessor's handover: theirs to answer for, ours to refuse.

use core::fmt;

use dtoolkit::error::FdtParseError;
use kho_hal::{MemError, PhysAddr, PhysRange};

use crate::incoming::places::Unfit;

/// A handover, or a part of it, is refused: which part, and why.
///
/// The cause names the offending address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingError {
    /// What was being checked.
    pub part: Part,
    /// What is wrong with it.
    pub fault: Fault,
}

/// A part of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The x86 `setup_data` chain or the arm64 `/chosen` node.
    Boot,
    /// The array of scratch areas.
    Scratch,
    /// The root description.
    RootFdt,
    /// The map of preserved memory.
    Map,
    /// A sub-blob as such: where it lies.
    Subtree,
    /// The sub-blob `memblock`.
    ReserveMem,
    /// The sub-blob `LUO` and what it leads to.
    Luo,
    /// A preserved memory file.
    Memfd,
}

impl Part {
    /// The error that this part has this fault.
    pub(crate) fn is(self, fault: Fault) -> IncomingError {
        IncomingError { part: self, fault }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Memory that the description needs is not there.
    Memory(MemError),
    /// There is no handover: the boot data names none.
    NoHandover,
    /// An address that must be there is 0.
    Null {
        /// Where the address was read.
        at: PhysAddr,
    },
    /// An address is not aligned to a page, or not as its content demands.
    Misaligned {
        /// The address.
        addr: PhysAddr,
    },
    /// A range reaches beyond the address space or is no RAM.
    NotRam {
        /// First byte.
        addr: PhysAddr,
        /// Size in bytes.
        size: u64,
    },
    /// A range touches scratch, whose contents do not survive.
    InScratch {
        /// The range.
        range: PhysRange,
        /// The scratch area.
        scratch: PhysRange,
    },
    /// A range that must survive is not preserved.
    NotPreserved {
        /// The range.
        range: PhysRange,
    },
    /// The radix tree lacks a level, as those do that Linux before 7.1-rc6 made for 16 KiB pages.
    ShortTree {
        /// The root page.
        at: PhysAddr,
    },
    /// A bit of the radix tree is set that stands for no folio.
    NotAFolio {
        /// The root page of the tree.
        at: PhysAddr,
    },
    /// The workspace is too small to check this handover in reasonable time.
    Workspace {
        /// The number of words with which it is a matter of a few passes.
        words: u64,
    },
    /// Two things claim the same memory.
    Overlap {
        /// First address that is claimed twice.
        addr: PhysAddr,
    },
    /// A page is reached twice: a cycle, or two parents.
    ReachedTwice {
        /// The page.
        addr: PhysAddr,
    },
    /// A count or a length is beyond what is allowed or there.
    Count {
        /// Where it was read, or the start of what it counts.
        at: PhysAddr,
        /// The number found.
        found: u64,
        /// The largest number allowed.
        max: u64,
    },
    /// Two numbers that must agree do not.
    Mismatch {
        /// Where the first was read.
        at: PhysAddr,
        /// The number found.
        found: u64,
        /// The number it must be.
        expected: u64,
    },
    /// The flattened device tree is malformed.
    Fdt {
        /// Its address.
        at: PhysAddr,
        /// What its reader found.
        cause: FdtError,
    },
    /// The version string is none that is known.
    UnknownVersion {
        /// Where it was read.
        at: PhysAddr,
    },
    /// A property is missing, or has not the size that it must have.
    Property {
        /// Address of the flattened device tree.
        at: PhysAddr,
        /// The property.
        name: &'static str,
    },
    /// Two nodes, properties, sessions or objects have the same name, or two files the same token.
    Duplicate {
        /// The second one.
        at: PhysAddr,
    },
    /// A name has no end, is empty, or has bytes that are not allowed.
    Name {
        /// Where it was read.
        at: PhysAddr,
    },
    /// An entry of the root of the radix tree is in use that no address of this machine needs: the
    /// tree was made for another page size, or with too few levels, or is damaged.
    Geometry {
        /// The root page.
        at: PhysAddr,
        /// The entry.
        slot: usize,
    },
    /// The map has bitmaps of 512 bytes or of a page, and nothing says which: tell the reader.
    Ambiguous {
        /// The first chunk.
        at: PhysAddr,
    },
    /// The map cannot have bitmaps of a page, as the reader was told.
    NotPageBitmaps {
        /// The first chunk.
        at: PhysAddr,
    },
    /// A sub-blob has no size: none is recorded, and it is no flattened device tree.
    NoSize {
        /// The sub-blob.
        at: PhysAddr,
    },
    /// Entries that must ascend do not.
    Unsorted {
        /// The entry that is out of order.
        at: PhysAddr,
    },
    /// Flags are set that have no meaning.
    Flags {
        /// Where they were read.
        at: PhysAddr,
        /// All flags found.
        found: u64,
    },
}

/// What a reader of flattened device trees found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdtError(Cause);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Strict(FdtParseError),
    Loose { offset: usize, what: &'static str },
}

impl FdtError {
    pub(crate) fn strict(cause: FdtParseError) -> Self {
        Self(Cause::Strict(cause))
    }

    pub(crate) fn loose(offset: usize, what: &'static str) -> Self {
        Self(Cause::Loose { offset, what })
    }
}

impl fmt::Display for FdtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Strict(cause) => cause.fmt(f),
            Cause::Loose { offset, what } => write!(f, "{what} at offset {offset}"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "boot data",
            Self::Scratch => "scratch",
            Self::RootFdt => "root FDT",
            Self::Map => "map of preserved memory",
            Self::Subtree => "sub-blob",
            Self::ReserveMem => "reserve_mem",
            Self::Luo => "LUO",
            Self::Memfd => "memfd",
        })
    }
}

impl fmt::Display for IncomingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(cause) => cause.fmt(f),
            Self::NoHandover => f.write_str("there is no handover"),
            Self::Null { at } => write!(f, "the address at {at} is 0"),
            Self::Misaligned { addr } => write!(f, "{addr} is misaligned"),
            Self::NotRam { addr, size } => write!(f, "{size} bytes at {addr} are not all RAM"),
            Self::InScratch { range, scratch } => {
                write!(f, "{range} touches the scratch area {scratch}")
            }
            Self::NotPreserved { range } => write!(f, "{range} is not preserved"),
            Self::ShortTree { at } => write!(
                f,
                "the tree at {at} lacks a level, as Linux before 7.1-rc6 made them for 16 KiB pages"
            ),
            Self::NotAFolio { at } => {
                write!(
                    f,
                    "a bit of the tree at {at} is set that stands for no folio"
                )
            }
            Self::Workspace { words } => write!(f, "the check needs a workspace of {words} words"),
            Self::Overlap { addr } => write!(f, "{addr} is claimed twice"),
            Self::ReachedTwice { addr } => {
                write!(
                    f,
                    "the page at {addr} is reached twice: a cycle, or two parents"
                )
            }
            Self::Count { at, found, max } => {
                write!(f, "the count at {at} is {found}, at most {max} is possible")
            }
            Self::Mismatch {
                at,
                found,
                expected,
            } => write!(f, "the number at {at} is {found}, it must be {expected}"),
            Self::Fdt { at, cause } => write!(f, "the device tree at {at}: {cause}"),
            Self::UnknownVersion { at } => write!(f, "the version string at {at} is not known"),
            Self::Property { at, name } => {
                write!(
                    f,
                    "the device tree at {at}: {name} is missing or has a wrong size"
                )
            }
            Self::Duplicate { at } => write!(f, "the name or token at {at} occurs twice"),
            Self::Name { at } => write!(f, "the name at {at} is not a name"),
            Self::Geometry { at, slot } => write!(
                f,
                "entry {slot} of the tree's root at {at} is in use: wrong page size, \
                 a level too few, or damage"
            ),
            Self::Ambiguous { at } => write!(
                f,
                "the list of chunks at {at} is ambiguous: the size of its bitmaps must be told"
            ),
            Self::NotPageBitmaps { at } => {
                write!(
                    f,
                    "the list of chunks at {at} has bitmaps of 512 bytes, not of a page"
                )
            }
            Self::NoSize { at } => write!(f, "the blob at {at} has no size and is no device tree"),
            Self::Unsorted { at } => write!(f, "the entry at {at} is out of order"),
            Self::Flags { at, found } => write!(f, "unknown flags {found:#x} at {at}"),
        }
    }
}

impl core::error::Error for IncomingError {}

/// What is found while all claims are compared has no part of its own.
impl From<Unfit> for IncomingError {
    fn from(unfit: Unfit) -> Self {
        Part::Map.is(unfit.into())
    }
}

impl From<MemError> for Fault {
    fn from(cause: MemError) -> Self {
        Self::Memory(cause)
    }
}

//! What can go wrong while a handover is being made: ours to fix.
//!
//! Trouble with what a predecessor left is [`crate::incoming::IncomingError`].

use core::fmt;

use kho_abi::NameError;
use kho_abi::radix::KeyError;
use kho_hal::{AllocError, MemError, Order, PhysAddr, PhysRange};

use crate::runs::Wraps;

/// Why an outgoing operation was not done. Nothing is half-done: the state is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutgoingError {
    /// The memory backend does not lend memory that the allocator or the caller gave.
    Memory(MemError),
    /// No free memory.
    Alloc(AllocError),
    /// No room on the heap.
    NoMemory,
    /// The folio cannot be expressed.
    Key(KeyError),
    /// The memory touches scratch, which the successor overwrites.
    InScratch {
        /// What was to be preserved.
        range: PhysRange,
        /// The scratch area it touches.
        scratch: PhysRange,
    },
    /// The folio is preserved already.
    AlreadyPreserved {
        /// Its address.
        addr: PhysAddr,
        /// Its order.
        order: Order,
    },
    /// The folio is not preserved.
    NotPreserved {
        /// Its address.
        addr: PhysAddr,
        /// Its order.
        order: Order,
    },
    /// The range is empty or its bounds are not page-aligned.
    BadRange {
        /// The range.
        range: PhysRange,
    },
    /// A name is empty, too long, or has bytes that are not allowed.
    Name(NameError),
    /// Something with this name, token or identity exists.
    Exists,
    /// Nothing with this name, token or identity exists.
    Unknown,
    /// The description does not fit its page.
    Full {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// More than the format can hold; carries its limit.
    TooMany {
        /// The largest number allowed.
        max: u64,
    },
    /// No handler, or no file-lifecycle-bound object, goes by the name that a file asks for.
    NoHandler,
    /// The file is preserved already, in this session or another; or the state tree or LUO is frozen.
    Busy,
    /// Scratch areas overlap, or one does not fit the address space.
    BadScratch {
        /// The offending area's start.
        addr: PhysAddr,
    },
    /// A page is preserved in two folios of different orders.
    Overlap {
        /// The first byte of the second.
        addr: PhysAddr,
    },
    /// The generation has no sub-blobs, and there is one.
    Nested,
    /// A callback of a file or an object refused; carries its number.
    Refused(i32),
}

impl fmt::Display for OutgoingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(cause) => cause.fmt(f),
            Self::Alloc(cause) => cause.fmt(f),
            Self::NoMemory => f.write_str("no room on the heap"),
            Self::Key(cause) => cause.fmt(f),
            Self::InScratch { range, scratch } => {
                write!(f, "{range} touches the scratch area {scratch}")
            }
            Self::AlreadyPreserved { addr, order } => {
                write!(f, "{addr} is preserved already with order {order}")
            }
            Self::NotPreserved { addr, order } => {
                write!(f, "{addr} is not preserved with order {order}")
            }
            Self::BadRange { range } => write!(f, "{range} is empty or not page-aligned"),
            Self::Name(cause) => cause.fmt(f),
            Self::Exists => f.write_str("the name or token is taken"),
            Self::Unknown => f.write_str("there is nothing with this name or token"),
            Self::Full { needed, available } => {
                write!(
                    f,
                    "the description needs {needed} bytes and has {available}"
                )
            }
            Self::TooMany { max } => write!(f, "the format allows {max} at most"),
            Self::NoHandler => f.write_str("no handler goes by this name"),
            Self::Busy => f.write_str("the file is preserved already, or all is frozen"),
            Self::BadScratch { addr } => {
                write!(
                    f,
                    "the scratch area at {addr} overlaps another or does not fit"
                )
            }
            Self::Overlap { addr } => write!(f, "{addr} is preserved under two orders"),
            Self::Nested => f.write_str("the generation has no sub-blobs, and there is one"),
            Self::Refused(code) => write!(f, "a callback refused with {code}"),
        }
    }
}

impl core::error::Error for OutgoingError {}

macro_rules! from {
    ($($variant:ident($cause:ty)),*) => {$(
        impl From<$cause> for OutgoingError {
            fn from(cause: $cause) -> Self {
                Self::$variant(cause)
            }
        }
    )*};
}
from!(
    Memory(MemError),
    Alloc(AllocError),
    Key(KeyError),
    Name(NameError)
);

impl From<Wraps> for OutgoingError {
    fn from(Wraps(addr): Wraps) -> Self {
        let range = PhysRange::new(addr, 0).unwrap_or_default();
        Self::BadRange { range }
    }
}

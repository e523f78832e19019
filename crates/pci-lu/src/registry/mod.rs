//! Who is preserved: the outgoing and the incoming side of each function, and the guard over both.
//!
//! Preserving a function preserves everything upstream of it, because clearing Bus Master on a
//! bridge stops all DMA from below; each of them counts how many need it. The record of it is a
//! file-lifecycle-bound object of LUO, of the [second form](kho_abi::pci::v2): it comes with the
//! first file that names it and goes with the last.
//!
//! | side | call | effect |
//! | --- | --- | --- |
//! | outgoing | [`Registry::preserve`] | the function and all above it are prepared and in the record |
//! | outgoing | [`Registry::unpreserve`] | takes that back |
//! | outgoing | [`Registry::freeze`] | writes are judged, nobody joins or leaves; undone when dropped |
//! | incoming | [`Registry::receive`] | takes the checked record over |
//! | incoming | [`Registry::set_up`] | a function was found by enumeration: if it is in the record, writes are judged |
//! | incoming | [`Registry::finish`] | its owner has it; what nobody else below needs is free |
//!
//! The two sides are independent: a function can be incoming and outgoing at once.
//!
//! # Order
//! Preserving goes from the function to the root, undoing strictly in reverse. FREEZE calls what is
//! farthest from the root first, so a virtual function before its physical one before the bridge. The
//! step that fails is not undone, those before it are; undoing never fails.
//!
//! # Cost
//! Each call takes time logarithmic in the number of functions for each step of the path.
//!
//! # Source
//! The series "PCI: liveupdate" for Linux, later posting. It refuses virtual functions always; here
//! one is preserved with its physical function above it.

mod incoming;
mod outgoing;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use kho_core::OutgoingError;
use kho_hal::{PciConfigAccess, Sbdf};
use spin::mutex::SpinMutex;

use crate::guard::{GuardError, Guarded};
use crate::table::Kind;

pub use incoming::FinishError;
pub use outgoing::{Frozen, Object};

/// What enumeration knows of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is to the update.
    pub kind: Kind,
    /// Whether it is a virtual function.
    pub is_virtual: bool,
    /// Whether its ACS can only be enabled by means that are the device's own.
    pub acs_quirk: bool,
    /// What it depends on: the bridge above it, for a virtual function the physical one; `None` on a
    /// root bus.
    pub upstream: Option<Sbdf>,
}

/// What enumeration found.
pub trait Topology {
    /// The function; `None` if there is none.
    fn device(&self, function: Sbdf) -> Option<Device>;
}

impl<F: Fn(Sbdf) -> Option<Device>> Topology for F {
    fn device(&self, function: Sbdf) -> Option<Device> {
        self(function)
    }
}

/// Why a function was not preserved or unpreserved: ours to fix. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PreserveError {
    /// Enumeration does not know the function, or it is not preserved.
    Unknown {
        /// The function.
        function: Sbdf,
    },
    /// What the function depends on never ends.
    Path {
        /// The function.
        function: Sbdf,
    },
    /// A virtual function without a physical one above it.
    VirtualAlone {
        /// The function.
        function: Sbdf,
    },
    /// Enabling its ACS would need what the successor may not know.
    AcsQuirk {
        /// The function.
        function: Sbdf,
    },
    /// It is preserved already, for its own sake.
    Busy {
        /// The function.
        function: Sbdf,
    },
    /// The machine is frozen.
    Frozen,
    /// No preserved file needs the record, so there is none.
    NoFile,
    /// More functions below one than can be counted: 65535.
    TooMany {
        /// The one above.
        function: Sbdf,
    },
    /// It cannot be guarded, or it uses what cannot be preserved.
    Guard(GuardError),
    /// The record cannot be written, or has no room.
    Record(OutgoingError),
}

impl fmt::Display for PreserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { function } => write!(f, "{function} is not known"),
            Self::Path { function } => write!(f, "{function} depends on itself"),
            Self::VirtualAlone { function } => {
                write!(f, "{function} has no physical function above it")
            }
            Self::AcsQuirk { function } => write!(f, "{function} needs a quirk to enable ACS"),
            Self::Busy { function } => write!(f, "{function} is preserved already"),
            Self::Frozen => f.write_str("the machine is frozen"),
            Self::NoFile => f.write_str("no preserved file needs the record"),
            Self::TooMany { function } => write!(f, "too many functions below {function}"),
            Self::Guard(cause) => cause.fmt(f),
            Self::Record(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for PreserveError {}

impl From<GuardError> for PreserveError {
    fn from(cause: GuardError) -> Self {
        Self::Guard(cause)
    }
}

impl From<OutgoingError> for PreserveError {
    fn from(cause: OutgoingError) -> Self {
        Self::Record(cause)
    }
}

/// The functions of one machine. See the [module](self). A clone is the same registry.
#[derive(Debug)]
pub struct Registry<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Registry<C> {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared }
    }
}

#[derive(Debug)]
struct Shared<C> {
    guard: Guarded<C>,
    outgoing: SpinMutex<outgoing::Side>,
    incoming: SpinMutex<incoming::Side>,
}

impl<C: PciConfigAccess> Registry<C> {
    /// Nothing is preserved. `config` is what lies below the guard.
    pub fn new(config: C) -> Self {
        let shared = Arc::new(Shared {
            guard: Guarded::new(config),
            outgoing: SpinMutex::default(),
            incoming: SpinMutex::default(),
        });
        Self { shared }
    }

    /// Configuration space under the write policy: what everybody uses.
    pub fn config(&self) -> &Guarded<C> {
        &self.shared.guard
    }
}

/// The function and all that it depends on, up to the root.
fn path(topology: &impl Topology, function: Sbdf) -> Result<Vec<(Sbdf, Device)>, PreserveError> {
    let mut path: Vec<(Sbdf, Device)> = Vec::new();
    let mut next = Some(function);
    while let Some(here) = next {
        let device = topology
            .device(here)
            .ok_or(PreserveError::Unknown { function: here })?;
        // A bridge for each bus, a physical and a virtual function.
        if path.len() > 257 {
            return Err(PreserveError::Path { function });
        }
        if let Some(&(below, Device { is_virtual, .. })) = path.last() {
            let fits = match device.kind {
                Kind::Physical => is_virtual,
                Kind::Bridge => !is_virtual,
                Kind::Endpoint | Kind::PeerEndpoint => false,
            };
            if !fits {
                return Err(match is_virtual {
                    true => PreserveError::VirtualAlone { function: below },
                    false => PreserveError::Path { function: below },
                });
            }
        }
        path.push((here, device));
        next = device.upstream;
    }
    match path.last() {
        Some(&(function, Device { is_virtual, .. })) if is_virtual => {
            Err(PreserveError::VirtualAlone { function })
        }
        _ => Ok(path),
    }
}

//! Who is preserved: the outgoing and the incoming side of each function, and the guard over both.
//!
//! Preserving a function preserves everything upstream of it, because clearing Bus Master on a
//! bridge stops all DMA from below; each of them counts how many need it. The record of it is a
//! file-lifecycle-bound object of LUO: it comes with the first file that names it, is written as LUO
//! freezes, and goes with the last file. The two sides of a function are independent: it can be
//! incoming and outgoing at once.
//!
//! # States
//! | state | is the type | event | call |
//! | --- | --- | --- | --- |
//! | NORMAL | [`Registry`] | PREPARE | [`Registry::preserve`], for each function |
//! | PREPARED | [`Registry`], with functions | CANCEL | [`Registry::unpreserve`] |
//! | | | FREEZE | [`Outgoing::finalize`] with LUO among the participants |
//! | FROZEN | [`Finalized`] | CANCEL | dropping it, [`Finalized::abort`] |
//! | | | the jump | [`Finalized::hand_over`] |
//! | received | [`Received`] | enumeration | [`Registry::set_up`], then [`Received::verify`] |
//! | UPDATED | [`Updated`] | FINISH | [`Updated::finish`], for each function; [`Updated::close`] |
//!
//! What a state does not allow is not there to be called, or is an error where it depends on data.
//! While the machine is frozen, the handover is borrowed, and with it the tracker that
//! preserving takes:
//!
//! ```compile_fail,E0502
//! use kho_core::outgoing::{Outgoing, OutgoingError, Participants};
//! use kho_core::Tracker;
//! use kho_hal::{PageAlloc, PciConfigAccess, PhysAddr, PhysMem, Sbdf};
//! use kho_pci_lu::{Registry, Topology};
//!
//! fn join_while_frozen<'o, 's, M: PhysMem, A: PageAlloc, C: PciConfigAccess>(
//!     outgoing: &'o mut Outgoing<'s, M, A>,
//!     participants: Participants<'o, Tracker<'s, M, A>>,
//!     registry: &Registry<C>,
//!     topology: &impl Topology,
//!     late: Sbdf,
//! ) -> Result<(), OutgoingError> {
//!     let frozen = outgoing.finalize(PhysAddr::new(0), participants)?;
//!     let _ = registry.preserve(outgoing.tracker(), topology, late);
//!     frozen.abort();
//!     Ok(())
//! }
//! ```
//!
//! A handover that is not frozen has nothing to jump with, and jumping ends FROZEN:
//!
//! ```compile_fail,E0599
//! # use kho_core::outgoing::Outgoing;
//! # use kho_hal::{PageAlloc, PhysMem};
//! fn jump_while_prepared<M: PhysMem, A: PageAlloc>(outgoing: Outgoing<'_, M, A>) {
//!     outgoing.hand_over();
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use kho_core::outgoing::Finalized;
//! # use kho_hal::PageAlloc;
//! fn cancel_after_the_jump<T, A: PageAlloc>(frozen: Finalized<'_, T, A>) {
//!     let boot = frozen.hand_over();
//!     frozen.abort();
//! }
//! ```
//!
//! Nothing is finished that was not received and verified, and nothing after the update is over:
//!
//! ```compile_fail,E0599
//! # use kho_hal::{PciConfigAccess, Sbdf};
//! # use kho_pci_lu::Registry;
//! fn finish_in_normal<C: PciConfigAccess>(normal: &Registry<C>, f: Sbdf) {
//!     let _ = normal.finish(f);
//! }
//! ```
//!
//! ```compile_fail,E0599
//! # use kho_hal::{PciConfigAccess, Sbdf};
//! # use kho_pci_lu::Received;
//! fn finish_unverified<C: PciConfigAccess>(received: &Received<C>, f: Sbdf) {
//!     let _ = received.finish(f);
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use kho_hal::{PciConfigAccess, Sbdf};
//! # use kho_pci_lu::Updated;
//! fn finish_after_the_end<C: PciConfigAccess>(updated: Updated<C>, f: Sbdf) {
//!     let _ = updated.close();
//!     let _ = updated.finish(f);
//! }
//! ```
//!
//! Nor can a function be let go without the registry, past what is below it:
//!
//! ```compile_fail,E0599
//! # use kho_hal::{PciConfigAccess, Sbdf};
//! # use kho_pci_lu::Registry;
//! fn finish_a_bridge<C: PciConfigAccess>(registry: &Registry<C>, bridge: Sbdf) {
//!     let _ = registry.config().finish(bridge);
//! }
//! ```
//!
//! [`Outgoing::finalize`]: kho_core::outgoing::Outgoing::finalize
//! [`Finalized`]: kho_core::outgoing::Finalized
//! [`Finalized::abort`]: kho_core::outgoing::Finalized::abort
//! [`Finalized::hand_over`]: kho_core::outgoing::Finalized::hand_over
//!
//! # Order
//! Preserving goes from the function to the root, undoing strictly in reverse. FREEZE calls what is
//! farthest from the root first, so a virtual function before its physical one before the bridge. The
//! step that fails is not undone, those before it are; undoing never fails.
//!
//! # Cost
//! Each call takes time logarithmic in the number of functions for each step of the path; FREEZE and
//! [`Received::verify`] take that for each function.
//!
//! # Source
//! The series "PCI: liveupdate" for Linux, both postings. It refuses virtual functions always; here
//! one is preserved with its physical function above it.

mod config;
mod incoming;
mod object;
mod outgoing;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use kho_core::OutgoingError;
use kho_hal::sync::SpinMutex;
use kho_hal::{PciConfigAccess, Sbdf};

use crate::bars::{BarError, Bars};
use crate::guard::{GuardError, Guarded};
use crate::table::Kind;

pub use config::Config;
pub use incoming::{BusNumbers, Finished, Received, Refused, UpdateError, Updated};
pub use object::{FactsObject, Object, OutgoingForm};
pub use outgoing::FREEZE_REFUSED;

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
    /// The sizes of its BARs, if they are known: the successor must not ask for them.
    pub bars: Option<Bars>,
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
    /// What the function depends on never ends, or is not what it was when the function was preserved.
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
    /// A physical function asked for itself as one whose own DMA is not preserved:
    /// [`Kind::PeerPhysical`] is one whose DMA is.
    Physical {
        /// The function.
        function: Sbdf,
    },
    /// The first form of the record has no function with SR-IOV.
    Sriov {
        /// The function.
        function: Sbdf,
    },
    /// More functions below one than can be counted: 65535.
    TooMany {
        /// The one above.
        function: Sbdf,
    },
    /// It cannot be guarded, or it uses what cannot be preserved.
    Guard(GuardError),
    /// The sizes of its BARs are not what they were: [`Registry::set_bars`] says the new ones.
    Bars(BarError),
    /// The record cannot be written, or has no room.
    Record(OutgoingError),
}

impl fmt::Display for PreserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { function } => write!(f, "{function} is not known"),
            Self::Path { function } => write!(
                f,
                "{function} depends on itself, or on something else by now"
            ),
            Self::VirtualAlone { function } => {
                write!(f, "{function} has no physical function above it")
            }
            Self::AcsQuirk { function } => write!(f, "{function} needs a quirk to enable ACS"),
            Self::Busy { function } => write!(f, "{function} is preserved already"),
            Self::Frozen => f.write_str("the machine is frozen"),
            Self::NoFile => f.write_str("no preserved file needs the record"),
            Self::Physical { function } => {
                write!(f, "{function} is there only for its virtual functions")
            }
            Self::Sriov { function } => {
                write!(f, "{function} has SR-IOV, which the record cannot name")
            }
            Self::TooMany { function } => write!(f, "too many functions below {function}"),
            Self::Guard(cause) => cause.fmt(f),
            Self::Bars(cause) => cause.fmt(f),
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

impl From<BarError> for PreserveError {
    fn from(cause: BarError) -> Self {
        Self::Bars(cause)
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
                Kind::Physical | Kind::PeerPhysical => is_virtual,
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

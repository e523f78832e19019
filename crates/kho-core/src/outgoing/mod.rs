//! Making a handover.
//!
//! | | what for |
//! | --- | --- |
//! | [`Tracker`] | which folios and pages survive; no heap, no lock |
//! | [`ScratchSizes`], [`find_hole`] | where the successor starts |
//! | [`vmalloc`] | lists of pages of a virtually contiguous area |
//! | [`Outgoing`], [`Finalized`] | sub-blobs and the root description (`alloc`) |
//! | [`BlockSet`] | linked pages of fixed-size entries (`alloc`) |
//! | [`metadata`], [`reserve_mem`], [`memfd`], [`luo`] | the sub-blobs that Linux knows (`alloc`) |

#[cfg(feature = "alloc")]
mod block;
#[cfg(feature = "alloc")]
mod chunks;
mod cursor;
#[cfg(feature = "alloc")]
mod description;
mod error;
#[cfg(feature = "alloc")]
pub(crate) mod generation;
#[cfg(feature = "alloc")]
mod handover;
#[cfg(feature = "alloc")]
pub mod luo;
#[cfg(feature = "alloc")]
pub mod memfd;
#[cfg(feature = "alloc")]
pub mod metadata;
#[cfg(feature = "alloc")]
mod page;
#[cfg(feature = "alloc")]
pub mod reserve_mem;
mod scratch;
mod shortcuts;
mod split;
#[cfg(feature = "alloc")]
mod state;
mod tracker;
pub mod vmalloc;

#[cfg(feature = "alloc")]
pub use block::BlockSet;
pub use error::OutgoingError;
#[cfg(feature = "alloc")]
pub use handover::{Finalized, Outgoing, Participant, Participants};
pub use scratch::{
    Placement, Reserved, ScratchSizes, ScratchSyntax, find_hole, write_scratch_array,
};
pub use split::{Nodes, OneNode};
#[cfg(feature = "alloc")]
pub use state::{Notifier, StateNode, StateTree, Value};
pub use tracker::Tracker;

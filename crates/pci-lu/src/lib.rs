//! PCI devices across a live update.
//!
//! A program is replaced by its successor while devices keep running: they do DMA through mappings
//! that the first program made. The second finds a record of these functions, takes them over as
//! they are, and until it has done so writes nothing to their configuration space that would stop
//! the DMA, send it elsewhere, or change the identity that the IOMMU knows.
//!
//! | module | holds |
//! | --- | --- |
//! | [`table`] | the write policy: one row a field, with class and reason |
//! | [`fields`] | where those fields are in one function |
//! | [`guard`] | configuration space with the policy applied (`alloc`) |
//! | [`registry`] | who is preserved, outgoing and incoming (`alloc`) |
//! | [`record`] | what the predecessor preserved: both serialized forms, checked |
//!
//! # Not supported
//! CXL, IDE (the enable bits of single streams are not looked at), CardBus. Giving an interrupt back that was lost in between, and the contents of a driver's own state.
//!
//! # Features
//! * `alloc`: what remembers functions on a heap. The record is read without one.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod fields;
#[cfg(feature = "alloc")]
pub mod guard;
pub mod record;
#[cfg(feature = "alloc")]
pub mod registry;
pub mod table;

pub use fields::{Field, FieldError, for_each_field};
#[cfg(feature = "alloc")]
pub use guard::{GuardError, Guarded, State};

pub use record::{Entry, Form, Record, RecordError};
#[cfg(feature = "alloc")]
pub use registry::{Device, FinishError, Frozen, PreserveError, Registry, Topology};
pub use table::{Class, Kind};

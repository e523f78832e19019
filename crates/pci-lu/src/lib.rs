//! PCI devices across a live update.
//!
//! A program is replaced by its successor while devices keep running: they do DMA through mappings
//! that the first program made. The second finds a record of these functions, takes them over as
//! they are, and until it has done so writes nothing to their configuration space that would stop
//! the DMA, send it elsewhere, or change the identity that the IOMMU knows.
//!
//! | module | holds |
//! | --- | --- |
//! | [`record`] | what the predecessor preserved: both serialized forms, checked |
//!
//! # Not supported
//! Giving an interrupt back that was lost in between, and the contents of a driver's own state.
//!
//! # Features
//! * `alloc`: what remembers functions on a heap. The record is read without one.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod record;

pub use record::{Entry, Form, Record, RecordError};

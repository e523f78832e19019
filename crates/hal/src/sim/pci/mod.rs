//! PCI functions that behave: registers with access types, resets, and changes of their own.
//!
//! | module | holds |
//! | --- | --- |
//! | `registers` | bytes with what a write does to each bit |
//! | `function` | one function: registers, and what some of them set off |
//! | `builder` | functions from parts: header, BARs, capabilities |
//! | `extended` | the same for extended capabilities |
//! | `dump` | functions from the text that `lspci -xxxx` prints |
//! | `bus` | many functions behind one [`crate::PciConfigAccess`], which counts and records |
//!
//! A narrow write stays narrow, a function that is gone reads as all ones, and nothing here keeps
//! time: a device that needs a while needs a number of reads.
//!
//! # Source
//! PCI Local Bus 3.0 and PCI Express Base 5.0, chapter 7, for access types and offsets.

mod builder;
mod bus;
mod dump;
mod extended;
mod function;
mod registers;

pub use self::bus::{Record, SimBus};
pub use self::dump::{DumpError, DumpedFunction, parse_dump};
pub use self::extended::SriovShape;
pub use self::function::{ResetKind, SimFunction};

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
//! | [`functions`] | what it knew of each function beside that, checked |
//! | [`bars`] | sizes of BARs, asked for or known |
//!
//! # Example
//! A function is frozen; what keeps its DMA running is written, what would stop it is not.
//!
//! ```
//! use kho_hal::sim::pci::{SimBus, SimFunction};
//! use kho_hal::{PciConfigAccess, Sbdf};
//! use kho_pci_lu::{Guarded, Kind};
//!
//! let bus = SimBus::new();
//! let drive = Sbdf::from_bdf(0, 0x0018);
//! bus.add(drive, SimFunction::endpoint(0x1af4, 0x1001).with_express(0));
//! let config = Guarded::new(bus);
//! config.write_u16(drive, 0x04, 0x0006)?; // Memory Space, Bus Master
//! config.prepare(drive, Kind::Endpoint)?;
//! config.freeze(drive)?;
//!
//! config.write_u16(drive, 0x04, 0x0406)?; // INTx Disable
//! let refused = config.write_u16(drive, 0x04, 0x0400).unwrap_err();
//! assert_eq!(
//!     refused.to_string(),
//!     "0000:00:03.0: write refused, Command: Bus Master must stay: \
//!      stops the DMA of the function, on a bridge of everything below"
//! );
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
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

pub mod bars;
pub mod fields;
pub mod functions;
#[cfg(feature = "alloc")]
pub mod guard;
pub mod record;
#[cfg(feature = "alloc")]
pub mod registry;
pub mod table;

pub use bars::{BarError, Bars};
pub use fields::{Field, FieldError, for_each_field, kind_of};
pub use functions::{Facts, Functions};
#[cfg(feature = "alloc")]
pub use guard::{GuardError, Guarded, State};

pub use record::{Entry, Form, Record, RecordError};
#[cfg(feature = "alloc")]
pub use registry::{Device, FinishError, Frozen, PreserveError, Registry, Topology};
pub use table::{Class, Kind};

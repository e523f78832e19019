//! PCI devices that keep running while the program that owns them is replaced.
//!
//! A virtual machine owns a device, and the host below it needs a new kernel. The machine can be
//! stopped for a moment; the device cannot: it does DMA through mappings that the old kernel made, and
//! goes on while the new one boots. A boot, though, writes to every device it finds. Most of those
//! writes are harmless and wanted; a few stop the DMA, send it elsewhere, or change the identity that
//! the IOMMU knows. This crate names exactly those few, with a reason each, and refuses them, for
//! exactly the devices that were preserved, from the moment the old kernel lets go of them until the
//! new one's drivers have them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`table`] | the policy: one row a field, with class, reason, and what a cold boot makes of it |
//! | [`fields`] | where those fields are in one function |
//! | [`guard`] | configuration space with the policy applied (`alloc`) |
//! | [`setup`] | initialisation in three stages: look, decide, write what differs (`alloc`) |
//! | [`registry`] | who is preserved, outgoing and incoming, and the states of an update (`alloc`) |
//! | [`record`] | what the predecessor preserved: both serialized forms, checked |
//! | [`functions`] | what it knew of each function beside that, checked |
//! | [`bars`] | sizes of BARs, asked for or known |
//!
//! A kernel's PCI core uses [`Registry`] for everything; what only wants to read what a predecessor
//! preserved uses [`Record`], without a heap. `docs/live-update.md` says what each side must do, and
//! `examples/live-update` does it on a simulated machine.
//!
//! # Example
//! A function is frozen: what keeps its DMA running is written, what would stop it is not, and
//! setting it up changes only what may be changed.
//!
//! ```
//! use kho_hal::sim::pci::{SimBus, SimFunction};
//! use kho_hal::{PciConfigAccess, Sbdf};
//! use kho_pci_lu::{Guarded, Kind, Setting};
//!
//! let bus = SimBus::new();
//! let drive = Sbdf::from_bdf(0, 0x0018);
//! bus.add(drive, SimFunction::endpoint(0x1af4, 0x1001).with_express(0).with_msix(8, 0));
//! let config = Guarded::new(bus);
//! config.write_u16(drive, 0x04, 0x0006)?; // Memory Space, Bus Master
//! config.prepare(drive, Kind::Endpoint)?;
//! config.freeze(drive)?;
//!
//! let refused = config.write_u16(drive, 0x04, 0x0400).unwrap_err();
//! assert_eq!(
//!     refused.to_string(),
//!     "0000:00:03.0: write refused, Command: Bus Master must stay: \
//!      stops the DMA of the function, on a bridge of everything below"
//! );
//! let found = config.init(drive, &[])?; // as on any boot: INTx and MSI-X off
//! assert_eq!(found.get(Setting::BusMaster), Some(1));
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Not supported
//! CXL and IDE: a function that uses one of them is refused. CardBus. Giving back an interrupt that
//! was lost in between; its owner gets one that may be spurious. The state of the IOMMU, of interrupt
//! remapping, and of a driver itself: their owners hand it over.
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
#[cfg(feature = "alloc")]
pub mod setup;
pub mod table;

pub use bars::{BarError, Bars};
pub use fields::{Field, FieldError, for_each_field, for_each_field_of_fit, kind_of};
pub use functions::{Facts, Functions};
#[cfg(feature = "alloc")]
pub use guard::{GuardError, Guarded, State};

pub use record::{Entry, Form, Record, RecordError};
#[cfg(feature = "alloc")]
pub use registry::{
    BusNumbers, Config, Device, Finished, OutgoingForm, PreserveError, Received, Refused, Registry,
    Topology, UpdateError, Updated,
};
#[cfg(feature = "alloc")]
pub use setup::{SetError, Settings};
pub use table::{Class, Kind, Request, Setting};

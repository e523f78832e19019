//! A coherent cache of PCI configuration space.
//!
//! A read of configuration space takes a microsecond or more, and most of what is read never
//! changes. [`Cached`] wraps an access method and is one itself: whoever used the hardware uses
//! the cache, unchanged. What may be cached is inferred from each function's capabilities against
//! a table.
//!
//! | module | holds |
//! | --- | --- |
//! | [`table`] | which registers may be cached, capability by capability |
//! | [`rules`] | which writes have effects on other registers or functions |
//! | [`walk`] | the capability lists, with bounds |
//! | [`infer`] | the engine that applies the table to one function |
//! | [`bits`] | sets of bytes |
//!
//! # The promise
//! A cached read returns what the hardware would return at some moment between the call and the
//! return. This holds for any number of CPUs, and it rests on three conditions:
//! * Every write goes through the cache. Direct mappings of configuration space bypass it; call
//!   [`Cached::forget`] or [`Cached::reset`] when one was used.
//! * What a write acts on goes together: bridges are added before what is below them, physical
//!   functions before their virtual ones, and all functions of a device. A reset, a new bus number
//!   or a cleared VF Enable of a function that the cache does not know is not noticed in others.
//! * What nobody writes here is told: power lost, a device pulled out, a reset by firmware, a
//!   physical function's driver that gives its virtual functions other registers (the number of
//!   their MSI-X vectors) by a way of its own, a vendor's register that changes the layout of the
//!   capabilities. See [`Reset`] and [`Cached::forget`].
//!
//! A reset takes time (PCI Express Base 5.0, 6.6: up to 100 ms for one function). Whoever reads
//! before that time is over may see, and leave in the cache, what the function held before it:
//! wait as the specification says, or tell the cache when the reset is over.
//!
//! # Example
//! ```
//! use kho_hal::sim::pci::{SimBus, SimFunction};
//! use kho_hal::{PciConfigAccess, Sbdf};
//! use kho_pcsc::Cached;
//!
//! let bus = SimBus::new();
//! let nic = Sbdf::from_bdf(0, 0x0018);
//! bus.add(nic, SimFunction::endpoint(0x8086, 0x10c9).with_bar64(0, 20).with_express(0));
//! let config = Cached::new(&bus);
//! config.add(nic)?;
//! let reads = bus.reads();
//! assert_eq!(config.read_u32(nic, 0)?, 0x10c9_8086); // who it is does not change
//! assert_eq!(bus.reads(), reads);
//! config.write_u32(nic, 0x10, 0xfff0_0000)?; // a write always reaches the device
//! assert_eq!(config.read_u32(nic, 0x10)?, 0xfff0_000c);
//! assert_eq!(bus.reads(), reads + 1);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Not supported
//! PCI-X mode 2 extended space, CardBus beyond the identity, big-endian machines.
//!
//! # Features
//! * `alloc`: the cache. Memory is allocated only when a function is added. Without it, only the
//!   inference is there.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(loom, allow(dead_code, reason = "the model runs the protocol alone"))]

#[cfg(feature = "alloc")]
extern crate alloc as std_alloc;
#[cfg(test)]
extern crate std;

pub mod bits;
pub mod infer;
pub mod rules;
pub mod table;

#[cfg(all(feature = "alloc", not(loom)))]
mod add;
#[cfg(all(feature = "alloc", not(loom)))]
mod cache;
#[cfg(all(feature = "alloc", not(loom)))]
mod effects;
#[cfg(feature = "alloc")]
mod flags;
#[cfg(feature = "alloc")]
mod function;
#[cfg(all(feature = "alloc", not(loom)))]
mod index;
#[cfg(feature = "alloc")]
mod line;
#[cfg(all(test, loom, feature = "alloc"))]
mod model;
#[cfg(all(feature = "alloc", not(loom)))]
mod persist;
#[cfg(feature = "alloc")]
mod space;
#[cfg(feature = "alloc")]
mod stats;
#[cfg(feature = "alloc")]
mod wide;

#[cfg(all(feature = "alloc", not(loom)))]
pub use add::{AddError, Added, Distrust, Unlisted};
#[cfg(all(feature = "alloc", not(loom)))]
pub use cache::{Bypass, Cached, Reset};
pub use infer::{Inference, Region};
pub use kho_hal::walk;
pub use kho_hal::walk::{CapId, Capability, Source};
#[cfg(all(feature = "alloc", not(loom)))]
pub use persist::{Saved, SavedError, Variant};
#[cfg(feature = "alloc")]
pub use stats::Stats;

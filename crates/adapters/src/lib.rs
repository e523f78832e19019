//! Kexec HandOver on top of crates that kernels already use.
//!
//! The traits of `kho_hal` are small, but a kernel that has a page allocator and a way to
//! configuration space wants to pass those, not to write them again. Each adapter here is a thin
//! type around one of them; each is a feature of its own, so that nobody builds what others use.
//!
//! | module | feature | theirs | ours |
//! | --- | --- | --- | --- |
//! | [`config_region`] | `pci_types` | `pci_types::ConfigRegionAccess` 0.10 | `PciConfigAccess`, both ways |
//! | [`virtio`] | `virtio-drivers` | `ConfigurationAccess` 0.13 | `PciConfigAccess`, both ways |
//! | [`frames`] | `x86_64` | `x86_64::…::FrameAllocator` 0.15 | `PageAlloc` |
//! | [`buddy`] | `buddy_system_allocator` | `LockedFrameAllocator` 0.13 | `PageAlloc` |
//! | [`ecam`] | none | an entry of ACPI's MCFG table, as `acpi` 6 reads it | what to map for `kho_hal::Ecam` |
//!
//! `vm-memory` needs `std`, and has a crate of its own: `kho-vm-memory`.
//!
//! # Narrow writes
//! `pci_types` and `virtio-drivers` know accesses of 32 bits only. To write one byte through them,
//! four have to be read and written back, and that clears write-one-to-clear bits beside the byte:
//! writing Command would clear the errors that Status holds. So narrow writes are refused unless
//! [`NarrowWrites::Widen`] is given.
//!
//! # Example
//! What `pci_types` reads through our cache or guard is what the device has:
//!
//! ```
//! # #[cfg(feature = "pci_types")] {
//! use kho_adapters::config_region::ToConfigRegion;
//! use kho_hal::Sbdf;
//! use kho_hal::sim::pci::{SimBus, SimFunction};
//! use pci_types::{PciAddress, PciHeader};
//!
//! let bus = SimBus::new();
//! bus.add(Sbdf::from_bdf(0, 0x0018), SimFunction::endpoint(0x1af4, 0x1001));
//! let access = ToConfigRegion::new(&bus, |error| panic!("{error}"));
//! let header = PciHeader::new(PciAddress::new(0, 0, 3, 0));
//! assert_eq!(header.id(&access), (0x1af4, 0x1001));
//! # }
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(feature = "buddy_system_allocator")]
pub mod buddy;
#[cfg(feature = "pci_types")]
pub mod config_region;
#[cfg(any(feature = "pci_types", feature = "virtio-drivers"))]
mod dwords;
pub mod ecam;
#[cfg(feature = "x86_64")]
pub mod frames;
#[cfg(feature = "virtio-drivers")]
pub mod virtio;
#[cfg(any(feature = "buddy_system_allocator", feature = "x86_64"))]
mod zero;

#[cfg(any(feature = "pci_types", feature = "virtio-drivers"))]
pub use dwords::NarrowWrites;

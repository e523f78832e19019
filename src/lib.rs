//! Kexec HandOver for no_std Rust: take over a running machine's memory and PCI devices from the
//! program that ran before, and hand them on.
//!
//! This crate only names the family; each member can be used alone.
//!
//! | module | what for |
//! | --- | --- |
//! | [`hal`] | the doors to the machine, which its user implements: memory, pages, PCI |
//! | [`abi`] | what lies in memory: layouts, constants, names |
//! | [`core`] | preserve, describe, check and take over memory |
//! | [`pci_lu`] | PCI devices across a live update: who is preserved, what may be written |
//! | [`pcsc`] | a coherent cache of PCI configuration space, kept across kexec |
//!
//! # Example
//! Every crate's page has one; this is the least that a kernel does when it starts:
//!
//! ```
//! use kho::core::BootData;
//! use kho::core::incoming::{Incoming, IncomingError, Machine};
//! use kho::hal::{FrozenMem, PageSize, PhysAddr};
//!
//! fn take_over(mem: &impl FrozenMem, boot_params: PhysAddr) -> Result<(), IncomingError> {
//!     let (boot, _) = BootData::from_boot_params(mem, boot_params)?;
//!     let machine = Machine::unknown(PageSize::Size4K);
//!     let incoming = Incoming::check(mem, boot, machine, &mut [0; 256])?;
//!     for folio in incoming.folios() {
//!         // keep `folio.order.pages()` pages from `folio.addr` on out of the page allocator
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Features
//! * `alloc`: what needs a heap; see [`core`].
//! * `sim`: simulated machines for tests and examples; see `hal::sim`.
#![no_std]
#![forbid(unsafe_code)]

pub use kho_abi as abi;
pub use kho_core as core;
pub use kho_hal as hal;
pub use kho_pci_lu as pci_lu;
pub use kho_pcsc as pcsc;

/// The examples of README.md and of the guide are tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide/kernel.md")]
    struct Kernel;
    #[doc = include_str!("../docs/guide/hypervisor.md")]
    struct Hypervisor;
    #[doc = include_str!("../docs/guide/operator.md")]
    struct Operator;
    #[doc = include_str!("../docs/guide/formats.md")]
    struct Formats;
}

//! A simulated machine: memory, allocation and faults that a test can command.
//!
//! [`SimMemory`] is a machine's RAM. While programs run it is shared ([`crate::PhysMem`]); at a
//! simulated kexec it is frozen with [`SimMemory::freeze`], which borrows it exclusively, so the
//! compiler proves what [`crate::FrozenMem`] promises. [`SimAlloc`] hands out its pages, counts
//! them, and punishes misuse. [`Faulty`] makes the n-th access fail, and [`every_failure`] all of
//! them in turn. [`pci`] holds PCI functions that behave.

mod alloc;
#[cfg(not(loom))]
mod attempt;
#[cfg(not(loom))]
mod elf;
#[cfg(not(loom))]
mod fault;
#[cfg(not(loom))]
mod memory;
#[cfg(loom)]
mod model;
pub mod pci;

pub use self::alloc::SimAlloc;
#[cfg(not(loom))]
pub use self::attempt::{Attempt, Failing, every_failure};
#[cfg(not(loom))]
pub use self::elf::{ElfError, ElfImage, Machine};
#[cfg(not(loom))]
pub use self::fault::Faulty;
#[cfg(not(loom))]
pub use self::memory::{FrozenSim, Overlap, SimMemory};
#[cfg(loom)]
pub use self::model::ModelMemory;

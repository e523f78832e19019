//! The doors from Kexec HandOver logic to the machine.
//!
//! Everything above this crate is pure logic over five small traits. A kernel implements them
//! over its direct map and its page allocator, a hypervisor over guest memory, a test takes the
//! simulated ones.
//!
//! | trait | lends | who needs it |
//! | --- | --- | --- |
//! | [`FrozenMem`] | bytes that nobody writes while they are lent | reading a predecessor's handover |
//! | [`PhysMem`] | words that several CPUs may write | making a handover |
//! | [`PageAlloc`] | zeroed, naturally aligned pages | making a handover |
//! | [`PciConfigAccess`] | 1, 2 and 4 byte accesses to configuration space | the PCI crates |
//!
//! Memory has two doors because the two directions promise different things: an incoming
//! description is read as plain bytes, which is sound only while nobody writes it; a tree under
//! construction is shared between CPUs and is reached through atomics alone. One object cannot
//! honestly promise both.
//!
//! Real backends: [`DirectMap`] and [`FrozenDirectMap`] over a kernel's map of all memory, [`Ecam`]
//! over mapped configuration space, and on x86 `ConfigPorts`.
//!
//! [`PhysAddr`], [`Pfn`], [`Order`] and [`PageSize`] are distinct types with checked arithmetic,
//! so a page number can never pass for an address.
//!
//! [`sync`] holds the atomics that are lent; a model checker can put its own there.
//!
//! [`walk`] follows a function's capability lists, for whoever has to know where a register is.
//!
//! # Example
//! A kernel implements a trait over what it has; whoever writes logic asks for the trait:
//!
//! ```
//! use core::sync::atomic::{AtomicU64, Ordering};
//! use kho_hal::{MemError, PhysAddr, PhysMem};
//!
//! /// RAM from address 0 on.
//! struct Ram([AtomicU64; 512]);
//!
//! impl PhysMem for Ram {
//!     fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
//!         if !addr.is_aligned_to(8) {
//!             return Err(MemError::Misaligned { addr });
//!         }
//!         let words = self.0.get((addr.as_u64() / 8) as usize..);
//!         let absent = MemError::Absent { addr, len: 8 * count as u64 };
//!         words.and_then(|words| words.get(..count)).ok_or(absent)
//!     }
//! }
//!
//! let ram = Ram([const { AtomicU64::new(0) }; 512]);
//! ram.write(PhysAddr::new(6), b"over")?; // two words, of which only these bytes change
//! assert_eq!(ram.words(PhysAddr::new(0), 1)?[0].load(Ordering::Relaxed).to_le_bytes()[6..], *b"ov");
//! assert!(ram.words(PhysAddr::new(4096), 1).is_err());
//! # Ok::<(), MemError>(())
//! ```
//!
//! # Not supported
//! 32-bit addresses and big-endian machines: Kexec HandOver exists on neither.
//!
//! # Features
//! * `sim`: simulated memory and allocation (needs `alloc`); see [`sim`].
#![no_std]

#[cfg(feature = "sim")]
extern crate alloc as std_alloc;
#[cfg(test)]
extern crate std;

mod addr;
mod alloc;
#[cfg(not(loom))]
mod direct;
mod ecam;
mod mem;
mod pci;
#[cfg(target_arch = "x86_64")]
mod ports;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sync;
pub mod walk;

pub use addr::{Order, PageSize, Pfn, PhysAddr, PhysRange};
pub use alloc::{AllocError, PageAlloc};
#[cfg(not(loom))]
pub use direct::{DirectMap, FrozenDirectMap};
pub use ecam::Ecam;
pub use mem::{FrozenMem, MemError, PhysMem};
pub use pci::{Access, PciConfigAccess, PciError, Sbdf, Width};
#[cfg(target_arch = "x86_64")]
pub use ports::ConfigPorts;

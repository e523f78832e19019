//! Kexec HandOver: preserve, describe, check and take over a running machine's memory.
//!
//! Two programs share one machine, one after the other. The first, *outgoing*, decides which
//! physical memory must survive and leaves a description behind. The second, *incoming*, checks
//! the description, trusting nothing, and takes over.
//!
//! | | what for |
//! | --- | --- |
//! | [`Tracker`] | which folios and pages survive |
//! | [`BootData`] | how a handover is named to the next program |
//! | [`outgoing`] | make a handover: preserve, describe, finalize |
//! | [`preflight`] | what a consumer will do with a handover |
//! | [`Tokens`] | one pass over a flattened device tree |
//! | `translate` | from one generation of the format into another (`alloc`) |
//! | [`incoming`] | check what a predecessor left, and take it over |
//!
//! All of it is logic over the traits of `kho_hal`; the formats are those of `kho_abi`.
//!
//! # Example
//! One folio survives a kexec, and a note says which:
//!
//! ```
//! use kho_core::incoming::{Incoming, Machine};
//! use kho_core::outgoing::{Outgoing, Tracker};
//! use kho_hal::sim::{SimAlloc, SimMemory};
//! use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};
//!
//! let page = PageSize::Size4K;
//! let range = |start| PhysRange::new(PhysAddr::new(start), 0x10_0000).unwrap();
//! let (heap, scratch, guest) = (range(0x10_0000), [range(0x20_0000)], PhysAddr::new(0x30_0000));
//! let mut memory = SimMemory::new([heap, scratch[0], range(0x30_0000)])?;
//! let boot = {
//!     let alloc = SimAlloc::new(&memory, page, [heap]);
//!     let mut outgoing = Outgoing::new(Tracker::new(&memory, &alloc, page, &scratch)?)?;
//!     outgoing.tracker().preserve_folio(guest, Order::new(8).unwrap())?;
//!     outgoing.add_blob("note", &guest.as_u64().to_le_bytes())?;
//!     outgoing.finalize(scratch[0].start(), &mut [])?.hand_over()
//! };
//! // The jump: four numbers and the memory are all that is left.
//! let memory = memory.freeze();
//! let incoming = Incoming::check(&memory, boot, Machine::unknown(page), &mut [0; 256])?;
//! let note = incoming.subtree("note").unwrap().range;
//! assert_eq!(memory.bytes(note.start(), 8)?, guest.as_u64().to_le_bytes());
//! assert_eq!(incoming.restore_folio(guest).unwrap().order.as_u32(), 8);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Features
//! * `alloc`: the description's writer and the LUO registry, which keep their state on a heap.
//!   Tracking, checking and taking over do without.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

/// `Copy` for what only borrows an `M`, which a derive would ask to be `Copy` as well.
macro_rules! impl_copy {
    ($name:ident) => {
        impl<M> Clone for $name<'_, M> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<M> Copy for $name<'_, M> {}
    };
}

mod bits;
mod boot;
pub mod incoming;
pub mod outgoing;
pub mod preflight;
mod runs;
mod tokens;
#[cfg(feature = "alloc")]
pub mod translate;
mod tree;

pub use boot::{BootData, BootPlace, SETUP_DATA_LEN};
pub use outgoing::{OutgoingError, Tracker};
pub use tokens::{Token, Tokens};

//! The binary formats of Kexec HandOver: layouts, constants and names.
//!
//! What one kernel leaves in memory for the next, as zerocopy types and constants. There is no
//! logic here beyond naming fields and packing keys, no allocation and no access to memory;
//! reading and writing is `kho-core`.
//!
//! | module | what lies in memory |
//! | --- | --- |
//! | [`boot`] | how the handover reaches the next kernel: x86 `setup_data`, arm64 `/chosen`, the scratch array |
//! | [`fdt`] | the root description: generations, property and node names |
//! | [`radix`] | the preserved-memory tree of `kho-v2` and later: geometry and keys |
//! | [`chunk`] | the preserved-memory lists before it: chunks and bitmaps |
//! | [`pci`] | preserved PCI functions, two forms; what is known of them |
//! | [`pcsc`] | saved PCI configuration space |
//! | [`vmalloc`] | lists of pages of a virtually contiguous area |
//! | [`block`] | linked pages of fixed-size entries |
//! | [`luo`] | the Live Update Orchestrator: sessions, files, file-lifecycle-bound objects |
//! | [`memfd`] | a preserved memory file |
//! | [`metadata`] | who handed over, and how often |
//! | [`memblock`] | named reserved regions |
//!
//! Why a crate of its own: tools, other kernels and other languages' tests need the layouts and
//! nothing else, and a layout that is asserted in one place cannot drift from its documentation.
//!
//! # Example
//! The key of a preserved folio in the tree, and a session's bytes as a structure:
//!
//! ```
//! use kho_abi::luo::LuoFileSer;
//! use kho_abi::radix::Key;
//! use kho_hal::{Order, PageSize, PhysAddr};
//! use zerocopy::FromBytes;
//!
//! let addr = PhysAddr::new(0x4020_0000);
//! let order = Order::new(9).unwrap();
//! let key = Key::encode(addr, order, PageSize::Size4K)?;
//! assert_eq!(key.as_u64(), 1 << 43 | 0x4020_0000 >> 21);
//! assert_eq!(key.decode(PageSize::Size4K), Ok((addr, order)));
//!
//! let mut bytes = [0; 64];
//! bytes[56] = 0x10;
//! assert_eq!(LuoFileSer::ref_from_bytes(&bytes).unwrap().token.get(), 0x10);
//! # Ok::<(), kho_abi::radix::KeyError>(())
//! ```
//!
//! # Conventions
//! * Numbers are little-endian: Kexec HandOver runs only on little-endian machines, and stores
//!   native integers. The flattened device tree around them is big-endian in its own fields.
//! * Every structure has alignment 1, so it can be viewed in place at any address.
//! * Addresses are physical bytes; 0 means none.
//! * Sizes and all offsets are asserted at compile time.
//!
//! # Versions
//! A layout changes only together with its version string: the `compatible` of the root
//! ([`fdt::Generation`]) covers the tree, blocks and vmalloc lists; [`luo::COMPATIBLE`],
//! [`memfd::COMPATIBLE`], [`pci::v1::NAME`], [`pci::v2::VERSION`], [`pci::functions::NAME`],
//! [`pcsc::VERSION`], [`metadata::VERSION`] and [`memblock::COMPATIBLE`] cover their own.
//! `tests/golden.rs` fails where one changes without the other.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

/// Asserts the size of a structure and the offset of each of its fields at compile time.
macro_rules! assert_layout {
    ($type:ty, $size:expr, { $($field:ident: $offset:expr),* $(,)? }) => {
        static_assertions::const_assert_eq!(size_of::<$type>(), $size);
        static_assertions::const_assert_eq!(align_of::<$type>(), 1);
        $(static_assertions::const_assert_eq!(core::mem::offset_of!($type, $field), $offset);)*
    };
}

pub mod block;
pub mod boot;
pub mod chunk;
pub mod fdt;
pub mod luo;
pub mod memblock;
pub mod memfd;
pub mod metadata;
mod name;
pub mod pci;
pub mod pcsc;
pub mod radix;
pub mod vmalloc;

pub use name::{Name, NameError};

// A big-endian port would have to decide what "native" means in a handover first.
static_assertions::const_assert!(cfg!(target_endian = "little"));

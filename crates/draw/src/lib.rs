//! Pictures of a handover: what lies where in physical memory, and what happened when.
//!
//! `kho-inspect` draws the memory of real machines with it, the examples draw what they simulate.
//! A machine of 1 TiB fits on one screen: memory is counted by cells, and the cells are as large as
//! they have to be.
//!
//! | type | what for |
//! | --- | --- |
//! | [`MemoryMap`] | what lies where, as cells |
//! | [`Timeline`] | steps, one after the other |
//! | [`document`] | one SVG document of several pictures |
//!
//! # Example
//! ```
//! use kho_draw::{Kind, MemoryMap, document};
//! use kho_hal::{PhysAddr, PhysRange};
//!
//! let mut map = MemoryMap::new();
//! let ram = PhysRange::new(PhysAddr::new(0), 1 << 30).unwrap();
//! let guest = PhysRange::new(PhysAddr::new(512 << 20), 256 << 20).unwrap();
//! map.add(ram, Kind::Other);
//! map.add(guest, Kind::Medium);
//! assert_eq!(map.bytes(Kind::Medium), 256 << 20);
//! let line: String = map.line(16).into_iter().map(Kind::letter).collect();
//! assert_eq!(line, "········MMMM····");
//! assert!(document("A guest", [map.draw()]).starts_with("<svg"));
//! ```
#![forbid(unsafe_code)]

mod handover;
mod map;
mod picture;
mod size;
mod timeline;

pub use map::{Kind, MemoryMap};
pub use picture::{Picture, document};
pub use size::Size;
pub use timeline::Timeline;

//! The atomics and locks of the family: `core`'s and `spin`'s, or where it is built with `--cfg loom`
//! those of the model checker loom, which tries every order of what CPUs do. Then
//! [`crate::PhysMem`] lends such words, too.

#[cfg(loom)]
mod model;

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use spin::{mutex::SpinMutex, rwlock::RwLock};

#[cfg(loom)]
pub use self::model::{AtomicU64, RwLock, SpinMutex};
#[cfg(loom)]
pub use loom::sync::atomic::{Ordering, fence};

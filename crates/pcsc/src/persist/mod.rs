//! Handing the cache over: functions' pages stay where they are, and a sub-blob says where.
//!
//! The next program reads the sub-blob once ([`Saved::read`]) and gives it to its cache
//! ([`Cached::with_saved`]). A function that is added then takes its page into use as it lies,
//! if the hardware still shows the same vendor, device, class, revision and header type.
//!
//! [`Cached::with_saved`]: crate::Cached::with_saved

mod restore;
mod save;
mod saved;
mod scan;

pub(crate) use saved::Place;
pub use saved::{Saved, SavedError, Variant};

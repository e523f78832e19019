//! The incoming side: what the predecessor preserved.

use alloc::collections::BTreeMap;
use core::fmt;

use kho_hal::{PciConfigAccess, Sbdf};

use crate::guard::GuardError;
use crate::record::{Form, Record};
use crate::registry::{PreserveError, Registry, Topology, path};
use crate::table::Kind;

/// What was received, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Side {
    form: Option<Form>,
    functions: BTreeMap<Sbdf, Received>,
    /// Functions whose count is not 0.
    left: usize,
}

#[derive(Debug)]
struct Received {
    refcount: u16,
    found: bool,
    /// Whether its owner has finished it; another FINISH for it would be one too many.
    done: bool,
}

/// Why a function was not set up, retrieved or finished. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishError {
    /// A record was received already.
    Received,
    /// The function is not incoming: not in the record, not found, or finished.
    NotIncoming {
        /// The function.
        function: Sbdf,
    },
    /// It counts fewer users than the functions that depend on it.
    Refcount {
        /// The function.
        function: Sbdf,
    },
    /// What it depends on cannot be told.
    Path(PreserveError),
    /// It cannot be guarded: it is not what was preserved, and must not be written to.
    Guard(GuardError),
}

impl fmt::Display for FinishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received => f.write_str("a record was received already"),
            Self::NotIncoming { function } => write!(f, "{function} is not incoming"),
            Self::Refcount { function } => {
                write!(f, "{function} counts fewer users than there are below it")
            }
            Self::Path(cause) => cause.fmt(f),
            Self::Guard(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for FinishError {}

impl<C: PciConfigAccess> Registry<C> {
    /// Takes over what the predecessor preserved, before enumeration.
    ///
    /// # Errors
    /// [`FinishError::Received`].
    pub fn receive(&self, record: &Record<'_>) -> Result<(), FinishError> {
        let mut side = self.shared.incoming.lock();
        if side.form.is_some() {
            return Err(FinishError::Received);
        }
        side.form = Some(record.form());
        side.left = record.len();
        for entry in record.iter() {
            let received = Received {
                refcount: entry.refcount,
                found: false,
                done: false,
            };
            side.functions.insert(entry.function, received);
        }
        Ok(())
    }

    /// Enumeration has found a function, and written nothing to it yet. Returns whether it is
    /// incoming; writes to it are judged from now on then. A function that was finished and is
    /// found again is not incoming.
    ///
    /// # Errors
    /// [`FinishError::Guard`].
    pub fn set_up(&self, function: Sbdf, kind: Kind) -> Result<bool, FinishError> {
        let mut side = self.shared.incoming.lock();
        let Some(received) = side.functions.get_mut(&function) else {
            return Ok(false);
        };
        if received.refcount == 0 || received.found {
            return Ok(received.refcount != 0);
        }
        let guard = &self.shared.guard;
        guard.adopt(function, kind).map_err(FinishError::Guard)?;
        received.found = true;
        Ok(true)
    }

    /// Whether the function was found and is not finished yet.
    pub fn is_incoming(&self, function: Sbdf) -> bool {
        let side = self.shared.incoming.lock();
        let received = side.functions.get(&function);
        received.is_some_and(|received| received.found && received.refcount != 0)
    }

    /// Whether the function came through the update, finished or not.
    pub fn was_preserved(&self, function: Sbdf) -> bool {
        let side = self.shared.incoming.lock();
        side.functions.get(&function).is_some_and(|r| r.found)
    }

    /// Functions in the record that are not finished. As long as it is not 0, every bridge keeps its
    /// bus numbers, incoming or not.
    pub fn incoming_count(&self) -> usize {
        self.shared.incoming.lock().left
    }

    /// The lowest function from `from` on that is in the record and that enumeration has not found.
    pub fn missing(&self, from: Sbdf) -> Option<Sbdf> {
        let side = self.shared.incoming.lock();
        let mut rest = side.functions.range(from..);
        rest.find(|(_, received)| !received.found)
            .map(|(function, _)| *function)
    }

    /// Compares the counts of the record with what enumeration found: a function counts at least as
    /// many users as those directly below it together. Nothing to compare in the first form.
    ///
    /// # Errors
    /// [`FinishError::Refcount`], [`FinishError::NotIncoming`] if something that a function depends
    /// on is not in the record, [`FinishError::Path`] for a function that was not found.
    pub fn check_counts(&self, topology: &impl Topology) -> Result<(), FinishError> {
        let side = self.shared.incoming.lock();
        if side.form != Some(Form::V2) {
            return Ok(());
        }
        let mut sums: BTreeMap<Sbdf, u64> = BTreeMap::new();
        for (&function, received) in &side.functions {
            let unknown = PreserveError::Unknown { function };
            let device = topology.device(function);
            let device = device.ok_or(FinishError::Path(unknown))?;
            if let Some(above) = device.upstream {
                *sums.entry(above).or_default() += u64::from(received.refcount);
            }
        }
        for (function, sum) in sums {
            match side.functions.get(&function) {
                None => return Err(FinishError::NotIncoming { function }),
                Some(received) if u64::from(received.refcount) < sum => {
                    return Err(FinishError::Refcount { function });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// FINISH: the function is its owner's. One user less for it and, in the second form, for all
    /// that it depends on; what has none left is written to as on any boot.
    ///
    /// # Errors
    /// [`FinishError::NotIncoming`] if the function or something above it is not, or is finished;
    /// [`FinishError::Path`].
    pub fn finish(&self, topology: &impl Topology, function: Sbdf) -> Result<(), FinishError> {
        let mut path = path(topology, function).map_err(FinishError::Path)?;
        let mut side = self.shared.incoming.lock();
        if side.form != Some(Form::V2) {
            path.truncate(1);
        }
        for &(function, _) in &path {
            let received = side.functions.get(&function);
            if received.is_none_or(|received| !received.found || received.refcount == 0) {
                return Err(FinishError::NotIncoming { function });
            }
        }
        match side.functions.get_mut(&function) {
            Some(received) if !received.done => received.done = true,
            _ => return Err(FinishError::NotIncoming { function }),
        }
        for (function, _) in path {
            let Some(received) = side.functions.get_mut(&function) else {
                continue;
            };
            received.refcount -= 1;
            if received.refcount == 0 {
                side.left -= 1;
                // It was adopted when it was found.
                let _ = self.shared.guard.finish(function);
            }
        }
        Ok(())
    }
}

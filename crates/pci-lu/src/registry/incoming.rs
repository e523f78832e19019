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
    /// Whether the record has it; a bridge of the first form is only found to be above one.
    recorded: bool,
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
    /// The bus numbers of a bridge cannot be read.
    Unreadable {
        /// The bridge.
        function: Sbdf,
    },
    /// It counts fewer users than the functions that depend on it, or more than can be counted.
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
            Self::Unreadable { function } => write!(f, "{function}: no bus numbers"),
            Self::Refcount { function } => {
                write!(f, "{function} counts other users than there are below it")
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
                recorded: true,
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
    /// The first form has no bridges. There, a bridge whose bus numbers cover that of a function in
    /// the record is incoming, too, and counts those functions; a bridge is set up before what is
    /// below it.
    ///
    /// # Errors
    /// [`FinishError::Guard`], [`FinishError::Unreadable`].
    pub fn set_up(&self, function: Sbdf, kind: Kind) -> Result<bool, FinishError> {
        let mut side = self.shared.incoming.lock();
        let Some(received) = side.functions.get_mut(&function) else {
            return match (side.form, kind) {
                (Some(Form::V1), Kind::Bridge) => self.set_up_above(&mut side, function),
                _ => Ok(false),
            };
        };
        if received.refcount == 0 || received.found {
            return Ok(received.refcount != 0);
        }
        let guard = &self.shared.guard;
        guard.adopt(function, kind).map_err(FinishError::Guard)?;
        received.found = true;
        Ok(true)
    }

    /// A bridge that the record does not have, as its form has none.
    fn set_up_above(&self, side: &mut Side, bridge: Sbdf) -> Result<bool, FinishError> {
        let guard = &self.shared.guard;
        let buses = guard
            .read_u32(bridge, 0x18)
            .map_err(|_| FinishError::Unreadable { function: bridge })?;
        let (secondary, subordinate) = (buses >> 8 & 0xff, buses >> 16 & 0xff);
        if secondary == 0 || secondary > subordinate {
            return Ok(false);
        }
        let at = |bdf: u32| Sbdf::from_bdf(bridge.segment(), bdf as u16);
        let below = at(secondary << 8)..=at(subordinate << 8 | 0xff);
        let below = side.functions.range(below).filter(|(_, r)| r.recorded);
        let refcount = match u16::try_from(below.count()) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(_) => return Err(FinishError::Refcount { function: bridge }),
        };
        guard
            .adopt(bridge, Kind::Bridge)
            .map_err(FinishError::Guard)?;
        let received = Received {
            refcount,
            recorded: false,
            found: true,
            done: true,
        };
        side.functions.insert(bridge, received);
        side.left += 1;
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

    /// FINISH: the function is its owner's. One user less for it and for all that it depends on; what
    /// has none left is written to as on any boot.
    ///
    /// # Errors
    /// [`FinishError::NotIncoming`] if the function or something above it is not, or is finished;
    /// [`FinishError::Path`].
    pub fn finish(&self, topology: &impl Topology, function: Sbdf) -> Result<(), FinishError> {
        let path = path(topology, function).map_err(FinishError::Path)?;
        let mut side = self.shared.incoming.lock();
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

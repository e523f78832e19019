//! The guard: the one place where configuration writes are judged.
//!
//! [`Guarded`] is a layer of configuration space: it implements the access method that it wraps. A
//! function that nobody preserves sees exactly the writes of any boot, byte for byte. A preserved
//! one does too, outside the window from FREEZE to FINISH; inside it a write that would
//! change what must stay is refused whole, with the field and the reason, whoever the caller is.
//!
//! # Verdicts
//! * By bits, whatever the width: of a [`Class::Preserve`] field the new value is compared with
//!   what the hardware says, so a write that keeps it passes. Masking the rest through would be
//!   success without effect, and half of a 64-bit address is worse than none of it.
//! * A 1 for a bit of a [`Class::Action`] field is refused.
//! * Write-one-to-clear bits beside them arrive as the caller set them.
//! * Success means that the hardware has the value; a caller that caches after success is right.
//!
//! # States
//! A function has two sides, which are independent: it can be incoming and outgoing at once.
//!
//! | side | event | from | to | guarded then |
//! | --- | --- | --- | --- | --- |
//! | outgoing | [`Guarded::prepare`] | Normal | Prepared | no |
//! | outgoing | [`Guarded::freeze`] | Prepared | Frozen | yes |
//! | outgoing | [`Guarded::unfreeze`] | Frozen | Prepared | no |
//! | outgoing | [`Guarded::cancel`] | Prepared, Frozen | Normal | no |
//! | incoming | [`Guarded::adopt`] | Normal | Updated | yes |
//! | incoming | [`Guarded::finish`] | Updated | Normal | no |
//!
//! # Locks
//! Writes share a lock that an event holds alone: after an event has returned, no write is under
//! way that was judged before it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};
use spin::rwlock::RwLock;

use crate::fields::{Field, FieldError, for_each_field};
use crate::table::{Class, Kind};

/// Where a function is in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No update under way.
    Normal,
    /// It will be preserved. It runs, interrupts and all.
    Prepared,
    /// The jump is near: its DMA runs on, its registers stay.
    Frozen,
    /// After the jump: found, not yet finished.
    Updated,
}

/// Why an event was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuardError {
    /// The fields of the function cannot be told, or it cannot be preserved.
    Field(FieldError),
    /// The event does not fit the function's state.
    State {
        /// The function.
        function: Sbdf,
        /// The state it is in, on the side of the event.
        state: State,
    },
    /// The function is known as another kind.
    Kind {
        /// The function.
        function: Sbdf,
        /// The kind it is known as.
        known: Kind,
    },
    /// A driver's rule names bits that are not a vendor's.
    NotVendor {
        /// The function.
        function: Sbdf,
        /// The dword.
        offset: u16,
    },
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(cause) => cause.fmt(f),
            Self::State { function, state } => write!(f, "{function} is in state {state:?}"),
            Self::Kind { function, known } => write!(f, "{function} is known as {known:?}"),
            Self::NotVendor { function, offset } => {
                write!(f, "{function}: {offset:#x} is not the vendor's to rule")
            }
        }
    }
}

impl core::error::Error for GuardError {}

impl From<FieldError> for GuardError {
    fn from(cause: FieldError) -> Self {
        Self::Field(cause)
    }
}

/// A field that must stay while its function is live.
#[derive(Clone, Copy, Debug)]
struct Kept {
    dword: u16,
    bits: u32,
    action: bool,
    name: &'static str,
    reason: &'static str,
}

#[derive(Debug)]
struct Tracked {
    kind: Kind,
    /// By dword.
    kept: Vec<Kept>,
    outgoing: State,
    incoming: bool,
}

impl Tracked {
    fn is_guarded(&self) -> bool {
        self.incoming || self.outgoing == State::Frozen
    }
}

/// Configuration space with the write policy applied. See the [module](self).
#[derive(Debug)]
pub struct Guarded<C> {
    inner: C,
    functions: RwLock<BTreeMap<Sbdf, Tracked>>,
}

impl<C: PciConfigAccess> Guarded<C> {
    /// Nothing is preserved.
    pub const fn new(inner: C) -> Self {
        Self {
            inner,
            functions: RwLock::new(BTreeMap::new()),
        }
    }

    /// The access method below. What is written there is not judged.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The state of a function. One that is frozen is so whatever its incoming side.
    pub fn state(&self, function: Sbdf) -> State {
        match self.functions.read().get(&function) {
            None => State::Normal,
            Some(tracked) if tracked.outgoing == State::Frozen => State::Frozen,
            Some(tracked) if tracked.incoming => State::Updated,
            Some(tracked) => tracked.outgoing,
        }
    }

    /// Whether writes to the function are judged now.
    pub fn is_guarded(&self, function: Sbdf) -> bool {
        let functions = self.functions.read();
        functions.get(&function).is_some_and(Tracked::is_guarded)
    }

    /// PREPARE: the function will be preserved as this kind. Reads its capabilities; no write.
    ///
    /// # Errors
    /// [`GuardError::State`] if it is prepared or frozen, [`GuardError::Kind`] if it is incoming as
    /// another kind, [`GuardError::Field`] if it cannot be preserved.
    pub fn prepare(&self, function: Sbdf, kind: Kind) -> Result<(), GuardError> {
        self.track(function, kind, |tracked| match tracked.outgoing {
            State::Normal => {
                tracked.outgoing = State::Prepared;
                Ok(())
            }
            state => Err(GuardError::State { function, state }),
        })
    }

    /// FREEZE: from now on writes to the function are judged.
    ///
    /// # Errors
    /// [`GuardError::State`] unless it is prepared; [`GuardError::Field`] if it cannot be preserved
    /// any more as it is now: capabilities and conditions are looked at once more.
    pub fn freeze(&self, function: Sbdf) -> Result<(), GuardError> {
        let mut functions = self.functions.write();
        let state = State::Normal;
        let tracked = functions
            .get_mut(&function)
            .ok_or(GuardError::State { function, state })?;
        match tracked.outgoing {
            State::Prepared => {
                for_each_field(&self.inner, function, tracked.kind, |_| {})?;
                tracked.outgoing = State::Frozen;
                Ok(())
            }
            state => Err(GuardError::State { function, state }),
        }
    }

    /// Takes [`Guarded::freeze`] back: the function is prepared again. Never fails, and does nothing
    /// to a function that is not frozen.
    pub fn unfreeze(&self, function: Sbdf) {
        if let Some(tracked) = self.functions.write().get_mut(&function)
            && tracked.outgoing == State::Frozen
        {
            tracked.outgoing = State::Prepared;
        }
    }

    /// CANCEL: takes [`Guarded::prepare`] and [`Guarded::freeze`] back. Never fails, and does
    /// nothing to a function that is neither prepared nor frozen.
    pub fn cancel(&self, function: Sbdf) {
        self.untrack(function, |tracked| tracked.outgoing = State::Normal);
    }

    /// The function was found to be preserved by the predecessor: writes are judged until
    /// [`Guarded::finish`]. Reads its capabilities; no write.
    ///
    /// # Errors
    /// [`GuardError::State`] if it is incoming already, [`GuardError::Kind`] if it is outgoing as
    /// another kind, [`GuardError::Field`]: the function is not what the record says, and it must
    /// not be written to at all.
    pub fn adopt(&self, function: Sbdf, kind: Kind) -> Result<(), GuardError> {
        self.track(function, kind, |tracked| {
            if tracked.incoming {
                let state = State::Updated;
                return Err(GuardError::State { function, state });
            }
            tracked.incoming = true;
            Ok(())
        })
    }

    /// FINISH: the function is its new owner's; from now on writes go through.
    ///
    /// # Errors
    /// [`GuardError::State`] unless it is incoming.
    pub fn finish(&self, function: Sbdf) -> Result<(), GuardError> {
        let mut done = false;
        self.untrack(function, |tracked| {
            done = core::mem::replace(&mut tracked.incoming, false);
        });
        let state = State::Normal;
        let refused = GuardError::State { function, state };
        if done { Ok(()) } else { Err(refused) }
    }

    /// A driver's own rule: `bits` of the dword at `offset` stay, too, as long as the function is
    /// tracked. A rule adds to the policy; nothing can be taken from it.
    ///
    /// # Errors
    /// [`GuardError::State`] if the function is neither prepared nor incoming, or is frozen;
    /// [`GuardError::NotVendor`] if the bits are in the header, in a field of the table, or not in
    /// a dword of the space.
    pub fn add_rule(
        &self,
        function: Sbdf,
        offset: u16,
        bits: u32,
        field: &'static str,
        reason: &'static str,
    ) -> Result<(), GuardError> {
        let mut functions = self.functions.write();
        let state = State::Normal;
        let tracked = functions
            .get_mut(&function)
            .ok_or(GuardError::State { function, state })?;
        if tracked.outgoing == State::Frozen {
            let state = State::Frozen;
            return Err(GuardError::State { function, state });
        }
        let mut vendors = (0x40..Access::SPACE).contains(&offset) && offset & 3 == 0;
        for_each_field(&self.inner, function, tracked.kind, |field| {
            vendors &= field.dword != offset || field.bits & bits == 0;
        })?;
        if !vendors {
            return Err(GuardError::NotVendor { function, offset });
        }
        let at = tracked.kept.partition_point(|kept| kept.dword <= offset);
        let rule = Kept {
            dword: offset,
            bits,
            action: false,
            name: field,
            reason,
        };
        tracked.kept.insert(at, rule);
        Ok(())
    }

    /// Applies `event` to the function, which is tracked from now on if it succeeds.
    fn track(
        &self,
        function: Sbdf,
        kind: Kind,
        event: impl FnOnce(&mut Tracked) -> Result<(), GuardError>,
    ) -> Result<(), GuardError> {
        let mut functions = self.functions.write();
        if let Some(tracked) = functions.get_mut(&function) {
            if tracked.kind != kind {
                let known = tracked.kind;
                return Err(GuardError::Kind { function, known });
            }
            return event(tracked);
        }
        let mut tracked = Tracked {
            kind,
            kept: Vec::new(),
            outgoing: State::Normal,
            incoming: false,
        };
        for_each_field(&self.inner, function, kind, |field: Field| {
            let action = match field.class {
                Class::Preserve => false,
                Class::Action => true,
                _ => return,
            };
            tracked.kept.push(Kept {
                dword: field.dword,
                bits: field.bits,
                action,
                name: field.name,
                reason: field.reason,
            });
        })?;
        tracked.kept.sort_by_key(|kept| kept.dword);
        event(&mut tracked)?;
        functions.insert(function, tracked);
        Ok(())
    }

    /// Applies `event` to the function, and forgets it if no side of it is left.
    fn untrack(&self, function: Sbdf, event: impl FnOnce(&mut Tracked)) {
        let mut functions = self.functions.write();
        if let Some(tracked) = functions.get_mut(&function) {
            event(tracked);
            if tracked.outgoing == State::Normal && !tracked.incoming {
                functions.remove(&function);
            }
        }
    }

    /// Whether the write may be done.
    fn judge(
        &self,
        tracked: &Tracked,
        function: Sbdf,
        at: Access,
        value: u32,
    ) -> Result<(), PciError> {
        let dword = at.offset() & !3;
        let shift = 8 * (at.offset() & 3);
        let lane = at.width().mask() << shift;
        let value = (value & at.width().mask()) << shift;
        let refuse = |kept: &Kept| PciError::Refused {
            function,
            field: kept.name,
            reason: kept.reason,
        };
        let start = tracked.kept.partition_point(|kept| kept.dword < dword);
        let here = tracked.kept.get(start..).unwrap_or_default();
        let here = here
            .iter()
            .take_while(|kept| kept.dword == dword)
            .filter(|kept| kept.bits & lane != 0);
        let mut stay = false;
        for kept in here.clone() {
            if kept.action && kept.bits & value != 0 {
                return Err(refuse(kept));
            }
            stay |= !kept.action;
        }
        if stay {
            let current = self.inner.read(function, at)? << shift;
            let changed = (current ^ value) & lane;
            let mut here = here.filter(|kept| !kept.action);
            if let Some(kept) = here.find(|kept| kept.bits & changed != 0) {
                return Err(refuse(kept));
            }
        }
        Ok(())
    }
}

impl<C: PciConfigAccess> PciConfigAccess for Guarded<C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.inner.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let functions = self.functions.read();
        if let Some(tracked) = functions.get(&function)
            && tracked.is_guarded()
        {
            self.judge(tracked, function, at, value)?;
        }
        self.inner.write(function, at, value)
    }
}

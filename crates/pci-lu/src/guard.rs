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
//! Between [`Guarded::close`] and [`Guarded::adopt`] a function takes no write at all: it was preserved,
//! and nobody has looked yet whether it is still the same.
//!
//! # Locks
//! Writes share a lock that an event holds alone: after an event has returned, no write is under
//! way that was judged before it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use kho_hal::sync::RwLock;
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};

use crate::fields::{Field, FieldError, for_each_field, for_each_field_of_fit, kind_of};
use crate::setup::{Past, Phase, SetError, Settings, Survey};
use crate::table::{Class, Kind, Request, Setting};

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
    /// The function is guarded as another kind, which keeps less.
    Kind {
        /// The function.
        function: Sbdf,
        /// The kind it is known as.
        known: Kind,
    },
    /// Translation is on, and its owner has not said that he knows; see [`Guarded::set`].
    Unconfirmed {
        /// The function.
        function: Sbdf,
        /// The field that says so.
        field: &'static str,
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
            Self::Unconfirmed { function, field } => {
                write!(f, "{function}: nobody has confirmed {field}")
            }
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
    /// Fields of the incoming side that are on and that their owner has not asked for yet.
    unconfirmed: Vec<(Setting, &'static str)>,
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
    functions: RwLock<Functions>,
}

#[derive(Debug, Default)]
struct Functions {
    tracked: BTreeMap<Sbdf, Tracked>,
    /// Those that arrived and were not found yet.
    closed: BTreeSet<Sbdf>,
    /// What was adopted for life.
    lasting: BTreeMap<Sbdf, Settings>,
}

impl<C: PciConfigAccess> Guarded<C> {
    /// Nothing is preserved.
    pub fn new(inner: C) -> Self {
        Self {
            inner,
            functions: RwLock::default(),
        }
    }

    /// The access method below. What is written there is not judged.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The state of a function. One that is frozen is so whatever its incoming side.
    pub fn state(&self, function: Sbdf) -> State {
        match self.functions.read().tracked.get(&function) {
            None => State::Normal,
            Some(tracked) if tracked.outgoing == State::Frozen => State::Frozen,
            Some(tracked) if tracked.incoming => State::Updated,
            Some(tracked) => tracked.outgoing,
        }
    }

    /// Whether writes to the function are judged now.
    pub fn is_guarded(&self, function: Sbdf) -> bool {
        let functions = self.functions.read();
        let tracked = functions.tracked.get(&function);
        tracked.is_some_and(Tracked::is_guarded)
    }

    /// PREPARE: the function will be preserved as this kind. Reads its capabilities; no write.
    ///
    /// # Errors
    /// [`GuardError::State`] if it is prepared or frozen, [`GuardError::Kind`] if it is incoming as
    /// a kind that does not [cover](Kind::covers) this one; the stricter one stays until both sides are
    /// over; [`GuardError::Field`] if it cannot be preserved.
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
            .tracked
            .get_mut(&function)
            .ok_or(GuardError::State { function, state })?;
        match tracked.outgoing {
            State::Prepared => {
                for_each_field_of_fit(&self.inner, function, tracked.kind, |_| {})?;
                tracked.outgoing = State::Frozen;
                Ok(())
            }
            state => Err(GuardError::State { function, state }),
        }
    }

    /// Takes [`Guarded::freeze`] back: the function is prepared again. Never fails, and does nothing
    /// to a function that is not frozen.
    pub fn unfreeze(&self, function: Sbdf) {
        if let Some(tracked) = self.functions.write().tracked.get_mut(&function)
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

    /// The predecessor preserved the function, and nothing else is known of it: no write to it
    /// passes until [`Guarded::adopt`].
    pub fn close(&self, function: Sbdf) {
        self.functions.write().closed.insert(function);
    }

    /// The function was found to be preserved by the predecessor: writes are judged until
    /// [`Guarded::finish`]. Reads its registers; no write. What is adopted for life is noted.
    ///
    /// # Errors
    /// [`GuardError::State`] if it is incoming already, [`GuardError::Kind`] if it is outgoing as
    /// a kind that does not [cover](Kind::covers) this one, [`GuardError::Field`]: the function is not what the record says, and it must
    /// not be written to at all.
    pub fn adopt(&self, function: Sbdf, kind: Kind) -> Result<(), GuardError> {
        let survey = Survey::of(&self.inner, function, kind)?;
        self.track(function, kind, |tracked| {
            if tracked.incoming {
                let state = State::Updated;
                return Err(GuardError::State { function, state });
            }
            tracked.incoming = true;
            tracked.unconfirmed = survey.to_confirm().collect();
            Ok(())
        })?;
        let mut lasting = survey.settings();
        lasting.retain_for_life();
        let mut functions = self.functions.write();
        functions.closed.remove(&function);
        functions.lasting.insert(function, lasting);
        Ok(())
    }

    /// Whether the function arrived and was not adopted yet.
    pub fn is_closed(&self, function: Sbdf) -> bool {
        self.functions.read().closed.contains(&function)
    }

    /// The function is gone: what was adopted for its life is forgotten. Does nothing to its two
    /// sides.
    pub fn forget(&self, function: Sbdf) {
        self.functions.write().lasting.remove(&function);
    }

    /// The kind that the function is tracked as; `None` if it is not.
    pub fn kind(&self, function: Sbdf) -> Option<Kind> {
        self.functions.read().tracked.get(&function).map(|t| t.kind)
    }

    /// Sets the function up at a boot, before a driver has it: the three stages of
    /// [`crate::setup`], with what is known of it. The same call for every function, live or not; a
    /// second one writes nothing.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn init(&self, function: Sbdf, requests: &[Request]) -> Result<Settings, SetError> {
        self.setup(function, Phase::Boot, requests)
    }

    /// Brings fields into the states that are asked for, and leaves the others alone.
    ///
    /// A request for a field that must stay is an error unless it asks for what is there. So the
    /// IOMMU's driver says that it knows in which state ATS, PRI and PASID arrived: a function in
    /// which one of them is on is not finished before.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn set(&self, function: Sbdf, requests: &[Request]) -> Result<Settings, SetError> {
        self.setup(function, Phase::Later, requests)
    }

    fn setup(
        &self,
        function: Sbdf,
        phase: Phase,
        requests: &[Request],
    ) -> Result<Settings, SetError> {
        let (known, lasting) = {
            let functions = self.functions.read();
            let known = functions.tracked.get(&function);
            let known = known.map(|tracked| (tracked.kind, tracked.is_guarded()));
            (known, functions.lasting.get(&function).cloned())
        };
        let kind = match known {
            Some((kind, _)) => kind,
            None => kind_of(&self.inner, function)?,
        };
        let past = match (known, &lasting) {
            (Some((_, true)), _) => Past::Live,
            (_, Some(settings)) => Past::WasLive(settings),
            (_, None) => Past::None,
        };
        let survey = match known {
            Some(_) => Survey::of(&self.inner, function, kind)?,
            None => Survey::of_found(&self.inner, function, kind)?,
        };
        // Written through the guard, which has the last word.
        let settings = survey.decide(phase, past, requests)?.apply(self)?;
        if let Some(tracked) = self.functions.write().tracked.get_mut(&function) {
            let asked = |setting| requests.iter().any(|request| request.setting == setting);
            tracked.unconfirmed.retain(|&(setting, _)| !asked(setting));
        }
        Ok(settings)
    }

    /// FINISH: the function is its new owner's; from now on writes go through.
    ///
    /// # Errors
    /// [`GuardError::State`] unless it is incoming; [`GuardError::Unconfirmed`].
    pub fn finish(&self, function: Sbdf) -> Result<(), GuardError> {
        self.check_confirmed(function)?;
        let mut done = false;
        self.untrack(function, |tracked| {
            done = core::mem::replace(&mut tracked.incoming, false);
        });
        let state = State::Normal;
        let refused = GuardError::State { function, state };
        if done { Ok(()) } else { Err(refused) }
    }

    /// Whether all that must be confirmed before [`Guarded::finish`] is.
    ///
    /// # Errors
    /// [`GuardError::Unconfirmed`].
    pub fn check_confirmed(&self, function: Sbdf) -> Result<(), GuardError> {
        let functions = self.functions.read();
        let tracked = functions.tracked.get(&function);
        match tracked.and_then(|tracked| tracked.unconfirmed.first()) {
            None => Ok(()),
            Some(&(_, field)) => Err(GuardError::Unconfirmed { function, field }),
        }
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
            .tracked
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
        if let Some(tracked) = functions.tracked.get_mut(&function) {
            if !tracked.kind.covers(kind) {
                let known = tracked.kind;
                return Err(GuardError::Kind { function, known });
            }
            for_each_field_of_fit(&self.inner, function, kind, |_| {})?;
            return event(tracked);
        }
        let mut tracked = Tracked {
            kind,
            kept: Vec::new(),
            outgoing: State::Normal,
            incoming: false,
            unconfirmed: Vec::new(),
        };
        for_each_field_of_fit(&self.inner, function, kind, |field: Field| {
            let action = match field.class {
                Class::Preserve => false,
                Class::Action => true,
                _ => return,
            };
            tracked.kept.push(Kept {
                dword: field.dword,
                bits: field.bits,
                action,
                name: field.row.field,
                reason: field.row.reason,
            });
        })?;
        tracked.kept.sort_by_key(|kept| kept.dword);
        event(&mut tracked)?;
        functions.tracked.insert(function, tracked);
        Ok(())
    }

    /// Applies `event` to the function, and forgets it if no side of it is left.
    fn untrack(&self, function: Sbdf, event: impl FnOnce(&mut Tracked)) {
        let mut functions = self.functions.write();
        if let Some(tracked) = functions.tracked.get_mut(&function) {
            event(tracked);
            if tracked.outgoing == State::Normal && !tracked.incoming {
                functions.tracked.remove(&function);
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
        if functions.closed.contains(&function) {
            return Err(PciError::Refused {
                function,
                field: "every register",
                reason: "it was preserved, and nobody has looked yet whether it is still the same",
            });
        }
        if let Some(tracked) = functions.tracked.get(&function)
            && tracked.is_guarded()
        {
            self.judge(tracked, function, at, value)?;
        }
        self.inner.write(function, at, value)
    }
}

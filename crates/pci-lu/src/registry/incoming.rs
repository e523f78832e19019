//! The incoming side: what the predecessor preserved.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use kho_hal::{FrozenMem, PciConfigAccess, Sbdf};

use crate::bars::{BarError, Bars};
use crate::fields::{FieldError, kind_of};
use crate::functions::{Facts, Functions};
use crate::guard::GuardError;
use crate::record::{Form, Record};
use crate::registry::{PreserveError, Registry, Topology, path};
use crate::table::Kind;

/// What was received, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Side {
    form: Option<Form>,
    functions: BTreeMap<Sbdf, Arrived>,
    facts: BTreeMap<Sbdf, Facts>,
    /// Whether enumeration is over.
    verified: bool,
    /// Functions whose count is not 0.
    left: usize,
}

#[derive(Debug)]
struct Arrived {
    /// Who needs it: itself, and what is below it.
    refcount: u16,
    /// How many of these it is itself: 0 if it is there only for what is below it.
    own: u16,
    /// Whether the record has it; a bridge of the first form is only found to be above one.
    recorded: bool,
    /// What it reads as: vendor and device, revision and class; `None` until it is found.
    found: Option<[u32; 2]>,
    /// What it depends on; known once everything is verified.
    upstream: Option<Sbdf>,
    /// Whether somebody takes its interrupts.
    interrupts: bool,
}

/// Why a function was not set up, verified or finished. Nothing has changed, and nothing was
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpdateError {
    /// A record was received already.
    Received,
    /// The function is not incoming: not in the record, not found, or finished.
    NotIncoming {
        /// The function.
        function: Sbdf,
    },
    /// The function is in the record, and not in what is known beside it: one of the two is not whole.
    NotKnown {
        /// The function.
        function: Sbdf,
    },
    /// The function is in the record, and enumeration did not find it.
    Missing {
        /// The function.
        function: Sbdf,
    },
    /// Another function answers at this place.
    Identity {
        /// The place.
        function: Sbdf,
        /// Vendor and device, or revision and class, as they read.
        found: u32,
        /// As they read before.
        expected: u32,
    },
    /// The function is there only for what is below it; it is finished with the last of that.
    Depended {
        /// The function.
        function: Sbdf,
    },
    /// Its registers cannot be read.
    Unreadable {
        /// The function.
        function: Sbdf,
    },
    /// It counts other users than there are at or below it.
    Refcount {
        /// The function.
        function: Sbdf,
    },
    /// What it depends on cannot be told.
    Path(PreserveError),
    /// It cannot be guarded: it is not what was preserved, and must not be written to. Or it cannot
    /// be finished yet.
    Guard(GuardError),
    /// The sizes of its BARs are not known, or cannot be right.
    Bars(BarError),
    /// The function is not finished.
    NotFinished {
        /// The lowest such function.
        function: Sbdf,
    },
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received => f.write_str("a record was received already"),
            Self::NotIncoming { function } => write!(f, "{function} is not incoming"),
            Self::NotKnown { function } => {
                write!(
                    f,
                    "{function} was preserved, and the facts beside the record lack it"
                )
            }
            Self::Missing { function } => write!(f, "{function} was preserved and is not there"),
            Self::Identity {
                function,
                found,
                expected,
            } => write!(f, "{function} reads {found:08x}, and was {expected:08x}"),
            Self::Depended { function } => {
                write!(f, "{function} is needed by functions below it")
            }
            Self::Unreadable { function } => write!(f, "{function} cannot be read"),
            Self::Refcount { function } => {
                write!(f, "{function} counts other users than there are below it")
            }
            Self::Path(cause) => cause.fmt(f),
            Self::Guard(cause) => cause.fmt(f),
            Self::Bars(cause) => cause.fmt(f),
            Self::NotFinished { function } => write!(f, "{function} is not finished"),
        }
    }
}

impl core::error::Error for UpdateError {}

impl From<BarError> for UpdateError {
    fn from(cause: BarError) -> Self {
        Self::Bars(cause)
    }
}

/// A transition that did not take place: the state it started from, and why.
#[derive(Debug)]
pub struct Refused<S> {
    /// The state, as it was.
    pub state: S,
    /// Why.
    pub error: UpdateError,
}

impl<S> fmt::Display for Refused<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<S: fmt::Debug> core::error::Error for Refused<S> {}

impl<S> From<Refused<S>> for UpdateError {
    fn from(refused: Refused<S>) -> Self {
        refused.error
    }
}

/// A record was received, and enumeration goes on: functions are found ([`Registry::set_up`]), none
/// is finished.
#[must_use = "devices are doing DMA"]
pub struct Received<C>(Registry<C>);

/// UPDATED: all preserved functions were found, and their owners take them over.
#[must_use = "functions wait to be finished"]
pub struct Updated<C>(Registry<C>);

impl<C> fmt::Debug for Received<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").finish_non_exhaustive()
    }
}

impl<C> fmt::Debug for Updated<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updated").finish_non_exhaustive()
    }
}

/// What became of bus numbers that enumeration asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusNumbers {
    /// They stay: devices that are live have them in their requester IDs.
    Inherited(RangeInclusive<u8>),
    /// They are not valid: nothing below is to be scanned, and no other bridge gets new ones.
    Closed,
    /// Nobody depends on them: as on any boot.
    Free,
}

/// A function was finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "an interrupt may have been lost, and its owner waits for it"]
pub struct Finished {
    /// Functions that are their owners' now, and whose owner of interrupts is to be called once:
    /// one may have been lost while nobody listened.
    pub interrupts: Vec<Sbdf>,
}

impl<C: PciConfigAccess> Registry<C> {
    /// Takes over what the predecessor preserved, before enumeration, and what it knew of it, if it
    /// left that. Until [`Registry::set_up`] has found a function that is in the record, no write to
    /// it passes.
    ///
    /// # Errors
    /// [`UpdateError::Received`]; [`UpdateError::NotKnown`] if `functions` lacks one of the record.
    pub fn receive<M: FrozenMem>(
        &self,
        record: &Record<'_>,
        functions: Option<&Functions<'_, M>>,
    ) -> Result<Received<C>, UpdateError> {
        let mut side = self.shared.incoming.lock();
        if side.form.is_some() {
            return Err(UpdateError::Received);
        }
        let facts: BTreeMap<_, _> = functions.map(|f| f.iter().collect()).unwrap_or_default();
        let known = |function: &Sbdf| functions.is_none() || facts.contains_key(function);
        let mut recorded = record.iter().map(|entry| entry.function);
        if let Some(function) = recorded.find(|function| !known(function)) {
            return Err(UpdateError::NotKnown { function });
        }
        side.facts = facts;
        side.form = Some(record.form());
        side.left = record.len();
        for entry in record.iter() {
            let arrived = Arrived {
                refcount: entry.refcount,
                own: 0,
                recorded: true,
                found: None,
                upstream: None,
                interrupts: false,
            };
            self.shared.guard.close(entry.function);
            side.functions.insert(entry.function, arrived);
        }
        Ok(Received(self.clone()))
    }

    /// Enumeration has found a function, and written nothing to it yet. Returns whether it is
    /// incoming; writes to it are judged from now on then. A function that was finished and is
    /// found again is not incoming; if it is another one by now, nothing is left of the first.
    ///
    /// Its kind is what the predecessor knew, else [what its registers allow](kind_of).
    ///
    /// The first form has neither counts nor the bridges above a function. There, a bridge whose bus
    /// numbers cover that of a function in the record is incoming, too, and counts those functions; a
    /// bridge is set up before what is below it.
    ///
    /// # Errors
    /// [`UpdateError::Identity`], [`UpdateError::Guard`], [`UpdateError::Unreadable`]. The function
    /// stays closed to all writes.
    pub fn set_up(&self, function: Sbdf) -> Result<bool, UpdateError> {
        let mut side = self.shared.incoming.lock();
        let guard = &self.shared.guard;
        let Some(arrived) = side.functions.get(&function) else {
            return match side.form {
                Some(Form::V1) => self.set_up_above(&mut side, function),
                _ => Ok(false),
            };
        };
        if arrived.refcount != 0 && arrived.found.is_some() {
            return Ok(true);
        }
        let mut refcount = arrived.refcount;
        let read = |offset| {
            let read = guard.read_u32(function, offset);
            read.map_err(|_| UpdateError::Unreadable { function })
        };
        let identity = [read(0x00)?, read(0x08)?];
        if refcount == 0 {
            if arrived.found != Some(identity) {
                self.drop_traces(&mut side, function);
            }
            return Ok(false);
        }
        let facts = side.facts.get(&function);
        if let Some(facts) = facts {
            for (found, expected) in identity.into_iter().zip([facts.identity, facts.class]) {
                if found != expected {
                    return Err(UpdateError::Identity {
                        function,
                        found,
                        expected,
                    });
                }
            }
        }
        let kind = match facts {
            Some(facts) => facts.kind,
            None => self.kind(function)?,
        };
        if (side.form, kind) == (Some(Form::V1), Kind::Bridge) {
            refcount = self
                .below(&side, function)?
                .checked_add(refcount)
                .ok_or(UpdateError::Refcount { function })?;
        }
        guard.adopt(function, kind).map_err(UpdateError::Guard)?;
        if let Some(arrived) = side.functions.get_mut(&function) {
            arrived.refcount = refcount;
            arrived.found = Some(identity);
        }
        Ok(true)
    }

    /// A function is not there any more, and what comes in its place is another one: whether it was
    /// preserved, and what was adopted for its life, is forgotten. Nothing is forgotten of one that
    /// is not finished.
    pub fn removed(&self, function: Sbdf) {
        let mut side = self.shared.incoming.lock();
        let finished = |arrived: &Arrived| arrived.refcount == 0;
        if side.functions.get(&function).is_some_and(finished) {
            self.drop_traces(&mut side, function);
        }
    }

    fn drop_traces(&self, side: &mut Side, function: Sbdf) {
        side.functions.remove(&function);
        side.facts.remove(&function);
        self.shared.guard.forget(function);
    }

    fn kind(&self, function: Sbdf) -> Result<Kind, UpdateError> {
        let kind = kind_of(&self.shared.guard, function);
        kind.map_err(|cause| UpdateError::Guard(cause.into()))
    }

    /// A function that the record does not have: incoming if it is a bridge above one, as its form
    /// has none.
    fn set_up_above(&self, side: &mut Side, bridge: Sbdf) -> Result<bool, UpdateError> {
        // What is below a bridge that comes later has a way to memory without it.
        if side.verified || side.left == 0 {
            return Ok(false);
        }
        match kind_of(&self.shared.guard, bridge) {
            Ok(Kind::Bridge) => {}
            Ok(_) | Err(FieldError::Header { .. }) => return Ok(false),
            Err(_) => return Err(UpdateError::Unreadable { function: bridge }),
        }
        let refcount = self.below(side, bridge)?;
        if refcount == 0 {
            return Ok(false);
        }
        let guard = &self.shared.guard;
        let read = |offset| {
            let read = guard.read_u32(bridge, offset);
            read.map_err(|_| UpdateError::Unreadable { function: bridge })
        };
        let identity = [read(0x00)?, read(0x08)?];
        guard
            .adopt(bridge, Kind::Bridge)
            .map_err(UpdateError::Guard)?;
        let arrived = Arrived {
            refcount,
            own: 0,
            recorded: false,
            found: Some(identity),
            upstream: None,
            interrupts: false,
        };
        side.functions.insert(bridge, arrived);
        side.left += 1;
        Ok(true)
    }

    /// How many functions of the record are on the buses below a bridge.
    fn below(&self, side: &Side, bridge: Sbdf) -> Result<u16, UpdateError> {
        let buses = self.shared.guard.read_u32(bridge, 0x18);
        let buses = buses.map_err(|_| UpdateError::Unreadable { function: bridge })?;
        let [_, secondary, subordinate, _] = buses.to_le_bytes();
        if secondary == 0 || secondary > subordinate {
            return Ok(0);
        }
        let at = |bus: u8, rest: u16| Sbdf::from_bdf(bridge.segment(), u16::from(bus) << 8 | rest);
        let below = at(secondary, 0)..=at(subordinate, 0xff);
        let left = |a: &Arrived| a.recorded && a.refcount != 0;
        let below = side.functions.range(below).filter(|(_, a)| left(a));
        let refused = UpdateError::Refcount { function: bridge };
        u16::try_from(below.count()).map_err(|_| refused)
    }

    /// Whether the function was found and is not finished yet.
    pub fn is_incoming(&self, function: Sbdf) -> bool {
        let side = self.shared.incoming.lock();
        let arrived = side.functions.get(&function);
        arrived.is_some_and(|arrived| arrived.found.is_some() && arrived.refcount != 0)
    }

    /// Whether the function came through the update, finished or not. It ends with the function; see
    /// [`Registry::removed`].
    pub fn was_preserved(&self, function: Sbdf) -> bool {
        let side = self.shared.incoming.lock();
        let arrived = side.functions.get(&function);
        arrived.is_some_and(|arrived| arrived.found.is_some())
    }

    /// Functions in the record that are not finished.
    pub fn incoming_count(&self) -> usize {
        self.shared.incoming.lock().left
    }

    /// The sizes of a function's BARs. For one that is incoming they are those that the predecessor
    /// knew, held against what can be read, without a write; any other, also one that is finished, is
    /// asked, as on any boot.
    ///
    /// # Errors
    /// [`UpdateError::Bars`]. Sizes that are not known are no invitation to ask.
    pub fn bars(&self, function: Sbdf) -> Result<Bars, UpdateError> {
        let (incoming, facts) = {
            let side = self.shared.incoming.lock();
            let facts = side.facts.get(&function).and_then(|facts| facts.bars);
            let arrived = side.functions.get(&function);
            (arrived.is_some_and(|a| a.refcount != 0), facts)
        };
        let guard = &self.shared.guard;
        match (incoming, facts) {
            (false, _) => Ok(Bars::probe(guard, function)?),
            (true, None) => Err(BarError::Unknown { function }.into()),
            (true, Some(bars)) => {
                bars.check(guard, function)?;
                Ok(bars)
            }
        }
    }

    /// Enumeration has come to a bridge: what becomes of its bus numbers. `within` are those that it
    /// may have: the bridge above forwards them, and no sibling does.
    ///
    /// As long as a function is incoming, every bridge keeps its numbers, incoming or not. Numbers
    /// that cannot be are cleared, unless the bridge itself is incoming, found or not, which is not
    /// written to.
    ///
    /// # Errors
    /// [`UpdateError::Unreadable`].
    pub fn bus_numbers(
        &self,
        bridge: Sbdf,
        within: RangeInclusive<u8>,
    ) -> Result<BusNumbers, UpdateError> {
        if self.incoming_count() == 0 {
            return Ok(BusNumbers::Free);
        }
        let guard = &self.shared.guard;
        let unreadable = |_| UpdateError::Unreadable { function: bridge };
        let buses = guard.read_u32(bridge, 0x18).map_err(unreadable)?;
        let [primary, secondary, subordinate, _] = buses.to_le_bytes();
        let valid = primary == bridge.bus()
            && secondary > primary
            && secondary <= subordinate
            && within.contains(&secondary)
            && within.contains(&subordinate);
        if valid {
            return Ok(BusNumbers::Inherited(secondary..=subordinate));
        }
        let writable = !guard.is_guarded(bridge) && !guard.is_closed(bridge);
        if writable && buses & 0x00ff_ff00 != 0 {
            let cleared = buses & 0xff00_00ff;
            guard.write_u32(bridge, 0x18, cleared).map_err(unreadable)?;
        }
        Ok(BusNumbers::Closed)
    }
}

impl<C: PciConfigAccess> Received<C> {
    /// Enumeration is over: every function in the record must have been found, with everything
    /// above it, and each must count itself and what is directly below it.
    ///
    /// # Errors
    /// [`UpdateError::Missing`], [`UpdateError::NotIncoming`] if something that a function depends on
    /// is not incoming, [`UpdateError::Refcount`], [`UpdateError::Path`].
    pub fn verify(self, topology: &impl Topology) -> Result<Updated<C>, Refused<Self>> {
        match self.check(topology) {
            Ok(()) => Ok(Updated(self.0)),
            Err(error) => Err(Refused { state: self, error }),
        }
    }

    fn check(&self, topology: &impl Topology) -> Result<(), UpdateError> {
        let shared = &self.0.shared;
        let mut arrived: BTreeMap<Sbdf, Counts> = BTreeMap::new();
        for (&function, now) in &shared.incoming.lock().functions {
            if now.found.is_none() {
                return Err(UpdateError::Missing { function });
            }
            let counts = Counts {
                all: now.refcount,
                recorded: now.recorded,
                ..Counts::default()
            };
            arrived.insert(function, counts);
        }
        // Not under the lock: whoever answers may ask the registry.
        let functions: Vec<_> = arrived.keys().copied().collect();
        for function in functions {
            // Whether the way up ends, and what is on it fits.
            let path = path(topology, function).map_err(UpdateError::Path)?;
            let upstream = path.get(1).map(|(above, _)| *above);
            let Some(counts) = arrived.get_mut(&function) else {
                continue;
            };
            counts.upstream = upstream;
            let all = counts.all;
            if let Some(above) = upstream {
                let missing = UpdateError::NotIncoming { function: above };
                arrived.get_mut(&above).ok_or(missing)?.below += u64::from(all);
            }
        }
        for (&function, counts) in &mut arrived {
            let itself = u64::from(counts.all).checked_sub(counts.below);
            // A bridge may have been asked for more than once.
            let most = match (counts.recorded, shared.guard.kind(function)) {
                (false, _) => 0,
                (true, Some(Kind::Bridge)) => u16::MAX,
                // Its own DMA is not kept, so nobody can have asked for it.
                (true, Some(Kind::Physical)) => 0,
                (true, _) => 1,
            };
            match itself.and_then(|itself| u16::try_from(itself).ok()) {
                Some(itself) if itself <= most => counts.own = itself,
                _ => return Err(UpdateError::Refcount { function }),
            }
        }
        let mut side = shared.incoming.lock();
        for (function, counts) in arrived {
            if let Some(arrived) = side.functions.get_mut(&function) {
                arrived.own = counts.own;
                arrived.upstream = counts.upstream;
            }
        }
        side.verified = true;
        Ok(())
    }
}

/// A function while it is verified.
#[derive(Debug, Default)]
struct Counts {
    all: u16,
    own: u16,
    below: u64,
    recorded: bool,
    upstream: Option<Sbdf>,
}

impl Side {
    /// The function and all that it depends on, up to the root, as they were verified.
    fn path(&self, function: Sbdf) -> Vec<Sbdf> {
        let above = |function: &Sbdf| self.functions.get(function)?.upstream;
        core::iter::successors(Some(function), above).collect()
    }
}

impl<C: PciConfigAccess> Updated<C> {
    /// Whether the function is its driver's to take over as it is. Changes nothing.
    ///
    /// # Errors
    /// [`UpdateError::NotIncoming`], [`UpdateError::Depended`].
    pub fn retrieve(&self, function: Sbdf) -> Result<(), UpdateError> {
        let side = self.0.shared.incoming.lock();
        match side.functions.get(&function) {
            Some(arrived) if arrived.own > 0 => Ok(()),
            Some(arrived) if arrived.refcount > 0 => Err(UpdateError::Depended { function }),
            _ => Err(UpdateError::NotIncoming { function }),
        }
    }

    /// Somebody has set up the delivery of the function's interrupts and takes them.
    ///
    /// # Errors
    /// [`UpdateError::NotIncoming`].
    pub fn own_interrupts(&self, function: Sbdf) -> Result<(), UpdateError> {
        let mut side = self.0.shared.incoming.lock();
        match side.functions.get_mut(&function) {
            Some(arrived) if arrived.refcount > 0 => {
                arrived.interrupts = true;
                Ok(())
            }
            _ => Err(UpdateError::NotIncoming { function }),
        }
    }

    /// FINISH: the function is its owner's. One user less for it and for all that it depended on when
    /// it was verified; what
    /// has none left is written to as on any boot.
    ///
    /// # Errors
    /// [`UpdateError::NotIncoming`] if the function is not, or is finished;
    /// [`UpdateError::Depended`]; [`UpdateError::Guard`] with [`GuardError::Unconfirmed`] if
    /// translation is on in what would be free.
    pub fn finish(&self, function: Sbdf) -> Result<Finished, UpdateError> {
        let mut side = self.0.shared.incoming.lock();
        let guard = &self.0.shared.guard;
        let path = side.path(function);
        for &function in &path {
            match side.functions.get(&function) {
                Some(arrived) if arrived.refcount == 1 => {
                    guard
                        .check_confirmed(function)
                        .map_err(UpdateError::Guard)?;
                }
                Some(arrived) if arrived.refcount > 1 => {}
                _ => return Err(UpdateError::NotIncoming { function }),
            }
        }
        match side.functions.get_mut(&function) {
            Some(arrived) if arrived.own > 0 => arrived.own -= 1,
            _ => return Err(UpdateError::Depended { function }),
        }
        let mut finished = Finished::default();
        for function in path {
            let Some(arrived) = side.functions.get_mut(&function) else {
                continue;
            };
            arrived.refcount -= 1;
            if arrived.refcount == 0 {
                if arrived.interrupts {
                    finished.interrupts.push(function);
                }
                side.left -= 1;
                // It was adopted when it was found, and is confirmed.
                let _ = guard.finish(function);
            }
        }
        Ok(finished)
    }

    /// The end of the update: NORMAL.
    ///
    /// # Errors
    /// [`UpdateError::NotFinished`].
    pub fn close(self) -> Result<(), Refused<Self>> {
        let side = self.0.shared.incoming.lock();
        let mut left = side.functions.iter();
        let left = left.find(|(_, arrived)| arrived.refcount > 0);
        let Some((&function, _)) = left else {
            return Ok(());
        };
        drop(side);
        let error = UpdateError::NotFinished { function };
        Err(Refused { state: self, error })
    }
}

//! Taking a function into the cache.

use core::fmt;

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};

use crate::bits::ByteSet;
use crate::cache::Cached;
use crate::effects::{every_bus_above, pack};
use crate::flags::{HEADER_TYPE, MAPPED, NO_BIST, UNLISTED_ABSENT, UNLISTED_CONSTANT, fixed_bits};
use crate::function::{Function, Keep, Kind, State};
use crate::infer::Inference;
use crate::space::{MAP, Space};
use crate::walk::Source;
use kho_hal::sync::Ordering;

/// What the owner of a function says about bytes that belong to no capability.
///
/// The specification says nothing about them. In practice most are not there and read as zero,
/// and the rest are the vendor's: they may be status, or change with a write elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// Always ask the hardware. Right for every device.
    #[default]
    PassThrough,
    /// They change only when they are written, and a function-level reset leaves them alone.
    ///
    /// Risk: a register that the device changes by itself is answered with an old value. For
    /// devices whose documentation is known, or virtual ones.
    Constant,
    /// They are not there: zero is answered without asking the hardware even once. In a function
    /// without PCI Express this is said of the first 256 bytes only.
    ///
    /// Risk: as for `Constant`, and a register that is there is never seen until it is written.
    Absent,
}

/// How a function came into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// By walking its capabilities on the hardware; nothing was saved of it.
    Inferred,
    /// With what a predecessor saved.
    Restored,
    /// By walking its capabilities, although something was saved of it.
    Distrusted(Distrust),
}

/// Why what was saved of a function is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Distrust {
    /// Its description or its page is damaged, or of the other [`crate::Variant`].
    Damaged,
    /// The page does not say which device it is of.
    Unidentified,
    /// Another device is there now: vendor, device, class, revision or header type differ.
    Changed,
    /// It was written to, reset, or affected by a write elsewhere, before it was added.
    Touched,
}

/// How often an addition begins when writes to the function come between.
const ATTEMPTS: usize = 3;

/// Why a function could not be added. It is not in the cache then, and is passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddError {
    /// Vendor and class read as all ones: nothing is there.
    Absent {
        /// The function.
        function: Sbdf,
    },
    /// The function is there and answers that it is not ready yet.
    NotReady {
        /// The function.
        function: Sbdf,
    },
    /// Identity or header type could not be read.
    Unreadable {
        /// The function.
        function: Sbdf,
    },
    /// No memory, or no place left.
    NoMemory {
        /// The function.
        function: Sbdf,
    },
    /// It was forgotten meanwhile, or written to or reset again and again.
    Interrupted {
        /// The function.
        function: Sbdf,
    },
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { function } => write!(f, "{function}: nothing there"),
            Self::NotReady { function } => write!(f, "{function}: not ready"),
            Self::Unreadable { function } => write!(f, "{function}: identity unreadable"),
            Self::NoMemory { function } => write!(f, "{function}: no memory for its cache"),
            Self::Interrupted { function } => write!(f, "{function}: changed while being added"),
        }
    }
}

impl core::error::Error for AddError {}

impl<'m> Function<'m> {
    /// Takes an inference over, and what the owner says about the rest. Returns the bytes that
    /// are zero because the owner says they are absent.
    pub(crate) fn set_map(&self, inference: &Inference) -> impl Iterator<Item = Access> {
        let flags = self.flags.load(Ordering::Acquire);
        let declared = flags & (UNLISTED_CONSTANT | UNLISTED_ABSENT) != 0;
        let short = flags & UNLISTED_ABSENT != 0 && !inference.express;
        let unlisted = if declared && inference.is_complete() {
            unlisted(inference, short)
        } else {
            ByteSet::EMPTY
        };
        for (word, region) in self.regions.iter().zip(
            inference
                .regions()
                .map(Some)
                .chain(core::iter::repeat(None)),
        ) {
            word.store(region.map_or(0, pack), Ordering::Release);
        }
        let inferred = inference.cacheable.words().iter();
        let inferred = inferred.zip(inference.constant.words());
        for (n, ((cacheable, constant), unlisted)) in
            inferred.zip(unlisted.words()).enumerate().take(MAP)
        {
            if let Some(word) = self.constant.get(n) {
                let fixed = fixed_bits(n, inference.header_type, inference.has_bist);
                word.store(constant | unlisted | fixed, Ordering::Release);
            }
            if let Some(word) = self.space().and_then(|space| space.cacheable(n)) {
                word.store(cacheable | unlisted, Ordering::Release);
            }
        }
        let header = u64::from(inference.header_type);
        let bist = if inference.has_bist { 0 } else { NO_BIST };
        let kept = flags & !(HEADER_TYPE | NO_BIST);
        self.flags
            .store(kept | header | bist | MAPPED, Ordering::Release);
        let absent = match flags & UNLISTED_ABSENT {
            0 => ByteSet::EMPTY,
            _ => unlisted,
        };
        let offsets = (0..Access::SPACE).filter(move |offset| absent.contains(*offset));
        offsets.filter_map(|offset| Access::new(offset, Width::U8).ok())
    }

    /// Keeps the bytes that the owner says are absent, as zeros.
    pub(crate) fn keep_absent(&self, absent: impl Iterator<Item = Access>) {
        for at in absent {
            if let Some(ticket) = self.claim(at, Kind::Adding) {
                self.keep(ticket, 0);
            }
        }
    }
}

/// Bytes outside the header and every capability; only the first 256 if `short`.
fn unlisted(inference: &Inference, short: bool) -> ByteSet {
    let mut unlisted = ByteSet::EMPTY;
    let mut from = 0;
    let limit = if short { 0x100 } else { 0x1000 };
    for range in inference.listed.ranges() {
        unlisted.insert(from.min(limit)..range.start.min(limit));
        from = range.end;
    }
    unlisted.insert(from.min(limit)..limit);
    unlisted
}

impl<'m, C: PciConfigAccess> Cached<'m, C> {
    /// Takes a function into the cache; its unlisted bytes are passed through.
    ///
    /// # Errors
    /// As [`Cached::add_with`].
    pub fn add(&self, function: Sbdf) -> Result<Added, AddError> {
        self.add_with(function, Unlisted::PassThrough)
    }

    /// Takes a function into the cache, or anew if it is in it.
    ///
    /// A function that a predecessor saved is identified with three reads and is ready then.
    /// Otherwise its capabilities are walked on the hardware: some fifty reads. Allocates the
    /// memory that holds its registers (5 KiB) when the address is new and nothing was saved.
    ///
    /// Additions of one function wait for each other, spinning: one must not be interrupted, on
    /// its CPU, by another of the same function. Nothing else waits for an addition.
    ///
    /// # Errors
    /// [`AddError`]; the function is passed through then.
    pub fn add_with(&self, function: Sbdf, unlisted: Unlisted) -> Result<Added, AddError> {
        let no_memory = AddError::NoMemory { function };
        let entry = self.index.find_or_make(function).ok_or(no_memory)?;
        let policy = match unlisted {
            Unlisted::PassThrough => 0,
            Unlisted::Constant => UNLISTED_CONSTANT,
            Unlisted::Absent => UNLISTED_ABSENT,
        };
        let _setup = entry.setup.lock();
        let was_bridge = entry.is_bridge();
        let added = self.add_alone(entry, function, policy);
        if added.is_err() {
            // Whoever interrupted the addition may have taken it out already, but not what is
            // below it.
            self.forget_one(entry);
            if was_bridge {
                self.reset_buses(function, every_bus_above(function), true);
            }
            self.forget_virtual_functions(entry, None);
        }
        added
    }

    /// For the holder of the function's `setup`.
    fn add_alone(
        &self,
        entry: &Function<'m>,
        function: Sbdf,
        policy: u64,
    ) -> Result<Added, AddError> {
        let how = self.adopt(entry, function, policy)?;
        if how == Added::Restored {
            return Ok(how);
        }
        if !entry.set_space(|| self.new_space()) {
            return Err(AddError::NoMemory { function });
        }
        for _ in 0..ATTEMPTS {
            let now = entry.enter(Kind::Adding);
            self.wide.look();
            self.infer(entry, function, policy)?;
            if self.complete(entry, now) {
                return Ok(how);
            }
            if entry.state().kind() != Kind::Adding {
                // Forgotten.
                break;
            }
        }
        Err(AddError::Interrupted { function })
    }

    /// Ends the addition that began with `now`, if nothing came between: what was kept is
    /// answered.
    pub(crate) fn complete(&self, entry: &Function<'_>, now: State) -> bool {
        let completed = entry.advance(now, Kind::Active);
        if completed {
            entry.publish(now.active());
            if !self.is_enabled() {
                // Switched off, or about to be: nothing is to be answered.
                self.reset_one(entry, Keep::Constants);
            }
        }
        completed
    }

    fn new_space(&self) -> Option<Space<'m>> {
        match &self.pages {
            None => Some(Space::heap()),
            Some(pages) => pages.space(),
        }
    }

    fn infer(&self, entry: &Function<'m>, function: Sbdf, policy: u64) -> Result<(), AddError> {
        entry.wipe(Keep::Nothing);
        entry.unhold();
        // What it was before counts until it is known what it is: what is below it stays in the
        // cache meanwhile.
        let before = entry.flags.load(Ordering::Acquire) & HEADER_TYPE;
        entry.flags.store(policy | before, Ordering::Release);
        let mut source = |at: Access| self.learn(entry, at).ok();
        let unreadable = AddError::Unreadable { function };
        let identity = source.u32(0).ok_or(unreadable)?;
        let class = source.u32(8).ok_or(unreadable)?;
        if class == u32::MAX {
            return Err(AddError::Absent { function });
        }
        if identity == 0xffff_0001 {
            return Err(AddError::NotReady { function });
        }
        // It may have become ready between the two reads, and only a virtual function shows ones.
        let identity = match identity {
            u32::MAX => source.u32(0).ok_or(unreadable)?,
            identity => identity,
        };
        entry.set_identity(identity, class);
        let inference = Inference::new(&mut source).ok_or(unreadable)?;
        entry.keep_absent(entry.set_map(&inference));
        if entry.is_bridge() {
            entry.set_buses(self.buses_below(function));
        }
        entry.hold(|at| self.hardware(&entry.counters, function, at).ok());
        // A function that became ready meanwhile was read in two states, and what it answered in
        // the first is not its own.
        if source.u32(0) != Some(identity) || source.u32(8) != Some(class) {
            return Err(AddError::NotReady { function });
        }
        Ok(())
    }

    /// Reads a register of a function that is being added, and keeps it.
    pub(crate) fn learn(&self, entry: &Function<'_>, at: Access) -> Result<u32, PciError> {
        let ticket = entry.claim(at, Kind::Adding);
        let is_narrow = !self.wide.any();
        let value = self.hardware(&entry.counters, entry.place(), at);
        if let Some(ticket) = ticket {
            match value {
                // Ones may be an absent function's; a virtual one's vendor is made sure of.
                Ok(value) if is_narrow && (value != at.width().mask() || at.offset() == 0) => {
                    entry.keep(ticket, value);
                }
                _ => entry.release(ticket),
            }
        }
        value
    }
}

//! One cached function: what may be answered without the hardware, and for how long.
//!
//! # Protocol
//! * **Hit**: load the line, the value, and the line again; the bytes' bits were set and the
//!   generation did not move. No lock, no loop, no store.
//! * **Fill**: claim the line, check the state, read the hardware, store the value, and set the
//!   bits only if the generation is the one that was claimed.
//! * **Write**: count in as a writer, invalidate (clear bits, raise the generation), write the
//!   hardware, invalidate again, count out. A fill claimed before the first invalidation is
//!   refused by the generation; one claimed after it sees the writer and stores nothing. So from
//!   the first invalidation to the end nothing of those bytes is answered from the cache. The
//!   second one is for other functions, which the write affects and which have no writer.
//! * **Reset**: change the state, then invalidate every line. A fill that saw the old state is
//!   refused by its line's generation; one that comes later sees the new state.
//!
//! After a reset the function is *unsettled*: every read reaches the hardware until one of them
//! returns what is known of this device for certain, its identity or a constant register. Only
//! then are the constants, which the reset left in the page, answered again.

use core::ops::Range;

use kho_hal::{Access, Sbdf};
use spin::Once;

use crate::line;
use crate::space::{LINES, MAP, Space};
use crate::stats::Counters;
use crate::sync::{AtomicU64, Ordering};

/// What the cache may do with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Not in the cache.
    Vacant = 0,
    /// Being added.
    Adding = 1,
    /// Cached.
    Active = 2,
    /// A reset is under way.
    Resetting = 3,
    /// Reset; nothing seen of it yet.
    Unsettled = 4,
}

/// A kind, with an epoch that grows with every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(u64);

impl State {
    pub(crate) const fn kind(self) -> Kind {
        match self.0 & 0xff {
            1 => Kind::Adding,
            2 => Kind::Active,
            3 => Kind::Resetting,
            4 => Kind::Unsettled,
            _ => Kind::Vacant,
        }
    }

    /// The same epoch, another kind.
    const fn with(self, kind: Kind) -> Self {
        Self(self.0 & !0xff | kind as u64)
    }

    /// The same epoch, active.
    pub(crate) const fn active(self) -> Self {
        self.with(Kind::Active)
    }

    const fn next(self, kind: Kind) -> Self {
        Self((self.0 & !0xff).wrapping_add(0x100) | kind as u64)
    }
}

/// What a whole-function invalidation leaves in the page, to be answered again once settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Constants,
    Nothing,
}

/// What a read told about an unsettled function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Nothing.
    Unclear,
    /// It is the device that is known.
    Same,
    /// It is another device.
    Other,
}

pub(crate) struct Function<'m> {
    lines: [AtomicU64; LINES],
    pub(crate) constant: [AtomicU64; MAP],
    pub(crate) regions: [AtomicU64; crate::infer::MAX_REGIONS],
    state: AtomicU64,
    /// The dwords at 0 (low half) and 8 (high half).
    identity: AtomicU64,
    /// Registers that rules look at: known bits (high half), their values (low half).
    pub(crate) held: AtomicU64,
    pub(crate) flags: AtomicU64,
    /// Writes under way. Nothing is stored meanwhile.
    writers: AtomicU64,
    place: AtomicU64,
    /// The bus numbers of a bridge when they were last learned: valid bit, last, first.
    buses: AtomicU64,
    space: Once<Space<'m>>,
    pub(crate) counters: Counters,
}

/// Permission to store one value.
pub(crate) struct Ticket {
    generation: u64,
    at: Access,
}

impl<'m> Function<'m> {
    pub(crate) fn new() -> Self {
        let zero = |_| AtomicU64::new(0);
        Self {
            lines: core::array::from_fn(zero),
            constant: core::array::from_fn(zero),
            regions: core::array::from_fn(zero),
            state: AtomicU64::new(0),
            identity: AtomicU64::new(0),
            held: AtomicU64::new(0),
            flags: AtomicU64::new(0),
            writers: AtomicU64::new(0),
            place: AtomicU64::new(0),
            buses: AtomicU64::new(0),
            space: Once::new(),
            counters: Counters::new(),
        }
    }

    pub(crate) fn place(&self) -> Sbdf {
        let place = self.place.load(Ordering::Acquire);
        Sbdf::from_bdf((place >> 16) as u32, place as u16)
    }

    pub(crate) fn set_place(&self, place: Sbdf) {
        let place = u64::from(place.segment()) << 16 | u64::from(place.bdf());
        self.place.store(place, Ordering::Release);
    }

    /// The buses below a bridge when they were last learned.
    pub(crate) fn buses(&self) -> Option<(u8, u8)> {
        let buses = self.buses.load(Ordering::Acquire);
        (buses >> 16 != 0).then_some((buses as u8, (buses >> 8) as u8))
    }

    pub(crate) fn set_buses(&self, (first, last): (u8, u8)) {
        let buses = 1 << 16 | u64::from(last) << 8 | u64::from(first);
        self.buses.store(buses, Ordering::Release);
    }

    pub(crate) fn space(&self) -> Option<&Space<'m>> {
        self.space.get()
    }

    /// Gives the function its memory; what it already has stays.
    pub(crate) fn set_space(&self, space: impl FnOnce() -> Option<Space<'m>>) -> bool {
        let made = self.space.try_call_once(|| space().ok_or(()));
        made.is_ok()
    }

    pub(crate) fn identity(&self) -> (u32, u32) {
        let identity = self.identity.load(Ordering::Acquire);
        (identity as u32, (identity >> 32) as u32)
    }

    pub(crate) fn set_identity(&self, low: u32, high: u32) {
        let identity = u64::from(high) << 32 | u64::from(low);
        self.identity.store(identity, Ordering::Release);
    }

    pub(crate) fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Moves from `from` to the same epoch's `kind`; false if the state moved on meanwhile.
    pub(crate) fn advance(&self, from: State, kind: Kind) -> bool {
        let to = from.with(kind);
        let moved = self
            .state
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire);
        moved.is_ok()
    }

    /// Starts a new epoch.
    pub(crate) fn enter(&self, kind: Kind) -> State {
        self.enter_if(|_| Some(kind)).unwrap_or(State(0))
    }

    /// Starts a new epoch of the kind that `choose` makes of the present one, if any.
    pub(crate) fn enter_if(&self, choose: impl Fn(Kind) -> Option<Kind>) -> Option<State> {
        let mut now = self.state();
        loop {
            let next = now.next(choose(now.kind())?);
            match self
                .state
                .compare_exchange(now.0, next.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(next),
                Err(other) => now = State(other),
            }
        }
    }

    /// Ends the unsettled state `now`, if it still holds.
    pub(crate) fn settle(&self, now: State) -> Option<State> {
        self.advance(now, Kind::Active).then(|| now.active())
    }

    /// The value, if every byte of it may be answered.
    #[inline]
    pub(crate) fn hit(&self, at: Access) -> Option<u32> {
        let offset = at.offset();
        let line = self.lines.get(line::of(offset))?;
        let mask = line::mask(offset, at.width().bytes());
        let before = line.load(Ordering::Acquire);
        if before & mask != mask {
            return None;
        }
        let value = self.space.get()?.value(offset)?.load(Ordering::Acquire);
        // The value load is an acquire, so this one comes after it.
        let after = line.load(Ordering::Relaxed);
        let value = (value >> (8 * (offset & 7))) as u32 & at.width().mask();
        (line::generation(before) == line::generation(after)).then_some(value)
    }

    /// Whether every byte may be cached.
    pub(crate) fn may_cache(&self, at: Access) -> bool {
        let (word, mask) = word_mask(at);
        self.answerable(word) & mask == mask
    }

    /// Whether every byte is constant.
    pub(crate) fn is_constant(&self, at: Access) -> bool {
        let (word, mask) = word_mask(at);
        let map = self.constant.get(word);
        map.is_some_and(|map| map.load(Ordering::Acquire) & mask == mask)
    }

    /// Claims the line, so that the value read next may be stored.
    pub(crate) fn claim(&self, at: Access, kind: Kind) -> Option<Ticket> {
        let line = self.lines.get(line::of(at.offset()))?;
        let now = line.load(Ordering::Acquire);
        if now & line::CLAIM != 0 {
            return None;
        }
        line.compare_exchange(now, now | line::CLAIM, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        let ticket = Ticket {
            generation: line::generation(now),
            at,
        };
        if self.state().kind() != kind || self.writers.load(Ordering::Acquire) != 0 {
            self.release(ticket);
            return None;
        }
        Some(ticket)
    }

    /// A hardware write begins; invalidate after this.
    pub(crate) fn begin_write(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// It is done, and what it made unknown is invalidated once more.
    pub(crate) fn end_write(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Gives up a claim.
    pub(crate) fn release(&self, ticket: Ticket) {
        if let Some(line) = self.lines.get(line::of(ticket.at.offset())) {
            line.fetch_and(!line::CLAIM, Ordering::AcqRel);
        }
    }

    /// Stores the value that the hardware gave, unless something was invalidated meanwhile.
    pub(crate) fn fill(&self, ticket: Ticket, value: u32) {
        let at = ticket.at;
        self.store(at, value);
        let Some(line) = self.lines.get(line::of(at.offset())) else {
            return;
        };
        let mask = line::mask(at.offset(), at.width().bytes());
        let mut now = line.load(Ordering::Acquire);
        loop {
            let mut next = now & !line::CLAIM;
            if line::generation(now) == ticket.generation {
                next |= mask;
            }
            match line.compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// Stores a value in the page and marks it known there, while the function is being added.
    pub(crate) fn prefill(&self, at: Access, value: u32) {
        let Some(ticket) = self.claim(at, Kind::Adding) else {
            return;
        };
        self.store(at, value);
        let (word, mask) = word_mask(at);
        if let Some(known) = self.space.get().and_then(|space| space.known(word)) {
            known.fetch_or(mask, Ordering::AcqRel);
        }
        self.release(ticket);
    }

    /// Only for the holder of the line's claim.
    fn store(&self, at: Access, value: u32) {
        let Some(word) = self.space.get().and_then(|space| space.value(at.offset())) else {
            return;
        };
        let shift = 8 * (at.offset() & 7);
        let bits = u64::from(at.width().mask());
        let kept = word.load(Ordering::Relaxed) & !(bits << shift);
        word.store(kept | (u64::from(value) & bits) << shift, Ordering::Release);
    }

    /// Invalidates a range, but for its constant bytes if they are to be kept.
    pub(crate) fn invalidate(&self, bytes: Range<u16>, keep: Keep) {
        for (index, mask) in line::masks(bytes.clone()) {
            let constant = match keep {
                Keep::Constants => self.constant_bits(index),
                Keep::Nothing => 0,
            };
            self.bump(index, mask & !constant);
        }
        for (word, mask) in crate::bits::masks(bytes) {
            let constant = match (keep, self.constant.get(word)) {
                (Keep::Constants, Some(constant)) => constant.load(Ordering::Acquire),
                _ => 0,
            };
            if let Some(known) = self.space.get().and_then(|space| space.known(word)) {
                known.fetch_and(!(mask & !constant), Ordering::AcqRel);
            }
        }
    }

    fn constant_bits(&self, line: usize) -> u64 {
        let word = self.constant.get(line / 2);
        let word = word.map_or(0, |word| word.load(Ordering::Acquire));
        word >> (32 * (line % 2)) & line::BYTES
    }

    /// Clears bits of one line and raises its generation; returns what it was.
    fn bump(&self, index: usize, clear: u64) -> u64 {
        let Some(line) = self.lines.get(index) else {
            return 0;
        };
        let mut now = line.load(Ordering::Acquire);
        loop {
            let next = line::bumped(now, clear);
            match line.compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return now,
                Err(other) => now = other,
            }
        }
    }

    /// Invalidates every line. What is kept stays in the page only.
    pub(crate) fn wipe(&self, keep: Keep) {
        for word in 0..MAP {
            let low = self.bump(2 * word, line::BYTES) & line::BYTES;
            let high = self.bump(2 * word + 1, line::BYTES) & line::BYTES;
            let constant = match (keep, self.constant.get(word)) {
                (Keep::Constants, Some(constant)) => constant.load(Ordering::Acquire),
                _ => 0,
            };
            if let Some(known) = self.space.get().and_then(|space| space.known(word)) {
                known.fetch_or(low | high << 32, Ordering::AcqRel);
                known.fetch_and(constant, Ordering::AcqRel);
            }
        }
    }

    /// Lets the constants that stand in the page be answered, for as long as the state is `now`.
    pub(crate) fn publish(&self, now: State) {
        for index in 0..LINES {
            let Some(line) = self.lines.get(index) else {
                return;
            };
            let mut before = line.load(Ordering::Acquire);
            loop {
                // Both after the line: an invalidation or a reset that these miss raises the
                // generation later, and clears what is set here.
                let bits = self.known_bits(index) & self.constant_bits(index);
                if self.state() != now {
                    return;
                }
                let next = before | bits;
                match line.compare_exchange(before, next, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(other) => before = other,
                }
            }
        }
    }

    /// Lets everything that the page knows of a line be answered, if the line was never used.
    pub(crate) fn load_line(&self, index: usize) {
        if let Some(line) = self.lines.get(index) {
            let next = line::bumped(0, 0) | self.known_bits(index);
            // A line that was used meanwhile is left as it is.
            let _ = line.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Makes the page say what is known now, for the next program. Constants that wait for the
    /// function to settle are in the page already.
    pub(crate) fn sync_known(&self) {
        for n in 0..MAP {
            let Some(space) = self.space.get() else {
                return;
            };
            let (Some(known), Some(marked)) = (space.known(n), space.cacheable(n)) else {
                return;
            };
            let marked = marked.load(Ordering::Acquire);
            if self.state().kind() != Kind::Active {
                known.fetch_and(marked, Ordering::AcqRel);
                continue;
            }
            let lines = || {
                let line = |n: usize| self.lines.get(n).map_or(0, |l| l.load(Ordering::Acquire));
                (line(2 * n), line(2 * n + 1))
            };
            let mut before = lines();
            loop {
                let bits = before.0 & line::BYTES | (before.1 & line::BYTES) << 32;
                known.store(bits & marked, Ordering::SeqCst);
                // An invalidation clears the page's bit after the line's: one that these loads
                // do not see clears what was just stored.
                let after = lines();
                let generations = |(low, high)| (line::generation(low), line::generation(high));
                if generations(before) == generations(after) {
                    break;
                }
                before = after;
            }
        }
    }

    fn known_bits(&self, line: usize) -> u64 {
        let Some(space) = self.space.get() else {
            return 0;
        };
        let known = space.known(line / 2);
        let known = known.map_or(0, |word| word.load(Ordering::Acquire));
        let both = known & self.answerable(line / 2);
        both >> (32 * (line % 2)) & line::BYTES
    }

    /// What a read of an unsettled function says about it.
    pub(crate) fn sighting(&self, at: Access, value: u32) -> Sighting {
        // What an absent function answers, and what one answers that is not ready yet.
        let not_ready = at.offset() == 0 && value & 0xffff == 0x0001;
        if value == at.width().mask() || value == 0 || not_ready {
            return Sighting::Unclear;
        }
        let (low, high) = self.identity();
        let expected = match at.offset() & !3 {
            0 => Some(low >> (8 * at.offset()) & at.width().mask()),
            8 => Some(high >> (8 * (at.offset() - 8)) & at.width().mask()),
            _ => self.known_constant(at),
        };
        match expected {
            Some(expected) if expected == value => Sighting::Same,
            Some(_) => Sighting::Other,
            None => Sighting::Unclear,
        }
    }

    fn known_constant(&self, at: Access) -> Option<u32> {
        self.is_constant(at).then(|| self.page_register(at))?
    }

    /// What stands in the page, known or not: for registers that were read when the function was
    /// added, and bits of them that never change.
    pub(crate) fn page_value(&self, at: Access) -> Option<u32> {
        let value = self
            .space
            .get()?
            .value(at.offset())?
            .load(Ordering::Acquire);
        Some((value >> (8 * (at.offset() & 7))) as u32 & at.width().mask())
    }

    /// The value in the page, if every byte is known there and may be answered.
    pub(crate) fn page_register(&self, at: Access) -> Option<u32> {
        let (word, mask) = word_mask(at);
        let space = self.space.get()?;
        let known = space.known(word)?.load(Ordering::Acquire) & self.answerable(word);
        if known & mask != mask {
            return None;
        }
        let value = space.value(at.offset())?.load(Ordering::Acquire);
        Some((value >> (8 * (at.offset() & 7))) as u32 & at.width().mask())
    }
}

/// The bitmap word and bits of an access.
fn word_mask(at: Access) -> (usize, u64) {
    let bits = (1u64 << at.width().bytes()) - 1;
    (usize::from(at.offset() >> 6), bits << (at.offset() & 63))
}

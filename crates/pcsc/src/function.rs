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
//!   A writer that learns that another one wrote at the same time knows nothing of what the
//!   registers held before its write, and invalidates whatever it may have changed.
//! * **Reset**: change the state, then invalidate every line. A fill that saw the old state is
//!   refused by its line's generation; one that comes later sees the new state.
//! * **Addition**: one at a time for each function (`setup`). Its state is *adding* before
//!   anything of the function changes, so whoever finds the same state before and after it looked
//!   at the function's maps has seen them whole. Whatever would invalidate something of it lets
//!   it start anew.
//!
//! After a reset the function is *unsettled*: every read reaches the hardware until one of them is
//! answered, and the device's whole identity is what it was. Only then are the constants, which
//! the reset left in the page, answered again.

use core::ops::Range;

use kho_hal::{Access, Sbdf};
use spin::{Mutex, Once};

use crate::line;
use crate::space::{LINES, MAP, Space};
use crate::stats::Counters;
use kho_hal::sync::{AtomicU64, Ordering};

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

    /// Whether nothing began anew between the two.
    pub(crate) const fn same_epoch(self, other: Self) -> bool {
        self.0 >> 8 == other.0 >> 8
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
    /// Held by whoever adds the function or maps its registers.
    pub(crate) setup: Mutex<()>,
    /// Writes under way ([`WRITERS`]), and above them those that ever began. Nothing is stored
    /// while there are any.
    writers: AtomicU64,
    place: AtomicU64,
    /// The bus numbers of a bridge when they were last learned: valid bit, last, first.
    buses: AtomicU64,
    space: Once<Space<'m>>,
    pub(crate) counters: Counters,
}

/// Bits that count the writes under way.
const WRITERS: u64 = 0xffff;
/// One write that began.
const BEGUN: u64 = WRITERS + 1;

/// A write under way.
pub(crate) struct Writing {
    alone: bool,
    begun: u64,
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
            setup: Mutex::new(()),
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
        (buses != 0).then_some((buses as u8, (buses >> 8) as u8))
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

    /// Lets an addition that is under way start anew; whether one is.
    pub(crate) fn restart_addition(&self) -> bool {
        self.enter_if(|kind| (kind == Kind::Adding).then_some(kind))
            .is_some()
    }

    /// Ends the unsettled state `now`, if it still holds and no write is under way, which may be
    /// what resets it.
    pub(crate) fn settle(&self, now: State) -> Option<State> {
        let quiet = self.writers.load(Ordering::Acquire) & WRITERS == 0;
        (quiet && self.advance(now, Kind::Active)).then(|| now.active())
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
        if self.state().kind() != kind || self.writers.load(Ordering::Acquire) & WRITERS != 0 {
            self.release(ticket);
            return None;
        }
        Some(ticket)
    }

    /// A hardware write begins; invalidate after this.
    pub(crate) fn begin_write(&self) -> Writing {
        let before = self.writers.fetch_add(BEGUN + 1, Ordering::AcqRel);
        Writing {
            alone: before & WRITERS == 0,
            begun: (before / BEGUN).wrapping_add(1),
        }
    }

    /// Whether no other write was under way since this one began.
    pub(crate) fn is_alone(&self, writing: &Writing) -> bool {
        let begun = self.writers.load(Ordering::Acquire) / BEGUN;
        writing.alone && begun == writing.begun & (u64::MAX / BEGUN)
    }

    /// It is done, and what it made unknown is invalidated once more.
    pub(crate) fn end_write(&self, _: Writing) {
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
        self.finish(ticket, value, |mask| mask);
    }

    /// Keeps the value that the hardware gave while the function is being added, unless
    /// something was invalidated meanwhile.
    pub(crate) fn keep(&self, ticket: Ticket, value: u32) {
        self.finish(ticket, value, |mask| mask << line::LEN);
    }

    /// Stores a value and gives up the claim; sets the bits that `bits` makes of the bytes.
    fn finish(&self, ticket: Ticket, value: u32, bits: impl Fn(u64) -> u64) {
        let at = ticket.at;
        self.store(at, value);
        let bits = bits(line::mask(at.offset(), at.width().bytes()));
        self.change(line::of(at.offset()), |now| {
            let free = now & !line::CLAIM;
            let valid = line::generation(now) == ticket.generation;
            Some(if valid { free | bits } else { free })
        });
    }

    /// Changes one line to what `to` makes of it, if anything. Returns what it is then.
    fn change(&self, index: usize, to: impl Fn(u64) -> Option<u64>) -> u64 {
        let Some(line) = self.lines.get(index) else {
            return 0;
        };
        let mut now = line.load(Ordering::Acquire);
        loop {
            let Some(next) = to(now) else {
                return now;
            };
            match line.compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return next,
                Err(other) => now = other,
            }
        }
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
            let clear = mask & !self.constant_bits(index, keep);
            self.change(index, |line| Some(line::bumped(line, clear)));
        }
        for (word, mask) in crate::bits::masks(bytes) {
            self.unknow(word, mask & !self.constant_word(word, keep));
        }
    }

    /// Invalidates every line. Of constants that are to be kept, the value stays in the page.
    pub(crate) fn wipe(&self, keep: Keep) {
        for word in 0..MAP {
            let mut kept = 0;
            for part in 0..line::PER_WORD {
                let index = word * line::PER_WORD + part;
                let constant = self.constant_bits(index, keep);
                let wiped = self.change(index, |line| Some(line::wiped(line, constant)));
                kept |= line::kept(wiped) << (part * line::LEN);
            }
            self.unknow(word, !kept);
        }
    }

    /// Clears bits of the page's own bitmap, for the program that comes next. After the lines,
    /// since [`Function::sync_known`] reads those first.
    fn unknow(&self, word: usize, mask: u64) {
        if let Some(known) = self.space.get().and_then(|space| space.known(word)) {
            known.fetch_and(!mask, Ordering::AcqRel);
        }
    }

    fn constant_word(&self, word: usize, keep: Keep) -> u64 {
        match (keep, self.constant.get(word)) {
            (Keep::Constants, Some(constant)) => constant.load(Ordering::Acquire),
            _ => 0,
        }
    }

    fn constant_bits(&self, index: usize, keep: Keep) -> u64 {
        line::part(self.constant_word(index / line::PER_WORD, keep), index)
    }

    /// Keeps the bytes of word `n` of a bitmap that may be answered: those that a predecessor
    /// knew.
    pub(crate) fn keep_known(&self, n: usize, known: u64) {
        let known = known & self.answerable(n);
        self.unknow(n, !known);
        for index in n * line::PER_WORD..(n + 1) * line::PER_WORD {
            self.change(index, |line| {
                let kept = line::kept(line) | line::part(known, index);
                Some(line::with(line, line::answered(line), kept))
            });
        }
    }

    /// Lets what was kept be answered, for as long as the state is `now`.
    pub(crate) fn publish(&self, now: State) {
        for index in 0..LINES {
            self.change(index, |line| {
                let answerable = line::part(self.answerable(index / line::PER_WORD), index);
                let answered = line::answered(line) | line::kept(line) & answerable;
                // After what it says was looked at: a reset that this misses changes the line.
                (self.state() == now).then(|| line::with(line, answered, 0))
            });
        }
    }

    /// Makes the page say what is known now, for the next program.
    pub(crate) fn sync_known(&self) {
        for n in 0..MAP {
            let Some(space) = self.space.get() else {
                return;
            };
            let (Some(known), Some(marked)) = (space.known(n), space.cacheable(n)) else {
                return;
            };
            let marked = marked.load(Ordering::Acquire);
            let lines = || -> [u64; line::PER_WORD] {
                core::array::from_fn(|part| {
                    let line = self.lines.get(n * line::PER_WORD + part);
                    line.map_or(0, |line| line.load(Ordering::Acquire))
                })
            };
            let mut before = lines();
            loop {
                let bits = (0u32..).zip(before).fold(0, |bits, (part, line)| {
                    let line = line::answered(line) | line::kept(line);
                    bits | line << (line::LEN as u32 * part)
                });
                // An invalidation clears the page's bits after the line's. If that comes before
                // this swap, the loads below see what it did to the line; if after, it clears
                // what is put here.
                known.swap(bits & marked, Ordering::AcqRel);
                let after = lines();
                if before.map(line::generation) == after.map(line::generation) {
                    break;
                }
                before = after;
            }
        }
    }

    /// Whether a read of the hardware can be the answer of the device that is known. Ones are what
    /// an absent function answers, and 1 for its vendor one that is not ready.
    pub(crate) fn fits(&self, at: Access, value: u32) -> bool {
        let (low, high) = self.identity();
        let known = match at.offset() & !3 {
            0 => low >> (8 * at.offset()) & at.width().mask(),
            8 => high >> (8 * (at.offset() - 8)) & at.width().mask(),
            _ => return true,
        };
        known == value
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
}

/// The bitmap word and bits of an access.
fn word_mask(at: Access) -> (usize, u64) {
    let bits = (1u64 << at.width().bytes()) - 1;
    (usize::from(at.offset() >> 6), bits << (at.offset() & 63))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;

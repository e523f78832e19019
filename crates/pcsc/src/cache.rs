//! The cache as an access method.

use core::sync::atomic::{AtomicBool, Ordering, fence};

use kho_hal::{Access, PageAlloc, PageSize, PciConfigAccess, PciError, PhysAddr, PhysMem, Sbdf};

use crate::effects::{Moment, every_bus_above};
use crate::flags::HEADER_TYPE;
use crate::function::{Function, Keep, Kind};
use crate::index::Index;
use crate::stats::{Counters, Stats};
use crate::wide::WideWrites;

/// What was reset, when nobody wrote the register that does it through the cache.
///
/// Call [`Cached::reset`] after the reset and before anyone relies on the function again; calling
/// it before as well keeps reads away from the cache meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// One function, by its own means: function-level, Advanced Features, D3hot to D0, or a way
    /// that only its driver knows. Constant registers are kept for when it is back.
    Function,
    /// One function lost power (D3cold), or firmware acted on it. Nothing is kept, of it or of
    /// what is below it.
    Power,
    /// The functions on these buses of the bridge's segment: slot or secondary bus reset, link
    /// down, hot-plug. Nothing is kept. Inclusive bus numbers; the bridge's own bus is spared.
    Buses {
        /// First bus.
        first: u8,
        /// Last bus.
        last: u8,
    },
    /// As `Buses`, for everything that the bridge's own bus numbers cover; reads them from it.
    Below,
}

/// Where registers are kept when they are to survive.
#[derive(Clone, Copy)]
pub(crate) struct Pages<'m> {
    pub(crate) mem: &'m (dyn PhysMem + Sync),
    pub(crate) alloc: &'m (dyn PageAlloc + Sync),
    pub(crate) page_size: PageSize,
}

/// A cache over an access method, itself an access method.
///
/// Functions that were not added are passed through. See the crate documentation for what the
/// cache promises and on which conditions.
///
/// # Concurrency
/// Everything takes `&self`, and any number of CPUs may call. A hit takes no lock; neither does a
/// miss or a write. Adding a function takes one, for a moment.
pub struct Cached<'m, C> {
    pub(crate) access: C,
    pub(crate) index: Index<'m>,
    enabled: AtomicBool,
    pub(crate) wide: WideWrites,
    clock: Option<fn() -> u64>,
    pub(crate) pages: Option<Pages<'m>>,
    pub(crate) saved: Option<crate::persist::Saved>,
    /// For functions that are not in the cache.
    pub(crate) other: Counters,
}

impl<'m, C: PciConfigAccess> Cached<'m, C> {
    /// An empty cache, switched on.
    pub const fn new(access: C) -> Self {
        Self {
            access,
            index: Index::new(),
            enabled: AtomicBool::new(true),
            wide: WideWrites::new(),
            clock: None,
            pages: None,
            saved: None,
            other: Counters::new(),
        }
    }

    /// As [`Cached::new`], with the registers of every function in pages of their own, so that
    /// they can be handed over to the next program.
    ///
    /// `mem` reaches the pages that `alloc` gives; a page has `page_size` bytes. Each function
    /// takes two pages of 4 KiB, or one larger one. They are never given back: a function that
    /// leaves the cache keeps them for its return.
    pub const fn in_pages(
        access: C,
        mem: &'m (dyn PhysMem + Sync),
        alloc: &'m (dyn PageAlloc + Sync),
        page_size: PageSize,
    ) -> Self {
        let mut cache = Self::new(access);
        cache.pages = Some(Pages {
            mem,
            alloc,
            page_size,
        });
        cache
    }

    /// Measures hits and hardware reads with this clock, in its ticks.
    pub const fn with_clock(mut self, clock: fn() -> u64) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The access method below.
    pub const fn inner(&self) -> &C {
        &self.access
    }

    /// Puts another access method below, returns the old one, and drops everything known.
    pub fn replace_inner(&mut self, access: C) -> C {
        let old = core::mem::replace(&mut self.access, access);
        self.access_changed();
        old
    }

    /// Drops everything known: the access method below reaches the hardware in another way now.
    pub fn access_changed(&self) {
        self.touch_all(|_, _| true);
        for function in self.index.all() {
            self.reset_one(function, Keep::Nothing);
        }
    }

    /// Switches the cache on or off. Off, every access is passed through and nothing is kept;
    /// switched on, it starts with nothing known.
    pub fn set_enabled(&self, on: bool) {
        // Everything is dropped while off, whichever way the switch goes.
        self.enabled.store(false, Ordering::SeqCst);
        self.access_changed();
        self.enabled.store(on, Ordering::SeqCst);
    }

    /// Whether the cache is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Whether the function is in the cache.
    pub fn contains(&self, function: Sbdf) -> bool {
        self.index
            .find(function)
            .is_some_and(|function| function.state().kind() != Kind::Vacant)
    }

    /// Takes the function out: it went away, or another one may come in its place.
    ///
    /// With a bridge goes everything below it, and with a physical function every virtual one of
    /// its segment: what it does to them would go unnoticed.
    pub fn forget(&self, function: Sbdf) {
        self.touch(function);
        if let Some(entry) = self.index.find(function) {
            let below = entry.is_bridge().then(|| self.buses_ever_below(function));
            self.forget_with_below(entry, below);
        }
    }

    /// Notes that what a predecessor saved of a function does not hold any more.
    fn touch(&self, function: Sbdf) {
        if let Some(saved) = &self.saved {
            saved.touch(function);
        }
    }

    /// The same for many, which are chosen by their place and where their data lies.
    pub(crate) fn touch_all(&self, which: impl Fn(Sbdf, PhysAddr) -> bool) {
        if let Some(saved) = &self.saved {
            saved.touch_all(which);
        }
    }

    /// Takes a function out, and what is on these buses below it.
    pub(crate) fn forget_with_below(&self, function: &Function<'_>, below: Option<(u8, u8)>) {
        let known = function.state().kind() != Kind::Vacant;
        self.forget_one(function);
        if !known {
            return;
        }
        if let Some(below) = below {
            self.reset_buses(function.place(), below, true);
        }
        self.forget_virtual_functions(function, self.virtual_functions_of(function));
    }

    /// An access method past the cache: its reads reach the hardware and its writes invalidate.
    ///
    /// For whoever waits for a device to come back.
    pub const fn bypass(&self) -> Bypass<'_, 'm, C> {
        Bypass { cache: self }
    }

    /// Tells the cache that something was reset; `function` is the function itself or, for
    /// [`Reset::Buses`] and [`Reset::Below`], the bridge above.
    pub fn reset(&self, function: Sbdf, reset: Reset) {
        match reset {
            Reset::Function | Reset::Power => {
                let keep = match reset {
                    Reset::Function => Keep::Constants,
                    _ => Keep::Nothing,
                };
                self.touch(function);
                if let Some(function) = self.index.find(function) {
                    let place = function.place();
                    let virtual_functions = self.virtual_functions_of(function);
                    let below = (reset == Reset::Power && function.is_bridge())
                        .then(|| self.buses_ever_below(place));
                    self.reset_one(function, keep);
                    if let Some(below) = below {
                        // Its bus numbers are gone, or will be.
                        self.reset_buses(place, below, false);
                    }
                    self.forget_virtual_functions(function, virtual_functions);
                }
            }
            Reset::Buses { first, last } => {
                self.reset_buses(function, (first, last), false);
            }
            Reset::Below => {
                self.reset_buses(function, self.buses_ever_below(function), false);
            }
        }
    }

    /// What happened so far, over all functions.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.other.add_to(&mut stats);
        for function in self.index.all() {
            function.counters.add_to(&mut stats);
        }
        stats
    }

    /// What happened so far with one function, if it ever was in the cache.
    pub fn stats_of(&self, function: Sbdf) -> Option<Stats> {
        let mut stats = Stats::default();
        self.index.find(function)?.counters.add_to(&mut stats);
        Some(stats)
    }

    pub(crate) fn reset_one(&self, function: &Function<'_>, keep: Keep) {
        if let Some(now) = self.start_reset(function, keep) {
            function.counters.resets.bump();
            function.advance(now, Kind::Unsettled);
        }
    }

    /// The first half of a reset: nothing is answered, and nothing settles.
    pub(crate) fn start_reset(
        &self,
        function: &Function<'_>,
        keep: Keep,
    ) -> Option<crate::function::State> {
        let now = function.enter_if(|kind| match kind {
            Kind::Vacant | Kind::Adding => None,
            _ => Some(Kind::Resetting),
        });
        if now.is_none() {
            function.restart_addition();
        }
        function.unhold();
        function.wipe(keep);
        now
    }

    pub(crate) fn forget_one(&self, function: &Function<'_>) {
        function.enter_if(|kind| (kind != Kind::Vacant).then_some(Kind::Vacant));
        function.wipe(Keep::Nothing);
    }

    /// A read of the hardware, counted.
    pub(crate) fn hardware(
        &self,
        counters: &Counters,
        function: Sbdf,
        at: Access,
    ) -> Result<u32, PciError> {
        counters.hardware_reads.bump();
        let start = self.clock.map(|clock| clock());
        let value = self.access.read(function, at)?;
        if let (Some(clock), Some(start)) = (self.clock, start) {
            counters.hardware_ticks.add(clock().wrapping_sub(start));
        }
        Ok(value & at.width().mask())
    }

    /// A read that the cache cannot answer at once.
    #[cold]
    fn miss(&self, function: &Function<'_>, place: Sbdf, at: Access) -> Result<u32, PciError> {
        if self.enabled.load(Ordering::SeqCst) {
            let state = function.state();
            match state.kind() {
                Kind::Active => return self.miss_active(function, place, at),
                Kind::Unsettled => {
                    function.counters.bypassed.bump();
                    let value = self.hardware(&function.counters, place, at)?;
                    // What is absent, or not ready yet, says nothing.
                    let not_ready = at.offset() == 0 && value & 0xffff == 0x0001;
                    if value == at.width().mask() || not_ready {
                        return Ok(value);
                    }
                    match self.is_same(function, place) {
                        None => {}
                        Some(true) => {
                            if let Some(now) = function.settle(state) {
                                function.publish(now);
                            }
                        }
                        // Whatever it was before, nothing that was known of it or of what is
                        // below it holds.
                        Some(false) => {
                            let below = function.is_bridge().then(|| every_bus_above(place));
                            self.forget_with_below(function, below);
                        }
                    }
                    return Ok(value);
                }
                Kind::Vacant | Kind::Adding | Kind::Resetting => {}
            }
        }
        function.counters.bypassed.bump();
        self.hardware(&function.counters, place, at)
    }

    /// Whether the device that answers is the one that is known: vendor, device, class, revision
    /// and header type. `None` if it does not say.
    fn is_same(&self, function: &Function<'_>, place: Sbdf) -> Option<bool> {
        let read = |offset| {
            let at = Access::new(offset, kho_hal::Width::U32).ok()?;
            self.hardware(&function.counters, place, at).ok()
        };
        // The class first: a device that shows it shows its identity too.
        let (class, identity, header) = (read(8)?, read(0)?, read(12)?);
        if class == u32::MAX || header == u32::MAX || identity & 0xffff == 0x0001 {
            return None;
        }
        let same_header = u64::from(header >> 16) & HEADER_TYPE == function.header_type();
        Some((identity, class) == function.identity() && same_header)
    }

    fn miss_active(
        &self,
        function: &Function<'_>,
        place: Sbdf,
        at: Access,
    ) -> Result<u32, PciError> {
        if !function.may_cache(at) {
            function.counters.uncacheable.bump();
            return self.hardware(&function.counters, place, at);
        }
        function.counters.misses.bump();
        let Some(ticket) = function.claim(at, Kind::Active) else {
            return self.hardware(&function.counters, place, at);
        };
        let is_narrow = !self.wide.any();
        let value = match self.hardware(&function.counters, place, at) {
            Ok(value) => value,
            Err(error) => {
                function.release(ticket);
                return Err(error);
            }
        };
        // The switch may have gone off since: what comes after it is not stored.
        let on = self.enabled.load(Ordering::SeqCst);
        let is_answer = value != at.width().mask() || self.stands(function, place, at);
        if on && is_narrow && is_answer && function.fits(at, value) {
            function.fill(ticket, value);
        } else {
            function.release(ticket);
        }
        Ok(value)
    }

    /// Whether an answer of all ones came from the device, not from its absence: it shows its class
    /// after the answer, and answers the same once more.
    ///
    /// Only asked for constants, where it costs two more reads once; others are not stored.
    fn stands(&self, function: &Function<'_>, place: Sbdf, at: Access) -> bool {
        let (_, class) = function.identity();
        let Ok(class_at) = Access::new(8, kho_hal::Width::U32) else {
            return false;
        };
        function.is_constant(at)
            && self
                .hardware(&function.counters, place, class_at)
                .is_ok_and(|seen| seen == class && seen != u32::MAX)
            && self
                .hardware(&function.counters, place, at)
                .is_ok_and(|again| again == at.width().mask())
    }

    /// A write to a function that is not in the cache, but may be when it is done.
    fn write_strange(&self, place: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let before = self.index.find(place);
        before
            .map_or(&self.other, |function| &function.counters)
            .writes
            .bump();
        self.touch(place);
        fence(Ordering::SeqCst);
        let result = self.access.write(place, at, value);
        self.wide.look();
        if let Some(function) = self.index.find(place)
            && function.state().kind() != Kind::Vacant
        {
            self.reset_one(function, Keep::Nothing);
            if function.is_bridge() {
                self.reset_buses(place, every_bus_above(place), true);
            }
            self.forget_virtual_functions(function, self.virtual_functions_of(function));
        }
        result
    }

    fn write_through(&self, place: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let known = |function: &&Function<'m>| function.state().kind() != Kind::Vacant;
        if let Some(function) = self.index.find(place).filter(known) {
            return self.write_known(function, place, at, value);
        }
        self.wide.enter();
        let result = match self.index.find(place).filter(known) {
            Some(function) => self.write_known(function, place, at, value),
            None => self.write_strange(place, at, value),
        };
        self.wide.leave();
        result
    }

    /// A write to a function that is in the cache, or is being added.
    fn write_known(
        &self,
        function: &Function<'_>,
        place: Sbdf,
        at: Access,
        value: u32,
    ) -> Result<(), PciError> {
        function.counters.writes.bump();
        let writing = function.begin_write();
        let mut plan = function.plan(at, value, &writing);
        let mut is_wide = plan.is_wide();
        if is_wide {
            self.wide.enter();
        }
        let mut around = self.around(function, (at, value), &plan, None);
        self.apply(function, at, &plan, around, Moment::Before);
        // What was invalidated is seen before the hardware has what is written.
        fence(Ordering::SeqCst);
        let result = self.access.write(place, at, value);
        let alone = function.is_alone(&writing);
        if !alone || function.was_added_since(&plan) {
            // Somebody else wrote, or added the function: what this write changed is not known,
            // nor which write came last.
            plan = function.plan_again(at, value, &writing, &plan);
            if !is_wide && plan.is_wide() {
                is_wide = true;
                self.wide.enter();
            }
        }
        if result.is_err() || !alone {
            function.unhold();
        }
        around = self.around(function, (at, value), &plan, Some(around));
        self.apply(function, at, &plan, around, Moment::After);
        if is_wide {
            self.wide.leave();
        }
        function.end_write(writing);
        result
    }
}

/// The smallest range that holds both.
pub(crate) fn join(a: (u8, u8), b: (u8, u8)) -> (u8, u8) {
    (a.0.min(b.0), a.1.max(b.1))
}

impl<C: PciConfigAccess> PciConfigAccess for Cached<'_, C> {
    #[inline]
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let Some(found) = self.index.find(function) else {
            self.other.bypassed.bump();
            return self.hardware(&self.other, function, at);
        };
        let start = self.clock.map(|clock| clock());
        match found.hit(at) {
            Some(value) => {
                found.counters.hits.bump_roughly();
                if let (Some(clock), Some(start)) = (self.clock, start) {
                    found.counters.hit_ticks.add(clock().wrapping_sub(start));
                }
                Ok(value)
            }
            None => self.miss(found, function, at),
        }
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.write_through(function, at, value)
    }
}

/// The way past the cache; see [`Cached::bypass`].
pub struct Bypass<'c, 'm, C> {
    cache: &'c Cached<'m, C>,
}

impl<C: PciConfigAccess> PciConfigAccess for Bypass<'_, '_, C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let found = self.cache.index.find(function);
        let counters = found.map_or(&self.cache.other, |found| &found.counters);
        counters.bypassed.bump();
        self.cache.hardware(counters, function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.cache.write_through(function, at, value)
    }
}

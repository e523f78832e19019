//! What a write makes unknown, worked out for one function and carried out.

use core::ops::Range;

use kho_hal::{Access, PciConfigAccess, PhysAddr, Sbdf};

use crate::CapId;
use crate::cache::{Cached, join};
use crate::function::{Function, Keep, Kind, State, Writing};
use crate::infer::Region;
use crate::rules::{Effect, Place, RULES, Rule, Trigger, VENDORS_OWN};
use crate::table::entry_of;
use kho_hal::sync::Ordering;

/// Where a bridge has its bus numbers.
const BUS_NUMBERS: u16 = 0x18;

const SRIOV: CapId = CapId::Extended(0x0010);

/// Ranges that one write can invalidate besides the bytes that it touches.
const RANGES: usize = 8;

/// What one write does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    ranges: [Range<u16>; RANGES],
    count: usize,
    /// Nothing of this function can be trusted, not even constants.
    everything: bool,
    reset: bool,
    below: bool,
    renumber: bool,
    virtual_functions: bool,
    links: bool,
    routing: bool,
    /// The function is being added: what it is, and so what a write does, is not known.
    unclear: bool,
    /// It may act on other functions, for all that is known of other writes at the same time.
    wide: bool,
    /// The function when this was worked out.
    state: Option<State>,
}

/// When a plan is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before the write reaches the hardware.
    Before,
    /// After it.
    After,
}

/// What a write concerns besides its own function: as it was before the write, and as it is after.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Around {
    buses: Option<(u8, u8)>,
    virtual_functions: Option<VirtualFunctions>,
}

/// Where a physical function has its virtual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtualFunctions {
    /// From the physical function's routing ID.
    offset: u16,
    stride: u16,
    total: u16,
}

impl VirtualFunctions {
    /// Whether the function with routing ID `bdf` may be one of those of `physical`.
    fn contains(&self, physical: Sbdf, bdf: u16) -> bool {
        let first = physical.bdf().wrapping_add(self.offset);
        let distance = bdf.wrapping_sub(first);
        match self.stride {
            0 => distance == 0 && self.total != 0,
            stride => distance.is_multiple_of(stride) && distance / stride < self.total,
        }
    }
}

impl Plan {
    /// Whether the write may act on other functions.
    pub(crate) fn is_wide(&self) -> bool {
        self.wide || self.unclear || self.below
    }

    fn range(&mut self, bytes: Range<u16>) {
        match self.ranges.get_mut(self.count) {
            Some(place) => {
                *place = bytes;
                self.count += 1;
            }
            None => self.everything = true,
        }
    }
}

/// Where the cache keeps what it knows of rule `index`: known bit, value bit.
const fn held_bits(index: usize) -> (u64, u64) {
    (1 << (32 + index), 1 << index)
}

const _: () = assert!(RULES.len() <= 32);

impl Function<'_> {
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.regions
            .iter()
            .map(|word| word.load(Ordering::Acquire))
            .take_while(|word| *word != 0)
            .map(unpack)
    }

    pub(crate) fn region(&self, id: CapId) -> Option<Region> {
        self.regions().find(|region| region.id == id)
    }

    pub(crate) fn has_virtual_functions(&self) -> bool {
        self.region(SRIOV).is_some()
    }

    /// Forgets what was last written to the registers that rules look at.
    pub(crate) fn unhold(&self) {
        self.held.store(0, Ordering::Release);
    }

    /// Notes the register of every level rule that `read` can give.
    pub(crate) fn hold(&self, mut read: impl FnMut(Access) -> Option<u32>) {
        for (index, rule) in RULES.iter().enumerate() {
            if rule.mask == 0 {
                continue;
            }
            for base in self.bases(rule.place) {
                let first = rule.bytes(base).start;
                let Ok(at) = Access::new(first, kho_hal::Width::U16) else {
                    continue;
                };
                if let Some(value) = read(at) {
                    self.note(index, value & rule.mask != 0);
                }
            }
        }
    }

    fn note(&self, index: usize, set: bool) {
        let (known, value) = held_bits(index);
        if set {
            self.held.fetch_or(known | value, Ordering::AcqRel);
        } else {
            self.held.fetch_and(!value, Ordering::AcqRel);
            self.held.fetch_or(known, Ordering::AcqRel);
        }
    }

    /// Where the registers of a place start, if this function has it.
    fn bases(&self, place: Place) -> impl Iterator<Item = u16> + '_ {
        let bridge = (place == Place::Bridge && self.is_bridge()).then_some(0);
        let regions = self
            .regions()
            .filter(move |region| place == Place::In(region.id))
            .map(|region| region.start);
        bridge.into_iter().chain(regions)
    }

    /// Works out what a write does, and remembers the bits that later writes are judged by.
    pub(crate) fn plan(&self, at: Access, value: u32, writing: &Writing) -> Plan {
        let state = self.state();
        let mut plan = Plan {
            state: Some(state),
            ..Plan::default()
        };
        let touches = |r: &Region| at.offset() < r.end && at.end() > r.start;
        let mut listed = at.end() <= 0x40;
        for region in self.regions().filter(touches) {
            listed |= at.offset() >= region.start && at.end() <= self.sure_end(region);
            plan.range(region.start..region.end);
            if entry_of(region.id).is_none() || VENDORS_OWN.contains(&region.id) {
                plan.everything = true;
            }
        }
        plan.everything |= !listed;
        let held = self.held.load(Ordering::Acquire);
        let alone = self.is_alone(writing);
        for (index, rule) in RULES.iter().enumerate() {
            for base in self.bases(rule.place) {
                let Some(write) = rule.meets(base, at, value) else {
                    continue;
                };
                let (known, set) = held_bits(index);
                let before = (alone && held & known != 0).then_some(held & set != 0);
                if write.touched != 0 {
                    self.note(index, write.ones != 0);
                }
                // Another write at the same time may be what lets this one fire.
                plan.wide |= rule.effects.iter().any(|effect| effect.is_wide());
                if rule.fires(write, before) {
                    for effect in rule.effects {
                        self.note_effect(&mut plan, *effect);
                    }
                }
            }
        }
        // Nothing that was looked at changed if the state did not: an addition says so first.
        let steady = state.kind() != Kind::Adding && self.state().same_epoch(state);
        plan.unclear = !steady || !self.is_mapped();
        plan.everything |= plan.unclear;
        // A register whose meaning is not known may be anything, for what is below as well.
        plan.below |= plan.everything && self.is_bridge();
        plan
    }

    /// Whether an addition began since the plan was made, or a reset that is not the plan's own.
    pub(crate) fn was_added_since(&self, plan: &Plan) -> bool {
        let now = self.state();
        let is_own = plan.reset && now.kind() != Kind::Adding;
        !is_own && !plan.state.is_some_and(|state| state.same_epoch(now))
    }

    /// Works out once more what a write did, after it. What the first plan said holds too.
    pub(crate) fn plan_again(
        &self,
        at: Access,
        value: u32,
        writing: &Writing,
        first: &Plan,
    ) -> Plan {
        let mut plan = self.plan(at, value, writing);
        plan.unclear |= self.was_added_since(first) || first.unclear;
        plan.everything |= plan.unclear || first.everything;
        plan.reset |= first.reset;
        plan.below |= first.below;
        plan.renumber |= first.renumber;
        plan.routing |= first.routing;
        plan.virtual_functions |= first.virtual_functions;
        plan.links |= first.links;
        for range in first.ranges.iter().take(first.count) {
            plan.range(range.clone());
        }
        plan
    }

    /// One past the last byte that belongs to the capability for certain, whatever its version
    /// and options; a page that does not know them makes it shorter.
    fn sure_end(&self, region: Region) -> u16 {
        let word = |at: u16| {
            let at = Access::new(region.start.saturating_add(at), kho_hal::Width::U16).ok()?;
            self.page_value(at)
        };
        let length = match region.id {
            CapId::Standard(0x05) => match word(2).map_or(0, |flags| flags & 0x180) {
                0 => 0x0a,
                0x80 => 0x0e,
                0x100 => 0x14,
                _ => 0x18,
            },
            CapId::Standard(0x10) => match word(2).map_or(0, |flags| flags & 15) {
                2.. => 0x3c,
                _ => 0x14,
            },
            CapId::Extended(0x000d) => 0x08,
            CapId::Extended(0x0015 | 0x0024) => match word(8) {
                Some(control) => 4 + 8 * (control as u16 >> 5 & 7),
                None => 0x0c,
            },
            CapId::Extended(0x0017) => 0x0c,
            CapId::Extended(0x001d) => 0x0c,
            CapId::Standard(0x14) | CapId::Extended(0x0005) => 4,
            _ => u16::MAX,
        };
        region.end.min(region.start.saturating_add(length))
    }

    fn note_effect(&self, plan: &mut Plan, effect: Effect) {
        match effect {
            Effect::Reset => plan.reset = true,
            Effect::Below => plan.below |= self.is_bridge(),
            Effect::Renumber => plan.renumber |= self.is_bridge(),
            Effect::Routing => plan.routing = true,
            Effect::VirtualFunctions => plan.virtual_functions |= self.has_virtual_functions(),
            Effect::Links => plan.links = true,
            Effect::MessageNumbers => {
                for region in self.regions() {
                    match region.id {
                        CapId::Standard(0x10) => plan.range(region.start + 3..region.start + 4),
                        CapId::Extended(0x001d) => plan.range(region.start + 4..region.start + 5),
                        CapId::Extended(0x0010) => plan.range(region.start + 4..region.start + 8),
                        _ => {}
                    }
                }
            }
            Effect::Bars => plan.range(0x10..0x28),
            Effect::Capability(id) => {
                for region in self.regions().filter(|region| region.id == id) {
                    plan.range(region.start..region.end);
                }
            }
        }
    }
}

/// Never 0: no capability starts there.
pub(crate) fn pack(region: Region) -> u64 {
    let (extended, id) = match region.id {
        CapId::Standard(id) => (0, u64::from(id)),
        CapId::Extended(id) => (1 << 48, u64::from(id)),
    };
    extended | id << 32 | u64::from(region.end) << 16 | u64::from(region.start)
}

fn unpack(word: u64) -> Region {
    let id = (word >> 32) as u16;
    Region {
        id: if word >> 48 & 1 == 0 {
            CapId::Standard(id as u8)
        } else {
            CapId::Extended(id)
        },
        start: word as u16,
        end: (word >> 16) as u16,
    }
}

impl<C: PciConfigAccess> Cached<'_, C> {
    /// What a planned write concerns: as the registers say now, and as they said `before`; or, in
    /// front of the write, as they will say when it is done.
    pub(crate) fn around(
        &self,
        function: &Function<'_>,
        (at, value): (Access, u32),
        plan: &Plan,
        before: Option<Around>,
    ) -> Around {
        let place = function.place();
        let mut now = Around::default();
        if plan.unclear {
            if self.may_be_bridge(function) {
                now.buses = Some(every_bus_above(place));
            }
        } else if plan.below || plan.renumber {
            let known = before.and_then(|before| before.buses);
            now.buses = match known {
                // Only bus numbers move what is below.
                Some(known) if !plan.renumber => Some(known),
                Some(known) => {
                    let buses = self.buses_below(place);
                    function.set_buses(buses);
                    Some(join(known, buses))
                }
                None => Some(self.buses_below_after(place, at, value)),
            };
        }
        if plan.virtual_functions || plan.unclear {
            now.virtual_functions = before
                .and_then(|before| before.virtual_functions)
                .or_else(|| self.virtual_functions_of(function));
        }
        now
    }

    /// Whether a function of which nothing is known for certain may be a bridge.
    fn may_be_bridge(&self, function: &Function<'_>) -> bool {
        let header = Access::new(0x0e, kho_hal::Width::U8)
            .and_then(|at| self.hardware(&function.counters, function.place(), at));
        header.is_err() || header.is_ok_and(|header| header & 0x7f != 0)
    }

    /// Where the function has its virtual functions, as its registers say now.
    pub(crate) fn virtual_functions_of(&self, function: &Function<'_>) -> Option<VirtualFunctions> {
        let sriov = function.region(SRIOV)?;
        let word = |at: u16| {
            let at = Access::new(sriov.start.saturating_add(at), kho_hal::Width::U16).ok()?;
            let value = self
                .hardware(&function.counters, function.place(), at)
                .ok()?;
            Some(value as u16)
        };
        Some(VirtualFunctions {
            total: word(0x0e)?,
            offset: word(0x14)?,
            stride: word(0x16)?,
        })
    }

    /// Secondary and subordinate bus as the bridge's registers say; every bus above its own if
    /// they make no sense.
    pub(crate) fn buses_below(&self, bridge: Sbdf) -> (u8, u8) {
        self.bus_numbers(bridge)
            .map_or(every_bus_above(bridge), |value| span(bridge, value))
    }

    /// The same, and as it will be after a write to the bridge.
    fn buses_below_after(&self, bridge: Sbdf, at: Access, value: u32) -> (u8, u8) {
        let Some(now) = self.bus_numbers(bridge) else {
            return every_bus_above(bridge);
        };
        let mut after = now.to_le_bytes();
        for (offset, byte) in (at.offset()..at.end()).zip(value.to_le_bytes()) {
            let place = usize::from(offset).checked_sub(BUS_NUMBERS.into());
            if let Some(place) = place.and_then(|place| after.get_mut(place)) {
                *place = byte;
            }
        }
        join(span(bridge, now), span(bridge, u32::from_le_bytes(after)))
    }

    /// The bridge's bus numbers, if it answers.
    fn bus_numbers(&self, bridge: Sbdf) -> Option<u32> {
        let counters = self.index.find(bridge);
        let counters = counters.map_or(&self.other, |bridge| &bridge.counters);
        let at = Access::new(BUS_NUMBERS, kho_hal::Width::U32).ok()?;
        let value = self.hardware(counters, bridge, at).ok()?;
        (value != u32::MAX).then_some(value)
    }

    /// As the bridge says now, and as it said when its bus numbers were last learned: it loses
    /// them with its power. Everything beside its own bus if they were never learned.
    pub(crate) fn buses_ever_below(&self, bridge: Sbdf) -> (u8, u8) {
        let known = self.index.find(bridge).and_then(Function::buses);
        known.map_or((0, u8::MAX), |known| join(known, self.buses_below(bridge)))
    }

    /// Resets or forgets what is on these buses of the bridge's segment, but for the bridge's own
    /// bus.
    pub(crate) fn reset_buses(&self, bridge: Sbdf, (first, last): (u8, u8), forget: bool) {
        let is_below = |place: Sbdf| {
            place.segment() == bridge.segment()
                && place.bus() != bridge.bus()
                && (first..=last).contains(&place.bus())
        };
        self.touch_all(|place, _| is_below(place));
        for function in self.index.all() {
            if is_below(function.place()) {
                if forget {
                    self.forget_one(function);
                } else {
                    self.reset_one(function, Keep::Nothing);
                }
            }
        }
    }

    /// Invalidates the link capabilities of every function that may be of the same device: those
    /// on its bus, and virtual ones.
    fn forget_links(&self, function: &Function<'_>) {
        let place = function.place();
        self.touch_all(|other, data| {
            let beside = other.bus() == place.bus() || self.was_virtual(data);
            other.segment() == place.segment() && beside
        });
        for other in self.index.all() {
            let beside = other.place().bus() == place.bus() || other.is_virtual();
            if other.place().segment() == place.segment() && beside {
                // One that is being added may have read them before.
                other.restart_addition();
                if let Some(link) = other.region(CapId::Standard(0x10)) {
                    let first = link.start.saturating_add(0x0c);
                    other.invalidate(first..first.saturating_add(4), Keep::Constants);
                }
            }
        }
    }

    /// Forgets the virtual functions of a physical one, if it can have any.
    pub(crate) fn forget_virtual_functions(
        &self,
        physical: &Function<'_>,
        theirs: Option<VirtualFunctions>,
    ) {
        if theirs.is_some() || physical.has_virtual_functions() {
            self.forget_virtual_functions_of(physical, theirs);
        }
    }

    /// Forgets the virtual functions of a physical one: those where it says it has them, and all
    /// of its segment that show no vendor.
    fn forget_virtual_functions_of(
        &self,
        physical: &Function<'_>,
        theirs: Option<VirtualFunctions>,
    ) {
        let place = physical.place();
        let is_theirs = |other: Sbdf| {
            theirs.is_some_and(|theirs| theirs.contains(place, other.bdf())) && other != place
        };
        self.touch_all(|other, data| {
            other.segment() == place.segment() && (is_theirs(other) || self.was_virtual(data))
        });
        for function in self.index.all() {
            let other = function.place();
            if other.segment() == place.segment() && (is_theirs(other) || function.is_virtual()) {
                self.forget_one(function);
            }
        }
    }

    /// Whether a saved page is that of a function without a vendor, or may be.
    fn was_virtual(&self, data: PhysAddr) -> bool {
        let words = self.pages.and_then(|pages| pages.mem.words(data, 1).ok());
        let first = words.and_then(<[_]>::first);
        first.is_none_or(|word| word.load(Ordering::Acquire) as u32 == u32::MAX)
    }

    /// Carries out what a plan says: once before the hardware write and once after it.
    pub(crate) fn apply(
        &self,
        function: &Function<'_>,
        at: Access,
        plan: &Plan,
        around: Around,
        moment: Moment,
    ) {
        function.counters.invalidations.bump();
        function.invalidate(at.offset()..at.end(), Keep::Nothing);
        for range in plan.ranges.iter().take(plan.count) {
            function.invalidate(range.clone(), Keep::Constants);
        }
        if plan.everything {
            function.invalidate(0..Access::SPACE, Keep::Nothing);
            // Registers that rules look at among it.
            function.unhold();
        }
        if plan.reset {
            let now = self.start_reset(function, Keep::Constants);
            if let (Moment::After, Some(now)) = (moment, now) {
                function.counters.resets.bump();
                function.advance(now, Kind::Unsettled);
            }
        }
        if plan.unclear {
            // An addition starts anew, for it may have read what was there before.
            if !function.restart_addition() {
                self.reset_one(function, Keep::Nothing);
            }
        }
        if plan.virtual_functions || plan.unclear {
            self.forget_virtual_functions_of(function, around.virtual_functions);
        }
        if plan.links {
            self.forget_links(function);
        }
        let place = function.place();
        if plan.routing {
            self.touch_all(|other, _| other.segment() == place.segment());
            for other in self.index.all() {
                if other.place().segment() == place.segment() && other.place() != place {
                    self.forget_one(other);
                }
            }
        }
        if let Some(buses) = around.buses {
            self.reset_buses(place, buses, plan.renumber || plan.unclear);
        }
    }
}

/// Secondary and subordinate bus in the dword of bus numbers; every bus above the bridge's own if
/// they make no sense.
fn span(bridge: Sbdf, value: u32) -> (u8, u8) {
    let (first, last) = ((value >> 8) as u8, (value >> 16) as u8);
    match (first, last) {
        // Not configured: nothing is reached through it.
        (0, 0) => (u8::MAX, 0),
        _ if first > bridge.bus() && first <= last => (first, last),
        _ => every_bus_above(bridge),
    }
}

/// Bus numbers grow away from the root.
pub(crate) fn every_bus_above(bridge: Sbdf) -> (u8, u8) {
    match bridge.bus().checked_add(1) {
        Some(first) => (first, u8::MAX),
        None => (u8::MAX, 0),
    }
}

/// Bits of one rule that a write sets, and those that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touched {
    ones: u32,
    touched: u32,
}

impl Effect {
    /// Whether it is on other functions.
    const fn is_wide(self) -> bool {
        match self {
            Self::Below | Self::Renumber | Self::Routing | Self::VirtualFunctions | Self::Links => {
                true
            }
            Self::Reset | Self::Bars | Self::MessageNumbers | Self::Capability(_) => false,
        }
    }
}

impl Rule {
    /// How a write meets this rule's register, whose place starts at `base`; `None` if it misses.
    fn meets(&self, base: u16, at: Access, value: u32) -> Option<Touched> {
        let bytes = self.bytes(base);
        if at.offset() >= bytes.end || at.end() <= bytes.start {
            return None;
        }
        // Shift both by what the write starts before or after the rule's first byte.
        let place = |bits: u32| {
            let shift = 8 * (i32::from(at.offset()) - i32::from(bytes.start));
            let wide = u64::from(bits & at.width().mask());
            let moved = if shift >= 0 {
                wide << shift.min(63)
            } else {
                wide >> (-shift).min(63)
            };
            moved as u32 & self.mask
        };
        Some(Touched {
            ones: place(value),
            touched: place(u32::MAX),
        })
    }

    /// The bytes of the register, whose place starts at `base`.
    fn bytes(&self, base: u16) -> Range<u16> {
        base.saturating_add(self.first)..base.saturating_add(self.last).saturating_add(1)
    }

    /// Whether a write fires the rule, given the bits that were set before it, if known.
    fn fires(&self, write: Touched, before: Option<bool>) -> bool {
        match self.trigger {
            Trigger::Any => true,
            Trigger::Set => write.ones != 0,
            _ if write.touched == 0 => false,
            Trigger::Level => write.ones != 0 || before != Some(false),
            Trigger::Change => before != Some(write.ones != 0),
        }
    }
}

#[cfg(test)]
mod tests;

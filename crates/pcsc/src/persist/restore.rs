//! Taking a saved function into use.

use core::ops::Range;

use kho_hal::{Access, PciConfigAccess, Sbdf, Width};

use super::{Place, Saved, Variant};
use crate::add::{AddError, Added, Distrust};
use crate::cache::{Cached, Pages};
use crate::function::{Function, Kind};
use crate::infer::Inference;
use crate::space::{MAP, Space, VALUES};
use kho_hal::sync::{AtomicU64, Ordering};

/// Words of a page in the conventional variant: values, and each of two bitmaps.
const SMALL_VALUES: usize = 32;
const SMALL_MAP: usize = 4;

/// Bits of the first bitmap word.
const fn bits(bytes: Range<u32>) -> u64 {
    ((1u64 << (bytes.end - bytes.start)) - 1) << bytes.start
}

/// Vendor and device: marked cacheable in every page that was ever written.
const MARKED: u64 = bits(0..4);
/// Command, status and reserved bytes: never marked.
const UNMARKED: u64 = bits(4..8) | bits(0x35..0x3c);
/// What the identity check needs to know.
const IDENTITY: u64 = bits(0..4) | bits(8..12) | bits(14..15);

impl<'m, C: PciConfigAccess> Cached<'m, C> {
    /// Lets functions that are added from now on take over what a predecessor saved.
    pub fn with_saved(mut self, saved: Saved) -> Self {
        self.saved = Some(saved);
        self
    }

    /// Takes the saved page of a function into use, if there is one and the function is the same.
    /// Three hardware reads at most, and none without a page; if other rules marked it, what the
    /// inference needs.
    pub(crate) fn adopt(
        &self,
        entry: &Function<'m>,
        function: Sbdf,
        policy: u64,
    ) -> Result<Added, AddError> {
        let (Some(saved), Some(pages)) = (&self.saved, &self.pages) else {
            return Ok(Added::Inferred);
        };
        if entry.space().is_some() {
            return Ok(Added::Inferred);
        }
        let addr = match saved.place(function) {
            Place::Absent => return Ok(Added::Inferred),
            Place::Damaged => return Ok(Added::Distrusted(Distrust::Damaged)),
            Place::At(addr) => addr,
        };
        let (values, map) = match saved.variant {
            Variant::Extended => (VALUES, MAP),
            Variant::Conventional => (SMALL_VALUES, SMALL_MAP),
        };
        if !addr.as_u64().is_multiple_of(pages.page_size.bytes()) {
            return Ok(Added::Distrusted(Distrust::Damaged));
        }
        let Ok(words) = pages.mem.words(addr, values + 2 * map) else {
            return Ok(Added::Distrusted(Distrust::Damaged));
        };
        let load = |n: usize| words.get(n).map_or(0, |word| word.load(Ordering::Acquire));
        let marked = load(values);
        let known = load(values + map) & marked;
        if marked & MARKED != MARKED || marked & UNMARKED != 0 {
            return Ok(Added::Distrusted(Distrust::Damaged));
        }
        if known & IDENTITY != IDENTITY {
            return Ok(Added::Distrusted(Distrust::Unidentified));
        }
        // From here on, whoever writes lets the addition start anew.
        let now = entry.enter(Kind::Adding);
        self.wide.look();
        if saved.is_touched(function) || self.wide.any() {
            return Ok(Added::Distrusted(Distrust::Touched));
        }
        let read = |offset| {
            let unreadable = AddError::Unreadable { function };
            let at = Access::new(offset, Width::U32).map_err(|_| unreadable)?;
            self.hardware(&entry.counters, function, at)
                .map_err(|_| unreadable)
        };
        // The class first: a device that shows it shows its identity too.
        let (class, identity, header) = (read(8)?, read(0)?, read(12)?);
        if class == u32::MAX {
            return Err(AddError::Absent { function });
        }
        let (low, high) = (load(0), load(1));
        let same = low as u32 == identity
            && high as u32 == class
            && (high >> 48) as u8 == (header >> 16) as u8;
        if !same {
            return Ok(Added::Distrusted(Distrust::Changed));
        }
        let made = entry.set_space(|| match saved.variant {
            Variant::Extended => Some(Space::Pages(addr, words)),
            Variant::Conventional => copied(pages, words),
        });
        if !made {
            return Err(AddError::NoMemory { function });
        }
        entry.set_identity(identity, class);
        entry.unhold();
        entry.flags.store(policy, Ordering::Release);
        let page = Page::of(entry, header);
        let mut source = |at: Access| {
            if saved.has_same_rules() {
                page.register(entry, at)
            } else {
                self.learn(entry, at).ok()
            }
        };
        let Some(inference) = Inference::new(&mut source) else {
            return Ok(Added::Distrusted(Distrust::Damaged));
        };
        entry.keep_absent(entry.set_map(&inference));
        for (n, known) in page.known.into_iter().enumerate() {
            entry.keep_known(n, known);
        }
        if self.complete(entry, now) {
            Ok(Added::Restored)
        } else {
            Ok(Added::Distrusted(Distrust::Touched))
        }
    }
}

/// What a predecessor's page says of itself.
struct Page {
    /// Bytes that it marked as cacheable.
    marked: [u64; MAP],
    /// Those of them whose value it knew.
    known: [u64; MAP],
    /// The dword at 0ch, as the hardware has it.
    header: u32,
}

impl Page {
    fn of(entry: &Function<'_>, header: u32) -> Self {
        let word = |word: Option<&AtomicU64>| word.map_or(0, |word| word.load(Ordering::Acquire));
        let space = || entry.space();
        let marked = core::array::from_fn(|n| word(space().and_then(|space| space.cacheable(n))));
        let known = core::array::from_fn(|n| {
            let known = word(space().and_then(|space| space.known(n)));
            known & marked.get(n).copied().unwrap_or(0)
        });
        Self {
            marked,
            known,
            header,
        }
    }

    /// A register for the walk: what the page knows, or follows from what it marked.
    fn register(&self, entry: &Function<'_>, at: Access) -> Option<u32> {
        let has = |map: &[u64; MAP], at: Access| {
            let bits = ((1u64 << at.width().bytes()) - 1) << (at.offset() & 63);
            let word = map.get(usize::from(at.offset() >> 6)).copied();
            word.is_some_and(|word| word & bits == bits)
        };
        match (at.offset(), at.width()) {
            // Seen by the identity check.
            (0x0f, Width::U8) => Some(self.header >> 24),
            // Status: the pointer is marked where there is a list.
            (0x06, Width::U16) => {
                let pointer = Access::new(0x34, Width::U8).ok()?;
                Some(if has(&self.marked, pointer) { 0x10 } else { 0 })
            }
            _ => has(&self.known, at).then(|| entry.page_value(at))?,
        }
    }
}

/// New pages with what a page of the conventional variant holds.
fn copied<'m>(pages: &Pages<'m>, small: &[AtomicU64]) -> Option<Space<'m>> {
    let space = pages.space()?;
    let parts = [
        (0, 0, SMALL_VALUES),
        (SMALL_VALUES, VALUES, SMALL_MAP),
        (SMALL_VALUES + SMALL_MAP, VALUES + MAP, SMALL_MAP),
    ];
    for (from, to, count) in parts {
        let target = space.words().get(to..to + count)?;
        for (to, from) in target.iter().zip(small.get(from..)?) {
            to.store(from.load(Ordering::Acquire), Ordering::Release);
        }
    }
    Some(space)
}

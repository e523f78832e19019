//! From an address to its function, in a fixed number of steps and without a lock.
//!
//! Segment, bus and slot are looked up one after the other; a slot names a place in one of a few
//! chunks, each twice as large as the one before, so that n functions take log n allocations. A
//! function keeps its place for good: one that leaves the cache becomes vacant, and is used again
//! when the same address is added again. So a reference never comes to mean another address.

use core::sync::atomic::{AtomicU32, Ordering};

use kho_hal::Sbdf;
use spin::{Mutex, Once};
use std_alloc::boxed::Box;

use crate::function::Function;

/// Functions in the first chunk.
const FIRST: u32 = 8;
const CHUNKS: usize = 24;

pub(crate) struct Index<'m> {
    segments: Once<Box<Segment>>,
    chunks: [Once<Box<[Function<'m>]>>; CHUNKS],
    used: AtomicU32,
    adding: Mutex<()>,
}

struct Segment {
    number: u32,
    buses: [Once<Box<Bus>>; 256],
    next: Once<Box<Segment>>,
}

struct Bus {
    /// Place + 1, or 0.
    slots: [AtomicU32; 256],
}

impl Segment {
    fn new(number: u32) -> Self {
        Self {
            number,
            buses: [const { Once::new() }; 256],
            next: Once::new(),
        }
    }
}

impl<'m> Index<'m> {
    pub(crate) const fn new() -> Self {
        Self {
            segments: Once::new(),
            chunks: [const { Once::new() }; CHUNKS],
            used: AtomicU32::new(0),
            adding: Mutex::new(()),
        }
    }

    /// The function at an address, if there ever was one.
    #[inline]
    pub(crate) fn find(&self, at: Sbdf) -> Option<&Function<'m>> {
        let mut segment = self.segments.get()?;
        while segment.number != at.segment() {
            segment = segment.next.get()?;
        }
        let bus = segment.buses.get(usize::from(at.bus()))?.get()?;
        let slot = bus.slots.get(usize::from(at.bdf() & 0xff))?;
        self.place(slot.load(Ordering::Acquire).checked_sub(1)?)
    }

    #[inline]
    fn place(&self, place: u32) -> Option<&Function<'m>> {
        // Chunk k starts at FIRST * (2^k - 1).
        let chunk = (place / FIRST + 1).ilog2();
        let start = FIRST * ((1 << chunk) - 1);
        let chunk = self.chunks.get(chunk as usize)?.get()?;
        chunk.get((place - start) as usize)
    }

    /// The function at an address, made if there is none. `None` when all places are taken.
    pub(crate) fn find_or_make(&self, at: Sbdf) -> Option<&Function<'m>> {
        let mut link = &self.segments;
        let segment = loop {
            let segment = link.call_once(|| Box::new(Segment::new(at.segment())));
            if segment.number == at.segment() {
                break segment;
            }
            link = &segment.next;
        };
        let bus = segment.buses.get(usize::from(at.bus()))?;
        let bus = bus.call_once(|| {
            Box::new(Bus {
                slots: [const { AtomicU32::new(0) }; 256],
            })
        });
        let slot = bus.slots.get(usize::from(at.bdf() & 0xff))?;
        if slot.load(Ordering::Acquire) == 0 {
            let _guard = self.adding.lock();
            if slot.load(Ordering::Acquire) == 0 {
                let place = self.used.load(Ordering::Acquire);
                let chunk = (place / FIRST + 1).ilog2();
                let len = FIRST << chunk;
                let chunk = self.chunks.get(chunk as usize)?;
                chunk.call_once(|| (0..len).map(|_| Function::new()).collect());
                self.place(place)?.set_place(at);
                self.used.store(place + 1, Ordering::Release);
                slot.store(place + 1, Ordering::Release);
            }
        }
        self.place(slot.load(Ordering::Acquire).checked_sub(1)?)
    }

    /// Every function there ever was.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Function<'m>> {
        let used = self.used.load(Ordering::Acquire);
        (0..used).filter_map(|place| self.place(place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Few segments, buses and slots, so that the same come again; and any.
    fn address() -> impl Strategy<Value = Sbdf> {
        let near = (
            0u32..3,
            prop::sample::select(&[0u16, 1, 8, 0xff, 0x100, 0xff00, 0xffff][..]),
        );
        prop_oneof![near, (any::<u32>(), any::<u16>())]
            .prop_map(|(segment, bdf)| Sbdf::from_bdf(segment, bdf))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_address_has_one_place_for_good(
            made in prop::collection::vec(address(), 0..80),
            others in prop::collection::vec(address(), 0..10),
        ) {
            let index = Index::new();
            let mut model: BTreeMap<_, *const Function<'_>> = BTreeMap::new();
            let mut order = Vec::new();
            for at in made {
                let key = (at.segment(), at.bdf());
                let place: *const _ = index.find_or_make(at).unwrap();
                prop_assert_eq!(*model.entry(key).or_insert_with(|| {
                    order.push(at);
                    place
                }), place);
            }
            let mut places: Vec<_> = model.values().collect();
            places.sort();
            places.dedup();
            prop_assert_eq!(places.len(), model.len(), "no place is shared");
            for at in others.into_iter().chain(order.clone()) {
                let found = index.find(at).map(core::ptr::from_ref);
                prop_assert_eq!(found, model.get(&(at.segment(), at.bdf())).copied());
            }
            prop_assert!(index.all().map(Function::place).eq(order));
        }
    }

    /// Chunks double: the ends of the first few, and beyond.
    #[test]
    fn a_segment_full_of_functions_has_a_place_for_each() {
        let index = Index::new();
        let addresses = || (0..1200).map(|bdf| Sbdf::from_bdf(0, bdf));
        for at in addresses() {
            assert_eq!(index.find_or_make(at).unwrap().place(), at);
        }
        for at in addresses() {
            assert_eq!(index.find(at).unwrap().place(), at);
        }
        assert!(index.all().map(Function::place).eq(addresses()));
    }
}

//! Where the tables above the leaves are, so that the way to one need not start at the root.

use kho_abi::radix::{self, Key};
use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{PageSize, PhysAddr};

/// How many there are: enough for 2 TiB in folios of one order, with 4 KiB pages.
const SLOTS: usize = 32;

/// Tables of level 1. A table stays where it is for as long as the tree exists, so what was found once
/// holds. The first that is found for a slot keeps it: were it replaced, CPUs that preserve far apart
/// would write to one cache line all the time.
///
/// Each slot is one word, read and written whole: the number of the table's page, and below it what
/// tells the table from the others that share the slot. It is 0 if there is none.
#[derive(Debug)]
pub(super) struct Shortcuts([AtomicU64; SLOTS]);

/// Bits of a tag, those of a key above the reach of level 1: 29 with 4 KiB pages, fewer with others.
/// What is left is for tables below 128 TiB; others are not remembered.
const TAG_BITS: u32 = 29;

/// What the keys of a table of level 1 have in common, and the slot that is theirs.
#[inline(always)]
const fn tag_and_slot(key: Key, page: PageSize) -> (u64, usize) {
    let tag = key.as_u64() >> (radix::leaf_shift(page) + radix::table_shift(page));
    // The highest bit gives the order: low addresses of different orders are in different slots.
    let slot = tag.wrapping_add(tag.leading_zeros() as u64);
    (tag, slot as usize % SLOTS)
}

impl Shortcuts {
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// The table of level 1 that leads to `key`, if it is known.
    #[inline(always)]
    pub(super) fn find(&self, key: Key, page: PageSize) -> Option<PhysAddr> {
        let (tag, slot) = tag_and_slot(key, page);
        // Acquire: pairs with the release in `remember`, so that the table reads as zeroed.
        let known = self.0.get(slot)?.load(Ordering::Acquire);
        let is_it = known != 0 && known & ((1 << TAG_BITS) - 1) == tag;
        is_it.then(|| PhysAddr::new(known >> TAG_BITS << page.shift()))
    }

    /// Forgets all: tables are about to be freed.
    pub(super) fn forget(&self) {
        for slot in &self.0 {
            slot.store(0, Ordering::Relaxed);
        }
    }

    /// Remembers the table of level 1 that leads to `key`.
    pub(super) fn remember(&self, key: Key, table: PhysAddr, page: PageSize) {
        let (tag, slot) = tag_and_slot(key, page);
        let number = table.pfn(page).as_u64();
        let fits = number >> (64 - TAG_BITS) == 0 && tag >> TAG_BITS == 0;
        if let Some(slot) = self.0.get(slot).filter(|_| fits) {
            let new = number << TAG_BITS | tag;
            // Another table may have been faster.
            let _ = slot.compare_exchange(0, new, Ordering::Release, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use kho_hal::Order;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn remembers_what_fits() {
        let page = PageSize::Size4K;
        let key = |addr, order| {
            let order = Order::new(order).unwrap();
            Key::encode(PhysAddr::new(addr), order, page).unwrap()
        };
        let shortcuts = Shortcuts::new();
        let table = PhysAddr::new((1 << 47) - 4096);
        shortcuts.remember(key(0, 0), table, page);
        // 64 GiB have one table, for each order.
        assert_eq!(shortcuts.find(key((64 << 30) - 4096, 0), page), Some(table));
        assert_eq!(shortcuts.find(key(64 << 30, 0), page), None);
        assert_eq!(shortcuts.find(key(0, 1), page), None);
        shortcuts.remember(key(0, 1), PhysAddr::new(1 << 47), page);
        assert_eq!(shortcuts.find(key(0, 1), page), None, "too high a number");
    }

    proptest! {
        /// What is found is the table that was remembered for the key, or nothing.
        #[test]
        fn never_another_table(
            folios in prop::collection::vec((0u64..1 << 52, 0u32..52, 0u32..52, 1u64..1 << 50), 1..60),
            page in prop::sample::select(&PageSize::ALL),
        ) {
            let shortcuts = Shortcuts::new();
            let mut tables = std::collections::BTreeMap::new();
            for (addr, bits, order, table) in folios {
                // Mostly low addresses, so that keys share tables and slots.
                let order = Order::new(order.min(page.max_order().as_u32())).unwrap();
                let size = order.bytes(page).unwrap();
                let addr = PhysAddr::new((addr >> bits << page.shift()) / size * size);
                let key = Key::encode(addr, order, page).unwrap();
                let prefix = key.as_u64() >> (radix::leaf_shift(page) + radix::table_shift(page));
                let table = *tables.entry(prefix).or_insert(table);
                let known = shortcuts.find(key, page);
                prop_assert!(known.is_none_or(|at| at.pfn(page).as_u64() == table));
                if let Some(at) = kho_hal::Pfn::new(table).addr(page) {
                    shortcuts.remember(key, at, page);
                }
            }
        }
    }
}

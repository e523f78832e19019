//! Where the tables above the leaves are, so that the way to one need not start at the root.

use core::sync::atomic::{AtomicU64, Ordering};

use kho_abi::radix::{self, Key};
use kho_hal::{PageSize, PhysAddr};

/// How many there are: enough for 2 TiB in folios of one order, with 4 KiB pages.
const SLOTS: usize = 32;

/// The tables of level 1 that were used last. A table stays where it is for as long as the tree
/// exists, so what was found once holds.
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
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; SLOTS])
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

    /// Remembers the table of level 1 that leads to `key`.
    pub(super) fn remember(&self, key: Key, table: PhysAddr, page: PageSize) {
        let (tag, slot) = tag_and_slot(key, page);
        let number = table.pfn(page).as_u64();
        let fits = number >> (64 - TAG_BITS) == 0 && tag >> TAG_BITS == 0;
        if let Some(slot) = self.0.get(slot).filter(|_| fits) {
            slot.store(number << TAG_BITS | tag, Ordering::Release);
        }
    }
}

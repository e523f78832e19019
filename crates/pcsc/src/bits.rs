//! Sets of configuration-space bytes.

use core::ops::Range;

/// A set of byte offsets in 0..4096: bit n of word n / 64 stands for byte n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteSet {
    words: [u64; 64],
}

impl ByteSet {
    /// No byte.
    pub const EMPTY: Self = Self { words: [0; 64] };

    /// The words, 64 bytes each.
    pub fn words(&self) -> &[u64; 64] {
        &self.words
    }

    /// Adds the bytes of a range; what lies beyond 4096 is ignored.
    pub fn insert(&mut self, bytes: Range<u16>) {
        for (word, mask) in masks(bytes) {
            if let Some(word) = self.words.get_mut(word) {
                *word |= mask;
            }
        }
    }

    /// Whether the byte is in the set.
    pub fn contains(&self, offset: u16) -> bool {
        let word = self.words.get(usize::from(offset >> 6));
        word.is_some_and(|word| word >> (offset & 63) & 1 != 0)
    }

    /// How many bytes.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The ranges of adjacent bytes, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u16>> + '_ {
        let mut from = 0u16;
        core::iter::from_fn(move || {
            let start = (from..4096).find(|&offset| self.contains(offset))?;
            let end = (start..4096).find(|&offset| !self.contains(offset));
            from = end.unwrap_or(4096);
            Some(start..from)
        })
    }
}

/// The words that a range touches, each with the bits of the range in it.
pub(crate) fn masks(bytes: Range<u16>) -> impl Iterator<Item = (usize, u64)> {
    let end = bytes.end.min(4096);
    let words = bytes.start >> 6..end.div_ceil(64).max(bytes.start >> 6);
    words.map(move |word| {
        let base = word << 6;
        let first = bytes.start.max(base) - base;
        let last = end.min(base + 64) - base;
        let upto = |n: u16| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
        (usize::from(word), upto(last) & !upto(first))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_come_back_as_they_went_in() {
        let mut set = ByteSet::EMPTY;
        for range in [0..4, 60..68, 128..192, 4090..5000, 7..7] {
            set.insert(range);
        }
        assert!(set.ranges().eq([0..4, 60..68, 128..192, 4090..4096]));
        assert_eq!(set.count(), 4 + 8 + 64 + 6);
    }

    fn range() -> impl Strategy<Value = Range<u16>> {
        // Around the ends of words and of the space, and anywhere.
        let end = prop_oneof![
            (0u16..=65, -1i32..=1).prop_map(|(word, by)| (i32::from(word) * 64 + by).max(0) as u16),
            0u16..=4200,
            any::<u16>(),
        ];
        (end.clone(), end).prop_map(|(start, end)| start..end)
    }

    proptest! {
        #[test]
        fn a_set_holds_what_was_inserted(inserted in prop::collection::vec(range(), 0..6)) {
            let mut set = ByteSet::EMPTY;
            let mut model = BTreeSet::new();
            for range in &inserted {
                set.insert(range.clone());
                model.extend(range.clone().filter(|offset| *offset < 4096));
            }
            prop_assert_eq!(set.count() as usize, model.len());
            for offset in (0..4200).chain([u16::MAX]) {
                prop_assert_eq!(set.contains(offset), model.contains(&offset), "{}", offset);
            }
            let listed: Vec<u16> = set.ranges().flatten().collect();
            prop_assert!(listed.iter().eq(&model));
            let ranges: Vec<_> = set.ranges().collect();
            let apart = ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
            prop_assert!(apart && ranges.iter().all(|range| !range.is_empty()));
        }
    }
}

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
}

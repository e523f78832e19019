//! Runs of set bits in words: the one place where maps of folios are read bit by bit.

use kho_hal::sync::{AtomicU64, Ordering};

/// A word of a page that is read, or written at the same time.
pub(crate) trait Word {
    fn get(&self) -> u64;
}

impl Word for u64 {
    fn get(&self) -> u64 {
        *self
    }
}

impl Word for AtomicU64 {
    fn get(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
}

/// Goes through the set bits of some words, ascending. Bits are counted through all of a map, so
/// the first of these words need not start with bit 0.
#[derive(Debug)]
pub(crate) struct Bits<'a, W> {
    /// The number of the first bit of `word`.
    base: u64,
    /// The word that is being read, without the bits that were taken.
    word: u64,
    /// The words after it.
    ahead: &'a [W],
}

impl<'a, W: Word> Bits<'a, W> {
    /// No bits, nor any after them: above the number of any folio.
    pub(crate) const NONE: Self = Self {
        base: 1 << 62,
        word: 0,
        ahead: &[],
    };

    /// The bits of `words` from number `from` on, where the first of them has number `base`.
    pub(crate) fn new(base: u64, words: &'a [W], from: u64) -> Self {
        let skip = from.saturating_sub(base);
        let ahead = words.get((skip / 64) as usize..).unwrap_or_default();
        let Some((first, ahead)) = ahead.split_first() else {
            return Self {
                base: from / 64 * 64,
                ..Self::NONE
            };
        };
        Self {
            base: base + skip / 64 * 64,
            word: first.get() & u64::MAX << (skip % 64),
            ahead,
        }
    }

    /// The bits of a single word from number `from` on, which starts with bit 0.
    pub(crate) fn of_word(word: u64, from: u64) -> Self {
        Self {
            base: 0,
            word: word & u64::MAX.checked_shl(from as u32).unwrap_or(0),
            ahead: &[],
        }
    }

    /// One past the number of the last bit.
    pub(crate) fn end(&self) -> u64 {
        self.base + 64 + self.ahead.len() as u64 * 64
    }

    /// The next set bit, if it is in the word that is being read.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<u64> {
        (self.word != 0).then(|| self.base + u64::from(self.word.trailing_zeros()))
    }

    /// The next set bit.
    #[inline(always)]
    pub(crate) fn find(&mut self) -> Option<u64> {
        if self.word == 0 {
            self.skip(0);
        }
        self.first()
    }

    /// Takes the bit that was found.
    #[inline(always)]
    pub(crate) fn take_bit(&mut self) {
        self.word &= self.word.wrapping_sub(1);
    }

    /// Takes the run that starts with the bit that was found; returns one past its last bit.
    #[inline(always)]
    pub(crate) fn take_run(&mut self) -> u64 {
        // The carry clears the run and comes out as the bit after it, if there is one.
        let lowest = self.word & self.word.wrapping_neg();
        let carried = self.word.wrapping_add(lowest);
        self.word &= carried;
        if carried != 0 {
            return self.base + u64::from(carried.trailing_zeros());
        }
        // It reaches the end of the word.
        if !self.skip(u64::MAX) {
            return self.end();
        }
        let ones = self.word.trailing_ones();
        self.word &= u64::MAX << ones;
        self.base + u64::from(ones)
    }

    /// What is left of the word in which a bit was found, unless it is all ones: one past its last
    /// set bit, and how many are set.
    #[inline(always)]
    pub(crate) fn word(&self) -> Option<(u64, u32)> {
        let end = self.base + 64 - u64::from(self.word.leading_zeros());
        (self.word != u64::MAX).then_some((end, self.word.count_ones()))
    }

    /// Takes all of that word.
    pub(crate) fn take_word(&mut self) {
        self.word = 0;
    }

    /// Goes on to the next word that is not `word`; if there is none, to the end.
    #[inline]
    fn skip(&mut self, word: u64) -> bool {
        if let Some((first, rest)) = self.ahead.split_first() {
            let first = first.get();
            if first != word {
                self.base += 64;
                self.word = first;
                self.ahead = rest;
                return true;
            }
        }
        self.skip_many(word)
    }

    #[inline(never)]
    fn skip_many(&mut self, word: u64) -> bool {
        let mut ahead = self.ahead;
        // Eight at a time, without a branch for each: most words of a map are all zeros or ones.
        while let Some((eight, rest)) = ahead.split_first_chunk::<8>() {
            if eight.iter().fold(0, |acc, w| acc | (w.get() ^ word)) != 0 {
                break;
            }
            ahead = rest;
        }
        while let Some((first, rest)) = ahead.split_first() {
            ahead = rest;
            let found = first.get();
            if found != word {
                self.base += (self.ahead.len() - ahead.len()) as u64 * 64;
                self.word = found;
                self.ahead = ahead;
                return true;
            }
        }
        self.base += self.ahead.len() as u64 * 64;
        self.word = 0;
        self.ahead = &[];
        false
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use bitvec::prelude::*;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs of bits against another library's.
        #[test]
        fn runs_of_bits(
            words in prop::collection::vec(
                prop_oneof![4 => Just(0), 4 => Just(u64::MAX), 1 => any::<u64>()], 1..40
            ),
            base in (0u64..8).prop_map(|n| n * 64), from in 0u64..3000,
        ) {
            let bits = words.view_bits::<Lsb0>();
            let from = from.min(base + bits.len() as u64);
            let set = bits.iter_ones().map(|bit| base + bit as u64).filter(|bit| *bit >= from);
            let mut expected: Vec<(u64, u64)> = Vec::new();
            for bit in set {
                match expected.last_mut() {
                    Some((_, end)) if *end == bit => *end += 1,
                    _ => expected.push((bit, bit + 1)),
                }
            }
            let mut runs = Bits::new(base, &words, from);
            let end = runs.end();
            let found: Vec<_> = core::iter::from_fn(|| Some((runs.find()?, runs.take_run()))).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(runs.find(), None);

            let mut single = Bits::new(base, &words, from);
            let singles: Vec<_> = core::iter::from_fn(|| {
                let bit = single.find()?;
                single.take_bit();
                Some(bit)
            }).collect();
            prop_assert_eq!(singles, expected.iter().flat_map(|&(a, b)| a..b).collect::<Vec<_>>());
            if from < base + bits.len() as u64 {
                prop_assert_eq!(end, base + bits.len() as u64);
                prop_assert_eq!(runs.end(), end);
            }
        }

        /// What is left of a word: where it ends, and how many there are.
        #[test]
        fn all_that_a_word_has(
            word in prop_oneof![Just(1 << 63), any::<u64>()], taken in 0u32..8,
        ) {
            let mut left = word;
            let words = [word];
            let mut bits = Bits::new(640, &words, 640);
            for _ in 0..taken {
                if bits.find().is_some() {
                    bits.take_bit();
                    left &= left - 1;
                }
            }
            let Some(first) = bits.find() else {
                prop_assert_eq!(left, 0);
                return Ok(());
            };
            prop_assert_eq!(first, 640 + u64::from(left.trailing_zeros()));
            let expected = (left != u64::MAX)
                .then(|| (640 + u64::from(left.ilog2()) + 1, left.count_ones()));
            prop_assert_eq!(bits.word(), expected);
            bits.take_word();
            prop_assert_eq!(bits.find(), None);
        }
    }
}

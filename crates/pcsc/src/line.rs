//! The word that guards 16 bytes of configuration space.
//!
//! ```text
//!  63            33  32   31        16  15         0
//! | generation     | C  | kept        | answered   |
//! ```
//! One bit per byte. *Answered*: the byte's value may be answered. *Kept*: its value stands in
//! the page and is to be answered again, once a reset or an addition is over. Both are in one word
//! with the generation, which every invalidation raises, so that no invalidation is ever half
//! seen.
//!
//! `C` is a claim: whoever holds it is the only one who may store values of this line, and it is
//! held across the hardware read of a miss. Nobody waits for a claim: a second reader that misses
//! meanwhile does not store what it reads, and a writer clears bits and raises the generation
//! under it, so that the holder's bits are refused when it comes back.
//!
//! A generation has 31 bits: a reader would have to sleep through 2^31 invalidations of one line
//! to be deceived.

use core::ops::Range;

/// Bytes of configuration space in one line.
pub(crate) const LEN: usize = 16;
/// Lines in one word of a bitmap.
pub(crate) const PER_WORD: usize = 64 / LEN;
/// The claim.
pub(crate) const CLAIM: u64 = 1 << 32;
/// One generation.
const STEP: u64 = 1 << 33;
/// The bits for the bytes.
pub(crate) const BYTES: u64 = 0xffff;

/// The generation, as an opaque number.
#[inline]
pub(crate) const fn generation(line: u64) -> u64 {
    line >> 33
}

/// The bytes that are answered.
#[inline]
pub(crate) const fn answered(line: u64) -> u64 {
    line & BYTES
}

/// The bytes that are kept.
#[inline]
pub(crate) const fn kept(line: u64) -> u64 {
    line >> 16 & BYTES
}

/// The line with other bytes kept and answered.
pub(crate) const fn with(line: u64, answered: u64, kept: u64) -> u64 {
    line & !(BYTES << 16 | BYTES) | kept << 16 | answered
}

/// The line with `clear` invalidated and a new generation.
pub(crate) const fn bumped(line: u64, clear: u64) -> u64 {
    line.wrapping_add(STEP) & !(clear << 16 | clear)
}

/// The line with nothing answered, and what of `constant` it answered or kept now kept; nothing
/// if it is claimed, for the holder may put what it reads into the page meanwhile.
pub(crate) const fn wiped(line: u64, constant: u64) -> u64 {
    let kept = match line & CLAIM {
        0 => (answered(line) | kept(line)) & constant,
        _ => 0,
    };
    with(line.wrapping_add(STEP), 0, kept)
}

/// Index of the line that holds a byte.
#[inline]
pub(crate) const fn of(offset: u16) -> usize {
    offset as usize / LEN
}

/// Bits for `len` bytes (1, 2 or 4) from `offset`, aligned, in their line.
#[inline]
pub(crate) const fn mask(offset: u16, len: u16) -> u64 {
    ((1u64 << len) - 1) << (offset as usize % LEN)
}

/// The bits of line `index` in its word of a bitmap.
pub(crate) const fn part(word: u64, index: usize) -> u64 {
    word >> (LEN * (index % PER_WORD)) & BYTES
}

/// The lines that a range touches, with their bits.
pub(crate) fn masks(bytes: Range<u16>) -> impl Iterator<Item = (usize, u64)> {
    crate::bits::masks(bytes).flat_map(|(word, mask)| {
        let lines = word * PER_WORD..(word + 1) * PER_WORD;
        lines
            .map(move |index| (index, part(mask, index)))
            .filter(|(_, mask)| *mask != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A line as its parts.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Parts {
        generation: u32,
        claimed: bool,
        kept: u16,
        answered: u16,
    }

    impl Parts {
        /// As the figure in the module documentation has it.
        fn word(self) -> u64 {
            u64::from(self.generation) << 33
                | u64::from(self.claimed) << 32
                | u64::from(self.kept) << 16
                | u64::from(self.answered)
        }

        fn next(self) -> u32 {
            (self.generation + 1) & 0x7fff_ffff
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let generation = prop_oneof![0u32..0x8000_0000, Just(0x7fff_ffff), Just(0)];
        (generation, any::<bool>(), any::<u16>(), any::<u16>()).prop_map(
            |(generation, claimed, kept, answered)| Parts {
                generation,
                claimed,
                kept,
                answered,
            },
        )
    }

    proptest! {
        #[test]
        fn a_line_changes_as_its_parts_do(line in parts(), bits: u16, more: u16) {
            let word = line.word();
            prop_assert_eq!(generation(word), u64::from(line.generation));
            prop_assert_eq!(answered(word), u64::from(line.answered));
            prop_assert_eq!(kept(word), u64::from(line.kept));
            let other = Parts { answered: bits, kept: more, ..line };
            prop_assert_eq!(with(word, bits.into(), more.into()), other.word());
            let cleared = Parts {
                generation: line.next(),
                answered: line.answered & !bits,
                kept: line.kept & !bits,
                ..line
            };
            prop_assert_eq!(bumped(word, bits.into()), cleared.word());
            // What a claim's holder reads may replace what would be kept.
            let known = if line.claimed { 0 } else { line.answered | line.kept };
            let reset = Parts {
                generation: line.next(),
                answered: 0,
                kept: known & bits,
                ..line
            };
            prop_assert_eq!(wiped(word, bits.into()), reset.word());
        }

        #[test]
        fn a_range_is_found_in_its_lines(start in 0u16..4096, len in 0u16..100) {
            let end = (start + len).min(4096);
            let found: Vec<usize> = masks(start..end)
                .flat_map(|(index, mask)| {
                    assert!(mask != 0 && mask <= BYTES);
                    (0..LEN).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| index * LEN + bit)
                })
                .collect();
            prop_assert!(found.into_iter().eq(usize::from(start)..usize::from(end)));
        }

        #[test]
        fn a_bitmap_word_has_four_lines(word: u64, index in 0usize..64) {
            let quarter = index % 4;
            let bytes = word.to_le_bytes();
            let expected = u16::from_le_bytes([bytes[2 * quarter], bytes[2 * quarter + 1]]);
            prop_assert_eq!(part(word, index), u64::from(expected));
        }
    }

    #[test]
    fn an_access_is_found_in_its_line() {
        for len in [1, 2, 4] {
            for offset in (0..4096).step_by(len) {
                let bits: Vec<u16> = (0..16)
                    .filter(|bit| mask(offset, len as u16) >> bit & 1 != 0)
                    .collect();
                let start = of(offset) as u16 * 16;
                assert!(
                    bits.iter()
                        .map(|bit| start + bit)
                        .eq(offset..offset + len as u16)
                );
                assert_eq!(mask(offset, len as u16) >> 16, 0);
            }
        }
    }
}

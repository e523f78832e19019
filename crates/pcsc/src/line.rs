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

//! The word that guards 32 bytes of configuration space.
//!
//! ```text
//!  63            33  32   31                    0
//! | generation     | C  | one bit per byte       |
//! ```
//! A set bit says that the byte's value may be answered. Every invalidation raises the generation.
//! `C` is a claim: whoever holds it is the only one who may store values of this line, and it is
//! held across the hardware read of a miss. Nobody waits for a claim: a second reader that misses
//! meanwhile does not store what it reads, and a writer clears bits and raises the generation
//! under it, so that the holder's bits are refused when it comes back.
//!
//! A generation has 31 bits: a reader would have to sleep through 2^31 invalidations of one line
//! to be deceived.

use core::ops::Range;

/// The claim.
pub(crate) const CLAIM: u64 = 1 << 32;
/// One generation.
const STEP: u64 = 1 << 33;
/// The bits for the bytes.
pub(crate) const BYTES: u64 = 0xffff_ffff;

/// The generation, as an opaque number.
#[inline]
pub(crate) const fn generation(line: u64) -> u64 {
    line >> 33
}

/// The line with `clear` invalidated and a new generation.
pub(crate) const fn bumped(line: u64, clear: u64) -> u64 {
    line.wrapping_add(STEP) & !(clear & BYTES)
}

/// Index of the line that holds a byte.
#[inline]
pub(crate) const fn of(offset: u16) -> usize {
    (offset >> 5) as usize
}

/// Bits for `len` bytes (1, 2 or 4) from `offset`, aligned, in their line.
#[inline]
pub(crate) const fn mask(offset: u16, len: u16) -> u64 {
    ((1u64 << len) - 1) << (offset & 31)
}

/// The lines that a range touches, with their bits.
pub(crate) fn masks(bytes: Range<u16>) -> impl Iterator<Item = (usize, u64)> {
    crate::bits::masks(bytes).flat_map(|(word, mask)| {
        [(2 * word, mask & BYTES), (2 * word + 1, mask >> 32)]
            .into_iter()
            .filter(|(_, mask)| *mask != 0)
    })
}

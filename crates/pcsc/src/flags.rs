//! What is noted of one function besides its registers.

use crate::function::Function;
use kho_hal::sync::Ordering;

/// Header type without the multifunction bit.
pub(crate) const HEADER_TYPE: u64 = 0x7f;
/// No built-in self test.
pub(crate) const NO_BIST: u64 = 1 << 7;
/// Capabilities are known.
pub(crate) const MAPPED: u64 = 1 << 8;
/// [`crate::Unlisted::Constant`].
pub(crate) const UNLISTED_CONSTANT: u64 = 1 << 9;
/// [`crate::Unlisted::Absent`].
pub(crate) const UNLISTED_ABSENT: u64 = 1 << 10;

impl Function<'_> {
    /// Without the multifunction bit.
    pub(crate) fn header_type(&self) -> u64 {
        self.flags.load(Ordering::Acquire) & HEADER_TYPE
    }

    pub(crate) fn is_bridge(&self) -> bool {
        // A CardBus bridge has its bus numbers and its reset bit at the same places.
        matches!(self.header_type(), 1 | 2)
    }

    /// Whether it shows no vendor, as virtual functions do.
    pub(crate) fn is_virtual(&self) -> bool {
        self.identity().0 == u32::MAX
    }

    pub(crate) fn is_endpoint(&self) -> bool {
        self.header_type() == 0
    }

    /// Bits of bitmap word `n` that may be answered: those marked, those that are fixed, and the
    /// command register.
    pub(crate) fn answerable(&self, n: usize) -> u64 {
        let flags = self.flags.load(Ordering::Acquire);
        let (header, has_bist) = ((flags & HEADER_TYPE) as u8, flags & NO_BIST == 0);
        let marked = self.space().and_then(|space| space.cacheable(n));
        marked.map_or(0, |word| {
            let unmarked = fixed_bits(n, header, has_bist) | command_bits(n, header);
            word.load(Ordering::Acquire) | unmarked
        })
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.flags.load(Ordering::Acquire) & MAPPED != 0
    }
}

/// Header bytes that are fixed, in bitmap word `n`.
pub(crate) fn fixed_bits(n: usize, header_type: u8, has_bist: bool) -> u64 {
    if n > 0 {
        return 0;
    }
    let fixed = crate::table::fixed(header_type, has_bist);
    let words = fixed.into_iter().flat_map(crate::bits::masks);
    words.fold(0, |bits, (_, mask)| bits | mask)
}

/// The command register, in bitmap word `n`.
fn command_bits(n: usize, header_type: u8) -> u64 {
    match (n, header_type) {
        (0, 0 | 1) => {
            crate::bits::masks(crate::table::COMMAND).fold(0, |bits, (_, mask)| bits | mask)
        }
        _ => 0,
    }
}

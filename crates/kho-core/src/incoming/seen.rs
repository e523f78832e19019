//! Finding what occurs twice, without a heap.

use crate::incoming::Fault;

/// A set of keys that may say "seen" wrongly, but never "not seen".
pub(crate) struct Seen<'w> {
    bits: &'w mut [u64],
    keys: u64,
    compared: u64,
}

impl<'w> Seen<'w> {
    pub(crate) fn new(bits: &'w mut [u64]) -> Self {
        bits.fill(0);
        Self {
            bits,
            keys: 0,
            compared: 0,
        }
    }

    /// Whether `key` may have been asked for before; if so, `others` keys are going to be compared.
    pub(crate) fn maybe(&mut self, key: &[&[u8]], others: usize) -> Result<bool, Fault> {
        // FNV-1a, its high bits mixed into the low ones.
        let hash = key
            .iter()
            .copied()
            .flatten()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.keys += 1;
        let words = self.bits.len() as u64;
        let index = (u128::from(hash) * u128::from(words)) >> 64;
        let seen = match self.bits.get_mut(index as usize) {
            Some(word) => {
                let bit = 1 << (hash & 63);
                let seen = *word & bit != 0;
                *word |= bit;
                seen
            }
            None => true,
        };
        if seen {
            self.compared += others as u64;
            if self.compared > self.keys.saturating_mul(64).max(1 << 24) {
                return Err(Fault::Workspace {
                    words: self.keys.max(words).saturating_mul(2),
                });
            }
        }
        Ok(seen)
    }
}

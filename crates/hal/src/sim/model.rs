//! Memory for programs that the model checker runs.

use std_alloc::boxed::Box;
use std_alloc::sync::Arc;

use crate::mem::wanted_words;
use crate::sync::AtomicU64;
use crate::{MemError, PhysAddr, PhysMem, PhysRange};

/// RAM of one range whose every access is an event to loom. A clone is the same memory.
///
/// It holds `0xdb` everywhere, so that whoever reads a page before it is zeroed for him notices.
#[derive(Clone, Debug)]
pub struct ModelMemory {
    range: PhysRange,
    words: Arc<[AtomicU64]>,
}

impl ModelMemory {
    /// Memory at `range`, which is word-aligned. To be made in the model, anew each time.
    pub fn new(range: PhysRange) -> Self {
        let words = (0..range.size() / 8).map(|_| AtomicU64::new(0xdbdb_dbdb_dbdb_dbdb));
        let words: Box<[_]> = words.collect();
        Self {
            range,
            words: words.into(),
        }
    }
}

impl PhysMem for ModelMemory {
    /// # Panics
    /// If this is not memory: nothing but a word that was read too early leads there.
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        let wanted = wanted_words(addr, count)?;
        assert!(self.range.contains_range(wanted), "{addr} is not memory");
        let first = (addr.as_u64() - self.range.start().as_u64()) as usize / 8;
        Ok(self.words.get(first..first + count).unwrap_or_default())
    }
}

//! Writing KHO blocks: linked pages of fixed-size entries.

use alloc::vec::Vec;
use core::marker::PhantomData;

use kho_abi::block::{BlockHeader, MAX_BLOCKS, capacity};
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::outgoing::split::Nodes;
use crate::{OutgoingError, Tracker};

/// A set of blocks that holds `len` entries of type `T` in as few pages as they need: every block
/// is in use, as readers demand. Its pages are preserved.
#[derive(Debug)]
pub struct BlockSet<T> {
    blocks: Vec<PhysAddr>,
    len: usize,
    entry: PhantomData<T>,
}

impl<T> Default for BlockSet<T> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            len: 0,
            entry: PhantomData,
        }
    }
}

impl<T: FromZeros + IntoBytes + Immutable> BlockSet<T> {
    /// The first block, address 0 if there is no entry.
    pub fn head(&self) -> PhysAddr {
        self.blocks.first().copied().unwrap_or_default()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for exactly `len` entries, adding zeroed ones or cutting off the last.
    ///
    /// # Errors
    /// [`OutgoingError::TooMany`] above 10,000 blocks, and those of [`Tracker::alloc_preserved`];
    /// then nothing has changed. Cutting off never fails.
    pub fn resize<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        len: usize,
    ) -> Result<(), OutgoingError> {
        let capacity = capacity(size_of::<T>(), tracker.page_size());
        let blocks = len.div_ceil(capacity);
        if blocks > MAX_BLOCKS {
            let max = (MAX_BLOCKS * capacity) as u64;
            return Err(OutgoingError::TooMany { max });
        }
        let before = self.blocks.len();
        let mut grow = || {
            while self.blocks.len() < blocks {
                let (block, _) = tracker.alloc_preserved(tracker.page_size().bytes())?;
                self.blocks.push(block);
            }
            // Blocks come zeroed, but an entry that was cut off earlier has left its bytes.
            let reused = self.len..len.min(before * capacity);
            for index in reused {
                let place = Self::place(&self.blocks, index, capacity)?;
                tracker.mem().write(place, T::new_zeroed().as_bytes())?;
            }
            Self::link(
                tracker,
                &self.blocks,
                before.saturating_sub(1),
                capacity,
                len,
            )
        };
        if let Err(error) = grow() {
            let _ = Self::cut(tracker, &mut self.blocks, before, capacity, self.len);
            return Err(error);
        }
        self.len = len;
        Self::cut(tracker, &mut self.blocks, blocks, capacity, len)
    }

    /// Frees all blocks but the first `keep`, which hold `len` entries.
    fn cut<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        blocks: &mut Vec<PhysAddr>,
        keep: usize,
        capacity: usize,
        len: usize,
    ) -> Result<(), OutgoingError> {
        let spare = blocks.split_off(keep.min(blocks.len()));
        let linked = Self::link(tracker, blocks, keep.saturating_sub(1), capacity, len);
        for block in spare {
            let _ = tracker.free_preserved(block, Order::ZERO);
        }
        linked
    }

    /// Writes the headers of the blocks from `first` on, for `len` entries in all.
    fn link<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        blocks: &[PhysAddr],
        first: usize,
        capacity: usize,
        len: usize,
    ) -> Result<(), OutgoingError> {
        for (i, &block) in blocks.iter().enumerate().skip(first) {
            let next = blocks.get(i + 1).copied().unwrap_or_default();
            let count = len.saturating_sub(i * capacity).min(capacity);
            let header = BlockHeader {
                next: next.as_u64().into(),
                count: (count as u64).into(),
            };
            tracker.mem().write(block, header.as_bytes())?;
        }
        Ok(())
    }

    /// Writes entry `index`.
    ///
    /// # Errors
    /// [`OutgoingError::Unknown`] if there is no such entry, [`OutgoingError::Memory`].
    pub fn write<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        index: usize,
        entry: &T,
    ) -> Result<(), OutgoingError> {
        let capacity = capacity(size_of::<T>(), tracker.page_size());
        if index >= self.len {
            return Err(OutgoingError::Unknown);
        }
        let place = Self::place(&self.blocks, index, capacity)?;
        Ok(tracker.mem().write(place, entry.as_bytes())?)
    }

    fn place(
        blocks: &[PhysAddr],
        index: usize,
        capacity: usize,
    ) -> Result<PhysAddr, OutgoingError> {
        let block = blocks.get(index / capacity).ok_or(OutgoingError::Unknown)?;
        let offset = size_of::<BlockHeader>() + index % capacity * size_of::<T>();
        Ok(PhysAddr::new(block.as_u64() + offset as u64))
    }
}

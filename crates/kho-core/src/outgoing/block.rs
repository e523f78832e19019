//! Writing KHO blocks: linked pages of fixed-size entries.

use alloc::vec::Vec;
use core::marker::PhantomData;

use kho_abi::block::{BlockHeader, MAX_BLOCKS, capacity, fits_a_block};
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::outgoing::page::{free_page, new_page};
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

impl<T: FromBytes + IntoBytes + Immutable> BlockSet<T> {
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
    /// [`OutgoingError::TooMany`] above 10,000 blocks, those of [`Tracker::alloc_preserved`], and
    /// [`OutgoingError::Memory`]; then nothing has changed.
    pub fn resize<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        len: usize,
    ) -> Result<(), OutgoingError> {
        const { assert!(fits_a_block(size_of::<T>())) };
        let capacity = capacity(size_of::<T>(), tracker.page_size());
        let blocks = len.div_ceil(capacity);
        if blocks > MAX_BLOCKS {
            let max = (MAX_BLOCKS * capacity) as u64;
            return Err(OutgoingError::TooMany { max });
        }
        let before = self.blocks.len();
        if len < self.len {
            tracker.unpreserve_folios(self.folios_from(blocks))?;
            let kept = self.blocks.get(..blocks).unwrap_or_default();
            if let Err(error) = Self::link(tracker, kept, capacity, len) {
                // Unpreserved a moment ago.
                let _ = tracker.preserve_folios(self.folios_from(blocks));
                return Err(error);
            }
            self.len = len;
            self.free_from(tracker, blocks);
            return Ok(());
        }
        let mut grow = || {
            while self.blocks.len() < blocks {
                self.blocks.push(new_page(tracker)?);
            }
            // Blocks come zeroed, but an entry that was cut off earlier has left its bytes.
            for index in self.len..len.min(before * capacity) {
                let place = Self::place(&self.blocks, index, capacity)?;
                tracker.mem().write(place, T::new_zeroed().as_bytes())?;
            }
            // From the last to the first, so that the chain grows in one step.
            for used in (before.max(1)..=blocks).rev() {
                Self::link_one(tracker, &self.blocks, used - 1, capacity, len)?;
            }
            Ok(())
        };
        if let Err(error) = grow() {
            Self::free(tracker, &mut self.blocks, before);
            return Err(error);
        }
        self.len = len;
        Ok(())
    }

    /// All blocks but the first `keep`, as folios.
    pub(crate) fn folios_from(
        &self,
        keep: usize,
    ) -> impl Iterator<Item = (PhysAddr, Order)> + Clone + '_ {
        let blocks = self.blocks.iter().skip(keep);
        blocks.map(|&block| (block, Order::ZERO))
    }

    /// Frees all blocks but the first `keep`, which are not preserved any more.
    pub(crate) fn free_from<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        keep: usize,
    ) {
        for block in self.blocks.split_off(keep.min(self.blocks.len())) {
            tracker.page_alloc().free(block, Order::ZERO);
        }
    }

    /// Frees all blocks but the first `keep`.
    fn free<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        blocks: &mut Vec<PhysAddr>,
        keep: usize,
    ) {
        for block in blocks.split_off(keep.min(blocks.len())) {
            free_page(tracker, block);
        }
    }

    /// Writes the header of the last of `blocks`, which hold `len` entries in all.
    fn link<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        blocks: &[PhysAddr],
        capacity: usize,
        len: usize,
    ) -> Result<(), OutgoingError> {
        match blocks.len().checked_sub(1) {
            Some(last) => Self::link_one(tracker, blocks, last, capacity, len),
            None => Ok(()),
        }
    }

    /// Writes the header of block `i` of `blocks`, which hold `len` entries in all.
    fn link_one<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        blocks: &[PhysAddr],
        i: usize,
        capacity: usize,
        len: usize,
    ) -> Result<(), OutgoingError> {
        let Some(&block) = blocks.get(i) else {
            return Ok(());
        };
        let next = blocks.get(i + 1).copied().unwrap_or_default();
        let count = len.saturating_sub(i * capacity).min(capacity);
        let header = BlockHeader {
            next: next.as_u64().into(),
            count: (count as u64).into(),
        };
        Ok(tracker.mem().write(block, header.as_bytes())?)
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

    /// Reads entry `index`.
    ///
    /// # Errors
    /// As [`BlockSet::write`].
    pub fn read<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        index: usize,
    ) -> Result<T, OutgoingError> {
        if index >= self.len {
            return Err(OutgoingError::Unknown);
        }
        let place = Self::place(
            &self.blocks,
            index,
            capacity(size_of::<T>(), tracker.page_size()),
        )?;
        let mut entry = T::new_zeroed();
        tracker.mem().read(place, entry.as_mut_bytes())?;
        Ok(entry)
    }

    /// The entries, in order.
    pub fn iter<'t, M: PhysMem, A: PageAlloc, N: Nodes>(
        &'t self,
        tracker: &'t Tracker<'_, M, A, N>,
    ) -> impl Iterator<Item = Result<T, OutgoingError>> + 't {
        (0..self.len).map(|index| self.read(tracker, index))
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

//! Linked pages of fixed-size entries.

use core::marker::PhantomData;

use kho_abi::block::{BlockHeader, MAX_BLOCKS, capacity, fits_a_block};
use kho_hal::{FrozenMem, PageSize, PhysAddr};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::incoming::{Claims, Fault, read};

/// A set of blocks of entries `T`.
#[derive(Debug)]
pub struct Blocks<'a, T, M> {
    mem: &'a M,
    page: PageSize,
    head: PhysAddr,
    entry: PhantomData<&'a T>,
}

impl<T, M> Clone for Blocks<'_, T, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, M> Copy for Blocks<'_, T, M> {}

impl<'a, T, M> Blocks<'a, T, M>
where
    T: FromBytes + Immutable + KnownLayout,
    M: FrozenMem,
{
    /// The set whose first block is at `head`, 0 for an empty one.
    pub(crate) fn new(mem: &'a M, page: PageSize, head: PhysAddr) -> Self {
        const { assert!(fits_a_block(size_of::<T>())) };
        Self {
            mem,
            page,
            head,
            entry: PhantomData,
        }
    }

    /// Checks the chain and reports its pages. Returns the number of entries.
    pub(crate) fn check(&self, claims: &mut Claims<'_, 'a, M>) -> Result<u64, Fault> {
        let mut total = 0;
        let mut blocks = 0;
        let mut next = self.head;
        while next != PhysAddr::new(0) {
            blocks += 1;
            if blocks > MAX_BLOCKS {
                return Err(Fault::Count {
                    at: next,
                    found: blocks as u64,
                    max: MAX_BLOCKS as u64,
                });
            }
            claims.page(next)?;
            let header: &BlockHeader = read::object(self.mem, next)?;
            let max = capacity(size_of::<T>(), self.page) as u64;
            let count = header.count.get();
            if count == 0 || count > max {
                return Err(Fault::Count {
                    at: next,
                    found: count,
                    max,
                });
            }
            self.entries(next, count)?;
            total += count;
            next = PhysAddr::new(header.next.get());
        }
        Ok(total)
    }

    fn entries(&self, block: PhysAddr, count: u64) -> Result<&'a [T], Fault> {
        let at = PhysAddr::new(block.as_u64() + size_of::<BlockHeader>() as u64);
        Ok(read::array(self.mem, at, count as usize)?)
    }

    /// The blocks, in order: each one's address and its entries.
    pub fn blocks(&self) -> impl Iterator<Item = (PhysAddr, &'a [T])> + use<'a, T, M> {
        let set = *self;
        let mut next = self.head;
        let mut left = MAX_BLOCKS;
        core::iter::from_fn(move || {
            left = left.checked_sub(1).filter(|_| next != PhysAddr::new(0))?;
            let header: &BlockHeader = read::object(set.mem, next).ok()?;
            let at = next;
            let count = header
                .count
                .get()
                .min(capacity(size_of::<T>(), set.page) as u64);
            next = PhysAddr::new(header.next.get());
            Some((at, set.entries(at, count).ok()?))
        })
    }

    /// The entries of all blocks, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a T> + use<'a, T, M> {
        self.blocks().flat_map(|(_, entries)| entries)
    }

    /// The entries with the address of each.
    pub(crate) fn iter_at(&self) -> impl Iterator<Item = (PhysAddr, &'a T)> + use<'a, T, M> {
        self.blocks().flat_map(|(block, entries)| {
            let first = block.as_u64() + size_of::<BlockHeader>() as u64;
            entries
                .iter()
                .enumerate()
                .map(move |(i, entry)| (PhysAddr::new(first + (i * size_of::<T>()) as u64), entry))
        })
    }
}

//! Finding the folios at many addresses.

use core::cell::Cell;

use kho_hal::{FrozenMem, PhysAddr};

use super::list::Bitmap;
use super::{Kind, Map};
use crate::incoming::{Fault, Folio, IncomingError, Part};
use crate::runs::FolioBits;

/// A map in which one address after the other is looked for.
///
/// In a tree each is found in a few steps. In a list it would be a look through all of it, so there
/// is an index where the workspace has room for one; else such looks are limited.
pub(crate) struct Lookup<'c, 'a, M> {
    pub(crate) map: Map<'a, M>,
    /// Of a list: start and order of each bitmap, and where it is; ascending.
    index: Option<&'c [[u64; 2]]>,
    /// The bitmap of a list that was found last: the next address is often there as well.
    last: Cell<Option<Bitmap<'a>>>,
    /// Entries and chunks of a list that may still be looked through.
    left: Cell<u64>,
}

/// Entries and chunks of a list that may be looked through without an index, if it is short.
const FREE: u64 = 1 << 24;

impl<'a, M: FrozenMem> Lookup<'_, 'a, M> {
    /// Does `work` with what is in the map, and with what an index leaves of the workspace: half of
    /// it, or more.
    #[inline(never)]
    pub(crate) fn with<T>(
        map: Map<'a, M>,
        workspace: &mut [u64],
        work: impl FnOnce(&Lookup<'_, 'a, M>, &mut [u64]) -> Result<T, IncomingError>,
    ) -> Result<T, IncomingError> {
        let index_words = match &map.kind {
            Kind::Tree(_) => 0,
            Kind::List(list) => list.entries().saturating_mul(2),
        };
        let with_index = index_words.saturating_mul(2);
        let has_room = with_index <= workspace.len() as u64;
        let for_index = if has_room { index_words as usize } else { 0 };
        let (index, rest) = workspace.split_at_mut(for_index);
        let (index, _) = index.as_chunks_mut();
        let mut lookup = Lookup::without_index(map);
        if let Kind::List(list) = &map.kind {
            list.fill(index).map_err(|fault| Part::Map.is(fault))?;
            lookup.left.set(list.len().saturating_mul(8).max(FREE));
            lookup.index = has_room.then_some(&*index);
        }
        // In place: an error that is moved takes its place on the stack twice.
        let mut done = work(&lookup, rest);
        if let Err(error) = &mut done
            && let Fault::Workspace { words } = &mut error.fault
            && *words >= with_index
        {
            *words = words.saturating_add(index_words);
        }
        done
    }

    /// A list is looked through as often as it takes.
    pub(crate) fn without_index(map: Map<'a, M>) -> Self {
        Self {
            map,
            index: None,
            last: Cell::new(None),
            left: Cell::new(u64::MAX),
        }
    }

    /// Whether an address is found without a look through a list.
    pub(crate) fn is_quick(&self) -> bool {
        self.index.is_some()
    }

    /// The folio that contains `addr`, whatever its order.
    pub(crate) fn folio_containing(&self, addr: PhysAddr) -> Result<Option<Folio>, Fault> {
        let Kind::List(list) = &self.map.kind else {
            return self.map.folio_containing(addr);
        };
        if let Some(folio) = self.last.get().and_then(|last| last.folio(addr)) {
            return Ok(Some(folio));
        }
        let found = match self.index {
            Some(index) => list.find(index, self.map.orders(), addr)?,
            None => {
                self.look_through(1)?;
                list.bitmap_containing(addr)?
            }
        };
        self.last.set(found.or(self.last.get()));
        Ok(found.and_then(|bitmap| bitmap.folio(addr)))
    }

    /// Counts what it takes to begin with the folios of every order.
    pub(crate) fn look_for_each_order(&self) -> Result<(), Fault> {
        self.look_through(self.map.orders().count() as u64)
    }

    /// Counts looks through a list.
    fn look_through(&self, times: u64) -> Result<(), Fault> {
        let Kind::List(list) = &self.map.kind else {
            return Ok(());
        };
        let left = self.left.get();
        let left = left.checked_sub(list.len().saturating_mul(times));
        self.left.set(left.ok_or(Fault::Workspace {
            words: list.entries().saturating_mul(4),
        })?);
        Ok(())
    }
}

//! Lists of the pages of a virtually contiguous area.
//!
//! What a mapping ties together is lost at kexec. The list keeps the order of the physical pages,
//! so that the successor can map them again.

use kho_abi::vmalloc::{CHUNK_HEADER, FLAG_VM_ALLOC, KhoVmalloc, chunk_capacity};
use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{Order, PageAlloc, PageSize, PhysAddr, PhysMem, PhysRange};

use crate::outgoing::split::Nodes;
use crate::{OutgoingError, Tracker};

/// Preserves the area that consists of `groups`, each of `2^order` contiguous pages, in order.
/// Returns the descriptor for the user's own structure.
///
/// # Errors
/// [`OutgoingError::BadRange`] for no group at all, one at address 0, or an order too large,
/// [`OutgoingError::TooMany`] above 2^32 - 1 pages, and those of [`Tracker::preserve_pages`] and
/// [`Tracker::alloc_preserved`]. Then nothing is preserved that was not before.
pub fn preserve<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    groups: &[PhysAddr],
    order: Order,
) -> Result<KhoVmalloc, OutgoingError> {
    let page = tracker.page_size();
    let max = u32::MAX.into();
    let pages = (groups.len() as u64).checked_mul(order.pages());
    let pages = pages.and_then(|pages| u32::try_from(pages).ok());
    let mut list = List {
        page,
        descriptor: KhoVmalloc {
            first: 0.into(),
            total_pages: pages.ok_or(OutgoingError::TooMany { max })?.into(),
            flags: FLAG_VM_ALLOC.into(),
            order: (order.as_u32() as u16).into(),
        },
    };
    // In the list, address 0 is its end.
    if groups.is_empty() || groups.contains(&PhysAddr::new(0)) {
        return Err(OutgoingError::BadRange {
            range: PhysRange::default(),
        });
    }
    let mut done = 0;
    let mut fill = || {
        list.fill(tracker, groups)?;
        for &group in groups {
            tracker.preserve_pages(list.group(group)?)?;
            done += 1;
        }
        Ok(())
    };
    match fill() {
        Ok(()) => Ok(list.descriptor),
        Err(error) => {
            for &group in groups.iter().take(done) {
                // Preserved a moment ago.
                let _ = list
                    .group(group)
                    .map(|range| tracker.unpreserve_pages(range));
            }
            list.free(tracker);
            Err(error)
        }
    }
}

/// Undoes [`preserve`]: the area's pages are no longer preserved and stay their owner's; the pages
/// of the list are freed.
///
/// A list of more than 4 pages needs memory for a moment, 8 bytes for each.
///
/// # Errors
/// [`OutgoingError::NotPreserved`] if a page of the area is not preserved,
/// [`OutgoingError::Alloc`] and [`OutgoingError::Memory`]; then nothing is undone.
pub fn unpreserve<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    descriptor: &KhoVmalloc,
) -> Result<(), OutgoingError> {
    let list = List {
        page: tracker.page_size(),
        descriptor: *descriptor,
    };
    let mut count = 0;
    list.for_each_chunk(tracker, |_| {
        count += 1;
        Ok(())
    })?;
    if count <= FEW {
        let few: [AtomicU64; FEW] = core::array::from_fn(|_| AtomicU64::new(0));
        return list.unpreserve(tracker, &few);
    }
    let order = Order::for_bytes(count as u64 * 8, list.page).unwrap_or_default();
    let room = tracker.page_alloc().alloc(order)?;
    let unpreserved = match tracker.mem().words(room, count) {
        Ok(words) => list.unpreserve(tracker, words),
        Err(error) => Err(error.into()),
    };
    tracker.page_alloc().free(room, order);
    unpreserved
}

/// Pages of a list whose addresses are gathered on the stack, so that undoing seldom needs memory.
const FEW: usize = 4;

/// Calls `visit` with each group of the area that `descriptor` leads to, in order.
#[cfg(feature = "alloc")]
pub(crate) fn for_each_group<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    descriptor: &KhoVmalloc,
    visit: impl FnMut(PhysRange) -> Result<(), OutgoingError>,
) -> Result<(), OutgoingError> {
    let list = List {
        page: tracker.page_size(),
        descriptor: *descriptor,
    };
    list.for_each(tracker, visit)
}

struct List {
    page: PageSize,
    descriptor: KhoVmalloc,
}

impl List {
    fn group(&self, addr: PhysAddr) -> Result<PhysRange, OutgoingError> {
        let order = Order::new(self.descriptor.order.get().into());
        let range = order.and_then(|order| PhysRange::folio(addr, order, self.page));
        range.ok_or(OutgoingError::BadRange {
            range: PhysRange::default(),
        })
    }

    /// Writes the list. A page is linked as soon as the one before it is full, as Linux does.
    fn fill<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        groups: &[PhysAddr],
    ) -> Result<(), OutgoingError> {
        let capacity = chunk_capacity(self.page);
        let mut chunk = self.new_chunk(tracker)?;
        self.descriptor.first = chunk.as_u64().into();
        for (i, group) in groups.iter().enumerate() {
            let slot = i % capacity;
            let place = chunk.as_u64() + (CHUNK_HEADER + slot * 8) as u64;
            let bytes = group.as_u64().to_le_bytes();
            tracker.mem().write(PhysAddr::new(place), &bytes)?;
            if slot + 1 == capacity {
                let next = self.new_chunk(tracker)?;
                let linked = tracker.mem().write(chunk, &next.as_u64().to_le_bytes());
                if let Err(error) = linked {
                    let _ = tracker.free_preserved(next, Order::ZERO);
                    return Err(error.into());
                }
                chunk = next;
            }
        }
        Ok(())
    }

    fn new_chunk<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
    ) -> Result<PhysAddr, OutgoingError> {
        Ok(tracker.alloc_preserved(self.page.bytes())?.0)
    }

    fn for_each<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        mut visit: impl FnMut(PhysRange) -> Result<(), OutgoingError>,
    ) -> Result<(), OutgoingError> {
        let mut chunk = self.descriptor.first.get();
        while chunk != 0 {
            let words = tracker
                .mem()
                .words(PhysAddr::new(chunk), self.page.words())?;
            let mut words = words.iter().map(|word| word.load(Ordering::Relaxed));
            chunk = words.next().unwrap_or(0);
            for group in words.take_while(|&group| group != 0) {
                visit(self.group(PhysAddr::new(group))?)?;
            }
        }
        Ok(())
    }

    /// Calls `visit` with each page of the list, which may free it.
    fn for_each_chunk<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        mut visit: impl FnMut(PhysAddr) -> Result<(), OutgoingError>,
    ) -> Result<(), OutgoingError> {
        let mut chunk = PhysAddr::new(self.descriptor.first.get());
        while chunk.as_u64() != 0 {
            let words = tracker.mem().words(chunk, 1)?;
            let next = words.first().map_or(0, |word| word.load(Ordering::Relaxed));
            visit(chunk)?;
            chunk = PhysAddr::new(next);
        }
        Ok(())
    }

    /// Unpreserves the area and frees the pages of the list; on an error all is as before.
    ///
    /// A page of the list leads to the next, so their addresses are gathered in `words`, which are
    /// zero, before anything changes: what is lent cannot fail any more.
    fn unpreserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        words: &[AtomicU64],
    ) -> Result<(), OutgoingError> {
        let mut free = words.iter();
        self.for_each_chunk(tracker, |chunk| {
            if let Some(word) = free.next() {
                word.store(chunk.as_u64(), Ordering::Relaxed);
            }
            Ok(())
        })?;
        let chunks = words.iter().map(|word| word.load(Ordering::Relaxed));
        let chunks = chunks.take_while(|&chunk| chunk != 0);
        let chunks = chunks.map(|chunk| (PhysAddr::new(chunk), Order::ZERO));
        tracker.unpreserve_folios(chunks.clone())?;
        let mut done = 0;
        let unpreserved = self.for_each(tracker, |group| {
            tracker.unpreserve_pages(group)?;
            done += 1;
            Ok(())
        });
        if let Err(error) = unpreserved {
            // All of it was preserved a moment ago.
            let _ = self.for_each(tracker, |group| {
                if done > 0 {
                    done -= 1;
                    tracker.preserve_pages(group)?;
                }
                Ok(())
            });
            let _ = tracker.preserve_folios(chunks);
            return Err(error);
        }
        for (chunk, order) in chunks {
            tracker.page_alloc().free(chunk, order);
        }
        Ok(())
    }

    /// Frees the pages of the list, as far as it was written.
    fn free<M: PhysMem, A: PageAlloc, N: Nodes>(&self, tracker: &Tracker<'_, M, A, N>) {
        let _ = self.for_each_chunk(tracker, |chunk| tracker.free_preserved(chunk, Order::ZERO));
    }
}

//! Lists of the pages of a virtually contiguous area.
//!
//! What a mapping ties together is lost at kexec. The list keeps the order of the physical pages,
//! so that the successor can map them again.

use kho_abi::vmalloc::{CHUNK_HEADER, FLAG_VM_ALLOC, KhoVmalloc, chunk_capacity};
use kho_hal::sync::Ordering;
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
/// # Errors
/// [`OutgoingError::NotPreserved`] if a page of the area is not preserved, and
/// [`OutgoingError::Memory`]; then nothing is undone. Memory that fails as the list's own pages are
/// freed, at the very end, leaves those allocated that it led to.
pub fn unpreserve<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    descriptor: &KhoVmalloc,
) -> Result<(), OutgoingError> {
    let list = List {
        page: tracker.page_size(),
        descriptor: *descriptor,
    };
    list.for_each(tracker, |group| tracker.check_pages_preserved(group))?;
    let mut done = 0;
    let unpreserved = list
        .for_each(tracker, |group| {
            tracker.unpreserve_pages(group)?;
            done += 1;
            Ok(())
        })
        .and_then(|()| list.unpreserve_chunks(tracker));
    if let Err(error) = unpreserved {
        let mut left = done;
        let _ = list.for_each(tracker, |group| {
            if left > 0 {
                left -= 1;
                tracker.preserve_pages(group)?;
            }
            Ok(())
        });
        return Err(error);
    }
    list.for_each_chunk(tracker, |chunk| {
        tracker.page_alloc().free(chunk, Order::ZERO);
        Ok(())
    })
    // The area is no longer preserved. Pages of the list that cannot be read any more are lost.
    .or(Ok(()))
}

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

    /// Unpreserves the pages of the list; on an error none of them.
    fn unpreserve_chunks<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
    ) -> Result<(), OutgoingError> {
        let mut done = 0;
        self.for_each_chunk(tracker, |chunk| {
            tracker.unpreserve_folio(chunk, Order::ZERO)?;
            done += 1;
            Ok(())
        })
        .inspect_err(|_| {
            let _ = self.for_each_chunk(tracker, |chunk| {
                if done > 0 {
                    done -= 1;
                    tracker.preserve_folio(chunk, Order::ZERO)?;
                }
                Ok(())
            });
        })
    }

    /// Frees the pages of the list, as far as it was written.
    fn free<M: PhysMem, A: PageAlloc, N: Nodes>(&self, tracker: &Tracker<'_, M, A, N>) {
        let _ = self.for_each_chunk(tracker, |chunk| tracker.free_preserved(chunk, Order::ZERO));
    }
}

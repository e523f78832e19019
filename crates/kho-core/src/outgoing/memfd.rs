//! Preserving a memory file: its folios, the list of them, and its descriptor.

use alloc::vec::Vec;

use kho_abi::memfd::{ALL_SEALS, FOLIO_DIRTY, FOLIO_UPTODATE, MemfdFolioSer, MemfdSer};
use kho_abi::vmalloc::KhoVmalloc;
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem, PhysRange};
use zerocopy::IntoBytes;

use crate::incoming::Folio;
use crate::outgoing::split::Nodes;
use crate::outgoing::{OutgoingError, Tracker, vmalloc};

/// A memory file as its owner knows it.
#[derive(Clone, Copy, Debug)]
pub struct MemfdFile<'a> {
    /// File position in bytes.
    pub pos: u64,
    /// Size in bytes.
    pub size: u64,
    /// Seals: the bits of F_SEAL_*, 0x3f at most.
    pub seals: u32,
    /// The file's folios with the offset of each in the file, in pages; ascending. They are not
    /// preserved yet.
    pub folios: &'a [(u64, Folio)],
}

/// A preserved memory file: what [`unpreserve`] needs.
#[derive(Clone, Copy, Debug)]
pub struct Preserved {
    descriptor: PhysAddr,
    list: Option<KhoVmalloc>,
}

impl Preserved {
    /// The number by which the successor finds the file: the address of its descriptor.
    pub fn data(&self) -> u64 {
        self.descriptor.as_u64()
    }
}

/// Preserves the folios of `file` and describes it.
///
/// # Errors
/// [`OutgoingError::TooMany`] for unknown seals; [`OutgoingError::BadRange`] for a folio at address 0
/// or from page 2^52 on, and for folios that do not ascend or lie beyond the end; and those of [`Tracker::preserve_folio`] and [`vmalloc::preserve`]. Then nothing is
/// preserved that was not before.
pub fn preserve<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    file: MemfdFile<'_>,
) -> Result<Preserved, OutgoingError> {
    let entries = entries(tracker, file)?;
    let mut done = 0;
    let mut preserve = || {
        for (_, folio) in file.folios {
            tracker.preserve_folio(folio.addr, folio.order)?;
            done += 1;
        }
        describe(tracker, file, &entries)
    };
    preserve().inspect_err(|_| {
        for (_, folio) in file.folios.iter().take(done) {
            // Preserved a moment ago.
            let _ = tracker.unpreserve_folio(folio.addr, folio.order);
        }
    })
}

/// Undoes [`preserve`]: the folios are their owner's again, the rest is freed.
///
/// # Errors
/// [`OutgoingError::NotPreserved`] with the first folio that is not preserved, and those of
/// [`vmalloc::unpreserve`]; then nothing is undone.
pub fn unpreserve<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    file: MemfdFile<'_>,
    preserved: Preserved,
) -> Result<(), OutgoingError> {
    let descriptor = (preserved.descriptor, Order::ZERO);
    let folios = file.folios.iter();
    let folios = folios.map(|&(_, Folio { addr, order })| (addr, order));
    let all = folios.chain([descriptor]);
    tracker.unpreserve_folios(all.clone())?;
    let freed = match &preserved.list {
        Some(list) => free_array(tracker, list),
        None => Ok(()),
    };
    if let Err(error) = freed {
        // Unpreserved a moment ago.
        let _ = tracker.preserve_folios(all);
        return Err(error);
    }
    tracker.page_alloc().free(preserved.descriptor, Order::ZERO);
    Ok(())
}

/// Writes a new file position, which may have changed since the file was preserved.
///
/// # Errors
/// [`OutgoingError::Memory`].
pub fn set_pos<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    preserved: Preserved,
    pos: u64,
) -> Result<(), OutgoingError> {
    let place = preserved.descriptor.as_u64() + core::mem::offset_of!(MemfdSer, pos) as u64;
    Ok(tracker
        .mem()
        .write(PhysAddr::new(place), &pos.to_le_bytes())?)
}

fn entries<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    file: MemfdFile<'_>,
) -> Result<Vec<MemfdFolioSer>, OutgoingError> {
    let page = tracker.page_size();
    let bad = |folio: &Folio| OutgoingError::BadRange {
        range: folio.range(page),
    };
    if file.seals & !ALL_SEALS != 0 {
        return Err(OutgoingError::TooMany {
            max: ALL_SEALS.into(),
        });
    }
    let end = file.size.div_ceil(page.bytes());
    let mut next = 0;
    let entry = |(index, folio): &(u64, Folio)| {
        // Page 0 would be read as a hole.
        if *index < next || *index >= end || folio.addr.as_u64() == 0 {
            return Err(bad(folio));
        }
        next = index.saturating_add(folio.order.pages());
        let flags = FOLIO_DIRTY | FOLIO_UPTODATE;
        MemfdFolioSer::new(folio.addr.pfn(page), flags, *index).ok_or(bad(folio))
    };
    file.folios.iter().map(entry).collect()
}

fn describe<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    file: MemfdFile<'_>,
    entries: &[MemfdFolioSer],
) -> Result<Preserved, OutgoingError> {
    let list = match entries {
        [] => None,
        entries => Some(write_array(tracker, entries)?),
    };
    let ser = MemfdSer {
        pos: file.pos.into(),
        size: file.size.into(),
        seals: file.seals.into(),
        flags: 0.into(),
        nr_folios: (entries.len() as u64).into(),
        folios: list.unwrap_or(NO_LIST),
    };
    let write = || {
        let (descriptor, order) = tracker.alloc_preserved(size_of::<MemfdSer>() as u64)?;
        if let Err(error) = tracker.mem().write(descriptor, ser.as_bytes()) {
            let _ = tracker.free_preserved(descriptor, order);
            return Err(error.into());
        }
        Ok(Preserved { descriptor, list })
    };
    write().inspect_err(|_: &OutgoingError| {
        if let Some(list) = &list {
            let _ = free_array(tracker, list);
        }
    })
}

const NO_LIST: KhoVmalloc = KhoVmalloc {
    first: zerocopy::little_endian::U64::ZERO,
    total_pages: zerocopy::little_endian::U32::ZERO,
    flags: zerocopy::little_endian::U16::ZERO,
    order: zerocopy::little_endian::U16::ZERO,
};

/// Copies the array to single pages and preserves them as an area.
fn write_array<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    entries: &[MemfdFolioSer],
) -> Result<KhoVmalloc, OutgoingError> {
    let mut pages = Vec::new();
    let mut fill = || {
        for piece in entries.as_bytes().chunks(tracker.page_size().as_usize()) {
            let page = tracker.page_alloc().alloc(Order::ZERO)?;
            pages.push(page);
            tracker.mem().write(page, piece)?;
        }
        vmalloc::preserve(tracker, &pages, Order::ZERO)
    };
    fill().inspect_err(|_| {
        for &page in &pages {
            tracker.page_alloc().free(page, Order::ZERO);
        }
    })
}

/// Undoes [`write_array`].
fn free_array<M: PhysMem, A: PageAlloc, N: Nodes>(
    tracker: &Tracker<'_, M, A, N>,
    list: &KhoVmalloc,
) -> Result<(), OutgoingError> {
    let mut pages: Vec<PhysRange> = Vec::new();
    vmalloc::for_each_group(tracker, list, |group| {
        pages.push(group);
        Ok(())
    })?;
    vmalloc::unpreserve(tracker, list)?;
    for page in pages {
        tracker.page_alloc().free(page.start(), Order::ZERO);
    }
    Ok(())
}

//! A preserved memory file.

use kho_abi::memfd::{ALL_SEALS, MemfdFolioSer, MemfdSer};
use kho_abi::vmalloc::KhoVmalloc;
use kho_hal::{FrozenMem, PhysAddr, PhysRange};

use crate::incoming::map::{Lookup, Map};
use crate::incoming::vmalloc::Vmalloc;
use crate::incoming::{Claims, Fault, read, steps};

/// A memory file whose folios are in preserved memory; checked.
#[derive(Debug)]
pub struct Memfd<'a, M> {
    mem: &'a M,
    map: Map<'a, M>,
    ser: &'a MemfdSer,
}

impl_copy!(Memfd);

/// Part of a memory file: `range` holds the bytes of the file from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// The memory, cut off at the end of the file.
    pub range: PhysRange,
}

impl<'a, M: FrozenMem> Memfd<'a, M> {
    pub(crate) fn new(mem: &'a M, map: Map<'a, M>, at: PhysAddr) -> Result<Self, Fault> {
        let ser = read::object(mem, at)?;
        Ok(Self { mem, map, ser })
    }

    /// Checks the descriptor at `at`, the list of folios, and the folios.
    pub(crate) fn check(
        mem: &'a M,
        map: Map<'a, M>,
        at: PhysAddr,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<(), Fault> {
        claims.page(at)?;
        let file = Self::new(mem, map, at)?;
        let seals = file.ser.seals.get();
        let flags = file.ser.flags.get();
        if seals & !ALL_SEALS != 0 || flags != 0 {
            let found = u64::from(flags) << 32 | u64::from(seals);
            return Err(Fault::Flags { at, found });
        }
        let count = file.ser.nr_folios.get();
        if count == 0 {
            return Ok(());
        }
        file.vmalloc().check(at, claims)?;
        let max = file.vmalloc().size() / size_of::<MemfdFolioSer>() as u64;
        if count > max {
            return Err(Fault::Count {
                at,
                found: count,
                max,
            });
        }
        let end = file.ser.size.get().div_ceil(map.page().bytes());
        let mut next = 0;
        claims.work += steps(count * size_of::<MemfdFolioSer>() as u64);
        file.try_folios(|entry_at, folio| {
            let addr = folio.pfn().addr(map.page());
            let addr = addr.ok_or(Fault::Misaligned { addr: entry_at })?;
            if is_hole(folio) {
                return Ok(());
            }
            let index = folio.index.get();
            if index < next || index >= end {
                return Err(Fault::Unsorted { at: entry_at });
            }
            next = index.saturating_add(claims.folio(addr)?.pages());
            Ok(())
        })
    }

    /// Calls `visit` with each entry and its address; stops at the first error.
    fn try_folios(
        &self,
        mut visit: impl FnMut(PhysAddr, &'a MemfdFolioSer) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut left = self.ser.nr_folios.get();
        for group in self.vmalloc().groups() {
            let entries = self.entries(group, left)?;
            for (i, entry) in entries.iter().enumerate() {
                let at = group.start().as_u64() + (i * size_of::<MemfdFolioSer>()) as u64;
                visit(PhysAddr::new(at), entry)?;
            }
            left -= entries.len() as u64;
        }
        Ok(())
    }

    /// The entries in one piece of the array, `left` at most.
    fn entries(&self, piece: PhysRange, left: u64) -> Result<&'a [MemfdFolioSer], Fault> {
        let count = (piece.size() / size_of::<MemfdFolioSer>() as u64).min(left);
        Ok(read::array(self.mem, piece.start(), count as usize)?)
    }

    /// The descriptor, as it lies in memory.
    pub fn descriptor(&self) -> &'a MemfdSer {
        self.ser
    }

    /// The array of folios, as an area.
    pub fn vmalloc(&self) -> Vmalloc<'a, M> {
        let none = KhoVmalloc {
            first: 0.into(),
            total_pages: 0.into(),
            flags: 0.into(),
            order: 0.into(),
        };
        let has_folios = self.ser.nr_folios.get() != 0;
        let descriptor = if has_folios { self.ser.folios } else { none };
        // Each page of the list is a folio.
        Vmalloc::new(self.mem, self.map.page(), descriptor).at_most(self.map.folios())
    }

    /// The entries of the array of folios, in order; holes included.
    pub fn folios(&self) -> impl Iterator<Item = &'a MemfdFolioSer> + use<'a, M> {
        self.folios_from(0)
    }

    /// The entries from number `first` on.
    fn folios_from(&self, first: u64) -> impl Iterator<Item = &'a MemfdFolioSer> + use<'a, M> {
        let file = *self;
        let mut left = self.ser.nr_folios.get().saturating_sub(first);
        let skip = first.saturating_mul(size_of::<MemfdFolioSer>() as u64);
        self.vmalloc().pieces_from(skip).flat_map(move |piece| {
            let entries = file.entries(piece, left).unwrap_or_default();
            left -= entries.len() as u64;
            entries
        })
    }

    /// The contents of the file, by ascending offset; what lies between two segments is a hole,
    /// which reads as zeroes.
    ///
    /// Where the map is a list of chunks, a segment that is far from the one before costs a look
    /// through it.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + use<'a, M> {
        let file = *self;
        let lookup = Lookup::without_index(self.map);
        self.folios()
            .filter_map(move |folio| file.segment(folio, &lookup))
    }

    /// Where the byte at `offset` is, with what follows it in the same folio; `None` for a hole and
    /// beyond the end. Looks at a number of entries that is logarithmic in the number of folios, and
    /// at holes once; to reach each, follows the list of their pages, one step for some hundred MiB
    /// of file.
    pub fn locate(&self, offset: u64) -> Option<Segment> {
        let index = offset >> self.map.page().shift();
        let mut low = 0;
        let entry = size_of::<MemfdFolioSer>() as u64;
        let mut high = self.ser.nr_folios.get().min(self.vmalloc().size() / entry);
        while low < high {
            let middle = low + (high - low) / 2;
            // Whichever half is left, the holes that were passed are not in it.
            let mut probes = (middle..high).zip(self.folios_from(middle));
            match probes.find(|(_, folio)| !is_hole(folio)) {
                Some((probe, folio)) if folio.index.get() <= index => low = probe + 1,
                _ => high = middle,
            }
        }
        let folio = self.folios_from(low.checked_sub(1)?).next()?;
        let segment = self.segment(folio, &Lookup::without_index(self.map))?;
        let skip = offset.checked_sub(segment.offset)?;
        let left = segment
            .range
            .size()
            .checked_sub(skip)
            .filter(|&left| left > 0)?;
        let range = PhysRange::new(segment.range.start().checked_add(skip)?, left)?;
        Some(Segment { offset, range })
    }

    fn segment(&self, folio: &MemfdFolioSer, lookup: &Lookup<'_, 'a, M>) -> Option<Segment> {
        let page = self.map.page();
        let addr = folio.pfn().addr(page).filter(|addr| addr.as_u64() != 0)?;
        let found = lookup.folio_containing(addr).ok()??;
        let order = Some(found.order).filter(|_| found.addr == addr)?;
        let offset = folio.index.get().checked_mul(page.bytes())?;
        let left = self.ser.size.get().checked_sub(offset)?;
        let range = PhysRange::new(addr, order.bytes(page)?.min(left))?;
        Some(Segment { offset, range })
    }
}

/// Whether an entry stands for nothing; its other fields mean nothing then. Linux reads such
/// entries, and writes none.
fn is_hole(folio: &MemfdFolioSer) -> bool {
    folio.pfn().as_u64() == 0
}

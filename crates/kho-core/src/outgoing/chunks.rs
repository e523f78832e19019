//! Writing the map of preserved memory as linked chunks of bitmaps.

use alloc::vec::Vec;
use core::mem::offset_of;

use kho_abi::chunk::{ChunkEntry, ChunkHeader, SketchChunkHeader, V1Bitmaps, chunk_capacity};
use kho_abi::fdt::Generation;
use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{Order, PageAlloc, PageSize, PhysAddr, PhysMem};
use zerocopy::IntoBytes;

use crate::OutgoingError;
use crate::runs::Run;

/// Writes a list, run by run: orders ascending, addresses ascending in each order.
pub(crate) struct ChunkWriter<'x, M, A> {
    mem: &'x M,
    alloc: &'x A,
    page: PageSize,
    /// Offset of the address of the next chunk in a chunk's header.
    next_field: usize,
    is_sketch: bool,
    bitmaps: V1Bitmaps,
    head: PhysAddr,
    chunk: Option<Chunk>,
    bitmap: Option<Bitmap>,
    /// The rest of a page that small bitmaps are cut from.
    spare: Option<(PhysAddr, usize)>,
    /// Every page of the list.
    pages: Vec<PhysAddr>,
}

struct Chunk {
    at: PhysAddr,
    order: Order,
    count: usize,
}

/// The bitmap of the folios `index * bits ..` of an order.
struct Bitmap {
    at: PhysAddr,
    order: Order,
    index: u64,
}

impl<'x, M: PhysMem, A: PageAlloc> ChunkWriter<'x, M, A> {
    pub(crate) fn new(mem: &'x M, alloc: &'x A, page: PageSize, generation: Generation) -> Self {
        let is_sketch = generation == Generation::Sketch;
        Self {
            mem,
            alloc,
            page,
            next_field: if is_sketch {
                offset_of!(SketchChunkHeader, next)
            } else {
                offset_of!(ChunkHeader, next)
            },
            is_sketch,
            bitmaps: match generation {
                Generation::V1Page => V1Bitmaps::Page,
                _ => V1Bitmaps::Small,
            },
            head: PhysAddr::new(0),
            chunk: None,
            bitmap: None,
            spare: None,
            pages: Vec::new(),
        }
    }

    /// The first chunk, 0 if nothing was added; and every page of the list.
    pub(crate) fn finish(self) -> (PhysAddr, Vec<PhysAddr>) {
        (self.head, self.pages)
    }

    /// Frees what was written so far.
    pub(crate) fn undo(self) {
        for page in self.pages {
            self.alloc.free(page, Order::ZERO);
        }
    }

    pub(crate) fn add(&mut self, run: Run) -> Result<(), OutgoingError> {
        let bits = self.bitmaps.bytes(self.page) as u64 * 8;
        let shift = self.page.shift() + run.order.as_u32();
        let mut folio = run.range.start().as_u64() >> shift;
        let mut left = run.range.size() >> shift;
        while left > 0 {
            let bitmap = self.bitmap_of(run.order, folio / bits)?;
            let count = left.min(bits - folio % bits);
            self.set_bits(bitmap, folio % bits, count)?;
            folio += count;
            left -= count;
        }
        Ok(())
    }

    fn set_bits(&self, bitmap: PhysAddr, first: u64, count: u64) -> Result<(), OutgoingError> {
        let words = self.mem.words(bitmap, self.bitmaps.bytes(self.page) / 8)?;
        set_bits(words, first, count);
        Ok(())
    }

    fn bitmap_of(&mut self, order: Order, index: u64) -> Result<PhysAddr, OutgoingError> {
        if let Some(bitmap) = &self.bitmap
            && bitmap.order == order
            && bitmap.index == index
        {
            return Ok(bitmap.at);
        }
        let at = self.new_bitmap()?;
        let bits = self.bitmaps.bytes(self.page) as u64 * 8;
        let entry = ChunkEntry {
            phys_start: ((index * bits) << (self.page.shift() + order.as_u32())).into(),
            bitmap: at.as_u64().into(),
        };
        self.add_entry(order, entry)?;
        self.bitmap = Some(Bitmap { at, order, index });
        Ok(at)
    }

    fn new_bitmap(&mut self) -> Result<PhysAddr, OutgoingError> {
        let size = self.bitmaps.bytes(self.page);
        let (at, left) = match self.spare.take() {
            Some(spare) => spare,
            None => (self.new_page()?, self.page.as_usize()),
        };
        if left > size {
            let rest = PhysAddr::new(at.as_u64() + size as u64);
            self.spare = Some((rest, left - size));
        }
        Ok(at)
    }

    fn add_entry(&mut self, order: Order, entry: ChunkEntry) -> Result<(), OutgoingError> {
        let full = chunk_capacity(self.page);
        let (at, count) = match &self.chunk {
            Some(chunk) if chunk.order == order && chunk.count < full => (chunk.at, chunk.count),
            _ => (self.new_chunk(order)?, 0),
        };
        let place = at.as_u64() + ((count + 1) * size_of::<ChunkEntry>()) as u64;
        self.mem.write(PhysAddr::new(place), entry.as_bytes())?;
        self.write_header(at, order, count + 1)?;
        self.chunk = Some(Chunk {
            at,
            order,
            count: count + 1,
        });
        Ok(())
    }

    fn new_chunk(&mut self, order: Order) -> Result<PhysAddr, OutgoingError> {
        let at = self.new_page()?;
        self.write_header(at, order, 0)?;
        match &self.chunk {
            Some(last) => {
                let place = last.at.as_u64() + self.next_field as u64;
                self.mem
                    .write(PhysAddr::new(place), &at.as_u64().to_le_bytes())?;
            }
            None => self.head = at,
        }
        Ok(at)
    }

    /// The header of the last chunk, which has no next one.
    fn write_header(&self, at: PhysAddr, order: Order, count: usize) -> Result<(), OutgoingError> {
        let (order, num_elms) = (order.as_u32().into(), (count as u32).into());
        let next = 0.into();
        if self.is_sketch {
            let header = SketchChunkHeader {
                order,
                num_elms,
                next,
            };
            self.mem.write(at, header.as_bytes())?;
        } else {
            let header = ChunkHeader {
                next,
                order,
                num_elms,
            };
            self.mem.write(at, header.as_bytes())?;
        }
        Ok(())
    }

    fn new_page(&mut self) -> Result<PhysAddr, OutgoingError> {
        let page = self.alloc.alloc(Order::ZERO)?;
        self.pages.push(page);
        Ok(page)
    }
}

/// Sets `count` bits from bit `first` on, a word at a time.
pub(crate) fn set_bits(words: &[AtomicU64], first: u64, count: u64) {
    let (mut bit, end) = (first, first + count);
    while bit < end {
        let n = (64 - bit % 64).min(end - bit);
        let mask = (u64::MAX >> (64 - n)) << (bit % 64);
        if let Some(word) = words.get((bit / 64) as usize) {
            word.fetch_or(mask, Ordering::Relaxed);
        }
        bit += n;
    }
}

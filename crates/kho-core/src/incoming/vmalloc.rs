//! Lists of pages of a virtually contiguous area.

use kho_abi::vmalloc::{
    CHUNK_HEADER, FLAG_VM_ALLOC, FLAG_VM_ALLOW_HUGE, KhoVmalloc, chunk_capacity,
};
use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};
use zerocopy::little_endian::U64;

use crate::incoming::{Claims, Fault, read};

/// An area: contiguous for its owner, scattered in physical memory.
#[derive(Debug)]
pub struct Vmalloc<'a, M> {
    mem: &'a M,
    page: PageSize,
    descriptor: KhoVmalloc,
    /// No more pages of the list than this: memory may change.
    most: u64,
}

impl_copy!(Vmalloc);

impl<'a, M: FrozenMem> Vmalloc<'a, M> {
    pub(crate) fn new(mem: &'a M, page: PageSize, descriptor: KhoVmalloc) -> Self {
        Self {
            mem,
            page,
            descriptor,
            most: u64::MAX,
        }
    }

    /// The same area, of which it is known that its list has no more pages than this.
    pub(crate) fn at_most(self, most: u64) -> Self {
        Self { most, ..self }
    }

    /// Checks the list and reports all its memory; `at` is where the descriptor was read.
    pub(crate) fn check(&self, at: PhysAddr, claims: &mut Claims<'_, 'a, M>) -> Result<(), Fault> {
        let flags = self.descriptor.flags.get();
        if flags & !(FLAG_VM_ALLOC | FLAG_VM_ALLOW_HUGE) != 0 {
            return Err(Fault::Flags {
                at,
                found: flags.into(),
            });
        }
        let order = Order::new(self.descriptor.order.get().into());
        let order = order
            .filter(|order| *order <= self.page.max_order())
            .ok_or(Fault::Count {
                at,
                found: self.descriptor.order.get().into(),
                max: self.page.max_order().as_u32().into(),
            })?;
        let total = u64::from(self.descriptor.total_pages.get());
        let expected = total >> order.as_u32();
        if expected == 0 || expected << order.as_u32() != total {
            return Err(Fault::Mismatch {
                at,
                found: total,
                expected: total.checked_next_multiple_of(order.pages()).unwrap_or(0),
            });
        }
        let mut entries = 0;
        let mut next = PhysAddr::new(self.descriptor.first.get());
        if next == PhysAddr::new(0) {
            return Err(Fault::Null { at });
        }
        // Every page but the last is full, so the number of entries bounds that of pages.
        while next != PhysAddr::new(0) {
            claims.page(next)?;
            let chunk = self.chunk(next)?;
            for (i, entry) in chunk.entries.iter().enumerate() {
                let entry_at = PhysAddr::new(next.as_u64() + (CHUNK_HEADER + i * 8) as u64);
                if entry.get() == 0 {
                    // An entry is found by its number, so only the last page may end early.
                    if chunk.next != PhysAddr::new(0) {
                        return Err(Fault::Null { at: entry_at });
                    }
                    break;
                }
                entries += 1;
                if entries > expected {
                    return Err(Fault::Count {
                        at: entry_at,
                        found: entries,
                        max: expected,
                    });
                }
                let group = PhysAddr::new(entry.get());
                claims.pages(group, order.bytes(self.page).unwrap_or(u64::MAX))?;
            }
            next = chunk.next;
        }
        if entries != expected {
            return Err(Fault::Mismatch {
                at,
                found: entries,
                expected,
            });
        }
        Ok(())
    }

    fn chunk(&self, at: PhysAddr) -> Result<Chunk<'a>, Fault> {
        let words: &[U64] = read::array(self.mem, at, self.page.words())?;
        let (next, entries) = words.split_first().ok_or(Fault::Null { at })?;
        Ok(Chunk {
            next: PhysAddr::new(next.get()),
            entries,
        })
    }

    /// Length of the area in bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.descriptor.total_pages.get()) << self.page.shift()
    }

    /// The descriptor, as it lies in memory.
    pub fn descriptor(&self) -> &KhoVmalloc {
        &self.descriptor
    }

    /// The pages of the list itself, in order.
    pub fn chunks(&self) -> impl Iterator<Item = PhysAddr> + use<'a, M> {
        self.lists().map(|(at, _)| at)
    }

    /// The memory of the area, in the area's order: groups of `2^order` pages.
    pub fn groups(&self) -> impl Iterator<Item = PhysRange> + use<'a, M> {
        self.pieces_from(0)
    }

    /// The physical address of byte `offset` of the area, and how many bytes follow it there
    /// without a break. Walks the list from its start.
    pub fn locate(&self, offset: u64) -> Option<PhysRange> {
        if offset >= self.size() {
            return None;
        }
        self.pieces_from(offset).next()
    }

    /// The memory of the area from byte `offset` on: what is left of that group, and all after it.
    pub(crate) fn pieces_from(&self, offset: u64) -> impl Iterator<Item = PhysRange> + use<'a, M> {
        let size = self.group_size();
        let (index, mut within) = (offset / size, offset % size);
        let capacity = chunk_capacity(self.page) as u64;
        let mut first = (index % capacity) as usize;
        let lists = self.lists().skip((index / capacity) as usize);
        lists.flat_map(move |(_, entries)| {
            let entries = entries.get(core::mem::take(&mut first)..);
            let used = entries
                .unwrap_or_default()
                .iter()
                .map(|entry| entry.get())
                .take_while(|&addr| addr != 0);
            let mut within = core::mem::take(&mut within);
            used.filter_map(move |addr| {
                let skip = core::mem::take(&mut within);
                PhysRange::new(PhysAddr::new(addr).checked_add(skip)?, size - skip)
            })
        })
    }

    /// Bytes that each entry stands for.
    fn group_size(&self) -> u64 {
        let order = Order::new(self.descriptor.order.get().into());
        let size = order.and_then(|order| order.bytes(self.page));
        size.unwrap_or(self.page.bytes())
    }

    /// The pages of the list with the entries in each. No more pages than the area needs.
    fn lists(&self) -> impl Iterator<Item = (PhysAddr, &'a [U64])> + use<'a, M> {
        let list = *self;
        let groups = self.size() / self.group_size();
        let mut left = (groups / chunk_capacity(self.page) as u64 + 1).min(self.most);
        let mut next = PhysAddr::new(self.descriptor.first.get());
        core::iter::from_fn(move || {
            left = left.checked_sub(1).filter(|_| next != PhysAddr::new(0))?;
            let chunk = list.chunk(next).ok()?;
            let at = core::mem::replace(&mut next, chunk.next);
            Some((at, chunk.entries))
        })
    }
}

struct Chunk<'a> {
    next: PhysAddr,
    entries: &'a [U64],
}

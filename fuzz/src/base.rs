//! Sound handovers, to be damaged: our own in every generation, and those of real Linux.

use std::collections::BTreeSet;
use std::path::Path;

use kho::abi::fdt::Generation;
use kho::abi::luo::{LuoFlbSer, LuoSer};
use kho::abi::memblock;
use kho::abi::vmalloc::KhoVmalloc;
use kho::core::BootData;
use kho::core::incoming::{Folio, Incoming, Machine, Ram, Region};
use kho::core::outgoing::luo::{Flb, LiveFile, Luo};
use kho::core::outgoing::memfd::{self, MemfdFile};
use kho::core::outgoing::{
    Outgoing, OutgoingError, Participants, StateTree, Tracker, Value, metadata, reserve_mem,
    vmalloc,
};
use kho::hal::sim::{ElfImage, SimAlloc, SimMemory};
use kho::hal::{Order, PageSize, PhysAddr, PhysRange};

use crate::memory::{Memory, merged};
use crate::naive::{Slow, told};

/// Pages of memory, from address 0 on; what is preserved above has no memory behind it.
const PAGES: u64 = 128;

/// The first page of scratch, which goes on to the end.
const SCRATCH: u64 = 120;

/// A handover as it lies in memory.
#[derive(Clone)]
pub struct Base {
    pub memory: Memory,
    pub boot: BootData,
    pub generation: Generation,
    pub page: PageSize,
    /// All RAM: what is in memory, and what is preserved.
    pub ram: Vec<PhysRange>,
    /// Words that a reader looks at: those that are not 0, and the first of each page.
    pub places: Vec<u64>,
    /// Pages and sub-blobs with a structure of their own, that of the root description first.
    pub spots: Vec<PhysRange>,
    /// The entry of the first of LUO's objects.
    pub object: u64,
    /// Two preserved pages that nothing names; 0 where there are none.
    pub pages: [PhysAddr; 2],
    /// An area whose list takes two pages of 4 KiB, which nothing names either.
    pub area: KhoVmalloc,
}

/// Offset of the number in an object's entry.
pub const OBJECT_DATA: u64 = std::mem::offset_of!(LuoFlbSer, data) as u64;

const NO_AREA: KhoVmalloc = KhoVmalloc {
    first: zerocopy::little_endian::U64::ZERO,
    total_pages: zerocopy::little_endian::U32::ZERO,
    flags: zerocopy::little_endian::U16::ZERO,
    order: zerocopy::little_endian::U16::ZERO,
};

impl Base {
    /// Our own, with everything in it that the generation can have.
    pub fn new(generation: Generation, page: PageSize) -> Self {
        Self::with(generation, page, generation.has_radix_tree())
    }

    /// `all`: also sub-blobs that are no device trees.
    fn with(generation: Generation, page: PageSize, all: bool) -> Self {
        let range = |first: u64, pages: u64| {
            let start = PhysAddr::new(first << page.shift());
            PhysRange::new(start, pages << page.shift()).expect("small numbers")
        };
        let scratch = [range(SCRATCH, PAGES - SCRATCH)];
        let mut memory = SimMemory::new([range(0, PAGES)]).expect("one range");
        let made = {
            let alloc = SimAlloc::new(&memory, page, [range(1, SCRATCH - 1)]);
            let tracker = Tracker::new(&memory, &alloc, page, &scratch).expect("memory is free");
            let mut outgoing = Outgoing::new(tracker).expect("memory is free");
            fill(&mut outgoing, generation, scratch[0].start(), all)
        };
        let (boot, pages, area) = made.expect("memory is free");
        let memory = Memory::copy(&memory.freeze(), [range(0, PAGES)]);
        Self::of(memory, boot, generation, page, (pages, area))
    }

    /// Our own in v2, in which no sub-blob has a size: it has only those that know their own.
    pub fn without_sizes() -> Self {
        let mut base = Self::with(Generation::V2, PageSize::Size4K, false);
        let root = base.spots[0];
        let bytes = base.memory.bytes(root.start().as_u64(), root.size());
        let mut bytes = bytes.expect("the description").to_vec();
        let mut rename = |old: &[u8], new: &[u8]| {
            let found = bytes.windows(old.len()).position(|part| part == old);
            let at = found.expect("it is there");
            bytes[at..at + new.len()].copy_from_slice(new);
        };
        rename(b"blob-size\0", b"blob-none\0");
        base.memory.write(root.start().as_u64(), &bytes);
        let Self {
            memory,
            boot,
            generation,
            page,
            pages,
            area,
            ..
        } = base;
        Self::of(memory, boot, generation, page, (pages, area))
    }

    /// Of real Linux, or of the program on bare metal.
    pub fn captured(name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let path = fixtures.join(format!("{name}.elf"));
        let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut image = ElfImage::parse(&file).expect("a core file");
        let page = image.page_size.expect("its segments are aligned to pages");
        let frozen = image.memory.freeze();
        let found = BootData::from_boot_params(&frozen, image.entry)
            .or_else(|_| BootData::from_device_tree(&frozen, image.entry));
        let (boot, _) = found.expect("it names a handover");
        let memory = Memory::copy(&frozen, frozen.ranges());
        let none = ([PhysAddr::new(0); 2], NO_AREA);
        Self::of(memory, boot, Generation::V4, page, none)
    }

    fn of(
        memory: Memory,
        boot: BootData,
        generation: Generation,
        page: PageSize,
        (pages, area): ([PhysAddr; 2], KhoVmalloc),
    ) -> Self {
        let lent = memory.lend(Ram::Unknown);
        let machine = Machine {
            v1_bitmaps: told(generation),
            ..Machine::unknown(page)
        };
        lent.note();
        let incoming = Incoming::check(&lent, boot, machine, &mut [0; 256]);
        let incoming = incoming.expect("it is sound");
        let _ = incoming.vmalloc(area, &mut [0; 64]);
        let _ = incoming.blocks::<[u8; 16]>(pages[0], &mut [0; 64]);
        let places = places(&memory, &lent.noted());
        let known = memory.ranges().chain(incoming.extents());
        let ram = merged(known.chain(incoming.scratch().areas()).collect());
        let slow = Slow {
            memory: &memory,
            page,
        };
        let (spots, object) = spots(&slow, &incoming, area);
        drop(incoming);
        Self {
            boot,
            generation,
            page,
            ram,
            places,
            spots,
            object,
            pages,
            area,
            memory,
        }
    }
}

/// The words worth changing of what was read.
fn places(memory: &Memory, read: &[(u64, u64)]) -> Vec<u64> {
    let mut words = BTreeSet::new();
    for &(at, len) in read {
        words.extend((at / 8..(at + len).div_ceil(8)).map(|word| word * 8));
    }
    let worth = |at: &u64| memory.word(*at) != Some(0) || at % 4096 < 32;
    words.into_iter().filter(worth).collect()
}

/// The root description, the list of scratch areas, the map's first page, each sub-blob, and what
/// LUO and the area lead to; and where LUO's first object is.
fn spots(
    slow: &Slow<'_>,
    incoming: &Incoming<'_, crate::memory::Lent<'_>>,
    area: KhoVmalloc,
) -> (Vec<PhysRange>, u64) {
    let boot = incoming.boot_data();
    let page = slow.page.bytes();
    let mut pages = vec![incoming.map_addr().as_u64()];
    let mut object = 0;
    if let Some(luo) = incoming.subtree(kho::abi::luo::NODE) {
        let at = luo.range.start().as_u64();
        let ser: LuoSer = slow.object(at);
        let (blocks, sessions) = slow.blocks::<kho::abi::luo::LuoSessionSer>(ser.sessions_pa.get());
        pages.extend(blocks);
        for session in sessions {
            let (blocks, files) = slow.blocks::<kho::abi::luo::LuoFileSer>(session.files.get());
            pages.extend(blocks);
            for file in files.iter().filter(|file| file.data.get() % page == 0) {
                pages.push(file.data.get());
                let memfd: kho::abi::memfd::MemfdSer = slow.object(file.data.get());
                let (list, groups) = slow.area(memfd.folios);
                pages.extend(list.first());
                pages.extend(groups.first().map(|group| group.start().as_u64()));
            }
        }
        pages.push(ser.flbs_pa.get());
        object = ser.flbs_pa.get() + 16;
    }
    let (list, _) = slow.area(area);
    pages.extend(list);
    let pages = pages
        .into_iter()
        .filter(|&at| slow.memory.bytes(at, page).is_some());
    let range = |at: PhysAddr, size| PhysRange::new(at, size).expect("memory does not wrap");
    let mut spots = vec![
        range(boot.fdt_addr, boot.fdt_size),
        range(boot.scratch_addr, boot.scratch_size),
    ];
    spots.extend(incoming.subtrees().map(|blob| blob.range));
    spots.extend(pages.map(|at| range(PhysAddr::new(at), page)));
    (spots, object)
}

type Sim<'m> = &'m SimMemory;
type Alloc<'m> = &'m SimAlloc<&'m SimMemory>;
type Track<'m> = Tracker<'m, Sim<'m>, Alloc<'m>>;

struct Live(bool);

impl<'m> LiveFile<Track<'m>> for Live {
    fn compatible(&self) -> &str {
        if self.0 {
            kho::abi::memfd::COMPATIBLE
        } else {
            "other-v1"
        }
    }
    fn identity(&self) -> u64 {
        self.0.into()
    }
    fn flbs(&self) -> &[&str] {
        &["object"]
    }
    fn preserve(&mut self, tracker: &Track<'m>) -> Result<u64, OutgoingError> {
        let shift = tracker.page_size().shift();
        let folio = |index: u64, order: u32| {
            let addr = PhysAddr::new((0x200 + index) << shift);
            let order = Order::new(order).expect("small");
            (index, Folio { addr, order })
        };
        let folios = [folio(0, 0), folio(4, 2), folio(8, 0)];
        let file = MemfdFile {
            pos: 0,
            size: 9 << shift,
            seals: 0,
            folios: &folios,
        };
        if self.0 {
            return Ok(memfd::preserve(tracker, file)?.data());
        }
        Ok(7)
    }
    fn unpreserve(&mut self, _: &Track<'m>) {}
}

impl<'m> Flb<Track<'m>> for Live {
    fn name(&self) -> &str {
        "object"
    }
    fn preserve(&mut self, _: &Track<'m>) -> Result<u64, OutgoingError> {
        Ok(9)
    }
    fn unpreserve(&mut self, _: &Track<'m>) {}
}

/// What a handover of ours is told by: its boot data, two pages and an area.
type Made = (BootData, [PhysAddr; 2], KhoVmalloc);

fn fill<'m>(
    outgoing: &mut Outgoing<'m, Sim<'m>, Alloc<'m>>,
    generation: Generation,
    array: PhysAddr,
    all: bool,
) -> Result<Made, OutgoingError> {
    let tracker = outgoing.tracker();
    let page = tracker.page_size();
    let addr = |page_number: u64| PhysAddr::new(page_number << page.shift());
    for (first, order) in [(0x300, 0), (0x301, 0), (0x308, 3), (0x400, 9)] {
        tracker.preserve_folio(addr(first), Order::new(order).unwrap_or_default())?;
    }
    let mut pages = [PhysAddr::new(0); 2];
    for free in &mut pages {
        *free = tracker.alloc_preserved(page.bytes())?.0;
    }
    let groups: Vec<_> = (0..600).map(|i| addr(0x1000 + i * 2)).collect();
    let area = vmalloc::preserve(tracker, &groups, Order::ZERO)?;
    let region = Region {
        name: "region",
        range: PhysRange::new(addr(0x310), 3 << page.shift()).unwrap_or_default(),
    };
    let mut state = StateTree::new();
    if generation.is_nested() {
        let mut preserved = (0x310..0x313).map(addr);
        preserved.try_for_each(|at| tracker.preserve_folio(at, Order::ZERO))?;
        state.add_node(&[], memblock::NODE)?;
        let node = [memblock::NODE];
        let version = Value::Str(memblock::COMPATIBLE);
        state.add_property(&node, "compatible", version)?;
        state.add_node(&node, region.name)?;
        let (node, range) = ([memblock::NODE, region.name], region.range);
        let version = Value::Str(memblock::REGION_COMPATIBLE);
        state.add_property(&node, "compatible", version)?;
        let start = Value::U64(range.start().as_u64());
        state.add_property(&node, memblock::START, start)?;
        state.add_property(&node, memblock::SIZE, Value::U64(range.size()))?;
    } else {
        reserve_mem::publish(outgoing, &[region])?;
    }
    if !all {
        let ready = outgoing.finalize_as(generation, array, &mut [], &state)?;
        return Ok((ready.hand_over(), pages, area));
    }
    metadata::publish(outgoing, "fuzz", None)?;
    outgoing.add_blob("note", b"hello")?;
    let mut luo = Luo::new(outgoing, 0)?;
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, Box::new(Live(false)))?;
    luo.create_session(tracker, "one")?;
    luo.create_session(tracker, "two")?;
    luo.preserve_file(tracker, "one", 1, Box::new(Live(true)))?;
    luo.preserve_file(tracker, "two", 2, Box::new(Live(false)))?;
    let frozen: Participants<'_, Track<'m>> = &mut [&mut luo];
    let ready = match generation {
        Generation::V4 => outgoing.finalize(array, frozen)?,
        _ => outgoing.finalize_as(generation, array, frozen, &state)?,
    };
    Ok((ready.hand_over(), pages, area))
}

//! Sound handovers, to be damaged.

use kho::abi::Name;
use kho::abi::fdt::Generation;
use kho::abi::luo::LuoFlbSer;
use kho::abi::vmalloc::KhoVmalloc;
use kho::core::incoming::{Folio, Region};
use kho::core::outgoing::luo::{Flb, LiveFile, Luo};
use kho::core::outgoing::memfd::{self, MemfdFile};
use kho::core::outgoing::{Outgoing, OutgoingError, StateTree, metadata, reserve_mem, vmalloc};
use kho::core::{BootData, Tracker};
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{Order, PageSize, PhysAddr, PhysMem, PhysRange};

pub const PAGE: PageSize = PageSize::Size4K;

/// Bytes of memory, from address 0 on; what is preserved above has no memory behind it.
pub const MEMORY: u64 = 96 << 12;

/// A handover as it lies in memory.
#[derive(Clone)]
pub struct Base {
    pub words: Vec<u64>,
    pub boot: BootData,
    pub generation: Generation,
    /// The words worth changing: those that are not 0, and the first of each page.
    pub places: Vec<usize>,
    /// An object's entry, and two preserved pages that nothing names.
    pub object: usize,
    pub pages: [usize; 2],
    /// An area whose list takes two pages, which nothing names either.
    pub area: KhoVmalloc,
}

type Memory<'m> = &'m SimMemory;
type Alloc<'m> = &'m SimAlloc<&'m SimMemory>;
type Track<'m> = Tracker<'m, Memory<'m>, Alloc<'m>>;

fn range(first: u64, pages: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(first << 12), pages << 12).expect("small numbers")
}

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
        let folio = |index: u64, order: u32| {
            let addr = PhysAddr::new((0x200 + index) << 12);
            (
                index,
                Folio {
                    addr,
                    order: Order::new(order).expect("small"),
                },
            )
        };
        let folios = [folio(0, 0), folio(4, 2), folio(8, 0)];
        let file = MemfdFile {
            pos: 0,
            size: 9 << 12,
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

impl Base {
    /// With sub-blobs of all kinds, where the generation has any.
    pub fn new(generation: Generation) -> Self {
        let scratch = [range(80, 16)];
        let memory = SimMemory::new([range(0, MEMORY >> 12)]).expect("one range");
        let alloc = SimAlloc::new(&memory, PAGE, [range(1, 79)]);
        let tracker = Tracker::new(&memory, &alloc, PAGE, &scratch).expect("memory is free");
        let mut outgoing = Outgoing::new(tracker).expect("memory is free");
        let made = fill(&mut outgoing, generation, scratch[0].start());
        let (boot, pages, area) = made.expect("memory is free");
        let words = memory
            .words(PhysAddr::new(0), (MEMORY / 8) as usize)
            .expect("all of it");
        let words: Vec<u64> = words
            .iter()
            .map(|word| word.load(std::sync::atomic::Ordering::Relaxed))
            .collect();
        let places = (0..words.len())
            .filter(|&i| words[i] != 0 || i % 512 < 4)
            .collect();
        let name = Name::<48>::new("object").expect("short");
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let name = zerocopy_name(&name);
        let object = bytes
            .windows(48)
            .step_by(8)
            .position(|w| w == name)
            .unwrap_or(0);
        Self {
            words,
            boot,
            generation,
            places,
            object,
            pages,
            area,
        }
    }
}

fn zerocopy_name(name: &Name<48>) -> [u8; 48] {
    let mut bytes = [0; 48];
    let text = name.to_bytes().unwrap_or_default();
    bytes[..text.len()].copy_from_slice(text);
    bytes
}

/// Words of an object's entry before its number.
pub const OBJECT_DATA: usize = std::mem::offset_of!(LuoFlbSer, data) / 8;

fn fill<'m>(
    outgoing: &mut Outgoing<'m, Memory<'m>, Alloc<'m>>,
    generation: Generation,
    array: PhysAddr,
) -> Result<(BootData, [usize; 2], KhoVmalloc), OutgoingError> {
    let tracker = outgoing.tracker();
    for (page, order) in [(0x300, 0), (0x301, 0), (0x308, 3), (0x400, 9)] {
        let order = Order::new(order).unwrap_or_default();
        tracker.preserve_folio(PhysAddr::new(page << 12), order)?;
    }
    let mut pages = [0; 2];
    for page in &mut pages {
        *page = tracker.alloc_preserved(4096)?.0.as_u64() as usize / 8;
    }
    let groups: Vec<_> = (0..600)
        .map(|i| PhysAddr::new((0x1000 + i * 2) << 12))
        .collect();
    let area = vmalloc::preserve(tracker, &groups, Order::ZERO)?;
    if generation == Generation::V4 {
        metadata::publish(outgoing, "fuzz", None)?;
        let region = Region {
            name: "region",
            range: range(0x310, 3),
        };
        reserve_mem::publish(outgoing, &[region])?;
        outgoing.add_blob("note", b"hello")?;
        let mut luo = Luo::new(outgoing, 0)?;
        let tracker = outgoing.tracker();
        luo.register_flb(tracker, Box::new(Live(false)))?;
        luo.create_session(tracker, "one")?;
        luo.create_session(tracker, "two")?;
        luo.preserve_file(tracker, "one", 1, Box::new(Live(true)))?;
        luo.preserve_file(tracker, "two", 2, Box::new(Live(false)))?;
        let boot = outgoing.finalize(array, &mut [&mut luo])?.hand_over();
        return Ok((boot, pages, area));
    }
    let state = StateTree::new();
    let ready = outgoing.finalize_as(generation, array, &mut [], &state)?;
    Ok((ready.hand_over(), pages, area))
}

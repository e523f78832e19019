//! Saved configuration space: the description together with a page, both changed.

use std::sync::OnceLock;

use kho::core::Tracker;
use kho::core::outgoing::Outgoing;
use kho::hal::sim::pci::{SimBus, SimFunction};
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{PageSize, PciConfigAccess, PhysAddr, PhysMem, PhysRange, Sbdf};
use kho::pcsc::{Cached, Saved, Unlisted, Variant};

const PAGE: PageSize = PageSize::Size4K;
const FUNCTION: Sbdf = Sbdf::from_bdf(0, 0x0118);

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).expect("a range that ends below 2^64")
}

/// Where the predecessor's pages are; the successor's are above.
fn old() -> PhysRange {
    range(0x10_0000, 64 << 12)
}

fn machine() -> SimBus {
    let bus = SimBus::new();
    let function = SimFunction::endpoint(0x8086, 0x1572)
        .with_bar64(0, 20)
        .with_pm(true)
        .with_msi(true, false, 3)
        .with_msix(8, 3)
        .with_express(0)
        .with_aer()
        .with_serial(7);
    bus.add(FUNCTION, function);
    bus
}

/// What a sound predecessor leaves: its memory, and where in it the page and the description are.
struct Sound {
    bytes: Vec<u8>,
    page: PhysAddr,
    description: PhysRange,
}

fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let bus = machine();
        let memory = SimMemory::new([old()]).expect("one range");
        let alloc = SimAlloc::new(&memory, PAGE, [old()]);
        let cache = Cached::in_pages(&bus, &memory, &alloc, PAGE);
        let added = cache.add_with(FUNCTION, Unlisted::Constant);
        added.expect("the function is there");
        for offset in (0..0x1000).step_by(4) {
            cache.read_u32(FUNCTION, offset).expect("it answers");
        }
        let tracker = Tracker::new(&memory, &alloc, PAGE, &[]).expect("memory");
        let outgoing = Outgoing::new(tracker).expect("memory");
        cache.save(&outgoing).expect("memory");
        let description = outgoing.find("pcsc").expect("saved");
        let mut blob = vec![0; description.size() as usize];
        memory.read(description.start(), &mut blob).expect("memory");
        let saved = Saved::read(&blob, Variant::Extended, |_| true).expect("sound");
        let page = saved.find(FUNCTION).expect("saved");
        let mut bytes = vec![0; old().size() as usize];
        memory.read(old().start(), &mut bytes).expect("memory");
        Sound {
            bytes,
            page,
            description,
        }
    })
}

/// Changes of a sound predecessor's page and description, three bytes each: where, and what is there
/// then. Whatever they are, the cache does not answer what is never cached, and once the function is
/// written to or forgotten, what it answers of that is the device's.
pub fn pcsc_data(data: &[u8]) {
    let sound = sound();
    let mut bytes = sound.bytes.clone();
    let page = (sound.page.as_u64() - old().start().as_u64()) as usize;
    let description = (sound.description.start().as_u64() - old().start().as_u64()) as usize;
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (5120 + 512);
        let at = match at.checked_sub(5120) {
            None => page + at,
            Some(at) => description + at,
        };
        bytes[at] ^= change[2];
    }
    for variant in [Variant::Extended, Variant::Conventional] {
        let new = range(old().end().as_u64(), 64 << 12);
        let memory = SimMemory::new([old(), new]).expect("disjoint ranges");
        memory.write(old().start(), &bytes).expect("memory");
        let blob = &bytes[description..][..sound.description.size() as usize];
        let Ok(saved) = Saved::read(blob, variant, |addr| old().contains(addr)) else {
            continue;
        };
        let bus = machine();
        let alloc = SimAlloc::new(&memory, PAGE, [new]);
        let cache = Cached::in_pages(&bus, &memory, &alloc, PAGE).with_saved(saved);
        let added = cache.add_with(FUNCTION, Unlisted::Constant);
        added.expect("the device is the same, whatever the page says");
        let device = |offset| bus.read_u32(FUNCTION, offset);
        for offset in (0..0x1000).step_by(4) {
            let _ = cache.read_u32(FUNCTION, offset);
        }
        // Command and status.
        assert_eq!(cache.read_u32(FUNCTION, 4), device(4));
        for value in [0, u32::MAX] {
            let _ = cache.write_u32(FUNCTION, 0x10, value);
            assert_eq!(cache.read_u32(FUNCTION, 0x10), device(0x10), "a BAR");
        }
        cache.forget(FUNCTION);
        for offset in (0..0x1000).step_by(4) {
            assert_eq!(cache.read_u32(FUNCTION, offset), device(offset));
        }
    }
}

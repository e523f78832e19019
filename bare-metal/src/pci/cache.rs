//! The configuration-space cache, kept across the jump to ourselves.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::sync::atomic::{AtomicU64, Ordering};

use kho::abi::pcsc::NODE;
use kho::hal::{Access, Ecam, FrozenMem, Order, PciConfigAccess, PciError, PhysRange, Sbdf};
use kho::pcsc::{Cached, Saved, Variant};
use serde_json::{Value, json};

use super::enumerate;
use crate::arch;
use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::make::{self, Begun};
use crate::memory::{Frozen, Plan};
use crate::next::Next;
use crate::pages::Pages;
use crate::say::fact;
use crate::take_over;

/// Hardware, with a count of what reaches it.
struct Counted {
    hardware: Ecam,
    reads: AtomicU64,
}

impl Counted {
    fn new(hardware: Ecam) -> Self {
        let reads = AtomicU64::new(0);
        Self { hardware, reads }
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl PciConfigAccess for Counted {
    fn read(&self, function: Sbdf, at: Access) -> core::result::Result<u32, PciError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.hardware.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> core::result::Result<(), PciError> {
        self.hardware.write(function, at, value)
    }
}

/// Fills a cache and hands it over to ourselves.
pub fn first(memory: &Frozen, machine: &Machine) -> Result<Infallible> {
    let next = Next::ourselves(memory, machine, "interop=cache-second".to_string())?;
    let hardware = Counted::new(arch::ecam(memory, machine)?);
    let Begun {
        mut outgoing,
        map,
        pages,
        mut room,
    } = make::begin(machine)?;
    let cache = Cached::in_pages(&hardware, map, pages, PAGE);
    for &function in enumerate(&hardware.hardware).keys() {
        let filled = Seen::add(&cache, &hardware, function)?;
        // What could be learned has been learned now.
        let seen = Seen::compare(filled, &cache, &hardware)?;
        fact("filled", seen.json());
    }
    fact("saved", json!({ "functions": cache.save(&outgoing)? }));
    let array = room.take(PAGE.bytes(), PAGE.bytes(), 0, u64::MAX)?;
    let mut last_step = &cache;
    let boot = outgoing.finalize(array, &mut [&mut last_step])?.hand_over();
    arch::boot(memory, map, &mut room, machine, &next, Some(&boot))
}

/// Takes the cache over, and compares all that it knows with the hardware.
pub fn second(memory: &Frozen, machine: &Machine) -> Result<()> {
    let incoming = take_over::check(memory, machine, machine.handover.clone()?)?;
    let blob = incoming.subtree(NODE);
    let blob = blob.ok_or(Error::missing("saved cache"))?.range;
    let bytes = memory.bytes(blob.start(), blob.size() as usize)?;
    // The cache writes to its pages again; nothing reads them as the predecessor's from here on.
    let mut kept: Vec<PhysRange> = Vec::new();
    let two_pages = Order::new(1).unwrap_or_default();
    let saved = Saved::read(bytes, Variant::Extended, |addr| {
        let folio = incoming.restore_folio(addr);
        let folio = folio.filter(|folio| folio.order == two_pages);
        kept.extend(folio.map(|folio| folio.range(PAGE)));
        folio.is_some()
    });
    let saved = saved.map_err(|error| Error::Other(error.to_string()))?;
    // A page that is somebody else's, too, would be written into.
    let pages = || kept.iter().map(|folio| (folio.start(), folio.size()));
    incoming.one_owner(&mut vec![0; take_over::WORKSPACE], pages)?;
    let plan = Plan::after(machine, &incoming);
    let map = plan.writable(&kept);
    let pages = Pages::new(map, &plan.free);
    let hardware = Counted::new(arch::ecam(memory, machine)?);
    let cache = Cached::in_pages(&hardware, map, &pages, PAGE).with_saved(saved);
    for &function in enumerate(&hardware.hardware).keys() {
        fact("restored", Seen::add(&cache, &hardware, function)?.json());
    }
    Ok(())
}

/// What was seen of one function.
struct Seen {
    function: Sbdf,
    how: String,
    /// Hardware reads that adding it took.
    reads_to_add: u64,
    /// Offsets of the dwords that the cache answers without the hardware.
    hits: Vec<u16>,
    /// Those of them that the hardware answers otherwise.
    different: u64,
}

impl Seen {
    /// Adds a function, and compares what is known of it then.
    fn add(cache: &Cached<'_, &Counted>, hardware: &Counted, function: Sbdf) -> Result<Self> {
        let before = hardware.reads();
        let added = cache.add(function);
        let added = added.map_err(|error| Error::Other(error.to_string()))?;
        let seen = Self {
            function,
            how: format!("{added:?}"),
            reads_to_add: hardware.reads() - before,
            hits: Vec::new(),
            different: 0,
        };
        seen.compare(cache, hardware)
    }

    /// Reads all of the function through the cache. What was not known is, then.
    fn compare(mut self, cache: &Cached<'_, &Counted>, hardware: &Counted) -> Result<Self> {
        (self.hits, self.different) = (Vec::new(), 0);
        for offset in (0..Access::SPACE).step_by(4) {
            let before = hardware.reads();
            let cached = cache.read_u32(self.function, offset);
            if hardware.reads() == before {
                self.hits.push(offset);
                let real = hardware.hardware.read_u32(self.function, offset);
                self.different += u64::from(real != cached);
            }
        }
        Ok(self)
    }

    fn json(&self) -> Value {
        json!({
            "function": self.function.to_string(),
            "how": self.how,
            "reads_to_add": self.reads_to_add,
            "hits": self.hits,
            "different": self.different,
        })
    }
}

//! A machine of many functions, saved and restored.

use std::time::Instant;

use kho::hal::sim::pci::{SimBus, SimFunction};
use kho::hal::{PciConfigAccess, Sbdf};
use kho::pcsc::{Added, Cached};
use serde_json::{Value, json};

use crate::machine::{PAGE, hand_over, memory, pages};

/// As many virtual functions as the machine that the published series names.
pub const FUNCTIONS: usize = 2819;
/// More than a segment holds behind bus 0.
const MOST: usize = 0xff00;

/// Saves and restores the caches of `count` virtual functions; nanoseconds a function.
pub fn run(count: usize) -> Result<Value, String> {
    if count == 0 || count > MOST {
        return Err(format!("1 to {MOST} functions fit in a segment"));
    }
    let bus = SimBus::new();
    let function = SimFunction::virtual_function()
        .with_express(0)
        .with_msix(5, 0)
        .with_aer()
        .with_ari(0);
    let places: Vec<Sbdf> = (0x100..)
        .take(count)
        .map(|id| Sbdf::from_bdf(0, id))
        .collect();
    for place in &places {
        bus.add(*place, function.clone());
    }
    let half = (count as u64 * 4 + 1024) * PAGE.bytes();
    let memory = memory(2 * half)?;
    let mut timer = Timer(Instant::now(), count);

    let first = pages(&memory, 0, half);
    let cache = Cached::in_pages(&bus, &memory, &first, PAGE);
    for place in &places {
        cache.add(*place).map_err(|error| error.to_string())?;
    }
    let (infer, inferred) = (timer.lap(), bus.reads());
    for place in &places {
        for offset in (0..0x200).step_by(4) {
            cache
                .read_u32(*place, offset)
                .map_err(|error| error.to_string())?;
        }
    }
    timer.lap();
    let (mut saving, mut blob_bytes) = (0, 0);
    let saved = hand_over(&cache, &memory, &first, |bytes| {
        (saving, blob_bytes) = (timer.lap(), bytes);
    })?;
    let index = timer.lap();
    let found = places
        .iter()
        .filter(|place| saved.find(**place).is_some())
        .count();
    let find = timer.lap();
    let second = pages(&memory, half, half);
    let cache = Cached::in_pages(&bus, &memory, &second, PAGE).with_saved(saved);
    let before = bus.reads();
    timer.lap();
    for place in &places {
        let added = cache.add(*place).map_err(|error| error.to_string())?;
        if added != Added::Restored {
            return Err(format!("{place} was not restored: {added:?}"));
        }
    }
    let adopt = timer.lap();
    Ok(json!({
        "functions": found,
        "blob_bytes": blob_bytes,
        "infer_ns": infer,
        "infer_reads": inferred / count as u64,
        "save_ns": saving,
        "index_ns": index,
        "find_ns": find,
        "adopt_ns": adopt,
        "identity_reads": (bus.reads() - before) / count as u64,
        "pages_allocated": second.calls(),
    }))
}

/// Nanoseconds a function since the last lap.
struct Timer(Instant, usize);

impl Timer {
    fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let spent = now.duration_since(self.0).as_nanos() as u64 / self.1 as u64;
        self.0 = now;
        spent
    }
}

/// The same in words.
pub fn text(facts: &Value) -> String {
    let of = |key: &str| facts[key].as_u64().unwrap_or_default();
    format!(
        "{} functions, nanoseconds a function:\n\
         infer {:>7} ({} hardware reads)\n\
         save  {:>7} ({} bytes of description in all)\n\
         index {:>7} (one pass over the description)\n\
         find  {:>7}\n\
         adopt {:>7} ({} reads of a simulated device to identify it, {} pages allocated)\n",
        of("functions"),
        of("infer_ns"),
        of("infer_reads"),
        of("save_ns"),
        of("blob_bytes"),
        of("index_ns"),
        of("find_ns"),
        of("adopt_ns"),
        of("identity_reads"),
        of("pages_allocated"),
    )
}

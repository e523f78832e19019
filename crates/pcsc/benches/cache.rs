//! What a hit costs, and what a restored function costs.
//!
//! `whole read, published way` is what a hit takes there: the function is looked up in its bus's
//! list under a reader's lock and referenced, then bits and bytes are gone through one by one.
//! `bytes alone` leaves the look-up out, which is in `hit`.
//!
//! `restore` is what the published way does with a hash of node offsets: one pass over the
//! description and one look-up for each function. The identity check is the device's time.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::{Access, PciConfigAccess, PciError, PhysAddr, Sbdf, Width};
use kho_pcsc::{Cached, Saved, Variant};

/// One bit at a time, twice, then the value byte by byte, and a counter.
struct PerByte {
    marked: [u64; 64],
    known: [u64; 64],
    space: [u8; 4096],
    hits: AtomicU64,
}

/// The functions of one bus.
struct Bus(RwLock<Vec<(u8, Arc<PerByte>)>>);

impl Bus {
    fn read(&self, function: Sbdf, at: Access) -> Option<u32> {
        let found = {
            let list = self.0.read().unwrap();
            let (_, found) = list
                .iter()
                .find(|(slot, _)| *slot == function.bdf() as u8)?;
            Arc::clone(found)
        };
        found.read(at)
    }
}

impl PerByte {
    fn read(&self, at: Access) -> Option<u32> {
        let all = |map: &[u64; 64]| {
            (at.offset()..at.end()).all(|n| {
                map.get(usize::from(n / 64))
                    .is_some_and(|w| w >> (n % 64) & 1 != 0)
            })
        };
        if !all(&self.marked) || !all(&self.known) {
            return None;
        }
        let hits = self.hits.load(Ordering::Relaxed);
        self.hits.store(hits + 1, Ordering::Relaxed);
        (at.offset()..at.end()).rev().try_fold(0, |value, n| {
            Some(value << 8 | u32::from(*self.space.get(usize::from(n))?))
        })
    }
}

fn description(count: u64) -> Vec<u8> {
    let mut fdt = vm_fdt::FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_string("compatible", "pcsc-v1").unwrap();
    fdt.property("pv", &1u32.to_le_bytes()).unwrap();
    for id in 0..count {
        let name = format!("dev_0000_{:02x}_{:02x}_{:x}", id >> 8, id >> 3 & 31, id & 7);
        let node = fdt.begin_node(&name).unwrap();
        let addr = 0x1_0000_0000 + (id << 13);
        fdt.property("da", &addr.to_le_bytes()).unwrap();
        fdt.end_node(node).unwrap();
    }
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn is_page(addr: PhysAddr) -> bool {
    addr.as_u64().is_multiple_of(0x1000)
}

fn restore(c: &mut Criterion) {
    let mut group = c.benchmark_group("restore");
    for count in [2819u64, 20_000] {
        let blob = description(count);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let saved = Saved::read(black_box(&blob), Variant::Extended, is_page).unwrap();
                let functions = (0..count).map(|id| Sbdf::from_bdf(0, id as u16));
                functions
                    .filter(|function| saved.find(*function).is_some())
                    .count()
            });
        });
    }
    group.finish();
}

/// A device that answers at once.
struct Instant;

impl PciConfigAccess for Instant {
    fn read(&self, _: Sbdf, at: Access) -> Result<u32, PciError> {
        Ok(at.width().mask())
    }

    fn write(&self, _: Sbdf, _: Access, _: u32) -> Result<(), PciError> {
        Ok(())
    }
}

fn hit(c: &mut Criterion) {
    let bus = SimBus::new();
    let function = Sbdf::from_bdf(0, 0x0100);
    bus.add(function, SimFunction::endpoint(0x8086, 1).with_express(0));
    let cache = Cached::new(&bus);
    cache.add(function).unwrap();
    let at = Access::new(0, Width::U32).unwrap();
    let per_byte = Arc::new(PerByte {
        marked: [u64::MAX; 64],
        known: [u64::MAX; 64],
        space: [7; 4096],
        hits: AtomicU64::new(0),
    });
    let published = Bus(RwLock::new(vec![(0, Arc::clone(&per_byte))]));
    let mut group = c.benchmark_group("read");
    group.bench_function("hit", |b| {
        b.iter(|| cache.read(black_box(function), black_box(at)))
    });
    group.bench_function("whole read, published way", |b| {
        b.iter(|| black_box(&published).read(black_box(function), black_box(at)))
    });
    group.bench_function("bytes alone", |b| {
        b.iter(|| black_box(&per_byte).read(black_box(at)))
    });
    let through = Cached::new(Instant);
    let name = "function not in the cache";
    group.bench_function(name, |b| {
        b.iter(|| through.read(black_box(function), black_box(at)))
    });
    group.finish();
}

criterion_group!(benches, restore, hit);
criterion_main!(benches);

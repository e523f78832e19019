//! What a translation between generations costs, by the size of what is preserved.
//!
//! A guest's memory in folios of 2 MiB: 128 GiB, 512 GiB and 1 TiB, dense, and with every other
//! folio missing, so that nothing merges.

use criterion::{BenchmarkId, Criterion, Throughput};
use kho::abi::chunk::V1Bitmaps;
use kho::abi::fdt::Generation;
use kho::core::incoming::{Incoming, Machine};
use kho::core::outgoing::{Outgoing, StateTree, Tracker};
use kho::core::translate::translate;
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{Order, PageAlloc, PageSize, PhysAddr, PhysRange};

use crate::clock::CpuTime;

const PAGE: PageSize = PageSize::Size4K;
const FOLIO: u64 = 2 << 20;
/// Where the guest's memory starts.
const GUEST: u64 = 1 << 40;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

pub fn all(c: &mut Criterion<CpuTime>) {
    let order = Order::new(9).unwrap();
    let scratch = [range(1 << 30, 1 << 20)];
    for (shape, step) in [("dense", 1), ("every other", 2)] {
        for gib in [128u64, 512, 1024] {
            let folios = (gib << 30) / FOLIO;
            for from in [Generation::V4, Generation::V1Page] {
                let heap = range(16 << 20, 64 << 20);
                let mut memory = SimMemory::new([heap, scratch[0]]).unwrap();
                let boot = {
                    let alloc = SimAlloc::new(&memory, PAGE, [heap]);
                    let tracker = Tracker::new(&memory, &alloc, PAGE, &scratch).unwrap();
                    for i in 0..folios {
                        let addr = PhysAddr::new(GUEST + i * step * FOLIO);
                        tracker.preserve_folio(addr, order).unwrap();
                    }
                    let mut outgoing = Outgoing::new(tracker).unwrap();
                    let array = scratch[0].start();
                    let state = StateTree::new();
                    outgoing
                        .finalize_as(from, array, &mut [], &state)
                        .unwrap()
                        .hand_over()
                };
                let frozen = memory.freeze();
                let machine = Machine {
                    v1_bitmaps: Some(V1Bitmaps::Page),
                    ..Machine::unknown(PAGE)
                };
                let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 4096]).unwrap();
                let space = range(1 << 34, 64 << 20);
                let new = SimMemory::new([space]).unwrap();
                for to in [Generation::V4, Generation::V1Page, Generation::V1Small] {
                    let name = format!("translate {} to {}, {shape}", from.name(), to.name());
                    let mut group = c.benchmark_group(name);
                    group
                        .sample_size(10)
                        .throughput(Throughput::Elements(folios));
                    group.bench_function(BenchmarkId::from_parameter(format!("{gib} GiB")), |b| {
                        b.iter(|| {
                            let alloc = SimAlloc::new(&new, PAGE, [space]);
                            let translated = translate(&incoming, to, &new, &alloc).unwrap();
                            for &(page, order) in &translated.pages {
                                alloc.free(page, order);
                            }
                        });
                    });
                    group.finish();
                }
            }
        }
    }
}

//! Checking a handover and going through what it preserves.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Duration;

use bitvec::prelude::*;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use kho::core::incoming::Folio;
use kho_benches::arena::Arena;
use kho_benches::{ROOM, check, handover_of, sets};
use roaring::RoaringBitmap;

use crate::clock::{CpuTime, rounds_of, time_threads};

pub fn all(c: &mut Criterion<CpuTime>) {
    for (name, pages) in [
        ("dense", sets::dense()),
        ("alternating", sets::alternating()),
        ("scattered", sets::scattered()),
        ("spread", sets::spread()),
    ] {
        let mut group = c.benchmark_group(format!("take over {name}"));
        group.throughput(Throughput::Elements(pages.len() as u64));
        ours(&mut group, &pages);
        peers(&mut group, &pages);
        group.finish();
    }
    threads(c, "dense", &sets::dense());
    threads(c, "scattered", &sets::scattered());
}

/// All folios by one thread, and in parts by two.
fn threads(c: &mut Criterion<CpuTime>, name: &str, pages: &[u64]) {
    let mut group = c.benchmark_group(format!("take over {name} by threads"));
    // One round a sample, so that some have the machine for themselves.
    group
        .throughput(Throughput::Elements(pages.len() as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(60)
        .measurement_time(Duration::from_millis(50));
    let mut arena = Arena::new(ROOM);
    let boot = handover_of(&arena, pages);
    let memory = arena.frozen();
    let incoming = check(&memory, boot, &mut [0; 4096]);
    for (name, parts) in [("one", 1), ("two", 2)] {
        let parts = NonZeroUsize::new(parts).unwrap();
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                rounds_of(rounds, || {
                    time_threads(incoming.split(parts), |part| {
                        black_box(sum(part));
                    })
                })
            });
        });
    }
}

fn ours(group: &mut BenchmarkGroup<'_, CpuTime>, pages: &[u64]) {
    let mut arena = Arena::new(ROOM);
    let boot = handover_of(&arena, pages);
    let memory = arena.frozen();
    let mut workspace = vec![0; 16384];
    group.bench_function("check", |b| {
        b.iter(|| check(&memory, black_box(boot), &mut workspace).largest_order());
    });
    let incoming = check(&memory, boot, &mut workspace);
    group.bench_function("folios", |b| {
        b.iter(|| sum(black_box(&incoming).folios()));
    });
    group.bench_function("extents", |b| {
        b.iter(|| {
            black_box(&incoming)
                .extents()
                .map(|extent| extent.size())
                .fold(0, u64::wrapping_add)
        });
    });
}

fn sum(folios: impl Iterator<Item = Folio>) -> u64 {
    folios
        .map(|folio| folio.addr.as_u64() + u64::from(folio.order.as_u32()))
        .fold(0, u64::wrapping_add)
}

fn peers(group: &mut BenchmarkGroup<'_, CpuTime>, pages: &[u64]) {
    #[cfg(linux_peer)]
    {
        let mut tree = kho_benches::linux::LinuxTree::new(ROOM);
        pages.iter().for_each(|&page| tree.preserve(page, 0));
        group.bench_function("Linux", |b| b.iter(|| black_box(&mut tree).walk()));
    }
    let set: BTreeSet<u64> = pages.iter().copied().collect();
    group.bench_function("BTreeSet", |b| {
        b.iter(|| black_box(&set).iter().copied().fold(0, u64::wrapping_add));
    });
    let set: RoaringBitmap = pages.iter().map(|page| (page >> 12) as u32).collect();
    group.bench_function("roaring", |b| {
        b.iter(|| {
            let pages = black_box(&set).iter().map(|page| u64::from(page) << 12);
            pages.fold(0, u64::wrapping_add)
        });
    });
    let last = pages.last().copied().unwrap_or(0) >> 12;
    let mut set = bitvec![u64, Lsb0; 0; last as usize + 1];
    for page in pages {
        set.set((page >> 12) as usize, true);
    }
    group.bench_function("bitmap", |b| {
        b.iter(|| {
            let pages = black_box(&set).iter_ones().map(|page| (page as u64) << 12);
            pages.fold(0, u64::wrapping_add)
        });
    });
}

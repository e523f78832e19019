//! Writing and reading what is in a handover besides folios, each at three sizes.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use kho::core::outgoing::Outgoing;
use kho::hal::Sbdf;
use kho::pci_lu::Record;
use kho_benches::arena::Arena;
use kho_benches::handovers::{FILES, blobs, sessions};
use kho_benches::{ROOM, check, range, tracker};

use crate::clock::CpuTime;

pub fn all(c: &mut Criterion<CpuTime>) {
    fdt(c);
    luo(c);
    pci(c);
}

/// The root FDT has one page, so there is a limit to the sub-blobs.
fn fdt(c: &mut Criterion<CpuTime>) {
    for count in [8, 16, 32] {
        let size = |c: &str| BenchmarkId::new(c, count);
        let mut group = c.benchmark_group("describe FDT");
        group.throughput(Throughput::Elements(count));
        let arena = Arena::new(ROOM);
        let outgoing = Outgoing::new(tracker(&arena)).unwrap();
        for blob in 1..count {
            outgoing
                .add_subtree(&format!("blob{blob}"), range(blob << 32, 4096))
                .unwrap();
        }
        group.bench_function(size("write"), |b| {
            b.iter(|| {
                outgoing.add_subtree("new", range(1 << 40, 4096)).unwrap();
                outgoing.remove_subtree("new").unwrap()
            });
        });
        drop(outgoing);

        let mut arena = Arena::new(ROOM);
        let boot = blobs(&arena, count);
        let memory = arena.frozen();
        let mut workspace = vec![0; 4096];
        group.bench_function(size("check"), |b| {
            b.iter(|| check(&memory, black_box(boot), &mut workspace).fdt_size());
        });
        let incoming = check(&memory, boot, &mut workspace);
        // Nodes are written in reverse.
        let last = "blob0";
        group.bench_function(size("look up the last"), |b| {
            b.iter(|| incoming.subtree(black_box(last)).unwrap().range);
        });
        group.finish();
    }
}

fn luo(c: &mut Criterion<CpuTime>) {
    for count in [10, 100, 1000] {
        let size = |c: &str| BenchmarkId::new(c, count);
        let mut group = c.benchmark_group("describe LUO");
        group
            .sample_size(10)
            .throughput(Throughput::Elements(count * FILES));
        group.bench_function(size("write"), |b| {
            b.iter_batched(
                || Arena::new(ROOM),
                |arena| sessions(&arena, count, 1),
                BatchSize::PerIteration,
            );
        });
        let mut arena = Arena::new(ROOM);
        let boot = sessions(&arena, count, 1);
        let memory = arena.frozen();
        let mut workspace = vec![0; 65536];
        group.bench_function(size("check"), |b| {
            b.iter(|| check(&memory, black_box(boot), &mut workspace).fdt_size());
        });
        let incoming = check(&memory, boot, &mut workspace);
        let luo = incoming.luo().known().unwrap();
        group.bench_function(size("read"), |b| {
            b.iter(|| {
                let files = black_box(&luo)
                    .sessions()
                    .flat_map(|session| session.files());
                files.map(|file| file.data()).fold(0, u64::wrapping_add)
            });
        });
        group.finish();
    }
}

fn pci(c: &mut Criterion<CpuTime>) {
    for count in [100, 1000, 10_000] {
        let size = |c: &str| BenchmarkId::new(c, count);
        let mut group = c.benchmark_group("describe PCI");
        group.throughput(Throughput::Elements(count));
        group.bench_function(size("write"), |b| {
            b.iter_batched(
                || Arena::new(ROOM),
                |arena| sessions(&arena, 1, count),
                BatchSize::PerIteration,
            );
        });
        let mut arena = Arena::new(ROOM);
        let boot = sessions(&arena, 1, count);
        let memory = arena.frozen();
        let mut workspace = vec![0; 65536];
        let incoming = check(&memory, boot, &mut workspace);
        group.bench_function(size("read"), |b| {
            b.iter(|| {
                let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
                let functions = (0..count).map(|id| Sbdf::from_bdf(0, id as u16));
                functions.filter(|at| record.find(*at).is_some()).count()
            });
        });
        group.finish();
    }
}

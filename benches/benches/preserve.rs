//! Preserving pages and undoing it: one at a time in no order, and ascending.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitvec::prelude::*;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use kho::hal::{Order, PhysAddr};
use kho_benches::arena::Arena;
use kho_benches::{ArenaTracker, ROOM, range, sets, tracker};
use roaring::RoaringBitmap;

use crate::clock::{CpuTime, rounds_of, time, time_threads};

pub fn all(c: &mut Criterion<CpuTime>) {
    let ascending = sets::dense();
    let mut random = sets::shuffled(ascending.clone());
    random.truncate(1 << 20);
    for (order, pages) in [("random", &random), ("sequential", &ascending)] {
        let mut both = Both::new(c, order, pages);
        ours(&mut both);
        peers(&mut both);
    }
    threads(c);
}

/// Measures a way to put a set of pages in and take it out again, in two groups.
struct Both<'c, 'p> {
    c: &'c mut Criterion<CpuTime>,
    order: &'static str,
    pages: &'p [u64],
}

impl<'c, 'p> Both<'c, 'p> {
    fn new(c: &'c mut Criterion<CpuTime>, order: &'static str, pages: &'p [u64]) -> Self {
        Self { c, order, pages }
    }

    fn group(&mut self, job: &str) -> BenchmarkGroup<'_, CpuTime> {
        let mut group = self.c.benchmark_group(format!("{job} {}", self.order));
        group
            .sample_size(10)
            .throughput(Throughput::Elements(self.pages.len() as u64));
        group
    }

    /// `put` and `take` work on the whole set; the set is empty before and after.
    fn measure<S>(
        &mut self,
        name: &str,
        set: &mut S,
        put: impl Fn(&mut S, &[u64]),
        take: impl Fn(&mut S, &[u64]),
    ) {
        let pages = self.pages;
        // The tables of the tree are there from the first round on.
        put(set, pages);
        take(set, pages);
        self.group("preserve").bench_function(name, |b| {
            b.iter_custom(|rounds| {
                rounds_of(rounds, || {
                    let spent = time(|| put(set, black_box(pages)));
                    take(set, pages);
                    spent
                })
            });
        });
        self.group("unpreserve").bench_function(name, |b| {
            b.iter_custom(|rounds| {
                rounds_of(rounds, || {
                    put(set, pages);
                    time(|| take(set, black_box(pages)))
                })
            });
        });
    }
}

fn ours(both: &mut Both<'_, '_>) {
    let arena = Arena::new(ROOM);
    let mut tracker = tracker(&arena);
    both.measure(
        "one by one",
        &mut tracker,
        |tracker, pages| one_by_one(tracker, pages),
        |tracker, pages| {
            for &page in pages {
                let page = PhysAddr::new(page);
                tracker.unpreserve_folio(page, Order::ZERO).unwrap();
            }
        },
    );
    both.measure(
        "batch",
        &mut tracker,
        |tracker, pages| tracker.preserve_folios(folios(pages)).unwrap(),
        |tracker, pages| tracker.unpreserve_folios(folios(pages)).unwrap(),
    );
    if both.order == "sequential" {
        let all = range(sets::START, sets::PAGES << 12);
        both.measure(
            "run",
            &mut tracker,
            |tracker, _| tracker.preserve_run(all, Order::ZERO).unwrap(),
            |tracker, _| tracker.unpreserve_run(all, Order::ZERO).unwrap(),
        );
    }
}

fn folios(pages: &[u64]) -> impl Iterator<Item = (PhysAddr, Order)> + Clone {
    let folio = |&page: &u64| (PhysAddr::new(page), Order::ZERO);
    pages.iter().map(folio)
}

/// The same pages by one thread and by several, which share every leaf or none.
fn threads(c: &mut Criterion<CpuTime>) {
    let arena = Arena::new(ROOM);
    let tracker = tracker(&arena);
    let whole = sets::dense();
    let mut group = c.benchmark_group("preserve by threads");
    // One round a sample, so that some have the machine for themselves.
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(60)
        .measurement_time(Duration::from_millis(50));
    let mut measure = |name: &str, parts: &[Vec<u64>]| {
        let count = parts.iter().map(|part| part.len()).sum::<usize>();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                rounds_of(rounds, || {
                    let spent = time_threads(parts, |part| one_by_one(&tracker, part));
                    for part in parts {
                        tracker.unpreserve_folios(folios(part)).unwrap();
                    }
                    spent
                })
            });
        });
    };
    // Eight leaves, all of their pages.
    let leaves: Vec<u64> = whole.iter().copied().take(8 << 15).collect();
    measure("one, all leaves", std::slice::from_ref(&leaves));
    let (low, high) = leaves.split_at(leaves.len() / 2);
    measure(
        "two, half of the leaves each",
        &[low.to_vec(), high.to_vec()],
    );
    // All leaves, a page of each word.
    let each =
        |first: usize, step: usize| whole.iter().copied().skip(first).step_by(step).collect();
    measure("one, a page of each word", &[each(0, 64)]);
    measure("two, every other word each", &[each(0, 128), each(64, 128)]);
}

fn one_by_one(tracker: &ArenaTracker<'_>, pages: &[u64]) {
    for &page in pages {
        let page = PhysAddr::new(page);
        tracker.preserve_folio(page, Order::ZERO).unwrap();
    }
}

fn peers(both: &mut Both<'_, '_>) {
    #[cfg(linux_peer)]
    both.measure(
        "Linux",
        &mut kho_benches::linux::LinuxTree::new(ROOM),
        |tree, pages| {
            for &page in pages {
                tree.preserve(page, 0);
            }
        },
        |tree, pages| {
            for &page in pages {
                tree.unpreserve(page, 0);
            }
        },
    );
    both.measure(
        "BTreeSet",
        &mut BTreeSet::<u64>::new(),
        |set, pages| set.extend(pages),
        |set, pages| {
            for page in pages {
                set.remove(page);
            }
        },
    );
    both.measure(
        "roaring",
        &mut RoaringBitmap::new(),
        |set, pages| {
            for &page in pages {
                set.insert((page >> 12) as u32);
            }
        },
        |set, pages| {
            for &page in pages {
                set.remove((page >> 12) as u32);
            }
        },
    );
    // The machine's limit for what many CPUs may do at once: one atomic operation on a known word.
    let words = ((sets::START >> 12) + sets::PAGES) as usize / 64;
    both.measure(
        "atomic bitmap",
        &mut (0..words).map(|_| AtomicU64::new(0)).collect::<Vec<_>>(),
        |set, pages| {
            for &page in pages {
                let bit = 1 << (page >> 12 & 63);
                let word = set.get((page >> 18) as usize).unwrap();
                assert!(word.fetch_or(bit, Ordering::Relaxed) & bit == 0);
            }
        },
        |set, pages| {
            for &page in pages {
                let bit = 1 << (page >> 12 & 63);
                let word = set.get((page >> 18) as usize).unwrap();
                assert!(word.fetch_and(!bit, Ordering::Relaxed) & bit != 0);
            }
        },
    );
    both.measure(
        "bitmap",
        &mut bitvec![u64, Lsb0; 0; ((sets::START >> 12) + sets::PAGES) as usize],
        |set, pages| {
            for &page in pages {
                set.set((page >> 12) as usize, true);
            }
        },
        |set, pages| {
            for &page in pages {
                set.set((page >> 12) as usize, false);
            }
        },
    );
}

//! The outgoing tree against a set of folios, for every page size.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::collections::BTreeSet;

use common::{FREE, Sim, addr, check, order, pages};
use kho_core::outgoing::{Nodes, Outgoing, OutgoingError, Tracker};
use kho_hal::{Order, PageSize, Pfn, PhysAddr, PhysRange};
use proptest::prelude::*;

/// One step of a test: preserve or unpreserve a folio, several, or a range.
#[derive(Clone, Debug)]
enum Step {
    Folio {
        add: bool,
        block: u64,
        order: u32,
    },
    Folios {
        add: bool,
        blocks: Vec<(u64, u32)>,
    },
    Run {
        add: bool,
        block: u64,
        order: u32,
        count: u64,
    },
    Range {
        add: bool,
        first: u64,
        count: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // Few places, so that steps meet; some far apart, so that the tree has many pages.
    let block = prop_oneof![0u64..40, (0u64..8).prop_map(|n| n << 18)];
    let folio = (any::<bool>(), block.clone(), 0u32..11)
        .prop_map(|(add, block, order)| Step::Folio { add, block, order });
    let range = (any::<bool>(), 0u64..300, 0u64..300).prop_map(|(add, first, count)| Step::Range {
        add,
        first,
        count,
    });
    // Some ascend, some do not, and some come twice.
    let stretch =
        (block.clone(), 0u32..3, 1u64..100, 1u64..3).prop_map(|(block, o, count, step)| {
            (0..count)
                .map(|i| (block + i * step, o))
                .collect::<Vec<_>>()
        });
    let folios = prop::collection::vec(stretch, 0..4);
    let folios = (any::<bool>(), folios).prop_map(|(add, stretches)| Step::Folios {
        add,
        blocks: stretches.concat(),
    });
    let run = (any::<bool>(), block, 0u32..3, 1u64..300);
    let run = run.prop_map(|(add, block, order, count)| Step::Run {
        add,
        block,
        order,
        count,
    });
    prop_oneof![folio, folios, run, range]
}

/// The blocks of a range, one after the other: the largest that is aligned, fits, and is on one
/// node. Written for clearness.
fn naive_blocks(range: PhysRange, page: PageSize, nodes: &dyn Nodes) -> Vec<(u64, u32)> {
    let (mut pfn, end) = (
        range.start().pfn(page).as_u64(),
        range.end().pfn(page).as_u64(),
    );
    let mut blocks = Vec::new();
    while pfn < end {
        let fits = |order: &u32| {
            let size = 1u64 << order;
            let last = pfn + size - 1;
            pfn % size == 0 && last < end && nodes.node(Pfn::new(pfn)) == nodes.node(Pfn::new(last))
        };
        let order = (0..30).rev().find(fits).unwrap();
        blocks.push((pfn << page.shift(), order));
        pfn += 1 << order;
    }
    blocks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sequence of steps leaves the tree with the folios that a set has, and each step says so.
    #[test]
    fn is_a_set_of_folios(
        steps in prop::collection::vec(step(), 1..60),
        page in prop::sample::select(&PageSize::ALL),
        border in 1u64..400,
    ) {
        let sim = Sim::new(page);
        let alloc = sim.alloc();
        let nodes = move |pfn: Pfn| u32::from(pfn.as_u64() >= FREE + border);
        let tracker = Tracker::with_nodes(&sim.memory, &alloc, page, &sim.scratch, nodes).unwrap();
        let mut model = BTreeSet::new();
        for step in steps {
            let at = |block: u64, o: u32| {
                let start = FREE.next_multiple_of(1 << o) + (block << o);
                (start << page.shift(), o)
            };
            let (add, blocks) = match &step {
                &Step::Folio { add, block, order } => (add, vec![at(block, order)]),
                Step::Folios { add, blocks } => {
                    (*add, blocks.iter().map(|&(block, o)| at(block, o)).collect())
                }
                &Step::Run { add, block, order, count } => {
                    (add, (block..block + count).map(|block| at(block, order)).collect())
                }
                &Step::Range { add, first, count } => {
                    (add, naive_blocks(pages(page, FREE + first, count), page, &nodes))
                }
            };
            let folios = || blocks.iter().map(|&(at, o)| (addr(at), order(o)));
            let unique: BTreeSet<_> = blocks.iter().copied().collect();
            let wrong = |block: &&(u64, u32)| model.contains(*block) == add;
            let result = match step {
                Step::Folio { add: true, .. } => {
                    tracker.preserve_folio(addr(blocks[0].0), order(blocks[0].1))
                }
                Step::Folio { add: false, .. } => {
                    tracker.unpreserve_folio(addr(blocks[0].0), order(blocks[0].1))
                }
                Step::Folios { add: true, .. } => tracker.preserve_folios(folios()),
                Step::Folios { add: false, .. } => tracker.unpreserve_folios(folios()),
                Step::Run { add, order: o, count, .. } => {
                    let size = order(o).bytes(page).unwrap();
                    let range = PhysRange::new(addr(blocks[0].0), count * size).unwrap();
                    if add {
                        tracker.preserve_run(range, order(o))
                    } else {
                        tracker.unpreserve_run(range, order(o))
                    }
                }
                Step::Range { add, first, count } => {
                    let range = pages(page, FREE + first, count);
                    if add {
                        tracker.preserve_pages(range)
                    } else {
                        tracker.unpreserve_pages(range)
                    }
                }
            };
            // An empty range is an error, no folios are none.
            let empty_range = blocks.is_empty() && matches!(step, Step::Range { .. });
            let possible = !empty_range
                && unique.len() == blocks.len()
                && !blocks.iter().any(|block| wrong(&block));
            prop_assert_eq!(result.is_ok(), possible, "{:?}", result);
            if let Err(OutgoingError::AlreadyPreserved { addr, order }) = result {
                let named = (addr.as_u64(), order.as_u32());
                prop_assert!(add && blocks.contains(&named));
                let twice = blocks.iter().filter(|&&block| block == named).count() > 1;
                prop_assert!(model.contains(&named) || twice);
            }
            if let Err(OutgoingError::NotPreserved { addr, order }) = result {
                let named = (addr.as_u64(), order.as_u32());
                prop_assert!(!add && blocks.contains(&named));
                let twice = blocks.iter().filter(|&&block| block == named).count() > 1;
                prop_assert!(!model.contains(&named) || twice);
            }
            if possible && add {
                model.extend(blocks);
            } else if possible {
                model.retain(|block| !blocks.contains(block));
            }
        }
        for &(start, o) in &model {
            prop_assert!(tracker.is_preserved(addr(start), order(o)));
        }
        // Folios of different orders may overlap here; the reader refuses that, so compare sets
        // by taking everything out again.
        for &(start, o) in &model {
            prop_assert!(tracker.unpreserve_folio(addr(start), order(o)).is_ok());
        }
        let leaves = tree_bits(&sim, &tracker);
        prop_assert_eq!(leaves, 0, "nothing else was in the tree");
        assert!(tracker.destroy().is_ok());
        prop_assert_eq!(alloc.live(), []);
    }

    /// A batch refuses what is refused one by one: folios in scratch and such that are not aligned,
    /// right beside others that are fine.
    #[test]
    fn a_batch_refuses_what_one_by_one_is_refused(
        folios in prop::collection::vec((0u64..300, 0u32..3, prop::bool::weighted(0.02)), 1..80),
        sorted in any::<bool>(), page in prop::sample::select(&PageSize::ALL),
    ) {
        let sim = Sim::new(page);
        let alloc = sim.alloc();
        // An area that starts and ends amidst what could be folios.
        let scratch = [pages(page, FREE + 130, 50)];
        let new = || Tracker::new(&sim.memory, &alloc, page, &scratch).unwrap();
        let (one_by_one, batch) = (new(), new());
        let mut folios: Vec<_> = folios.into_iter().map(|(at, o, askew)| {
            let at = (FREE + at).next_multiple_of(if askew { 1 } else { 1 << o });
            (addr((at << page.shift()) + u64::from(askew) * 64), order(o))
        }).collect();
        if sorted {
            folios.sort();
        }
        folios.dedup();
        let expected = folios.iter().try_for_each(|&(at, o)| one_by_one.preserve_folio(at, o));
        let result = batch.preserve_folios(folios.iter().copied());
        prop_assert_eq!(result.is_ok(), expected.is_ok());
        if let Err(OutgoingError::Key(_) | OutgoingError::InScratch { .. }) = expected {
            prop_assert_eq!(result, expected);
        }
    }

    /// What a range adds, the same range takes out again, wherever nodes meet.
    #[test]
    fn unpreserve_undoes_preserve(
        first in 0u64..1 << 30, count in prop_oneof![1u64..2000, 1u64..1 << 20],
        node_size in 1000u64..1 << 16, page in prop::sample::select(&PageSize::ALL),
    ) {
        let sim = Sim::new(page);
        let alloc = sim.alloc();
        // Any number of nodes, of a size that is no power of two.
        let nodes = move |pfn: Pfn| (pfn.as_u64() / node_size) as u32;
        let tracker = Tracker::with_nodes(&sim.memory, &alloc, page, &sim.scratch, nodes).unwrap();
        let range = pages(page, FREE + first, count);
        prop_assert!(tracker.preserve_pages(range).is_ok());
        prop_assert!(tree_bits(&sim, &tracker) > 0);
        prop_assert!(tracker.unpreserve_pages(range).is_ok());
        prop_assert_eq!(tree_bits(&sim, &tracker), 0);
    }

    /// Wherever memory runs out, the tree is as it was, nothing leaks, and a retry succeeds.
    #[test]
    fn a_failed_allocation_changes_nothing(
        fail in 0u64..6, first in 0u64..1 << 30, count in 1u64..100,
        page in prop::sample::select(&PageSize::ALL),
    ) {
        let sim = Sim::new(page);
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        let range = pages(page, FREE + first, count);
        let before = alloc.calls();
        alloc.fail_at(Some(fail));
        let result = tracker.preserve_pages(range);
        let failed = alloc.calls() - before > fail;
        prop_assert_eq!(result.is_err(), failed);
        if failed {
            prop_assert_eq!(tree_bits(&sim, &tracker), 0);
            prop_assert!(matches!(result, Err(OutgoingError::Alloc(_))));
            prop_assert!(tracker.preserve_pages(range).is_ok());
        }
        assert!(tracker.destroy().is_ok());
        prop_assert_eq!(alloc.live(), []);
    }
}

/// Number of folios in the tree.
fn tree_bits<N: Nodes>(
    sim: &Sim,
    tracker: &Tracker<
        '_,
        &kho_hal::sim::SimMemory,
        &kho_hal::sim::SimAlloc<&kho_hal::sim::SimMemory>,
        N,
    >,
) -> u32 {
    fn below(sim: &Sim, node: u64, level: u32) -> u32 {
        let words =
            (0..sim.page.words() as u64).map(|i| sim.memory.word(addr(node + i * 8)).unwrap());
        words
            .map(|word| match (level, word) {
                (0, word) => word.count_ones(),
                (_, 0) => 0,
                (level, child) => below(sim, child, level - 1),
            })
            .sum()
    }
    below(
        sim,
        tracker.root().as_u64(),
        kho_abi::radix::depth(sim.page) - 1,
    )
}

#[test]
fn depth_at_16k_is_five() {
    let sim = Sim::new(PageSize::Size16K);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    // Linux's first formula gave 4 levels, and lost the marker of order 0.
    tracker
        .preserve_folio(addr(0x1_4000_0000), Order::ZERO)
        .unwrap();
    let mut pages = 0;
    tracker.for_each_page(|_| pages += 1).unwrap();
    assert_eq!(pages, 5);
    assert_eq!(
        sim.memory
            .word(addr(tracker.root().as_u64() + 8))
            .map(|word| word != 0),
        Some(true)
    );
}

#[test]
fn refusals_have_names() {
    let page = PageSize::Size4K;
    let sim = Sim::new(page);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let at = addr(FREE << 12);
    tracker.preserve_folio(at, order(3)).unwrap();
    assert_eq!(
        tracker.preserve_folio(at, order(3)),
        Err(OutgoingError::AlreadyPreserved {
            addr: at,
            order: order(3)
        })
    );
    assert_eq!(
        tracker.unpreserve_folio(at, order(2)),
        Err(OutgoingError::NotPreserved {
            addr: at,
            order: order(2)
        })
    );
    assert!(matches!(
        tracker.preserve_folio(addr((FREE + 1) << 12), order(3)),
        Err(OutgoingError::Key(_))
    ));
    assert!(matches!(
        tracker.preserve_folio(at, order(52)),
        Err(OutgoingError::Key(_))
    ));
    let scratch = sim.scratch[0];
    // The whole of a large folio counts, not only its head.
    assert_eq!(
        tracker.preserve_folio(addr(0), order(10)),
        Err(OutgoingError::InScratch {
            range: pages(page, 0, 1024),
            scratch
        })
    );
    let across = PhysRange::new(addr(scratch.end().as_u64() - 4096), 8192).unwrap();
    assert!(matches!(
        tracker.preserve_pages(across),
        Err(OutgoingError::InScratch { .. })
    ));
    let askew = |offset, size| PhysRange::new(addr((FREE << 12) + offset), size).unwrap();
    for bad in [
        pages(page, FREE, 0),
        askew(1, 4096),
        askew(0, 100),
        askew(1, 4095),
        askew(0, 4097),
    ] {
        assert_eq!(
            tracker.preserve_pages(bad),
            Err(OutgoingError::BadRange { range: bad })
        );
        assert_eq!(
            tracker.unpreserve_pages(bad),
            Err(OutgoingError::BadRange { range: bad })
        );
        assert_eq!(
            tracker.preserve_run(bad, order(0)),
            Err(OutgoingError::BadRange { range: bad })
        );
        assert_eq!(
            tracker.unpreserve_run(bad, order(0)),
            Err(OutgoingError::BadRange { range: bad })
        );
    }
    let twice = [(at, order(0)), (at, order(0))];
    assert_eq!(
        tracker.preserve_folios(twice),
        Err(OutgoingError::AlreadyPreserved {
            addr: at,
            order: order(0)
        })
    );
    assert!(matches!(
        tracker.alloc_preserved(0),
        Err(OutgoingError::BadRange { .. })
    ));
    for bad in [pages(page, FREE, 0), pages(page, FREE, 3)] {
        let refused = OutgoingError::BadRange { range: bad };
        assert_eq!(tracker.preserve_run(bad, order(1)), Err(refused));
    }
    let refused = OutgoingError::Key(kho_abi::radix::KeyError::Order { order: order(52) });
    let text = "order 52 is larger than the format allows";
    assert_eq!(refused.to_string(), text);
}

/// In one batch, two folios whose places in the tree look alike, or are the same.
#[test]
fn batches_of_what_looks_alike() {
    let sim = Sim::new(PageSize::Size4K);
    let alloc = sim.alloc();
    let tracker = Tracker::new(&sim.memory, &alloc, sim.page, &[]).unwrap();
    let orders = || (0..=51).map(order);
    for at in [0, 5 << 42, 37 << 28].map(addr) {
        let is_possible = |o: &Order| at.is_aligned_to(o.bytes(sim.page).unwrap());
        for (first, second) in orders().flat_map(|a| orders().map(move |b| (a, b))) {
            if !is_possible(&first) || !is_possible(&second) {
                continue;
            }
            let both = [(at, first), (at, second)];
            let done = tracker.preserve_folios(both);
            if first == second {
                let (addr, order) = both[1];
                let twice = OutgoingError::AlreadyPreserved { addr, order };
                assert_eq!(done, Err(twice));
                continue;
            }
            assert_eq!(done, Ok(()), "{first} {second} at {at}");
            assert!(both.iter().all(|&(at, o)| tracker.is_preserved(at, o)));
            tracker.unpreserve_folios(both).unwrap();
            assert!(!both.iter().any(|&(at, o)| tracker.is_preserved(at, o)));
        }
    }
}

/// Folios whose keys are alike in some of their bits, one right after the other.
#[test]
fn a_batch_keeps_words_and_leaves_apart() {
    let page = PageSize::Size4K;
    for pair in [
        // The numbers of their leaves are the same but for a shift by the size of a leaf.
        [(1 << 48, 0), (1 << 48, 30)],
        // The place of the one's bit in its word is the number of the other's word.
        [(64 << 53, 41), (161 << 53, 41)],
        // The one's word is the other's, 64 words on.
        [((1 << 48) + (1 << 12), 0), ((1 << 48) + (1 << 24), 0)],
    ] {
        let forth = pair.map(|(at, o)| (addr(at), order(o)));
        for folios in [forth, [forth[1], forth[0]]] {
            let sim = Sim::new(page);
            let alloc = sim.alloc();
            let tracker = Tracker::new(&sim.memory, &alloc, page, &[]).unwrap();
            tracker.preserve_folios(folios).unwrap();
            assert_eq!(tree_bits(&sim, &tracker), 2);
            for (at, o) in folios {
                assert!(tracker.is_preserved(at, o), "{at} of order {o}");
            }
            tracker.unpreserve_folios(folios).unwrap();
            assert_eq!(tree_bits(&sim, &tracker), 0);
        }
    }
}

#[test]
fn a_range_that_meets_a_preserved_folio_is_undone() {
    let page = PageSize::Size4K;
    let sim = Sim::new(page);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let at = addr((FREE + 6) << 12);
    tracker.preserve_folio(at, order(0)).unwrap();
    let range = pages(page, FREE + 1, 6);
    let expected = OutgoingError::AlreadyPreserved {
        addr: at,
        order: order(0),
    };
    assert_eq!(tracker.preserve_pages(range), Err(expected));
    assert_eq!(
        tree_bits(&sim, &tracker),
        1,
        "only the folio that was there"
    );
    // Half a range cannot be taken out either.
    assert!(tracker.unpreserve_pages(range).is_err());
    assert_eq!(tree_bits(&sim, &tracker), 1);
}

/// Threads that preserve pages in the same and in different leaves lose nothing.
#[test]
fn threads_share_a_tree() {
    for page in PageSize::ALL {
        let mut sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let tracker = &tracker;
                    scope.spawn(move || {
                        for i in 0..512 {
                            // Neighbours by turns, then far apart; every third is taken out again.
                            let far = (i % 8) << 24;
                            let at = pages(page, FREE + far + i * 4 + thread, 1);
                            tracker.preserve_pages(at).unwrap();
                            if i % 3 == 0 {
                                tracker.unpreserve_pages(at).unwrap();
                            }
                        }
                    });
                }
            });
            let mut outgoing = Outgoing::new(tracker).unwrap();
            outgoing
                .finalize(sim.scratch_array(), &mut [])
                .unwrap()
                .hand_over()
        };
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, page).unwrap();
        let first = PhysAddr::new(FREE * page.bytes());
        let found: BTreeSet<_> = incoming
            .folios()
            .filter(|folio| folio.addr >= first)
            .map(|folio| folio.addr)
            .collect();
        let expected: BTreeSet<_> = (0..512u64)
            .filter(|i| i % 3 != 0)
            .flat_map(|i| (0..4).map(move |thread| (i, thread)))
            .map(|(i, thread)| pages(page, FREE + ((i % 8) << 24) + i * 4 + thread, 1).start())
            .collect();
        assert_eq!(found, expected, "{page:?}");
    }
}

/// The largest orders have so few folios that they share a word of the tree.
#[test]
fn the_largest_folios_are_kept_apart() {
    for page in PageSize::ALL {
        let sim = Sim::new(page);
        let alloc = sim.alloc();
        let size = |o: u32| 1u64 << (page.shift() + o);
        // 32 of one order, 8 of the other, and pages in the first and the last of them.
        let (small, large) = (59 - page.shift(), 61 - page.shift());
        let disjoint = [
            (size(small), small),
            (30 * size(small), small),
            (size(large), large),
            (6 * size(large), large),
            (FREE << page.shift(), 0),
            (7 * size(large), 0),
        ];
        for clash in [None, Some(4 * size(small)), Some(30 * size(small))] {
            let tracker = sim.tracker(&alloc);
            for (at, o) in disjoint {
                tracker.preserve_folio(addr(at), order(o)).unwrap();
                assert!(tracker.is_preserved(addr(at), order(o)), "{at:#x} {o}");
            }
            if let Some(at) = clash {
                tracker.preserve_folio(addr(at), order(0)).unwrap();
            }
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let result = outgoing.finalize(sim.scratch_array(), &mut []).map(drop);
            match clash {
                None => assert_eq!(result, Ok(())),
                Some(_) => assert!(matches!(result, Err(OutgoingError::Overlap { .. }))),
            }
            drop(outgoing);
        }
    }
}

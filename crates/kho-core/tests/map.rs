//! What the reader finds in a map against the folios that were put in.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{FREE, Sim, addr, check, order, range};
use kho_core::incoming::{Fault, Folio, Machine, Part, Ram};
use kho_core::outgoing::{Outgoing, OutgoingError};
use kho_hal::{PageSize, PhysRange};
use proptest::prelude::*;

/// Disjoint folios: by first page, orders. Dense stretches, gaps, all of the address space, and runs
/// from one page of the map into the next.
fn folios() -> impl Strategy<Value = BTreeMap<u64, u32>> {
    // A page of 4 KiB has 2^15 bits, one of 16 KiB 2^17, one of 64 KiB 2^19.
    let border = (prop::sample::select(vec![15, 17, 19]), 1u64..3, 0u64..200);
    let one = prop_oneof![
        (0u64..256, 0u32..7),
        (0u64..16, 7u32..14),
        (0u64..1 << 8, 14u32..20),
        (0u64..1 << 30, 0u32..1),
        border.prop_map(|(bits, pages, before)| ((pages << bits) - FREE - before, 0)),
    ];
    let run = (one, 1u64..200);
    prop::collection::vec(run, 0..30).prop_map(|runs| {
        let mut folios: BTreeMap<u64, u32> = BTreeMap::new();
        for ((block, order), count) in runs {
            for block in block..block + count.min(1 << (20 - order)) {
                let first = (FREE.next_multiple_of(1 << order)) + (block << order);
                let end = first + (1 << order);
                let below = folios.range(..end).next_back();
                let free = below.is_none_or(|(&at, &other)| at + (1 << other) <= first);
                if free && end < 1 << 36 {
                    folios.insert(first, order);
                }
            }
        }
        folios
    })
}

fn extents(folios: &[Folio], page: PageSize) -> Vec<PhysRange> {
    let mut extents: Vec<PhysRange> = Vec::new();
    for folio in folios {
        let new = folio.range(page);
        match extents.last_mut() {
            Some(last) if last.end() == new.start() => {
                *last = PhysRange::new(last.start(), last.size() + new.size()).unwrap();
            }
            _ => extents.push(new),
        }
    }
    extents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn finds_the_folios_that_were_put_in(
        folios in folios(), page in prop::sample::select(&PageSize::ALL),
        probes in prop::collection::vec((0u64..1 << 37, 0u64..1 << 12), 20),
    ) {
        let mut sim = Sim::new(page);
        let (boot, fdt) = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            for (&first, &o) in &folios {
                tracker.preserve_folio(addr(first << page.shift()), order(o)).unwrap();
            }
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let boot = outgoing.finalize(sim.scratch_array(), &mut []).unwrap().hand_over();
            (boot, boot.fdt_addr)
        };
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, page).unwrap();

        let fdt = (fdt.as_u64() >> page.shift(), 0);
        let all: BTreeMap<u64, u32> = folios.into_iter().chain([fdt]).collect();
        let folio = |(&first, &o): (&u64, &u32)| Folio {
            addr: addr(first << page.shift()),
            order: order(o),
        };
        let expected: Vec<Folio> = all.iter().map(folio).collect();
        prop_assert_eq!(incoming.folios().collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(incoming.extents().collect::<Vec<_>>(), extents(&expected, page));
        prop_assert_eq!(
            incoming.largest_order(),
            expected.iter().map(|folio| folio.order).max()
        );
        for parts in [1, 2, 3, 7, 64, 200] {
            let parts = std::num::NonZeroUsize::new(parts).unwrap();
            let joined: Vec<_> = incoming.split(parts).flatten().collect();
            prop_assert_eq!(joined, expected.clone(), "{} parts", parts);
        }
        for (first, count) in probes {
            let probe = addr(first << page.shift() | 8);
            let containing = expected.iter().find(|folio| folio.range(page).contains(probe));
            prop_assert_eq!(incoming.folio_containing(probe), containing.copied());
            let window = range(probe.as_u64(), count << page.shift() | 1);
            let touching = expected.iter().filter(|folio| folio.range(page).overlaps(window));
            prop_assert_eq!(
                incoming.folios_in(window).collect::<Vec<_>>(),
                touching.copied().collect::<Vec<_>>()
            );
        }
        for folio in &expected {
            prop_assert_eq!(incoming.restore_folio(folio.addr), Some(*folio));
            let inside = folio.addr.checked_add(page.bytes()).unwrap();
            if folio.order.as_u32() > 0 {
                prop_assert_eq!(incoming.restore_folio(inside), None, "only heads are restored");
            }
        }
        for extent in incoming.extents().collect::<Vec<_>>() {
            let found = incoming.restore_pages(extent).map(|folios| folios.count());
            let count = expected.iter().filter(|folio| folio.range(page).overlaps(extent)).count();
            prop_assert_eq!(found, Some(count));
            let more = range(extent.start().as_u64(), extent.size() + page.bytes());
            prop_assert!(incoming.restore_pages(more).is_none());
        }
    }
}

/// Folios that a predecessor may have preserved although it must not: near each other, so that they
/// overlap now and then, and also among the pages of the tree. By first page, with orders.
fn careless_folios(page: PageSize) -> impl Strategy<Value = BTreeSet<(u64, u32)>> {
    let far = (0u64..1 << 12, 0u32..4, 1u64..70, 1u64..4);
    let near = (0u64..64, 0u32..2, 1u64..3, 1u64..9);
    let run = prop_oneof![
        9 => far.prop_map(|(at, o, count, step)| (FREE + at * 4, o, count, step)),
        1 => near.prop_map(|(at, o, count, step)| (common::HEAP.0 + at, o, count, step)),
    ];
    prop::collection::vec(run, 0..6).prop_map(move |runs| {
        let mut folios = BTreeSet::new();
        for (first, o, count, step) in runs {
            for i in 0..count {
                let at = first.next_multiple_of(1 << o) + ((i * step) << o);
                folios.insert((at << page.shift(), o));
            }
        }
        folios
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The check against a naive one: every folio is RAM, outside scratch, disjoint from every other
    /// folio and from the pages of the tree.
    #[test]
    fn refuses_what_a_naive_check_refuses(
        (page, folios) in prop::sample::select(&PageSize::ALL)
            .prop_flat_map(|page| (Just(page), careless_folios(page))),
        holes in prop::collection::vec((0u64..1 << 15, 1u64..3), 0..3),
        foreign in prop::option::of((0u64..1 << 15, 1u64..3)),
        words in 1usize..64,
    ) {
        let mut sim = Sim::new(page);
        let mut own = Vec::new();
        let mut boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            for &(at, o) in &folios {
                prop_assume!(tracker.preserve_folio(addr(at), order(o)).is_ok());
            }
            let Ok(mut outgoing) = Outgoing::new(tracker) else {
                // The description's page was preserved already.
                return Ok(());
            };
            let tree = outgoing.tracker();
            tree.for_each_page(|at| own.push(range(at.as_u64(), page.bytes()))).unwrap();
            match outgoing.finalize(sim.scratch_array(), &mut []) {
                Ok(finalized) => finalized.hand_over(),
                Err(_) => {
                    // Who hands over refuses folios that overlap. Nobody else looked.
                    let naive = folios.iter().map(|&(at, o)| {
                        PhysRange::folio(addr(at), order(o), page).unwrap()
                    }).collect::<Vec<_>>();
                    let overlap = (1..naive.len()).any(|i| {
                        naive[..i].iter().any(|other| other.overlaps(naive[i]))
                    });
                    let fdt = naive.iter().any(|folio| folio.start() < addr(FREE << page.shift()));
                    prop_assert!(overlap || fdt);
                    return Ok(());
                }
            }
        };
        // An area that the predecessor did not know of.
        let array = sim.scratch_array();
        let mut scratch = sim.scratch.to_vec();
        if let Some((first, count)) = foreign {
            let area = common::pages(page, FREE + first, count);
            let entry = [area.start().as_u64(), area.size()].map(u64::to_le_bytes).concat();
            let at = array.checked_add(boot.scratch_size).unwrap();
            kho_hal::PhysMem::write(&sim.memory, at, &entry).unwrap();
            boot.scratch_size += 16;
            scratch.push(area);
        }
        let mut ram = vec![common::pages(page, 0, FREE + (1 << 16))];
        for &(first, count) in &holes {
            let hole = common::pages(page, FREE + first, count);
            ram = ram.iter().flat_map(|&piece| {
                let below = hole.start().min(piece.end()).max(piece.start());
                let above = hole.end().max(piece.start()).min(piece.end());
                [(piece.start(), below), (above, piece.end())]
            }).filter(|(a, b)| a < b).map(|(a, b)| {
                range(a.as_u64(), b.as_u64() - a.as_u64())
            }).collect();
        }
        let frozen = sim.memory.freeze();
        let machine = Machine { page_size: page, ram: Ram::Known(&ram), v1_bitmaps: None };
        let mut workspace = vec![0; words];
        let checked = kho_core::incoming::Incoming::check(&frozen, boot, machine, &mut workspace);

        let folios: Vec<PhysRange> = folios.iter().map(|&(at, o)| {
            PhysRange::folio(addr(at), order(o), page).unwrap()
        }).collect();
        let in_ram = |folio: &PhysRange| {
            let end = folio.end().as_u64();
            (folio.start().as_u64()..end).step_by(page.as_usize()).all(|at| {
                ram.iter().any(|ram| ram.contains(addr(at)))
            })
        };
        let fine = folios.iter().enumerate().all(|(i, folio)| {
            let apart = |other: &PhysRange| !other.overlaps(*folio);
            in_ram(folio) && scratch.iter().all(apart) && own.iter().all(apart)
                && folios[..i].iter().all(apart)
        });
        // Scratch must be RAM as well.
        let fine = fine && scratch.iter().all(in_ram);
        prop_assert_eq!(checked.is_ok(), fine, "{:?}", checked.map(|_| ()));
    }
}

/// A folio that overlaps another of a different order is found, whichever comes first: by who
/// hands over, and by who takes over from somebody who did not look.
#[test]
fn overlapping_folios_are_refused() {
    for page in PageSize::ALL {
        for (large, small) in [(0, 0), (0, 5), (0, 7), (8, 8), (8, 15)] {
            let mut sim = Sim::new(page);
            let boot = {
                let alloc = sim.alloc();
                let tracker = sim.tracker(&alloc);
                let at = |index: u64| addr((FREE + index) << page.shift());
                tracker.preserve_folio(at(large), order(3)).unwrap();
                let mut outgoing = Outgoing::new(tracker).unwrap();
                let boot = outgoing
                    .finalize(sim.scratch_array(), &mut [])
                    .unwrap()
                    .hand_over();
                outgoing
                    .tracker()
                    .preserve_folio(at(small), order(0))
                    .unwrap();
                let refused = outgoing.finalize(sim.scratch_array(), &mut []).map(drop);
                assert!(matches!(refused, Err(OutgoingError::Overlap { .. })));
                boot
            };
            let frozen = sim.memory.freeze();
            let error = check(&frozen, boot, page).unwrap_err();
            assert_eq!(error.part, Part::Map);
            assert!(matches!(error.fault, Fault::Overlap { .. }), "{error}");
        }
    }
}

/// What is preserved must be RAM, if it is known what is.
#[test]
fn preserved_memory_is_ram() {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let boot = {
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        tracker.preserve_folio(addr(FREE << 12), order(4)).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        outgoing
            .finalize(sim.scratch_array(), &mut [])
            .unwrap()
            .hand_over()
    };
    let frozen = sim.memory.freeze();
    let check = |end: u64| {
        let ram = [range(0, FREE << 12), range(FREE << 12, end - (FREE << 12))];
        let machine = Machine {
            page_size: page,
            ram: Ram::Known(&ram),
            v1_bitmaps: None,
        };
        kho_core::incoming::Incoming::check(&frozen, boot, machine, &mut [0; 1]).map(|_| ())
    };
    assert_eq!(check((FREE + 16) << 12), Ok(()));
    let error = check((FREE + 15) << 12).unwrap_err();
    assert!(matches!(error.fault, Fault::NotRam { .. }), "{error}");
}

#[test]
fn nodes_split_a_range_and_all_of_it_comes_back() {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let whole = common::pages(page, FREE, 64);
    let boot = {
        let alloc = sim.alloc();
        let nodes = |pfn: kho_hal::Pfn| u32::from(pfn.as_u64() >= FREE + 13);
        let tracker =
            kho_core::Tracker::with_nodes(&sim.memory, &alloc, page, &sim.scratch, nodes).unwrap();
        tracker.preserve_pages(whole).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        outgoing
            .finalize(sim.scratch_array(), &mut [])
            .unwrap()
            .hand_over()
    };
    let frozen = sim.memory.freeze();
    let incoming = check(&frozen, boot, page).unwrap();
    // The reader knows no nodes; it goes by the folios as they were stored.
    let folios: Vec<_> = incoming.restore_pages(whole).unwrap().collect();
    let orders: Vec<_> = folios.iter().map(|folio| folio.order.as_u32()).collect();
    assert_eq!(orders, [3, 2, 0, 0, 1, 4, 5]);
    let heads: BTreeSet<_> = folios.iter().map(|folio| folio.addr).collect();
    assert!(
        heads.contains(&addr((FREE + 13) << 12)),
        "a folio starts at the border"
    );
}

/// A part or a window that begins in the middle of a folio, with folios before and behind it.
#[test]
fn parts_and_windows_that_cut_folios() {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let boot = {
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        for i in 0..12 {
            let at = addr((FREE + i * 8) << 12);
            tracker.preserve_folio(at, order(3 - i as u32 % 2)).unwrap();
        }
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let finalized = outgoing.finalize(sim.scratch_array(), &mut []);
        finalized.unwrap().hand_over()
    };
    let frozen = sim.memory.freeze();
    let incoming = check(&frozen, boot, page).unwrap();
    let all: Vec<_> = incoming.folios().collect();
    assert_eq!(all.len(), 13);
    for parts in 1..40 {
        let count = std::num::NonZeroUsize::new(parts).unwrap();
        let split: Vec<Vec<_>> = incoming.split(count).map(Iterator::collect).collect();
        assert_eq!(split.len(), parts);
        assert_eq!(split.concat(), all, "{parts} parts");
        let most = all.len().div_ceil(parts) + 1;
        assert!(split.iter().all(|part| part.len() <= most), "{split:?}");
    }
    for first in FREE..FREE + 96 {
        let window = common::pages(page, first, 9);
        let found: Vec<_> = incoming.folios_in(window).collect();
        let touching = all
            .iter()
            .filter(|folio| folio.range(page).overlaps(window));
        assert_eq!(found, touching.copied().collect::<Vec<_>>(), "page {first}");
    }
}

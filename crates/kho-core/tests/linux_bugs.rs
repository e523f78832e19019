//! Classes of bugs that Linux has had since 6.16, one test each. `docs/security.md` lists all of
//! them; those that another test shows already are not repeated here.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use common::{FREE, Sim, addr, order, pages};
use kho_abi::fdt::Generation;
use kho_core::incoming::{Component, Fault, Folio, Part};
use kho_core::outgoing::{Outgoing, OutgoingError, StateTree, vmalloc};
use kho_hal::sim::SimAlloc;
use kho_hal::{Order, PageSize, PhysMem};
use victim::{Lent, victim};

const PAGE: PageSize = PageSize::Size4K;

const GENERATIONS: [Generation; 7] = [
    Generation::Sketch,
    Generation::SeriesV5,
    Generation::V1Small,
    Generation::V1Page,
    Generation::V2,
    Generation::V3,
    Generation::V4,
];

/// A page of the list that is full, and the last: no zero ends its array.
#[test]
fn a_full_page_of_a_list_without_a_terminator() {
    let sim = Sim::new(PAGE);
    let groups: Vec<_> = (0..511).map(|i| addr((FREE + i * 2) << 12)).collect();
    let (boot, area) = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let area = vmalloc::preserve(outgoing.tracker(), &groups, Order::ZERO).unwrap();
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        (ready.unwrap().hand_over(), area)
    };
    // Our writer links an empty page, as Linux does; another may not.
    let list = addr(area.first.get());
    assert_ne!(sim.memory.word(list), Some(0));
    sim.memory.write(list, &[0; 8]).unwrap();
    let lent = Lent::new(&sim);
    let incoming = lent.check(boot, Generation::V4).unwrap();
    let area = incoming.vmalloc(area, &mut [0; 64]).unwrap();
    let found: Vec<_> = area.groups().map(|group| group.start()).collect();
    assert_eq!(found, groups);
    assert_eq!(area.locate(510 << 12).unwrap().start(), groups[510]);
}

/// Pages side by side are not a folio, and a folio is not pages.
#[test]
fn a_run_of_pages_is_no_folio() {
    let sim = Sim::new(PAGE);
    let at = addr(FREE << 12);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for i in 0..4 {
            let page = addr((FREE + i) << 12);
            let tracker = outgoing.tracker();
            tracker.preserve_folio(page, Order::ZERO).unwrap();
        }
        let folio = addr((FREE + 4) << 12);
        outgoing.tracker().preserve_folio(folio, order(2)).unwrap();
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        ready.unwrap().hand_over()
    };
    let lent = Lent::new(&sim);
    let incoming = lent.check(boot, Generation::V4).unwrap();
    let page = Folio {
        addr: at,
        order: Order::ZERO,
    };
    assert_eq!(incoming.restore_folio(at), Some(page));
    let orders = |range| {
        let folios = incoming.restore_pages(range)?;
        Some(folios.map(|folio| folio.order.as_u32()).collect::<Vec<_>>())
    };
    assert_eq!(orders(pages(PAGE, FREE, 4)), Some(vec![0; 4]));
    assert_eq!(orders(pages(PAGE, FREE + 4, 4)), Some(vec![2]));
    assert_eq!(orders(pages(PAGE, FREE, 5)), None, "a part of a folio");
    let inside = addr((FREE + 5) << 12);
    assert_eq!(incoming.restore_folio(inside), None);
}

/// Sizes and numbers of pages beyond 32 bits, and beyond 31.
#[test]
fn shifts_and_counts_of_more_than_32_bits() {
    let sim = Sim::new(PAGE);
    let huge = addr(1 << 50);
    let many = pages(PAGE, (1 << 33) + 1, (1 << 32) + 1);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let tracker = outgoing.tracker();
        tracker.preserve_folio(huge, order(38)).unwrap();
        tracker.preserve_pages(many).unwrap();
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        ready.unwrap().hand_over()
    };
    let frozen = Lent::new(&sim);
    let machine = kho_core::incoming::Machine::unknown(PAGE);
    let incoming =
        kho_core::incoming::Incoming::check(&frozen, boot, machine, &mut [0; 64]).unwrap();
    let folio = incoming.restore_folio(huge).unwrap();
    assert_eq!(folio.range(PAGE).size(), 1 << 50);
    let folios = incoming.restore_pages(many).unwrap();
    assert_eq!(
        folios.map(|folio| folio.range(PAGE).size()).sum::<u64>(),
        ((1 << 32) + 1) << 12
    );
}

/// An allocator that gives out scratch, where the successor would overwrite what it is to read.
#[test]
fn the_map_inside_scratch() {
    let mut sim = Sim::new(PAGE);
    sim.scratch = [pages(PAGE, 512, 256)];
    for first in 512..516 {
        // What does not fit the heap any more comes from scratch.
        let heap = [pages(PAGE, 16, first - 512), pages(PAGE, 600, 100)];
        let heap = heap.into_iter().filter(|range| !range.is_empty());
        let alloc = SimAlloc::new(&sim.memory, PAGE, heap);
        let made = Outgoing::new(sim.tracker(&alloc));
        let ready = made.and_then(|mut outgoing| {
            let ready = outgoing.finalize(sim.scratch_array(), &mut []).map(drop);
            assert!(outgoing.destroy().is_ok());
            ready
        });
        assert!(
            matches!(ready, Err(OutgoingError::InScratch { .. })),
            "{first}: {ready:?}"
        );
        assert_eq!(alloc.live(), []);
    }
    // The same for the map of another generation, which is made last.
    let heap = [pages(PAGE, 16, 7), pages(PAGE, 600, 100)];
    let alloc = SimAlloc::new(&sim.memory, PAGE, heap);
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let state = StateTree::new();
    let array = sim.scratch_array();
    for generation in GENERATIONS {
        let live = alloc.live().len();
        let ready = outgoing.finalize_as(generation, array, &mut [], &state);
        assert!(
            matches!(ready.map(drop), Err(OutgoingError::InScratch { .. })),
            "{generation:?}"
        );
        assert_eq!(alloc.live().len(), live);
    }
}

/// Linux hands on an area of size 0 where its low area covers all; it lies anywhere and names nothing.
#[test]
fn scratch_of_size_zero() {
    for at in [0, FREE << 12, victim::LONE.0 << 12, u64::MAX] {
        let mut v = victim();
        let array = v.at.boot.scratch_addr.as_u64();
        v.put(array + 16, at);
        v.put(array + 24, 0);
        v.at.boot.scratch_size = 32;
        v.take_over().unwrap();
    }
}

/// Nothing is preserved but the description itself.
#[test]
fn enabled_but_empty() {
    for generation in GENERATIONS {
        let sim = Sim::new(PAGE);
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let array = sim.scratch_array();
            let state = StateTree::new();
            let ready = outgoing.finalize_as(generation, array, &mut [], &state);
            ready.unwrap().hand_over()
        };
        let lent = Lent::new(&sim);
        let incoming = lent.check(boot, generation).unwrap();
        let own = usize::from(!generation.is_nested());
        assert_eq!(incoming.folios().count(), own, "{generation:?}");
        assert_eq!(incoming.subtrees().count(), 0);
        assert!(matches!(incoming.luo(), Component::Absent));
    }
}

/// Numbers of 8 bytes lie at multiples of 4, and the description itself wherever its page allows.
#[test]
fn numbers_that_are_not_aligned() {
    for shift in [0, 4, 8, 12] {
        let mut v = victim();
        let fdt = v.boot_fdt();
        let mut bytes = vec![0; 2048];
        v.sim.memory.read(addr(fdt), &mut bytes).unwrap();
        v.sim.memory.write(addr(fdt + shift), &bytes).unwrap();
        v.at.boot.fdt_addr = addr(fdt + shift);
        v.at.boot.fdt_size -= shift;
        v.take_over().unwrap();
        assert_eq!(v.in_root(v.at.map) % 8, shift % 8);
    }
}

/// Junk where a tree or a structure must be.
#[test]
fn sub_blobs_that_are_not_what_they_should_be() {
    let v = victim();
    v.put_bytes(v.at.memblock, &[0; 4]);
    let error = v.take_over().unwrap_err();
    assert_eq!(error.part, Part::ReserveMem);
    assert!(matches!(error.fault, Fault::Fdt { .. }), "{error}");

    // Nothing depends on the metadata, so a wrong one is one that is not understood.
    let v = victim();
    let size = v.in_root(v.at.metadata) - 20;
    let short = size_of::<kho_abi::metadata::KexecMetadata>() as u64 - 1;
    for (at, word) in [(size, short), (v.at.metadata, 9)] {
        let was = v.word(at);
        v.put(at, word);
        let lent = v.lent();
        let incoming = lent.check(v.at.boot, v.generation).unwrap();
        assert!(matches!(incoming.metadata(), Component::NotUnderstood));
        v.put(at, was);
    }
    v.take_over().unwrap();
}

/// Each sub-blob in turn, and what LUO leads to: its page is not preserved.
#[test]
fn a_sub_blob_that_is_not_preserved() {
    let at = victim().at;
    let pages = [
        at.note,
        at.metadata,
        at.memblock,
        at.luo,
        at.sessions,
        at.flbs,
        at.files,
        at.memfd,
        at.list,
        at.folios,
        at.boot.fdt_addr.as_u64(),
        at.area.first.get(),
        at.blocks,
        victim::FILE[0].0 << 12,
        victim::REGION.0 << 12,
    ];
    for page in pages {
        let v = victim();
        let lent = v.lent();
        let folio = lent.check(v.at.boot, v.generation).unwrap();
        let folio = folio.folio_containing(addr(page)).unwrap();
        v.forget(folio);
        let error = v.take_over().unwrap_err();
        assert!(
            matches!(error.fault, Fault::NotPreserved { .. }),
            "{page:#x}: {error}"
        );
    }
}

/// Whatever an addition fails for, not a byte of the description is another.
#[test]
fn a_failed_addition_leaves_no_node() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let blob = pages(PAGE, FREE, 1);
    for i in 0.. {
        if outgoing.add_subtree(&format!("blob{i:03}"), blob).is_err() {
            break;
        }
    }
    let bytes = |outgoing: &mut Outgoing<'_, _, _>| {
        let ready = outgoing.finalize(sim.scratch_array(), &mut []).unwrap();
        let fdt = ready.hand_over().fdt_addr;
        let mut bytes = vec![0; 4096];
        sim.memory.read(fdt, &mut bytes).unwrap();
        bytes
    };
    let before = bytes(&mut outgoing);
    assert!(outgoing.add_subtree("one-more", blob).is_err());
    assert!(outgoing.add_subtree("blob001", blob).is_err());
    assert!(outgoing.add_subtree("a/b", blob).is_err());
    assert!(outgoing.add_blob("one-more", b"x").is_err());
    assert!(outgoing.remove_subtree("one-more").is_err());
    assert_eq!(bytes(&mut outgoing), before);
}

/// What failed once for lack of workspace or memory can be asked for again, and what succeeded too.
#[test]
fn retrieving_again() {
    let v = victim();
    let lent = v.lent();
    let memory = kho_hal::sim::Faulty::new(&lent);
    let machine = kho_core::incoming::Machine::unknown(PAGE);
    let mut workspace = [0; 64];
    let incoming =
        kho_core::incoming::Incoming::check(&memory, v.at.boot, machine, &mut workspace).unwrap();
    let mut groups = |fail: Option<u64>| {
        memory.fail_at(fail);
        let area = incoming.vmalloc(v.at.area, &mut workspace);
        memory.fail_at(None);
        area.map(|area| area.groups().count())
    };
    let calls = {
        let before = memory.calls();
        assert_eq!(groups(None), Ok(600));
        memory.calls() - before
    };
    for n in (0..calls).step_by(97) {
        let failed = groups(Some(n));
        assert!(failed.is_err() || failed == Ok(600), "{n}: {failed:?}");
        assert_eq!(groups(None), Ok(600), "{n}");
    }
    let session = incoming.luo().known().unwrap();
    let session = session.session_named("vm0").unwrap();
    for _ in 0..2 {
        let file = session.file(1).unwrap().memfd().unwrap();
        assert_eq!(file.segments().count(), 3);
    }
}

/// With 16 KiB pages, a tree of four levels loses the bit that tells order 0.
#[test]
fn tree_depth_at_16k() {
    let mut sim = Sim::new(PageSize::Size16K);
    let folios = [(0x1_4000_0000, 0), (0x2_8000_0000, 1), (1 << 50, 0)];
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for (at, o) in folios {
            let tracker = outgoing.tracker();
            tracker.preserve_folio(addr(at), order(o)).unwrap();
        }
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        ready.unwrap().hand_over()
    };
    let page = sim.page;
    let frozen = sim.memory.freeze();
    let incoming = common::check(&frozen, boot, page).unwrap();
    let found = incoming
        .folios()
        .filter(|folio| folio.addr != boot.fdt_addr);
    let found: Vec<_> = found.map(|f| (f.addr.as_u64(), f.order.as_u32())).collect();
    assert_eq!(found, folios);
}

/// What a range was split into is what is deleted; a part of it is none of that.
#[test]
fn a_range_split_when_added_and_when_deleted() {
    for (first, count) in (0..16).flat_map(|first| (1..40).map(move |count| (first, count))) {
        let sim = Sim::new(PAGE);
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        let range = pages(PAGE, FREE + first, count);
        tracker.preserve_pages(range).unwrap();
        // Unless the first page is a folio of its own, it is a part of one.
        let alone = tracker.is_preserved(range.start(), Order::ZERO);
        let rest = pages(PAGE, FREE + first + 1, count - 1);
        let part = tracker.unpreserve_pages(rest);
        assert_eq!(part.is_ok(), alone && count > 1, "{first} {count}");
        if part.is_ok() {
            tracker.preserve_pages(rest).unwrap();
        }
        tracker.unpreserve_pages(range).unwrap();
        for page in FREE..FREE + 64 {
            for o in (0..7).filter(|o| page % (1 << o) == 0) {
                assert!(!tracker.is_preserved(addr(page << 12), order(o)));
            }
        }
    }
}

/// Groups of pages that are not naturally aligned, as `vmalloc` may have them.
#[test]
fn vmalloc_of_higher_orders() {
    let sim = Sim::new(PAGE);
    let groups: Vec<_> = (0..5).map(|i| addr((FREE + 1 + i * 16) << 12)).collect();
    let (boot, area) = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let tracker = outgoing.tracker();
        let area = vmalloc::preserve(tracker, &groups, order(3)).unwrap();
        vmalloc::unpreserve(tracker, &area).unwrap();
        for group in &groups {
            let group = pages(PAGE, group.as_u64() >> 12, 8);
            assert!(tracker.check_pages_preserved(group).is_err(), "{group}");
        }
        let area = vmalloc::preserve(tracker, &groups, order(3)).unwrap();
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        (ready.unwrap().hand_over(), area)
    };
    let lent = Lent::new(&sim);
    let incoming = lent.check(boot, Generation::V4).unwrap();
    let area = incoming.vmalloc(area, &mut [0; 64]).unwrap();
    let whole = |at: &kho_hal::PhysAddr| pages(PAGE, at.as_u64() >> 12, 8);
    assert!(area.groups().eq(groups.iter().map(whole)));
    for group in area.groups() {
        let folios = incoming.restore_pages(group).unwrap();
        assert_eq!(folios.map(|f| f.range(PAGE).size()).sum::<u64>(), 8 << 12);
    }
}

#[test]
fn deleting_what_was_never_preserved_and_preserving_twice() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let tracker = sim.tracker(&alloc);
    let at = addr(FREE << 12);
    let never = Err(OutgoingError::NotPreserved {
        addr: at,
        order: order(2),
    });
    assert_eq!(tracker.unpreserve_folio(at, order(2)), never);
    tracker.preserve_folio(at, order(2)).unwrap();
    let twice = Err(OutgoingError::AlreadyPreserved {
        addr: at,
        order: order(2),
    });
    assert_eq!(tracker.preserve_folio(at, order(2)), twice);
    assert!(tracker.is_preserved(at, order(2)), "the first one stands");
    tracker.unpreserve_folio(at, order(2)).unwrap();
    assert_eq!(tracker.unpreserve_folio(at, order(2)), never);
    let range = pages(PAGE, FREE + 1, 5);
    assert!(tracker.unpreserve_pages(range).is_err());
    tracker.preserve_pages(range).unwrap();
    assert!(tracker.preserve_pages(range).is_err());
    tracker.unpreserve_pages(range).unwrap();
}

/// A scratch size with anything behind it is none: Linux took what came before.
#[test]
fn junk_behind_kho_scratch() {
    use kho_core::outgoing::ScratchSizes;
    for good in ["200%", "16M,16M,16M"] {
        good.parse::<ScratchSizes>().unwrap();
        for junk in ["x", " ", ",", "%", ",1", "k1", "\0", "M"] {
            let text = format!("{good}{junk}");
            assert!(text.parse::<ScratchSizes>().is_err(), "{text:?}");
        }
    }
}

/// An entry has the number of a page, and 0 where the file has none.
#[test]
fn a_page_number_taken_for_an_address_and_holes() {
    let v = victim();
    let number = v.word(v.at.folios) & ((1 << 52) - 1);
    assert_eq!(number, victim::FILE[0].0);
    // The second of three folios becomes a hole.
    v.put(v.at.folios + 16, 0);
    v.take_over().unwrap();
    let lent = v.lent();
    let incoming = lent.check(v.at.boot, v.generation).unwrap();
    let luo = incoming.luo().known().unwrap();
    let file = luo.session_named("vm0").unwrap().file(1).unwrap();
    let file = file.memfd().unwrap();
    let segments: Vec<_> = file
        .segments()
        .map(|segment| (segment.offset >> 12, segment.range.start().as_u64() >> 12))
        .collect();
    assert_eq!(segments, [(0, victim::FILE[0].0), (5, victim::FILE[2].0)]);
    assert!((1..5).all(|page| file.locate(page << 12).is_none()));
}

/// Where one page is missing there is no range.
#[test]
fn a_partial_restore() {
    let sim = Sim::new(PAGE);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for range in [pages(PAGE, FREE, 4), pages(PAGE, FREE + 5, 3)] {
            outgoing.tracker().preserve_pages(range).unwrap();
        }
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        ready.unwrap().hand_over()
    };
    let lent = Lent::new(&sim);
    let incoming = lent.check(boot, Generation::V4).unwrap();
    for (first, count, whole) in [(0, 4, true), (5, 3, true), (0, 8, false), (0, 5, false)] {
        let restored = incoming.restore_pages(pages(PAGE, FREE + first, count));
        assert_eq!(restored.is_some(), whole, "{first} {count}");
    }
}

/// What the successor will find cannot be changed any more. The other way round there is nothing to
/// call: what came in has no method that changes it.
#[test]
fn calls_in_the_wrong_direction() {
    let sim = Sim::new(PAGE);
    let alloc = sim.alloc();
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let mut luo = kho_core::outgoing::luo::Luo::new(&outgoing, 0).unwrap();
    luo.create_session(outgoing.tracker(), "vm0").unwrap();
    outgoing
        .finalize(sim.scratch_array(), &mut [&mut luo])
        .unwrap()
        .hand_over();
    let tracker = outgoing.tracker();
    let busy = Err(OutgoingError::Busy);
    assert_eq!(luo.create_session(tracker, "vm1"), busy);
    assert_eq!(luo.destroy_session(tracker, "vm0"), busy);
}

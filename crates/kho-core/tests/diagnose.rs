//! Several things are wrong at once: each is named, and nothing that only follows from them.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use common::{FREE, HEAP, SCRATCH, addr};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_core::incoming::{Fault, Incoming, IncomingError, Machine, Part, Ram};
use kho_hal::{PageSize, PhysAddr};
use victim::{Victim, listed, victim};

fn problems(victim: &Victim) -> Vec<(Part, Fault)> {
    let machine = Machine::unknown(victim.sim.page);
    let found = victim.lent().diagnose(victim.at.boot, machine).unwrap();
    let parts = |IncomingError { part, fault }| (part, fault);
    found.into_iter().map(parts).collect()
}

/// What is read before anything else is refused is refused first by the check.
fn first(victim: &Victim) -> (Part, Fault) {
    let IncomingError { part, fault } = victim.take_over().unwrap_err();
    (part, fault)
}

/// Damages what can be looked at by itself, one after the other: each adds its problem.
#[test]
fn each_problem_is_named() {
    let v = victim();
    assert_eq!(problems(&v), []);
    let at = v.at;
    let scratch = v.word(at.boot.scratch_addr.as_u64());

    v.put(at.memfd + 16, 0xff << 32);
    let flags = (
        Part::Memfd,
        Fault::Flags {
            at: addr(at.memfd),
            found: 0xff << 32,
        },
    );
    assert_eq!(problems(&v), std::slice::from_ref(&flags));

    // The second session: its count. Its files are whole.
    let session = at.sessions + 16 + 80;
    v.put(session + 72, 7);
    let count = (
        Part::Luo,
        Fault::Mismatch {
            at: addr(session),
            found: 7,
            expected: 1,
        },
    );
    assert_eq!(problems(&v), [flags.clone(), count.clone()]);

    // The objects of files hang on nothing but LUO's sub-blob.
    v.put(at.flbs, 2);
    let objects = (
        Part::Luo,
        Fault::Mismatch {
            at: addr(at.flbs),
            found: 2,
            expected: 1,
        },
    );
    assert_eq!(
        problems(&v),
        [flags.clone(), count.clone(), objects.clone()]
    );

    // A sub-blob that would be lost.
    v.put(v.in_root(at.note), 1 << 30);
    let lost = (
        Part::Subtree,
        Fault::NotPreserved {
            range: common::range(1 << 30, 1),
        },
    );
    let mut all = problems(&v);
    all.sort_by_key(|problem| format!("{problem:?}"));
    let mut expected = vec![flags, count, objects, lost];
    expected.sort_by_key(|problem| format!("{problem:?}"));
    assert_eq!(all, expected);

    // A scratch area twice; the list grows into the next bytes of its page.
    let mut v = v;
    v.put(at.boot.scratch_addr.as_u64() + 16, scratch);
    v.put(at.boot.scratch_addr.as_u64() + 24, SCRATCH.1 << 12);
    v.at.boot.scratch_size = 32;
    let twice = (
        Part::Scratch,
        Fault::Overlap {
            addr: PhysAddr::new(scratch),
        },
    );
    assert_eq!(problems(&v).len(), 5);
    assert!(problems(&v).contains(&twice));
    assert_eq!(first(&v), twice);
}

/// Each folio that scratch would overwrite, and all else as if it were not.
#[test]
fn every_folio_in_scratch_is_named() {
    let v = victim();
    let leaf = v.leaf();
    let pages = [SCRATCH.0 + 3, SCRATCH.0 + 20];
    for page in pages {
        let word = leaf + page / 64 * 8;
        v.put(word, v.word(word) | 1 << (page % 64));
    }
    v.put(v.at.flbs, 2);
    let found = problems(&v);
    for (page, (part, fault)) in pages.into_iter().zip(&found) {
        let Fault::InScratch { range, .. } = fault else {
            panic!("{part}: {fault}");
        };
        assert_eq!((*part, range.start()), (Part::Map, addr(page << 12)));
    }
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[2].0, Part::Luo);
}

/// Where tables of the map lead nowhere, nobody can say what is preserved: nothing else is named.
#[test]
fn what_only_follows_is_not_named() {
    let v = victim();
    v.put(v.at.flbs, 2);
    let (_, entry) = v.path()[2];
    v.put(entry, 1 << 40);
    let found = problems(&v);
    assert!(matches!(found[..], [(Part::Map, _)]), "{found:?}");
    v.put(v.boot_fdt(), 0);
    let found = problems(&v);
    assert!(matches!(found[..], [(Part::RootFdt, _)]), "{found:?}");
}

/// Memory that is preserved may turn out to be registers.
#[test]
fn what_is_preserved_outside_of_ram_is_not_read() {
    let v = victim();
    let at = v.at;
    for hole in [
        at.metadata,
        at.memblock,
        at.luo,
        at.sessions,
        at.flbs,
        at.files,
        at.memfd,
        at.list,
        at.folios,
    ] {
        let lent = v.lent().without(hole >> 12);
        let ram = lent.ram.clone();
        let machine = Machine {
            ram: Ram::Known(&ram),
            ..Machine::unknown(PageSize::Size4K)
        };
        let problems = lent.diagnose(at.boot, machine).unwrap();
        let is_named = |problem: &IncomingError| matches!(problem.fault, Fault::NotRam { .. });
        assert!(problems.iter().any(is_named), "{hole:#x}: {problems:?}");
    }
}

/// An empty list of so many chunks and bitmaps that few words are too few to sort them in.
#[test]
fn a_workspace_that_is_too_small_is_no_problem_of_the_handover() {
    const CHUNKS: u64 = 20;
    const BITMAPS: u64 = 255 * CHUNKS;
    let v = listed(Generation::V1Small);
    // In what nobody uses, below scratch and above it.
    let chunk = |n: u64| (HEAP.0 + 100 + n) << 12;
    let above = (FREE - SCRATCH.0 - SCRATCH.1) * 8;
    let bitmap = |i: u64| match i.checked_sub(above) {
        Some(i) => chunk(CHUNKS) + i * 512,
        None => ((SCRATCH.0 + SCRATCH.1) << 12) + i * 512,
    };
    for i in 0..BITMAPS {
        let (n, entry) = (i / 255, i % 255);
        v.put(chunk(n) + 16 + entry * 16, i << 24);
        v.put(chunk(n) + 24 + entry * 16, bitmap(i));
        let next = if n + 1 < CHUNKS { chunk(n + 1) } else { 0 };
        v.put(chunk(n), next);
        v.put(chunk(n) + 8, 255 << 32);
    }
    v.put(v.in_root(v.at.map), chunk(0));
    let lent = v.lent();
    let machine = Machine {
        v1_bitmaps: Some(V1Bitmaps::Small),
        ..Machine::unknown(v.sim.page)
    };
    let boot = v.at.boot;
    let mut told = Vec::new();
    let mut diagnose = |workspace: &mut [u64]| {
        Incoming::diagnose(&lent, boot, machine, workspace, |error| told.push(error))
    };
    let words = BITMAPS + CHUNKS;
    let fault = Fault::Workspace { words };
    let part = Part::Map;
    assert_eq!(diagnose(&mut [0; 24]), Err(IncomingError { part, fault }));
    assert_eq!(diagnose(&mut [0; 64]), Ok(()));
    assert_eq!(told, []);
}

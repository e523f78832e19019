//! What each consumer does with each generation.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use common::{FREE, Sim, pages};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_abi::memblock;
use kho_core::incoming::{Incoming, Machine, Region};
use kho_core::outgoing::luo::{LiveFile, Luo};
use kho_core::outgoing::{Outgoing, OutgoingError, StateTree, Value, metadata, reserve_mem};
use kho_core::preflight::{
    Consumer, Outcome, Part, Verdict, Version, preflight, preflight_description,
};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{FrozenMem, PageSize, PhysMem};

type SimOutgoing<'m> = Outgoing<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;

/// The outcome for each consumer, oldest first, of the parts of a handover.
fn outcomes(
    generation: Generation,
    prepare: impl Fn(&mut Sim),
    fill: impl Fn(&SimOutgoing<'_>),
) -> Vec<[Outcome; 5]> {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        fill(&outgoing);
        let array = sim.scratch_array();
        outgoing
            .finalize_as(generation, array, &mut [], &StateTree::new())
            .unwrap()
            .hand_over()
    };
    prepare(&mut sim);
    let frozen = sim.memory.freeze();
    let machine = Machine {
        v1_bitmaps: match generation {
            Generation::V1Small => Some(V1Bitmaps::Small),
            Generation::V1Page => Some(V1Bitmaps::Page),
            _ => None,
        },
        ..Machine::unknown(page)
    };
    let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 64]).unwrap();
    let verdicts = Consumer::ALL.map(|consumer| preflight(&incoming, consumer));
    for (consumer, verdicts) in Consumer::ALL.into_iter().zip(&verdicts) {
        assert_description(&incoming, &frozen, consumer, verdicts);
    }
    for verdicts in verdicts {
        let parts = verdicts.map(|verdict| verdict.part);
        assert_eq!(
            parts,
            [
                Part::Root,
                Part::Luo,
                Part::Memfd,
                Part::Metadata,
                Part::Memblock
            ]
        );
        assert_eq!(verdicts[0].found, Version::Generation(generation));
    }
    verdicts
        .map(|verdicts| verdicts.map(|verdict| verdict.outcome))
        .to_vec()
}

/// What Linux shows in debugfs gives the same verdicts, as far as it goes.
fn assert_description<M: FrozenMem>(
    incoming: &Incoming<'_, M>,
    memory: &M,
    consumer: Consumer,
    verdicts: &[Verdict<'_>; 5],
) {
    let bytes = |at, size| memory.bytes(at, size).unwrap();
    let blob = |name: &str| {
        let range = incoming.subtree(name)?.range;
        Some(bytes(range.start(), range.size() as usize))
    };
    let root = incoming.generation().compatible();
    let [description, others @ ..] = preflight_description(root, blob, consumer);
    let [whole, luo, _, metadata, memblock] = *verdicts;
    match incoming.generation() {
        generation if generation.has_radix_tree() => {
            assert_eq!((description, others), (whole, [luo, metadata, memblock]));
        }
        Generation::SeriesV5 | Generation::V1Small | Generation::V1Page => {
            // Who reads one form of that string may have another one before it.
            let expected = match consumer {
                Consumer::Linux7_1 | Consumer::Linux7_2 => Outcome::GoesWithout,
                _ => Outcome::Unknown,
            };
            assert_eq!(description.outcome, expected);
        }
        _ => assert_eq!(description, whole),
    }
}

#[test]
fn the_root_decides_first() {
    use Generation::*;
    use Outcome::{Accepts as Yes, GoesWithout as No, Misreads as Bad};
    let rows = [
        (Sketch, [No, No, No, No, No, Yes]),
        (SeriesV5, [Bad, Bad, No, No, No, Yes]),
        (V1Small, [Yes, Bad, Bad, No, No, Yes]),
        (V1Page, [Bad, Yes, Yes, No, No, Yes]),
        (V2, [No, No, No, No, No, Yes]),
        (V3, [No, No, No, Yes, No, Yes]),
        (V4, [No, No, No, No, Yes, Yes]),
    ];
    for (generation, expected) in rows {
        let found = outcomes(generation, |_| {}, |_| {});
        let found: Vec<_> = found.iter().map(|outcomes| outcomes[0]).collect();
        assert_eq!(found, expected, "{generation:?}");
    }
}

#[test]
fn large_folios_overflow_in_old_releases() {
    for (order, old) in [(18, Outcome::Accepts), (19, Outcome::Misreads)] {
        let huge = |outgoing: &SimOutgoing<'_>| {
            let (at, order) = (common::addr(1 << 40), common::order(order));
            outgoing.tracker().preserve_folio(at, order).unwrap();
        };
        let found = outcomes(Generation::V1Page, |_| {}, huge);
        assert_eq!(found[1][0], old);
        assert_eq!(found[5][0], Outcome::Accepts);
    }
}

/// Regions inside the root are known to us alone.
#[test]
fn regions_inside_the_root() {
    for generation in [Generation::Sketch, Generation::SeriesV5] {
        let page = PageSize::Size4K;
        let mut sim = Sim::new(page);
        let range = pages(page, FREE, 2);
        let mut state = StateTree::new();
        let mut add = |path: &[&str], compatible| {
            let (name, parent) = path.split_last().unwrap();
            state.add_node(parent, name).unwrap();
            let value = Value::Str(compatible);
            state.add_property(path, "compatible", value).unwrap();
        };
        add(&[memblock::NODE], memblock::COMPATIBLE);
        let region = [memblock::NODE, "r"];
        add(&region, memblock::REGION_COMPATIBLE);
        for (name, number) in [
            (memblock::START, range.start().as_u64()),
            (memblock::SIZE, range.size()),
        ] {
            let value = Value::U64(number);
            state.add_property(&region, name, value).unwrap();
        }
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            tracker.preserve_pages(range).unwrap();
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let array = sim.scratch_array();
            let frozen = outgoing.finalize_as(generation, array, &mut [], &state);
            frozen.unwrap().hand_over()
        };
        let frozen = sim.memory.freeze();
        let incoming =
            Incoming::check(&frozen, boot, Machine::unknown(page), &mut [0; 64]).unwrap();
        let regions: Vec<_> = incoming.reserve_mem().iter().collect();
        assert_eq!(regions, [Region { name: "r", range }]);
        for consumer in Consumer::ALL {
            let [.., verdict] = preflight(&incoming, consumer);
            assert_eq!(verdict.found, Version::Text(memblock::COMPATIBLE));
            let expected = match consumer {
                Consumer::Ours => Outcome::Accepts,
                _ => Outcome::GoesWithout,
            };
            assert_eq!(verdict.outcome, expected, "{consumer}");
        }
    }
}

/// A file of which nothing is known but which handler has it.
struct Named(&'static str);

impl<T> LiveFile<T> for Named {
    fn compatible(&self) -> &str {
        self.0
    }
    fn identity(&self) -> u64 {
        self.0.as_ptr().addr() as u64
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(0)
    }
    fn unpreserve(&mut self, _: &T) {}
}

/// Of memory files, the first that a consumer does not read decides.
#[test]
fn memory_files_of_other_versions() {
    let verdicts = |generation, files: &[&'static str]| {
        let page = PageSize::Size4K;
        let mut sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let mut luo = Luo::new(&outgoing, 0).unwrap();
            let tracker = outgoing.tracker();
            luo.create_session(tracker, "vm").unwrap();
            for (token, name) in (0..).zip(files) {
                let file = Box::new(Named(name));
                luo.preserve_file(tracker, "vm", token, file).unwrap();
            }
            let (array, state) = (sim.scratch_array(), StateTree::new());
            outgoing
                .finalize_as(generation, array, &mut [&mut luo], &state)
                .unwrap()
                .hand_over()
        };
        let frozen = sim.memory.freeze();
        let incoming = Incoming::check(&frozen, boot, Machine::unknown(page), &mut [0; 64]);
        let incoming = incoming.unwrap();
        Consumer::ALL.map(|consumer| {
            let [_, _, verdict, ..] = preflight(&incoming, consumer);
            assert_eq!(verdict.part, Part::Memfd);
            let Version::Text(found) = verdict.found else {
                panic!("{:?}", verdict.found);
            };
            (found.to_owned(), verdict.outcome)
        })
    };
    use Outcome::{Accepts, GoesWithout, RefusesSessions, Unknown};
    let one = |outcome| ("memfd-v1".to_owned(), outcome);
    let three = |outcome| ("memfd-v3".to_owned(), outcome);
    let files = ["other-v1", "memfd-v1", "memfd-v3"];
    let expected = [
        one(GoesWithout),
        one(GoesWithout),
        three(GoesWithout),
        three(Unknown),
        one(GoesWithout),
        one(GoesWithout),
    ];
    assert_eq!(verdicts(Generation::V3, &files), expected);
    let expected = [
        one(GoesWithout),
        one(GoesWithout),
        three(GoesWithout),
        three(GoesWithout),
        one(RefusesSessions),
        one(GoesWithout),
    ];
    assert_eq!(verdicts(Generation::V4, &files), expected);
    let found = verdicts(Generation::V3, &files[..2]);
    assert_eq!(found[3], one(Accepts));
}

#[test]
fn every_part_has_its_own_answer() {
    use Outcome::{Accepts as Yes, GoesWithout as No};
    let fill = |outgoing: &SimOutgoing<'_>| {
        metadata::publish(outgoing, "ours", None).unwrap();
        let region = Region {
            name: "r",
            range: pages(PageSize::Size4K, FREE, 2),
        };
        reserve_mem::publish(outgoing, &[region]).unwrap();
        let luo = Luo::new(outgoing, 0).unwrap();
        drop(luo);
    };
    let newest = 4;
    let found = outcomes(Generation::V4, |_| {}, fill);
    assert_eq!(found[newest], [Yes, Yes, Yes, Yes, Yes]);
    assert_eq!(
        found[3],
        [No, No, No, No, No],
        "7.1 does not look below a root of v4"
    );

    // The same with versions that nobody knows: found in memory by their text, and changed there.
    let with = |text: &'static [u8], new: &'static [u8]| {
        let change = move |sim: &mut Sim| {
            let heap = pages(sim.page, common::HEAP.0, common::HEAP.1);
            let mut bytes = vec![0; heap.size() as usize];
            sim.memory.read(heap.start(), &mut bytes).unwrap();
            let at = bytes
                .windows(text.len())
                .position(|window| window == text)
                .unwrap();
            let place = common::addr(heap.start().as_u64() + at as u64);
            sim.memory.write(place, new).unwrap();
        };
        outcomes(Generation::V4, change, fill)
    };
    let luo = with(b"luo-v5", b"luo-v6");
    assert_eq!(luo[newest], [Yes, Outcome::Panics, Yes, Yes, Yes]);
    assert_eq!(luo[5], [Yes, No, Yes, Yes, Yes]);
    let memblock = with(b"memblock-v1", b"memblock-v7");
    assert_eq!(memblock[newest], [Yes, Yes, Yes, Yes, No]);
    let metadata = with(b"\x01\0\0\0ours", b"\x02\0\0\0ours");
    assert_eq!(metadata[newest], [Yes, Yes, Yes, No, Yes]);
}

/// What each consumer reads in each place, for a handover that has all parts.
#[test]
fn verdicts_say_what_was_found_and_what_is_expected() {
    let text = |generation, fill: &dyn Fn(&SimOutgoing<'_>)| {
        let page = PageSize::Size4K;
        let mut sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            fill(&outgoing);
            let array = sim.scratch_array();
            let state = StateTree::new();
            let frozen = outgoing.finalize_as(generation, array, &mut [], &state);
            frozen.unwrap().hand_over()
        };
        let frozen = sim.memory.freeze();
        let machine = Machine {
            v1_bitmaps: Some(match generation {
                Generation::V1Small => V1Bitmaps::Small,
                _ => V1Bitmaps::Page,
            }),
            ..Machine::unknown(page)
        };
        let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 64]).unwrap();
        let line = |consumer| {
            let verdicts = preflight(&incoming, consumer);
            let parts = verdicts.map(|v| format!("{} for {}", v.found, v.expected));
            format!("{consumer}: {}", parts.join(", "))
        };
        Consumer::ALL.map(line)
    };
    let everything = |outgoing: &SimOutgoing<'_>| {
        metadata::publish(outgoing, "ours", None).unwrap();
        let region = Region {
            name: "r",
            range: pages(PageSize::Size4K, FREE, 2),
        };
        reserve_mem::publish(outgoing, &[region]).unwrap();
        drop(Luo::new(outgoing, 0).unwrap());
    };
    assert_eq!(
        text(Generation::V4, &everything),
        [
            "Linux 6.16, 6.17: kho-v4 for kho-v1 (small), luo-v5 for none, none for none, 1 for none, \
             memblock-v1 for memblock-v1",
            "Linux 6.18: kho-v4 for kho-v1 (page), luo-v5 for none, none for none, 1 for none, \
             memblock-v1 for memblock-v1",
            "Linux 6.19, 7.0: kho-v4 for kho-v1 (page), luo-v5 for luo-v1, none for memfd-v1, \
             1 for none, memblock-v1 for memblock-v1",
            "Linux 7.1: kho-v4 for kho-v3, luo-v5 for luo-v1, none for memfd-v1, 1 for 1, \
             memblock-v1 for memblock-v1",
            "Linux 7.2, 7.3: kho-v4 for kho-v4, luo-v5 for luo-v5, none for memfd-v2, 1 for 1, \
             memblock-v1 for memblock-v1",
            "this library: kho-v4 for kho-v4, luo-v5 for luo-v5, none for memfd-v2, 1 for 1, \
             memblock-v1 for memblock-v1",
        ]
    );
    let root = |generation| {
        let [.., ours] = text(generation, &|_| {});
        ours.split(" for ").next().unwrap().to_owned()
    };
    assert_eq!(root(Generation::V1Small), "this library: kho-v1 (small)");
    assert_eq!(root(Generation::V1Page), "this library: kho-v1 (page)");
    assert_eq!(
        root(Generation::SeriesV5),
        "this library: kho-v1 (series v5)"
    );
}

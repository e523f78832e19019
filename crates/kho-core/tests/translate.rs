//! Every generation of the format written, read, and translated into every other.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::collections::BTreeMap;

use common::{FREE, SCRATCH, Sim, addr, order, pages};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_core::BootData;
use kho_core::incoming::{Fault, Folio, Incoming, Machine, Part};
use kho_core::outgoing::{Outgoing, OutgoingError, StateTree, Value};
use kho_core::translate::{Loss, TranslateError, translate};
use kho_hal::sim::{FrozenSim, SimAlloc, SimMemory};
use kho_hal::{FrozenMem, MemError, PageSize, PhysAddr, PhysRange};
use proptest::prelude::*;
use vm_fdt::FdtWriter;

/// Two pieces of frozen memory as one: what was there, and what a translation wrote.
struct Both<'a>(&'a FrozenSim<'a>, FrozenSim<'a>);

impl FrozenMem for Both<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        self.0.bytes(addr, len).or_else(|_| self.1.bytes(addr, len))
    }
}

fn machine(page: PageSize, generation: Generation) -> Machine<'static> {
    let v1_bitmaps = match generation {
        Generation::V1Small => Some(V1Bitmaps::Small),
        Generation::V1Page => Some(V1Bitmaps::Page),
        _ => None,
    };
    Machine {
        v1_bitmaps,
        ..Machine::unknown(page)
    }
}

fn open<'a, M: FrozenMem>(
    mem: &'a M,
    boot: BootData,
    page: PageSize,
    generation: Generation,
) -> Incoming<'a, M> {
    let incoming = Incoming::check(mem, boot, machine(page, generation), &mut [0; 64]);
    let incoming = incoming.unwrap_or_else(|error| panic!("{generation:?}: {error}"));
    assert_eq!(incoming.generation(), generation);
    incoming
}

/// What users hand over: `users` nodes with properties and children.
fn state(users: u32) -> StateTree {
    let mut state = StateTree::new();
    for user in 0..users {
        let name = format!("user{user}");
        state.add_node(&[], &name).unwrap();
        state
            .add_property(&[&name], "compatible", Value::Str("user-v1"))
            .unwrap();
        for child in 0..user % 3 {
            let child = format!("child{child}");
            state.add_node(&[&name], &child).unwrap();
            state
                .add_property(&[&name, &child], "number", Value::U64(u64::from(user)))
                .unwrap();
        }
    }
    state
}

/// Name, properties and children.
type Tree = (String, Vec<(String, Vec<u8>)>, Vec<Child>);

#[derive(Debug, PartialEq)]
struct Child(Tree);

fn tree(name: &str, node: FdtNode<'_>) -> Tree {
    let properties = node
        .properties()
        .map(|p| (p.name().to_owned(), p.value().to_vec()))
        .collect();
    let children = node
        .children()
        .map(|child| Child(tree(child.name(), child)))
        .collect();
    (name.to_owned(), properties, children)
}

/// What `state` has of so many users.
fn expected(users: u32) -> Vec<Tree> {
    let user = |user: u32| {
        let compatible = ("compatible".to_owned(), b"user-v1\0".to_vec());
        let number = ("number".to_owned(), u64::from(user).to_le_bytes().to_vec());
        let child = |child| Child((format!("child{child}"), vec![number.clone()], vec![]));
        let children = (0..user % 3).map(child).collect();
        (format!("user{user}"), vec![compatible], children)
    };
    (0..users).map(user).collect()
}

/// What users handed over, as trees by name, whether inline or in sub-blobs.
fn contents<M: FrozenMem>(mem: &M, incoming: &Incoming<'_, M>) -> Vec<Tree> {
    let parse = |range: PhysRange| {
        let bytes = mem.bytes(range.start(), range.size() as usize).unwrap();
        let len = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        Fdt::new(
            bytes
                .get(..len)
                .unwrap_or_else(|| mem.bytes(range.start(), len).unwrap()),
        )
        .unwrap()
    };
    let mut found: Vec<_> = if incoming.generation().is_nested() {
        let root = parse(PhysRange::new(incoming.boot_data().fdt_addr, 8).unwrap()).root();
        let users = root
            .children()
            .filter(|node| node.name() != "preserved-memory");
        users.map(|node| tree(node.name(), node)).collect()
    } else {
        incoming
            .subtrees()
            .map(|blob| tree(blob.name, parse(blob.range).root()))
            .collect()
    };
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The folios that are not part of the description.
fn folios<M: FrozenMem>(incoming: &Incoming<'_, M>, page: PageSize) -> Vec<Folio> {
    let first = FREE * page.bytes();
    incoming
        .folios()
        .filter(|folio| folio.addr.as_u64() >= first && folio.addr.as_u64() < 1 << 50)
        .collect()
}

fn random_folios() -> impl Strategy<Value = BTreeMap<u64, u32>> {
    let run = (0u64..512, 0u32..12, 1u64..80);
    prop::collection::vec(run, 0..12).prop_map(|runs| {
        let mut folios: BTreeMap<u64, u32> = BTreeMap::new();
        for (block, order, count) in runs {
            for block in block..block + count {
                let first = (FREE << 8) + (block << order);
                let end = first + (1 << order);
                let below = folios.range(..end).next_back();
                if below.is_none_or(|(&at, &other)| at + (1 << other) <= first) {
                    folios.insert(first, order);
                }
            }
        }
        folios
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// All 49 ordered pairs: the same folios, and the same content for each user.
    #[test]
    fn every_pair(
        set in random_folios(), users in 0u32..5, page in prop::sample::select(&PageSize::ALL),
    ) {
        for from in Generation::ALL {
            let mut sim = Sim::new(page);
            let boot = {
                let alloc = sim.alloc();
                let tracker = sim.tracker(&alloc);
                for (&first, &o) in &set {
                    tracker.preserve_folio(addr(first << page.shift()), order(o)).unwrap();
                }
                let mut outgoing = Outgoing::new(tracker).unwrap();
                let array = sim.scratch_array();
                outgoing.finalize_as(from, array, &mut [], &state(users)).unwrap().hand_over()
            };
            let frozen = sim.memory.freeze();
            let incoming = open(&frozen, boot, page, from);
            let expected: Vec<_> = set
                .iter()
                .map(|(&first, &o)| Folio { addr: addr(first << page.shift()), order: order(o) })
                .collect();
            prop_assert_eq!(&folios(&incoming, page), &expected, "{:?}", from);
            let content = contents(&frozen, &incoming);
            prop_assert_eq!(&content, &self::expected(users));
            for to in Generation::ALL {
                let space = pages(page, (1 << 51) / page.bytes(), 256);
                let mut memory = SimMemory::new([space]).unwrap();
                let translated = {
                    let alloc = SimAlloc::new(&memory, page, [space]);
                    let translated = translate(&incoming, to, &memory, &alloc).unwrap();
                    let live: Vec<_> = alloc.live();
                    let mut pages = translated.pages.clone();
                    pages.sort_unstable();
                    prop_assert_eq!(pages, live, "all memory is accounted for");
                    translated
                };
                let both = Both(&frozen, memory.freeze());
                let again = open(&both, translated.boot, page, to);
                prop_assert_eq!(&folios(&again, page), &expected, "{:?} to {:?}", from, to);
                prop_assert_eq!(&contents(&both, &again), &content, "{:?} to {:?}", from, to);
                let scratch = incoming.scratch().areas().collect::<Vec<_>>();
                prop_assert_eq!(again.scratch().areas().collect::<Vec<_>>(), scratch);
            }
        }
    }
}

/// A handover of sub-blobs as they are: what each generation can carry of them.
#[test]
fn what_cannot_be_carried_is_refused() {
    let page = PageSize::Size4K;
    let flat = |reserve: bool, extra: usize| {
        let reservation = [vm_fdt::FdtReserveEntry::new(0x1000, 0x1000).unwrap()];
        let mut fdt = FdtWriter::new_with_mem_reserv(&reservation[..usize::from(reserve)]).unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.end_node(root).unwrap();
        let mut bytes = fdt.finish().unwrap();
        bytes.resize(bytes.len() + extra, 0);
        bytes
    };
    use Generation::*;
    type Row<'a> = (&'a [u8], &'a [(Generation, Loss)]);
    let rows: &[Row<'_>] = &[
        (
            b"LUO is raw",
            &[
                (Sketch, Loss::NotATree),
                (SeriesV5, Loss::NotATree),
                (V1Small, Loss::NotATree),
                (V1Page, Loss::NotATree),
            ],
        ),
        (&flat(false, 0), &[]),
        (
            &flat(false, 1),
            &[(V1Small, Loss::Size), (V1Page, Loss::Size)],
        ),
        (
            &flat(true, 0),
            &[(Sketch, Loss::Reservations), (SeriesV5, Loss::Reservations)],
        ),
    ];
    for (blob, losses) in rows {
        let mut sim = Sim::new(page);
        let (boot, range) = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let range = outgoing.add_blob("blob", blob).unwrap();
            let nested =
                outgoing.finalize_as(Sketch, sim.scratch_array(), &mut [], &StateTree::new());
            assert_eq!(nested.map(drop).unwrap_err(), OutgoingError::Nested);
            (
                outgoing
                    .finalize(sim.scratch_array(), &mut [])
                    .unwrap()
                    .hand_over(),
                range,
            )
        };
        let frozen = sim.memory.freeze();
        let incoming = open(&frozen, boot, page, V4);
        for to in Generation::ALL {
            let space = pages(page, 1 << 20, 64);
            let memory = SimMemory::new([space]).unwrap();
            let alloc = SimAlloc::new(&memory, page, [space]);
            let result = translate(&incoming, to, &memory, &alloc).map(drop);
            let loss = losses.iter().find(|(generation, _)| *generation == to);
            match loss {
                Some(&(_, reason)) => {
                    assert_eq!(
                        result,
                        Err(TranslateError::Lossy {
                            blob: range,
                            reason
                        }),
                        "{to:?}"
                    );
                    assert_eq!(alloc.live(), []);
                }
                None => assert_eq!(result, Ok(()), "{to:?}"),
            }
        }
    }
}

/// Wherever memory runs out, everything is freed; without failures, it succeeds.
#[test]
fn a_failed_allocation_is_undone() {
    let page = PageSize::Size4K;
    for generation in Generation::ALL {
        let mut sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            tracker.preserve_pages(pages(page, FREE + 1, 77)).unwrap();
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let live = alloc.live();
            for n in 0.. {
                alloc.fail_at(Some(n));
                let calls = alloc.calls();
                let array = sim.scratch_array();
                let result = outgoing
                    .finalize_as(generation, array, &mut [], &state(3))
                    .map(drop);
                let failed = alloc.calls() - calls > n;
                assert_eq!(result.is_err(), failed, "{generation:?} {n}");
                alloc.fail_at(None);
                assert_eq!(
                    alloc.live(),
                    live,
                    "an abort frees as well: {generation:?} {n}"
                );
                if !failed {
                    break;
                }
            }
            outgoing
                .finalize_as(generation, sim.scratch_array(), &mut [], &state(3))
                .unwrap()
                .hand_over()
        };
        let frozen = sim.memory.freeze();
        let incoming = open(&frozen, boot, page, generation);
        let space = pages(page, 1 << 20, 128);
        let memory = SimMemory::new([space]).unwrap();
        let alloc = SimAlloc::new(&memory, page, [space]);
        for to in Generation::ALL {
            for n in 0.. {
                alloc.fail_at(Some(n));
                let calls = alloc.calls();
                let result = translate(&incoming, to, &memory, &alloc);
                let failed = alloc.calls() - calls > n;
                assert_eq!(result.is_err(), failed);
                alloc.fail_at(None);
                if let Ok(translated) = result {
                    for (page, order) in translated.pages {
                        kho_hal::PageAlloc::free(&alloc, page, order);
                    }
                    assert_eq!(alloc.live(), []);
                    break;
                }
                assert_eq!(alloc.live(), [], "{generation:?} to {to:?}, allocation {n}");
            }
        }
    }
}

/// The two layouts of mainline v1: proved small, refused as ambiguous, and a wrong word refused.
#[test]
fn the_bitmaps_of_v1() {
    let page = PageSize::Size4K;
    let handover = |generation, scattered: bool| {
        let sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            if scattered {
                // Several bitmaps: those after the first of a page are not page-aligned.
                tracker
                    .preserve_pages(pages(page, FREE + 4096 * 3 + 1, 4))
                    .unwrap();
                tracker
                    .preserve_pages(pages(page, FREE + 4096 * 9 + 1, 1))
                    .unwrap();
            }
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let array = sim.scratch_array();
            outgoing
                .finalize_as(generation, array, &mut [], &StateTree::new())
                .unwrap()
                .hand_over()
        };
        (sim, boot)
    };
    let check = |generation, scattered, told| {
        let (mut sim, boot) = handover(generation, scattered);
        let frozen = sim.memory.freeze();
        let machine = Machine {
            v1_bitmaps: told,
            ..Machine::unknown(page)
        };
        let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 64]);
        incoming
            .map(|incoming| incoming.generation())
            .map_err(|error| {
                assert_eq!(error.part, Part::Map);
                error.fault
            })
    };
    use Generation::{V1Page, V1Small};
    let (small, page_size) = (Some(V1Bitmaps::Small), Some(V1Bitmaps::Page));
    assert_eq!(check(V1Small, true, None), Ok(V1Small), "proved");
    assert_eq!(check(V1Small, true, small), Ok(V1Small));
    assert!(matches!(
        check(V1Small, true, page_size),
        Err(Fault::NotPageBitmaps { .. })
    ));
    // One bitmap that happens to be page-aligned proves nothing.
    assert!(matches!(
        check(V1Small, false, None),
        Err(Fault::Ambiguous { .. })
    ));
    assert_eq!(check(V1Small, false, small), Ok(V1Small));
    assert!(matches!(
        check(V1Page, true, None),
        Err(Fault::Ambiguous { .. })
    ));
    assert_eq!(check(V1Page, true, page_size), Ok(V1Page));
}

/// The worked example of the lists: where bits and entries are.
#[test]
fn the_worked_example_of_lists() {
    let page = PageSize::Size4K;
    for (generation, index, bit) in [
        (Generation::V1Small, 0x116u64, 0xbe4u64),
        (Generation::V1Page, 0x22, 0x6be4),
    ] {
        let mut sim = Sim::new(page);
        let boot = {
            let alloc = sim.alloc();
            let tracker = sim.tracker(&alloc);
            tracker
                .preserve_folio(addr(0x1_16be_4000), order(0))
                .unwrap();
            tracker
                .preserve_folio(addr(0x1_4020_0000), order(9))
                .unwrap();
            let mut outgoing = Outgoing::new(tracker).unwrap();
            let array = sim.scratch_array();
            outgoing
                .finalize_as(generation, array, &mut [], &StateTree::new())
                .unwrap()
                .hand_over()
        };
        let head = {
            let frozen = sim.memory.freeze();
            open(&frozen, boot, page, generation).map_addr().as_u64()
        };
        let word = |at: u64| sim.memory.word(addr(at)).unwrap();
        let bits = if generation == Generation::V1Small {
            4096
        } else {
            32768
        };
        // Order 0: the description's own page, and the example's.
        assert_eq!(word(head + 8), 2 << 32);
        assert_eq!(word(head + 32), index * bits * 4096);
        let bitmap = word(head + 40);
        assert_eq!(word(bitmap + bit / 64 * 8), 1 << (bit % 64));
        let next = word(head);
        assert_eq!(word(next), 0);
        assert_eq!(word(next + 8), 1 << 32 | 9);
        assert_eq!(word(next + 16), 0);
        let bitmap = word(next + 24);
        assert_eq!(word(bitmap + 0xa01 / 64 * 8), 1 << (0xa01 % 64));
        assert_eq!(
            SCRATCH.0, 512,
            "the heap is below scratch, and so are all of these"
        );
    }
}

/// A handover in generation `from` of folios of one order, with the state of some users.
fn handover(from: Generation, users: u32) -> (Sim, BootData) {
    let sim = Sim::new(PageSize::Size4K);
    let boot = {
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        for i in 0..3 {
            let at = addr((FREE + i * 16) << 12);
            tracker.preserve_folio(at, order(3)).unwrap();
        }
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let array = sim.scratch_array();
        outgoing
            .finalize_as(from, array, &mut [], &state(users))
            .unwrap()
            .hand_over()
    };
    (sim, boot)
}

/// A description that takes more pages than the one before, and a map with a single order.
#[test]
fn a_description_that_grows() {
    let page = PageSize::Size4K;
    for (from, to, pages_of_fdt) in [
        (Generation::Sketch, Generation::V4, 1),
        (Generation::V4, Generation::Sketch, 2),
        (Generation::V4, Generation::SeriesV5, 2),
    ] {
        let (mut sim, boot) = handover(from, 66);
        let frozen = sim.memory.freeze();
        let incoming = open(&frozen, boot, page, from);
        let space = pages(page, (1 << 51) / page.bytes(), 128);
        let mut memory = SimMemory::new([space]).unwrap();
        let boot = {
            let alloc = SimAlloc::new(&memory, page, [space]);
            translate(&incoming, to, &memory, &alloc).unwrap().boot
        };
        assert_eq!(boot.fdt_size, pages_of_fdt * page.bytes());
        let both = Both(&frozen, memory.freeze());
        let again = open(&both, boot, page, to);
        assert_eq!(folios(&again, page).len(), 3);
        assert_eq!(contents(&both, &again), contents(&frozen, &incoming));
    }
}

/// Memory that can be taken away.
struct Gone<'a>(&'a FrozenSim<'a>, std::cell::Cell<bool>);

impl FrozenMem for Gone<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        if self.1.get() {
            let len = len as u64;
            return Err(MemError::Absent { addr, len });
        }
        self.0.bytes(addr, len)
    }
}

/// What is suddenly not there is said as it is.
#[test]
fn memory_that_is_gone() {
    let page = PageSize::Size4K;
    let (mut sim, boot) = handover(Generation::V4, 0);
    let frozen = sim.memory.freeze();
    let gone = Gone(&frozen, std::cell::Cell::new(false));
    let incoming = open(&gone, boot, page, Generation::V4);
    let map = incoming.map_addr();
    let space = pages(page, 1 << 20, 128);
    let memory = SimMemory::new([space]).unwrap();
    let alloc = SimAlloc::new(&memory, page, [space]);
    gone.1.set(true);
    let failed = translate(&incoming, Generation::V4, &memory, &alloc).map(drop);
    let absent = MemError::Absent {
        addr: map,
        len: page.bytes(),
    };
    let absent = OutgoingError::Memory(absent);
    assert_eq!(failed, Err(TranslateError::Outgoing(absent)));
}

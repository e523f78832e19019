//! The stack that a look at a handover takes does not depend on what is in it: each runs on a small one,
//! with inputs as deep and as long as they can be.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
mod victim;

use common::tree::{Tree, inline};
use common::{Sim, addr, pages};
use kho_abi::fdt::Generation;
use kho_core::incoming::{Incoming, Machine, Ram, RootFdt};
use kho_core::outgoing::Outgoing;
use kho_core::preflight::{Consumer, preflight, preflight_description};
use kho_core::translate::translate;
use kho_core::{BootData, Tokens};
use kho_hal::sim::{SimAlloc, SimMemory};
use kho_hal::{Order, PageSize, PhysMem};
use victim::{Lent, ask_everything, victim};

const PAGE: PageSize = PageSize::Size4K;

/// Nodes in one another.
const DEPTH: usize = 100_000;

/// Frames of unoptimised code are several times as large as others.
const STACK: usize = 64 << 10;

fn on_a_small_stack(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn_scoped(scope, work).unwrap().join().unwrap();
    });
}

fn deep(tree: &mut Tree) {
    for _ in 0..DEPTH {
        tree.begin("n");
    }
    for _ in 0..DEPTH {
        tree.end();
    }
}

/// A description with this many levels, and a list of this many chunks.
fn deep_and_long(chunks: u64) -> (Sim, BootData) {
    const FIRST: u64 = 1 << 12;
    let (sim, boot) = inline(FIRST << 12, deep);
    let description = sim.memory.ranges().next().unwrap();
    let both = [description, pages(PAGE, FIRST, chunks)];
    let memory = SimMemory::new(both).unwrap();
    let mut bytes = vec![0; description.size() as usize];
    sim.memory.read(description.start(), &mut bytes).unwrap();
    memory.write(description.start(), &bytes).unwrap();
    for chunk in FIRST..FIRST + chunks - 1 {
        // The address of the next one comes second.
        let next = (chunk + 1) << 12;
        let at = addr((chunk << 12) + 8);
        memory.write(at, &next.to_le_bytes()).unwrap();
    }
    (Sim { memory, ..sim }, boot)
}

#[test]
fn a_deep_description_and_a_long_list() {
    let (sim, boot) = deep_and_long(1000);
    let lent = Lent::new(&sim);
    let new = Sim::new(PAGE);
    on_a_small_stack(|| {
        let machine = Machine {
            ram: Ram::Unknown,
            ..Machine::unknown(PAGE)
        };
        let incoming = Incoming::check(&lent, boot, machine, &mut [0; 64]).unwrap();
        ask_everything(&incoming);
        lent.forget_reads();
        let diagnosed = Incoming::diagnose(&lent, boot, machine, &mut [0; 64], |_| ());
        assert_eq!(diagnosed, Ok(()));
        for consumer in Consumer::ALL {
            preflight(&incoming, consumer);
        }
        let alloc = new.alloc();
        for generation in Generation::ALL {
            lent.forget_reads();
            // Writers go down to where a device tree may, and refuse what is deeper.
            assert!(translate(&incoming, generation, &new.memory, &alloc).is_err());
        }
    });
}

#[test]
fn a_deep_tree() {
    let mut tree = Tree::default();
    tree.begin("");
    tree.property("compatible", b"kho-v4\0");
    tree.property("preserved-memory-map", &1u64.to_le_bytes());
    tree.begin("chosen");
    deep(&mut tree);
    tree.end();
    tree.end();
    let tree = tree.finish();
    let size = (tree.len() as u64).div_ceil(4096);
    let sim = Sim {
        memory: SimMemory::new([pages(PAGE, 1, size)]).unwrap(),
        ..Sim::new(PAGE)
    };
    sim.memory.write(addr(4096), &tree).unwrap();
    let lent = Lent::new(&sim);
    on_a_small_stack(|| {
        assert!(Tokens::new(&tree).unwrap().count() > 2 * DEPTH);
        assert!(BootData::from_device_tree(&lent, addr(4096)).is_err());
        let root = RootFdt::parse(&tree, addr(0)).unwrap();
        assert_eq!(root.nodes().count(), 0);
        for consumer in Consumer::ALL {
            preflight_description("kho-v4", |_| Some(&tree), consumer);
        }
    });
}

#[test]
fn everything_in_a_handover() {
    let victim = victim();
    let lent = victim.lent();
    on_a_small_stack(|| {
        let incoming = lent.check(victim.at.boot, victim.generation).unwrap();
        ask_everything(&incoming);
        for consumer in Consumer::ALL {
            preflight(&incoming, consumer);
        }
        let mut workspace = [0; 64];
        incoming.vmalloc(victim.at.area, &mut workspace).unwrap();
    });
}

#[test]
fn a_long_chain_of_blocks() {
    const FIRST: u64 = 1 << 14;
    const BLOCKS: u64 = 10_000;
    let memory = [pages(PAGE, 0, 1024), pages(PAGE, FIRST, BLOCKS)];
    let sim = Sim {
        memory: SimMemory::new(memory).unwrap(),
        ..Sim::new(PAGE)
    };
    let boot = {
        let alloc = SimAlloc::new(&sim.memory, PAGE, [victim::heap()]);
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        for block in FIRST..FIRST + BLOCKS {
            let at = addr(block << 12);
            outgoing.tracker().preserve_folio(at, Order::ZERO).unwrap();
            let is_last = block + 1 == FIRST + BLOCKS;
            let next = if is_last { 0 } else { (block + 1) << 12 };
            let header = [next, 1].map(u64::to_le_bytes);
            sim.memory.write(at, header.as_flattened()).unwrap();
        }
        let ready = outgoing.finalize(sim.scratch_array(), &mut []);
        ready.unwrap().hand_over()
    };
    let lent = Lent::new(&sim);
    on_a_small_stack(|| {
        let incoming = lent.check(boot, Generation::V4).unwrap();
        let blocks = incoming.blocks::<[u8; 64]>(addr(FIRST << 12), &mut [0; 256]);
        assert_eq!(blocks.unwrap().iter().count() as u64, BLOCKS);
    });
}

//! The tracker under the model checker: every interleaving with at most two preemptions.
//!
//! Run with `RUSTFLAGS='--cfg loom' cargo test -p kho-core --release --test loom`.
#![cfg(loom)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kho_core::{OutgoingError, Tracker};
use kho_hal::sim::{ModelMemory, SimAlloc};
use kho_hal::{AllocError, Order, PageAlloc, PageSize, PhysAddr, PhysRange};
use loom::thread;

const PAGE: PageSize = PageSize::Size4K;

/// An allocator that several CPUs have.
#[derive(Clone)]
struct Pages(Arc<SimAlloc<ModelMemory>>);

impl PageAlloc for Pages {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        self.0.alloc(order)
    }

    fn free(&self, addr: PhysAddr, order: Order) {
        self.0.free(addr, order);
    }
}

type Shared = Tracker<'static, ModelMemory, Pages>;

/// A machine with room for the pages of this many trees of one leaf each.
struct Machine {
    pages: Pages,
    tracker: Arc<Shared>,
}

/// Tries a program of several CPUs in every order.
fn every_order(run: impl Fn(Machine) + Send + Sync + 'static) {
    every_order_with(2, run);
}

fn every_order_with(preemptions: usize, run: impl Fn(Machine) + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 1 << 20;
    let orders = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&orders);
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        run(Machine::new());
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

impl Machine {
    fn new() -> Self {
        let range = PhysRange::new(PhysAddr::new(0x1000), 16 * PAGE.bytes()).unwrap();
        let memory = ModelMemory::new(range);
        let pages = Pages(Arc::new(SimAlloc::new(memory.clone(), PAGE, [range])));
        let tracker = Tracker::new(memory, pages.clone(), PAGE, &[]).unwrap();
        Self {
            pages,
            tracker: Arc::new(tracker),
        }
    }

    /// Another CPU.
    fn spawn<R: 'static>(
        &self,
        work: impl FnOnce(&Shared) -> R + 'static,
    ) -> thread::JoinHandle<R> {
        let tracker = Arc::clone(&self.tracker);
        thread::spawn(move || work(&tracker))
    }

    /// All CPUs are done: exactly these are preserved, and every page that is allocated is the tree's.
    fn holds(self, folios: &[u64]) {
        for n in 0..4 {
            let (addr, order) = folio(n);
            assert_eq!(self.tracker.is_preserved(addr, order), folios.contains(&n));
        }
        let mut tree = BTreeSet::new();
        let mut note = |page| assert!(tree.insert(page));
        self.tracker.for_each_page(&mut note).unwrap();
        let live = self.pages.0.live().into_iter().map(|(addr, _)| addr);
        assert_eq!(live.collect::<BTreeSet<_>>(), tree, "a page is lost");
    }
}

/// Folios 0 and 1 are in one word, 2 in another of the same leaf, 3 in another leaf.
fn folio(n: u64) -> (PhysAddr, Order) {
    let number = [7, 8, 700, 1 << 16][n as usize];
    (PhysAddr::new(number * PAGE.bytes()), Order::ZERO)
}

fn preserve(tracker: &Shared, n: u64) -> Result<(), OutgoingError> {
    let (addr, order) = folio(n);
    tracker.preserve_folio(addr, order)
}

fn unpreserve(tracker: &Shared, n: u64) -> Result<(), OutgoingError> {
    let (addr, order) = folio(n);
    tracker.unpreserve_folio(addr, order)
}

#[test]
fn two_cpus_build_one_tree() {
    every_order(|machine| {
        let other = machine.spawn(|tracker| preserve(tracker, 1));
        preserve(&machine.tracker, 0).unwrap();
        other.join().unwrap().unwrap();
        machine.holds(&[0, 1]);
    });
}

#[test]
fn one_of_two_cpus_preserves_a_folio() {
    every_order(|machine| {
        let other = machine.spawn(|tracker| preserve(tracker, 0));
        let mine = preserve(&machine.tracker, 0);
        let won = [mine, other.join().unwrap()];
        assert_eq!(won.iter().filter(|won| won.is_ok()).count(), 1, "{won:?}");
        machine.holds(&[0]);
    });
}

#[test]
fn what_one_cpu_takes_out_is_not_what_another_puts_in() {
    every_order(|machine| {
        preserve(&machine.tracker, 0).unwrap();
        let other = machine.spawn(|tracker| {
            preserve(tracker, 1).unwrap();
            preserve(tracker, 2)
        });
        unpreserve(&machine.tracker, 0).unwrap();
        other.join().unwrap().unwrap();
        machine.holds(&[1, 2]);
    });
}

#[test]
fn a_folio_is_in_the_tree_or_not_while_the_tree_grows() {
    every_order(|machine| {
        let other = machine.spawn(|tracker| preserve(tracker, 3));
        let (addr, order) = folio(3);
        // Panics on the way if it is led by words that nobody wrote.
        let seen = machine.tracker.is_preserved(addr, order);
        let undone = unpreserve(&machine.tracker, 3);
        assert!(!seen || undone.is_ok(), "it was there");
        other.join().unwrap().unwrap();
        machine.holds(if undone.is_ok() { &[] } else { &[3] });
    });
}

/// Whole batches: of two that share a folio one is refused, and leaves nothing but what the other
/// preserved.
#[test]
fn a_batch_that_is_refused_leaves_what_the_other_preserved() {
    every_order(|machine| {
        let other = machine.spawn(|tracker| tracker.preserve_folios([folio(1), folio(2)]));
        let mine = machine.tracker.preserve_folios([folio(0), folio(1)]);
        let other = other.join().unwrap();
        match (mine, other) {
            (Ok(()), Err(_)) => machine.holds(&[0, 1]),
            (Err(_), Ok(())) => machine.holds(&[1, 2]),
            both => panic!("{both:?}"),
        }
    });
}

#[test]
fn an_allocation_that_fails_loses_nothing() {
    for n in 0..12 {
        every_order_with(1, move |machine| {
            machine.pages.0.fail_at(Some(n));
            let other = machine.spawn(|tracker| preserve(tracker, 3));
            let mine = preserve(&machine.tracker, 0);
            let other = other.join().unwrap();
            match (mine, other) {
                (Ok(()), Ok(())) => machine.holds(&[0, 3]),
                (Ok(()), Err(_)) => machine.holds(&[0]),
                (Err(_), Ok(())) => machine.holds(&[3]),
                both => panic!("{both:?}"),
            }
        });
    }
}

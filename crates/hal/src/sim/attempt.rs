//! Trying something with each of its allocations and accesses failing in turn.

use core::fmt::Debug;

use std_alloc::vec::Vec;

use super::{Faulty, SimAlloc};
use crate::PhysMem;

/// What counts its calls, and fails at one of them when it is told to.
pub trait Failing {
    /// Makes the `n`-th call from now on fail (0 is the next one), once; `None` none.
    fn fail_at(&self, n: Option<u64>);

    /// How many calls there were so far.
    fn calls(&self) -> u64;
}

impl<M> Failing for Faulty<M> {
    fn fail_at(&self, n: Option<u64>) {
        self.fail_at(n);
    }

    fn calls(&self) -> u64 {
        self.calls()
    }
}

impl<M: PhysMem> Failing for SimAlloc<M> {
    fn fail_at(&self, n: Option<u64>) {
        self.fail_at(n);
    }

    fn calls(&self) -> u64 {
        self.calls()
    }
}

/// Something that may fail on the way, on a machine of its own.
pub trait Attempt {
    /// What a failure must leave as it was.
    type State: PartialEq + Debug;

    /// Why it was not done.
    type Error: Debug;

    /// What can be made to fail, by name.
    fn sources(&self) -> Vec<(&'static str, &dyn Failing)>;

    /// The state now.
    fn state(&mut self) -> Self::State;

    /// Does it.
    ///
    /// # Errors
    /// Any: the state is as before then.
    fn work(&mut self) -> Result<(), Self::Error>;
}

/// Long attempts do the same again and again: of more calls than this, not every one fails.
const ALL: u64 = 300;

/// Makes the calls of an attempt fail, one at a time: all of them, or of more than 300 the first 150,
/// the last 75, and up to 75 between. Returns how many there were.
///
/// `scene` makes a machine, always the same, and hands the attempt to its argument.
///
/// # Panics
/// If the state after a failure is neither as before, with an error, nor as it is when nothing
/// fails; or if trying again after an error does not get there.
pub fn every_failure<S: PartialEq + Debug, E: Debug>(
    scene: impl Fn(&mut dyn FnMut(&mut dyn Attempt<State = S, Error = E>)),
) -> u64 {
    let mut before = None;
    scene(&mut |attempt| before = Some(attempt.state()));
    let mut whole = None;
    let mut totals = Vec::new();
    scene(&mut |attempt| {
        let earlier = calls(attempt);
        let done = attempt.work();
        assert!(done.is_ok(), "nothing fails, and still: {done:?}");
        let counted = calls(attempt).into_iter().zip(earlier);
        totals = counted.map(|(now, earlier)| now - earlier).collect();
        whole = Some(attempt.state());
    });
    let mut failures = 0;
    for (source, &total) in totals.iter().enumerate() {
        for n in chosen(total) {
            scene(&mut |attempt| {
                let name = fail(attempt, source, Some(n));
                let result = attempt.work();
                fail(attempt, source, None);
                let after = Some(attempt.state());
                if let Err(error) = result {
                    assert_eq!(after, before, "{name} {n} changed something: {error:?}");
                    let again = attempt.work();
                    assert!(again.is_ok(), "again after {name} {n}: {again:?}");
                    let after = Some(attempt.state());
                    assert_eq!(after, whole, "again after {name} {n}, not all was done");
                } else {
                    assert_eq!(after, whole, "{name} {n} was not reported");
                }
            });
            failures += 1;
        }
    }
    failures
}

fn calls<A: Attempt + ?Sized>(attempt: &A) -> Vec<u64> {
    let sources = attempt.sources();
    sources.iter().map(|(_, source)| source.calls()).collect()
}

fn fail<A: Attempt + ?Sized>(attempt: &A, source: usize, n: Option<u64>) -> &'static str {
    let sources = attempt.sources();
    sources.get(source).map_or("", |(name, source)| {
        source.fail_at(n);
        name
    })
}

/// Which of so many calls fail.
fn chosen(total: u64) -> impl Iterator<Item = u64> {
    let (first, last) = match total {
        0..=ALL => (total, total),
        _ => (ALL / 2, total - ALL / 4),
    };
    let step = (last - first).div_ceil(ALL / 4).max(1);
    let between = (first..last).step_by(step as usize);
    (0..first).chain(between).chain(last..total)
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::super::SimMemory;
    use super::*;
    use crate::{Order, PageAlloc, PageSize, PhysAddr, PhysRange};

    /// Allocates a page and writes to it.
    struct Writing<'m> {
        memory: &'m Faulty<&'m SimMemory>,
        alloc: &'m SimAlloc<&'m SimMemory>,
        page: Option<PhysAddr>,
        /// Whether it says so when it could not write.
        honest: bool,
        errors: &'m Cell<u32>,
    }

    impl Attempt for Writing<'_> {
        type State = (Option<PhysAddr>, Option<u64>, usize);
        type Error = &'static str;

        fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
            [
                ("allocation", self.alloc as &dyn Failing),
                ("access", self.memory),
            ]
            .to_vec()
        }

        fn state(&mut self) -> Self::State {
            let word = self.page.map(|page| {
                let words = self.memory.words(page, 1).unwrap();
                words[0].load(crate::sync::Ordering::Relaxed)
            });
            (self.page, word, self.alloc.live().len())
        }

        fn work(&mut self) -> Result<(), &'static str> {
            let failed = |why| {
                self.errors.set(self.errors.get() + 1);
                why
            };
            let page = self
                .alloc
                .alloc(Order::ZERO)
                .map_err(|_| failed("no page"))?;
            if self.memory.write(page, &[7; 8]).is_err() && self.honest {
                self.alloc.free(page, Order::ZERO);
                return Err(failed("not written"));
            }
            self.page = Some(page);
            Ok(())
        }
    }

    fn writing(honest: bool) -> (u64, u32) {
        let errors = Cell::new(0);
        let failures = every_failure(|attempt| {
            let range = PhysRange::new(PhysAddr::new(0x1000), 0x4000).unwrap();
            let memory = SimMemory::new([range]).unwrap();
            let faulty = Faulty::new(&memory);
            let alloc = SimAlloc::new(&memory, PageSize::Size4K, [range]);
            attempt(&mut Writing {
                memory: &faulty,
                alloc: &alloc,
                page: None,
                honest,
                errors: &errors,
            });
        });
        (failures, errors.get())
    }

    #[test]
    fn each_failure_is_made_and_counted() {
        assert_eq!(writing(true), (2, 2));
    }

    #[test]
    #[should_panic(expected = "access 0 was not reported")]
    fn a_failure_that_is_not_reported_is_noticed() {
        writing(false);
    }

    #[test]
    fn all_of_few_calls_fail_and_of_many_the_first_the_last_and_some_between() {
        for total in [0, 1, 150, 300] {
            assert!(chosen(total).eq(0..total), "{total}");
        }
        for total in [301, 520, 100_000] {
            let many: Vec<_> = chosen(total).collect();
            assert!(many.is_sorted_by(|a, b| a < b));
            assert!((225..=300).contains(&many.len()), "{}", many.len());
            assert!(many.iter().copied().take(150).eq(0..150));
            let last = many.iter().copied().rev().take(75);
            assert!(last.eq((total - 75..total).rev()));
        }
    }
}

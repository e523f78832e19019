//! Sorting without a heap.

use crate::incoming::places::Unfit;

/// Calls `visit` with all numbers that `list` reports, in ascending order.
///
/// The numbers are collected in `workspace`, as many at a time as it holds: `list` is called about
/// twice for each time that the numbers fill it. A number that is reported more than once is
/// visited at least twice. `u64::MAX` is not a number here.
///
/// # Errors
/// What `list` or `visit` return; and [`Unfit::Workspace`] when more than about two million numbers
/// were reported again because the workspace is too small for them.
pub(crate) fn ascending<E: From<Unfit>>(
    workspace: &mut [u64],
    mut list: impl FnMut(&mut dyn FnMut(u64)) -> Result<(), E>,
    mut visit: impl FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut spare = [0; 8];
    let buffer = if workspace.len() < spare.len() {
        &mut spare[..]
    } else {
        workspace
    };
    let mut after = None;
    let mut spent = 0u64;
    loop {
        let mut reported = 0;
        let mut batch = Batch {
            buffer,
            len: 0,
            after,
            limit: u64::MAX,
        };
        list(&mut |number| {
            reported += 1;
            batch.offer(number);
        })?;
        let complete = batch.limit == u64::MAX;
        for &mut number in batch.sort() {
            visit(number)?;
            after = Some(number);
        }
        if complete {
            return Ok(());
        }
        spent += reported;
        if spent > reported.saturating_mul(8).max(1 << 21) {
            return Err(Unfit::Workspace(reported).into());
        }
    }
}

/// The lowest numbers above `after` that were offered.
struct Batch<'b> {
    buffer: &'b mut [u64],
    len: usize,
    after: Option<u64>,
    /// No number above this is of interest any more.
    limit: u64,
}

impl Batch<'_> {
    fn offer(&mut self, number: u64) {
        if self.after.is_some_and(|after| number <= after) || number > self.limit {
            return;
        }
        if self.len == self.buffer.len() {
            self.halve();
            if number > self.limit {
                return;
            }
        }
        if let Some(place) = self.buffer.get_mut(self.len) {
            *place = number;
            self.len += 1;
        }
    }

    /// Forgets the higher half, but never one of two equal numbers alone.
    fn halve(&mut self) {
        let keep = self.len / 2;
        let sorted = self.sort();
        let at = |i| sorted.get(i).copied().unwrap_or(u64::MAX);
        let (last, next) = (at(keep - 1), at(keep));
        self.limit = last;
        self.len = keep + usize::from(last == next);
    }

    fn sort(&mut self) -> &mut [u64] {
        let numbers = self.buffer.get_mut(..self.len).unwrap_or_default();
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::incoming::Fault;

    proptest! {
        #[test]
        fn visits_all_in_order_and_equals_twice(
            numbers in prop::collection::vec(0u64..60, 0..80), words in 0usize..20,
        ) {
            let mut visited = Vec::new();
            let mut workspace: Vec<u64> = std::iter::repeat_n(7, words).collect();
            ascending(
                &mut workspace,
                |report| {
                    numbers.iter().for_each(|&number| report(number));
                    Ok::<(), Fault>(())
                },
                |number| {
                    visited.push(number);
                    Ok(())
                },
            )
            .unwrap();
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            prop_assert!(visited.is_sorted());
            for number in 0..60 {
                let count = |list: &[u64]| list.iter().filter(|&&n| n == number).count();
                prop_assert_eq!(count(&visited).min(2), count(&sorted).min(2));
            }
        }
    }

    /// How often `count` numbers are listed in a workspace of `words`, and what came of it.
    fn listings(count: u64, words: usize) -> (u32, Result<(), Fault>) {
        let mut calls = 0;
        let list = |report: &mut dyn FnMut(u64)| {
            calls += 1;
            (0..count).for_each(report);
            Ok(())
        };
        let result = ascending(&mut std::vec![0; words], list, |_| Ok(()));
        (calls, result)
    }

    #[test]
    fn lists_about_twice_for_each_time_that_the_workspace_is_full() {
        assert_eq!(listings(100, 101), (1, Ok(())));
        // A full workspace is halved when one more comes, each time for good.
        assert_eq!(listings(1000, 100), (19, Ok(())));
        // Less than eight words are as good as eight.
        assert_eq!(listings(100, 0).0, listings(100, 8).0);
        assert!(listings(100, 16).0 < listings(100, 8).0);
    }

    #[test]
    fn gives_up_when_too_much_is_listed_again() {
        // 4 numbers at a time: 2,896 are listed 723 times, which makes just less than 2^21.
        assert_eq!(listings(2896, 8), (723, Ok(())));
        let (calls, result) = listings(4000, 8);
        assert_eq!(result, Err(Unfit::Workspace(4000).into()));
        assert_eq!(u64::from(calls), (1 << 21) / 4000 + 1);
        // Where one listing is that long, eight are too many.
        let (calls, result) = listings(1 << 20, 8);
        assert_eq!(result, Err(Unfit::Workspace(1 << 20).into()));
        assert_eq!(calls, 9);
    }
}

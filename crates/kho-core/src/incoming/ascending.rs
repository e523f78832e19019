//! Sorting without a heap.

use crate::incoming::places::Unfit;

/// What can be sorted in words: a number, or a name.
pub(crate) trait Key: Copy + Ord {
    /// Words that one takes.
    const WORDS: u64;

    /// The keys that `words` have room for.
    fn room(words: &mut [u64]) -> &mut [Self];

    /// Sorts keys.
    fn sort(keys: &mut [Self]);
}

impl Key for u64 {
    const WORDS: u64 = 1;

    fn room(words: &mut [u64]) -> &mut [Self] {
        words
    }

    fn sort(keys: &mut [Self]) {
        keys.sort_unstable();
    }
}

/// A name of 64 bytes at most, its rest zeroes.
pub(crate) type NameKey = [u64; 8];

impl Key for NameKey {
    const WORDS: u64 = 8;

    fn room(words: &mut [u64]) -> &mut [Self] {
        words.as_chunks_mut().0
    }

    /// The standard library has a buffer of 3 KiB on the stack for keys of this size, so by a heap.
    fn sort(keys: &mut [Self]) {
        for root in (0..keys.len() / 2).rev() {
            sift(keys, root);
        }
        for end in (1..keys.len()).rev() {
            keys.swap(0, end);
            sift(keys.get_mut(..end).unwrap_or_default(), 0);
        }
    }
}

/// Makes a heap of what is one but for `root`: no key is below those that hang on it.
fn sift<K: Key>(heap: &mut [K], mut root: usize) {
    loop {
        let left = 2 * root + 1;
        let right = left + 1;
        let above = if heap.get(right) > heap.get(left) {
            right
        } else {
            left
        };
        // None is below any.
        if heap.get(above) <= heap.get(root) {
            return;
        }
        heap.swap(root, above);
        root = above;
    }
}

/// The key of a name, or `None` if it is too long to have one.
pub(crate) fn name_key(name: &[u8]) -> Option<NameKey> {
    let mut bytes = [0; 64];
    bytes.get_mut(..name.len())?.copy_from_slice(name);
    let mut key = [0; 8];
    for (word, bytes) in key.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    Some(key)
}

/// What the caller lends to sort in, and what was done with it.
///
/// Keys that do not fit are listed again. All listings together may cost eight times what one of each
/// does, or two million keys.
pub(crate) struct Sorter<'w> {
    workspace: &'w mut [u64],
    /// What it costs to list everything once.
    once: u64,
    spent: u64,
}

/// Words that a sort takes at least: two equal names and a lower one must have room.
const SPARE: usize = 3 * NameKey::WORDS as usize;

/// Listing again is free up to this.
const FREE: u64 = 1 << 21;

impl<'w> Sorter<'w> {
    pub(crate) fn new(workspace: &'w mut [u64]) -> Self {
        Self {
            workspace,
            once: 0,
            spent: 0,
        }
    }

    /// Calls `visit` with all keys that `list` reports, in ascending order.
    ///
    /// The keys are collected in the workspace, as many at a time as it holds: `list` is called about
    /// twice for each time that the keys fill it. To list costs `cost`, or one for each key if that is
    /// more. A key that is reported more than once is visited at least twice.
    ///
    /// # Errors
    /// What `list` or `visit` return; and [`Unfit::Workspace`] when listing again costs too much.
    pub(crate) fn ascending<K: Key, E: From<Unfit>>(
        &mut self,
        cost: u64,
        mut list: impl FnMut(&mut dyn FnMut(K)) -> Result<(), E>,
        mut visit: impl FnMut(K) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.workspace.len() < SPARE {
            return self.with_spare(cost, list, visit);
        }
        let buffer = K::room(self.workspace);
        let (mut after, mut first) = (None, true);
        loop {
            let mut reported = 0;
            let mut batch = Batch {
                buffer,
                len: 0,
                after,
                limit: None,
            };
            list(&mut |key| {
                reported += 1;
                batch.offer(key);
            })?;
            let complete = batch.limit.is_none();
            for &mut key in batch.sort() {
                visit(key)?;
                after = Some(key);
            }
            let cost = cost.max(reported);
            self.spent = self.spent.saturating_add(cost);
            if first {
                self.once = self.once.saturating_add(cost);
            }
            if complete {
                return Ok(());
            }
            first = false;
            if self.spent > self.once.saturating_mul(8).max(FREE) {
                return Err(Unfit::Workspace(reported.saturating_mul(K::WORDS)).into());
            }
        }
    }

    /// As [`Sorter::ascending`], in words of its own.
    #[cold]
    #[inline(never)]
    fn with_spare<K: Key, E: From<Unfit>>(
        &mut self,
        cost: u64,
        list: impl FnMut(&mut dyn FnMut(K)) -> Result<(), E>,
        visit: impl FnMut(K) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut spare = Sorter {
            workspace: &mut [0; SPARE],
            ..*self
        };
        let done = spare.ascending(cost, list, visit);
        (self.once, self.spent) = (spare.once, spare.spent);
        done
    }

    /// Finds a key that `list` reports twice.
    ///
    /// # Errors
    /// As [`Sorter::ascending`]; and what `twice` makes of a key that is there twice.
    pub(crate) fn unique<K: Key, E: From<Unfit>>(
        &mut self,
        cost: u64,
        list: impl FnMut(&mut dyn FnMut(K)) -> Result<(), E>,
        mut twice: impl FnMut(K) -> E,
    ) -> Result<(), E> {
        let mut last = None;
        self.ascending(cost, list, |key| match last.replace(key) {
            Some(before) if before == key => Err(twice(key)),
            _ => Ok(()),
        })
    }
}

/// The lowest keys above `after` that were offered.
struct Batch<'b, K> {
    buffer: &'b mut [K],
    len: usize,
    after: Option<K>,
    /// No key above this is of interest any more.
    limit: Option<K>,
}

impl<K: Key> Batch<'_, K> {
    fn is_of_interest(&self, key: K) -> bool {
        self.after.is_none_or(|after| key > after) && self.limit.is_none_or(|limit| key <= limit)
    }

    fn offer(&mut self, key: K) {
        if !self.is_of_interest(key) {
            return;
        }
        if self.len == self.buffer.len() {
            self.halve();
            if !self.is_of_interest(key) {
                return;
            }
        }
        if let Some(place) = self.buffer.get_mut(self.len) {
            *place = key;
            self.len += 1;
        }
    }

    /// Forgets the higher half, but never one of two equal keys alone.
    fn halve(&mut self) {
        let keep = self.len / 2;
        let sorted = self.sort();
        let last = keep
            .checked_sub(1)
            .and_then(|last| sorted.get(last).copied());
        let next = sorted.get(keep).copied();
        self.limit = last;
        self.len = keep + usize::from(last == next);
    }

    fn sort(&mut self) -> &mut [K] {
        let keys = self.buffer.get_mut(..self.len).unwrap_or_default();
        K::sort(keys);
        keys
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
            numbers in prop::collection::vec(0u64..60, 0..80), words in 0usize..40,
        ) {
            // The highest number is one like any other.
            let numbers: Vec<_> = numbers.iter().map(|n| if *n == 59 { u64::MAX } else { *n }).collect();
            visits_all(&numbers, words)?;
            let names = numbers.iter().map(|n| name_key(std::format!("{n}").as_bytes()).unwrap());
            visits_all(&names.collect::<Vec<_>>(), words)?;
        }
    }

    fn visits_all<K: Key + std::fmt::Debug>(keys: &[K], words: usize) -> Result<(), TestCaseError> {
        let mut visited = Vec::new();
        let mut workspace: Vec<u64> = std::iter::repeat_n(7, words).collect();
        Sorter::new(&mut workspace)
            .ascending(
                0,
                |report| {
                    keys.iter().for_each(|&key| report(key));
                    Ok::<(), Fault>(())
                },
                |key| {
                    visited.push(key);
                    Ok(())
                },
            )
            .unwrap();
        prop_assert!(visited.is_sorted());
        for key in keys.iter().chain(&visited) {
            let count = |list: &[K]| list.iter().filter(|&other| other == key).count();
            prop_assert_eq!(count(&visited).min(2), count(keys).min(2));
        }
        Ok(())
    }

    #[test]
    fn keys_ascend_as_their_names_do() {
        let names = ["", "a", "a@0", "aa", "abcdefgh", "abcdefgha", "b", "\u{ff}"];
        let keys = names.map(|name| name_key(name.as_bytes()).unwrap());
        assert!(keys.is_sorted_by(|a, b| a < b));
        assert!(name_key(&[b'x'; 64]).is_some());
        assert_eq!(name_key(&[b'x'; 65]), None);
    }

    /// How often `count` numbers are listed in a workspace of `words`, where each listing has this
    /// cost, and what came of it.
    fn listings_of(cost: u64, count: u64, words: usize) -> (u32, Result<(), Fault>) {
        let mut calls = 0;
        let list = |report: &mut dyn FnMut(u64)| {
            calls += 1;
            (0..count).for_each(report);
            Ok(())
        };
        let result = Sorter::new(&mut std::vec![0; words]).ascending(cost, list, |_| Ok(()));
        (calls, result)
    }

    fn listings(count: u64, words: usize) -> (u32, Result<(), Fault>) {
        listings_of(0, count, words)
    }

    #[test]
    fn lists_about_twice_for_each_time_that_the_workspace_is_full() {
        assert_eq!(listings(100, 101), (1, Ok(())));
        // A full workspace is halved when one more comes, each time for good.
        assert_eq!(listings(1000, 100), (19, Ok(())));
        // Less than 24 words are as good as 24.
        assert_eq!(listings(100, 0).0, listings(100, 24).0);
        assert!(listings(100, 32).0 < listings(100, 24).0);
    }

    #[test]
    fn gives_up_when_too_much_is_listed_again() {
        // 12 numbers at a time: 5,000 are listed 416 times, which makes just less than 2^21.
        assert_eq!(listings(5000, 24), (416, Ok(())));
        let (calls, result) = listings(6000, 24);
        assert_eq!(result, Err(Unfit::Workspace(6000).into()));
        assert_eq!(u64::from(calls), (1 << 21) / 6000 + 1);
        // Where one listing is that long, eight are too many.
        let (calls, result) = listings(1 << 20, 8);
        assert_eq!(result, Err(Unfit::Workspace(1 << 20).into()));
        assert_eq!(calls, 9);
        // So they are of what costs as much.
        let (calls, result) = listings_of(1 << 20, 200, 24);
        assert_eq!(result, Err(Unfit::Workspace(200).into()));
        assert_eq!(calls, 9);
    }

    /// What many sorts cost is counted together: else each could list again for free.
    #[test]
    fn sorts_have_one_budget() {
        let mut workspace = [0; 24];
        let mut sorter = Sorter::new(&mut workspace);
        let mut keys = 0u64;
        let done: Result<(), Fault> = (0..1 << 10).try_for_each(|_| {
            let list = |report: &mut dyn FnMut(u64)| {
                keys += 2000;
                (0..2000).for_each(report);
                Ok(())
            };
            sorter.ascending(0, list, |_| Ok(()))
        });
        assert_eq!(done, Err(Unfit::Workspace(2000).into()));
        assert!(keys <= FREE + 2000, "{keys}");
    }
}

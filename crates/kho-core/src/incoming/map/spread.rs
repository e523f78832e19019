//! How folios are spread over the address space, in little memory.

use kho_hal::PhysRange;

/// Most marks. A part of the folios is found to within a few percent of all of them.
const MARKS: usize = 32;

/// Addresses between which there are equally many folios. Noted down while all folios are counted
/// once, by ascending address: when there are too many marks, every second one is dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// `marks[i]` is where folio number `i * step` starts.
    marks: [u64; MARKS],
    len: usize,
    step: u64,
    /// Number of folios.
    folios: u64,
    /// The end of the last folio.
    end: u64,
}

impl Spread {
    pub(crate) const NONE: Self = Self {
        marks: [0; MARKS],
        len: 0,
        step: 1,
        folios: 0,
        end: 0,
    };

    /// Number of folios.
    pub(crate) fn folios(&self) -> u64 {
        self.folios
    }

    /// Counts `folios` folios in `range`, which lies above all that were counted. Where they are in
    /// it is not known; they are taken to be spread evenly.
    #[inline]
    pub(crate) fn add(&mut self, range: PhysRange, folios: u64) {
        let before = self.folios;
        self.folios += folios;
        self.end = range.end().as_u64();
        while self.len as u64 * self.step < self.folios {
            self.mark(range, self.len as u64 * self.step - before, folios);
        }
    }

    /// Marks folio number `n` of those in `range`.
    #[cold]
    fn mark(&mut self, range: PhysRange, n: u64, folios: u64) {
        if let Some(mark) = self.marks.get_mut(self.len) {
            *mark = range.start().as_u64() + part(range.size(), n, folios);
            self.len += 1;
            return;
        }
        let (mut from, mut to) = (0, 0);
        while let Some(&mark) = self.marks.get(from) {
            if let Some(place) = self.marks.get_mut(to) {
                *place = mark;
            }
            (from, to) = (from + 2, to + 1);
        }
        (self.len, self.step) = (to, self.step * 2);
    }

    /// An address below which there are about `i` of `n` equal parts of the folios: 0 for `i` = 0, the
    /// end of the address space for `i` = `n`. Ascends with `i`.
    pub(crate) fn split(&self, i: u64, n: u64) -> u64 {
        if i == 0 {
            return 0;
        }
        if i >= n {
            return u64::MAX;
        }
        let folio = part(self.folios, i, n);
        let mark = |i: u64| match self.marks.get(..self.len) {
            Some(marks) => marks.get(i as usize).copied().unwrap_or(self.end),
            None => self.end,
        };
        let before = folio / self.step;
        let (start, end) = (mark(before), mark(before + 1));
        start + part(end.saturating_sub(start), folio % self.step, self.step)
    }
}

/// `i` of `n` parts of `whole`.
fn part(whole: u64, i: u64, n: u64) -> u64 {
    let part = u128::from(whole) * u128::from(i) / u128::from(n.max(1));
    // Not more than all of it.
    u64::try_from(part).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use kho_hal::PhysAddr;
    use proptest::prelude::*;

    use super::*;

    /// 32 marks for 64 folios, which lie in two places: every second one is known exactly, and
    /// one between two is half way.
    #[test]
    fn folios_between_two_marks() {
        let mut spread = Spread::NONE;
        for start in [0, 1 << 40] {
            let range = PhysRange::new(PhysAddr::new(start), 32 << 12);
            spread.add(range.unwrap(), 32);
        }
        assert_eq!(spread.split(1, 64), 1 << 12);
        assert_eq!(spread.split(30, 64), 30 << 12);
        assert_eq!(spread.split(32, 64), 1 << 40);
        assert_eq!(spread.split(63, 64), (1 << 40) + (31 << 12));
    }

    proptest! {
        /// Parts ascend, and of single folios each has about as many as the others.
        #[test]
        fn parts_are_about_equal(
            gaps in prop::collection::vec(prop_oneof![Just(0u64), 0u64..5, 0u64..1 << 20], 1..2000),
            n in 1u64..9,
        ) {
            let mut spread = Spread::NONE;
            let (mut at, mut starts) = (0, std::vec::Vec::new());
            for gap in gaps {
                at += gap;
                spread.add(PhysRange::new(PhysAddr::new(at << 12), 4096).unwrap(), 1);
                starts.push(at << 12);
                at += 1;
            }
            prop_assert_eq!(spread.folios(), starts.len() as u64);
            let bounds: std::vec::Vec<_> = (0..=n).map(|i| spread.split(i, n)).collect();
            prop_assert!(bounds.is_sorted());
            let (first, last) = (bounds[0], bounds[n as usize]);
            prop_assert_eq!((first, last), (0, u64::MAX));
            let equal = starts.len() as f64 / n as f64;
            for pair in bounds.windows(2) {
                let part = starts.iter().filter(|at| (pair[0]..pair[1]).contains(at)).count();
                // The marks are exact; between two of them folios are taken to be spread evenly.
                let step = spread.step as f64;
                prop_assert!((part as f64 - equal).abs() <= 2.0 * step + 1.0, "{part} of {equal}");
            }
        }
    }
}

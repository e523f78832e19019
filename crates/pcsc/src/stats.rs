//! Counters.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// What happened so far. Every read is exactly one of hit, miss, uncacheable and bypassed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads answered without the hardware. Counted without a lock prefix, which would cost more
    /// than the read: of hits on one function by several CPUs at the same moment, one is counted.
    pub hits: u64,
    /// Reads of bytes that may be cached and were not known.
    pub misses: u64,
    /// Reads of bytes of which one may not be cached.
    pub uncacheable: u64,
    /// Reads that did not ask the cache: of functions that are not in it or not settled after a
    /// reset, while it is off, or through [`crate::Bypass`].
    pub bypassed: u64,
    /// Writes.
    pub writes: u64,
    /// Invalidations: two for each write to a function in the cache.
    pub invalidations: u64,
    /// Resets of one function each, by whatever cause.
    pub resets: u64,
    /// Reads that reached the hardware, those of the inference and of checks included.
    pub hardware_reads: u64,
    /// Clock ticks spent in hardware reads; zero without a clock.
    pub hardware_ticks: u64,
    /// Clock ticks spent in hits; zero without a clock.
    pub hit_ticks: u64,
}

impl Stats {
    /// Reads of any outcome.
    pub const fn reads(&self) -> u64 {
        self.hits + self.misses + self.uncacheable + self.bypassed
    }

    /// Hits in tenths of a percent of all reads; 0 without reads.
    pub const fn hit_permille(&self) -> u64 {
        match self.reads() {
            0 => 0,
            reads => self.hits.saturating_mul(1000) / reads,
        }
    }

    /// The counters since an earlier moment.
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            hits: self.hits.wrapping_sub(earlier.hits),
            misses: self.misses.wrapping_sub(earlier.misses),
            uncacheable: self.uncacheable.wrapping_sub(earlier.uncacheable),
            bypassed: self.bypassed.wrapping_sub(earlier.bypassed),
            writes: self.writes.wrapping_sub(earlier.writes),
            invalidations: self.invalidations.wrapping_sub(earlier.invalidations),
            resets: self.resets.wrapping_sub(earlier.resets),
            hardware_reads: self.hardware_reads.wrapping_sub(earlier.hardware_reads),
            hardware_ticks: self.hardware_ticks.wrapping_sub(earlier.hardware_ticks),
            hit_ticks: self.hit_ticks.wrapping_sub(earlier.hit_ticks),
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.hit_permille();
        writeln!(f, "Cache Hits: {}", self.hits)?;
        writeln!(f, "Cache Misses: {}", self.misses)?;
        writeln!(f, "Uncachable Reads: {}", self.uncacheable)?;
        writeln!(f, "Bypassed Reads: {}", self.bypassed)?;
        writeln!(f, "Writes: {}", self.writes)?;
        writeln!(f, "Cache Invalidations: {}", self.invalidations)?;
        writeln!(f, "Device Resets: {}", self.resets)?;
        writeln!(f, "Hardware Reads: {}", self.hardware_reads)?;
        write!(f, "Hit Rate: {}.{}%", rate / 10, rate % 10)?;
        if self.hit_ticks != 0 || self.hardware_ticks != 0 {
            write!(f, "\nHit Ticks: {}", self.hit_ticks)?;
            write!(f, "\nHardware Ticks: {}", self.hardware_ticks)?;
        }
        Ok(())
    }
}

/// The counters as they run; per function, so that CPUs seldom meet.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) uncacheable: Counter,
    pub(crate) bypassed: Counter,
    pub(crate) writes: Counter,
    pub(crate) invalidations: Counter,
    pub(crate) resets: Counter,
    pub(crate) hardware_reads: Counter,
    pub(crate) hardware_ticks: Counter,
    pub(crate) hit_ticks: Counter,
}

impl Counters {
    pub(crate) const fn new() -> Self {
        Self {
            hits: Counter::new(),
            misses: Counter::new(),
            uncacheable: Counter::new(),
            bypassed: Counter::new(),
            writes: Counter::new(),
            invalidations: Counter::new(),
            resets: Counter::new(),
            hardware_reads: Counter::new(),
            hardware_ticks: Counter::new(),
            hit_ticks: Counter::new(),
        }
    }

    pub(crate) fn add_to(&self, sum: &mut Stats) {
        sum.hits += self.hits.value();
        sum.misses += self.misses.value();
        sum.uncacheable += self.uncacheable.value();
        sum.bypassed += self.bypassed.value();
        sum.writes += self.writes.value();
        sum.invalidations += self.invalidations.value();
        sum.resets += self.resets.value();
        sum.hardware_reads += self.hardware_reads.value();
        sum.hardware_ticks += self.hardware_ticks.value();
        sum.hit_ticks += self.hit_ticks.value();
    }
}

/// One counter. Orders nothing.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// As [`Counter::bump`], but may lose counts to others that come at the same moment.
    #[inline]
    pub(crate) fn bump_roughly(&self) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(1), Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    /// Each counter another number.
    fn counted(by: u64) -> Counters {
        let counters = Counters::new();
        counters.hits.add(by);
        counters.misses.add(2 * by);
        counters.uncacheable.add(4 * by);
        counters.bypassed.add(9 * by);
        counters.writes.add(17 * by);
        counters.invalidations.add(33 * by);
        counters.resets.add(65 * by);
        counters.hardware_reads.add(129 * by);
        counters.hardware_ticks.add(257 * by);
        counters.hit_ticks.add(513 * by);
        counters
    }

    #[test]
    fn counters_add_up_and_come_apart_again() {
        let (mut sum, mut first, mut second) = <_>::default();
        counted(3).add_to(&mut first);
        counted(1000).add_to(&mut second);
        counted(3).add_to(&mut sum);
        counted(1000).add_to(&mut sum);
        assert_eq!(sum.since(&first), second);
        assert_eq!(sum.since(&second), first);
        let since = sum.since(&sum);
        assert_eq!(since, Stats::default());
        // A counter that wrapped in between.
        let wrapped = Stats { hits: 1, ..first };
        let before = Stats {
            hits: u64::MAX,
            ..first
        };
        assert_eq!(wrapped.since(&before), Stats { hits: 2, ..since });
    }

    #[test]
    fn counters_are_printed_by_name() {
        let mut stats = Stats::default();
        counted(3).add_to(&mut stats);
        // 3 of 3 + 6 + 12 + 27 reads.
        assert_eq!((stats.reads(), stats.hit_permille()), (48, 62));
        let counts = "Cache Hits: 3
Cache Misses: 6
Uncachable Reads: 12
Bypassed Reads: 27
Writes: 51
Cache Invalidations: 99
Device Resets: 195
Hardware Reads: 387
Hit Rate: 6.2%";
        let ticks = "\nHit Ticks: 1539\nHardware Ticks: 771";
        assert_eq!(stats.to_string(), [counts, ticks].concat());
        let unclocked = Stats {
            hit_ticks: 0,
            hardware_ticks: 0,
            ..stats
        };
        assert_eq!(unclocked.to_string(), counts);
        let hits_only = Stats {
            hardware_ticks: 0,
            ..stats
        };
        assert!(
            hits_only
                .to_string()
                .ends_with("\nHit Ticks: 1539\nHardware Ticks: 0")
        );
        assert_eq!(Stats::default().hit_permille(), 0);
    }

    #[test]
    fn one_cpu_loses_no_count() {
        let counter = Counter::new();
        for _ in 0..3 {
            counter.bump();
            counter.bump_roughly();
        }
        assert_eq!(counter.value(), 6);
    }
}

//! Replaying a trace through the cache.

use std::collections::HashMap;
use std::fmt::Write as _;

use kho::hal::{PciConfigAccess, Sbdf};
use kho::pcsc::{Cached, Stats, Unlisted};
use serde_json::{Value, json};

use crate::machine::{PAGE, hand_over, memory, pages};
use crate::oracle::Oracle;
use crate::trace::Event;

/// How often a function that cannot be added is tried.
const TRIES: u32 = 3;

/// What happened in one phase.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// The cache's counters.
    pub stats: Stats,
    /// Answers that differ from the recorded ones.
    pub stale: u64,
    /// The first of them, in words.
    pub first_stale: Option<String>,
}

/// Replays a whole trace through a fresh cache.
pub fn run(trace: &[Event], unlisted: Unlisted) -> Vec<Phase> {
    let oracle = Oracle::new(trace);
    let cache = Cached::new(&oracle);
    Replay::new(&oracle, &cache, unlisted).events("boot", trace)
}

/// Replays a trace up to its last phase, saves the cache and restores it in another program,
/// and replays the last phase there. Between the two stands a phase `restore`: every function
/// that was in the cache is added again.
pub fn run_with_kexec(trace: &[Event], unlisted: Unlisted) -> Result<Vec<Phase>, String> {
    let is_access = |event: &Event| !matches!(event, Event::Mark(_));
    let end = trace.iter().rposition(is_access).map_or(0, |last| last + 1);
    let mark = trace.iter().take(end).rposition(|event| !is_access(event));
    let Some((mark, Event::Mark(name))) = mark.and_then(|mark| Some((mark, trace.get(mark)?)))
    else {
        return Err("a kexec needs a trace of two phases".to_owned());
    };
    let (before, after) = (trace.get(..mark), trace.get(mark + 1..end));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let oracle = Oracle::new(trace);
    let half = (oracle.functions() as u64 * 4 + 1024) * PAGE.bytes();
    let memory = memory(2 * half)?;

    let first = pages(&memory, 0, half);
    let cache = Cached::in_pages(&oracle, &memory, &first, PAGE);
    let mut phases = Replay::new(&oracle, &cache, unlisted).events("boot", before);
    let saved = hand_over(&cache, &memory, &first, |_| ())?;
    let second = pages(&memory, half, half);
    let next = Cached::in_pages(&oracle, &memory, &second, PAGE).with_saved(saved);
    let mut restore = Phase::new("restore");
    for function in oracle.places() {
        if cache.contains(function) {
            // What cannot be added is passed through.
            let _ = next.add_with(function, unlisted);
        }
    }
    restore.stats = next.stats();
    phases.push(restore);
    phases.extend(Replay::new(&oracle, &next, unlisted).events(name, after));
    Ok(phases)
}

/// A cache over an oracle, and what to tell it.
pub struct Replay<'c, 'm> {
    oracle: &'c Oracle,
    cache: &'c Cached<'m, &'c Oracle>,
    unlisted: Unlisted,
    tries: HashMap<Sbdf, u32>,
}

impl<'c, 'm> Replay<'c, 'm> {
    /// Nothing replayed yet.
    pub fn new(oracle: &'c Oracle, cache: &'c Cached<'m, &'c Oracle>, unlisted: Unlisted) -> Self {
        let tries = HashMap::new();
        Self {
            oracle,
            cache,
            unlisted,
            tries,
        }
    }

    /// Replays these events; `name` is the phase that they begin in.
    pub fn events(&mut self, name: &str, events: &[Event]) -> Vec<Phase> {
        let mut phases = Vec::new();
        let mut phase = Phase::new(name);
        let mut before = self.cache.stats();
        for event in events {
            match event {
                Event::Mark(name) => {
                    let now = self.cache.stats();
                    phase.stats = now.since(&before);
                    before = now;
                    phases.push(core::mem::replace(&mut phase, Phase::new(name)));
                }
                Event::Read(function, at, value) => {
                    self.oracle.expect(*function, *at, *value);
                    let answer = self.cache.read(*function, *at);
                    self.oracle.learn(*function, *at, *value);
                    if answer != Ok(*value) {
                        phase.stale += 1;
                        phase.first_stale.get_or_insert_with(|| {
                            let offset = at.offset();
                            format!("{function} {offset:#x}: {answer:x?} for {value:#x}")
                        });
                    }
                    if *value != at.width().mask() {
                        self.add(*function);
                    }
                }
                Event::Write(function, at, value) => {
                    // The oracle takes every write.
                    let _ = self.cache.write(*function, *at, *value);
                    self.oracle.learn(*function, *at, *value);
                }
            }
        }
        phase.stats = self.cache.stats().since(&before);
        phases.push(phase);
        phases
    }

    /// The function is there: takes it into the cache, as enumeration would.
    fn add(&mut self, function: Sbdf) {
        if self.cache.contains(function) {
            return;
        }
        let tries = self.tries.entry(function).or_default();
        if *tries < TRIES {
            *tries += 1;
            if self.cache.add_with(function, self.unlisted).is_ok() {
                *tries = 0;
            }
        }
    }
}

impl Phase {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            stats: Stats::default(),
            stale: 0,
            first_stale: None,
        }
    }
}

/// The counters as JSON.
pub fn json(phases: &[Phase]) -> Value {
    let phases: Vec<Value> = phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name,
                "reads": phase.stats.reads(),
                "hits": phase.stats.hits,
                "misses": phase.stats.misses,
                "uncacheable": phase.stats.uncacheable,
                "bypassed": phase.stats.bypassed,
                "writes": phase.stats.writes,
                "hardware_reads": phase.stats.hardware_reads,
                "stale": phase.stale,
            })
        })
        .collect();
    json!({ "phases": phases })
}

/// The counters as a table.
pub fn text(phases: &[Phase]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<14}{:>8}{:>8}{:>8}{:>8}{:>12}{:>9}{:>8}{:>9}{:>6}",
        "phase",
        "reads",
        "hits",
        "rate",
        "misses",
        "uncacheable",
        "bypassed",
        "writes",
        "hw reads",
        "stale"
    );
    for phase in phases {
        let stats = &phase.stats;
        let rate = stats.hit_permille();
        let _ = writeln!(
            out,
            "{:<14}{:>8}{:>8}{:>7}%{:>8}{:>12}{:>9}{:>8}{:>9}{:>6}",
            phase.name,
            stats.reads(),
            stats.hits,
            format!("{}.{}", rate / 10, rate % 10),
            stats.misses,
            stats.uncacheable,
            stats.bypassed,
            stats.writes,
            stats.hardware_reads,
            phase.stale
        );
        if let Some(first) = &phase.first_stale {
            let _ = writeln!(out, "  stale first: {first}");
        }
    }
    out
}

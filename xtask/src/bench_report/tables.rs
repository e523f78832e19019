//! The figures as tables.

use std::fmt::Write;

use super::results::{Benchmark, Results};

/// A comparison, and how it is meant to come out.
pub struct Target {
    /// What is compared.
    pub what: &'static str,
    /// Group and name of ours.
    pub ours: (&'static str, &'static str),
    /// Group and name of what it is held against.
    pub peer: (&'static str, &'static str),
    /// At most this part of the peer's time.
    pub at_most: f64,
}

const fn target(
    what: &'static str,
    ours: (&'static str, &'static str),
    peer: (&'static str, &'static str),
    at_most: f64,
) -> Target {
    Target {
        what,
        ours,
        peer,
        at_most,
    }
}

/// All that has a target. Two threads that are 1.8 times as fast take 1 / 1.8 = 0.56 of the time.
pub const TARGETS: [Target; 16] = [
    target(
        "preserve, in no order",
        ("preserve random", "one by one"),
        ("preserve random", "Linux"),
        0.5,
    ),
    target(
        "preserve, ascending, batch",
        ("preserve sequential", "batch"),
        ("preserve sequential", "Linux"),
        0.15,
    ),
    target(
        "preserve a run",
        ("preserve sequential", "run"),
        ("preserve sequential", "Linux"),
        0.15,
    ),
    target(
        "unpreserve, in no order",
        ("unpreserve random", "one by one"),
        ("unpreserve random", "Linux"),
        0.5,
    ),
    target(
        "unpreserve, ascending, batch",
        ("unpreserve sequential", "batch"),
        ("unpreserve sequential", "Linux"),
        0.15,
    ),
    target(
        "folios, dense",
        ("take over dense", "folios"),
        ("take over dense", "Linux"),
        0.5,
    ),
    target(
        "folios, every other page",
        ("take over alternating", "folios"),
        ("take over alternating", "Linux"),
        0.5,
    ),
    target(
        "folios, half of them by chance",
        ("take over scattered", "folios"),
        ("take over scattered", "Linux"),
        0.5,
    ),
    target(
        "extents of a dense map, to its folios",
        ("take over dense", "extents"),
        ("take over dense", "folios"),
        0.01,
    ),
    target(
        "check, scattered, to a walk",
        ("take over scattered", "check"),
        ("take over scattered", "folios"),
        2.0,
    ),
    target(
        "check, spread, to a walk",
        ("take over spread", "check"),
        ("take over spread", "folios"),
        2.0,
    ),
    target(
        "two threads, half of the leaves each",
        ("preserve by threads", "two, half of the leaves each"),
        ("preserve by threads", "one, all leaves"),
        0.56,
    ),
    target(
        "two threads, every other word each",
        ("preserve by threads", "two, every other word each"),
        ("preserve by threads", "one, a page of each word"),
        0.56,
    ),
    target(
        "folios by two threads, dense",
        ("take over dense by threads", "two"),
        ("take over dense by threads", "one"),
        0.56,
    ),
    target(
        "folios by two threads, scattered",
        ("take over scattered by threads", "two"),
        ("take over scattered by threads", "one"),
        0.56,
    ),
    target(
        "a hit in the configuration-space cache",
        ("read", "hit"),
        ("read", "whole read, published way"),
        0.6,
    ),
];

impl Target {
    /// Time of ours by time of the peer, if both were measured.
    pub fn ratio(&self, results: &Results) -> Option<f64> {
        let ours = results.get(self.ours.0, self.ours.1)?;
        Some(ours / results.get(self.peer.0, self.peer.1)?)
    }
}

/// All tables.
pub fn all(results: &Results, machine: &str, stack: &str) -> String {
    let mut page = format!("Measured on {machine}.\n\n");
    page += "![Ratios](performance.svg)\n\n";
    targets(results, &mut page);
    groups(results, &mut page);
    sizes(results, &mut page);
    page += "\n### Stack\n\n| call | bytes |\n| --- | --- |\n";
    for line in stack.lines() {
        let (call, bytes) = line.split_once('\t').unwrap_or((line, ""));
        let _ = writeln!(page, "| `{call}` | {bytes} |");
    }
    page
}

fn targets(results: &Results, page: &mut String) {
    *page += "### Targets\n\n| job | ours, ns | peer, ns | ratio | target | |\n";
    *page += "| --- | --- | --- | --- | --- | --- |\n";
    for target in &TARGETS {
        let ours = results.get(target.ours.0, target.ours.1);
        let peer = results.get(target.peer.0, target.peer.1);
        let (Some(ours), Some(peer)) = (ours, peer) else {
            let _ = writeln!(
                page,
                "| {} | | | | {} | not measured |",
                target.what, target.at_most
            );
            continue;
        };
        let ratio = ours / peer;
        let met = if ratio <= target.at_most {
            "met"
        } else {
            "not met"
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {met} |",
            target.what,
            figure(ours),
            figure(peer),
            figure(ratio),
            target.at_most
        );
    }
}

/// What was measured at one size: who does a job, in how many nanoseconds.
fn groups(results: &Results, page: &mut String) {
    *page += "\n### Each job, in ns an element\n\n| job | |\n| --- | --- |\n";
    for group in groups_of(results, |benchmark| benchmark.size.is_none()) {
        let line: Vec<_> = group
            .iter()
            .map(|found| format!("{} {}", found.name, figure(found.each)))
            .collect();
        let _ = writeln!(page, "| {} | {} |", group[0].group, line.join(", "));
    }
}

/// What was measured at several sizes: the time an element stays what it is where the whole is
/// linear.
fn sizes(results: &Results, page: &mut String) {
    *page += "\n### By size, in ns an element\n\n| job | size: time |\n| --- | --- |\n";
    for group in groups_of(results, |benchmark| benchmark.size.is_some()) {
        for jobs in group.chunk_by(|a, b| a.name == b.name) {
            let line: Vec<_> = jobs
                .iter()
                .map(|found| {
                    let size = found.size.as_deref().unwrap_or_default();
                    format!("{size}: {}", figure(found.each))
                })
                .collect();
            let job = [jobs[0].group.as_str(), &jobs[0].name].join(", ");
            let job = job.trim_end_matches(", ");
            let _ = writeln!(page, "| {job} | {} |", line.join("; "));
        }
    }
}

/// The benchmarks that `wanted` takes, by group.
fn groups_of(results: &Results, wanted: impl Fn(&Benchmark) -> bool) -> Vec<Vec<&Benchmark>> {
    let all: Vec<_> = results.0.iter().filter(|found| wanted(found)).collect();
    all.chunk_by(|a, b| a.group == b.group)
        .map(<[_]>::to_vec)
        .collect()
}

/// A number in three digits.
pub fn figure(number: f64) -> String {
    let digits = match number {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.01.. => 3,
        _ => 5,
    };
    format!("{number:.digits$}")
}

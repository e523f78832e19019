//! Each mutant, switched on for the tests that reach it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;

use super::build::Built;
use super::list::Mutant;
use super::tests::{Test, execute, in_parallel};
use super::weave::Place;
use super::{Options, Places};

/// What the tests say of a mutant.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A test fails.
    Caught(String),
    /// A test does not end.
    Hangs(String),
    /// The tests that reach it pass, as many as there is time for.
    Missed(usize),
    /// Only the compiler evaluates it.
    Constant,
    /// It is no program.
    Unviable,
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Caught(_) => "caught",
            Self::Hangs(_) => "hangs",
            Self::Missed(_) => "missed",
            Self::Constant => "constant",
            Self::Unviable => "unviable",
        }
    }
}

/// Tests up to this long are run together: starting a program takes as long.
const SHORT: Duration = Duration::from_millis(30);

/// Runs the tests for each mutant and writes a line for each as soon as it is known.
pub fn all(
    places: &Places,
    mutants: &[Mutant],
    built: &Built,
    tests: &[Test],
    options: &Options,
) -> Result<Vec<Outcome>> {
    let mut reaching: BTreeMap<usize, Vec<&Test>> = BTreeMap::new();
    for test in tests {
        for &id in &test.reached {
            reaching.entry(id).or_default().push(test);
        }
    }
    let out = Mutex::new(File::create(places.results.join("outcomes"))?);
    let catches = Catches::default();
    in_parallel(options.jobs, mutants.len(), |id| {
        let outcome = match built.places[id] {
            Place::Lost => Outcome::Unviable,
            Place::Constant => Outcome::Constant,
            Place::Woven if built.unviable.contains(&id) => Outcome::Unviable,
            Place::Woven => {
                let tests = reaching.get(&id).map_or(&[][..], Vec::as_slice);
                one(
                    places,
                    (id, &mutants[id].file),
                    tests,
                    &catches,
                    options.budget,
                )?
            }
        };
        let detail = match &outcome {
            Outcome::Caught(test) | Outcome::Hangs(test) => test.clone(),
            Outcome::Missed(tests) => format!("{tests} tests"),
            Outcome::Constant | Outcome::Unviable => String::new(),
        };
        let line = format!("{}\t{detail}\t{}\n", outcome.name(), mutants[id].name);
        let mut out = out.lock().unwrap_or_else(|e| e.into_inner());
        out.write_all(line.as_bytes())?;
        Ok(outcome)
    })
}

/// How many mutants of a file each test has caught: it may well catch the next.
#[derive(Default)]
struct Catches(Mutex<BTreeMap<(String, String), u32>>);

impl Catches {
    fn of(&self, file: &str, batch: &[&Test]) -> u32 {
        let counts = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let count = |test: &&Test| counts.get(&(file.into(), test.name.clone()));
        batch.iter().filter_map(count).sum()
    }

    fn add(&self, file: &str, test: &Test) {
        let mut counts = self.0.lock().unwrap_or_else(|e| e.into_inner());
        *counts.entry((file.into(), test.name.clone())).or_default() += 1;
    }
}

fn one(
    places: &Places,
    (id, file): (usize, &str),
    tests: &[&Test],
    catches: &Catches,
    mut budget: Duration,
) -> Result<Outcome> {
    // Short ones by program, then each of the others.
    let mut short: BTreeMap<&Path, Vec<&Test>> = BTreeMap::new();
    let mut batches: Vec<Vec<&Test>> = Vec::new();
    for test in tests {
        match test.took <= SHORT {
            true => short.entry(&test.program).or_default().push(test),
            false => batches.push(vec![test]),
        }
    }
    batches.extend(short.into_values());
    // The least time for what is likely to be caught.
    let time = |batch: &[&Test]| batch.iter().map(|test| test.took).sum::<Duration>();
    batches.sort_by_cached_key(|batch| time(batch) / (1 + catches.of(file, batch)));
    let number = id.to_string();
    let mut passed = 0;
    for batch in &batches {
        let (Some(first), Some(left)) = (batch.first(), budget.checked_sub(time(batch))) else {
            continue;
        };
        budget = left;
        let names: Vec<&str> = batch.iter().map(|test| test.name.as_str()).collect();
        let limit = time(batch) * 5 + Duration::from_secs(10);
        let program = (first.program.as_path(), first.folder.as_path());
        let status = execute(places, program, &names, ("MUTANT", number.as_ref()), limit)?;
        if !status.success() {
            catches.add(file, first);
            let name = match batch.len() {
                1 => first.name.clone(),
                more => format!("one of {more} with {}", first.name),
            };
            // `timeout` ends itself by the signal that it sends.
            return Ok(match status.signal() {
                Some(9) => Outcome::Hangs(name),
                _ => Outcome::Caught(name),
            });
        }
        passed += batch.len();
    }
    Ok(Outcome::Missed(passed))
}

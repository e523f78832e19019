//! How many mutants the tests catch: all that cargo-mutants lists, in one build.
//!
//! cargo-mutants builds the tests anew for each mutant, which is days for this workspace. Here each
//! mutant becomes a branch that a number switches on, as in "mutant schemata" (Untch, Offutt and
//! Harrold, 1993): the workspace is copied, the branches are woven in, and the tests are built once.
//! They run once to see which mutants each reaches; then each mutant is switched on in turn, for
//! the tests that reach it, the shortest first, up to the first that fails.
//!
//! # Not seen
//! What is worked out while it is compiled (constants, sizes of arrays), and what runs only there:
//! the branches are not taken. Those are listed as constants, for `cargo mutants` to run.

mod build;
mod list;
mod run;
mod sites;
mod tests;
mod weave;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result};
use lexopt::prelude::*;

use list::Mutant;
use run::Outcome;

/// The libraries and `kho-inspect`: what is published.
const PACKAGES: [&str; 9] = [
    "kho-abi",
    "kho-adapters",
    "kho-core",
    "kho-draw",
    "kho-hal",
    "kho-inspect",
    "kho-pci-lu",
    "kho-pcsc",
    "kho-vm-memory",
];

/// What to do.
pub struct Options {
    packages: Vec<String>,
    only: Option<PathBuf>,
    jobs: usize,
    longest: Duration,
    budget: Duration,
}

impl Options {
    /// The options of the command line.
    pub fn parse(mut args: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut options = Self {
            packages: Vec::new(),
            only: None,
            jobs: 2,
            longest: Duration::from_secs(600),
            budget: Duration::MAX,
        };
        while let Some(arg) = args.next()? {
            match arg {
                Short('p') | Long("package") => options.packages.push(args.value()?.string()?),
                Long("only") => options.only = Some(args.value()?.into()),
                Long("jobs") => options.jobs = args.value()?.parse()?,
                Long("longest") => {
                    options.longest = Duration::from_secs(args.value()?.parse()?);
                }
                Long("budget") => {
                    options.budget = Duration::from_secs(args.value()?.parse()?);
                }
                other => return Err(other.unexpected()),
            }
        }
        if options.packages.is_empty() {
            options.packages = PACKAGES.map(String::from).to_vec();
        }
        Ok(options)
    }
}

/// Where the copy of the workspace and the results are.
struct Places {
    root: PathBuf,
    tree: PathBuf,
    target: PathBuf,
    results: PathBuf,
}

/// Weaves, builds, runs and counts. The result is `target/mutants/outcomes`, a line for each mutant.
pub fn run(options: &Options) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().context("xtask is in the workspace")?;
    let folder = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let folder = folder.join("mutants");
    let places = Places {
        root: root.to_owned(),
        tree: folder.join("tree"),
        target: folder.join("target"),
        results: folder.clone(),
    };
    fs::create_dir_all(&folder)?;
    let mut mutants = list::all(root, &options.packages)?;
    if let Some(only) = &options.only {
        let only = fs::read_to_string(only)?;
        mutants.retain(|mutant| only.lines().any(|line| line.ends_with(&mutant.name)));
    }
    println!("{} mutants", mutants.len());
    let built = build::build(&places, &mutants)?;
    let tests = tests::trace(&places, &built.programs, options)?;
    let outcomes = run::all(&places, &mutants, &built, &tests, options)?;
    summarize(&mutants, &outcomes);
    Ok(true)
}

/// A row for each package: what was caught, of what can be.
fn summarize(mutants: &[Mutant], outcomes: &[Outcome]) {
    let mut rows: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
    for (mutant, outcome) in mutants.iter().zip(outcomes) {
        for name in [mutant.package.as_str(), "all"] {
            *rows
                .entry(name)
                .or_default()
                .entry(outcome.name())
                .or_default() += 1;
        }
    }
    println!(
        "| package | mutants | caught | of these hang | survive | constants | do not build | |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (package, row) in rows {
        let [caught, hang, missed, constant, unviable] =
            ["caught", "hangs", "missed", "constant", "unviable"]
                .map(|name| row.get(name).copied().unwrap_or(0));
        let caught = caught + hang;
        let percent = f64::from(caught) * 100.0 / f64::from((caught + missed).max(1));
        println!(
            "| `{package}` | {} | {caught} | {hang} | {missed} | {constant} | {unviable} | {percent:.1} % |",
            caught + missed + constant + unviable,
        );
    }
}

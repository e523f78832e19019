//! What the benchmarks say, as `docs/performance.md` and a chart.
//!
//! The page has prose, which people write, and figures between two marks, which only come from here.

mod chart;
mod results;
mod tables;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use lexopt::prelude::*;

use results::Results;

const PAGE: &str = "docs/performance.md";
const CHART: &str = "docs/performance.svg";
const BEGIN: &str = "<!-- figures: cargo xtask bench-report -->\n";
const END: &str = "<!-- end of figures -->";

/// What to do.
pub struct Options {
    run: bool,
}

impl Options {
    /// The options of the command line.
    pub fn parse(mut args: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut options = Self { run: true };
        while let Some(arg) = args.next()? {
            match arg {
                Long("no-run") => options.run = false,
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }
}

/// Runs the benchmarks, if that is asked for, and writes the page and the chart.
pub fn run(options: &Options) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().context("xtask is in the workspace")?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let results = target.join("criterion");
    if options.run {
        if results.exists() {
            // Nothing of another run is to be taken for this one's.
            fs::remove_dir_all(&results)?;
        }
        cargo(
            root,
            &["bench", "-p", "kho-benches", "-p", "kho-pcsc", "--benches"],
        )?;
    }
    let results = Results::read(&results)?;
    let stack = cargo(
        root,
        &[
            "run",
            "-q",
            "--release",
            "-p",
            "kho-benches",
            "--bin",
            "stack",
        ],
    )?;
    let page = root.join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| PAGE)?;
    let (before, rest) = text.split_once(BEGIN).context("no mark of the figures")?;
    let (_, after) = rest.split_once(END).context("no mark of their end")?;
    let figures = tables::all(&results, &machine(), &stack);
    fs::write(&page, format!("{before}{BEGIN}\n{figures}\n{END}{after}"))?;
    fs::write(root.join(CHART), chart::draw(&results))?;
    Ok(true)
}

/// Runs cargo; its error output is shown, its output returned.
fn cargo(root: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    let output = command
        .args(args)
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cargo {} failed", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the benchmarks ran on.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("an unknown CPU", |model| {
        model.trim_start_matches(['\t', ':', ' '])
    });
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let compiler = Command::new("rustc").arg("--version").output();
    let compiler = compiler.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let compiler = compiler.unwrap_or_default();
    let compiler = compiler.split(" (").next().unwrap_or_default();
    format!("{count} cores of {model}, {compiler}")
}

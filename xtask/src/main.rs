//! Chores of the workspace: `cargo xtask CHORE`.
#![allow(
    clippy::indexing_slicing,
    reason = "serde_json indexes objects by name, and answers null"
)]

mod bench_report;

use std::process::ExitCode;

use lexopt::prelude::*;

const USAGE: &str = "\
usage: cargo xtask bench-report [OPTIONS]   run the benchmarks, write docs/performance.md

Options of bench-report:
  --no-run   only write it, from the last run's results";

fn main() -> ExitCode {
    let mut args = lexopt::Parser::from_env();
    let chore = match args.next() {
        Ok(Some(Value(chore))) => chore,
        _ => return usage("no chore is given"),
    };
    match chore.to_str() {
        Some("bench-report") => match bench_report::Options::parse(args) {
            Ok(options) => report(bench_report::run(&options)),
            Err(error) => usage(&error.to_string()),
        },
        _ => usage("no such chore"),
    }
}

fn report(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("xtask: {why}\n{USAGE}");
    ExitCode::from(2)
}

//! Chores of the workspace: `cargo xtask CHORE`.
#![allow(
    clippy::indexing_slicing,
    reason = "serde_json indexes objects by name, and answers null"
)]

mod bench_report;
mod interop;
mod mutants;

use std::process::ExitCode;

use lexopt::prelude::*;

const USAGE: &str = "\
usage: cargo xtask CHORE [OPTIONS]

bench-report   run the benchmarks, write docs/performance.md
  --no-run                only write it, from the last run's results

interop        real Linux before us and after us, in QEMU
  --arch x86_64|aarch64   only this architecture
  --scenario NAME         only this scenario; may be given more than once
  --list                  the scenarios, and nothing else
  --capture FOLDER        keep the handovers that the host reads, as core files

mutants        how many mutants the tests catch; needs cargo-mutants, to list them
  -p, --package NAME      only of this package; may be given more than once
  --only FILE             only those that lines of this file end with
  --jobs N                tests at a time: 2 if it is not given
  --longest SECONDS       no test that takes longer: 600 if it is not given
  --budget SECONDS        no more tests of one mutant than take so long together";

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
        Some("interop") => match interop::Options::parse(args) {
            Ok(options) => report(interop::run(&options)),
            Err(error) => usage(&error.to_string()),
        },
        Some("mutants") => match mutants::Options::parse(args) {
            Ok(options) => report(mutants::run(&options)),
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

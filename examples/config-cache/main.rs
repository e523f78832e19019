//! What the configuration-space cache does on a recorded machine, on a dump, and at scale.
//!
//! ```text
//! config-cache [--json] [--unlisted constant|absent] [--kexec] --trace FILE
//! config-cache [--json] DUMP
//! config-cache [--json] [--functions N]
//! ```
//!
//! A trace holds every configuration access of a machine with the value that the device gave, as
//! plain text or compressed with xz. It is replayed through the cache, and every answer is held
//! against the recorded one; with `--kexec`, the cache is saved and restored before the last phase
//! with accesses. A dump is the text that `lspci -xxxx` prints; it shows what may be
//! cached. Without a file, a machine of N simulated functions is saved and restored.
//!
//! # Counters of a trace
//! A phase begins at a `MARK` and has its name; the first is called `boot`. Each read is one of
//! hit, miss (cacheable, not known), uncacheable, or bypassed (function not in the cache, or not
//! seen since a reset). A function is added to the cache when a read first shows that it is there.
//! `hardware_reads` counts everything that reached the device, the cache's own reads included;
//! `stale` the answers that differ from the recorded ones.
//!
//! Exit status: 0 done and nothing stale, 1 otherwise or if a file cannot be read, 2 wrong usage.
#![allow(
    clippy::indexing_slicing,
    reason = "serde_json indexes objects by name, which inserts"
)]

mod dump;
mod machine;
mod oracle;
mod replay;
mod scale;
mod trace;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use kho::pcsc::Unlisted;
use serde_json::Value;

const USAGE: &str = "\
usage: config-cache [--json] [--unlisted constant|absent] [--kexec] --trace FILE
       config-cache [--json] DUMP
       config-cache [--json] [--functions N]";

/// What the command line says.
#[derive(Debug, Default)]
struct Options {
    json: bool,
    unlisted: Unlisted,
    kexec: bool,
    trace: Option<PathBuf>,
    dump: Option<PathBuf>,
    functions: Option<usize>,
}

fn main() -> ExitCode {
    let options = match parse(lexopt::Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("config-cache: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(good) if good => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("config-cache: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked for; whether every answer was right.
fn run(options: &Options) -> Result<bool, String> {
    if let Some(path) = &options.trace {
        let named = |error: String| format!("{}: {error}", path.display());
        let trace = trace::load(path).map_err(named)?;
        let phases = if options.kexec {
            replay::run_with_kexec(&trace, options.unlisted).map_err(named)?
        } else {
            replay::run(&trace, options.unlisted)
        };
        print(&replay::json(&phases), options.json, || {
            replay::text(&phases)
        });
        return Ok(phases.iter().all(|phase| phase.stale == 0));
    }
    if let Some(path) = &options.dump {
        let named = |error: String| format!("{}: {error}", path.display());
        let bytes = std::fs::read(path).map_err(|error| named(error.to_string()))?;
        let facts = dump::facts(&bytes).map_err(named)?;
        print(&facts, options.json, || dump::text(&facts));
        return Ok(true);
    }
    let facts = scale::run(options.functions.unwrap_or(scale::FUNCTIONS))?;
    print(&facts, options.json, || scale::text(&facts));
    Ok(true)
}

/// A reader that has seen enough, such as `head`, is no error.
fn print(facts: &Value, json: bool, text: impl FnOnce() -> String) {
    let page = if json { format!("{facts}\n") } else { text() };
    let _ = std::io::stdout().write_all(page.as_bytes());
}

/// The options, or `None` if help is asked for.
fn parse(mut args: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    while let Some(arg) = args.next()? {
        match arg {
            Long("json") => options.json = true,
            Long("kexec") => options.kexec = true,
            Long("trace") => options.trace = Some(args.value()?.into()),
            Long("functions") => options.functions = Some(args.value()?.parse()?),
            Long("unlisted") => {
                options.unlisted = match args.value()?.to_str() {
                    Some("constant") => Unlisted::Constant,
                    Some("absent") => Unlisted::Absent,
                    Some("pass-through") => Unlisted::PassThrough,
                    _ => return Err("--unlisted is constant, absent or pass-through".into()),
                }
            }
            Short('h') | Long("help") => return Ok(None),
            Value(path) if options.dump.is_none() => options.dump = Some(path.into()),
            _ => return Err(arg.unexpected()),
        }
    }
    let modes = [
        options.trace.is_some(),
        options.dump.is_some(),
        options.functions.is_some(),
    ];
    if modes.iter().filter(|mode| **mode).count() > 1 {
        return Err("a trace, a dump and a number of functions exclude each other".into());
    }
    let of_trace = options.kexec || options.unlisted != Unlisted::PassThrough;
    if of_trace && options.trace.is_none() {
        return Err("--unlisted and --kexec belong to --trace".into());
    }
    Ok(Some(options))
}

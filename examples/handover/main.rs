//! A whole handover on a simulated machine.
//!
//! An outgoing program holds a guest's memory, a reserved region and a note of its own. It
//! preserves them, describes them, and hands over: every object is dropped, only memory stays, and
//! all memory that is not meant to survive is overwritten. The incoming program starts from four
//! numbers, checks everything, takes over, and verifies every byte.
//!
//! `--svg FILE` draws what happened when, and what lies where.
//!
//! Exit status: 0 if everything arrived, 1 if anything differs.
#![allow(clippy::expect_used, reason = "an example may panic")]

mod incoming;
mod machine;
mod outgoing;

use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use kho::hal::PhysRange;
use kho::hal::sim::SimMemory;
use kho_draw::{MemoryMap, Timeline, document};

use crate::machine::RAM;

fn main() -> ExitCode {
    let svg = match svg(lexopt::Parser::from_env()) {
        Ok(svg) => svg,
        Err(error) => {
            eprintln!("handover: {error}\nusage: handover [--svg FILE]");
            return ExitCode::from(2);
        }
    };
    match run(svg.as_deref()) {
        Ok(()) => {
            println!("everything arrived");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("handover: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The file to draw to, if one is given.
fn svg(mut args: lexopt::Parser) -> Result<Option<PathBuf>, lexopt::Error> {
    let mut svg = None;
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("svg") => svg = Some(args.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(svg)
}

fn run(svg: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let log = Log {
        start: Instant::now(),
        steps: RefCell::default(),
    };
    let mut memory = SimMemory::new(RAM.map(machine::range))?;
    // All objects of the first program are dropped when this returns.
    let (boot, survivors) = outgoing::run(&log, &memory)?;
    log.step("kexec", "overwrite all other memory", || {
        let before: u64 = memory.ranges().map(PhysRange::size).sum();
        let kept: u64 = survivors.iter().map(|range| range.size()).sum();
        memory.poison_all_but(survivors, 0x5a);
        Ok::<_, Box<dyn Error>>(((), format!("{} MiB", (before - kept) >> 20)))
    })?;
    println!("{:<10} the next program is told: {boot}", "kexec");
    let map = incoming::run(&log, &memory.freeze(), boot)?;
    if let Some(file) = svg {
        fs::write(file, log.draw(&map))?;
    }
    Ok(())
}

/// What was done, and when.
struct Log {
    start: Instant,
    steps: RefCell<Timeline>,
}

impl Log {
    /// Runs one step and prints what it did and how long that took.
    fn step<T, E>(
        &self,
        side: &str,
        what: &str,
        work: impl FnOnce() -> Result<(T, String), E>,
    ) -> Result<T, E> {
        let start = self.start.elapsed();
        let (result, found) = work()?;
        let took = self.start.elapsed() - start;
        println!("{side:<10} {what:<26} {took:>10.1?}  {found}");
        self.steps.borrow_mut().add(side, what, start, took);
        Ok(result)
    }

    fn draw(&self, map: &MemoryMap) -> String {
        let steps = self.steps.borrow().draw();
        document("A handover on a simulated machine", [steps, map.draw()])
    }
}

//! A whole handover on a simulated machine.
//!
//! An outgoing program holds a guest's memory, a reserved region and a note of its own. It
//! preserves them, describes them, and hands over: every object is dropped, only memory stays, and
//! all memory that is not meant to survive is overwritten. The incoming program starts from four
//! numbers, checks everything, takes over, and verifies every byte.
//!
//! Exit status: 0 if everything arrived, 1 if anything differs.
#![allow(clippy::expect_used, reason = "an example may panic")]

mod incoming;
mod machine;
mod outgoing;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use kho::hal::PhysRange;
use kho::hal::sim::SimMemory;

use crate::machine::RAM;

fn main() -> ExitCode {
    match run() {
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

fn run() -> Result<(), Box<dyn Error>> {
    let mut memory = SimMemory::new(RAM.map(machine::range))?;
    // All objects of the first program are dropped when this returns.
    let (boot, survivors) = outgoing::run(&memory)?;
    step("kexec", "overwrite all other memory", || {
        let before: u64 = memory.ranges().map(PhysRange::size).sum();
        let kept: u64 = survivors.iter().map(|range| range.size()).sum();
        memory.poison_all_but(survivors, 0x5a);
        Ok::<_, Box<dyn Error>>(((), format!("{} MiB", (before - kept) >> 20)))
    })?;
    println!("{:<10} the next program is told: {boot}", "kexec");
    incoming::run(&memory.freeze(), boot)
}

/// Runs one step and prints what it did and how long that took.
fn step<T, E>(
    side: &str,
    what: &str,
    work: impl FnOnce() -> Result<(T, String), E>,
) -> Result<T, E> {
    let start = Instant::now();
    let (result, found) = work()?;
    println!("{side:<10} {what:<26} {:>10.1?}  {found}", start.elapsed());
    Ok(result)
}

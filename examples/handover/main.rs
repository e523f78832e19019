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
    let boot = outgoing::run(&memory)?;
    println!("kexec      only memory and four numbers remain: {boot:x?}");
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

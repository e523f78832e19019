//! PCI devices through a live update, beside the same machine booted cold.
//!
//! A drive behind a switch and two virtual functions of a network card do DMA all the time. The
//! outgoing program preserves them, freezes, and shuts down; the incoming one finds its record,
//! enumerates, and boots with the writes of any boot. An oracle looks at the hardware after each
//! write: Bus Master, power, bus numbers, translation, tags and payload size on the whole way from
//! each device to memory. Twice the same program boots: once under the write policy, once cold.
//!
//! Exit status: 0 if the DMA never broke under the policy, broke without it, and every write goes
//! through after FINISH; 1 otherwise.
#![allow(clippy::expect_used, reason = "an example may panic")]

mod boot;
mod machine;
mod oracle;
mod update;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

use kho::hal::PciError;

use crate::boot::Written;
use crate::machine::Machine;

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("the DMA never broke");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("live-update: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let cold = Machine::live();
    let written = boot::boot(cold.config, &cold.functions);
    let broken = cold.config.broken();
    println!("cold boot    {} writes", written.len());
    println!(
        "             DMA broke {} times, first at {}",
        broken.len(),
        broken.first().ok_or("a cold boot left the DMA alone")?
    );

    let live = Machine::live();
    let update = update::run(&live)?;
    println!("shutdown     {} writes after FREEZE", update.shutdown.len());
    refusals(&update.shutdown);
    println!("live update  {} writes before FINISH", update.boot.len());
    refusals(&update.boot);
    let refused = update.after.iter().filter(|w| w.result.is_err()).count();
    println!(
        "after FINISH {} writes, {refused} refused",
        update.after.len()
    );
    match live.config.broken().first() {
        Some(broken) => Err(format!("DMA broke at {broken}").into()),
        None if refused > 0 => Err("a write was refused after FINISH".into()),
        None => Ok(()),
    }
}

/// What was refused and why, each field once with the functions.
fn refusals(written: &[Written]) {
    let mut fields: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for write in written {
        if let Err(PciError::Refused {
            function,
            field,
            reason,
        }) = write.result
        {
            let functions = fields.entry((field, reason)).or_default();
            if functions.last() != Some(&function.to_string()) {
                functions.push(function.to_string());
            }
        }
    }
    for ((field, reason), functions) in fields {
        println!("  {field}: {reason}");
        println!("      {}", functions.join(" "));
    }
}

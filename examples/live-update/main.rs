//! PCI devices through a live update, beside the same machine booted cold.
//!
//! A drive behind a switch and two virtual functions of a network card do DMA all the time. The
//! outgoing program preserves them, freezes, and shuts down; the incoming one finds its record,
//! enumerates, and boots with the writes of any boot. An oracle looks at the hardware after each
//! write: Bus Master, power, bus numbers, translation, tags and payload size on the whole way from
//! each device to memory. Twice the same program boots: once under the write policy, once cold.
//!
//! `--svg FILE` draws what happened when, and the memory that was handed over.
//!
//! Exit status: 0 if the DMA never broke under the policy, broke without it, and every write goes
//! through after FINISH; 1 otherwise.
#![allow(clippy::expect_used, reason = "an example may panic")]

mod boot;
mod log;
mod machine;
mod oracle;
mod update;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kho::hal::PciError;
use kho_draw::document;

use crate::boot::Written;
use crate::log::Log;
use crate::machine::Machine;

fn main() -> ExitCode {
    let svg = match svg(lexopt::Parser::from_env()) {
        Ok(svg) => svg,
        Err(error) => {
            eprintln!("live-update: {error}\nusage: live-update [--svg FILE]");
            return ExitCode::from(2);
        }
    };
    match run(svg.as_deref()) {
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
    let log = Log::new();
    log.step("cold", "boot, without the policy");
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
    let update = update::run(&log, &live)?;
    println!("shutdown     {} writes after FREEZE", update.shutdown.len());
    refusals(&update.shutdown);
    println!("live update  {} writes before FINISH", update.boot.len());
    refusals(&update.boot);
    let refused = update.after.iter().filter(|w| w.result.is_err()).count();
    println!(
        "after FINISH {} writes, {refused} refused",
        update.after.len()
    );
    if let Some(file) = svg {
        let pictures = [log.draw(), update.map.draw()];
        fs::write(
            file,
            document("PCI devices through a live update", pictures),
        )?;
    }
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

//! The handover in a machine's RAM, as `kho-inspect` reads it on the host.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Bench;
use super::machine::Run;
use super::places;
use super::serial::Boot;

/// What `inspect` finds in the RAM of a machine that is off, in the handover that `boot` took over,
/// with what each known consumer would do with it. Keeps the handover if that is asked for.
pub fn facts(bench: &Bench, name: &str, run: &Run, boot: &Boot) -> Result<Value> {
    let arch = bench.arch;
    let entry = boot.one("bare-metal")?["entry"].as_u64();
    let entry = entry.context("the program does not say where its boot data is")?;
    let mut args: Vec<OsString> = vec![
        "--json".into(),
        "--preflight".into(),
        "--arch".into(),
        arch.name().into(),
        "--base".into(),
        format!("{:#x}", arch.ram_base()).into(),
        "--entry".into(),
        format!("{entry:#x}").into(),
    ];
    if let Some(folder) = &bench.capture {
        let file = folder.join(format!("{name}-{arch}.elf"));
        args.extend(["--extract".into(), "-o".into(), file.into()]);
    }
    args.push(run.ram().into());
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .current_dir(places::root()?)
        .args(["run", "--quiet", "--release", "-p", "kho-inspect", "--"])
        .args(args)
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "inspect: {}", error.trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

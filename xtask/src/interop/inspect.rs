//! The handover in a machine's RAM, as the example `inspect` reads it on the host.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::arch::Arch;
use super::machine::Run;
use super::places;

/// What `inspect` finds in the RAM of a machine that is off. `entry` is the address of the boot
/// parameters or the device tree.
pub fn facts(arch: Arch, run: &Run, entry: u64) -> Result<Value> {
    inspect(&["--json"], arch, run, entry)
}

/// As [`facts`], with what each known consumer would do with it.
pub fn preflight(arch: Arch, run: &Run, entry: u64) -> Result<Value> {
    inspect(&["--json", "--preflight"], arch, run, entry)
}

fn inspect(options: &[&str], arch: Arch, run: &Run, entry: u64) -> Result<Value> {
    let args = [
        "--arch".to_owned(),
        arch.name().to_owned(),
        "--base".to_owned(),
        format!("{:#x}", arch.ram_base()),
        "--entry".to_owned(),
        format!("{entry:#x}"),
    ];
    let args = args.iter().map(OsStr::new);
    let args = options.iter().map(OsStr::new).chain(args);
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .current_dir(places::root()?)
        .args(["run", "--quiet", "--release", "--example", "inspect", "--"])
        .args(args.chain([run.ram().as_os_str()]))
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "inspect: {}", error.trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

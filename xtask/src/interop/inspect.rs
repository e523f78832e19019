//! The handover in a machine's memory, as `kho-inspect` reads it on the host.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

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
    let mut args: Vec<OsString> = vec![
        "--arch".into(),
        arch.name().into(),
        "--base".into(),
        format!("{:#x}", arch.ram_base()).into(),
    ];
    if let Some(folder) = &bench.capture {
        let file = folder.join(format!("{name}-{arch}.elf"));
        args.extend(["--extract".into(), "-o".into(), file.into()]);
    }
    parse(&inspect(boot, args, run.ram())?)
}

/// What `inspect` finds in a dump that QEMU wrote, which says more of itself.
pub fn facts_in_dump(dump: &Path, boot: &Boot) -> Result<Value> {
    parse(&inspect(boot, [], dump)?)
}

/// That `inspect` cannot read a dump, and says `why`.
pub fn refuses(dump: &Path, boot: &Boot, why: &str) -> Result<()> {
    let output = inspect(boot, [], dump)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "status {}", output.status);
    ensure!(error.contains(why), "inspect: {}", error.trim());
    Ok(())
}

fn inspect(boot: &Boot, args: impl IntoIterator<Item = OsString>, image: &Path) -> Result<Output> {
    let entry = boot.one("bare-metal")?["entry"].as_u64();
    let entry = entry.context("the program does not say where its boot data is")?;
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .current_dir(places::root()?)
        .args(["run", "--quiet", "--release", "-p", "kho-inspect", "--"])
        .args(["--json", "--entry", &format!("{entry:#x}")])
        .args(args)
        .arg(image)
        .output()?;
    Ok(output)
}

fn parse(output: &Output) -> Result<Value> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "inspect: {}", error.trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

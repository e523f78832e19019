//! What has to be installed.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::arch::Arch;

/// Says everything that is missing at once.
pub fn check(arches: &[Arch]) -> Result<()> {
    let mut missing = Vec::new();
    for &arch in arches {
        need(&mut missing, &arch.qemu(), "--version", "QEMU 10 or later");
    }
    if arches.contains(&Arch::Aarch64) && cfg!(not(target_arch = "aarch64")) {
        let linker = "aarch64-linux-gnu-gcc";
        need(&mut missing, linker, "--version", "gcc-aarch64-linux-gnu");
    }
    if !missing.is_empty() {
        bail!("missing: {}", missing.join("; "));
    }
    Ok(())
}

fn need(missing: &mut Vec<String>, command: &str, argument: &str, package: &str) {
    let runs = Command::new(command)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if runs.is_err() {
        missing.push(format!("{command} ({package})"));
    }
}

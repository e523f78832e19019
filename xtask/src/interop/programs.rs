//! Builds the programs that run in the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::arch::Arch;
use super::places;

/// The guest's init, a static program.
pub fn guest_init(arch: Arch) -> Result<PathBuf> {
    let triple = format!("{arch}-unknown-linux-gnu");
    let mut cargo = cargo(&places::root()?, &triple, "std,panic_abort")?;
    cargo
        .args(["--package", "kho-interop-guest"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C panic=abort");
    if arch.name() != std::env::consts::ARCH {
        let variable = triple.to_uppercase().replace('-', "_");
        cargo.env(
            format!("CARGO_TARGET_{variable}_LINKER"),
            format!("{arch}-linux-gnu-gcc"),
        );
    }
    run(&mut cargo)?;
    Ok(artifact(&triple)?.join("kho-interop-guest"))
}

/// `cargo build` for a target, with the standard library that is there, or from its source.
fn cargo(workspace: &Path, triple: &str, std: &str) -> Result<Command> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let ask = |what: &[&str]| -> Result<PathBuf> {
        let output = Command::new(&rustc).arg("--print").args(what).output()?;
        ensure!(output.status.success(), "rustc does not know {triple}");
        Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .current_dir(workspace)
        .args(["build", "--quiet", "--release", "--target", triple])
        .arg("--target-dir")
        .arg(build_folder()?);
    if ask(&["target-libdir", "--target", triple])?.exists() {
        return Ok(cargo);
    }
    let source = ask(&["sysroot"])?.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !source.exists() {
        bail!("missing: the standard library of {triple} (rustup target add {triple})");
    }
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .arg(format!("-Zbuild-std={std}"));
    Ok(cargo)
}

fn run(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "{cargo:?}: {status}");
    Ok(())
}

/// Apart from the workspace's own builds, whose flags differ.
fn build_folder() -> Result<PathBuf> {
    Ok(places::target()?.join("interop/build"))
}

fn artifact(triple: &str) -> Result<PathBuf> {
    Ok(build_folder()?.join(triple).join("release"))
}

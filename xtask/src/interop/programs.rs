//! Builds the programs that run in the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use object::{Object, ObjectSegment};

use super::arch::Arch;
use super::places;

/// A program for a guest that has nothing but it: a package of the workspace, linked statically.
pub fn for_guest(arch: Arch, package: &str) -> Result<PathBuf> {
    let triple = format!("{arch}-unknown-linux-gnu");
    let mut cargo = cargo(&places::root()?, &triple, "std,panic_abort")?;
    cargo
        .args(["--package", package])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C panic=abort");
    if arch.name() != std::env::consts::ARCH {
        let variable = triple.to_uppercase().replace('-', "_");
        cargo.env(
            format!("CARGO_TARGET_{variable}_LINKER"),
            format!("{arch}-linux-gnu-gcc"),
        );
    }
    run(&mut cargo)?;
    Ok(artifact(&triple)?.join(package))
}

/// Our program, in the form of a Linux kernel.
pub fn bare_metal(arch: Arch, folder: &Path) -> Result<PathBuf> {
    let triple = format!("{arch}-unknown-none");
    let workspace = places::root()?.join("bare-metal");
    run(&mut cargo(&workspace, &triple, "core,alloc")?)?;
    let elf = fs::read(artifact(&triple)?.join("kho-bare-metal"))?;
    let path = folder.join(format!("bare-metal-{arch}"));
    fs::write(&path, flatten(&elf)?)?;
    Ok(path)
}

/// What a boot loader loads: the memory that an ELF file describes, from address 0 on, as far as
/// the file has contents for it.
fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let elf = object::File::parse(elf)?;
    let mut image = Vec::new();
    for segment in elf.segments() {
        let bytes = segment.data()?;
        let at = segment.address() as usize;
        if image.len() < at + bytes.len() {
            image.resize(at + bytes.len(), 0);
        }
        let place = image.get_mut(at..at + bytes.len());
        place.context("a segment wraps")?.copy_from_slice(bytes);
    }
    Ok(image)
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

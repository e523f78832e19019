//! Building a Linux kernel with KHO and LUO, where there is none.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::interop::arch::Arch;

/// Debian's packages of Linux sources that have KHO as we need it, the newest first.
const PACKAGES: [&str; 2] = ["linux-source-7.3", "linux-source-7.2"];

/// Builds the kernel in `folder`, or finds it built there.
pub fn build(arch: Arch, folder: &Path) -> Result<PathBuf> {
    let (name, image, fragment) = match arch {
        Arch::X86_64 => ("x86_64", "arch/x86/boot/bzImage", X86_64),
        Arch::Aarch64 => ("arm64", "arch/arm64/boot/Image", ARM64),
    };
    let folder = folder.join("linux");
    let built = folder.join(name);
    let image = built.join(image);
    if image.exists() {
        return Ok(image);
    }
    let source = source(&folder)?;
    fs::create_dir_all(&built)?;
    println!("building Linux for {arch}, once");
    let make = |targets: &[&str]| -> Result<()> {
        let mut make = Command::new("make");
        make.current_dir(&source)
            .arg(format!("O={}", built.display()))
            .arg(format!("ARCH={name}"))
            .args(targets);
        if arch.name() != env::consts::ARCH {
            make.arg(format!("CROSS_COMPILE={arch}-linux-gnu-"));
        }
        run(&mut make)
    };
    make(&["tinyconfig"])?;
    let fragment_file = built.join("fragment");
    fs::write(&fragment_file, fragment)?;
    run(Command::new(source.join("scripts/kconfig/merge_config.sh"))
        .current_dir(&source)
        .arg("-m")
        .arg("-O")
        .args([&built, &built.join(".config"), &fragment_file]))?;
    make(&["olddefconfig"])?;
    let config = fs::read_to_string(built.join(".config"))?;
    for option in ["CONFIG_KEXEC_HANDOVER=y", "CONFIG_LIVEUPDATE=y"] {
        let has = config.lines().any(|line| line == option);
        ensure!(has, "{} has no {option}", source.display());
    }
    let cpus = std::thread::available_parallelism()?;
    let target = image.file_name().unwrap_or_default().to_string_lossy();
    make(&[&format!("-j{cpus}"), &target])?;
    Ok(image)
}

const X86_64: &str = include_str!("../../../kernels/x86_64.config");
const ARM64: &str = include_str!("../../../kernels/arm64.config");

/// A tree of Linux sources: what `KHO_LINUX_SRC` names, or Debian's.
fn source(folder: &Path) -> Result<PathBuf> {
    if let Some(source) = env::var_os("KHO_LINUX_SRC") {
        return Ok(PathBuf::from(source));
    }
    fs::create_dir_all(folder)?;
    for package in PACKAGES {
        let source = folder.join(package);
        if source.join("Makefile").exists() {
            return Ok(source);
        }
        if download(package, folder).is_ok() {
            return Ok(source);
        }
    }
    bail!(
        "missing: a Linux kernel with KHO (KHO_KERNELS), its source (KHO_LINUX_SRC), or a Debian \
         suite with {} in the list of apt's sources",
        PACKAGES.join(" or ")
    )
}

/// Unpacks a package of Linux sources; installs nothing.
fn download(package: &str, folder: &Path) -> Result<()> {
    run(Command::new("apt-get")
        .current_dir(folder)
        .args(["download", package]))?;
    let start = format!("{package}_");
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let deb = files.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&start) && name.ends_with(".deb")
    });
    let deb = deb.context("apt-get has downloaded nothing")?;
    run(Command::new("dpkg").arg("-x").arg(&deb).arg(folder))?;
    let archive = folder.join(format!("usr/src/{package}.tar.xz"));
    run(Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(folder))?;
    fs::remove_file(deb)?;
    fs::remove_file(archive)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

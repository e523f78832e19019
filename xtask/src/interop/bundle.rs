//! Our program with a kernel beside it, on a machine where nobody handed anything over.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use vm_fdt::FdtWriter;

use super::Bench;
use super::arch::Arch;
use super::initrd::Initrd;
use super::machine::Machine;

/// A kernel with its RAM disk and command line, as our program wants it in its own RAM disk.
pub fn bundle(kernel: &Path, initrd: &[u8], cmdline: &str) -> Result<Vec<u8>> {
    let kernel = fs::read(kernel)?;
    let write = || {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property("kernel", &kernel)?;
        if !initrd.is_empty() {
            fdt.property("initrd", initrd)?;
        }
        fdt.property_string("cmdline", cmdline)?;
        fdt.end_node(root)?;
        fdt.finish()
    };
    write().map_err(|error: vm_fdt::Error| anyhow!("the bundle: {error}"))
}

/// A machine that starts our program with `cmdline` and `bundle`. QEMU itself does on arm64; on
/// x86, where it knows the 16-bit entry only, Linux is the boot loader. How many boots come before
/// ours is the second result.
pub fn machine<'b>(
    bench: &'b Bench,
    name: &'b str,
    cmdline: &str,
    bundle: Vec<u8>,
) -> Result<(Machine<'b>, usize)> {
    match bench.arch {
        Arch::Aarch64 => {
            let machine = Machine::new(bench, name, &bench.bare_metal, cmdline);
            Ok((machine.initrd(bundle), 0))
        }
        Arch::X86_64 => loaded_by_linux(bench, name, cmdline, bundle),
    }
}

/// As [`machine`], always with a Linux without KHO as the boot loader: it gives out bus numbers and
/// addresses to PCI functions.
pub fn loaded_by_linux<'b>(
    bench: &'b Bench,
    name: &'b str,
    cmdline: &str,
    bundle: Vec<u8>,
) -> Result<(Machine<'b>, usize)> {
    let initrd = Initrd::new(&bench.init)?
        .kernel("next", &bench.bare_metal, &bundle, cmdline)?
        .finish()?;
    let line = format!(
        "console={} panic=-1 kho=off interop=load",
        bench.arch.console()
    );
    let machine = Machine::new(bench, name, &bench.linux, &line);
    Ok((machine.initrd(initrd), 1))
}

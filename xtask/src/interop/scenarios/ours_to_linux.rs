//! We hand over to Linux what we made from nothing.

use anyhow::{Result, ensure};
use kho_interop_plan::{NOTE, RELEASE};

use super::linux_cmdline;
use super::linux_to_linux::check_taken_over;
use crate::interop::Bench;
use crate::interop::bundle::{bundle, machine};
use crate::interop::initrd::Initrd;

pub fn run(bench: &Bench, name: &str) -> Result<()> {
    let guest = Initrd::new(&bench.init)?.finish()?;
    let line = linux_cmdline(bench.arch, "relay:1");
    let bundle = bundle(&bench.linux, &guest, &line)?;
    let (machine, before) = machine(bench, name, "interop=make", bundle)?;
    let run = machine.run()?;
    let ours = run.boot(before, "bare-metal")?;
    let linux = run.boot(before + 1, "linux")?;
    check_taken_over(linux, ours)?;
    let metadata = linux.one("metadata")?;
    ensure!(metadata["release"] == RELEASE, "we are {metadata}");
    ensure!(metadata["count"] == 1, "the count is {metadata}");
    ensure!(
        linux.logged(&["exec from:", RELEASE, "(count 1)"]),
        "Linux does not name us"
    );
    ensure!(
        linux.logged(&["Revived memory reservation", "oops"]),
        "the region is not revived"
    );
    linux.with("subtree", "name", NOTE)?;
    linux.one("off")?;
    Ok(())
}

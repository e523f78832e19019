//! The control: Linux hands over to Linux. If this fails, the bench is broken, not we.

use std::fs;

use anyhow::{Result, ensure};
use kho_interop_plan::{REGION, REGION_SEED, REGION_SIZE};

use super::linux_cmdline;
use crate::interop::Bench;
use crate::interop::initrd::Initrd;
use crate::interop::machine::Machine;
use crate::interop::serial::{Boot, pattern_digest};

pub fn run(bench: &Bench, name: &str) -> Result<()> {
    let second = Initrd::new(&bench.init)?
        .file("kho-inspect", &fs::read(&bench.inspect)?)?
        .finish()?;
    let next = linux_cmdline(bench.arch, "relay:1");
    let first = Initrd::new(&bench.init)?
        .kernel("next", &bench.linux, &second, &next)?
        .finish()?;
    let cmdline = linux_cmdline(bench.arch, "start");
    let run = Machine::new(bench, name, &bench.linux, &cmdline)
        .initrd(first)
        .run()?;
    let outgoing = run.boot(0, "linux")?;
    outgoing.check_plan("preserved")?;
    outgoing.one("jump")?;
    let incoming = run.boot(1, "linux")?;
    check_taken_over(incoming, outgoing)?;
    ensure!(
        incoming.one("metadata")?["count"] == 1,
        "the count is not 1"
    );
    // The map that a Linux took over is gone by then.
    let live = incoming.one("inspect")?;
    let error = live["error"].as_str().unwrap_or("");
    let explained = live["status"] == 0 || error.contains("--search");
    ensure!(explained, "in the guest: {live}");
    incoming.one("off")?;
    Ok(())
}

/// That a Linux says it took over, and found what `before` had.
pub fn check_taken_over(linux: &Boot, before: &Boot) -> Result<()> {
    ensure!(
        linux.logged(&["found kexec handover data"]),
        "Linux found no handover"
    );
    linux.check_plan("retrieved")?;
    let finished = linux.all("finished").count();
    ensure!(finished >= 2, "{finished} sessions were finished");
    let (there, here) = (before.with("region", "name", REGION)?, linux.one("region")?);
    ensure!(here["start"] == there["start"], "the region has moved");
    ensure!(here["size"] == REGION_SIZE, "the region's size differs");
    let expected = pattern_digest(REGION_SEED, REGION_SIZE);
    ensure!(here["sha256"] == expected, "the region holds other bytes");
    Ok(())
}

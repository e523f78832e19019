//! We hand over to ourselves what we made from nothing.

use anyhow::{Result, ensure};
use kho_interop_plan::{NOTE, REGION, REGION_SEED, REGION_SIZE, RELEASE};

use super::linux_to_ours::check_same;
use crate::interop::Bench;
use crate::interop::bundle::{bundle, machine};
use crate::interop::inspect;
use crate::interop::serial::pattern_digest;

pub fn run(bench: &Bench, name: &str) -> Result<()> {
    let ourselves = bundle(&bench.bare_metal, &[], "interop=look")?;
    let (machine, before) = machine(bench, name, "interop=make", ourselves)?;
    let run = machine.run()?;
    let first = run.boot(before, "bare-metal")?;
    let second = run.boot(before + 1, "bare-metal")?;
    second.check_plan("file")?;
    let (there, here) = (first.one("region")?, second.with("region", "name", REGION)?);
    let same = here["start"] == there["start"] && here["size"] == REGION_SIZE;
    ensure!(same, "the region is {here}, not {there}");
    let expected = pattern_digest(REGION_SEED, REGION_SIZE);
    ensure!(here["sha256"] == expected, "the region holds other bytes");
    let metadata = second.one("metadata")?;
    let same = metadata["release"] == RELEASE && metadata["count"] == 1;
    ensure!(same, "we are {metadata}");
    second.with("subtree", "name", NOTE)?;
    check_same(second, &inspect::facts(bench, name, &run, second)?)?;
    second.one("off")?;
    Ok(())
}

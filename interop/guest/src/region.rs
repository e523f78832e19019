//! The named reserved region, by way of `/dev/mem`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use kho_interop_plan::{REGION, REGION_SEED, REGION_SIZE, fill as pattern};
use serde_json::json;

use crate::facts::{digest, say};
use crate::kho;

/// Writes the pattern to the region that is about to be handed on.
pub fn fill() -> Result<()> {
    let (start, size) = place("out")?;
    ensure!(size == REGION_SIZE, "{REGION} has {size} bytes");
    let mut bytes = vec![0; size as usize];
    pattern(REGION_SEED, 0, &mut bytes);
    let memory = File::options().write(true).open("/dev/mem")?;
    memory.write_all_at(&bytes, start).context("/dev/mem")?;
    state("out", start, size)
}

/// Says where the region is that was handed over, and what it holds.
pub fn check() -> Result<()> {
    let (start, size) = place("in")?;
    state("in", start, size)
}

fn state(side: &str, start: u64, size: u64) -> Result<()> {
    let mut memory = File::open("/dev/mem")?;
    std::io::Seek::seek(&mut memory, std::io::SeekFrom::Start(start))?;
    let (sha256, read) = digest(memory.take(size)).context("/dev/mem")?;
    ensure!(read == size, "only {read} bytes of {REGION} can be read");
    say(
        "region",
        json!({ "side": side, "name": REGION, "start": start, "size": size, "sha256": sha256 }),
    );
    Ok(())
}

fn place(side: &str) -> Result<(u64, u64)> {
    let blob = kho::blob(side, "memblock")?;
    let fdt = Fdt::new(&blob).context("memblock is no device tree")?;
    let node = fdt.root().child(REGION).context("the region has no node")?;
    // Numbers are in the machine's byte order, not a device tree's.
    let number = |name| -> Result<u64> {
        let property = node.property(name).context("a property is missing")?;
        Ok(u64::from_le_bytes(property.value().try_into()?))
    };
    Ok((number("start")?, number("size")?))
}

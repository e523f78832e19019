//! PCI functions across the jump from us to ourselves.

use anyhow::{Context, Result, ensure};
use kho_interop_plan::DMA_SEED;
use serde_json::Value;

use crate::interop::Bench;
use crate::interop::bundle::{bundle, loaded_by_linux};
use crate::interop::machine::Run;
use crate::interop::serial::pattern_digest;

/// A drive, an SR-IOV network card behind a port, virtio, bridges of both kinds.
const CACHED: [&str; 7] = [
    "nvme,serial=1",
    "pcie-root-port,id=port1,chassis=1",
    "igb,bus=port1",
    "virtio-net-pci",
    "pcie-root-port,id=port2,chassis=2",
    "pcie-pci-bridge,id=bridge,bus=port2",
    "virtio-rng-pci,bus=bridge,addr=1",
];

/// Their vendors and devices, as far as they are endpoints.
const ENDPOINTS: usize = 4;
const BRIDGES: usize = 3;

/// Dwords of a header that no saved page marks in full: they hold reserved bytes or BIST, which a
/// function that was inferred answers as zeros.
const UNMARKED: [u64; 3] = [0x0c, 0x34, 0x38];

/// The configuration-space cache is kept, restored without a hardware read but those that identify
/// a function, and equal to the hardware.
pub fn config_cache(bench: &Bench, name: &str) -> Result<()> {
    let ourselves = bundle(&bench.bare_metal, &[], "")?;
    let (machine, before) = loaded_by_linux(bench, name, "interop=cache", ourselves)?;
    let run = machine.devices(&CACHED).run()?;
    let first = run.boot(before, "bare-metal")?;
    let second = run.boot(before + 1, "bare-metal")?;
    let saved = first.one("saved")?["functions"].as_u64().unwrap_or(0);
    ensure!(saved as usize >= ENDPOINTS, "{saved} functions were saved");
    let (mut restored, mut bridges) = (0, 0);
    ensure!(
        second.all("restored").count() == first.all("filled").count(),
        "other functions were found"
    );
    for (after, before) in second.all("restored").zip(first.all("filled")) {
        ensure!(after["function"] == before["function"], "other functions");
        ensure!(
            after["different"] == 0,
            "not what the hardware says: {after}"
        );
        ensure!(
            before["different"] == 0,
            "not what the hardware says: {before}"
        );
        if after["how"] == "Restored" {
            restored += 1;
            ensure!(number(after, "reads_to_add") == 3, "read more: {after}");
            let (before, after) = (hits(before), hits(after));
            let lost: Vec<_> = before
                .iter()
                .filter(|dword| !after.contains(dword))
                .collect();
            let only_unmarked = lost.iter().all(|dword| UNMARKED.contains(dword));
            ensure!(only_unmarked, "{lost:x?} are not known any more");
            ensure!(after.len() > 10, "only {after:x?} are known");
        } else {
            // The saved form has no bridges.
            bridges += 1;
        }
    }
    ensure!(restored == saved, "{restored} of {saved} were restored");
    ensure!(bridges == BRIDGES, "{bridges} functions were not restored");
    second.one("off")?;
    Ok(())
}

/// QEMU's `edu` behind a port. By default it reaches 256 MiB.
const LIVE: [&str; 2] = [
    "pcie-root-port,id=port1,chassis=1",
    "edu,bus=port1,dma_mask=0xffffffff",
];

/// A device does DMA while one program ends and the next begins; under the guard it completes, and
/// without the guard it does not.
pub fn live_dma(bench: &Bench, name: &str) -> Result<()> {
    let expected = pattern_digest(DMA_SEED, 4096);
    let (run, before) = live(bench, name, "on")?;
    let first = run.boot(before, "bare-metal")?;
    ensure!(first.one("live")?["functions"] == 2, "a port and a device");
    let shutdown = first.one("shutdown")?;
    ensure!(shutdown["busy"] == true, "the DMA was over at the jump");
    ensure!(
        number(shutdown, "refused") >= 2,
        "nothing was refused: {shutdown}"
    );
    let second = run.boot(before + 1, "bare-metal")?;
    let dma = second.one("dma")?;
    ensure!(dma["functions"] == 2, "{dma}");
    ensure!(dma["busy_at_entry"] == true, "the DMA was over: {dma}");
    ensure!(dma["busy_after_writes"] == true, "the DMA was over: {dma}");
    // Bus Master of both, bus numbers of the port.
    ensure!(number(dma, "refused") >= 3, "too little was refused: {dma}");
    ensure!(dma["sha256"] == expected, "the device wrote other bytes");
    ensure!(
        second.one("finished")?["refused"] == 0,
        "refused after FINISH"
    );
    second.one("off")?;

    let (run, before) = live(bench, name, "off")?;
    let dma = run.boot(before + 1, "bare-metal")?.one("dma")?;
    ensure!(dma["refused"] == 0, "{dma}");
    ensure!(dma["busy_after_writes"] == true, "the DMA was over: {dma}");
    ensure!(dma["sha256"] != expected, "the guard makes no difference");
    Ok(())
}

fn live(bench: &Bench, name: &str, guard: &str) -> Result<(Run, usize)> {
    let ourselves = bundle(&bench.bare_metal, &[], "")?;
    let line = format!("interop=live guard={guard}");
    let (machine, before) = loaded_by_linux(bench, name, &line, ourselves)?;
    let run = machine.devices(&LIVE).instruction_time().run();
    Ok((run.with_context(|| format!("guard {guard}"))?, before))
}

fn hits(fact: &Value) -> Vec<u64> {
    let hits = fact["hits"].as_array().into_iter().flatten();
    hits.filter_map(Value::as_u64).collect()
}

fn number(fact: &Value, key: &str) -> u64 {
    fact[key].as_u64().unwrap_or(u64::MAX)
}

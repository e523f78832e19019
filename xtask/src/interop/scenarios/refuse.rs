//! Handovers that are refused: by Linux, as the pre-flight check predicts, and by us.

use anyhow::{Context, Result, ensure};

use super::linux_cmdline;
use crate::interop::Bench;
use crate::interop::bundle::{bundle, machine};
use crate::interop::initrd::Initrd;
use crate::interop::inspect;

/// A handover of an older generation is one that Linux 7.3 boots without.
pub fn by_linux(bench: &Bench, name: &str) -> Result<()> {
    // First what the pre-flight check says of it, as the host finds it in the RAM.
    let line = "interop=make generation=v3";
    let to_us = bundle(&bench.bare_metal, &[], "interop=look")?;
    let (first, before) = machine(bench, name, line, to_us)?;
    let run = first.run()?;
    let ours = run.boot(before + 1, "bare-metal")?;
    ensure!(
        ours.one("handover")?["compatible"] == "kho-v3",
        "another generation"
    );
    ours.check_plan("file")?;
    let facts = inspect::facts(bench, name, &run, ours)?;
    let verdicts = facts["preflight"].as_array().context("no preflight")?;
    let verdict = verdicts
        .iter()
        .find(|verdict| verdict["consumer"] == "Linux 7.2, 7.3")
        .context("no verdict for this Linux")?;
    ensure!(
        verdict["outcome"] == "boots without it",
        "predicted: {verdict}"
    );

    // Then what Linux does.
    let guest = Initrd::new(&bench.init)?.finish()?;
    let to_linux = bundle(&bench.linux, &guest, &linux_cmdline(bench.arch, "look"))?;
    let (second, before) = machine(bench, name, line, to_linux)?;
    let run = second.run()?;
    let linux = run.boot(before + 1, "linux")?;
    ensure!(
        linux.logged(&["is incompatible with 'kho-v4'"]),
        "Linux does not say why"
    );
    ensure!(
        !linux.logged(&["found kexec handover data"]),
        "Linux took it over"
    );
    linux.one("off")?;
    Ok(())
}

/// Damage, and the part and the fault that the error names.
const NAMED: [(&str, &str, &str); 12] = [
    ("root-string", "RootFdt", "UnknownVersion"),
    ("root-magic", "RootFdt", "Fdt"),
    ("root-in-the-air", "RootFdt", "NotRam"),
    ("map-misaligned", "Map", "Misaligned"),
    ("map-cycle", "Map", "ReachedTwice"),
    ("map-outside", "Map", "NotRam"),
    ("blob-outside", "Subtree", "NotPreserved"),
    ("sessions-cycle", "Luo", "Overlap"),
    ("sessions-count", "Luo", "Count"),
    ("session-name", "Luo", "Name"),
    ("memfd-seals", "Memfd", "Flags"),
    ("memfd-folios", "Memfd", "Count"),
];

/// We make damaged handovers for ourselves, one after the other.
pub fn by_us(bench: &Bench, name: &str) -> Result<()> {
    let bundle = bundle(&bench.bare_metal, &[], "")?;
    let (machine, before) = machine(bench, name, "interop=damage", bundle)?;
    let run = machine.run()?;
    for (i, (damage, part, fault)) in NAMED.iter().enumerate() {
        let ours = run.boot(before + 1 + i, "bare-metal")?;
        let refused = ours.one("refused").context(*damage)?;
        let named = refused["fault"].as_str().unwrap_or("");
        let same = refused["damage"] == *damage
            && refused["part"] == *part
            && named.split([' ', '(']).next() == Some(fault);
        ensure!(same, "{damage} is not {part}, {fault}, but {refused}");
    }
    run.boot(before + NAMED.len(), "bare-metal")?.one("off")?;
    Ok(())
}

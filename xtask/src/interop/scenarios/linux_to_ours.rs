//! Linux hands over to us: we find what it preserved, and the host finds the same in the RAM, and in
//! the dumps that QEMU writes of it.

use std::fs;

use anyhow::{Context, Result, ensure};
use kho_interop_plan::{REGION, REGION_SEED, REGION_SIZE};
use serde_json::Value;

use super::linux_cmdline;
use crate::interop::Bench;
use crate::interop::initrd::Initrd;
use crate::interop::inspect;
use crate::interop::machine::{Dump, Machine};
use crate::interop::serial::{Boot, pattern_digest};

const fn dump(format: &'static str, paging: bool) -> Dump {
    Dump { format, paging }
}

/// The forms that are read: without and, where memory can be in it twice, with virtual addresses.
const ELF: [Dump; 2] = [dump("elf", false), dump("elf", true)];

/// The forms that are refused.
const COMPRESSED: [Dump; 2] = [dump("kdump-zlib", false), dump("kdump-raw-zlib", false)];

pub fn run(bench: &Bench, name: &str) -> Result<()> {
    let initrd = Initrd::new(&bench.init)?
        .file("kho-inspect", &fs::read(&bench.inspect)?)?
        .kernel("next", &bench.bare_metal, &[], "interop=look")?
        .finish()?;
    let run = Machine::new(
        bench,
        name,
        &bench.linux,
        &linux_cmdline(bench.arch, "start"),
    )
    .initrd(initrd)
    .dumps(&[ELF[0], ELF[1], COMPRESSED[0], COMPRESSED[1]])
    .run()?;
    let linux = run.boot(0, "linux")?;
    let ours = run.boot(1, "bare-metal")?;
    check_found(ours, linux)?;
    ensure!(ours.one("metadata")?["count"] == 1, "the count is not 1");
    let host = inspect::facts(bench, name, &run, ours)?;
    check_same(ours, &host)?;
    check_live(linux, &host)?;
    for (dump, form) in run.dumps().iter().zip(ELF) {
        let found = inspect::facts_in_dump(dump, ours).with_context(|| format!("{form:?}"))?;
        ensure!(found == host, "{form:?} is not what the RAM is");
    }
    for (dump, form) in run.dumps().iter().skip(ELF.len()).zip(COMPRESSED) {
        inspect::refuses(dump, ours, "kdump-compressed").with_context(|| format!("{form:?}"))?;
    }
    ours.one("off")?;
    Ok(())
}

/// That before the jump, Linux's own user space found what the host found after it. LUO writes its
/// part in between.
fn check_live(linux: &Boot, host: &Value) -> Result<()> {
    for (version, status) in [("7.1", 1), ("7.3", 0)] {
        let args = format!("--accepted-by {version} /sys/kernel/debug/kho");
        let asked = linux.with("inspect", "args", &args)?;
        ensure!(asked["status"] == status, "{args}: {}", asked["error"]);
    }
    let live = linux.with("inspect", "args", "--search /dev/mem")?;
    ensure!(live["status"] == 0, "in the guest: {}", live["error"]);
    let live = &live["found"];
    for key in [
        "compatible",
        "preserved_memory_map",
        "reserve_mem",
        "kexec_metadata",
    ] {
        ensure!(live[key] == host[key], "{key} was {}", live[key]);
    }
    let fdt = &live["kho_data"]["fdt_addr"];
    ensure!(
        *fdt == host["kho_data"]["fdt_addr"],
        "the description was at {fdt}"
    );
    for (name, blob) in host["subtrees"].as_object().context("no sub-blobs")? {
        let before = &live["subtrees"][name];
        let same = before["addr"] == blob["addr"] && before["size"] == blob["size"];
        ensure!(same && before["preserved"] == true, "{name} was {before}");
    }
    let bytes = |facts: &Value| facts["preserved_bytes"].as_u64();
    let grown = bytes(live)
        .zip(bytes(host))
        .is_some_and(|(before, after)| before <= after);
    ensure!(grown, "{} bytes were preserved", live["preserved_bytes"]);
    Ok(())
}

/// That we found what Linux said it preserved.
pub fn check_found(ours: &Boot, linux: &Boot) -> Result<()> {
    linux.check_plan("preserved")?;
    ours.check_plan("file")?;
    let release = &linux.one("linux")?["release"];
    ensure!(
        ours.one("metadata")?["release"] == *release,
        "we were told of another release"
    );
    let (there, here) = (linux.one("region")?, ours.with("region", "name", REGION)?);
    for key in ["start", "size", "sha256"] {
        ensure!(here[key] == there[key], "the region's {key} differs");
    }
    let expected = pattern_digest(REGION_SEED, REGION_SIZE);
    ensure!(here["sha256"] == expected, "the region holds other bytes");
    let mut blobs = 0;
    for blob in linux.all("subtree").filter(|blob| blob["side"] == "out") {
        let name = blob["name"].as_str().unwrap_or("");
        let found = ours.with("subtree", "name", name)?;
        ensure!(found["size"] == blob["size"], "{name} has another size");
        // LUO writes its sub-blob when the kexec is under way.
        let same = found["sha256"] == blob["sha256"];
        ensure!(same || name == "LUO", "{name} holds other bytes");
        blobs += 1;
    }
    ensure!(blobs >= 3, "Linux handed over {blobs} sub-blobs only");
    Ok(())
}

/// That the host reads the same in the RAM.
pub fn check_same(ours: &Boot, host: &Value) -> Result<()> {
    let handover = ours.one("handover")?;
    for (here, there) in [
        ("compatible", &host["compatible"]),
        ("map", &host["preserved_memory_map"]),
        ("folios", &host["folios"]),
        ("folios_sha256", &host["folios_sha256"]),
        ("bytes", &host["preserved_bytes"]),
        ("fdt_addr", &host["kho_data"]["fdt_addr"]),
        ("scratch_addr", &host["kho_data"]["scratch_addr"]),
    ] {
        ensure!(handover[here] == *there, "the host finds {here} {there}");
    }
    let extents = host["extents"].as_array().map(Vec::len);
    ensure!(handover["extents"] == extents.unwrap_or(0), "other extents");
    let areas = host["scratch"].as_array().context("no scratch")?;
    ensure!(ours.all("scratch").count() == areas.len(), "other scratch");
    for (here, there) in ours.all("scratch").zip(areas) {
        ensure!(
            here["start"] == there["addr"] && here["size"] == there["size"],
            "other scratch"
        );
    }
    let blobs = host["subtrees"].as_object().context("no sub-blobs")?;
    ensure!(
        ours.all("subtree").count() == blobs.len(),
        "other sub-blobs"
    );
    for (name, there) in blobs {
        let here = ours.with("subtree", "name", name)?;
        let same = here["start"] == there["addr"] && here["sha256"] == there["sha256"];
        ensure!(same, "the host finds another {name}");
    }
    let luo = &host["luo"];
    ensure!(
        ours.one("luo")?["liveupdate_num"] == luo["liveupdate_num"],
        "another live update"
    );
    let flbs = luo["flbs"].as_array().context("no objects")?;
    ensure!(ours.all("flb").count() == flbs.len(), "other objects");
    for (here, there) in ours.all("flb").zip(flbs) {
        for key in ["name", "data", "count"] {
            ensure!(here[key] == there[key], "another object");
        }
    }
    let mut files = ours.all("file");
    for session in luo["sessions"].as_array().context("no sessions")? {
        for there in session["files"].as_array().context("no files")? {
            let here = files.next().context("we found fewer files")?;
            let same = here["session"] == session["name"]
                && here["token"] == there["token"]
                && here["data"] == there["data"]
                && here["size"] == there["memfd"]["size"]
                && here["sha256"] == there["memfd"]["content_sha256"];
            ensure!(same, "the host finds another file: {there}");
        }
    }
    ensure!(files.next().is_none(), "we found more files");
    Ok(())
}

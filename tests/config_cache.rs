//! The example config-cache: zero stale answers, hit rates, and the same capabilities as lspci.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const TRACE: &str = "tests/fixtures/linux-7.3-q35-sriov.trace.xz";

/// Reads answered by the rules of the published series on the same trace, in thousandths.
const PUBLISHED: &[(&str, u64)] = &[
    ("boot", 196),
    ("pf-bound", 537),
    ("vm-start-1", 121),
    ("vm-start-2", 121),
    ("vm-start-3", 121),
];
const PUBLISHED_IN_ALL: u64 = 136;

fn example(args: &[&str]) -> Output {
    common::example("config-cache", args)
}

fn json(args: &[&str]) -> Value {
    let output = example(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn phases(args: &[&str]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let found = json(args);
    let phase = |phase: &Value| {
        let numbers = phase.as_object().unwrap().iter();
        let numbers = numbers.filter_map(|(key, value)| Some((key.clone(), value.as_u64()?)));
        (
            phase["name"].as_str().unwrap().to_owned(),
            numbers.collect(),
        )
    };
    found["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(phase)
        .collect()
}

#[test]
fn the_recorded_machine_gets_no_stale_answer_and_more_hits_than_the_published_rules() {
    let phases = phases(&["--trace", TRACE, "--json"]);
    assert!(phases.values().all(|phase| phase["stale"] == 0));
    for (name, permille) in PUBLISHED {
        let phase = &phases[*name];
        assert!(phase["hits"] * 1000 >= permille * phase["reads"], "{name}");
        let kinds = ["hits", "misses", "uncacheable", "bypassed"];
        let sum: u64 = kinds.iter().map(|kind| phase[*kind]).sum();
        assert_eq!(sum, phase["reads"], "{name}");
    }
    let sum = |key: &str| phases.values().map(|phase| phase[key]).sum::<u64>();
    assert!(sum("hits") * 2000 >= 3 * PUBLISHED_IN_ALL * sum("reads"));
    assert_eq!(sum("reads"), 42_996);
}

#[test]
fn unlisted_bytes_declared_constant_make_later_starts_cheap() {
    let phases = phases(&["--trace", TRACE, "--unlisted", "constant", "--json"]);
    assert!(phases.values().all(|phase| phase["stale"] == 0));
    for name in ["vm-start-2", "vm-start-3"] {
        let phase = &phases[name];
        assert!(phase["hits"] * 100 >= 85 * phase["reads"], "{name}");
    }
}

#[test]
fn a_start_after_a_kexec_is_as_cheap_as_one_before() {
    let args = [
        "--trace",
        TRACE,
        "--unlisted",
        "constant",
        "--kexec",
        "--json",
    ];
    let phases = phases(&args);
    assert!(phases.values().all(|phase| phase["stale"] == 0));
    let phase = &phases["vm-start-3"];
    assert!(phase["hits"] * 100 >= 85 * phase["reads"]);
}

#[test]
fn many_functions_are_restored_without_a_page_and_with_three_reads_each() {
    let facts = json(&["--functions", "300", "--json"]);
    assert_eq!(facts["functions"], 300);
    assert_eq!(facts["identity_reads"], 3);
    assert_eq!(facts["pages_allocated"], 0);
}

#[test]
fn bad_files_and_wrong_usage_are_told_apart() {
    let folder = std::env::temp_dir();
    let bad = |name: &str, bytes: &[u8]| {
        let path = folder.join(format!("config-cache-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let trace = std::fs::read(TRACE).unwrap();
    let files: [(&str, PathBuf); 7] = [
        ("--trace", bad("text", b"R 00:00.0 000 4 29c08086\nhello\n")),
        ("--trace", bad("unaligned", b"R 00:00.0 001 4 0\n")),
        ("--trace", bad("cut.xz", &trace[..trace.len() / 2])),
        ("--trace", bad("empty", b"")),
        ("--trace", folder.join("config-cache-is-not-there")),
        ("--json", bad("dump", b"no function here\n")),
        ("--json", bad("bytes", b"00:00.0 x\n00: zz\n")),
    ];
    for (option, path) in &files {
        let output = example(&[option, path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{path:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        let _ = std::fs::remove_file(path);
    }
    for args in [
        &["--unlisted", "maybe"][..],
        &["--trace"],
        &["--what"],
        &["a", "b"],
    ] {
        assert_eq!(example(args).status.code(), Some(2), "{args:?}");
    }
}

/// Offsets of the capabilities that lspci shows, for each function.
fn lspci(dump: &Path) -> Option<BTreeMap<String, Vec<u64>>> {
    let output = Command::new("lspci")
        .args(["-vvv", "-F"])
        .arg(dump)
        .output()
        .ok()?;
    let mut functions: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut last = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.starts_with(|c: char| c.is_ascii_hexdigit()) {
            let name = line.split(' ').next()?.to_owned();
            last = Some(functions.entry(name).or_default());
        } else if let (Some((_, rest)), Some(found)) =
            (line.split_once("Capabilities: ["), &mut last)
            && !line.contains("<chain")
        {
            let offset = rest.split([']', ' ']).next()?;
            found.extend(u64::from_str_radix(offset, 16));
        }
    }
    Some(functions)
}

#[test]
fn capabilities_are_those_that_lspci_finds() {
    let Some(folder) = std::env::var_os("KHO_LSPCI_DUMPS") else {
        println!("skipped: KHO_LSPCI_DUMPS names no folder of dumps");
        return;
    };
    if Command::new("lspci").arg("--version").output().is_err() {
        println!("skipped: there is no lspci");
        return;
    }
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        if !String::from_utf8_lossy(&text).contains("00: ") {
            continue;
        }
        let ours = json(&["--json", path.to_str().unwrap()]);
        let theirs = lspci(&path).unwrap();
        for function in ours.as_array().unwrap() {
            let list = |key: &str| function[key].as_array().unwrap().clone();
            let offsets = [list("capabilities"), list("extended")].concat();
            let offsets: Vec<u64> = offsets
                .iter()
                .map(|c| c["offset"].as_u64().unwrap())
                .collect();
            let bdf = function["bdf"].as_str().unwrap();
            assert_eq!(offsets, theirs[bdf], "{path:?} {bdf}");
            seen += 1;
        }
    }
    println!("{seen} functions compared");
    assert!(seen > 50);
}

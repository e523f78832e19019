//! The example `inspect` on handovers of real Linux, whole and damaged.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{FIXTURES, patch, path, read, word};
use serde_json::Value;

fn inspect(args: &[&str], file: &Path) -> Output {
    common::example(
        "inspect",
        args.iter().map(OsStr::new).chain([file.as_os_str()]),
    )
}

fn json(file: &Path) -> Value {
    let output = inspect(&["--json"], file);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn temporary(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// All that `expected` has, `found` has too, with the same value.
fn assert_covers(found: &Value, expected: &Value, at: &str) {
    match expected {
        Value::Object(fields) => {
            let complete = fields.get("content_in_image") != Some(&Value::Bool(false));
            for (key, value) in fields {
                // The digest of contents that are not in the file was taken in the machine.
                if complete || key != "content_sha256" {
                    assert_covers(&found[key], value, &format!("{at}.{key}"));
                }
            }
        }
        Value::Array(items) => {
            assert_eq!(found.as_array().map(Vec::len), Some(items.len()), "{at}");
            for (i, item) in items.iter().enumerate() {
                assert_covers(&found[i], item, &format!("{at}[{i}]"));
            }
        }
        value => assert_eq!(found, value, "{at}"),
    }
}

#[test]
fn finds_what_an_independent_reader_found() {
    // What only names the capture, or repeats `kho_data` as raw bytes.
    let origin = [
        "kernel",
        "setup_data",
        "chosen",
        "elf_bytes",
        "elf_segments",
    ];
    for name in FIXTURES {
        let expected = read(&format!("{name}.json"));
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let found = json(&path(&format!("{name}.elf")));
        for (key, value) in expected.as_object().unwrap() {
            if !origin.contains(&key.as_str()) {
                assert_covers(&found[key], value, key);
            }
        }
    }
}

#[test]
fn prints_a_page_for_people() {
    for name in FIXTURES {
        let output = inspect(&[], &path(&format!("{name}.elf")));
        let text = String::from_utf8(output.stdout).unwrap();
        for part in [
            "kho-v4",
            "7.3.0-rc7",
            "order 10",
            "session \"vm0\"",
            "memblock",
            "oops",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}

/// The same memory as one flat file, with entry, base and architecture given.
#[test]
fn reads_a_raw_ram_file() {
    let file = read("linux-7.3-x86_64.elf");
    let elf = kho::hal::sim::ElfImage::parse(&file).unwrap();
    let entry = elf.entry.as_u64();
    let end = elf.memory.ranges().last().unwrap().end().as_u64() as usize;
    let base = 0x10_0000;
    let mut ram = vec![0; end - base];
    for range in elf.memory.ranges() {
        let at = range.start().as_u64() as usize - base;
        let place = &mut ram[at..at + range.size() as usize];
        kho::hal::PhysMem::read(&elf.memory, range.start(), place).unwrap();
    }
    let raw = temporary("raw.ram", &ram);
    let (entry, base) = (format!("{entry:#x}"), base.to_string());
    let args = [
        "--json", "--arch", "x86_64", "--entry", &entry, "--base", &base,
    ];
    let output = inspect(&args, &raw);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let from_elf = json(&path("linux-7.3-x86_64.elf"));
    for key in [
        "radix",
        "folios_sha256",
        "subtrees",
        "reserve_mem",
        "kho_data",
        "scratch",
    ] {
        assert_eq!(found[key], from_elf[key], "{key}");
    }
    std::fs::remove_file(raw).unwrap();
}

/// A folder as Linux shows in debugfs.
#[test]
fn reads_debugfs_blobs() {
    let file = read("linux-7.3-x86_64.elf");
    let expected: Value = serde_json::from_slice(&read("linux-7.3-x86_64.json")).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debugfs");
    std::fs::create_dir_all(folder.join("in/sub_fdts")).unwrap();
    let bytes = |name: &str, addr: &Value, size: &Value| {
        let at = common::file_offset(&file, addr.as_u64().unwrap());
        let bytes = &file[at..at + size.as_u64().unwrap() as usize];
        std::fs::write(folder.join("in").join(name), bytes).unwrap();
    };
    bytes(
        "fdt",
        &expected["kho_data"]["fdt_addr"],
        &expected["fdt_totalsize"],
    );
    for (name, blob) in expected["subtrees"].as_object().unwrap() {
        bytes(&format!("sub_fdts/{name}"), &blob["addr"], &blob["size"]);
    }
    let found = json(&folder);
    let found = &found["debugfs"]["in"];
    let keys = [
        "compatible",
        "fdt_totalsize",
        "preserved_memory_map",
        "subtrees",
    ];
    for key in keys.into_iter().chain(["kexec_metadata", "reserve_mem"]) {
        assert_eq!(found[key], expected[key], "{key}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Damage, and the words that the error must have.
#[test]
fn refuses_what_is_damaged() {
    let file = read("linux-7.3-x86_64.elf");
    let facts: Value = serde_json::from_slice(&read("linux-7.3-x86_64.json")).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let fdt = number(&facts["kho_data"]["fdt_addr"]);
    let root = number(&facts["preserved_memory_map"]);
    let setup_data = word(&file, number(&facts["entry"]) + 0x250);
    let luo = number(&facts["subtrees"]["LUO"]["addr"]);
    let table = (0..512)
        .map(|i| word(&file, root + i * 8))
        .find(|&child| child != 0)
        .unwrap();
    let sessions = word(&file, luo + 16);
    let memfd = number(&facts["luo"]["sessions"][0]["files"][0]["data"]);

    let hex = |addr: u64| format!("{addr:#x}");
    let le = |value: u64| value.to_le_bytes().to_vec();
    let rows: &[(&str, u64, Vec<u8>, &[&str])] = &[
        ("no-node", setup_data + 8, vec![9], &["no handover"]),
        (
            "node-cycle",
            setup_data,
            le(setup_data),
            &["boot data", "occurs twice"],
        ),
        (
            "node-short",
            setup_data + 12,
            vec![16, 0, 0, 0],
            &["boot data", "16"],
        ),
        ("magic", fdt, vec![0], &["root FDT", &hex(fdt), "magic"]),
        (
            "generation",
            fdt + 0x4c,
            b"kho-v9".to_vec(),
            &["root FDT", &hex(fdt), "not known"],
        ),
        ("totalsize", fdt + 4, vec![0x7f], &["root FDT", &hex(fdt)]),
        ("map-null", fdt + 0x60, le(0), &["root FDT", "is 0"]),
        (
            "map-outside",
            fdt + 0x60,
            le(1 << 40),
            &["map", "0x10000000000"],
        ),
        (
            "map-unaligned",
            fdt + 0x60,
            le(root + 8),
            &["map", &hex(root + 8), "misaligned"],
        ),
        (
            "cycle",
            root,
            le(root),
            &["map", &hex(root), "reached twice"],
        ),
        ("self-link", table, le(table), &["map", "reached twice"]),
        ("root-slot", root + 8 * 7, le(table), &["entry 7"]),
        (
            "outside",
            root,
            le(0x7fff_0000_0000),
            &["map", "0x7fff00000000"],
        ),
        ("scratch", root, le(0x1b80_0000), &["map", "scratch"]),
        (
            "blob-outside",
            fdt + 0x98,
            le(1 << 41),
            &["sub-blob", "not preserved"],
        ),
        ("blob-empty", fdt + 0x84, le(0), &["sub-blob"]),
        (
            "sessions-cycle",
            sessions,
            le(sessions),
            &["LUO", &hex(sessions), "claimed twice"],
        ),
        ("sessions-count", sessions + 8, le(52), &["LUO", "52", "51"]),
        ("name", sessions + 16, vec![b'x'; 64], &["LUO", "name"]),
        (
            "seals",
            memfd + 16,
            vec![0xff],
            &["memfd", &hex(memfd), "flags"],
        ),
        ("folios", memfd + 24, le(1 << 20), &["memfd", "1048576"]),
    ];
    for (name, addr, bytes, words) in rows {
        let mut damaged = file.clone();
        patch(&mut damaged, *addr, bytes);
        assert_refused(name, &damaged, words);
    }
    assert_refused("truncated", &file[..file.len() / 2], &["ELF"]);
    assert_refused("header-only", &file[..100], &["ELF"]);
    assert_refused("empty", &[], &["--arch"]);
    let mut core = file.clone();
    core[16] = 2;
    assert_refused("not-a-core", &core, &["type 2"]);
}

fn assert_refused(name: &str, file: &[u8], words: &[&str]) {
    let path = temporary(&format!("damaged-{name}"), file);
    let output = inspect(&["--json"], &path);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{name}: {error}");
    assert!(output.stdout.is_empty(), "{name}: no partial output");
    for word in words {
        assert!(error.contains(word), "{name}: {word:?} in {error:?}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn wrong_usage_has_its_own_status() {
    let file = path("linux-7.3-x86_64.elf");
    for args in [
        &["--nonsense"][..],
        &["--page-size", "5"],
        &["--arch", "z80"],
        &["more"],
    ] {
        assert_eq!(inspect(args, &file).status.code(), Some(2), "{args:?}");
    }
    let wrong_page = inspect(&["--page-size", "65536"], &file);
    assert_eq!(wrong_page.status.code(), Some(1));
    assert_eq!(
        inspect(&[], Path::new("/nonexistent")).status.code(),
        Some(1)
    );
}

/// A chain of translations: what every generation shares stays as it was.
#[test]
fn converts_between_generations() {
    for name in FIXTURES {
        let original = json(&path(&format!("{name}.elf")));
        let mut from = path(&format!("{name}.elf"));
        for (i, to) in ["v3", "kho-v2", "v4"].into_iter().enumerate() {
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{i}.elf"));
            let args = ["--convert", to, "-o", out.to_str().unwrap()];
            let output = inspect(&args, &from);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let found = json(&out);
            assert!(
                found["compatible"]
                    .as_str()
                    .unwrap()
                    .ends_with(&to[to.len() - 2..])
            );
            let same = [
                "arch",
                "page_size",
                "entry",
                "scratch",
                "folios_by_order",
                "subtrees",
            ];
            let same = same
                .into_iter()
                .chain(["reserve_mem", "kexec_metadata", "luo"]);
            for key in same.chain(["preserved_bytes"]) {
                assert_covers(&found[key], &original[key], key);
            }
            assert_ne!(
                found["preserved_memory_map"],
                original["preserved_memory_map"]
            );
            from = out;
        }
        for i in 0..3 {
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{i}.elf"));
            std::fs::remove_file(out).unwrap();
        }
        // LUO's sub-blob is no device tree, and v1 has no room for its size.
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refused.elf");
        let args = ["--convert", "v1-page", "-o", out.to_str().unwrap()];
        let output = inspect(&args, &path(&format!("{name}.elf")));
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no device tree"));
        assert!(!out.exists());
    }
    let file = path("linux-7.3-x86_64.elf");
    assert_eq!(inspect(&["--convert", "v3"], &file).status.code(), Some(2));
    assert_eq!(
        inspect(&["--convert", "v9", "-o", "x"], &file)
            .status
            .code(),
        Some(2)
    );
}

/// A handover that was taken out of an image is the same, but for the contents of a large file.
#[test]
fn extracts_a_handover() {
    for name in FIXTURES {
        let original = path(&format!("{name}.elf"));
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-alone.elf"));
        let args = ["--extract", "-o", out.to_str().unwrap()];
        let output = inspect(&args, &original);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let (mut found, mut expected) = (json(&out), json(&original));
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert_eq!(size(&original) - size(&out), 256 << 10);
        for facts in [&mut found, &mut expected] {
            let memfd = &mut facts["luo"]["sessions"][1]["files"][0]["memfd"];
            memfd["content_in_image"] = Value::Null;
            memfd["content_sha256"] = Value::Null;
        }
        assert_eq!(found, expected);
        std::fs::remove_file(out).unwrap();
    }
    let file = path("linux-7.3-x86_64.elf");
    assert_eq!(inspect(&["--extract"], &file).status.code(), Some(2));
    let both = ["--extract", "--convert", "v3", "-o", "x"];
    assert_eq!(inspect(&both, &file).status.code(), Some(2));
}

#[test]
fn says_what_each_consumer_will_do() {
    let file = path("linux-7.3-x86_64.elf");
    let output = inspect(&["--json", "--preflight"], &file);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcomes: Vec<_> = found["preflight"]
        .as_array()
        .unwrap()
        .iter()
        .map(|consumer| {
            (
                consumer["consumer"].as_str().unwrap(),
                consumer["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            ("Linux 6.16, 6.17", "boots without it"),
            ("Linux 6.18", "boots without it"),
            ("Linux 6.19, 7.0", "boots without it"),
            ("Linux 7.1", "boots without it"),
            ("Linux 7.2, 7.3", "accepts"),
            ("this library", "accepts"),
        ]
    );
}

//! `kho-inspect` on handovers of real Linux, whole and damaged.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use elf::ElfBytes;
use elf::endian::LittleEndian;
use kho::abi::fdt::Generation;
use kho::core::BootData;
use kho::core::incoming::{Incoming, Machine};
use kho::core::outgoing::{Outgoing, Tracker};
use kho::core::translate::translate;
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};
use serde_json::Value;
use sha2::{Digest, Sha256};

const FIXTURES: [&str; 2] = ["linux-7.3-x86_64", "linux-7.3-arm64"];

fn path(name: &str) -> PathBuf {
    let fixtures = "../../tests/fixtures";
    [env!("CARGO_MANIFEST_DIR"), fixtures, name]
        .iter()
        .collect()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// Where in a core file the byte of memory at `addr` is.
fn file_offset(file: &[u8], addr: u64) -> usize {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).unwrap();
    let segments = elf.segments().unwrap();
    let segment = segments
        .iter()
        .find(|s| s.p_paddr <= addr && addr < s.p_paddr + s.p_filesz)
        .unwrap_or_else(|| panic!("{addr:#x} is not in the file"));
    (segment.p_offset + addr - segment.p_paddr) as usize
}

/// The little-endian word of memory at `addr` in a core file.
fn word(file: &[u8], addr: u64) -> u64 {
    let at = file_offset(file, addr);
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Changes memory at `addr` in a core file.
fn patch(file: &mut [u8], addr: u64, bytes: &[u8]) {
    let at = file_offset(file, addr);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What the program does, without starting it.
fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    console::set_colors_enabled(false);
    let args: Vec<_> = args
        .into_iter()
        .map(|arg| arg.as_ref().to_owned())
        .collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = kho_inspect::run(args, &mut stdout, &mut stderr);
    Output {
        status: ExitStatus::from_raw(i32::from(status) << 8),
        stdout,
        stderr,
    }
}

fn inspect(args: &[&str], file: &Path) -> Output {
    run(args.iter().map(OsStr::new).chain([file.as_os_str()]))
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
    for (name, cost, map) in [(FIXTURES[0], 200, 176), (FIXTURES[1], 220, 196)] {
        let output = inspect(&[], &path(&format!("{name}.elf")));
        let text = String::from_utf8(output.stdout).unwrap();
        for part in [
            "kho-v4",
            "7.3.0-rc7",
            "order 10",
            "session \"vm0\"",
            "memblock",
            "oops",
            &format!("d description                 {cost} KiB"),
            &format!("takes {cost} KiB of memory in all, {map} KiB of it the map"),
            "session \"vm1\"  1 file\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}

/// The whole page, as a file that a reader can check against `linux-7.3-x86_64.json`.
#[test]
fn prints_all_that_is_known() {
    let output = inspect(&["--preflight"], &path("linux-7.3-x86_64.elf"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, include_str!("pages/linux-7.3-x86_64.txt"));
}

/// On a terminal, the letters of the map are blocks, and outcomes are painted. Nothing moves.
#[test]
fn colours_change_nothing_else() {
    let file = path("linux-7.3-x86_64.elf");
    let coloured = |args: &[&OsStr]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_kho-inspect"));
        let output = program.env("CLICOLOR_FORCE", "1").args(args).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let page = coloured(&[file.as_os_str()]);
    for (colour, name) in [
        (33, "preserved, 2 MiB and more "),
        (117, "preserved, smaller "),
        (160, "description "),
        (178, "scratch "),
    ] {
        let cell = format!("\x1b[38;5;{colour}m█\x1b[0m");
        assert!(
            page.contains(&format!("{cell} {name}")),
            "{name} in\n{page}"
        );
    }
    let (yes, no) = ("\x1b[32myes\x1b[0m", "\x1b[2m-\x1b[0m");
    let row = format!(
        "kho-v4                  {}",
        format!("{no}          ").repeat(4)
    );
    assert!(
        page.contains(&format!("{row}{yes}        {yes}\n")),
        "{page}"
    );

    let plain = String::from_utf8(inspect(&[], &file).stdout).unwrap();
    let stripped = console::strip_ansi_codes(&page).replace('░', "·");
    let letters = |line: &str| line.replace(['L', 'M', 'p', 'd', 's', '█'], "*");
    let (stripped, plain): (Vec<_>, Vec<_>) = (
        stripped.lines().map(letters).collect(),
        plain.lines().map(letters).collect(),
    );
    assert_eq!(stripped, plain);

    let old = path("linux-7.3-arm64.elf");
    let diff = coloured(&["--diff".as_ref(), old.as_ref(), file.as_ref()]);
    for line in diff.lines() {
        let colour = match console::strip_ansi_codes(line).chars().next() {
            Some('+') => "\x1b[32m",
            Some('-') => "\x1b[31m",
            _ => "\x1b[33m",
        };
        assert!(
            line.starts_with(colour) && line.ends_with("\x1b[0m"),
            "{line:?}"
        );
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
    // Of a test that failed.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("in/sub_fdts")).unwrap();
    let bytes = |name: &str, addr: &Value, size: &Value| {
        let at = file_offset(&file, addr.as_u64().unwrap());
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
    let accepted = |version: &str, path: &Path| {
        let output = inspect(&["--accepted-by", version], path);
        output.status.code()
    };
    // What was taken over says nothing of what will be handed over.
    assert_eq!(accepted("7.3", &folder), Some(2));
    assert_eq!(accepted("7.3", &folder.join("in")), Some(0));
    std::fs::rename(folder.join("in"), folder.join("out")).unwrap();
    assert_eq!(accepted("7.3", &folder), Some(0));
    assert_eq!(accepted("7.1", &folder), Some(1));
    let text = String::from_utf8(inspect(&[], &folder).stdout).unwrap();
    assert!(
        text.starts_with("out: what it is about to hand over\n"),
        "{text}"
    );
    let luo = text
        .lines()
        .find(|line| line.trim_start().starts_with("LUO  "));
    let luo: Vec<_> = luo.unwrap().split_whitespace().collect();
    assert_eq!(luo[1..], ["luo-v5", "-", "-", "-", "-", "yes", "yes"]);
    // Of the outgoing description, Linux 7.3 shows as many bytes as it had at boot.
    let whole = json(&folder)["debugfs"]["out"].clone();
    let fdt = std::fs::read(folder.join("out/fdt")).unwrap();
    std::fs::write(folder.join("out/fdt"), &fdt[..144]).unwrap();
    let part = json(&folder)["debugfs"]["out"].clone();
    for key in [
        "compatible",
        "fdt_totalsize",
        "preserved_memory_map",
        "preflight",
    ] {
        assert_eq!(part[key], whole[key], "{key}");
    }
    assert_eq!(
        part["subtrees"]["LUO"]["sha256"],
        whole["subtrees"]["LUO"]["sha256"]
    );
    assert_eq!(accepted("7.3", &folder), Some(0));
    std::fs::write(folder.join("out/fdt"), &fdt[..100]).unwrap();
    assert_eq!(accepted("7.3", &folder), Some(1), "not even that");
    std::fs::write(folder.join("out/fdt"), &fdt).unwrap();
    // Of another version, who handed over is not known.
    let metadata = folder.join("out/sub_fdts/kexec-metadata");
    let mut bytes = std::fs::read(&metadata).unwrap();
    bytes[0] += 1;
    std::fs::write(&metadata, &bytes).unwrap();
    let who = &json(&folder)["debugfs"]["out"]["kexec_metadata"];
    assert_eq!(who, &Value::Null);
    // LUO of another version makes that Linux panic.
    std::fs::write(folder.join("out/sub_fdts/LUO"), b"luo-v9\0\0").unwrap();
    assert_eq!(accepted("7.3", &folder), Some(1));
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
        assert_refused(name, &damaged, 1, words);
    }
}

/// An operator wants to know all that is wrong, not what is first.
#[test]
fn names_every_problem() {
    let mut file = read("linux-7.3-x86_64.elf");
    let facts: Value = serde_json::from_slice(&read("linux-7.3-x86_64.json")).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let fdt = number(&facts["kho_data"]["fdt_addr"]);
    let memfd = number(&facts["luo"]["sessions"][0]["files"][0]["data"]);
    let memblock = number(&facts["subtrees"]["memblock"]["addr"]);
    patch(&mut file, memfd + 16, &[0xff]);
    patch(&mut file, memblock, &[0]);
    let test = facts["subtrees"]["kho_test"]["addr"].as_u64().unwrap();
    let places = (0..512).map(|i| fdt + i * 4);
    let mut places = places.filter(|&at| word(&file, at) == test);
    let place = places.next().unwrap();
    patch(&mut file, place, &(1u64 << 41).to_le_bytes());
    let path = temporary("many-problems", &file);
    let output = inspect(&["--json"], &path);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for words in [
        ["memfd", "[Flags]"],
        ["reserve_mem", "[Fdt]"],
        ["sub-blob", "[NotPreserved]"],
    ] {
        let named = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(error.lines().any(named), "{words:?} in {error}");
    }
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found["problems"].as_array().unwrap();
    assert_eq!((found.len(), error.lines().count()), (3, 3), "{error}");
    assert!(found.iter().any(|problem| problem["name"] == "Flags"));
    std::fs::remove_file(path).unwrap();
}

/// What is wrong with the file says nothing of the handover.
#[test]
fn a_file_that_is_no_image_has_its_own_status() {
    let file = read("linux-7.3-x86_64.elf");
    let mut program = file.clone();
    program[16] = 2;
    let rows: [(&str, &[u8], &[&str]); 8] = [
        ("truncated", &file[..file.len() / 2], &["ELF"]),
        ("header-only", &file[..100], &["ELF"]),
        ("not-a-core", &program, &["type 2"]),
        ("empty", &[], &["empty"]),
        ("text", b"no memory", &["--arch"]),
        ("kdump", b"KDUMP   \x06\0\0\0", &["kdump-compressed", "ELF"]),
        ("diskdump", b"DISKDUMP\x06\0\0\0", &["kdump-compressed"]),
        ("flat", b"makedumpfile\0\0\0\0", &["kdump-compressed"]),
    ];
    for (name, bytes, words) in rows {
        assert_refused(name, bytes, 2, words);
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_kho-inspect"))
        .arg("/dev/stdin")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have gone before all is written.
    let _ = child.stdin.take().unwrap().write_all(&file);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pipe"));
}

fn assert_refused(name: &str, file: &[u8], status: i32, words: &[&str]) {
    let path = temporary(&format!("damaged-{name}"), file);
    let output = inspect(&["--json"], &path);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{name}: {error}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let problems = found["problems"].as_array().map_or(0, Vec::len);
    assert_eq!(problems > 0, status == 1, "{name}: {found}");
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
    let nowhere = inspect(&[], Path::new("/nonexistent"));
    assert_eq!(nowhere.status.code(), Some(2));
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

/// What QEMU's dump-guest-memory wrote of a machine that holds the handover of the other file: it
/// names no entry and no page size.
#[test]
fn reads_a_dump_of_qemu() {
    let packed = std::fs::File::open(path("qemu-dump-aarch64.xz")).unwrap();
    let mut dump = Vec::new();
    lzma_rust2::XzReader::new(packed, false)
        .read_to_end(&mut dump)
        .unwrap();
    let dump = temporary("qemu.dump", &dump);
    let expected = json(&path("ours-to-ours-aarch64.elf"));
    let alone = inspect(&["--json"], &dump);
    assert_eq!(alone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&alone.stderr).contains("--kho-data"));
    let data = ["fdt_addr", "fdt_size", "scratch_addr", "scratch_size"]
        .map(|key| expected["kho_data"][key].to_string());
    for args in [
        ["--json", "--kho-data", &data.join(",")],
        ["--json", "--entry", &expected["entry"].to_string()],
    ] {
        let output = inspect(&args, &dump);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            // The memory of files, which the other file lacks, reads as zeros here.
            if !["entry", "luo"].contains(&key.as_str()) {
                assert_eq!(&found[key], value, "{key}");
            }
        }
        assert_eq!(
            found["luo"]["sessions"].as_array().unwrap().len(),
            expected["luo"]["sessions"].as_array().unwrap().len()
        );
    }
    std::fs::remove_file(dump).unwrap();
}

#[test]
fn says_who_accepts_each_component() {
    let file = path("linux-7.3-x86_64.elf");
    let text = String::from_utf8(inspect(&[], &file).stdout).unwrap();
    let row = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        line.unwrap().split_whitespace().collect::<Vec<_>>()
    };
    let consumers = [
        "6.16-6.17",
        "6.18",
        "6.19-7.0",
        "7.1",
        "7.2-7.3",
        "kho-core",
    ];
    assert_eq!(row("accepted by")[2..], consumers);
    assert_eq!(
        row("memfd")[1..],
        ["memfd-v2", "-", "-", "-", "-", "yes", "yes"]
    );
    assert!(!text.contains('\u{1b}'), "no colour unless on a terminal");

    for (versions, status) in [
        (&["7.3"][..], 0),
        (&["7.2", "kho-core"], 0),
        (&["7.3", "7.1"], 1),
        (&["6.16"], 1),
        (&["7.4"], 2),
    ] {
        let args = versions
            .iter()
            .flat_map(|version| ["--accepted-by", version]);
        let output = inspect(&args.collect::<Vec<_>>(), &file);
        assert_eq!(output.status.code(), Some(status), "{versions:?}");
    }
}

#[test]
fn draws_the_memory() {
    for name in FIXTURES {
        let svg = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.svg"));
        let args = ["--svg", svg.to_str().unwrap()];
        let output = inspect(&args, &path(&format!("{name}.elf")));
        assert!(output.status.success());
        let drawn = std::fs::read_to_string(&svg).unwrap();
        let facts = json(&path(&format!("{name}.elf")));
        let scratch = facts["scratch"].as_array().unwrap().iter();
        let scratch: u64 = scratch.map(|area| area["size"].as_u64().unwrap()).sum();
        let scratch = format!("scratch: {} MiB", scratch >> 20);
        for part in [
            "<svg",
            "preserved, 2 MiB and more: 6 MiB",
            "description:",
            &scratch,
        ] {
            assert!(drawn.contains(part), "{part}");
        }
        std::fs::remove_file(svg).unwrap();
    }
}

#[test]
fn shows_what_differs() {
    let file = path("linux-7.3-x86_64.elf");
    let diff = |args: &[&str], old: &Path, new: &Path| {
        let args = args.iter().map(OsStr::new);
        run(args.chain([OsStr::new("--diff"), old.as_ref(), new.as_ref()]))
    };
    let same = diff(&[], &file, &file);
    assert_eq!((same.status.code(), same.stdout.len()), (Some(0), 0));

    let converted = Path::new(env!("CARGO_TARGET_TMPDIR")).join("differs.elf");
    let args = ["--convert", "v3", "-o", converted.to_str().unwrap()];
    assert!(inspect(&args, &file).status.success());
    let output = diff(&[], &file, &converted);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("~ compatible: kho-v4 -> kho-v3\n"), "{text}");
    // The page of the root description.
    assert!(
        text.contains("- memory no longer preserved: 4 KiB\n"),
        "{text}"
    );
    assert!(!text.contains("subtrees"), "{text}");
    let output = diff(&["--json"], &file, &converted);
    let lines: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(lines.as_array().unwrap().len(), text.lines().count());
    // Two machines: addresses are hexadecimal, digests short, counts by their names.
    let output = diff(&[], &path("linux-7.3-arm64.elf"), &file);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, include_str!("pages/arm64-x86_64.diff"));
    let nowhere = diff(&[], &file, Path::new("/nonexistent"));
    assert_eq!(nowhere.status.code(), Some(2));
    std::fs::remove_file(converted).unwrap();
}

/// A guest's memory is not to be believed, and names in it are printed.
#[test]
fn names_do_nothing_to_a_terminal() {
    let mut file = read("linux-7.3-x86_64.elf");
    let original = path("linux-7.3-x86_64.elf");
    let facts = json(&original);
    let blob = &facts["subtrees"]["memblock"];
    let at = file_offset(&file, blob["addr"].as_u64().unwrap());
    let bytes = &mut file[at..at + blob["size"].as_u64().unwrap() as usize];
    let name = bytes.windows(4).position(|bytes| bytes == b"oops").unwrap();
    bytes[name..name + 4].copy_from_slice(b"\x1b[2J");
    let hostile = temporary("hostile-name", &file);
    let page = inspect(&[], &hostile).stdout;
    let args = [OsStr::new("--diff"), original.as_ref(), hostile.as_ref()];
    for shown in [page, run(args).stdout] {
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("[2J"), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
    }
    std::fs::remove_file(hostile).unwrap();
}

#[test]
fn says_which_version_it_is() {
    let version = run(["--version"]);
    assert!(version.status.success());
    let expected = concat!("kho-inspect ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(version.stdout, expected.as_bytes());
}

#[test]
fn help_names_every_option() {
    let help = run(["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let source =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/options.rs"));
    let source = source.unwrap();
    let options = source.split("Long(\"").skip(1);
    for option in options.filter_map(|rest| rest.split('"').next()) {
        let known = ["help", "output"].contains(&option) || help.contains(&format!("--{option}"));
        assert!(known, "{option}");
    }
    assert!(help.lines().all(|line| line.len() <= 80));
}

/// A machine of 1 TiB: its description is all that is read, and the picture fits a screen.
#[test]
fn a_large_machine_is_shown_like_a_small_one() {
    const GIB: u64 = 1 << 30;
    let page = PageSize::Size4K;
    let range = |start, size| PhysRange::new(PhysAddr::new(start), size).unwrap();
    let mut memory = SimMemory::new([range(GIB, 16 << 20)]).unwrap();
    let scratch = [range(GIB + (8 << 20), 8 << 20)];
    let boot = {
        let alloc = SimAlloc::new(&memory, page, [range(GIB, 8 << 20)]);
        let tracker = Tracker::new(&memory, &alloc, page, &scratch).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let folios = |start, count, order| {
            let order = Order::new(order).unwrap();
            for i in 0..count {
                let addr = PhysAddr::new(start + i * order.bytes(page).unwrap());
                outgoing.tracker().preserve_folio(addr, order).unwrap();
            }
        };
        folios(4 * GIB, 700, 18);
        folios(720 * GIB, 4096, 9);
        folios(1023 * GIB, 100, 0);
        let array = PhysAddr::new(GIB + (16 << 20) - 4096);
        outgoing.finalize(array, &mut []).unwrap().hand_over()
    };
    let frozen = memory.freeze();
    let ram = frozen.bytes(PhysAddr::new(GIB), 16 << 20).unwrap();
    let ram = temporary("large.ram", ram);
    let svg = Path::new(env!("CARGO_TARGET_TMPDIR")).join("large.svg");
    let data = format!(
        "{},{},{},{}",
        boot.fdt_addr, boot.fdt_size, boot.scratch_addr, boot.scratch_size
    );
    let base = GIB.to_string();
    let mut args = vec!["--arch", "x86_64", "--base", &base, "--kho-data", &data];
    args.extend(["--svg", svg.to_str().unwrap()]);
    let output = inspect(&args, &ram);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("preserved   708.0 GiB in 4897 folios"),
        "{text}"
    );
    let line = text.lines().find(|line| line.starts_with("memory"));
    let cells = line.unwrap().split_whitespace().nth(1).unwrap();
    assert!(cells.chars().count() <= 64, "{cells}");
    assert!(cells.contains("LLLLLLLL") && cells.contains('M'), "{cells}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.contains("preserved, 1 GiB and more: 700 GiB"));
    let height = drawn
        .split("height=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    assert!(height.unwrap().parse::<u32>().unwrap() < 1600, "{height:?}");
    std::fs::remove_file(svg).unwrap();
    std::fs::remove_file(ram).unwrap();
}

/// Without being told where: the only whole handover in the memory.
#[test]
fn searches_for_the_handover() {
    let original = path("linux-7.3-x86_64.elf");
    let file = read("linux-7.3-x86_64.elf");
    let expected = json(&original);
    let search = |name: &str, bytes: &[u8]| {
        let path = temporary(name, bytes);
        let output = inspect(&["--search", "--json"], &path);
        std::fs::remove_file(path).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), output.stdout, error)
    };
    let mut silent = file.clone();
    silent[24..32].fill(0);
    let (status, stdout, error) = search("search", &silent);
    assert_eq!(status, Some(0), "{error}");
    let found: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(
        found["kho_data"]["fdt_addr"],
        expected["kho_data"]["fdt_addr"]
    );
    assert_eq!(found["kho_data"]["scratch_addr"], Value::Null);
    assert_eq!(found["scratch"], serde_json::json!([]));
    for key in ["folios_sha256", "subtrees", "luo", "preflight"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    let text = String::from_utf8(inspect(&["--search"], &original).stdout).unwrap();
    assert!(text.contains("scratch     not known"), "{text}");

    let fdt = expected["kho_data"]["fdt_addr"].as_u64().unwrap();
    let mut damaged = silent.clone();
    patch(&mut damaged, fdt + 0x60, &0u64.to_le_bytes());
    let (status, _, error) = search("search-damaged", &damaged);
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("no root description"), "{error}");
    let mut cut = silent.clone();
    patch(
        &mut cut,
        expected["preserved_memory_map"].as_u64().unwrap(),
        &[0; 4096],
    );
    let (status, _, error) = search("search-cut", &cut);
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("is not preserved"), "{error}");

    let both = ["--search", "--entry", "0x1000"];
    assert_eq!(inspect(&both, &original).status.code(), Some(2));
}

const SIZE: u64 = 2 << 20;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

/// The page that [`small_machine`] preserves.
const PRESERVED: u64 = 0x7_0000;

/// The memory of a machine of 2 MiB from 0 on, which is scratch in its upper half.
fn small_machine() -> (Vec<u8>, BootData) {
    let page = PageSize::Size4K;
    let mut memory = SimMemory::new([range(0, SIZE)]).unwrap();
    let scratch = [range(SIZE / 2, SIZE / 2)];
    let boot = {
        let alloc = SimAlloc::new(&memory, page, [range(0x1000, 0x6_0000)]);
        let tracker = Tracker::new(&memory, &alloc, page, &scratch).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let folio = PhysAddr::new(PRESERVED);
        outgoing
            .tracker()
            .preserve_folio(folio, Order::ZERO)
            .unwrap();
        let array = PhysAddr::new(SIZE / 2);
        outgoing.finalize(array, &mut []).unwrap().hand_over()
    };
    let frozen = memory.freeze();
    let ram = frozen.bytes(PhysAddr::new(0), SIZE as usize).unwrap();
    (ram.to_vec(), boot)
}

/// Four numbers for `--kho-data`.
fn numbers(boot: &BootData) -> String {
    let (fdt, scratch) = (boot.fdt_addr, boot.scratch_addr);
    format!("{fdt},{},{scratch},{}", boot.fdt_size, boot.scratch_size)
}

/// `kho-v1` does not say how large its bitmaps are.
#[test]
fn bitmaps_of_v1_are_as_told() {
    let page = PageSize::Size4K;
    let (ram, boot) = small_machine();
    let old = SimMemory::from_pieces(&[(PhysAddr::new(0), &ram)]);
    let (mut old, mut workspace) = (old.unwrap(), vec![0; 1 << 12]);
    let old = old.freeze();
    let machine = Machine::unknown(page);
    let incoming = Incoming::check(&old, boot, machine, &mut workspace).unwrap();
    let mut new = SimMemory::new([range(SIZE, SIZE)]).unwrap();
    let alloc = SimAlloc::new(&new, page, [range(SIZE, SIZE)]);
    let boot = translate(&incoming, Generation::V1Page, &new, &alloc)
        .unwrap()
        .boot;
    drop(alloc);
    let new = new.freeze();
    let added = new.bytes(PhysAddr::new(SIZE), SIZE as usize).unwrap();
    let file = temporary("v1.ram", &[&ram, added].concat());
    let data = numbers(&boot);
    let common = ["--arch", "x86_64", "--kho-data", &data];
    for (told, status, said) in [
        (&[][..], 1, "[Ambiguous]"),
        (&["--v1-bitmaps", "page"], 0, "handover    kho-v1 (v1-page)"),
    ] {
        let output = inspect(&[&common[..], told].concat(), &file);
        assert_eq!(output.status.code(), Some(status), "{told:?}");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(said), "{text}");
    }
    std::fs::remove_file(file).unwrap();
}

/// A map that says of every other page in scratch that it is preserved.
#[test]
fn a_hundred_problems_are_enough() {
    let (ram, boot) = small_machine();
    let data = numbers(&boot);
    let args = ["--json", "--arch", "x86_64", "--kho-data", &data];
    let look = |name: &str, ram: &[u8]| {
        let file = temporary(name, ram);
        let output = inspect(&args, &file);
        std::fs::remove_file(file).unwrap();
        let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
        (facts, String::from_utf8(output.stderr).unwrap())
    };
    let (facts, _) = look("no-problem.ram", &ram);
    let nodes = facts["radix"]["node_pages"].as_array().unwrap().iter();
    let mut nodes = nodes.map(|node| node.as_u64().unwrap() as usize);
    let byte = |addr: u64| addr as usize >> 12 >> 3;
    let leaf = nodes.find(|leaf| ram[leaf + byte(PRESERVED)] == 1).unwrap();
    for count in [99, 100, 101, 128] {
        let mut ram = ram.clone();
        for i in 0..count {
            let addr = SIZE / 2 + (i << 13);
            ram[leaf + byte(addr)] |= 1 << (addr >> 12 & 7);
        }
        let (facts, error) = look("problems.ram", &ram);
        let problems = facts["problems"].as_array().unwrap();
        assert_eq!(problems.len() as u64, count.min(100));
        let more = error.ends_with("and there are more problems\n");
        assert_eq!(more, count >= 100, "{error}");
    }
}

/// Of two descriptions that lead to the same map, one was left behind: which, nobody can say.
#[test]
fn a_search_that_finds_two_handovers_names_both() {
    let (mut ram, boot) = small_machine();
    let copy = PhysAddr::new(PRESERVED);
    let search = |ram: &[u8]| {
        let ram = temporary("twice.ram", ram);
        let output = inspect(&["--arch", "x86_64", "--search"], &ram);
        std::fs::remove_file(ram).unwrap();
        output
    };
    assert_eq!(search(&ram).status.code(), Some(0));
    let fdt = boot.fdt_addr.as_u64() as usize;
    ram.copy_within(fdt..fdt + 4096, copy.as_u64() as usize);
    let output = search(&ram);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    for addr in [boot.fdt_addr, copy] {
        assert!(error.contains(&addr.to_string()), "{error}");
    }
}

/// The second file of the first session, with what it says of its contents.
fn second_file(facts: &Value) -> &Value {
    &facts["luo"]["sessions"][0]["files"][1]
}

/// Contents that are followed by a hole, which is longer than what is read at once.
#[test]
fn contents_are_digested_with_their_holes() {
    let mut file = read("linux-7.3-x86_64.elf");
    let facts = json(&path("linux-7.3-x86_64.elf"));
    let memfd = &second_file(&facts)["memfd"];
    let hex = |bytes: &[u8]| -> String {
        let digest = Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    // Its pages follow one another.
    let first = memfd["folios_head"][0][0].as_u64().unwrap();
    let at = file_offset(&file, first << 12);
    let mut contents = file[at..at + (80 << 10)].to_vec();
    assert_eq!(memfd["content_sha256"], hex(&contents));
    contents.resize((5 << 18) + 1234, 0);
    let descriptor = second_file(&facts)["data"].as_u64().unwrap();
    patch(&mut file, descriptor + 8, &contents.len().to_le_bytes());
    let file = temporary("long-hole.elf", &file);
    let facts = json(&file);
    let memfd = &second_file(&facts)["memfd"];
    assert_eq!(memfd["content_sha256"], hex(&contents));
    std::fs::remove_file(file).unwrap();
}

/// The last size of which contents are extracted, and the first of which they are not.
#[test]
fn contents_up_to_a_size_are_extracted() {
    let mut file = read("linux-7.3-x86_64.elf");
    let facts = json(&path("linux-7.3-x86_64.elf"));
    let descriptor = second_file(&facts)["data"].as_u64().unwrap();
    for (size, extracted) in [(128 << 10, true), ((128 << 10) + 1, false)] {
        patch(&mut file, descriptor + 8, &u64::to_le_bytes(size));
        let from = temporary("extract-from.elf", &file);
        let to = from.with_file_name("extract-to.elf");
        let args = ["--extract", "-o", to.to_str().unwrap()];
        assert!(inspect(&args, &from).status.success());
        let facts = json(&to);
        let memfd = &second_file(&facts)["memfd"];
        assert_eq!(memfd["content_in_image"], extracted, "{size}");
        std::fs::remove_file(from).unwrap();
        std::fs::remove_file(to).unwrap();
    }
}

/// A file of 64 GiB costs an image a number.
#[test]
fn holes_of_any_size_are_not_digested() {
    let mut file = read("linux-7.3-x86_64.elf");
    let facts = json(&path("linux-7.3-x86_64.elf"));
    let (old, _) = largest_file(&facts);
    patch(&mut file, old + 8, &(1u64 << 36).to_le_bytes());
    let facts = json(&temporary("holes.elf", &file));
    assert_eq!(largest_file(&facts), (old, 1 << 36));
    let text = facts.to_string();
    assert!(text.contains("\"content_in_image\":false"), "{text}");
}

/// Address of the descriptor, and size, of the largest file.
fn largest_file(facts: &Value) -> (u64, u64) {
    let sessions = facts["luo"]["sessions"].as_array().unwrap().iter();
    let files = sessions.flat_map(|session| session["files"].as_array().unwrap());
    let size = |file: &Value| file["memfd"]["size"].as_u64().unwrap_or(0);
    let largest = files.max_by_key(|file| size(file)).unwrap();
    (largest["data"].as_u64().unwrap(), size(largest))
}

/// Segments that share the bytes of the file would be memory without bound.
#[test]
fn memory_that_is_more_than_the_file() {
    for (count, status) in [(1u16, 1), (2, 2)] {
        let size = 64 + 56 * u64::from(count);
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([4u16, 62].map(u16::to_le_bytes).as_flattened());
        file.extend(1u32.to_le_bytes());
        file.extend([1u64 << 32, 64, 0].map(u64::to_le_bytes).as_flattened());
        file.extend(0u32.to_le_bytes());
        let sizes = [64, 56, count, 0, 0, 0].map(u16::to_le_bytes);
        file.extend(sizes.as_flattened());
        for i in 1..=u64::from(count) {
            file.extend([1u32, 0].map(u32::to_le_bytes).as_flattened());
            let fields = [0, i << 32, i << 32, size, size, 4096];
            file.extend(fields.map(u64::to_le_bytes).as_flattened());
        }
        let path = temporary(&format!("shared-{count}.elf"), &file);
        let output = inspect(&[], &path);
        assert_eq!(output.status.code(), Some(status));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("more memory than bytes"), count > 1, "{said}");
    }
}

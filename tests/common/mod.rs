//! Handovers captured from real Linux.
#![allow(dead_code, reason = "each test uses a part")]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use elf::ElfBytes;
use elf::endian::LittleEndian;

pub const FIXTURES: [&str; 2] = ["linux-7.3-x86_64", "linux-7.3-arm64"];

pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name]
        .iter()
        .collect()
}

pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// Where in a core file the byte of memory at `addr` is.
pub fn file_offset(file: &[u8], addr: u64) -> usize {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).unwrap();
    let segments = elf.segments().unwrap();
    let segment = segments
        .iter()
        .find(|s| s.p_paddr <= addr && addr < s.p_paddr + s.p_filesz)
        .unwrap_or_else(|| panic!("{addr:#x} is not in the file"));
    (segment.p_offset + addr - segment.p_paddr) as usize
}

/// The little-endian word of memory at `addr` in a core file.
pub fn word(file: &[u8], addr: u64) -> u64 {
    let at = file_offset(file, addr);
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Changes memory at `addr` in a core file.
pub fn patch(file: &mut [u8], addr: u64, bytes: &[u8]) {
    let at = file_offset(file, addr);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Runs an example. Cargo does not build examples for a single test, so it is built first; it then
/// stands beside the tests' directory.
pub fn example(name: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let build = ["build", "--quiet", "--example", name];
    let built = Command::new(env!("CARGO")).args(build).status().unwrap();
    assert!(built.success());
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap().join("examples");
    Command::new(folder.join(name)).args(args).output().unwrap()
}

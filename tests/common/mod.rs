//! Handovers captured from real Linux.
#![allow(dead_code, reason = "each test uses a part")]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

pub const FIXTURES: [&str; 2] = ["linux-7.3-x86_64", "linux-7.3-arm64"];

pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name]
        .iter()
        .collect()
}

pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
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

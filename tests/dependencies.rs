//! docs/dependencies.md names every dependency of the workspace, and none that is gone.
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_dependency_has_a_row() {
    let manifest = read("Cargo.toml");
    let (_, dependencies) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let dependencies = dependencies.split("\n\n").next().unwrap();
    let lines = dependencies.lines().filter(|line| !line.contains("path ="));
    let used: BTreeSet<_> = lines.filter_map(|line| line.split(" = ").next()).collect();
    assert!(used.len() > 20, "{used:?}");

    let page = read("docs/dependencies.md");
    let (_, tables) = page.split_once("<!-- tables -->\n").unwrap();
    let (tables, _) = tables.split_once("<!-- end -->").unwrap();
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| `"));
    let named: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(named, used);
}

//! What cargo-mutants would change.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One change of one place.
pub struct Mutant {
    pub package: String,
    pub file: String,
    /// File, line, column and what is done, as cargo-mutants calls it.
    pub name: String,
    pub genre: String,
    /// What stands there instead.
    pub replacement: String,
    /// Lines and columns from 1 on, in characters; the end is exclusive.
    pub start: (usize, usize),
    pub end: (usize, usize),
}

/// All mutants of the packages.
pub fn all(root: &Path, packages: &[String]) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    command.args(["mutants", "--list", "--json"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command.output().context("cargo mutants")?;
    ensure!(
        output.status.success(),
        "cargo mutants --list: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    list.iter().map(mutant).collect()
}

fn mutant(json: &Value) -> Result<Mutant> {
    let text = |name: &str| json[name].as_str().map(String::from).context("a mutant");
    let place = |end: &str| {
        let number = |name| json["span"][end][name].as_u64().context("a place");
        anyhow::Ok((number("line")? as usize, number("column")? as usize))
    };
    Ok(Mutant {
        package: text("package")?,
        file: text("file")?,
        name: text("name")?,
        genre: text("genre")?,
        replacement: text("replacement")?,
        start: place("start")?,
        end: place("end")?,
    })
}

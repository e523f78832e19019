//! The copy of the workspace with all mutants in it, and its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, str};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Places;
use super::list::Mutant;
use super::weave::{Place, Woven, weave};

/// What cargo-mutants needs besides cargo is left to it.
pub struct Built {
    /// Programs of tests, each with the folder that it runs in.
    pub programs: Vec<(PathBuf, PathBuf)>,
    /// What became of each mutant.
    pub places: Vec<Place>,
    /// Those that are no program.
    pub unviable: BTreeSet<usize>,
}

/// A cargo command on the woven workspace. Whoever runs its tests has to set the same, as some of
/// them call cargo.
pub fn environment<'c>(command: &'c mut Command, places: &Places) -> &'c mut Command {
    command
        .env("CARGO_TARGET_DIR", &places.target)
        .env("RUSTFLAGS", "--cap-lints=allow")
        .env("RUSTC_BOOTSTRAP", "mutant_switch")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "1")
}

/// Copies, weaves and builds, until what does not build is left out. What that is, is kept for the
/// next time in `target/mutants/unviable`.
pub fn build(places: &Places, mutants: &[Mutant]) -> Result<Built> {
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (id, mutant) in mutants.iter().enumerate() {
        files.entry(&mutant.file).or_default().push((id, mutant));
    }
    copy(places, &|file| files.contains_key(file))?;
    let mut built = Built {
        programs: Vec::new(),
        places: vec![Place::Lost; mutants.len()],
        unviable: BTreeSet::new(),
    };
    let known = places.results.join("unviable");
    let names = fs::read_to_string(&known).unwrap_or_default();
    let names: BTreeSet<&str> = names.lines().collect();
    let ids = (0..).zip(mutants);
    let old = ids.filter(|(_, mutant)| names.contains(mutant.name.as_str()));
    built.unviable = old.map(|(id, _)| id).collect();
    let mut woven = BTreeMap::new();
    let mut changed: BTreeSet<&str> = files.keys().copied().collect();
    loop {
        for file in changed {
            let text = fs::read_to_string(places.root.join(file))?;
            let skip = |id| built.unviable.contains(&id);
            let list = files.get(file).context("a file of mutants")?;
            let done = weave(&text, list, &skip).with_context(|| file.to_owned())?;
            for &(id, place) in &done.places {
                built.places[id] = place;
            }
            write(&places.tree.join(file), done.text.as_bytes())?;
            woven.insert(file, done);
        }
        let mut cargo = Command::new("cargo");
        let tests = "build --workspace --exclude xtask --all-features --lib --bins --tests \
            --examples --keep-going --message-format=json";
        environment(&mut cargo, places).args(tests.split_whitespace());
        cargo.current_dir(&places.tree).stderr(Stdio::null());
        let output = cargo.output()?;
        let messages: Vec<Value> = str::from_utf8(&output.stdout)?
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if output.status.success() {
            built.programs = programs(&messages);
            let names = built
                .unviable
                .iter()
                .map(|&id| format!("{}\n", mutants[id].name));
            fs::write(known, names.collect::<String>())?;
            return Ok(built);
        }
        changed = culprits(&messages, &woven, &mut built.unviable)?;
        println!("{} do not build", built.unviable.len());
    }
}

/// Finds which mutants the errors are about; returns the files to weave again.
fn culprits<'f>(
    messages: &[Value],
    woven: &BTreeMap<&'f str, Woven>,
    unviable: &mut BTreeSet<usize>,
) -> Result<BTreeSet<&'f str>> {
    let mut changed = BTreeSet::new();
    let errors = messages
        .iter()
        .map(|message| &message["message"])
        .filter(|message| message["level"] == "error");
    for error in errors {
        let spans = error["spans"].as_array().map_or(&[][..], Vec::as_slice);
        // The mutants' own text, else all mutants of the smallest place around the error.
        let mut found: Vec<(&str, usize)> = Vec::new();
        let mut around: Option<(usize, &str, &[usize])> = None;
        for (file, start, end) in spans.iter().flat_map(|span| place(span, woven)) {
            let Some(woven) = woven.get(file) else {
                continue;
            };
            let within = |range: &std::ops::Range<usize>| range.start <= start && end <= range.end;
            let inside = woven.branches.iter().filter(|(range, _)| within(range));
            found.extend(inside.map(|&(_, id)| (file, id)));
            let wholes = woven.wholes.iter().filter(|(range, _)| within(range));
            for (range, ids) in wholes {
                if around.is_none_or(|(len, ..)| range.len() < len) {
                    around = Some((range.len(), file, ids));
                }
            }
        }
        if found.is_empty() {
            found.extend(
                around
                    .iter()
                    .flat_map(|&(_, file, ids)| ids.iter().map(move |&id| (file, id))),
            );
        }
        if found.is_empty() && !spans.is_empty() {
            bail!(
                "not about a mutant: {}",
                error["rendered"].as_str().unwrap_or_default()
            );
        }
        for (file, id) in found {
            unviable.insert(id);
            changed.insert(file);
        }
    }
    ensure!(!changed.is_empty(), "the woven workspace does not build");
    Ok(changed)
}

/// File and bytes of a place that a message names, and of those it was expanded from.
fn place<'f>(mut span: &Value, woven: &BTreeMap<&'f str, Woven>) -> Vec<(&'f str, usize, usize)> {
    let mut found = Vec::new();
    while span.is_object() {
        let name = span["file_name"].as_str().unwrap_or_default();
        let bytes = |end: &str| span[end].as_u64().unwrap_or(0) as usize;
        if let Some((file, _)) = woven.get_key_value(name) {
            found.push((*file, bytes("byte_start"), bytes("byte_end")));
        }
        span = &span["expansion"]["span"];
    }
    found
}

fn programs(messages: &[Value]) -> Vec<(PathBuf, PathBuf)> {
    let tests = messages
        .iter()
        .filter(|message| message["profile"]["test"] == true);
    tests
        .filter_map(|message| {
            let manifest = Path::new(message["manifest_path"].as_str()?);
            let program = message["executable"].as_str()?;
            Some((PathBuf::from(program), manifest.parent()?.to_owned()))
        })
        .collect()
}

/// Copies what git knows of, but for what will be woven, and adds the crate that has the switch, on
/// which all packages depend.
fn copy(places: &Places, woven: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut git = Command::new("git");
    let listed =
        git.current_dir(&places.root)
            .args(["ls-files", "-z", "-co", "--exclude-standard"]);
    let listed = String::from_utf8(listed.output()?.stdout)?;
    let files: BTreeSet<&str> = listed.split_terminator('\0').collect();
    for file in files.into_iter().filter(|file| !woven(file)) {
        // Deleted, but git still has it.
        let Ok(bytes) = fs::read(places.root.join(file)) else {
            continue;
        };
        let is_package = file.starts_with("crates/") && file.ends_with("/Cargo.toml");
        match is_package && file.split('/').count() == 3 {
            true => {
                let manifest = String::from_utf8(bytes)?;
                let switch = "[dependencies]\nmutant_switch = { path = \"../../mutant_switch\" }\n";
                let manifest = match manifest.contains("[dependencies]\n") {
                    true => manifest.replacen("[dependencies]\n", switch, 1),
                    false => format!("{manifest}\n{switch}"),
                };
                write(&places.tree.join(file), manifest.as_bytes())?;
            }
            false => write(&places.tree.join(file), &bytes)?,
        }
    }
    let switch = places.tree.join("mutant_switch");
    write(&switch.join("src/lib.rs"), include_bytes!("switch.rs"))?;
    let manifest = "[package]\nname = \"mutant_switch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n";
    write(&switch.join("Cargo.toml"), manifest.as_bytes())
}

/// Writes a file, unless it is the same already: then cargo builds nothing anew.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    fs::write(path, bytes)?;
    Ok(())
}

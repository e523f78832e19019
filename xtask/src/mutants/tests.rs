//! The tests of the woven workspace, and which mutants each reaches.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Options, Places, build};

/// A test that passes when no mutant is on.
pub struct Test {
    pub program: PathBuf,
    pub folder: PathBuf,
    pub name: String,
    pub took: Duration,
    /// By number.
    pub reached: BTreeSet<usize>,
}

/// Memory that a test may take.
const MEMORY: &str = "--as=8589934592";

/// Runs every test once. Those that take too long, or fail without a mutant, are left out: a mutant
/// that only they catch counts as missed.
pub fn trace(
    places: &Places,
    programs: &[(PathBuf, PathBuf)],
    options: &Options,
) -> Result<Vec<Test>> {
    let mut all = Vec::new();
    for (program, folder) in programs {
        let output = Command::new(program)
            .args(["--list", "--format", "terse"])
            .current_dir(folder)
            .output()
            .with_context(|| program.display().to_string())?;
        let list = String::from_utf8(output.stdout)?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        all.extend(names.map(|name| (program.clone(), folder.clone(), name.to_owned())));
    }
    println!("{} tests", all.len());
    let traces = places.results.join("reached");
    if traces.exists() {
        fs::remove_dir_all(&traces)?;
    }
    fs::create_dir_all(&traces)?;
    let tests = in_parallel(options.jobs, all.len(), |i| {
        let (program, folder, name) = all[i].clone();
        let reached = traces.join(i.to_string());
        let start = Instant::now();
        let variable = ("MUTANTS_REACHED", reached.as_os_str());
        let status = execute(
            places,
            (&program, &folder),
            &[&name],
            variable,
            options.longest,
        )?;
        let took = start.elapsed();
        if !status.success() {
            println!(
                "left out, as it fails or takes too long: {name} of {}",
                program.display()
            );
            return Ok(None);
        }
        let reached = fs::read_to_string(reached).unwrap_or_default();
        let reached = reached.lines().filter_map(|id| id.parse().ok()).collect();
        Ok(Some(Test {
            program,
            folder,
            name,
            took,
            reached,
        }))
    })?;
    let tests: Vec<Test> = tests.into_iter().flatten().collect();
    let time: Duration = tests.iter().map(|test| test.took).sum();
    println!("{} pass, in {time:.0?}", tests.len());
    Ok(tests)
}

/// Runs tests of one program, with a variable in its environment.
pub fn execute(
    places: &Places,
    (program, folder): (&Path, &Path),
    names: &[&str],
    (variable, value): (&str, &std::ffi::OsStr),
    limit: Duration,
) -> Result<ExitStatus> {
    let mut command = Command::new("timeout");
    command.args([
        "--signal=KILL",
        &limit.as_secs_f32().to_string(),
        "prlimit",
        MEMORY,
    ]);
    command
        .arg(program)
        .args(["--exact", "--test-threads=1"])
        .args(names);
    build::environment(&mut command, places).env("PROPTEST_CASES", "32");
    command.current_dir(folder).env(variable, value);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command.status()?)
}

/// Calls `work` with each number up to `count`, on `jobs` threads; the results are in order.
pub fn in_parallel<T: Send>(
    jobs: usize,
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    let result = work(i);
                    let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                    done.push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

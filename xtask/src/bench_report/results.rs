//! The results of criterion.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// One benchmark.
#[derive(Debug)]
pub struct Benchmark {
    /// The job.
    pub group: String,
    /// Who does it.
    pub name: String,
    /// The size, if it is measured at several.
    pub size: Option<String>,
    /// Nanoseconds for one element, of the fastest sample: the one that was disturbed least.
    pub each: f64,
}

/// All benchmarks of a run.
#[derive(Debug)]
pub struct Results(pub Vec<Benchmark>);

impl Results {
    /// Reads what criterion left in a directory.
    pub fn read(root: &Path) -> Result<Self> {
        let mut found = Vec::new();
        collect(root, &mut found).with_context(|| root.display().to_string())?;
        found.sort_by(|a, b| (&a.group, &a.name, number(a)).cmp(&(&b.group, &b.name, number(b))));
        Ok(Self(found))
    }

    /// Nanoseconds an element of one benchmark.
    pub fn get(&self, group: &str, name: &str) -> Option<f64> {
        let mut all = self.0.iter();
        let found = all.find(|found| found.group == group && found.name == name);
        found.map(|found| found.each)
    }
}

/// A size as a number, to sort by.
fn number(benchmark: &Benchmark) -> Option<u64> {
    benchmark.size.as_deref()?.split(' ').next()?.parse().ok()
}

fn collect(directory: &Path, found: &mut Vec<Benchmark>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.ends_with("new") {
            found.extend(read(&path)?);
        } else if path.is_dir() {
            collect(&path, found)?;
        }
    }
    Ok(())
}

fn read(directory: &Path) -> Result<Option<Benchmark>> {
    let json = |name: &str| -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(
            directory.join(name),
        )?)?)
    };
    let (about, samples) = (json("benchmark.json")?, json("sample.json")?);
    let numbers = |name: &str| {
        let list = samples[name].as_array().map(Vec::as_slice);
        list.unwrap_or_default().iter().filter_map(Value::as_f64)
    };
    let times = numbers("times").zip(numbers("iters"));
    let fastest = times
        .map(|(time, rounds)| time / rounds)
        .fold(f64::MAX, f64::min);
    let elements = about["throughput"]["Elements"].as_f64().unwrap_or(1.0);
    let text = |name: &str| about[name].as_str().map(str::to_string);
    let (Some(group), size) = (text("group_id"), text("value_str")) else {
        return Ok(None);
    };
    Ok(Some(Benchmark {
        group,
        name: text("function_id").unwrap_or_default(),
        size,
        each: fastest / elements,
    }))
}

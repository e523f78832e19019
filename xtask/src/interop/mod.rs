//! Real Linux on both sides of a handover, in QEMU: see docs/interop.md.

mod arch;
mod bundle;
mod initrd;
mod inspect;
mod kernels;
mod machine;
mod monitor;
mod places;
mod programs;
mod scenarios;
mod serial;
mod tools;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use arch::Arch;
use scenarios::SCENARIOS;

/// What to run.
#[derive(Debug, Default)]
pub struct Options {
    arch: Option<Arch>,
    /// Empty for all.
    scenarios: Vec<String>,
    list: bool,
    /// Where to put the handovers that the host reads.
    capture: Option<PathBuf>,
}

impl Options {
    pub fn parse(mut args: lexopt::Parser) -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut options = Self::default();
        while let Some(arg) = args.next()? {
            match arg {
                Long("arch") => options.arch = Some(args.value()?.parse_with(Arch::parse)?),
                Long("scenario") => {
                    let name: String = args.value()?.parse()?;
                    if !SCENARIOS.iter().any(|(known, _)| *known == name) {
                        return Err(format!("there is no scenario {name}").into());
                    }
                    options.scenarios.push(name);
                }
                Long("capture") => options.capture = Some(args.value()?.into()),
                Long("list") => options.list = true,
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }

    fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|name| name == scenario)
    }
}

/// What every scenario of one architecture is given.
pub struct Bench {
    arch: Arch,
    /// The Linux kernel, uncompressed as its boot protocol wants it.
    linux: PathBuf,
    /// The guest's init.
    init: PathBuf,
    /// `kho-inspect`, for a guest.
    inspect: PathBuf,
    /// Our program, in the form of a Linux kernel.
    bare_metal: PathBuf,
    /// Where files may be put.
    folder: PathBuf,
    /// Where to put the handovers that the host reads.
    capture: Option<PathBuf>,
}

/// Runs the scenarios; whether all passed.
pub fn run(options: &Options) -> Result<bool> {
    if options.list {
        for (name, _) in SCENARIOS {
            println!("{name}");
        }
        return Ok(true);
    }
    let arches: Vec<_> = Arch::ALL
        .into_iter()
        .filter(|arch| options.arch.is_none_or(|only| only == *arch))
        .collect();
    tools::check(&arches)?;
    let folder = places::target()?.join("interop");
    fs::create_dir_all(&folder)?;
    let (mut passed, mut failed) = (0, 0);
    for arch in arches {
        let bench = Bench {
            arch,
            linux: kernels::find(arch, &folder)?,
            init: programs::for_guest(arch, "kho-interop-guest")?,
            inspect: programs::for_guest(arch, "kho-inspect")?,
            bare_metal: programs::bare_metal(arch, &folder)?,
            folder: folder.clone(),
            capture: options.capture.clone(),
        };
        for (name, scenario) in SCENARIOS {
            if !options.wants(name) {
                continue;
            }
            let start = Instant::now();
            let log = folder.join(format!("{name}-{arch}.log"));
            match scenario(&bench, name) {
                Ok(()) => {
                    passed += 1;
                    println!(
                        "PASS {name} {arch} ({:.1} s)",
                        start.elapsed().as_secs_f32()
                    );
                    fs::remove_file(&log)?;
                }
                Err(error) => {
                    failed += 1;
                    println!("FAIL {name} {error:#} {arch} (log: {})", log.display());
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

//! Linux and we take turns; what the first Linux preserved arrives at the last.

use anyhow::{Result, ensure};
use kho_interop_plan::{NOTE, RELEASE};

use super::linux_cmdline;
use super::linux_to_linux::check_taken_over;
use super::linux_to_ours::check_found;
use crate::interop::Bench;
use crate::interop::initrd::Initrd;
use crate::interop::machine::Machine;

/// Linux, we, Linux.
pub fn once(bench: &Bench, name: &str) -> Result<()> {
    alternate(bench, name, 1)
}

/// Ten kexecs from Linux to us, and ten back.
pub fn ten_times(bench: &Bench, name: &str) -> Result<()> {
    alternate(bench, name, 10)
}

fn alternate(bench: &Bench, name: &str, turns: u32) -> Result<()> {
    // What every Linux but the first has.
    let relay = Initrd::new(&bench.init)?
        .kernel("next", &bench.bare_metal, &[], "interop=relay")?
        .finish()?;
    let last = 2 * turns;
    let line = linux_cmdline(bench.arch, &format!("relay:{last}"));
    let first = Initrd::new(&bench.init)?
        .kernel("next", &bench.bare_metal, &[], "interop=relay")?
        .kernel("boot", &bench.linux, &relay, &line)?
        .finish()?;
    let run = Machine::new(
        bench,
        name,
        &bench.linux,
        &linux_cmdline(bench.arch, "start"),
    )
    .initrd(first)
    .limit(180 + 30 * u64::from(turns))
    .run()?;
    let origin = run.boot(0, "linux")?;
    check_found(run.boot(1, "bare-metal")?, origin)?;
    for count in 1..=last {
        let linux = count % 2 == 0;
        let program = if linux { "linux" } else { "bare-metal" };
        let boot = run.boot(count as usize, program)?;
        let metadata = boot.one("metadata")?;
        ensure!(metadata["count"] == count, "kexec {count} has {metadata}");
        if linux {
            check_taken_over(boot, origin)?;
            ensure!(metadata["release"] == RELEASE, "we are {metadata}");
            boot.with("subtree", "name", NOTE)?;
        } else {
            boot.check_plan("file")?;
            ensure!(boot.one("luo")?["liveupdate_num"] == count, "live update");
        }
    }
    let end = run.boot(last as usize, "linux")?;
    end.one("off")?;
    ensure!(
        run.boots.len() == last as usize + 1,
        "there were more boots"
    );
    Ok(())
}

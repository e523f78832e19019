//! The init of the Linux guests in interoperability scenarios.
//!
//! It does what `interop=` on the kernel's command line says, states facts on the console, and ends
//! with kexec or power-off:
//!
//! | `interop=` | what it does |
//! | --- | --- |
//! | `start` | preserves the plan's sessions and region, and the kernel for `boot` if there is one, then kexecs `/next/kernel` |
//! | `load` | preserves nothing, and kexecs `/next/kernel`: a boot loader |
//! | `relay:N` | takes everything over; below N kexecs so far, preserves it again and kexecs `/next/kernel`; else finishes |
//! | `look` | says what the kernel says, and powers off |
//!
//! If there is a `/kho-inspect`, `start` has it look at what is about to be handed over, and `relay` at
//! what was. `/next` holds `kernel`, `initrd` (optional) and `cmdline`; `/boot` the same, to be preserved.

mod facts;
mod kho;
mod luo;
mod region;
mod sys;

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use serde_json::json;

use crate::facts::say;

fn main() -> Result<()> {
    let result = run();
    if let Err(error) = &result {
        say("error", json!({ "what": format!("{error:#}") }));
    } else {
        say("off", json!({}));
    }
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF)?;
    Ok(())
}

fn run() -> Result<()> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting {place}"))?;
    }
    sys::quiet_console();
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(
        "linux",
        json!({ "release": release.trim(), "cmdline": cmdline.trim() }),
    );
    kho::log()?;
    kho::trees("in")?;
    let mut words = cmdline.split_ascii_whitespace();
    let job = words.find_map(|word| word.strip_prefix("interop="));
    match job.context("interop= is not on the command line")? {
        "look" => Ok(()),
        "load" => kexec(),
        "start" => {
            region::fill()?;
            let liveupdate = luo::open()?;
            // Closing a session would undo it.
            let held = luo::preserve_plan(&liveupdate)?;
            let boot = luo::preserve_boot(&liveupdate)?;
            kho::trees("out")?;
            kho::inspect(&["--search", "/dev/mem"])?;
            for version in ["7.1", "7.3"] {
                kho::inspect(&["--accepted-by", version, kho::DEBUGFS])?;
            }
            kexec().inspect_err(|_| drop((held, boot)))
        }
        job => match job.strip_prefix("relay:") {
            Some(last) => relay(last.parse()?),
            None => bail!("interop={job} is not known"),
        },
    }
}

fn relay(last: u32) -> Result<()> {
    kho::inspect(&["/dev/mem"])?;
    region::check()?;
    let liveupdate = luo::open()?;
    let taken = luo::retrieve(&liveupdate)?;
    if kho::count()? >= last {
        return luo::finish(&taken);
    }
    // Linux does not allow a file in two sessions, so the incoming ones go first.
    luo::finish(&taken)?;
    let held = luo::preserve_again(&liveupdate, taken)?;
    kho::trees("out")?;
    kexec().inspect_err(|_| drop(held))
}

/// Loads `/next` and jumps.
fn kexec() -> Result<()> {
    let open = |name: &str| File::open(Path::new("/next").join(name));
    let kernel = open("kernel").context("/next/kernel")?;
    let initrd = open("initrd").ok();
    let cmdline = fs::read_to_string("/next/cmdline").context("/next/cmdline")?;
    sys::kexec_file_load(&kernel, initrd.as_ref(), cmdline.trim())?;
    say("jump", json!({ "cmdline": cmdline.trim() }));
    reboot(RebootMode::RB_KEXEC)?;
    Ok(())
}

//! What the kernel itself says of handovers: its log and debugfs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::facts::{digest, say};

/// Where the kernel shows them.
pub const DEBUGFS: &str = "/sys/kernel/debug/kho";

/// States the lines of the kernel's log that are about handovers.
pub fn log() -> Result<()> {
    const NONBLOCK: i32 = nix::libc::O_NONBLOCK;
    let mut log = File::options()
        .read(true)
        .custom_flags(NONBLOCK)
        .open("/dev/kmsg")?;
    let mut record = vec![0; 8192];
    // One read is one record; it ends with an error, as it would have to wait.
    while let Ok(count) = log.read(&mut record) {
        let text = String::from_utf8_lossy(record.get(..count).unwrap_or_default());
        let message = text.split_once(';').map_or("", |(_, message)| message);
        let message = message.lines().next().unwrap_or("");
        let lower = message.to_lowercase();
        let about = [
            "kho",
            "luo",
            "liveupdate",
            "handover",
            "reserve_mem",
            "memblock",
            "exec from",
        ];
        // The command line has their names as well.
        if about.iter().any(|word| lower.contains(word)) && !lower.contains("command line") {
            say("log", json!({ "line": message }));
        }
    }
    Ok(())
}

/// States the sub-blobs of one side, `in` or `out`.
pub fn trees(side: &str) -> Result<()> {
    let Ok(folder) = fs::read_dir(PathBuf::from(DEBUGFS).join(side).join("sub_fdts")) else {
        return Ok(());
    };
    for blob in folder {
        let blob = blob?;
        let name = blob.file_name().to_string_lossy().into_owned();
        let (sha256, size) = digest(File::open(blob.path())?)?;
        say(
            "subtree",
            json!({ "side": side, "name": name, "size": size, "sha256": sha256 }),
        );
    }
    Ok(())
}

/// The bytes of a sub-blob.
pub fn blob(side: &str, name: &str) -> Result<Vec<u8>> {
    let path = PathBuf::from(DEBUGFS)
        .join(side)
        .join("sub_fdts")
        .join(name);
    fs::read(&path).with_context(|| path.display().to_string())
}

/// How many kexecs there have been: the last field of kexec-metadata.
pub fn count() -> Result<u32> {
    let metadata = blob("in", "kexec-metadata")?;
    let release = metadata.get(4..69).context("kexec-metadata is too short")?;
    let count = metadata
        .get(69..73)
        .context("kexec-metadata is too short")?;
    let release = release.split(|&byte| byte == 0).next().unwrap_or_default();
    let count = u32::from_le_bytes(count.try_into()?);
    say(
        "metadata",
        json!({ "release": String::from_utf8_lossy(release), "count": count }),
    );
    Ok(count)
}

/// States what `kho-inspect` says of this machine, given `args`, if the program is there.
pub fn inspect(args: &[&str]) -> Result<()> {
    const PROGRAM: &str = "/kho-inspect";
    if !fs::exists(PROGRAM)? {
        return Ok(());
    }
    let output = Command::new(PROGRAM).arg("--json").args(args).output()?;
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let error = String::from_utf8_lossy(&output.stderr);
    say(
        "inspect",
        json!({
            "args": args.join(" "),
            "status": output.status.code(),
            "found": found,
            "error": error.trim(),
        }),
    );
    Ok(())
}

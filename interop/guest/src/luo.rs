//! Sessions: made, taken over, handed on.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use anyhow::{Context, Result};
use kho_interop_plan::{BOOT, BOOT_CMDLINE, BOOT_INITRD, BOOT_KERNEL, SESSIONS, fill};
use serde_json::json;

use crate::facts::{digest, say};
use crate::sys;

/// A session with its files. Whoever drops it before the kexec undoes it.
pub struct Session {
    name: &'static str,
    fd: File,
    files: Vec<(u64, File)>,
}

/// The device; it can be open once.
pub fn open() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/liveupdate")
        .context("/dev/liveupdate")
}

/// Makes the sessions of the plan.
pub fn preserve_plan(liveupdate: &File) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for session in SESSIONS {
        let fd = sys::create_session(liveupdate, session.name)?;
        let mut files = Vec::new();
        for plan in session.files {
            let mut file = sys::memfd(session.name)?;
            let mut bytes = vec![0; plan.size as usize];
            fill(plan.seed, 0, &mut bytes);
            file.write_all(&bytes)?;
            file.rewind()?;
            state("preserved", session.name, plan.token, &mut file)?;
            sys::preserve(&fd, plan.token, &file)?;
            files.push((plan.token, file));
        }
        let name = session.name;
        sessions.push(Session { name, fd, files });
    }
    Ok(sessions)
}

/// Makes the session with the kernel that the bare-metal program boots, if there is one.
pub fn preserve_boot(liveupdate: &File) -> Result<Option<Session>> {
    if !std::fs::exists("/boot/kernel")? {
        return Ok(None);
    }
    let fd = sys::create_session(liveupdate, BOOT)?;
    let mut files = Vec::new();
    for (token, name) in [
        (BOOT_KERNEL, "kernel"),
        (BOOT_INITRD, "initrd"),
        (BOOT_CMDLINE, "cmdline"),
    ] {
        let mut from = File::open(format!("/boot/{name}"))?;
        let mut file = sys::memfd(name)?;
        std::io::copy(&mut from, &mut file)?;
        state("preserved", BOOT, token, &mut file)?;
        sys::preserve(&fd, token, &file)?;
        files.push((token, file));
    }
    let name = BOOT;
    Ok(Some(Session { name, fd, files }))
}

/// Takes all sessions over, and says what is in them.
pub fn retrieve(liveupdate: &File) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    let plan = SESSIONS.map(|session| {
        let tokens = session.files.iter().map(|file| file.token);
        (session.name, tokens.collect::<Vec<_>>())
    });
    for (name, tokens) in plan {
        sessions.push(take(liveupdate, name, &tokens)?);
    }
    // Not every scenario has a kernel to boot.
    let boot = [BOOT_KERNEL, BOOT_INITRD, BOOT_CMDLINE];
    sessions.extend(take(liveupdate, BOOT, &boot).ok());
    Ok(sessions)
}

fn take(liveupdate: &File, name: &'static str, tokens: &[u64]) -> Result<Session> {
    let fd = sys::retrieve_session(liveupdate, name)?;
    let mut files = Vec::new();
    for &token in tokens {
        let mut file = sys::retrieve(&fd, token)?;
        state("retrieved", name, token, &mut file)?;
        files.push((token, file));
    }
    Ok(Session { name, fd, files })
}

/// Tells the kernel that the sessions have been taken over.
pub fn finish(sessions: &[Session]) -> Result<()> {
    for session in sessions {
        sys::finish(&session.fd)?;
        say("finished", json!({ "session": session.name }));
    }
    Ok(())
}

/// Makes new sessions with the files of those that were taken over.
pub fn preserve_again(liveupdate: &File, taken: Vec<Session>) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    for Session { name, fd, files } in taken {
        drop(fd);
        let fd = sys::create_session(liveupdate, name)?;
        for (token, file) in &files {
            sys::preserve(&fd, *token, file)?;
        }
        sessions.push(Session { name, fd, files });
    }
    Ok(sessions)
}

fn state(fact: &str, session: &str, token: u64, file: &mut File) -> Result<()> {
    let position = file.stream_position()?;
    file.rewind()?;
    let (sha256, size) = digest(&mut *file)?;
    file.seek(SeekFrom::Start(position))?;
    say(
        fact,
        json!({ "session": session, "token": token, "size": size, "sha256": sha256 }),
    );
    Ok(())
}

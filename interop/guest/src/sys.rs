//! The system calls that no library wraps: LUO's ioctls and kexec_file_load(2).
//!
//! # Source
//! Linux 7.3-rc7 `include/uapi/linux/liveupdate.h`, kexec_file_load(2).
#![allow(
    unsafe_code,
    reason = "system calls that no library knows take raw pointers"
)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{Context, Result, ensure};
use nix::libc;

const LIVEUPDATE: u8 = 0xba;

#[repr(C)]
pub struct SessionCall {
    size: u32,
    fd: i32,
    name: [u8; 64],
}

#[repr(C)]
pub struct FdCall {
    size: u32,
    fd: i32,
    token: u64,
}

#[repr(C)]
pub struct FinishCall {
    size: u32,
    reserved: u32,
}

/// The ioctls as the kernel numbers them.
mod raw {
    use super::{FdCall, FinishCall, LIVEUPDATE, SessionCall};
    use nix::{ioctl_readwrite_bad, request_code_none};

    ioctl_readwrite_bad!(
        create_session,
        request_code_none!(LIVEUPDATE, 0x00),
        SessionCall
    );
    ioctl_readwrite_bad!(
        retrieve_session,
        request_code_none!(LIVEUPDATE, 0x01),
        SessionCall
    );
    ioctl_readwrite_bad!(preserve_fd, request_code_none!(LIVEUPDATE, 0x40), FdCall);
    ioctl_readwrite_bad!(retrieve_fd, request_code_none!(LIVEUPDATE, 0x41), FdCall);
    ioctl_readwrite_bad!(finish, request_code_none!(LIVEUPDATE, 0x42), FinishCall);
}

fn session_call(name: &str) -> Result<SessionCall> {
    let mut call = SessionCall {
        size: size_of::<SessionCall>() as u32,
        fd: -1,
        name: [0; 64],
    };
    ensure!(name.len() < call.name.len(), "{name:?} is too long");
    for (to, from) in call.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Ok(call)
}

/// Takes over a file descriptor that the kernel put into an argument.
fn owned(fd: i32) -> Result<File> {
    ensure!(fd >= 0, "the kernel gave no file descriptor");
    // SAFETY: `from_raw_fd`: the kernel opened the descriptor for this call and gave it to nobody
    // else, so the result is its only owner.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Creates an outgoing session on `/dev/liveupdate`.
pub fn create_session(liveupdate: &File, name: &str) -> Result<File> {
    let mut call = session_call(name)?;
    // SAFETY: the argument is the structure of this ioctl, and says its own size.
    unsafe { raw::create_session(liveupdate.as_raw_fd(), &mut call) }
        .with_context(|| format!("creating session {name}"))?;
    owned(call.fd)
}

/// Takes over an incoming session.
pub fn retrieve_session(liveupdate: &File, name: &str) -> Result<File> {
    let mut call = session_call(name)?;
    // SAFETY: as in `create_session`.
    unsafe { raw::retrieve_session(liveupdate.as_raw_fd(), &mut call) }
        .with_context(|| format!("retrieving session {name}"))?;
    owned(call.fd)
}

/// Preserves `file` in an outgoing session.
pub fn preserve(session: &File, token: u64, file: &File) -> Result<()> {
    let mut call = FdCall {
        size: size_of::<FdCall>() as u32,
        fd: file.as_raw_fd(),
        token,
    };
    // SAFETY: as in `create_session`.
    unsafe { raw::preserve_fd(session.as_raw_fd(), &mut call) }
        .with_context(|| format!("preserving file {token:#x}"))?;
    Ok(())
}

/// Takes a file of an incoming session over.
pub fn retrieve(session: &File, token: u64) -> Result<File> {
    let mut call = FdCall {
        size: size_of::<FdCall>() as u32,
        fd: -1,
        token,
    };
    // SAFETY: as in `create_session`.
    unsafe { raw::retrieve_fd(session.as_raw_fd(), &mut call) }
        .with_context(|| format!("retrieving file {token:#x}"))?;
    owned(call.fd)
}

/// Says that everything in an incoming session has been taken over.
pub fn finish(session: &File) -> Result<()> {
    let mut call = FinishCall {
        size: size_of::<FinishCall>() as u32,
        reserved: 0,
    };
    // SAFETY: as in `create_session`.
    unsafe { raw::finish(session.as_raw_fd(), &mut call) }.context("finishing a session")?;
    Ok(())
}

/// Loads the next kernel.
pub fn kexec_file_load(kernel: &File, initrd: Option<&File>, cmdline: &str) -> Result<()> {
    const NO_INITRAMFS: libc::c_ulong = 4;
    let line = CString::new(cmdline)?;
    let length = line.as_bytes_with_nul().len();
    let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };
    let initrd = initrd.map_or(-1, |file| file.as_raw_fd());
    // SAFETY: kexec_file_load(2) reads `length` bytes at `line`, which is that long and lives on.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd,
            length,
            line.as_ptr(),
            flags,
        )
    };
    nix::errno::Errno::result(result).context("kexec_file_load")?;
    Ok(())
}

/// An anonymous memory file.
pub fn memfd(name: &str) -> Result<File> {
    let name = CString::new(name)?;
    // SAFETY: memfd_create(2) reads the name, which ends with a zero.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
    let fd = nix::errno::Errno::result(fd).context("memfd_create")?;
    owned(fd)
}

/// Lets only emergencies through to the console, so that the log does not cut into facts.
pub fn quiet_console() {
    const CONSOLE_LEVEL: libc::c_int = 8;
    // SAFETY: syslog(2) with this action takes no buffer.
    unsafe { libc::klogctl(CONSOLE_LEVEL, std::ptr::null_mut(), 2) };
}

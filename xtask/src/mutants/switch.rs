//! Which mutant is switched on. Copied into the woven workspace, with a manifest.
#![feature(const_eval_select, core_intrinsics)]
#![allow(internal_features)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const UNKNOWN: u32 = u32::MAX;
const TRACED: u32 = u32::MAX - 1;

static ACTIVE: AtomicU32 = AtomicU32::new(UNKNOWN);
static REACHED: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

/// Whether this mutant is the one; never while something is compiled.
#[inline]
pub const fn on(id: u32) -> bool {
    core::intrinsics::const_eval_select((id,), never, at_run_time)
}

const fn never(_: u32) -> bool {
    false
}

#[inline]
fn at_run_time(id: u32) -> bool {
    let active = ACTIVE.load(Ordering::Relaxed);
    if active < TRACED { active == id } else { slow(id) }
}

/// `MUTANT` is a number, or `MUTANTS_REACHED` names a file for the numbers of those that are reached.
#[cold]
fn slow(id: u32) -> bool {
    static OUT: OnceLock<Option<File>> = OnceLock::new();
    let out = OUT.get_or_init(|| {
        let file = std::env::var_os("MUTANTS_REACHED")?;
        OpenOptions::new().create(true).append(true).open(file).ok()
    });
    let Some(mut out) = out.as_ref() else {
        let active = std::env::var("MUTANT").ok().and_then(|id| id.parse().ok());
        let active = active.unwrap_or(TRACED - 1);
        ACTIVE.store(active, Ordering::Relaxed);
        return active == id;
    };
    ACTIVE.store(TRACED, Ordering::Relaxed);
    let bit = 1 << (id % 64);
    let before = REACHED.get(id as usize / 64).map(|word| word.fetch_or(bit, Ordering::Relaxed));
    if before.is_some_and(|before| before & bit == 0) {
        let _ = out.write_all(format!("{id}\n").as_bytes());
    }
    false
}

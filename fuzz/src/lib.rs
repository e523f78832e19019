//! One function for each decoder, to be called with any bytes. It returns, or a bug was found.
//!
//! libFuzzer calls them on nightly (`cargo +nightly fuzz run --features libfuzzer NAME`); the test
//! of this crate calls them on any toolchain, with the seeds and with damaged seeds.

mod base;
mod blobs;
mod changes;
mod check;
mod image;
mod inspect;
mod memory;
mod naive;
mod saved;

pub use blobs::{boot, config_space, elf, pcsc, scratch_sizes, tokens};
pub use image::{handover, lists, pages, pci_record, sound_pages};
pub use inspect::{inspect_debugfs, inspect_image};
pub use saved::pcsc_data;

/// What is fuzzed.
pub type Target = fn(&[u8]);

/// All targets, by the name of their seeds' folder.
pub const TARGETS: [(&str, Target); 13] = [
    ("handover", handover),
    ("lists", lists),
    ("pages", pages),
    ("boot", boot),
    ("tokens", tokens),
    ("pcsc", pcsc),
    ("pcsc_data", pcsc_data),
    ("pci_record", pci_record),
    ("config_space", config_space),
    ("scratch_sizes", scratch_sizes),
    ("elf", elf),
    ("inspect_image", inspect_image),
    ("inspect_debugfs", inspect_debugfs),
];

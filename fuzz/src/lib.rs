//! One function for each decoder, to be called with any bytes. It returns, or a bug was found.
//!
//! libFuzzer calls them on nightly (`cargo +nightly fuzz run --features libfuzzer NAME`); the test
//! of this crate calls them on any toolchain, with the seeds and with damaged seeds.

mod base;
mod blobs;
mod image;
mod saved;

pub use blobs::{boot, config_space, elf, pcsc, scratch_sizes, tokens};
pub use image::{handover, lists, pci_record};
pub use saved::pcsc_data;

/// What is fuzzed.
pub type Target = fn(&[u8]);

/// All targets, by the name of their seeds' folder.
pub const TARGETS: [(&str, Target); 10] = [
    ("handover", handover),
    ("lists", lists),
    ("boot", boot),
    ("tokens", tokens),
    ("pcsc", pcsc),
    ("pcsc_data", pcsc_data),
    ("pci_record", pci_record),
    ("config_space", config_space),
    ("scratch_sizes", scratch_sizes),
    ("elf", elf),
];

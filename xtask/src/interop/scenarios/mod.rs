//! The scenarios. Each runs machines and judges what their programs said.

mod alternate;
mod linux_to_linux;
mod linux_to_ours;
mod ours_to_linux;
mod ours_to_ours;
mod pci;
mod refuse;

use anyhow::Result;

use super::Bench;
use super::arch::Arch;

/// A scenario, given its name. An error is why it failed.
pub type Scenario = fn(&Bench, &str) -> Result<()>;

/// All of them, in the order in which they are run.
pub const SCENARIOS: [(&str, Scenario); 10] = [
    ("linux-to-linux", linux_to_linux::run),
    ("linux-to-ours", linux_to_ours::run),
    ("ours-to-ours", ours_to_ours::run),
    ("ours-to-linux", ours_to_linux::run),
    ("linux-ours-linux", alternate::once),
    ("ten-alternations", alternate::ten_times),
    ("config-cache", pci::config_cache),
    ("live-dma", pci::live_dma),
    ("refused-by-linux", refuse::by_linux),
    ("refused-by-us", refuse::by_us),
];

/// The command line of a Linux kernel that hands over and takes over.
fn linux_cmdline(arch: Arch, job: &str) -> String {
    format!(
        "console={} panic=-1 kho=on liveupdate=on kho_scratch=64M,0,64M \
         reserve_mem=1M:4096:oops interop={job}",
        arch.console()
    )
}

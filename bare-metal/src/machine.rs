//! The machine as the boot loader describes it.

use alloc::string::String;
use alloc::vec::Vec;

use kho::core::BootData;
use kho::core::incoming::IncomingError;
use kho::hal::{PageSize, PhysAddr, PhysRange};

/// Linux's, and ours.
pub const PAGE: PageSize = PageSize::Size4K;

/// What the boot loader says.
#[derive(Debug)]
pub struct Machine {
    /// Address of the boot parameters or of the device tree.
    pub entry: PhysAddr,
    /// All RAM, ascending, without page 0.
    pub ram: Vec<PhysRange>,
    /// The command line.
    pub cmdline: String,
    /// The initial RAM disk.
    pub initrd: Option<PhysRange>,
    /// What the boot loader put into memory, the RAM disk included, and memory that a successor
    /// takes for its own.
    pub boot_memory: Vec<PhysRange>,
    /// Where a handover is, if there is one.
    pub handover: Result<BootData, IncomingError>,
}

impl Machine {
    /// The value of `name=` on the command line.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.cmdline.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

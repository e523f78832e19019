//! What differs between the machines.

use std::fmt;

/// The architecture of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            _ => Err("the architecture is x86_64 or aarch64"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    pub fn qemu(self) -> String {
        format!("qemu-system-{}", self.name())
    }

    /// Machine, processors. Linux refuses to kexec on arm64 with processors that it cannot unplug.
    pub fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["-M", "q35,memory-backend=ram", "-smp", "2"],
            Self::Aarch64 => &["-M", "virt,memory-backend=ram", "-cpu", "max", "-smp", "1"],
        }
    }

    pub fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }

    /// The physical address of the first byte of RAM.
    pub fn ram_base(self) -> u64 {
        match self {
            Self::X86_64 => 0,
            Self::Aarch64 => 0x4000_0000,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

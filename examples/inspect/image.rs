//! A handover in an image of physical memory.

use std::fs;

use kho::core::BootData;
use kho::core::incoming::{Fault, Incoming, IncomingError, Machine};
use kho::hal::sim::{ElfImage, Machine as ElfMachine, SimMemory};
use kho::hal::{FrozenMem, PageSize, PhysAddr};
use serde_json::Value;

use crate::{Options, convert, extract, facts};

/// How the boot data is passed, by architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// `setup_data` behind the boot parameters.
    X86_64,
    /// `/chosen` of the device tree.
    Aarch64,
}

impl Arch {
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            _ => Err("the architecture is x86_64 or aarch64"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// Most words to check an image with: a bit for each page of 256 TiB.
const MAX_WORKSPACE: u64 = 1 << 30;

/// An image, with what is known of the machine it was taken from.
struct Image {
    memory: SimMemory,
    arch: Arch,
    entry: PhysAddr,
    page_size: PageSize,
}

/// Everything there is to say of the handover in a file. Converts it as well, if that is asked for.
pub fn facts(options: &Options) -> Result<Value, String> {
    let file = fs::read(&options.path).map_err(|error| error.to_string())?;
    let mut image = if file.starts_with(b"\x7fELF") {
        from_elf(&file, options)?
    } else {
        from_raw(&file, options)?
    };
    drop(file);
    let (entry, arch) = (image.entry, image.arch);
    let memory = image.memory.freeze();
    let boot = match arch {
        Arch::X86_64 => BootData::from_boot_params(&memory, entry),
        Arch::Aarch64 => BootData::from_device_tree(&memory, entry),
    };
    let (boot, place) = boot.map_err(|error| error.to_string())?;
    let machine = Machine {
        v1_bitmaps: options.v1_bitmaps,
        ..Machine::unknown(image.page_size)
    };
    let mut workspace = Vec::new();
    let incoming = check(&memory, boot, machine, &mut workspace)?;
    if let Some((to, path)) = &options.convert {
        let core = convert::core(&memory, &incoming, *to, place, (arch, entry))?;
        fs::write(path, core).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &options.extract {
        let core = extract::core(&memory, &incoming, machine, (arch, entry))?;
        fs::write(path, core).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut facts = facts::of(&memory, &incoming, arch, entry)?;
    if options.preflight {
        facts["preflight"] = facts::preflight(&incoming);
    }
    Ok(facts)
}

/// Checks a handover with as much workspace as it needs.
pub fn check<'a, M: FrozenMem>(
    memory: &'a M,
    boot: BootData,
    machine: Machine<'_>,
    workspace: &mut Vec<u64>,
) -> Result<Incoming<'a, M>, String> {
    workspace.resize(1 << 12, 0);
    loop {
        match Incoming::check(memory, boot, machine, workspace) {
            Ok(incoming) => return Ok(incoming),
            Err(IncomingError {
                fault: Fault::Workspace { words },
                ..
            }) if words > workspace.len() as u64 && words <= MAX_WORKSPACE => {
                workspace.resize(words as usize, 0);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn from_elf(file: &[u8], options: &Options) -> Result<Image, String> {
    let elf = ElfImage::parse(file).map_err(|error| error.to_string())?;
    let arch = match (options.arch, elf.machine) {
        (Some(arch), _) => arch,
        (None, ElfMachine::X86_64) => Arch::X86_64,
        (None, ElfMachine::Aarch64) => Arch::Aarch64,
        (None, other) => return Err(format!("no handover is known for the machine {other:?}")),
    };
    let page_size = options.page_size.or(elf.page_size);
    Ok(Image {
        memory: elf.memory,
        arch,
        entry: options.entry.unwrap_or(elf.entry),
        page_size: page_size.ok_or("the segments' alignment is no page size: give --page-size")?,
    })
}

fn from_raw(file: &[u8], options: &Options) -> Result<Image, String> {
    let arch = options
        .arch
        .ok_or("not an ELF file; for a RAM file give --arch")?;
    let base = options.base.unwrap_or(PhysAddr::new(match arch {
        Arch::X86_64 => 0,
        Arch::Aarch64 => 0x4000_0000,
    }));
    Ok(Image {
        memory: SimMemory::from_raw(base, file).map_err(|error| error.to_string())?,
        arch,
        entry: options.entry.ok_or("for a RAM file give --entry")?,
        page_size: options.page_size.unwrap_or(PageSize::Size4K),
    })
}

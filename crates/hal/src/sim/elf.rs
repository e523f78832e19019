//! The memory of a machine from an ELF core file.

use core::fmt;

use elf::ElfBytes;
use elf::abi::{EM_AARCH64, EM_RISCV, EM_X86_64, ET_CORE, PT_LOAD};
use elf::endian::LittleEndian;
use std_alloc::vec::Vec;

use crate::sim::{Overlap, SimMemory};
use crate::{PageSize, PhysAddr};

/// What a core file of physical memory holds.
#[derive(Debug)]
pub struct ElfImage {
    /// The contents of every PT_LOAD segment, at its physical address.
    pub memory: SimMemory,
    /// The file's entry address. In a captured handover it is the argument of the next kernel:
    /// boot_params on x86, the device tree on arm64.
    pub entry: PhysAddr,
    /// The machine it was taken from.
    pub machine: Machine,
    /// The page size, if the segments' alignment is one.
    pub page_size: Option<PageSize>,
}

/// The architecture an ELF file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
    /// RISC-V.
    Riscv,
    /// Another one, by its ELF number.
    Other(u16),
}

/// Why a file is not a core of physical memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum ElfError {
    /// The file is not a whole little-endian 64-bit ELF file.
    Malformed(elf::ParseError),
    /// It is ELF, but not a core file; carries its type.
    NotACore(u16),
    /// It has no PT_LOAD segment.
    Empty,
    /// Segments overlap.
    Overlap(Overlap),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(cause) => write!(f, "not a whole ELF file: {cause}"),
            Self::NotACore(kind) => write!(f, "ELF type {kind} is not a core file"),
            Self::Empty => f.write_str("the core file has no memory segment"),
            Self::Overlap(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for ElfError {}

impl From<elf::ParseError> for ElfError {
    fn from(cause: elf::ParseError) -> Self {
        Self::Malformed(cause)
    }
}

impl ElfImage {
    /// Reads a core file. Memory that a segment declares beyond its bytes in the file is absent.
    ///
    /// # Errors
    /// [`ElfError`] if the file is not a core, is truncated, or its segments overlap.
    pub fn parse(file: &[u8]) -> Result<Self, ElfError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file)?;
        if elf.ehdr.class != elf::file::Class::ELF64 {
            return Err(ElfError::Malformed(elf::ParseError::UnsupportedElfClass(1)));
        }
        if elf.ehdr.e_type != ET_CORE {
            return Err(ElfError::NotACore(elf.ehdr.e_type));
        }
        let mut pieces = Vec::new();
        let mut page_size = None;
        for segment in elf.segments().into_iter().flatten() {
            if segment.p_type == PT_LOAD {
                page_size = page_size.or(PageSize::from_bytes(segment.p_align));
                pieces.push((PhysAddr::new(segment.p_paddr), elf.segment_data(&segment)?));
            }
        }
        if pieces.is_empty() {
            return Err(ElfError::Empty);
        }
        Ok(Self {
            memory: SimMemory::from_pieces(&pieces).map_err(ElfError::Overlap)?,
            entry: PhysAddr::new(elf.ehdr.e_entry),
            machine: match elf.ehdr.e_machine {
                EM_X86_64 => Machine::X86_64,
                EM_AARCH64 => Machine::Aarch64,
                EM_RISCV => Machine::Riscv,
                other => Machine::Other(other),
            },
            page_size,
        })
    }
}

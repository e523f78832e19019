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
    /// Segments share bytes of the file: the memory would be larger than the file, without bound.
    Shared,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(cause) => write!(f, "not a whole ELF file: {cause}"),
            Self::NotACore(kind) => write!(f, "ELF type {kind} is not a core file"),
            Self::Empty => f.write_str("the core file has no memory segment"),
            Self::Overlap(cause) => cause.fmt(f),
            Self::Shared => f.write_str("segments of the core file share its bytes"),
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
        let bytes = pieces.iter().map(|(_, bytes)| bytes.len());
        if bytes.fold(0usize, usize::saturating_add) > file.len() {
            return Err(ElfError::Shared);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, and `count` program headers that all load the whole file.
    fn core(count: u16) -> Vec<u8> {
        let size = 64 + 56 * u64::from(count);
        let mut file = Vec::new();
        file.extend(*b"\x7fELF\x02\x01\x01");
        file.resize(16, 0);
        for field in [ET_CORE, EM_X86_64] {
            file.extend(field.to_le_bytes());
        }
        file.extend(1u32.to_le_bytes());
        for field in [0u64, 64, 0] {
            file.extend(field.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for field in [64, 56, count, 0, 0, 0] {
            file.extend(field.to_le_bytes());
        }
        for i in 0..u64::from(count) {
            file.extend(PT_LOAD.to_le_bytes());
            file.extend(0u32.to_le_bytes());
            let addr = (i + 1) << 32;
            for field in [0, addr, addr, size, size, 4096] {
                file.extend(field.to_le_bytes());
            }
        }
        file
    }

    #[test]
    fn memory_is_no_larger_than_the_file() {
        let image = ElfImage::parse(&core(1)).unwrap();
        assert_eq!(image.memory.ranges().next().map(|r| r.size()), Some(120));
        assert!(matches!(ElfImage::parse(&core(2)), Err(ElfError::Shared)));
    }
}

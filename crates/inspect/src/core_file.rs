//! Writing core files of physical memory.

use kho::hal::sim::FrozenSim;
use kho::hal::{FrozenMem, PageSize, PhysAddr};
use object::elf::{EM_AARCH64, EM_X86_64, ET_CORE, PF_R, PF_W, PT_LOAD};
use object::write::elf::{FileHeader, ProgramHeader, Writer};

use crate::image::Arch;

/// A core file with all of `memory`.
pub fn write(
    memory: &FrozenSim<'_>,
    page: PageSize,
    arch: Arch,
    entry: PhysAddr,
) -> Result<Vec<u8>, String> {
    let mut file = Vec::new();
    let mut elf = Writer::new(object::Endianness::Little, true, &mut file);
    let ranges: Vec<_> = memory.ranges().collect();
    elf.reserve_file_header();
    elf.reserve_program_headers(ranges.len() as u32);
    let sizes = ranges.iter().map(|range| range.size() as usize);
    let offsets: Vec<_> = sizes
        .map(|size| elf.reserve(size, page.as_usize()))
        .collect();
    let header = FileHeader {
        os_abi: 0,
        abi_version: 0,
        e_type: ET_CORE,
        e_machine: match arch {
            Arch::X86_64 => EM_X86_64,
            Arch::Aarch64 => EM_AARCH64,
        },
        e_entry: entry.as_u64(),
        e_flags: 0,
    };
    elf.write_file_header(&header)
        .map_err(|error| error.to_string())?;
    elf.write_align_program_headers();
    for (range, &offset) in ranges.iter().zip(&offsets) {
        elf.write_program_header(&ProgramHeader {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_W,
            p_offset: offset as u64,
            p_vaddr: range.start().as_u64(),
            p_paddr: range.start().as_u64(),
            p_filesz: range.size(),
            p_memsz: range.size(),
            p_align: page.bytes(),
        });
    }
    for range in ranges {
        elf.write_align(page.as_usize());
        let bytes = memory.bytes(range.start(), range.size() as usize);
        elf.write(bytes.map_err(|error| error.to_string())?);
    }
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests {
    use elf::ElfBytes;
    use elf::endian::LittleEndian;
    use kho::hal::sim::SimMemory;

    use super::*;

    #[test]
    fn each_piece_of_memory_is_a_segment() {
        let pieces = [(0x5000, [1u8; 0x10]), (0x20_0008, [2; 0x10])];
        let pieces = pieces
            .each_ref()
            .map(|(addr, bytes)| (PhysAddr::new(*addr), &bytes[..]));
        let mut memory = SimMemory::from_pieces(&pieces).unwrap();
        for (arch, machine, page) in [
            (Arch::X86_64, EM_X86_64, PageSize::Size4K),
            (Arch::Aarch64, EM_AARCH64, PageSize::Size64K),
        ] {
            let file = write(&memory.freeze(), page, arch, PhysAddr::new(0x1234)).unwrap();
            let elf = ElfBytes::<LittleEndian>::minimal_parse(&file).unwrap();
            let header = (elf.ehdr.e_type, elf.ehdr.e_machine, elf.ehdr.e_entry);
            assert_eq!(header, (ET_CORE, machine, 0x1234));
            let segments: Vec<_> = elf.segments().unwrap().iter().collect();
            assert_eq!(segments.len(), pieces.len());
            for (segment, (addr, bytes)) in segments.iter().zip(pieces) {
                assert_eq!(elf.segment_data(segment).unwrap(), bytes);
                assert_eq!((segment.p_type, segment.p_flags), (PT_LOAD, 6));
                let (addr, size) = (addr.as_u64(), bytes.len() as u64);
                assert_eq!((segment.p_paddr, segment.p_vaddr), (addr, addr));
                assert_eq!((segment.p_filesz, segment.p_memsz), (size, size));
                assert_eq!(segment.p_align, page.bytes());
            }
        }
    }
}

//! The handover alone, without the rest of the machine's memory.

use kho::hal::sim::SimMemory;
use kho::hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::core_file;
use crate::image::Arch;
use crate::memory::FileMem;

/// Files above this many bytes are described, but their contents are left out.
pub const MAX_CONTENT: u64 = 1 << 17;

/// A core file with the pages of `memory` that were looked at.
pub fn core(
    memory: &FileMem,
    page: PageSize,
    (arch, entry): (Arch, PhysAddr),
) -> Result<Vec<u8>, String> {
    let mut pieces = Vec::new();
    for addr in memory.looked_at() {
        let Some(whole) = PhysRange::new(addr, page.bytes()) else {
            continue;
        };
        // The image can have a part of a page.
        for part in memory.parts(whole) {
            let bytes = memory.bytes(part.start(), part.size() as usize);
            pieces.push((part.start(), bytes.map_err(|error| error.to_string())?));
        }
    }
    let mut alone = SimMemory::from_pieces(&pieces).map_err(|error| error.to_string())?;
    core_file::write(&alone.freeze(), page, arch, entry)
}

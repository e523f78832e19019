//! The handover alone, without the rest of the machine's memory.

use kho::hal::sim::SimMemory;
use kho::hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::core_file;
use crate::image::Arch;
use crate::memory::FileMem;

/// Files above this many bytes are described, but their contents are left out.
pub const MAX_CONTENT: u64 = 1 << 18;

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
        for range in memory.ranges().filter(|range| range.overlaps(whole)) {
            let start = range.start().max(addr);
            let size = range.end().min(whole.end()).as_u64() - start.as_u64();
            let bytes = memory.bytes(start, size as usize);
            pieces.push((start, bytes.map_err(|error| error.to_string())?));
        }
    }
    let mut alone = SimMemory::from_pieces(&pieces).map_err(|error| error.to_string())?;
    core_file::write(&alone.freeze(), page, arch, entry)
}

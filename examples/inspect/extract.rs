//! The handover alone, without the rest of the machine's memory.

use std::cell::RefCell;
use std::collections::BTreeSet;

use kho::core::BootData;
use kho::core::incoming::{Incoming, Machine};
use kho::hal::sim::{FrozenSim, SimMemory};
use kho::hal::{FrozenMem, MemError, PageSize, PhysAddr, PhysRange};

use crate::image::{Arch, check};
use crate::{core_file, facts};

/// Files above this many bytes are described, but their contents are left out.
const MAX_CONTENT: u64 = 1 << 17;

/// A core file with the pages that a reader of the handover looks at: the description, all that it
/// leads to, and the contents of small files.
pub fn core(
    memory: &FrozenSim<'_>,
    incoming: &Incoming<'_, FrozenSim<'_>>,
    machine: Machine<'_>,
    (arch, entry): (Arch, PhysAddr),
) -> Result<Vec<u8>, String> {
    let page = incoming.page_size();
    let recorder = Recorder {
        memory,
        page,
        pages: RefCell::default(),
        left_out: contents(incoming),
    };
    let boot = match arch {
        Arch::X86_64 => BootData::from_boot_params(&recorder, entry),
        Arch::Aarch64 => BootData::from_device_tree(&recorder, entry),
    };
    let (boot, _) = boot.map_err(|error| error.to_string())?;
    let mut workspace = Vec::new();
    let incoming = check(&recorder, boot, machine, &mut workspace)?;
    facts::of(&recorder, &incoming, arch, entry)?;
    let pages = recorder.pages.take();
    let mut pieces = Vec::new();
    for &addr in &pages {
        let bytes = memory.bytes(addr, page.as_usize());
        pieces.push((addr, bytes.map_err(|error| error.to_string())?));
    }
    let mut whole = SimMemory::from_pieces(&pieces).map_err(|error| error.to_string())?;
    core_file::write(&whole.freeze(), page, arch, entry)
}

/// The memory that holds what is in large files.
fn contents(incoming: &Incoming<'_, FrozenSim<'_>>) -> BTreeSet<PhysAddr> {
    let sessions = incoming.luo().known().into_iter();
    let files = sessions.flat_map(|luo| luo.sessions().flat_map(|session| session.files()));
    let memfds = files.filter_map(|file| file.memfd());
    let large = memfds.filter(|memfd| memfd.descriptor().size.get() > MAX_CONTENT);
    let segments = large.flat_map(|memfd| memfd.segments());
    segments
        .flat_map(|segment| pages(segment.range, incoming.page_size()))
        .collect()
}

/// Memory that notes which pages are read.
struct Recorder<'a> {
    memory: &'a FrozenSim<'a>,
    page: PageSize,
    pages: RefCell<BTreeSet<PhysAddr>>,
    left_out: BTreeSet<PhysAddr>,
}

impl FrozenMem for Recorder<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let bytes = self.memory.bytes(addr, len)?;
        let range = PhysRange::new(addr, len as u64).unwrap_or_default();
        let read = pages(range, self.page).filter(|page| !self.left_out.contains(page));
        self.pages.borrow_mut().extend(read);
        Ok(bytes)
    }
}

/// The pages that a range touches.
fn pages(range: PhysRange, page: PageSize) -> impl Iterator<Item = PhysAddr> {
    let first = range.start().as_u64() / page.bytes();
    let end = range.end().as_u64().div_ceil(page.bytes());
    (first..end).map(move |number| PhysAddr::new(number * page.bytes()))
}

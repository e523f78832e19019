//! The first program: it preserves, describes and hands over.

use std::error::Error;

use kho::core::BootData;
use kho::core::incoming::{Folio, Region};
use kho::core::outgoing::luo::{LiveFile, Luo};
use kho::core::outgoing::memfd::{self, MemfdFile, Preserved};
use kho::core::outgoing::{Nodes, Outgoing, OutgoingError, Tracker, metadata, reserve_mem};
use kho::hal::sim::{SimAlloc, SimMemory};
use kho::hal::{PageAlloc, PhysAddr, PhysMem, PhysRange};

use crate::Log;
use crate::machine::{HEAP, OOPS, PAGE, SCRATCH, SCRATCH_ARRAY, fill, guest, range};

/// The guest's memory as a file.
struct GuestMemory {
    folios: Vec<(u64, Folio)>,
    preserved: Option<Preserved>,
}

impl GuestMemory {
    fn file(&self) -> MemfdFile<'_> {
        let pages: u64 = self
            .folios
            .iter()
            .map(|(_, folio)| folio.order.pages())
            .sum();
        MemfdFile {
            pos: 0,
            size: pages * PAGE.bytes(),
            seals: 1,
            folios: &self.folios,
        }
    }
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> LiveFile<Tracker<'s, M, A, N>> for GuestMemory {
    fn compatible(&self) -> &str {
        kho::abi::memfd::COMPATIBLE
    }

    fn identity(&self) -> u64 {
        1
    }

    fn preserve(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<u64, OutgoingError> {
        let preserved = memfd::preserve(tracker, self.file())?;
        self.preserved = Some(preserved);
        Ok(preserved.data())
    }

    fn unpreserve(&mut self, tracker: &Tracker<'s, M, A, N>) {
        if let Some(preserved) = self.preserved.take() {
            memfd::unpreserve(tracker, self.file(), preserved).expect("it is preserved");
        }
    }
}

/// Runs until the jump. What comes out is all that the successor is told, and, for the simulation,
/// the memory that may survive.
pub fn run(log: &Log, memory: &SimMemory) -> Result<(BootData, Vec<PhysRange>), Box<dyn Error>> {
    let guest = guest();
    log.step("outgoing", "fill the guest's memory", || {
        fill(memory, range(OOPS))?;
        for (_, folio) in &guest {
            fill(memory, folio.range(PAGE))?;
        }
        let bytes: u64 = guest
            .iter()
            .map(|(_, folio)| folio.range(PAGE).size())
            .sum();
        Ok::<_, Box<dyn Error>>(((), format!("{} folios, {} MiB", guest.len(), bytes >> 20)))
    })?;
    let scratch = SCRATCH.map(range);
    let alloc = SimAlloc::new(memory, PAGE, [range(HEAP)]);
    let tracker = Tracker::new(memory, &alloc, PAGE, &scratch)?;
    let mut outgoing = Outgoing::new(tracker)?;
    let mut luo = log.step("outgoing", "preserve", || {
        preserve(&outgoing, guest.clone())
    })?;
    let (boot, keep) = log.step("outgoing", "finalize", || {
        let keep = survivors(&outgoing, &alloc, &guest);
        let array = PhysAddr::new(SCRATCH_ARRAY);
        let boot = outgoing.finalize(array, &mut [&mut luo])?.hand_over();
        Ok::<_, Box<dyn Error>>(((boot, keep), String::new()))
    })?;
    Ok((boot, keep))
}

type SimTracker<'m> = Tracker<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>;

fn preserve<'m>(
    outgoing: &Outgoing<'m, &'m SimMemory, &'m SimAlloc<&'m SimMemory>>,
    guest: Vec<(u64, Folio)>,
) -> Result<(Luo<SimTracker<'m>>, String), OutgoingError> {
    metadata::publish(outgoing, "example-1.0", None)?;
    outgoing.add_blob("example", b"a note from the predecessor")?;
    let oops = Region {
        name: "oops",
        range: range(OOPS),
    };
    reserve_mem::publish(outgoing, &[oops])?;
    let mut luo = Luo::new(outgoing, 0)?;
    let tracker = outgoing.tracker();
    luo.create_session(tracker, "vm0")?;
    let file = GuestMemory {
        folios: guest,
        preserved: None,
    };
    luo.preserve_file(tracker, "vm0", 0x10, Box::new(file))?;
    Ok((
        luo,
        "session vm0 with a memfd, reserve_mem oops, 4 sub-blobs".to_owned(),
    ))
}

/// The memory that may survive: what is preserved, the tree's own pages, and the list of scratch
/// areas. An allocation that somebody forgot to preserve is not in it.
fn survivors(
    outgoing: &Outgoing<'_, &SimMemory, &SimAlloc<&SimMemory>>,
    alloc: &SimAlloc<&SimMemory>,
    guest: &[(u64, Folio)],
) -> Vec<PhysRange> {
    let tracker = outgoing.tracker();
    let mut keep = vec![range((SCRATCH_ARRAY, PAGE.bytes()))];
    tracker
        .for_each_page(|page| keep.push(range((page.as_u64(), PAGE.bytes()))))
        .expect("the tree is memory");
    let live = alloc
        .live()
        .into_iter()
        .map(|(addr, order)| Folio { addr, order });
    for folio in live.chain(guest.iter().map(|&(_, folio)| folio)) {
        if tracker.is_preserved(folio.addr, folio.order) {
            keep.push(folio.range(PAGE));
        }
    }
    if tracker.check_pages_preserved(range(OOPS)).is_ok() {
        keep.push(range(OOPS));
    }
    keep.sort();
    keep
}

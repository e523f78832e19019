//! Handovers with much in them, of any size.

use kho::abi::pci::v2;
use kho::core::BootData;
use kho::core::outgoing::luo::{Flb, LiveFile, Luo};
use kho::core::outgoing::{BlockSet, Outgoing, OutgoingError};
use kho::hal::{Order, PhysAddr, PhysMem, Sbdf};
use zerocopy::IntoBytes;

use crate::arena::Arena;
use crate::{ArenaTracker, range, sets, tracker};

/// Files in a session.
pub const FILES: u64 = 64;

/// A file without contents.
struct Empty(u64, &'static [&'static str]);

impl<T> LiveFile<T> for Empty {
    fn compatible(&self) -> &str {
        "empty"
    }
    fn identity(&self) -> u64 {
        self.0
    }
    fn flbs(&self) -> &[&str] {
        self.1
    }
    fn preserve(&mut self, _: &T) -> Result<u64, OutgoingError> {
        Ok(self.0)
    }
    fn unpreserve(&mut self, _: &T) {}
}

/// The record of preserved functions.
struct Functions {
    count: u64,
    blocks: BlockSet<v2::PciDevSer>,
}

impl<'a> Flb<ArenaTracker<'a>> for Functions {
    fn name(&self) -> &str {
        v2::NAME
    }
    fn preserve(&mut self, tracker: &ArenaTracker<'a>) -> Result<u64, OutgoingError> {
        self.blocks.resize(tracker, self.count as usize)?;
        for id in 0..self.count {
            let function = Sbdf::from_bdf(0, id as u16);
            let entry = v2::PciDevSer {
                domain: function.segment().into(),
                bdf: function.bdf().into(),
                refcount: 1.into(),
            };
            self.blocks.write(tracker, id as usize, &entry)?;
        }
        let header = v2::PciSer {
            version: 2.into(),
            nr_devices: (self.count as u32).into(),
            devices: self.blocks.head().as_u64().into(),
        };
        let (at, _) = tracker.alloc_preserved(16)?;
        tracker.mem().write(at, header.as_bytes())?;
        Ok(at.as_u64())
    }
    fn unpreserve(&mut self, _: &ArenaTracker<'a>) {}
}

/// Hands over sessions of [`FILES`] files each, which share a record of PCI functions.
pub fn sessions(arena: &Arena, sessions: u64, functions: u64) -> BootData {
    let mut outgoing = Outgoing::new(tracker(arena)).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let record = Functions {
        count: functions,
        blocks: BlockSet::default(),
    };
    luo.register_flb(outgoing.tracker(), Box::new(record))
        .unwrap();
    for session in 0..sessions {
        let name = format!("vm{session}");
        luo.create_session(outgoing.tracker(), &name).unwrap();
        for token in 0..FILES {
            let file = Box::new(Empty(session * FILES + token, &[v2::NAME]));
            luo.preserve_file(outgoing.tracker(), &name, token, file)
                .unwrap();
        }
    }
    let array = arena.scratch[0].start();
    outgoing
        .finalize(array, &mut [&mut luo])
        .unwrap()
        .hand_over()
}

/// Hands over sub-blobs of one page each.
pub fn blobs(arena: &Arena, count: u64) -> BootData {
    let outgoing = Outgoing::new(tracker(arena)).unwrap();
    for blob in 0..count {
        outgoing
            .add_blob(&format!("blob{blob}"), &[7; 4096])
            .unwrap();
    }
    finish(arena, outgoing)
}

/// Hands over what is in `outgoing`.
pub fn finish(arena: &Arena, mut outgoing: ArenaOutgoing<'_>) -> BootData {
    let array = arena.scratch[0].start();
    outgoing.finalize(array, &mut []).unwrap().hand_over()
}

/// A handover in the making in an [`Arena`].
pub type ArenaOutgoing<'a> = Outgoing<'a, kho::hal::DirectMap<'a>, &'a Arena>;

/// Hands over something of everything: folios of several orders, dense and by chance, sub-blobs,
/// sessions, and a list of pages.
pub fn mixed(arena: &Arena) -> BootData {
    let mut outgoing = Outgoing::new(tracker(arena)).unwrap();
    let tracker = outgoing.tracker();
    for (i, &page) in sets::scattered().iter().step_by(64).enumerate() {
        let (page, order) = (PhysAddr::new(page >> 16 << 16), Order::new(i as u32 % 5));
        // Some come twice.
        let _ = tracker.preserve_folio(page, order.unwrap());
    }
    let dense = range(sets::START + (1 << 40), 1 << 30);
    tracker.preserve_run(dense, Order::ZERO).unwrap();
    for blob in 0..8 {
        outgoing
            .add_blob(&format!("blob{blob}"), &[7; 4096])
            .unwrap();
    }
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    for session in 0..8 {
        let name = format!("vm{session}");
        luo.create_session(outgoing.tracker(), &name).unwrap();
        for token in 0..FILES {
            let file = Box::new(Empty(session * FILES + token, &[]));
            luo.preserve_file(outgoing.tracker(), &name, token, file)
                .unwrap();
        }
    }
    let array = arena.scratch[0].start();
    outgoing
        .finalize(array, &mut [&mut luo])
        .unwrap()
        .hand_over()
}

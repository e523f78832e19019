//! Keeping what was handed over, and handing it on.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::convert::Infallible;

use kho::abi::memfd::COMPATIBLE as MEMFD;
use kho::abi::{luo as luo_abi, memblock, metadata as metadata_abi};
use kho::core::Tracker;
use kho::core::incoming::{Folio, Incoming, Memfd};
use kho::core::outgoing::luo::{Flb, LiveFile, Luo};
use kho::core::outgoing::memfd::{self, MemfdFile, Preserved};
use kho::core::outgoing::{Outgoing, OutgoingError, metadata, reserve_mem};
use kho_interop_plan::{NOTE, RELEASE};
use serde_json::json;

use crate::arch;
use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::memory::{Frozen, Plan, Writable};
use crate::next::{Next, Room};
use crate::pages::Pages;
use crate::say::fact;

/// What Linux gives a memory file that was made without sealing.
const F_SEAL_SEAL: u32 = 1;

/// What is preserved, and with what.
pub type Keeper<'p> = Tracker<'p, &'static Writable, &'p Pages>;
/// A handover in the making.
pub type Handover<'p> = Outgoing<'p, &'static Writable, &'p Pages>;

/// Hands on everything that we understand, with a note of our own, to the kernel that was handed
/// over with it.
pub fn relay(
    memory: &Frozen,
    machine: &Machine,
    incoming: &Incoming<'_, Frozen>,
) -> Result<Infallible> {
    let next = Next::handed_over(memory, incoming)?;
    let plan = Plan::after(machine, incoming);
    let map = plan.writable(&[]);
    let pages = Pages::new(map, &plan.free);
    let mut outgoing = Outgoing::new(Tracker::new(map, &pages, PAGE, plan.scratch)?)?;
    metadata::publish(&outgoing, RELEASE, incoming.metadata().known())?;
    let regions: Vec<_> = incoming.reserve_mem().iter().collect();
    reserve_mem::publish(&outgoing, &regions)?;
    let note = json!({ "release": RELEASE, "folios": incoming.folios().count() });
    outgoing.add_blob(NOTE, note.to_string().as_bytes())?;
    // Who made the others would have to say what memory they need.
    let known = [metadata_abi::NODE, memblock::NODE, luo_abi::NODE, NOTE];
    for blob in incoming.subtrees() {
        if !known.contains(&blob.name) {
            fact("dropped", json!({ "name": blob.name }));
        }
    }
    let mut luo = keep_sessions(&outgoing, incoming)?;
    let mut room = Room::new(&plan);
    let array = room.take(PAGE.bytes(), PAGE.bytes(), 0, u64::MAX)?;
    let boot = outgoing.finalize(array, &mut [&mut luo])?.hand_over();
    arch::boot(memory, map, &mut room, machine, &next, Some(&boot))
}

/// Every session with its files, and the objects that the files share.
fn keep_sessions<'p>(
    outgoing: &Handover<'p>,
    incoming: &Incoming<'_, Frozen>,
) -> Result<Luo<Keeper<'p>>> {
    let tracker = outgoing.tracker();
    let Some(theirs) = incoming.luo().known() else {
        return Ok(Luo::new(outgoing, 0)?);
    };
    let mut luo = Luo::new(outgoing, theirs.liveupdate_num())?;
    let mut objects = Vec::new();
    for flb in theirs.flbs() {
        let name = flb.name.to_string();
        let data = flb.data.get();
        luo.register_flb(tracker, Box::new(KeptObject(name.clone(), data)))?;
        objects.push(name);
    }
    for session in theirs.sessions() {
        let name = core::str::from_utf8(session.name());
        let name = name.map_err(|_| Error::missing("name of a session"))?;
        luo.create_session(tracker, name)?;
        for file in session.files() {
            let memfd = file.memfd().ok_or(Error::missing("handler of a file"))?;
            let kept = KeptFile::new(incoming, &memfd, &objects)?;
            luo.preserve_file(tracker, name, file.token(), Box::new(kept))?;
        }
    }
    Ok(luo)
}

/// An object whose number means as much to the successor as it did to the predecessor.
struct KeptObject(String, u64);

impl<T> Flb<T> for KeptObject {
    fn name(&self) -> &str {
        &self.0
    }

    fn preserve(&mut self, _: &T) -> core::result::Result<u64, OutgoingError> {
        Ok(self.1)
    }

    fn unpreserve(&mut self, _: &T) {}
}

/// A memory file that stays where it is.
pub struct KeptFile {
    identity: u64,
    pos: u64,
    size: u64,
    seals: u32,
    folios: Vec<(u64, Folio)>,
    objects: Vec<&'static str>,
    preserved: Option<Preserved>,
}

impl KeptFile {
    fn new(
        incoming: &Incoming<'_, Frozen>,
        memfd: &Memfd<'_, Frozen>,
        objects: &[String],
    ) -> Result<Self> {
        let ser = memfd.descriptor();
        let mut folios = Vec::new();
        for entry in memfd.folios() {
            let Some(addr) = entry.pfn().addr(PAGE).filter(|addr| addr.as_u64() != 0) else {
                continue;
            };
            let folio = incoming.restore_folio(addr);
            folios.push((entry.index.get(), folio.ok_or(Error::missing("folio"))?));
        }
        let mut file = Self::made(ser.size.get(), folios);
        file.pos = ser.pos.get();
        file.seals = ser.seals.get();
        let leak = |name: &String| -> &'static str { String::leak(name.clone()) };
        file.objects = objects.iter().map(leak).collect();
        Ok(file)
    }

    /// A file of our own making.
    pub fn made(size: u64, folios: Vec<(u64, Folio)>) -> Self {
        Self {
            // No two files share a page.
            identity: folios.first().map_or(0, |(_, folio)| folio.addr.as_u64()),
            pos: 0,
            size,
            seals: F_SEAL_SEAL,
            folios,
            objects: Vec::new(),
            preserved: None,
        }
    }

    fn file(&self) -> MemfdFile<'_> {
        MemfdFile {
            pos: self.pos,
            size: self.size,
            seals: self.seals,
            folios: &self.folios,
        }
    }
}

impl<'p> LiveFile<Keeper<'p>> for KeptFile {
    fn compatible(&self) -> &str {
        MEMFD
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn flbs(&self) -> &[&str] {
        &self.objects
    }

    fn preserve(&mut self, tracker: &Keeper<'p>) -> core::result::Result<u64, OutgoingError> {
        let preserved = memfd::preserve(tracker, self.file())?;
        self.preserved = Some(preserved);
        Ok(preserved.data())
    }

    fn unpreserve(&mut self, tracker: &Keeper<'p>) {
        if let Some(preserved) = self.preserved.take() {
            // It was preserved a moment ago.
            let _ = memfd::unpreserve(tracker, self.file(), preserved);
        }
    }
}

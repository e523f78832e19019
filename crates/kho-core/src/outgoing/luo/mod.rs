//! The Live Update Orchestrator, outgoing: sessions of files, and the objects that files share.
//!
//! A *session* is a named set of files under tokens that its user chooses. A *file* knows how to
//! preserve itself ([`LiveFile`]). A *file-lifecycle-bound object* ([`Flb`]) is state that several
//! files need: it is preserved with the first file that names it and let go with the last.
//!
//! # Order of calls
//! | event | calls |
//! | --- | --- |
//! | preserve a file | its objects in the order it names them, where it is the first user; then the file |
//! | unpreserve a session | its files in reverse order; after each its objects, where it was the last user, in reverse |
//! | freeze | every file, by session and in the order of preservation; then the objects |
//! | freeze fails, or is undone | the objects and files that were frozen, in reverse order |
//!
//! Whatever fails leaves all as it was before. What undoes cannot fail.
//!
//! # Source
//! Linux 7.3-rc7 `kernel/liveupdate/luo_session.c`, `luo_file.c`, `luo_flb.c`. Linux undoes the
//! freezing of the files of one session in forward order; here it is reverse throughout. Linux does
//! not freeze objects.

mod flb;
mod session;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

use kho_abi::Name;
use kho_abi::luo::{COMPATIBLE, LuoSer, LuoSessionSer, NODE};
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem};
use zerocopy::IntoBytes;

use crate::outgoing::split::Nodes;
use crate::outgoing::{BlockSet, Outgoing, OutgoingError, Participant, Tracker};

pub use flb::Flb;
use flb::Flbs;
use session::Session;

/// A file that can be preserved. `T` is the [`Tracker`] that it preserves its memory with.
///
/// Refusals carry the callback's own number, which comes back in [`OutgoingError::Refused`].
pub trait LiveFile<T> {
    /// The name of the handler that the successor needs for the file, 1 to 47 bytes.
    fn compatible(&self) -> &str;

    /// What the file is. Two files with one identity are one, and it can be preserved once.
    fn identity(&self) -> u64;

    /// The objects that the file needs, by name.
    fn flbs(&self) -> &[&str] {
        &[]
    }

    /// Preserves the file; returns the number by which the successor finds it.
    ///
    /// # Errors
    /// Any: the file is not preserved then.
    fn preserve(&mut self, tracker: &T) -> Result<u64, OutgoingError>;

    /// Undoes [`LiveFile::preserve`].
    fn unpreserve(&mut self, tracker: &T);

    /// Brings the preserved state up to date for the last time; may return another number.
    ///
    /// # Errors
    /// Any: the file is not frozen then, and the update does not take place.
    fn freeze(&mut self, tracker: &T, data: u64) -> Result<u64, OutgoingError> {
        let _ = tracker;
        Ok(data)
    }

    /// Undoes [`LiveFile::freeze`].
    fn unfreeze(&mut self, tracker: &T) {
        let _ = tracker;
    }
}

/// The sessions of one machine, and what the successor will find of them.
pub struct Luo<T> {
    /// By number, which is the order of creation.
    sessions: BTreeMap<u64, Session<T>>,
    numbers: BTreeMap<Name<64>, u64>,
    next_number: u64,
    /// Of all files in all sessions.
    identities: BTreeSet<u64>,
    session_blocks: BlockSet<LuoSessionSer>,
    flbs: Flbs<T>,
    ser: PhysAddr,
    liveupdate_num: u64,
    frozen: bool,
}

impl<T> core::fmt::Debug for Luo<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Luo")
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> Luo<Tracker<'s, M, A, N>> {
    /// No session yet. Adds the sub-blob `LUO`. `incoming_num` is the number of the live update
    /// that brought this program up, 0 if none did.
    ///
    /// # Errors
    /// Those of [`Outgoing::add_blob`].
    pub fn new(outgoing: &Outgoing<'s, M, A, N>, incoming_num: u64) -> Result<Self, OutgoingError> {
        let tracker = outgoing.tracker();
        let flbs = Flbs::new(tracker)?;
        let mut luo = Self {
            sessions: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next_number: 0,
            identities: BTreeSet::new(),
            session_blocks: BlockSet::default(),
            flbs,
            ser: PhysAddr::default(),
            liveupdate_num: incoming_num.wrapping_add(1),
            frozen: false,
        };
        let added = luo
            .ser()
            .and_then(|ser| outgoing.add_blob(NODE, ser.as_bytes()));
        match added {
            Ok(blob) => luo.ser = blob.start(),
            Err(error) => {
                luo.flbs.destroy(tracker);
                return Err(error);
            }
        }
        Ok(luo)
    }

    /// Removes the sub-blob from `outgoing`, which it was made with, and unpreserves all sessions,
    /// the last first.
    ///
    /// # Errors
    /// Where memory fails, itself with all sessions, not frozen.
    #[allow(clippy::result_large_err, reason = "there may be no heap to put it on")]
    pub fn destroy(mut self, outgoing: &Outgoing<'s, M, A, N>) -> Result<(), Self> {
        let tracker = outgoing.tracker();
        if self.frozen {
            self.unfreeze(tracker);
        }
        // What can fail comes first.
        if self.unpreserve_description(outgoing).is_err() {
            return Err(self);
        }
        while let Some((_, session)) = self.sessions.pop_last() {
            session.destroy(tracker, &mut self.flbs);
        }
        self.session_blocks.free_from(tracker, 0);
        tracker.page_alloc().free(self.flbs.page(), Order::ZERO);
        Ok(())
    }

    /// Unpreserves the pages that describe the sessions, and removes the sub-blob; on an error
    /// neither.
    fn unpreserve_description(
        &self,
        outgoing: &Outgoing<'s, M, A, N>,
    ) -> Result<(), OutgoingError> {
        let tracker = outgoing.tracker();
        let files = self.sessions.values().flat_map(Session::folios);
        let sessions = self.session_blocks.folios_from(0);
        let flbs = [(self.flbs.page(), Order::ZERO)];
        let folios = files.chain(sessions).chain(flbs);
        tracker.unpreserve_folios(folios.clone())?;
        outgoing.remove_blob(NODE).inspect_err(|_| {
            // Unpreserved a moment ago.
            let _ = tracker.preserve_folios(folios);
        })
    }

    /// Registers an object that files can name.
    ///
    /// # Errors
    /// [`OutgoingError::Exists`], [`OutgoingError::Name`] (1 to 47 bytes),
    /// [`OutgoingError::TooMany`] beyond what fits one page.
    pub fn register_flb(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        flb: Box<dyn Flb<Tracker<'s, M, A, N>>>,
    ) -> Result<(), OutgoingError> {
        self.flbs.register(flb, tracker.page_size())
    }

    /// The number of an object that is preserved now, with its users; `None` if it is not.
    pub fn flb(&self, name: &str) -> Option<(u64, u64)> {
        self.flbs.find(name)
    }

    /// Creates a session, with room in the description already set aside.
    ///
    /// # Errors
    /// [`OutgoingError::Busy`] while frozen, [`OutgoingError::Name`] (1 to 63 bytes),
    /// [`OutgoingError::Exists`], and those of
    /// [`BlockSet::resize`].
    pub fn create_session(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        name: &str,
    ) -> Result<(), OutgoingError> {
        self.refuse_frozen()?;
        let name = Name::new(name)?;
        if self.numbers.contains_key(&name) {
            return Err(OutgoingError::Exists);
        }
        self.session_blocks
            .resize(tracker, self.sessions.len() + 1)?;
        self.sessions.insert(self.next_number, Session::new(name));
        self.numbers.insert(name, self.next_number);
        self.next_number += 1;
        Ok(())
    }

    /// Unpreserves all files of a session, the last first, and forgets it.
    ///
    /// # Errors
    /// [`OutgoingError::Busy`] while frozen, [`OutgoingError::Unknown`], [`OutgoingError::Memory`].
    pub fn destroy_session(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        name: &str,
    ) -> Result<(), OutgoingError> {
        self.refuse_frozen()?;
        let name = Name::new(name).map_err(|_| OutgoingError::Unknown)?;
        let number = *self.numbers.get(&name).ok_or(OutgoingError::Unknown)?;
        let session = self.sessions.get(&number).ok_or(OutgoingError::Unknown)?;
        // What can fail comes first.
        tracker.unpreserve_folios(session.folios())?;
        let left = self.sessions.len() - 1;
        if let Err(error) = self.session_blocks.resize(tracker, left) {
            // Unpreserved a moment ago.
            let _ = tracker.preserve_folios(session.folios());
            return Err(error);
        }
        self.numbers.remove(&name);
        if let Some(session) = self.sessions.remove(&number) {
            for identity in session.identities() {
                self.identities.remove(&identity);
            }
            session.destroy(tracker, &mut self.flbs);
        }
        Ok(())
    }

    /// Preserves `file` in a session, under `token`.
    ///
    /// # Errors
    /// [`OutgoingError::Unknown`] session, [`OutgoingError::Exists`] for the token,
    /// [`OutgoingError::Busy`] while frozen or if the file is preserved in any session,
    /// [`OutgoingError::NoHandler`] if it names an object that is not registered,
    /// [`OutgoingError::Name`], and whatever the callbacks return. The file is dropped then.
    pub fn preserve_file(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        session: &str,
        token: u64,
        file: Box<dyn LiveFile<Tracker<'s, M, A, N>>>,
    ) -> Result<(), OutgoingError> {
        self.refuse_frozen()?;
        let session = Name::new(session)
            .ok()
            .and_then(|name| self.numbers.get(&name));
        let session = session.and_then(|number| self.sessions.get_mut(number));
        let session = session.ok_or(OutgoingError::Unknown)?;
        let identity = file.identity();
        if self.identities.contains(&identity) {
            return Err(OutgoingError::Busy);
        }
        session.preserve(tracker, &mut self.flbs, token, file)?;
        self.identities.insert(identity);
        Ok(())
    }

    /// The head of the description as it is while nothing is frozen: without sessions.
    fn ser(&self) -> Result<LuoSer, OutgoingError> {
        Ok(LuoSer {
            compatible: Name::new(COMPATIBLE)?,
            liveupdate_num: self.liveupdate_num.into(),
            sessions_pa: 0.into(),
            flbs_pa: self.flbs.page().as_u64().into(),
        })
    }

    /// Counts the sessions that are frozen in `frozen`.
    fn freeze_sessions(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        frozen: &mut usize,
    ) -> Result<(), OutgoingError> {
        for session in self.sessions.values_mut() {
            session.freeze(tracker)?;
            *frozen += 1;
        }
        for (i, session) in self.sessions.values().enumerate() {
            self.session_blocks.write(tracker, i, &session.ser())?;
        }
        self.flbs.freeze(tracker)?;
        self.flbs.write(tracker)?;
        self.set_sessions_head(tracker, self.session_blocks.head())
    }

    /// Unfreezes the objects that are frozen and the first `count` sessions, the last first.
    fn unfreeze_first(&mut self, tracker: &Tracker<'s, M, A, N>, count: usize) {
        // The description is only memory that was written a moment ago.
        let _ = self.set_sessions_head(tracker, PhysAddr::new(0));
        let _ = self.flbs.clear(tracker);
        self.flbs.unfreeze(tracker);
        for session in self.sessions.values_mut().take(count).rev() {
            session.unfreeze(tracker);
        }
    }

    fn refuse_frozen(&self) -> Result<(), OutgoingError> {
        if self.frozen {
            Err(OutgoingError::Busy)
        } else {
            Ok(())
        }
    }

    fn set_sessions_head(
        &self,
        tracker: &Tracker<'s, M, A, N>,
        head: PhysAddr,
    ) -> Result<(), OutgoingError> {
        let place = self.ser.as_u64() + core::mem::offset_of!(LuoSer, sessions_pa) as u64;
        Ok(tracker
            .mem()
            .write(PhysAddr::new(place), &head.as_u64().to_le_bytes())?)
    }
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> Participant<Tracker<'s, M, A, N>>
    for Luo<Tracker<'s, M, A, N>>
{
    /// Freezes all files, then the objects, and writes the sessions out. Until they are unfrozen, sessions and files
    /// stay as they are.
    fn freeze(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        self.refuse_frozen()?;
        let mut frozen = 0;
        let written = self.freeze_sessions(tracker, &mut frozen);
        if written.is_err() {
            self.unfreeze_first(tracker, frozen);
        }
        self.frozen = written.is_ok();
        written
    }

    /// Unfreezes the objects, then the files, the last first.
    fn unfreeze(&mut self, tracker: &Tracker<'s, M, A, N>) {
        self.unfreeze_first(tracker, self.sessions.len());
        self.frozen = false;
    }
}

//! A handover in the making, and one that is ready.

use alloc::string::ToString;
use alloc::vec::Vec;

use kho_abi::fdt::Generation;
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem, PhysRange};
use spin::mutex::SpinMutex;

use crate::incoming::Folio;
use crate::outgoing::description::{self, Blob};
use crate::outgoing::generation::{Content, Writer};
use crate::outgoing::scratch::write_scratch_array;
use crate::outgoing::split::{Nodes, OneNode};
use crate::outgoing::state::StateTree;
use crate::{BootData, OutgoingError, Tracker};

/// A handover that is open: memory can be preserved, sub-blobs added and removed.
///
/// Preserving ([`Outgoing::tracker`]) takes no lock; sub-blobs are added and removed under one.
#[derive(Debug)]
pub struct Outgoing<'s, M, A, N = OneNode> {
    tracker: Tracker<'s, M, A, N>,
    /// The page of the root FDT.
    fdt: PhysAddr,
    blobs: SpinMutex<Vec<Blob>>,
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> Outgoing<'s, M, A, N> {
    /// A handover of what `tracker` tracks, in the newest generation of the format.
    ///
    /// # Errors
    /// [`OutgoingError::Alloc`] and those of [`Tracker::preserve_folio`], for the page of the root
    /// description. The tracker's pages are freed then.
    pub fn new(tracker: Tracker<'s, M, A, N>) -> Result<Self, OutgoingError> {
        let fdt = match tracker.alloc_preserved(tracker.page_size().bytes()) {
            Ok((fdt, _)) => fdt,
            Err(error) => {
                // Built a moment ago.
                let _ = tracker.destroy();
                return Err(error);
            }
        };
        let outgoing = Self {
            tracker,
            fdt,
            blobs: SpinMutex::new(Vec::new()),
        };
        match outgoing.describe(&[]) {
            Ok(()) => Ok(outgoing),
            Err(error) => {
                // Built a moment ago.
                let _ = outgoing.destroy();
                Err(error)
            }
        }
    }

    /// Which memory survives.
    pub fn tracker(&self) -> &Tracker<'s, M, A, N> {
        &self.tracker
    }

    /// Adds a sub-blob: memory that its user preserved, published under a name.
    ///
    /// # Errors
    /// [`OutgoingError::Name`] (1 to 31 bytes: letters, digits and `,._+-`),
    /// [`OutgoingError::BadRange`] if `blob` is empty or at address 0, [`OutgoingError::Exists`],
    /// [`OutgoingError::Full`]. Then the description is as before.
    pub fn add_subtree(&self, name: &str, blob: PhysRange) -> Result<(), OutgoingError> {
        description::check_name(name)?;
        if blob.is_empty() || blob.start().as_u64() == 0 {
            return Err(OutgoingError::BadRange { range: blob });
        }
        let mut blobs = self.blobs.lock();
        if blobs.iter().any(|known| known.name == name) {
            return Err(OutgoingError::Exists);
        }
        blobs.push(Blob {
            name: name.to_string(),
            range: blob,
        });
        let described = self.describe(&blobs);
        if described.is_err() {
            blobs.pop();
        }
        described
    }

    /// Removes the sub-blob of this name. Its memory stays preserved, and its user's.
    ///
    /// # Errors
    /// [`OutgoingError::Unknown`].
    pub fn remove_subtree(&self, name: &str) -> Result<PhysRange, OutgoingError> {
        let mut blobs = self.blobs.lock();
        let at = blobs.iter().position(|blob| blob.name == name);
        let at = at.ok_or(OutgoingError::Unknown)?;
        let removed = blobs.remove(at);
        match self.describe(&blobs) {
            Ok(()) => Ok(removed.range),
            Err(error) => {
                blobs.insert(at, removed);
                Err(error)
            }
        }
    }

    /// Copies `bytes` into memory of their own, preserves that, and adds it as a sub-blob.
    ///
    /// # Errors
    /// Those of [`Tracker::alloc_preserved`] and [`Outgoing::add_subtree`]; nothing is kept then.
    pub fn add_blob(&self, name: &str, bytes: &[u8]) -> Result<PhysRange, OutgoingError> {
        let (addr, order) = self.tracker.alloc_preserved(bytes.len() as u64)?;
        let add = || {
            self.tracker.mem().write(addr, bytes)?;
            let blob = PhysRange::new(addr, bytes.len() as u64).unwrap_or_default();
            self.add_subtree(name, blob)?;
            Ok(blob)
        };
        add().inspect_err(|_: &OutgoingError| {
            // Preserved a moment ago, so this cannot fail.
            let _ = self.tracker.free_preserved(addr, order);
        })
    }

    /// Undoes [`Outgoing::add_blob`].
    ///
    /// # Errors
    /// [`OutgoingError::Unknown`]; [`OutgoingError::NotPreserved`] for a sub-blob that was added
    /// by [`Outgoing::add_subtree`], which stays.
    pub fn remove_blob(&self, name: &str) -> Result<(), OutgoingError> {
        let blob = self.find(name).ok_or(OutgoingError::Unknown)?;
        let order = Order::for_bytes(blob.size(), self.tracker.page_size());
        let order = order.unwrap_or_default();
        if !self.tracker.has(blob.start(), order)? {
            let addr = blob.start();
            return Err(OutgoingError::NotPreserved { addr, order });
        }
        self.tracker.unpreserve_folio(blob.start(), order)?;
        if let Err(error) = self.remove_subtree(name) {
            // Unpreserved a moment ago.
            let _ = self.tracker.preserve_folio(blob.start(), order);
            return Err(error);
        }
        self.tracker.page_alloc().free(blob.start(), order);
        Ok(())
    }

    /// The sub-blob of this name.
    pub fn find(&self, name: &str) -> Option<PhysRange> {
        let blobs = self.blobs.lock();
        blobs
            .iter()
            .find(|blob| blob.name == name)
            .map(|blob| blob.range)
    }

    /// Makes the handover ready, in the newest generation. `scratch_array` is where the list of
    /// scratch areas is put: inside one of them, apart from the next image, 16 bytes an area.
    /// `participants`, such as LUO, are frozen in order.
    ///
    /// The result borrows everything exclusively, so nothing can change while it exists; dropping
    /// it, or [`Finalized::abort`], unfreezes the participants in reverse and opens the handover
    /// again.
    ///
    /// # Errors
    /// What a participant returns; [`OutgoingError::BadScratch`] if areas overlap, or
    /// `scratch_array` is not in one; [`OutgoingError::Overlap`] if a page is preserved under two
    /// orders. Then the handover is open as before.
    pub fn finalize<'o>(
        &'o mut self,
        scratch_array: PhysAddr,
        participants: Participants<'o, Tracker<'s, M, A, N>>,
    ) -> Result<Finalized<'o, Tracker<'s, M, A, N>, A>, OutgoingError> {
        let mut finalized = self.begin(scratch_array, participants)?;
        finalized.boot.fdt_addr = self.fdt;
        finalized.boot.fdt_size = self.tracker.page_size().bytes();
        Ok(finalized)
    }

    /// As [`Outgoing::finalize`], in any generation of the format; a second description and a
    /// second map are written for it.
    ///
    /// Sketch and series v5 have no sub-blobs. What their users hand over is in `state`; sub-blobs
    /// cannot be handed over with them. In other generations each node of `state` becomes a
    /// sub-blob.
    ///
    /// # Errors
    /// As [`Outgoing::finalize`]; [`OutgoingError::Nested`] for a sub-blob in a generation without
    /// them; [`OutgoingError::Full`], [`OutgoingError::Name`], [`OutgoingError::Alloc`].
    pub fn finalize_as<'o>(
        &'o mut self,
        generation: Generation,
        scratch_array: PhysAddr,
        participants: Participants<'o, Tracker<'s, M, A, N>>,
        state: &StateTree,
    ) -> Result<Finalized<'o, Tracker<'s, M, A, N>, A>, OutgoingError> {
        let mut finalized = self.begin(scratch_array, participants)?;
        let blobs = self.blobs.lock();
        if generation.is_nested() && !blobs.is_empty() {
            return Err(OutgoingError::Nested);
        }
        let nodes = state
            .nodes()
            .map(|(name, node)| (name, Content::State(node)));
        let blobs = blobs.iter().rev();
        let blobs = blobs.map(|blob| (blob.name.as_str(), Content::Blob(blob.range)));
        let written = Writer {
            mem: self.tracker.mem(),
            alloc: self.tracker.page_alloc(),
            page: self.tracker.page_size(),
            generation,
            source: &self.tracker.tree(),
            replaced: Some(Folio {
                addr: self.fdt,
                order: Order::ZERO,
            }),
            added: Vec::new(),
            contents: blobs.chain(nodes).collect(),
            pages: Vec::new(),
        }
        .write()?;
        finalized.pages = written.pages;
        self.refuse_scratch(&finalized.pages)?;
        finalized.boot.fdt_addr = written.fdt;
        finalized.boot.fdt_size = written.fdt_size;
        Ok(finalized)
    }

    /// Freezes the participants, checks the tree, and writes the scratch areas down.
    fn begin<'o>(
        &'o self,
        scratch_array: PhysAddr,
        participants: Participants<'o, Tracker<'s, M, A, N>>,
    ) -> Result<Finalized<'o, Tracker<'s, M, A, N>, A>, OutgoingError> {
        // From here on dropping it undoes what was done, also on an error.
        let mut finalized = Finalized {
            boot: BootData {
                fdt_addr: PhysAddr::new(0),
                fdt_size: 0,
                scratch_addr: scratch_array,
                scratch_size: 0,
            },
            tracker: &self.tracker,
            alloc: self.tracker.page_alloc(),
            participants,
            frozen: 0,
            pages: Vec::new(),
        };
        for participant in finalized.participants.iter_mut() {
            participant.freeze(&self.tracker)?;
            finalized.frozen += 1;
        }
        self.tracker.check_disjoint()?;
        let mut pages = Vec::new();
        let tree = self.tracker.tree();
        tree.visit_nodes::<OutgoingError>(0, &mut |page| {
            pages.push((page, Order::ZERO));
            Ok(())
        })?;
        self.refuse_scratch(&pages)?;
        finalized.boot.scratch_size =
            write_scratch_array(self.tracker.mem(), scratch_array, self.tracker.scratch())?;
        Ok(finalized)
    }

    /// Refuses a map in scratch: the successor would overwrite it before it has read it. Allocators
    /// must not give such pages, but those of Linux have.
    fn refuse_scratch(&self, pages: &[(PhysAddr, Order)]) -> Result<(), OutgoingError> {
        let page = self.tracker.page_size();
        for &(addr, order) in pages {
            let range = PhysRange::folio(addr, order, page).unwrap_or_default();
            let mut areas = self.tracker.scratch().iter();
            if let Some(&scratch) = areas.find(|area| area.overlaps(range)) {
                return Err(OutgoingError::InScratch { range, scratch });
            }
        }
        Ok(())
    }

    /// Gives the description's page and the tree's pages back. What was preserved by others is
    /// theirs.
    ///
    /// # Errors
    /// Where a page of the tree cannot be read, what is left: to be destroyed again.
    #[allow(clippy::result_large_err, reason = "there may be no heap to put it on")]
    pub fn destroy(self) -> Result<(), Self> {
        if self.tracker.free_tree().is_err() {
            return Err(self);
        }
        self.tracker.page_alloc().free(self.fdt, Order::ZERO);
        Ok(())
    }

    /// Writes the description of `blobs` to its page.
    fn describe(&self, blobs: &[Blob]) -> Result<(), OutgoingError> {
        let bytes = description::write(self.tracker.root(), blobs)?;
        let available = self.tracker.page_size().as_usize();
        if bytes.len() > available {
            return Err(OutgoingError::Full {
                needed: bytes.len(),
                available,
            });
        }
        Ok(self.tracker.mem().write(self.fdt, &bytes)?)
    }
}

/// Somebody who has something to do when a handover is made ready: LUO, for one. `T` is the
/// [`Tracker`].
pub trait Participant<T> {
    /// Brings what is handed over up to date for the last time.
    ///
    /// # Errors
    /// Any: the participant is not frozen then, and the handover does not take place.
    fn freeze(&mut self, tracker: &T) -> Result<(), OutgoingError>;

    /// Undoes [`Participant::freeze`].
    fn unfreeze(&mut self, tracker: &T);
}

/// Who takes part in a handover, in the order in which they are frozen.
pub type Participants<'o, T> = &'o mut [&'o mut dyn Participant<T>];

/// A handover that is ready: the successor can be started.
#[must_use = "dropping it opens the handover again"]
pub struct Finalized<'o, T, A: PageAlloc> {
    boot: BootData,
    tracker: &'o T,
    alloc: &'o A,
    participants: Participants<'o, T>,
    /// How many participants are frozen.
    frozen: usize,
    /// What was written for this handover only.
    pages: Vec<(PhysAddr, Order)>,
}

impl<T, A: PageAlloc> core::fmt::Debug for Finalized<'_, T, A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Finalized")
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

impl<T, A: PageAlloc> Finalized<'_, T, A> {
    /// Opens the handover again.
    pub fn abort(self) {}

    /// What the successor must be told. It is for the code that jumps: participants stay frozen.
    pub fn hand_over(mut self) -> BootData {
        self.pages.clear();
        self.frozen = 0;
        self.boot
    }
}

impl<T, A: PageAlloc> Drop for Finalized<'_, T, A> {
    fn drop(&mut self) {
        for &(page, order) in &self.pages {
            self.alloc.free(page, order);
        }
        for participant in self.participants.iter_mut().take(self.frozen).rev() {
            participant.unfreeze(self.tracker);
        }
    }
}

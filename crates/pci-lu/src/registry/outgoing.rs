//! The outgoing side: what the successor will find.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use kho_abi::pci::functions::FunctionSer;
use kho_core::outgoing::Nodes;
use kho_core::{OutgoingError, Tracker};
use kho_hal::walk::CapId;
use kho_hal::{PageAlloc, PciConfigAccess, PhysMem, Sbdf};

use crate::bars::Bars;
use crate::fields::{FieldError, capability};
use crate::functions::Facts;
use crate::guard::GuardError;
use crate::registry::object::{Room, Table};
use crate::registry::{Device, PreserveError, Registry, Topology, path};
use crate::table::Kind;

/// What is preserved now.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) record: Option<Room>,
    pub(super) facts: Option<Table<FunctionSer>>,
    pub(super) functions: BTreeMap<Sbdf, Preserved>,
    /// How many functions were asked for themselves.
    requested: usize,
    frozen: bool,
    /// Why the last FREEZE was refused.
    refused: Option<PreserveError>,
}

#[derive(Debug)]
pub(super) struct Preserved {
    pub(super) refcount: u16,
    /// Whether it was asked for itself, not only for what is below it.
    pub(super) requested: bool,
    pub(super) facts: Facts,
    /// What it depends on.
    upstream: Option<Sbdf>,
    /// How many functions there are from the root to it.
    depth: usize,
}

/// What [`OutgoingError::Refused`] carries where a FREEZE is refused; why is told by
/// [`Registry::refused`].
pub const FREEZE_REFUSED: i32 = -22;

/// Functions, the farthest from the root first; among equals the highest address.
fn by_depth(functions: &BTreeMap<Sbdf, Preserved>) -> Vec<Sbdf> {
    let mut order: Vec<_> = functions.iter().map(|(f, p)| (p.depth, *f)).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    order.into_iter().map(|(_, function)| function).collect()
}

impl<C: PciConfigAccess> Registry<C> {
    /// Number of functions that are preserved, those above others included.
    pub fn outgoing_count(&self) -> usize {
        self.shared.outgoing.lock().functions.len()
    }

    /// How many preserved functions are at or below this one; 0 if it is not outgoing.
    pub fn outgoing_refcount(&self, function: Sbdf) -> u16 {
        let side = self.shared.outgoing.lock();
        side.functions.get(&function).map_or(0, |p| p.refcount)
    }

    /// The preserved functions in the order in which FREEZE calls them.
    pub fn freeze_order(&self) -> Vec<Sbdf> {
        by_depth(&self.shared.outgoing.lock().functions)
    }

    /// Why this registry refused the last FREEZE; `None` if it did not, as where another participant
    /// failed, or the object beside the record.
    pub fn refused(&self) -> Option<PreserveError> {
        self.shared.outgoing.lock().refused
    }

    /// PREPARE: preserves a function and everything that it depends on.
    ///
    /// # Errors
    /// [`PreserveError`]; what had been done is undone in reverse.
    pub fn preserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        topology: &impl Topology,
        function: Sbdf,
    ) -> Result<(), PreserveError> {
        let path = path(topology, function)?;
        let quirk = path.iter().find(|(_, device)| device.acs_quirk);
        if let Some(&(function, _)) = quirk {
            return Err(PreserveError::AcsQuirk { function });
        }
        let mut side = self.shared.outgoing.lock();
        if side.frozen {
            return Err(PreserveError::Frozen);
        }
        if side.functions.get(&function).is_some_and(|p| p.requested) {
            return Err(PreserveError::Busy { function });
        }
        if let Some(Room::V1 { capacity, .. }) = side.record {
            let max = capacity;
            // On either side, and whether or not it is on.
            for &(here, device) in &path {
                let sriov = capability(&self.shared.guard, here, CapId::Extended(0x10));
                if device.is_virtual || sriov.map_err(GuardError::from)?.is_some() {
                    return Err(PreserveError::Sriov { function });
                }
            }
            if side.requested as u64 >= max {
                return Err(OutgoingError::TooMany { max }.into());
            }
        }
        if path.first().is_some_and(|(_, d)| d.kind == Kind::Physical) {
            return Err(PreserveError::Physical { function });
        }
        for (done, &(here, device)) in path.iter().enumerate() {
            let depth = path.len() - done;
            if let Err(error) = self.add(&mut side, tracker, here, device, depth) {
                for &(function, _) in path.iter().take(done).rev() {
                    self.remove(&mut side, tracker, function);
                }
                return Err(error);
            }
        }
        if let Some(preserved) = side.functions.get_mut(&function) {
            preserved.requested = true;
            side.requested += 1;
        }
        Ok(())
    }

    /// CANCEL of one function: undoes [`Registry::preserve`], wherever the function is by now.
    ///
    /// # Errors
    /// [`PreserveError::Frozen`], [`PreserveError::Unknown`] if the function is not preserved for
    /// itself; nothing has changed then.
    pub fn unpreserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        function: Sbdf,
    ) -> Result<(), PreserveError> {
        let mut side = self.shared.outgoing.lock();
        if side.frozen {
            return Err(PreserveError::Frozen);
        }
        match side.functions.get_mut(&function) {
            Some(preserved) if preserved.requested => preserved.requested = false,
            _ => return Err(PreserveError::Unknown { function }),
        }
        side.requested -= 1;
        let above = |function: &Sbdf| side.functions.get(function)?.upstream;
        let path: Vec<_> = core::iter::successors(Some(function), above).collect();
        for function in path.into_iter().rev() {
            self.remove(&mut side, tracker, function);
        }
        Ok(())
    }

    /// FREEZE of all preserved functions, those farthest from the root first: the sizes of BARs must be
    /// those that are known, and from now on writes to
    /// them are judged, and nobody joins or leaves. Then the record is written.
    pub(super) fn freeze<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
    ) -> Result<(), OutgoingError> {
        let mut side = self.shared.outgoing.lock();
        let side = &mut *side;
        let guard = &self.shared.guard;
        side.refused = None;
        let order = by_depth(&side.functions);
        let frozen =
            order.iter().position(
                |function| match self.freeze_one(&side.functions, *function) {
                    Ok(()) => false,
                    Err(error) => {
                        side.refused = Some(error);
                        true
                    }
                },
            );
        let written = match (&mut side.record, frozen) {
            (Some(record), None) => record.write(tracker, side.functions.iter()),
            _ => Err(OutgoingError::Refused(FREEZE_REFUSED)),
        };
        if let Err(error) = written {
            if let (Some(record), None) = (&side.record, frozen) {
                side.refused = Some(error.into());
                record.unwrite(tracker);
            }
            for &function in order.iter().take(frozen.unwrap_or(order.len())).rev() {
                guard.unfreeze(function);
            }
            return Err(error);
        }
        side.frozen = true;
        Ok(())
    }

    fn freeze_one(
        &self,
        functions: &BTreeMap<Sbdf, Preserved>,
        function: Sbdf,
    ) -> Result<(), PreserveError> {
        let guard = &self.shared.guard;
        // A driver may have resized a BAR since.
        if let Some(bars) = functions.get(&function).and_then(|p| p.facts.bars) {
            bars.check(guard, function)?;
        }
        Ok(guard.freeze(function)?)
    }

    /// The sizes of the BARs of a preserved function are others than when it was preserved, or are
    /// known now: the successor is told these.
    ///
    /// # Errors
    /// [`PreserveError::Frozen`], [`PreserveError::Unknown`] if it is not preserved,
    /// [`PreserveError::Bars`] if it cannot have these sizes.
    pub fn set_bars(&self, function: Sbdf, bars: Bars) -> Result<(), PreserveError> {
        let mut side = self.shared.outgoing.lock();
        if side.frozen {
            return Err(PreserveError::Frozen);
        }
        let preserved = side.functions.get_mut(&function);
        let preserved = preserved.ok_or(PreserveError::Unknown { function })?;
        bars.check(&self.shared.guard, function)?;
        preserved.facts.bars = Some(bars);
        Ok(())
    }

    /// Undoes [`Registry::freeze`].
    pub(super) fn unfreeze<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
    ) {
        let mut side = self.shared.outgoing.lock();
        if let Some(record) = &side.record {
            record.unwrite(tracker);
        }
        for &function in by_depth(&side.functions).iter().rev() {
            self.shared.guard.unfreeze(function);
        }
        side.frozen = false;
    }

    /// The record goes with its last file: nothing is preserved any more.
    pub(super) fn forget<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
    ) {
        let mut side = self.shared.outgoing.lock();
        for &function in by_depth(&side.functions).iter().rev() {
            self.shared.guard.cancel(function);
        }
        side.functions.clear();
        side.requested = 0;
        if let Some(record) = side.record.take() {
            record.free(tracker);
        }
        if let Some(facts) = &mut side.facts {
            let _ = facts.reserve(tracker, 0);
        }
    }

    /// One more user of a function, which is prepared, and for which there is room, if it is the
    /// first.
    fn add<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        side: &mut Side,
        tracker: &Tracker<'_, M, A, N>,
        function: Sbdf,
        device: Device,
        depth: usize,
    ) -> Result<(), PreserveError> {
        if side.record.is_none() {
            return Err(PreserveError::NoFile);
        }
        if let Some(preserved) = side.functions.get_mut(&function) {
            if preserved.facts.kind != device.kind {
                let known = preserved.facts.kind;
                return Err(GuardError::Kind { function, known }.into());
            }
            // What is undone follows what was done.
            if preserved.upstream != device.upstream {
                return Err(PreserveError::Path { function });
            }
            preserved.refcount = preserved
                .refcount
                .checked_add(1)
                .ok_or(PreserveError::TooMany { function })?;
            return Ok(());
        }
        self.shared.guard.prepare(function, device.kind)?;
        let facts = self.facts(function, device);
        let all = side.functions.len() + 1;
        let facts = facts.and_then(|facts| {
            self.reserve(side, tracker, all)?;
            Ok(facts)
        });
        let facts = facts.inspect_err(|_| {
            // Cutting off what was added does not fail.
            let _ = self.reserve(side, tracker, all - 1);
            self.shared.guard.cancel(function);
        })?;
        let preserved = Preserved {
            refcount: 1,
            requested: false,
            facts,
            upstream: device.upstream,
            depth,
        };
        side.functions.insert(function, preserved);
        Ok(())
    }

    /// Makes room in both objects.
    fn reserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        side: &mut Side,
        tracker: &Tracker<'_, M, A, N>,
        all: usize,
    ) -> Result<(), PreserveError> {
        if let Some(record) = &mut side.record {
            record.reserve(tracker, all)?;
        }
        if let Some(facts) = &mut side.facts {
            facts.reserve(tracker, all)?;
        }
        Ok(())
    }

    /// What the successor is told of a function.
    fn facts(&self, function: Sbdf, device: Device) -> Result<Facts, PreserveError> {
        let read = |offset| {
            let read = self.shared.guard.read_u32(function, offset);
            read.map_err(|_| {
                PreserveError::Guard(GuardError::Field(FieldError::Unreadable {
                    function,
                    offset,
                }))
            })
        };
        Ok(Facts {
            kind: device.kind,
            identity: read(0x00)?,
            class: read(0x08)?,
            bars: device.bars,
        })
    }

    /// Undoes [`Registry::add`].
    fn remove<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        side: &mut Side,
        tracker: &Tracker<'_, M, A, N>,
        function: Sbdf,
    ) {
        let Some(preserved) = side.functions.get_mut(&function) else {
            return;
        };
        preserved.refcount -= 1;
        if preserved.refcount == 0 {
            side.functions.remove(&function);
            // Cutting off does not fail.
            let _ = self.reserve(side, tracker, side.functions.len());
            self.shared.guard.cancel(function);
        }
    }
}

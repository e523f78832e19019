//! The outgoing side: what the successor will find.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use kho_abi::pci::v2::{NAME, PciDevSer, PciSer, VERSION};
use kho_core::outgoing::luo::Flb;
use kho_core::outgoing::{BlockSet, Nodes};
use kho_core::{OutgoingError, Tracker};
use kho_hal::{Order, PageAlloc, PciConfigAccess, PhysAddr, PhysMem, Sbdf};
use zerocopy::{FromZeros, IntoBytes};

use crate::registry::{Device, PreserveError, Registry, Topology, path};

/// What is preserved now.
#[derive(Debug, Default)]
pub(super) struct Side {
    record: Option<Record>,
    functions: BTreeMap<Sbdf, Preserved>,
    frozen: bool,
}

/// The record in preserved memory.
#[derive(Debug)]
struct Record {
    header: PhysAddr,
    entries: BlockSet<PciDevSer>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Preserved {
    slot: usize,
    refcount: u16,
    /// Whether it was asked for itself, not only for what is below it.
    requested: bool,
    /// Steps from the root.
    depth: usize,
}

/// The registry's record as an object of LUO: files that need it name `pci`.
#[derive(Debug)]
pub struct Object<C> {
    registry: Registry<C>,
}

impl<'s, M, A, N, C> Flb<Tracker<'s, M, A, N>> for Object<C>
where
    M: PhysMem,
    A: PageAlloc,
    N: Nodes,
    C: PciConfigAccess,
{
    fn name(&self) -> &str {
        NAME
    }

    fn preserve(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<u64, OutgoingError> {
        let mut side = self.registry.shared.outgoing.lock();
        let (header, _) = tracker.alloc_preserved(size_of::<PciSer>() as u64)?;
        let record = Record {
            header,
            entries: BlockSet::default(),
            free: Vec::new(),
        };
        if let Err(error) = record.write_header(tracker, 0) {
            // Allocated a moment ago.
            let _ = tracker.free_preserved(header, Order::ZERO);
            return Err(error);
        }
        side.record = Some(record);
        Ok(header.as_u64())
    }

    /// Frees the record. A function that is still in it is not preserved any more.
    fn unpreserve(&mut self, tracker: &Tracker<'s, M, A, N>) {
        let mut side = self.registry.shared.outgoing.lock();
        let left = core::mem::take(&mut side.functions);
        for &function in by_depth(&left).iter() {
            self.registry.shared.guard.cancel(function);
        }
        if let Some(mut record) = side.record.take() {
            let _ = record.entries.resize(tracker, 0);
            let _ = tracker.free_preserved(record.header, Order::ZERO);
        }
    }
}

impl Record {
    fn write_header<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        count: usize,
    ) -> Result<(), OutgoingError> {
        let count = u32::try_from(count).map_err(|_| OutgoingError::TooMany {
            max: u32::MAX.into(),
        })?;
        let header = PciSer {
            version: VERSION.into(),
            nr_devices: count.into(),
            devices: self.entries.head().as_u64().into(),
        };
        Ok(tracker.mem().write(self.header, header.as_bytes())?)
    }

    fn write<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        slot: usize,
        function: Sbdf,
        refcount: u16,
    ) -> Result<(), OutgoingError> {
        let entry = match refcount {
            0 => PciDevSer::new_zeroed(),
            _ => PciDevSer {
                domain: function.segment().into(),
                bdf: function.bdf().into(),
                refcount: refcount.into(),
            },
        };
        self.entries.write(tracker, slot, &entry)
    }

    /// A free slot, the one that became free last, or a new one.
    fn slot<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
    ) -> Result<usize, OutgoingError> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = self.entries.len();
        self.entries.resize(tracker, slot + 1)?;
        Ok(slot)
    }
}

/// Functions, the farthest from the root first; among equals the highest address.
fn by_depth(functions: &BTreeMap<Sbdf, Preserved>) -> Vec<Sbdf> {
    let mut order: Vec<_> = functions.iter().map(|(f, p)| (p.depth, *f)).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    order.into_iter().map(|(_, function)| function).collect()
}

impl<C: PciConfigAccess> Registry<C> {
    /// The record as an object, to be registered with LUO once.
    pub fn object(&self) -> Box<Object<C>> {
        let registry = self.clone();
        Box::new(Object { registry })
    }

    /// Number of functions in the outgoing record, those above others included.
    pub fn outgoing_count(&self) -> usize {
        self.shared.outgoing.lock().functions.len()
    }

    /// How many preserved functions are at or below this one; 0 if it is not outgoing.
    pub fn outgoing_refcount(&self, function: Sbdf) -> u16 {
        let side = self.shared.outgoing.lock();
        side.functions.get(&function).map_or(0, |p| p.refcount)
    }

    /// Preserves a function and everything that it depends on.
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
        for (done, &(here, device)) in path.iter().enumerate() {
            let depth = path.len() - 1 - done;
            if let Err(error) = self.add(&mut side, tracker, here, device, depth) {
                for &(function, _) in path.iter().take(done).rev() {
                    self.remove(&mut side, tracker, function);
                }
                return Err(error);
            }
        }
        if let Some(preserved) = side.functions.get_mut(&function) {
            preserved.requested = true;
        }
        Ok(())
    }

    /// Undoes [`Registry::preserve`].
    ///
    /// # Errors
    /// [`PreserveError::Frozen`], [`PreserveError::Unknown`] if the function, or what it depends on
    /// now, is not preserved; nothing has changed then.
    pub fn unpreserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
        topology: &impl Topology,
        function: Sbdf,
    ) -> Result<(), PreserveError> {
        let path = path(topology, function)?;
        let mut side = self.shared.outgoing.lock();
        if side.frozen {
            return Err(PreserveError::Frozen);
        }
        let known = |function: &Sbdf| side.functions.contains_key(function);
        let lost = path.iter().find(|(here, _)| !known(here));
        if let Some(&(function, _)) = lost {
            return Err(PreserveError::Unknown { function });
        }
        match side.functions.get_mut(&function) {
            Some(preserved) if preserved.requested => preserved.requested = false,
            _ => return Err(PreserveError::Unknown { function }),
        }
        for &(function, _) in path.iter().rev() {
            self.remove(&mut side, tracker, function);
        }
        Ok(())
    }

    /// FREEZE of all preserved functions: from now on writes to them are judged, and nobody joins or
    /// leaves. Those farthest from the root come first.
    ///
    /// Dropping what is returned undoes it, in reverse; [`Frozen::jump`] makes it last.
    ///
    /// # Errors
    /// [`PreserveError::Frozen`] if they are; [`PreserveError::Guard`] if one cannot be preserved any
    /// more. Those before it are unfrozen, in reverse.
    pub fn freeze(&self) -> Result<Frozen<'_, C>, PreserveError> {
        let mut side = self.shared.outgoing.lock();
        if side.frozen {
            return Err(PreserveError::Frozen);
        }
        let order = by_depth(&side.functions);
        let guard = &self.shared.guard;
        for (done, &function) in order.iter().enumerate() {
            if let Err(error) = guard.freeze(function) {
                for &function in order.iter().take(done).rev() {
                    guard.unfreeze(function);
                }
                return Err(error.into());
            }
        }
        side.frozen = true;
        Ok(Frozen {
            registry: self,
            order,
            jumped: false,
        })
    }

    /// One more user of a function, which is prepared and recorded if it is the first.
    fn add<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        side: &mut Side,
        tracker: &Tracker<'_, M, A, N>,
        function: Sbdf,
        device: Device,
        depth: usize,
    ) -> Result<(), PreserveError> {
        let record = side.record.as_mut().ok_or(PreserveError::NoFile)?;
        if let Some(preserved) = side.functions.get_mut(&function) {
            let refcount = preserved
                .refcount
                .checked_add(1)
                .ok_or(PreserveError::TooMany { function })?;
            record.write(tracker, preserved.slot, function, refcount)?;
            preserved.refcount = refcount;
            return Ok(());
        }
        self.shared.guard.prepare(function, device.kind)?;
        let count = side.functions.len();
        let mut write = || {
            let slot = record.slot(tracker)?;
            let written = record
                .write(tracker, slot, function, 1)
                .and_then(|()| record.write_header(tracker, count + 1));
            if let Err(error) = written {
                let _ = record.write(tracker, slot, function, 0);
                record.free.push(slot);
                return Err(error);
            }
            Ok(slot)
        };
        let slot = write().inspect_err(|_| self.shared.guard.cancel(function))?;
        let preserved = Preserved {
            slot,
            refcount: 1,
            requested: false,
            depth,
        };
        side.functions.insert(function, preserved);
        Ok(())
    }

    /// Undoes [`Registry::add`]. Memory that was written before can be written again.
    fn remove<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        side: &mut Side,
        tracker: &Tracker<'_, M, A, N>,
        function: Sbdf,
    ) {
        let (Some(record), Some(preserved)) =
            (side.record.as_mut(), side.functions.get_mut(&function))
        else {
            return;
        };
        preserved.refcount -= 1;
        let (slot, refcount) = (preserved.slot, preserved.refcount);
        let _ = record.write(tracker, slot, function, refcount);
        if refcount == 0 {
            side.functions.remove(&function);
            record.free.push(slot);
            let _ = record.write_header(tracker, side.functions.len());
            self.shared.guard.cancel(function);
        }
    }
}

/// All preserved functions are frozen, until this is dropped.
#[must_use = "dropping it unfreezes the functions"]
#[derive(Debug)]
pub struct Frozen<'r, C: PciConfigAccess> {
    registry: &'r Registry<C>,
    order: Vec<Sbdf>,
    jumped: bool,
}

impl<C: PciConfigAccess> Frozen<'_, C> {
    /// The functions, in the order in which they were frozen.
    pub fn functions(&self) -> &[Sbdf] {
        &self.order
    }

    /// The kexec jump: they stay frozen for as long as this program runs on.
    pub fn jump(mut self) {
        self.jumped = true;
    }
}

impl<C: PciConfigAccess> Drop for Frozen<'_, C> {
    fn drop(&mut self) {
        if self.jumped {
            return;
        }
        let mut side = self.registry.shared.outgoing.lock();
        for &function in self.order.iter().rev() {
            self.registry.shared.guard.unfreeze(function);
        }
        side.frozen = false;
    }
}

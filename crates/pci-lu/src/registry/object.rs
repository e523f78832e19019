//! The outgoing record in preserved memory: room from PREPARE on, written at FREEZE.
//!
//! Until it is written, each form says so in a way that its readers refuse, so nobody believes a
//! record that is not whole. LUO lists no object before it is frozen: a program that jumps without
//! LUO among the participants hands no record over at all, and its successor cannot know.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kho_abi::pci::functions::{self, FunctionsSer};
use kho_abi::pci::{v1, v2};
use kho_core::outgoing::luo::Flb;
use kho_core::outgoing::{BlockSet, Nodes};
use kho_core::{OutgoingError, Tracker};
use kho_hal::{Order, PageAlloc, PciConfigAccess, PhysAddr, PhysMem, Sbdf};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::registry::Registry;
use crate::registry::outgoing::Preserved;

/// The form that a record is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutgoingForm {
    /// `pci-v1`, with room for this many functions, which does not grow. It knows no SR-IOV; those
    /// above a function are kept, and are not in the record.
    V1 {
        /// Largest number of functions.
        capacity: u64,
    },
    /// `pci`, version 2.
    V2,
}

impl OutgoingForm {
    /// The name of the object, by which files ask for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 { .. } => v1::NAME,
            Self::V2 => v2::NAME,
        }
    }
}

/// Header and entries in preserved memory.
#[derive(Debug)]
pub(super) struct Table<T> {
    header: PhysAddr,
    entries: BlockSet<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Table<T> {
    /// A page with this header, and no room.
    fn new<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        header: &[u8],
    ) -> Result<Self, OutgoingError> {
        let (at, order) = tracker.alloc_preserved(header.len() as u64)?;
        if let Err(error) = tracker.mem().write(at, header) {
            // Allocated a moment ago.
            let _ = tracker.free_preserved(at, order);
            return Err(error.into());
        }
        Ok(Self {
            header: at,
            entries: BlockSet::default(),
        })
    }

    /// Makes room for this many entries. Cutting off does not fail.
    pub(super) fn reserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        count: usize,
    ) -> Result<(), OutgoingError> {
        self.entries.resize(tracker, count)
    }

    fn free<M: PhysMem, A: PageAlloc, N: Nodes>(mut self, tracker: &Tracker<'_, M, A, N>) {
        let _ = self.entries.resize(tracker, 0);
        let _ = tracker.free_preserved(self.header, Order::ZERO);
    }

    /// Writes all entries, then the header.
    fn write<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        entries: impl ExactSizeIterator<Item = T>,
        header: impl FnOnce(PhysAddr) -> [u8; 16],
    ) -> Result<(), OutgoingError> {
        // There is room already; what was taken back may have left too much.
        self.entries.resize(tracker, entries.len())?;
        for (index, entry) in entries.enumerate() {
            self.entries.write(tracker, index, &entry)?;
        }
        let header = header(self.entries.head());
        Ok(tracker.mem().write(self.header, &header)?)
    }
}

/// The record, in one of its forms.
#[derive(Debug)]
pub(super) enum Room {
    V1 {
        at: PhysAddr,
        order: Order,
        capacity: u64,
    },
    V2(Table<v2::PciDevSer>),
}

fn header_v1(max: u64, used: u64) -> v1::PciSer {
    v1::PciSer {
        max_nr_devices: max.into(),
        nr_devices: used.into(),
    }
}

fn header_v2(version: u32, used: u32, devices: PhysAddr) -> v2::PciSer {
    v2::PciSer {
        version: version.into(),
        nr_devices: used.into(),
        devices: devices.as_u64().into(),
    }
}

/// No known version.
fn unwritten_v2() -> v2::PciSer {
    header_v2(0, 0, PhysAddr::new(0))
}

/// More entries than there is room for.
fn unwritten_v1() -> v1::PciSer {
    header_v1(0, 1)
}

impl Room {
    fn new<M: PhysMem, A: PageAlloc, N: Nodes>(
        tracker: &Tracker<'_, M, A, N>,
        form: OutgoingForm,
    ) -> Result<Self, OutgoingError> {
        let capacity = match form {
            OutgoingForm::V2 => {
                let table = Table::new(tracker, unwritten_v2().as_bytes())?;
                return Ok(Self::V2(table));
            }
            OutgoingForm::V1 { capacity } => capacity,
        };
        let entry = size_of::<v1::PciDevSer>() as u64;
        let size = capacity
            .checked_mul(entry)
            .and_then(|size| size.checked_add(size_of::<v1::PciSer>() as u64))
            .ok_or(OutgoingError::TooMany {
                max: u64::MAX / entry - 2,
            })?;
        let (at, order) = tracker.alloc_preserved(size)?;
        let room = Self::V1 {
            at,
            order,
            capacity,
        };
        match tracker.mem().write(at, unwritten_v1().as_bytes()) {
            Ok(()) => Ok(room),
            Err(error) => {
                room.free(tracker);
                Err(error.into())
            }
        }
    }

    pub(super) fn at(&self) -> PhysAddr {
        match self {
            Self::V1 { at, .. } => *at,
            Self::V2(table) => table.header,
        }
    }

    pub(super) fn free<M: PhysMem, A: PageAlloc, N: Nodes>(self, tracker: &Tracker<'_, M, A, N>) {
        match self {
            Self::V1 { at, order, .. } => {
                let _ = tracker.free_preserved(at, order);
            }
            Self::V2(table) => table.free(tracker),
        }
    }

    /// Makes room for this many functions; the first form has what it has.
    pub(super) fn reserve<M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        all: usize,
    ) -> Result<(), OutgoingError> {
        match self {
            Self::V1 { .. } => Ok(()),
            Self::V2(table) => table.reserve(tracker, all),
        }
    }

    pub(super) fn write<'p, M: PhysMem, A: PageAlloc, N: Nodes>(
        &mut self,
        tracker: &Tracker<'_, M, A, N>,
        functions: impl ExactSizeIterator<Item = (&'p Sbdf, &'p Preserved)>,
    ) -> Result<(), OutgoingError> {
        match self {
            Self::V1 { at, capacity, .. } => {
                let entry = |(function, _): (&Sbdf, &Preserved)| v1::PciDevSer {
                    domain: function.segment().into(),
                    bdf: function.bdf().into(),
                    reserved: 0.into(),
                };
                let requested = functions.filter(|(_, preserved)| preserved.requested);
                let entries: Vec<_> = requested.map(entry).collect();
                let first = PhysAddr::new(at.as_u64() + size_of::<v1::PciSer>() as u64);
                tracker.mem().write(first, entries.as_slice().as_bytes())?;
                let header = header_v1(*capacity, entries.len() as u64);
                Ok(tracker.mem().write(*at, header.as_bytes())?)
            }
            Self::V2(table) => {
                let used = u32::try_from(functions.len());
                let used = used.map_err(|_| OutgoingError::TooMany {
                    max: u32::MAX.into(),
                })?;
                let entries = functions.map(|(function, preserved)| v2::PciDevSer {
                    domain: function.segment().into(),
                    bdf: function.bdf().into(),
                    refcount: preserved.refcount.into(),
                });
                table.write(tracker, entries, |head| {
                    zerocopy::transmute!(header_v2(v2::VERSION, used, head))
                })
            }
        }
    }

    /// Undoes [`Room::write`].
    pub(super) fn unwrite<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        tracker: &Tracker<'_, M, A, N>,
    ) {
        // Written a moment ago.
        let _ = match self {
            Self::V1 { at, .. } => tracker.mem().write(*at, unwritten_v1().as_bytes()),
            Self::V2(table) => tracker.mem().write(table.header, unwritten_v2().as_bytes()),
        };
    }
}

fn facts_header(count: u64, entries: PhysAddr) -> FunctionsSer {
    FunctionsSer {
        count: count.into(),
        entries: entries.as_u64().into(),
    }
}

fn unwritten_facts() -> FunctionsSer {
    facts_header(u64::MAX, PhysAddr::new(0))
}

/// The registry's record as an object of LUO: files that need it name [`OutgoingForm::name`].
#[derive(Debug)]
pub struct Object<C> {
    pub(super) registry: Registry<C>,
    pub(super) form: OutgoingForm,
}

impl<'s, M, A, N, C> Flb<Tracker<'s, M, A, N>> for Object<C>
where
    M: PhysMem,
    A: PageAlloc,
    N: Nodes,
    C: PciConfigAccess,
{
    fn name(&self) -> &str {
        self.form.name()
    }

    fn preserve(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<u64, OutgoingError> {
        let mut side = self.registry.shared.outgoing.lock();
        if side.record.is_some() {
            return Err(OutgoingError::Exists);
        }
        let room = side.record.insert(Room::new(tracker, self.form)?);
        Ok(room.at().as_u64())
    }

    /// Frees the record. A function that is still in it is not preserved any more.
    fn unpreserve(&mut self, tracker: &Tracker<'s, M, A, N>) {
        self.registry.forget(tracker);
    }

    /// FREEZE of all preserved functions; then the record is written.
    fn freeze(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        self.registry.freeze(tracker)
    }

    fn unfreeze(&mut self, tracker: &Tracker<'s, M, A, N>) {
        self.registry.unfreeze(tracker);
    }
}

/// What is known of the preserved functions as an object of LUO: files that want their successor to
/// have it name [`functions::NAME`].
#[derive(Debug)]
pub struct FactsObject<C> {
    pub(super) registry: Registry<C>,
}

impl<'s, M, A, N, C> Flb<Tracker<'s, M, A, N>> for FactsObject<C>
where
    M: PhysMem,
    A: PageAlloc,
    N: Nodes,
    C: PciConfigAccess,
{
    fn name(&self) -> &str {
        functions::NAME
    }

    fn preserve(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<u64, OutgoingError> {
        let mut side = self.registry.shared.outgoing.lock();
        if side.facts.is_some() {
            return Err(OutgoingError::Exists);
        }
        let mut facts = Table::new(tracker, unwritten_facts().as_bytes())?;
        if let Err(error) = facts.reserve(tracker, side.functions.len()) {
            facts.free(tracker);
            return Err(error);
        }
        let at = facts.header;
        side.facts = Some(facts);
        Ok(at.as_u64())
    }

    fn unpreserve(&mut self, tracker: &Tracker<'s, M, A, N>) {
        if let Some(facts) = self.registry.shared.outgoing.lock().facts.take() {
            facts.free(tracker);
        }
    }

    fn freeze(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        let mut side = self.registry.shared.outgoing.lock();
        let side = &mut *side;
        let Some(table) = &mut side.facts else {
            return Ok(());
        };
        let entries = side.functions.iter();
        let count = entries.len() as u64;
        let entries = entries.map(|(function, preserved)| preserved.facts.ser(*function));
        table.write(tracker, entries, |head| {
            zerocopy::transmute!(facts_header(count, head))
        })
    }

    fn unfreeze(&mut self, tracker: &Tracker<'s, M, A, N>) {
        if let Some(table) = &self.registry.shared.outgoing.lock().facts {
            let unwritten = unwritten_facts();
            // Written a moment ago.
            let _ = tracker.mem().write(table.header, unwritten.as_bytes());
        }
    }
}

impl<C: PciConfigAccess> Registry<C> {
    /// The record as an object, to be registered with LUO once.
    pub fn object(&self, form: OutgoingForm) -> Box<Object<C>> {
        let registry = self.clone();
        Box::new(Object { registry, form })
    }

    /// What is known of the functions as an object, to be registered with LUO once.
    pub fn facts_object(&self) -> Box<FactsObject<C>> {
        let registry = self.clone();
        Box::new(FactsObject { registry })
    }
}

//! Taking over what a predecessor left.
//!
//! A handover is a claim until it is checked. [`Incoming::check`] is the one pass over everything
//! that the description points to: addresses, alignment, cycles, counts, names, and that each
//! piece of memory is preserved and has one owner. What comes out can only be built by passing, so
//! every later call on it is infallible. Nothing is allocated; the caller lends a workspace.
//!
//! The check refuses with the first problem. [`Incoming::diagnose`] is the same pass for people, and
//! names all of them.
//!
//! The accessors read the description again. Should the memory change after the check, they find
//! less or something else, but they do not panic and do not leave the memory that was lent.
//!
//! # Refused, although some Linux hands it on
//! * Preserved memory inside scratch. Linux 7.3 can place a fresh `reserve_mem=` region there on a
//!   boot that took over, and does not notice when it hands it on; its successor overwrites it.
//! * A block of LUO sessions without an entry, which Linux 7.3 leaves behind when a session of a
//!   name that exists is created at the wrong moment. Its successor panics.
//!
//! # Not checked here
//! What is inside sub-blobs and file data that only their owners understand.

mod ascending;
mod block;
mod claims;
mod error;
pub(crate) mod fdt;
mod folios;
pub(crate) mod loose;
mod luo;
pub(crate) mod map;
mod memblock;
mod memfd;
mod metadata;
mod places;
pub(crate) mod read;
mod root;
mod vmalloc;

use core::num::NonZeroUsize;

use dtoolkit::Node;
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::Generation;
use kho_abi::metadata::KexecMetadata;
use kho_abi::{luo as luo_abi, memblock as memblock_abi, metadata as metadata_abi};
use kho_hal::{FrozenMem, Order, PageSize, PhysAddr, PhysRange};

use crate::BootData;
use crate::runs::{First, FolioBits};
pub(crate) use claims::Claims;
use map::{Lookup, Map, Spread};

pub use block::Blocks;
pub use error::{Fault, FdtError, IncomingError, Part};
pub use folios::{Extents, Folio, Folios};
pub use luo::{File, Luo, Session};
pub use memblock::{Region, ReserveMem};
pub use memfd::{Memfd, Segment};
pub use places::{Ram, Scratch};
pub use root::{RootFdt, Subtree};
pub use vmalloc::Vmalloc;

/// What the reader has to be told, because no handover says it.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The predecessor's page size.
    pub page_size: PageSize,
    /// What is RAM.
    pub ram: Ram<'a>,
    /// How large the bitmaps of mainline v1 are, if that is known: 512 bytes from Linux 6.16 and
    /// 6.17, a page from 6.18 to 7.0. Without it, a list that does not prove 512 bytes is refused.
    /// No other generation needs it.
    pub v1_bitmaps: Option<V1Bitmaps>,
}

impl Machine<'_> {
    /// A machine with this page size, of which nothing else is known.
    pub const fn unknown(page_size: PageSize) -> Self {
        Self {
            page_size,
            ram: Ram::Unknown,
            v1_bitmaps: None,
        }
    }
}

/// A sub-blob that this library knows.
#[derive(Clone, Copy, Debug)]
pub enum Component<T> {
    /// The predecessor did not hand one over.
    Absent,
    /// There is one, of a version that is not known, or, where nothing depends on it, not in the
    /// form that its version has. Its memory is preserved, like any.
    NotUnderstood,
    /// There is one, and all of it is checked.
    Known(T),
}

impl<T> Component<T> {
    /// The component, if it is known.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(component) => Some(component),
            Self::Absent | Self::NotUnderstood => None,
        }
    }

    fn found(component: Option<T>) -> Self {
        component.map_or(Self::NotUnderstood, Self::Known)
    }
}

/// A checked handover. See the [module](self).
#[derive(Debug)]
pub struct Incoming<'a, M> {
    mem: &'a M,
    boot: BootData,
    scratch: Scratch<'a>,
    root: RootFdt<'a>,
    generation: Generation,
    map: Map<'a, M>,
    spread: Spread,
    luo: Component<Luo<'a, M>>,
    metadata: Component<&'a KexecMetadata>,
    reserve_mem: ReserveMem<'a>,
}

/// Hears of a problem, and says whether to go on.
type Report<'r> = dyn FnMut(IncomingError) -> Result<(), IncomingError> + 'r;

/// Goes on without what is wrong, if that is asked for.
#[inline(never)]
fn or_report(
    part: Part,
    checked: Result<(), Fault>,
    report: &mut Report<'_>,
) -> Result<(), IncomingError> {
    match checked {
        Ok(()) => Ok(()),
        Err(fault) => report(part.is(fault)),
    }
}

/// What it costs to read `bytes` bytes, where a claim or a name costs one.
fn steps(bytes: u64) -> u64 {
    bytes / 16
}

/// What the known sub-blobs turned out to be.
struct Components<'a, M> {
    luo: Component<Luo<'a, M>>,
    metadata: Component<&'a KexecMetadata>,
    reserve_mem: ReserveMem<'a>,
}

impl<M> Components<'_, M> {
    const NONE: Self = Self {
        luo: Component::Absent,
        metadata: Component::Absent,
        reserve_mem: ReserveMem::NONE,
    };
}

impl<'a, M: FrozenMem> Incoming<'a, M> {
    /// Checks the handover that `boot` names.
    ///
    /// `workspace` is memory to sort and mark addresses in; its contents do not matter, before or
    /// after. A few hundred words do for a handover of some thousand folios in sub-blobs and files.
    /// The time is linear in the size of the description: where the workspace would make it more,
    /// the check stops and says how many words are needed ([`Fault::Workspace`]). Enough is always a
    /// bit for each page between the lowest and the highest address that is named, 32 KiB for each GiB
    /// of 4 KiB pages; 8 words for each name; and 4 words for each bitmap of a list.
    ///
    /// # Errors
    /// [`IncomingError`]: which part is wrong, and what with it. Nothing has been changed.
    pub fn check(
        mem: &'a M,
        boot: BootData,
        machine: Machine<'_>,
        workspace: &mut [u64],
    ) -> Result<Self, IncomingError> {
        Self::examine(mem, boot, machine, workspace, &mut Err)
    }

    /// As [`Incoming::check`], for people: finds all problems that can be found apart from each
    /// other. `report` hears of each, of some more than once; of none, exactly if the check passes.
    ///
    /// Each scratch area, folio in scratch, sub-blob, region, session and file is looked at by
    /// itself. What hangs on something that is wrong is not looked at: without a root description,
    /// with tables of the map that lead nowhere or folios that are no RAM, nothing behind them.
    ///
    /// # Errors
    /// [`Fault::Workspace`] only; problems may have been reported before.
    pub fn diagnose(
        mem: &'a M,
        boot: BootData,
        machine: Machine<'_>,
        workspace: &mut [u64],
        mut report: impl FnMut(IncomingError),
    ) -> Result<(), IncomingError> {
        let mut or_stop = |error: IncomingError| match error.fault {
            Fault::Workspace { .. } => Err(error),
            _ => {
                report(error);
                Ok(())
            }
        };
        match Self::examine(mem, boot, machine, workspace, &mut or_stop) {
            Ok(_) => Ok(()),
            Err(last) => or_stop(last),
        }
    }

    /// The one pass. An error that `report` does not return is one that nothing can be checked
    /// without, or none at all: then the result is only as good as what was reported.
    fn examine(
        mem: &'a M,
        boot: BootData,
        machine: Machine<'_>,
        workspace: &mut [u64],
        report: &mut Report<'_>,
    ) -> Result<Self, IncomingError> {
        let Machine {
            page_size: page,
            ram,
            v1_bitmaps,
        } = machine;
        let scratch = Scratch::check(mem, &ram, boot.scratch_addr, boot.scratch_size, report)?;
        let root =
            RootFdt::check(mem, boot, page, &ram).map_err(|fault| Part::RootFdt.is(fault))?;
        or_report(Part::RootFdt, root.check_names(workspace), report)?;
        let fault = |fault| Part::Map.is(fault);
        let generation = root.decide(mem, page, &ram, v1_bitmaps).map_err(fault)?;
        let mut map = Map::new(mem, page, generation, root.map());
        map.check_nodes(&ram, &scratch, workspace).map_err(fault)?;
        let mut spread = Spread::NONE;
        map.check_folios(&ram, &scratch, workspace, &mut spread, report)?;
        let mut components = Components::NONE;
        Lookup::with(map, workspace, |lookup, workspace| {
            root.check_apart(mem, lookup, workspace, report)?;
            places::each_page_once(workspace, page, map.folios(), |once| {
                let mut claims = Claims::new(lookup, once, report);
                components = Components::NONE;
                Self::check_components(mem, &root, &mut claims, &mut components)?;
                Ok(claims.work)
            })
        })?;
        let Components {
            luo,
            metadata,
            reserve_mem,
        } = components;
        or_report(Part::ReserveMem, reserve_mem.check_names(workspace), report)?;
        if let Component::Known(luo) = &luo {
            or_report(Part::Luo, luo.check_names(workspace), report)?;
        }
        Ok(Self {
            mem,
            boot,
            scratch,
            root,
            generation,
            map,
            spread,
            luo,
            metadata,
            reserve_mem,
        })
    }

    fn check_components(
        mem: &'a M,
        root: &RootFdt<'a>,
        claims: &mut Claims<'_, 'a, M>,
        found: &mut Components<'a, M>,
    ) -> Result<(), IncomingError> {
        let (mut luo, mut metadata_at, mut memblock) = (None, None, None);
        root.claim(mem, claims, |blob| match blob.name {
            luo_abi::NODE => luo = Some(blob.range),
            metadata_abi::NODE => metadata_at = Some(blob.range),
            memblock_abi::NODE => memblock = Some(blob.range),
            _ => {}
        })?;
        if let Some(range) = luo {
            Luo::check(mem, range, claims, &mut found.luo)?;
        }
        if let Some(range) = metadata_at {
            found.metadata = Component::found(metadata::check(mem, range));
        }
        if let Some(range) = memblock {
            found.reserve_mem = Self::check_regions(mem, range, None, claims)?;
        }
        let mut inline = root.inline_nodes();
        if inline.any(|node| node.name() == memblock_abi::NODE) {
            let name = Some(memblock_abi::NODE);
            found.reserve_mem = Self::check_regions(mem, root.range(), name, claims)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn check_regions(
        mem: &'a M,
        tree: PhysRange,
        child: Option<&str>,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<ReserveMem<'a>, IncomingError> {
        let regions = ReserveMem::check(mem, tree.start(), tree.size(), child, claims);
        Ok(claims.or_report(regions)?.unwrap_or(ReserveMem::NONE))
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn mem(&self) -> &'a M {
        self.mem
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn root(&self) -> &RootFdt<'a> {
        &self.root
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn map(&self) -> &Map<'a, M> {
        &self.map
    }

    /// The claim that was checked.
    pub fn boot_data(&self) -> BootData {
        self.boot
    }

    /// The generation of the format.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The page size that the handover was read with.
    pub fn page_size(&self) -> PageSize {
        self.map.page()
    }

    /// Bytes of the root FDT.
    pub fn fdt_size(&self) -> usize {
        self.root.total_size()
    }

    /// The scratch areas: the successor of a handover starts there, and so does ours.
    pub fn scratch(&self) -> Scratch<'a> {
        self.scratch
    }

    /// Where the map of preserved memory starts.
    pub fn map_addr(&self) -> PhysAddr {
        self.root.map()
    }

    /// The memory that holds the map itself, in no particular order: pages of a tree, chunks and
    /// bitmaps of a list. It is not preserved: nothing else may be put there until the last use of
    /// this object.
    pub fn for_each_map_page(&self, mut visit: impl FnMut(PhysRange)) {
        // All of it was read by the check.
        let _ = self.map.visit_own(&mut |at, size| {
            visit(PhysRange::new(at, size).unwrap_or_default());
        });
    }

    /// All preserved folios, by ascending address.
    pub fn folios(&self) -> Folios<'a, M> {
        Folios::new(self.map, First::LOWEST, PhysAddr::new(u64::MAX))
    }

    /// The preserved folios that touch `range`, by ascending address.
    pub fn folios_in(&self, range: PhysRange) -> Folios<'a, M> {
        Folios::new(self.map, First::EndsAbove(range.start()), range.end())
    }

    /// The preserved folios in `parts` parts, for as many CPUs: every folio is in one of them, and
    /// each has about as many as the others. The parts ascend, and so do the folios of each.
    pub fn split(&self, parts: NonZeroUsize) -> impl Iterator<Item = Folios<'a, M>> {
        let count = parts.get() as u64;
        (0..count).map(move |i| {
            let [start, end] = [i, i + 1].map(|i| PhysAddr::new(self.spread.split(i, count)));
            Folios::new(self.map, First::StartsFrom(start), end)
        })
    }

    /// Preserved memory as the longest ranges without a gap, ascending.
    pub fn extents(&self) -> Extents<'a, M> {
        Extents::new(self.map)
    }

    /// The folio that contains `addr`, whatever its order; `None` if `addr` is not preserved.
    pub fn folio_containing(&self, addr: PhysAddr) -> Option<Folio> {
        self.map.folio_containing(addr).ok().flatten()
    }

    /// The folio whose first byte is at `addr`: what its owner takes into use.
    ///
    /// Whether it has been taken already is for the caller's allocator to know.
    pub fn restore_folio(&self, addr: PhysAddr) -> Option<Folio> {
        let order = self.map.order_of(addr).ok().flatten()?;
        Some(Folio { addr, order })
    }

    /// The folios that a preserved range of pages consists of, ascending; `None` unless they are
    /// exactly the range.
    ///
    /// Each folio says how far it reaches. That is not derived from the range, as the predecessor
    /// may have split at a node's border.
    pub fn restore_pages(&self, range: PhysRange) -> Option<Folios<'a, M>> {
        self.consists_of_folios(range)
            .then(|| self.folios_in(range))
    }

    /// Whether folios begin and end where `range` does, without a gap.
    #[inline(never)]
    fn consists_of_folios(&self, range: PhysRange) -> bool {
        let mut next = range.start();
        let mut folios = self.folios_in(range);
        // By reference: moved, it would take its place on the stack twice.
        for folio in folios.by_ref() {
            if folio.addr != next {
                return false;
            }
            next = folio.range(self.page_size()).end();
        }
        next == range.end()
    }

    /// The area that a descriptor in a sub-blob of the caller's leads to; it is checked now.
    ///
    /// # Errors
    /// [`Part::Subtree`] and what is wrong with the list.
    pub fn vmalloc(
        &self,
        descriptor: kho_abi::vmalloc::KhoVmalloc,
        workspace: &mut [u64],
    ) -> Result<Vmalloc<'a, M>, IncomingError> {
        let list = Vmalloc::new(self.mem, self.page_size(), descriptor);
        self.check_foreign(workspace, |claims| {
            list.check(PhysAddr::new(descriptor.first.get()), claims)
        })?;
        Ok(list)
    }

    /// `size` bytes from `at`, the start of a page: what a number in a sub-blob of the caller's leads
    /// to. They must be preserved, and nothing that the library knows of may name their folios; it
    /// is checked now.
    ///
    /// # Errors
    /// [`Part::Subtree`] and what is wrong with the pages.
    pub fn bytes(
        &self,
        at: PhysAddr,
        size: u64,
        workspace: &mut [u64],
    ) -> Result<&'a [u8], IncomingError> {
        self.check_foreign(workspace, |claims| claims.pages(at, size))?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let bytes = self.mem.bytes(at, size);
        bytes.map_err(|cause| Part::Subtree.is(cause.into()))
    }

    /// The set of blocks whose first is at `head`, 0 for an empty set; it is checked now. What the
    /// entries mean is the caller's.
    ///
    /// # Errors
    /// [`Part::Subtree`] and what is wrong with the chain.
    pub fn blocks<T>(
        &self,
        head: PhysAddr,
        workspace: &mut [u64],
    ) -> Result<Blocks<'a, T, M>, IncomingError>
    where
        T: zerocopy::FromBytes + zerocopy::Immutable + zerocopy::KnownLayout,
    {
        let blocks = Blocks::new(self.mem, self.page_size(), head);
        let mut most = 0;
        self.check_foreign(workspace, |claims| {
            most = blocks.check(claims)?.0;
            Ok(())
        })?;
        Ok(blocks.at_most(most))
    }

    /// Makes sure that some pieces of memory have one owner, each a number of bytes from the start of a
    /// page on: they are preserved, nothing that the library knows of names their folios, and no two of
    /// them share one. [`Incoming::bytes`] and the like look at one thing; a predecessor may give the
    /// same memory to two. `pieces` may be called more than once.
    ///
    /// # Errors
    /// [`Part::Subtree`] and what is wrong; [`Fault::Overlap`] if something is named twice.
    pub fn one_owner<I: Iterator<Item = (PhysAddr, u64)>>(
        &self,
        workspace: &mut [u64],
        pieces: impl Fn() -> I,
    ) -> Result<(), IncomingError> {
        self.check_foreign(workspace, |claims| {
            pieces().try_for_each(|(at, size)| claims.pages(at, size))
        })
    }

    /// Runs a check of something that only its owner knows of.
    fn check_foreign(
        &self,
        workspace: &mut [u64],
        mut check: impl FnMut(&mut Claims<'_, 'a, M>) -> Result<(), Fault>,
    ) -> Result<(), IncomingError> {
        let map = self.map;
        Lookup::with(map, workspace, |lookup, workspace| {
            places::each_page_once(workspace, map.page(), map.folios(), |once| {
                let report = &mut Err;
                let mut claims = Claims::new(lookup, once, report);
                // What the library knows of has its owners; nothing else may name it.
                let mut found = Components::NONE;
                Self::check_components(self.mem, &self.root, &mut claims, &mut found)?;
                check(&mut claims).map_err(|fault| Part::Subtree.is(fault))?;
                Ok(claims.work)
            })
        })
    }

    /// The sub-blobs, in the order of their nodes.
    pub fn subtrees(&self) -> impl Iterator<Item = Subtree<'a>> + use<'a, M> {
        self.root.subtrees(self.mem)
    }

    /// The sub-blob of this name.
    pub fn subtree(&self, name: &str) -> Option<Subtree<'a>> {
        self.subtrees().find(|blob| blob.name == name)
    }

    /// What a sub-blob says of its version: the `compatible` of its tree, or the string that it
    /// starts with.
    pub(crate) fn blob_version(&self, name: &str) -> Option<&'a str> {
        let blob = self.subtree(name)?.range;
        let size = usize::try_from(blob.size()).ok()?;
        loose::version(self.mem.bytes(blob.start(), size).ok()?)
    }

    /// What LUO handed over.
    pub fn luo(&self) -> Component<Luo<'a, M>> {
        match &self.luo {
            Component::Absent => Component::Absent,
            Component::NotUnderstood => Component::NotUnderstood,
            Component::Known(luo) => Component::Known(*luo),
        }
    }

    /// Who handed over, and how often.
    pub fn metadata(&self) -> Component<&'a KexecMetadata> {
        self.metadata
    }

    /// The named reserved regions.
    pub fn reserve_mem(&self) -> ReserveMem<'a> {
        self.reserve_mem
    }

    /// The largest order of a preserved folio; `None` if nothing is preserved.
    pub fn largest_order(&self) -> Option<Order> {
        self.map.orders().next_back()
    }
}

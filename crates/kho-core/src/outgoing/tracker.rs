//! The outgoing map of preserved memory: a radix tree that is the wire format while it grows.
//!
//! There is nothing to serialize at the end: the tree's pages are what the successor reads. All
//! operations take `&self` and run on any number of CPUs without a lock. A missing part of a path
//! is built in private and published by one compare-and-swap; a folio is one bit, set by fetch-or.
//! So a failed allocation leaves the tree as it was, and a reader at any moment sees a valid tree.
//!
//! The tree's own pages are not preserved, as the format demands: the successor stays in scratch
//! until it has read them.

use kho_abi::radix::{self, Key};
use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{Order, PageAlloc, PageSize, PhysAddr, PhysMem, PhysRange};

use crate::OutgoingError;
use crate::outgoing::cursor::{Cursor, Edit};
use crate::outgoing::shortcuts::Shortcuts;
use crate::outgoing::split::{Nodes, OneNode, blocks};
#[cfg(feature = "alloc")]
use crate::runs::{First, Runs};
use crate::tree::{Shared, Tree};

/// Which memory survives: a radix tree that is the wire format while it grows.
///
/// All operations take `&self` and run on any number of CPUs without a lock. A failed operation
/// leaves the tree with what was preserved before it. The tree's own pages are not preserved;
/// leave them alone until the successor has read them ([`Tracker::for_each_page`]).
#[derive(Debug)]
pub struct Tracker<'s, M, A, N = OneNode> {
    mem: M,
    alloc: A,
    page: PageSize,
    scratch: &'s [PhysRange],
    nodes: N,
    root: PhysAddr,
    shortcuts: Shortcuts,
}

impl<'s, M: PhysMem, A: PageAlloc> Tracker<'s, M, A> {
    /// An empty tree on a machine whose memory is all on one node; allocates its root page.
    ///
    /// `scratch` is where the successor will start; nothing in it can be preserved.
    ///
    /// # Errors
    /// [`OutgoingError::Alloc`].
    pub fn new(
        mem: M,
        alloc: A,
        page: PageSize,
        scratch: &'s [PhysRange],
    ) -> Result<Self, OutgoingError> {
        Self::with_nodes(mem, alloc, page, scratch, OneNode)
    }
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> Tracker<'s, M, A, N> {
    /// As [`Tracker::new`], on a machine with several nodes.
    ///
    /// # Errors
    /// [`OutgoingError::Alloc`].
    pub fn with_nodes(
        mem: M,
        alloc: A,
        page: PageSize,
        scratch: &'s [PhysRange],
        nodes: N,
    ) -> Result<Self, OutgoingError> {
        let root = alloc.alloc(Order::ZERO)?;
        Ok(Self {
            mem,
            alloc,
            page,
            scratch,
            nodes,
            root,
            shortcuts: Shortcuts::new(),
        })
    }

    /// The root page: the value of the property `preserved-memory-map`.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The page size that the tree is made for.
    pub fn page_size(&self) -> PageSize {
        self.page
    }

    /// Where the successor will start.
    pub fn scratch(&self) -> &'s [PhysRange] {
        self.scratch
    }

    /// The memory that the tree lies in.
    pub fn mem(&self) -> &M {
        &self.mem
    }

    /// The allocator of the tree's pages.
    pub fn page_alloc(&self) -> &A {
        &self.alloc
    }

    /// Preserves the folio of `order` at `addr`, to be taken over as one folio.
    ///
    /// A page preserved under two different orders is not noticed here, as that would cost a
    /// look-up for each order; it is when the handover is finalized.
    ///
    /// # Errors
    /// [`OutgoingError::Key`] (misaligned, order too large), [`OutgoingError::InScratch`],
    /// [`OutgoingError::AlreadyPreserved`], [`OutgoingError::Alloc`].
    pub fn preserve_folio(&self, addr: PhysAddr, order: Order) -> Result<(), OutgoingError> {
        by_page_size(self.page, |page| {
            let key = Key::encode(addr, order, page)?;
            self.refuse_scratch(folio_range(addr, order, page)?)?;
            let (word, bit) = self.leaf_entry(self.leaf(key, page)?, key, page)?;
            if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                Ok(())
            } else {
                Err(OutgoingError::AlreadyPreserved { addr, order })
            }
        })
    }

    /// Preserves many folios, as [`Tracker::preserve_folio`] does each of them. Folios that follow
    /// each other in ascending order cost a fraction of what they cost one by one.
    ///
    /// # Errors
    /// Those of [`Tracker::preserve_folio`]; then no folio of `folios` is preserved that was not
    /// before.
    pub fn preserve_folios<I>(&self, folios: I) -> Result<(), OutgoingError>
    where
        I: IntoIterator<Item = (PhysAddr, Order), IntoIter: Clone>,
    {
        self.edit(Edit::Preserve, folios.into_iter())
    }

    /// Undoes [`Tracker::preserve_folios`], of these or other folios.
    ///
    /// # Errors
    /// Those of [`Tracker::unpreserve_folio`]; then all that were preserved still are.
    pub fn unpreserve_folios<I>(&self, folios: I) -> Result<(), OutgoingError>
    where
        I: IntoIterator<Item = (PhysAddr, Order), IntoIter: Clone>,
    {
        self.edit(Edit::Unpreserve, folios.into_iter())
    }

    /// Preserves a range as folios of one order, 64 at a time.
    ///
    /// # Errors
    /// [`OutgoingError::BadRange`] if the range is empty or its bounds are not aligned to folios of
    /// this order, and those of [`Tracker::preserve_folio`]; then no folio is preserved that was not
    /// before.
    pub fn preserve_run(&self, range: PhysRange, order: Order) -> Result<(), OutgoingError> {
        self.refuse_scratch(range)?;
        self.edit_run(Edit::Preserve, range, order)
    }

    /// Undoes [`Tracker::preserve_run`], of the same range or of a part.
    ///
    /// # Errors
    /// [`OutgoingError::BadRange`] as there; [`OutgoingError::NotPreserved`] with the first folio
    /// that is not, and then nothing is undone.
    pub fn unpreserve_run(&self, range: PhysRange, order: Order) -> Result<(), OutgoingError> {
        self.edit_run(Edit::Unpreserve, range, order)
    }

    fn edit(
        &self,
        edit: Edit,
        folios: impl Iterator<Item = (PhysAddr, Order)> + Clone,
    ) -> Result<(), OutgoingError> {
        let mut cursor = Cursor::new(self, edit);
        let edited = cursor.folios(folios.clone());
        if edited.is_err() {
            // Changed by this CPU a moment ago; somebody else's change of the same is no harm.
            for (addr, order) in folios.take(cursor.done as usize) {
                let _ = match edit {
                    Edit::Preserve => self.unpreserve_folio(addr, order),
                    Edit::Unpreserve => self.preserve_folio(addr, order),
                };
            }
        }
        edited
    }

    fn edit_run(&self, edit: Edit, range: PhysRange, order: Order) -> Result<(), OutgoingError> {
        let bad = OutgoingError::BadRange { range };
        let size = order.bytes(self.page).ok_or(bad)?;
        if range.is_empty() || !range.size().is_multiple_of(size) {
            return Err(bad);
        }
        let first = Key::encode(range.start(), order, self.page).map_err(|_| bad)?;
        let mut cursor = Cursor::new(self, edit);
        let edited = cursor.run(first, range.size() / size);
        if edited.is_err() {
            // As above.
            let _ = Cursor::new(self, edit.undo()).run(first, cursor.done);
        }
        edited
    }

    /// The tree, for reading.
    pub(crate) fn tree(&self) -> Tree<Shared<'_, M>> {
        Tree {
            pages: Shared(&self.mem),
            page: self.page,
            root: self.root,
        }
    }

    /// Undoes [`Tracker::preserve_folio`]. The tree keeps its pages.
    ///
    /// # Errors
    /// [`OutgoingError::Key`], [`OutgoingError::NotPreserved`].
    pub fn unpreserve_folio(&self, addr: PhysAddr, order: Order) -> Result<(), OutgoingError> {
        by_page_size(self.page, |page| {
            let key = Key::encode(addr, order, page)?;
            let not_preserved = OutgoingError::NotPreserved { addr, order };
            let leaf = self.find_leaf(key, page)?.ok_or(not_preserved)?;
            let (word, bit) = self.leaf_entry(leaf, key, page)?;
            if word.fetch_and(!bit, Ordering::Relaxed) & bit == 0 {
                return Err(not_preserved);
            }
            Ok(())
        })
    }

    /// Whether exactly this folio is preserved: same address and same order. Not, where the tree
    /// cannot be read.
    pub fn is_preserved(&self, addr: PhysAddr, order: Order) -> bool {
        self.has(addr, order).unwrap_or(false)
    }

    /// The same, or that it cannot be told.
    pub(crate) fn has(&self, addr: PhysAddr, order: Order) -> Result<bool, OutgoingError> {
        Ok(self.tree().has(addr, order)?)
    }

    /// Preserves the pages of `range` as the fewest naturally aligned blocks.
    ///
    /// # Errors
    /// [`OutgoingError::BadRange`], and those of [`Tracker::preserve_folio`]; then no page of
    /// the range that was not preserved before is.
    pub fn preserve_pages(&self, range: PhysRange) -> Result<(), OutgoingError> {
        self.check_range(range)?;
        for (addr, order) in blocks(range, self.page, &self.nodes) {
            if let Err(error) = self.preserve_folio(addr, order) {
                self.drop_blocks(range, addr);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Undoes [`Tracker::preserve_pages`] of the same range. Parts of a range cannot be undone.
    ///
    /// # Errors
    /// [`OutgoingError::BadRange`]; [`OutgoingError::NotPreserved`] with the first block that is
    /// not, and then nothing is undone.
    pub fn unpreserve_pages(&self, range: PhysRange) -> Result<(), OutgoingError> {
        self.check_pages_preserved(range)?;
        for (addr, order) in blocks(range, self.page, &self.nodes) {
            if let Err(error) = self.unpreserve_folio(addr, order) {
                // Another CPU was faster with this one; the others stay as they were.
                for (done, order) in blocks(range, self.page, &self.nodes) {
                    if done >= addr {
                        break;
                    }
                    let _ = self.preserve_folio(done, order);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether [`Tracker::unpreserve_pages`] would succeed.
    ///
    /// # Errors
    /// As there.
    pub fn check_pages_preserved(&self, range: PhysRange) -> Result<(), OutgoingError> {
        self.check_range(range)?;
        for (addr, order) in blocks(range, self.page, &self.nodes) {
            if !self.has(addr, order)? {
                return Err(OutgoingError::NotPreserved { addr, order });
            }
        }
        Ok(())
    }

    /// Allocates zeroed memory of at least `size` bytes and preserves it as one folio.
    ///
    /// # Errors
    /// [`OutgoingError::BadRange`] for a size of 0, [`OutgoingError::Alloc`], and those of
    /// [`Tracker::preserve_folio`].
    pub fn alloc_preserved(&self, size: u64) -> Result<(PhysAddr, Order), OutgoingError> {
        let order = Order::for_bytes(size, self.page).ok_or(OutgoingError::BadRange {
            range: PhysRange::default(),
        })?;
        let addr = self.alloc.alloc(order)?;
        match self.preserve_folio(addr, order) {
            Ok(()) => Ok((addr, order)),
            Err(error) => {
                self.alloc.free(addr, order);
                Err(error)
            }
        }
    }

    /// Unpreserves and frees what [`Tracker::alloc_preserved`] gave.
    ///
    /// # Errors
    /// [`OutgoingError::NotPreserved`]; then nothing is freed.
    pub fn free_preserved(&self, addr: PhysAddr, order: Order) -> Result<(), OutgoingError> {
        self.unpreserve_folio(addr, order)?;
        self.alloc.free(addr, order);
        Ok(())
    }

    /// Calls `visit` for every page of the tree. They are not preserved, and must be left alone
    /// until the successor has read them.
    ///
    /// # Errors
    /// [`OutgoingError::Memory`]; then not all were visited.
    pub fn for_each_page(&self, mut visit: impl FnMut(PhysAddr)) -> Result<(), OutgoingError> {
        self.tree().visit_nodes(0, &mut |page| {
            visit(page);
            Ok(())
        })
    }

    /// Frees the tree's pages. What was preserved is forgotten.
    ///
    /// # Errors
    /// Where a page of the tree cannot be read, what is left of the tree: to be destroyed again.
    #[allow(clippy::result_large_err, reason = "there may be no heap to put it on")]
    pub fn destroy(self) -> Result<(), Self> {
        match self.free_tree() {
            Ok(()) => Ok(()),
            Err(_) => Err(self),
        }
    }

    /// Frees the tree's pages, the last of all the root; after an error, what is left is linked.
    pub(super) fn free_tree(&self) -> Result<(), OutgoingError> {
        self.shortcuts.forget();
        self.free_node(self.root, radix::depth(self.page) - 1)
    }

    /// Checks that no page is in two folios.
    #[cfg(feature = "alloc")]
    pub(crate) fn check_disjoint(&self) -> Result<(), OutgoingError> {
        let mut runs = Runs::new(self.tree(), First::LOWEST, u64::MAX);
        let mut end = PhysAddr::new(0);
        while let Some(run) = runs.next_run()? {
            if run.range.start() < end {
                let addr = run.range.start();
                return Err(OutgoingError::Overlap { addr });
            }
            end = run.range.end();
        }
        Ok(())
    }

    fn check_range(&self, range: PhysRange) -> Result<(), OutgoingError> {
        let aligned =
            range.start().is_page_aligned(self.page) && range.end().is_page_aligned(self.page);
        if range.is_empty() || !aligned {
            return Err(OutgoingError::BadRange { range });
        }
        Ok(())
    }

    /// Refuses memory in scratch.
    #[inline]
    pub(super) fn refuse_scratch(&self, range: PhysRange) -> Result<(), OutgoingError> {
        match self.scratch.iter().find(|area| area.overlaps(range)) {
            Some(&scratch) => Err(OutgoingError::InScratch { range, scratch }),
            None => Ok(()),
        }
    }

    /// Clears the bits of the blocks of `range` below `end`.
    fn drop_blocks(&self, range: PhysRange, end: PhysAddr) {
        for (addr, order) in blocks(range, self.page, &self.nodes) {
            if addr >= end {
                return;
            }
            // Set by this CPU a moment ago, or seen set; somebody else's unpreserve is no harm.
            let _ = self.unpreserve_folio(addr, order);
        }
    }

    pub(super) fn entries(&self, node: PhysAddr) -> Result<&[AtomicU64], OutgoingError> {
        Ok(self.mem.words(node, self.page.words())?)
    }

    #[inline(always)]
    fn entry(
        &self,
        node: PhysAddr,
        key: Key,
        level: u32,
        page: PageSize,
    ) -> Result<&AtomicU64, OutgoingError> {
        let index = radix::table_index(key, level, page);
        let addr = node.as_u64() + index as u64 * 8;
        let words = self.mem.words(PhysAddr::new(addr), 1)?;
        words.first().ok_or(absent(node))
    }

    #[inline(always)]
    fn leaf_entry(
        &self,
        leaf: PhysAddr,
        key: Key,
        page: PageSize,
    ) -> Result<(&AtomicU64, u64), OutgoingError> {
        let bit = radix::leaf_bit(key, page) as u64;
        let addr = leaf.as_u64() + bit / 64 * 8;
        let words = self.mem.words(PhysAddr::new(addr), 1)?;
        Ok((words.first().ok_or(absent(leaf))?, 1 << (bit % 64)))
    }

    /// The leaf of `key`, if the path to it exists.
    #[inline(always)]
    pub(super) fn find_leaf(
        &self,
        key: Key,
        page: PageSize,
    ) -> Result<Option<PhysAddr>, OutgoingError> {
        let table = match self.shortcuts.find(key, page) {
            Some(table) => table,
            None => match self.walk(key, &|_, _| Ok(0))? {
                Some(table) => table,
                None => return Ok(None),
            },
        };
        let leaf = self.entry(table, key, 1, page)?.load(Ordering::Acquire);
        Ok((leaf != 0).then(|| PhysAddr::new(leaf)))
    }

    /// The leaf of `key`; builds what is missing of the path.
    #[inline(always)]
    pub(super) fn leaf(&self, key: Key, page: PageSize) -> Result<PhysAddr, OutgoingError> {
        let table = match self.shortcuts.find(key, page) {
            Some(table) => table,
            None => {
                let build = |entry: &AtomicU64, level| self.publish(entry, key, level);
                // What is built is there.
                self.walk(key, &build)?.ok_or(absent(self.root))?
            }
        };
        let entry = self.entry(table, key, 1, page)?;
        match entry.load(Ordering::Acquire) {
            0 => self.publish(entry, key, 0).map(PhysAddr::new),
            leaf => Ok(PhysAddr::new(leaf)),
        }
    }

    /// The table of level 1 that leads to `key`, looked up from the root. Where an entry on the way
    /// is empty, `fill` may link a node of the given level there; it returns the node's address or 0.
    #[cold]
    fn walk(
        &self,
        key: Key,
        fill: &dyn Fn(&AtomicU64, u32) -> Result<u64, OutgoingError>,
    ) -> Result<Option<PhysAddr>, OutgoingError> {
        let mut node = self.root;
        for level in (2..radix::depth(self.page)).rev() {
            let entry = self.entry(node, key, level, self.page)?;
            // Acquire: pairs with the release that published the child, so that it reads as zeroed.
            let child = match entry.load(Ordering::Acquire) {
                0 => fill(entry, level - 1)?,
                child => child,
            };
            if child == 0 {
                return Ok(None);
            }
            node = PhysAddr::new(child);
        }
        self.shortcuts.remember(key, node, self.page);
        Ok(Some(node))
    }

    /// Links a new node of `level`, with the path from it to the leaf of `key`, into `entry`.
    /// Returns the node linked there, ours or that of a CPU that was faster.
    #[cold]
    fn publish(&self, entry: &AtomicU64, key: Key, level: u32) -> Result<u64, OutgoingError> {
        let new = self.build_path(key, level)?;
        match entry.compare_exchange(0, new.as_u64(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(new.as_u64()),
            Err(winner) => {
                // Built a moment ago.
                let _ = self.free_node(new, level);
                Ok(winner)
            }
        }
    }

    /// A chain of new nodes from `level` down to the leaf of `key`, linked to each other only.
    fn build_path(&self, key: Key, level: u32) -> Result<PhysAddr, OutgoingError> {
        let mut child = self.alloc.alloc(Order::ZERO)?;
        for level in 1..=level {
            let table = self.alloc.alloc(Order::ZERO).map_err(OutgoingError::from);
            let linked = table.and_then(|table| match self.entry(table, key, level, self.page) {
                Ok(entry) => {
                    entry.store(child.as_u64(), Ordering::Relaxed);
                    Ok(table)
                }
                Err(error) => {
                    self.alloc.free(table, Order::ZERO);
                    Err(error)
                }
            });
            match linked {
                Ok(table) => child = table,
                Err(error) => {
                    // Built a moment ago.
                    let _ = self.free_node(child, level - 1);
                    return Err(error);
                }
            }
        }
        Ok(child)
    }

    /// Frees a node and all below it; what cannot be read stays, with what leads to it. The depth of
    /// the recursion is that of the tree: 6 at most.
    fn free_node(&self, node: PhysAddr, level: u32) -> Result<(), OutgoingError> {
        if level > 0 {
            for entry in self.entries(node)? {
                let child = entry.load(Ordering::Acquire);
                if child != 0 {
                    self.free_node(PhysAddr::new(child), level - 1)?;
                    entry.store(0, Ordering::Relaxed);
                }
            }
        }
        self.alloc.free(node, Order::ZERO);
        Ok(())
    }
}

/// Does `work` for a page size that is a constant in it: shifts by constants are a third of the
/// instructions.
#[inline(always)]
fn by_page_size<R>(page: PageSize, work: impl Fn(PageSize) -> R) -> R {
    match page {
        PageSize::Size4K => work(PageSize::Size4K),
        PageSize::Size16K => work(PageSize::Size16K),
        PageSize::Size64K => work(PageSize::Size64K),
    }
}

/// The memory of a folio.
#[inline]
pub(super) fn folio_range(
    addr: PhysAddr,
    order: Order,
    page: PageSize,
) -> Result<PhysRange, OutgoingError> {
    let wraps = radix::KeyError::Misaligned { addr, order };
    Ok(PhysRange::folio(addr, order, page).ok_or(wraps)?)
}

fn absent(addr: PhysAddr) -> OutgoingError {
    OutgoingError::Memory(kho_hal::MemError::Absent { addr, len: 8 })
}

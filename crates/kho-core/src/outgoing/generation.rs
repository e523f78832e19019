//! Writing a handover in any generation of the format, from whatever the folios are read from.

use alloc::vec::Vec;

use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};
use kho_abi::fdt::{
    BLOB_SIZE, COMPATIBLE, FDT, Generation, METADATA, PHYS_ADDR_SIZE, PRESERVED_DATA,
    PRESERVED_FOLIO_MAP, PRESERVED_MEMORY, PRESERVED_MEMORY_MAP, VOID_P_SIZE,
};
use kho_hal::{Order, PageAlloc, PageSize, PhysAddr, PhysMem, PhysRange};
use vm_fdt::FdtWriter;

use crate::incoming::Folio;
use crate::outgoing::chunks::ChunkWriter;
use crate::outgoing::description;
use crate::outgoing::state::StateNode;
use crate::runs::{FolioBits, Run, for_each_run};
use crate::tree::all_orders;
use crate::{OutgoingError, Tracker};

/// What one user hands over, under a name.
pub(crate) enum Content<'x> {
    /// A sub-blob at this address.
    Blob(PhysRange),
    /// A node to be copied.
    Node(FdtNode<'x>),
    /// A node of a state tree.
    State(&'x StateNode),
}

/// A handover that was written: where it starts, and its pages.
pub(crate) struct Written {
    pub(crate) fdt: PhysAddr,
    pub(crate) fdt_size: u64,
    /// What has to be freed when the handover does not take place.
    pub(crate) pages: Vec<(PhysAddr, Order)>,
}

/// Everything a handover consists of, but for scratch.
pub(crate) struct Writer<'x, M, A, S> {
    pub(crate) mem: &'x M,
    pub(crate) alloc: &'x A,
    pub(crate) page: PageSize,
    pub(crate) generation: Generation,
    pub(crate) source: &'x S,
    /// A folio of the source that is left out: the description that this one replaces.
    pub(crate) replaced: Option<Folio>,
    /// Memory written for this handover that is to survive.
    pub(crate) added: Vec<Folio>,
    pub(crate) contents: Vec<(&'x str, Content<'x>)>,
    pub(crate) pages: Vec<(PhysAddr, Order)>,
}

impl<'x, M, A, S> Writer<'x, M, A, S>
where
    M: PhysMem,
    A: PageAlloc,
    S: FolioBits<'x>,
    OutgoingError: From<S::Error>,
{
    /// Writes the handover. On an error everything is freed.
    pub(crate) fn write(mut self) -> Result<Written, OutgoingError> {
        let written = self.try_write();
        if written.is_err() {
            for &(page, order) in &self.pages {
                self.alloc.free(page, order);
            }
        }
        let (fdt, fdt_size) = written?;
        Ok(Written {
            fdt,
            fdt_size,
            pages: self.pages,
        })
    }

    fn try_write(&mut self) -> Result<(PhysAddr, u64), OutgoingError> {
        self.move_inline_nodes_to_blobs()?;
        // How long the description is does not depend on where the map is.
        let len = self.describe(PhysAddr::new(0))?.len();
        let order = Order::for_bytes(len as u64, self.page).unwrap_or_default();
        if order != Order::ZERO && !self.generation.is_nested() {
            return Err(OutgoingError::Full {
                needed: len,
                available: self.page.as_usize(),
            });
        }
        let fdt = self.alloc_pages(order)?;
        if !self.generation.is_nested() {
            self.added.push(Folio { addr: fdt, order });
        }
        self.added.sort();
        let map = if self.generation.has_radix_tree() {
            self.write_tree()?
        } else {
            self.write_chunks()?
        };
        self.mem.write(fdt, &self.describe(map)?)?;
        Ok((fdt, order.bytes(self.page).unwrap_or_default()))
    }

    fn alloc_pages(&mut self, order: Order) -> Result<PhysAddr, OutgoingError> {
        let addr = self.alloc.alloc(order)?;
        self.pages.push((addr, order));
        Ok(addr)
    }

    /// In generations with sub-blobs, what was inline gets memory of its own.
    fn move_inline_nodes_to_blobs(&mut self) -> Result<(), OutgoingError> {
        if self.generation.is_nested() {
            return Ok(());
        }
        let mut contents = core::mem::take(&mut self.contents);
        for (name, content) in &mut contents {
            description::check_name(name)?;
            if !matches!(content, Content::Blob(_)) {
                let blob = description::tree(|fdt| content.fill(fdt))?;
                let order = Order::for_bytes(blob.len() as u64, self.page).unwrap_or_default();
                let addr = self.alloc_pages(order)?;
                self.mem.write(addr, &blob)?;
                self.added.push(Folio { addr, order });
                let range = PhysRange::new(addr, blob.len() as u64).unwrap_or_default();
                *content = Content::Blob(range);
            }
        }
        self.contents = contents;
        Ok(())
    }

    fn write_tree(&mut self) -> Result<PhysAddr, OutgoingError> {
        let tracker = Tracker::new(self.mem, self.alloc, self.page, &[])?;
        let filled = all_orders(self.page).try_for_each(|order| {
            self.runs(order, &mut |run| tracker.preserve_run(run.range, run.order))
        });
        let before = self.pages.len();
        let listed = filled.and_then(|()| {
            tracker.tree().visit_nodes(0, &mut |page| {
                self.pages.push((page, Order::ZERO));
                Ok(())
            })
        });
        if let Err(error) = listed {
            // All of them go with the tree.
            self.pages.truncate(before);
            // Built a moment ago.
            let _ = tracker.destroy();
            return Err(error);
        }
        Ok(tracker.root())
    }

    fn write_chunks(&mut self) -> Result<PhysAddr, OutgoingError> {
        let mut chunks = ChunkWriter::new(self.mem, self.alloc, self.page, self.generation);
        let filled = all_orders(self.page)
            .try_for_each(|order| self.runs(order, &mut |run| chunks.add(run)));
        if let Err(error) = filled {
            chunks.undo();
            return Err(error);
        }
        let (head, pages) = chunks.finish();
        self.pages
            .extend(pages.into_iter().map(|page| (page, Order::ZERO)));
        Ok(head)
    }

    /// The runs of one order: the source's, without what is replaced, with what is added.
    fn runs(
        &self,
        order: Order,
        visit: &mut dyn FnMut(Run) -> Result<(), OutgoingError>,
    ) -> Result<(), OutgoingError> {
        let added = self.added.iter().filter(|folio| folio.order == order);
        let single = |folio: &Folio| Run {
            range: folio.range(self.page),
            order,
        };
        let mut added = added.map(single).peekable();
        let gone = self.replaced.filter(|folio| folio.order == order);
        let gone = gone.map(|folio| folio.range(self.page)).unwrap_or_default();
        for_each_run(self.source, order, &mut |run: Run| {
            while let Some(new) = added.next_if(|new| new.range.start() < run.range.start()) {
                visit(new)?;
            }
            if !run.range.contains_range(gone) || gone.is_empty() {
                return visit(run);
            }
            let part = |from: PhysAddr, to: PhysAddr| {
                PhysRange::new(from, to.as_u64() - from.as_u64()).filter(|range| !range.is_empty())
            };
            let before = part(run.range.start(), gone.start());
            let after = part(gone.end(), run.range.end());
            let mut parts = [before, after].into_iter().flatten();
            parts.try_for_each(|range| visit(Run { range, order }))
        })?;
        added.try_for_each(visit)
    }

    fn describe(&self, map: PhysAddr) -> Result<Vec<u8>, OutgoingError> {
        let map = map.as_u64().to_le_bytes();
        let generation = self.generation;
        description::tree(|fdt| {
            fdt.property_string(COMPATIBLE, generation.compatible())?;
            match generation {
                Generation::Sketch => {
                    fdt.property(PHYS_ADDR_SIZE, &64u64.to_le_bytes())?;
                    fdt.property(VOID_P_SIZE, &64u64.to_le_bytes())?;
                    fdt.property(PRESERVED_FOLIO_MAP, &map)?;
                }
                Generation::SeriesV5 => {
                    let memory = fdt.begin_node(PRESERVED_MEMORY)?;
                    fdt.property(METADATA, &map)?;
                    fdt.end_node(memory)?;
                }
                _ => fdt.property(PRESERVED_MEMORY_MAP, &map)?,
            }
            for (name, content) in &self.contents {
                let node = fdt.begin_node(name)?;
                match content {
                    Content::Blob(blob) => describe_blob(fdt, generation, *blob)?,
                    inline => inline.fill(fdt)?,
                }
                fdt.end_node(node)?;
            }
            Ok(())
        })
    }
}

/// The properties of a sub-blob's node. Sizes come before addresses, as Linux writes them; v2 gets
/// one as well, which its readers may ignore.
pub(crate) fn describe_blob(
    fdt: &mut FdtWriter,
    generation: Generation,
    blob: PhysRange,
) -> Result<(), vm_fdt::Error> {
    let addr = blob.start().as_u64().to_le_bytes();
    if !generation.has_radix_tree() {
        return fdt.property(FDT, &addr);
    }
    fdt.property(BLOB_SIZE, &blob.size().to_le_bytes())?;
    fdt.property(PRESERVED_DATA, &addr)
}

impl Content<'_> {
    /// Writes the properties and children of an inline node into the node that is open.
    fn fill(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        match self {
            Self::Blob(_) => Ok(()),
            Self::Node(node) => copy_node(fdt, *node),
            Self::State(node) => node.fill(fdt),
        }
    }
}

/// Recursive to the depth that `FdtWriter` allows, 64.
fn copy_node(fdt: &mut FdtWriter, node: FdtNode<'_>) -> Result<(), vm_fdt::Error> {
    for property in node.properties() {
        fdt.property(property.name(), property.value())?;
    }
    for child in node.children() {
        let open = fdt.begin_node(child.name())?;
        copy_node(fdt, child)?;
        fdt.end_node(open)?;
    }
    Ok(())
}

//! The root description of a handover.

use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use kho_abi::fdt::{BLOB_SIZE, COMPATIBLE, Generation, PRESERVED_DATA, PRESERVED_MEMORY_MAP};
use kho_hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::BootData;
use crate::incoming::places::Ram;
use crate::incoming::{Claims, Fault, IncomingError, Part, fdt};

/// The root description, its structure checked; of what it points to, nothing is.
#[derive(Clone, Copy, Debug)]
pub struct RootFdt<'a> {
    fdt: Fdt<'a>,
    at: PhysAddr,
    generation: Generation,
    map: PhysAddr,
}

/// A sub-blob: a piece of memory that its user has to make sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtree<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its memory, all of it preserved.
    pub range: PhysRange,
}

impl<'a> RootFdt<'a> {
    /// Reads the description in `bytes`, as Linux shows it in debugfs. `at` is its physical
    /// address, for errors to name.
    ///
    /// # Errors
    /// [`Part::RootFdt`] and what is wrong with it.
    pub fn parse(bytes: &'a [u8], at: PhysAddr) -> Result<Self, IncomingError> {
        let fdt = fdt::parse(bytes, at).and_then(|fdt| Self::from_fdt(fdt, at));
        fdt.map_err(|fault| Part::RootFdt.is(fault))
    }

    pub(crate) fn check<M: FrozenMem>(
        mem: &'a M,
        boot: BootData,
        page: PageSize,
        ram: &Ram<'_>,
    ) -> Result<Self, Fault> {
        let at = boot.fdt_addr;
        if at == PhysAddr::new(0) {
            return Err(Fault::NoHandover);
        }
        let fdt = fdt::tree(mem, at, boot.fdt_size.min(page.bytes()))?;
        ram.range(at, fdt.data().len() as u64)?;
        Self::from_fdt(fdt, at)
    }

    fn from_fdt(fdt: Fdt<'a>, at: PhysAddr) -> Result<Self, Fault> {
        let root = fdt.root();
        let generation = [Generation::V2, Generation::V3, Generation::V4]
            .into_iter()
            .find(|generation| fdt::is_compatible(root, generation.compatible()))
            .ok_or(match fdt::property(root, COMPATIBLE) {
                Some(_) => Fault::UnknownVersion { at },
                None => Fault::Property {
                    at,
                    name: COMPATIBLE,
                },
            })?;
        let name = PRESERVED_MEMORY_MAP;
        let map = fdt::number(root, name).ok_or(Fault::Property { at, name })?;
        if map == 0 {
            return Err(Fault::Null { at });
        }
        Ok(Self {
            fdt,
            at,
            generation,
            map: PhysAddr::new(map),
        })
    }

    /// The generation of the format.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Where the map of preserved memory starts.
    pub fn map(&self) -> PhysAddr {
        self.map
    }

    /// Name, address and, where one is recorded, size of each sub-blob, in the order of the nodes.
    /// A node without an address is left out.
    pub fn nodes(&self) -> impl Iterator<Item = (&'a str, PhysAddr, Option<u64>)> + use<'a> {
        self.fdt.root().children().filter_map(|node| {
            let addr = PhysAddr::new(fdt::number(node, PRESERVED_DATA)?);
            Some((node.name(), addr, fdt::number(node, BLOB_SIZE)))
        })
    }

    fn range(&self) -> PhysRange {
        // The bytes are in memory, so their range does not wrap.
        PhysRange::new(self.at, self.fdt.data().len() as u64).unwrap_or_default()
    }

    /// Bytes of the FDT, by its own header.
    pub fn total_size(&self) -> usize {
        self.fdt.data().len()
    }

    /// Checks that the FDT and the sub-blobs lie in preserved memory and do not overlap. What is
    /// in a blob is not looked at.
    pub(crate) fn check_memory<M: FrozenMem>(
        &self,
        mem: &M,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<(), IncomingError> {
        let fault = |fault| Part::RootFdt.is(fault);
        claims
            .preserved(self.at, self.range().size())
            .map_err(fault)?;
        claims.once(self.range()).map_err(fault)?;
        let children = self.fdt.root().children();
        for (i, node) in children.enumerate() {
            self.check_subtree(mem, i, node, claims)
                .map_err(|fault| Part::Subtree.is(fault))?;
        }
        Ok(())
    }

    fn check_subtree<M: FrozenMem>(
        &self,
        mem: &M,
        i: usize,
        node: FdtNode<'a>,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<(), Fault> {
        let at = self.at;
        let blob = self.subtree(mem, node)?;
        let range = claims.preserved(blob.range.start(), blob.range.size())?;
        // Blobs may share a page, as nothing says that they start at one. Pages that an earlier
        // blob has in part are claimed by that one.
        let page = claims.map.page().bytes();
        let first_page = |range: PhysRange| range.start().as_u64() / page;
        let end_page = |range: PhysRange| range.end().as_u64().div_ceil(page);
        let mut pages = first_page(range)..end_page(range);
        for earlier in self.fdt.root().children().take(i) {
            let earlier = self.subtree(mem, earlier)?;
            if earlier.name == blob.name {
                return Err(Fault::Duplicate { at });
            }
            if earlier.range.overlaps(range) {
                return Err(Fault::Overlap {
                    addr: earlier.range.start().max(range.start()),
                });
            }
            if end_page(earlier.range) == pages.start + 1 {
                pages.start += 1;
            }
            if first_page(earlier.range) + 1 == pages.end {
                pages.end -= 1;
            }
        }
        let size = pages.end.saturating_sub(pages.start) * page;
        match PhysRange::new(PhysAddr::new(pages.start * page), size) {
            Some(claim) if size > 0 => claims.once(claim),
            _ => Ok(()),
        }
    }

    fn subtree<M: FrozenMem>(&self, mem: &M, node: FdtNode<'a>) -> Result<Subtree<'a>, Fault> {
        let at = self.at;
        let name = PRESERVED_DATA;
        let addr = fdt::number(node, name).ok_or(Fault::Property { at, name })?;
        if addr == 0 {
            return Err(Fault::Null { at });
        }
        let addr = PhysAddr::new(addr);
        let size = self.blob_size(mem, node, addr)?;
        let range = PhysRange::new(addr, size).ok_or(Fault::NotRam { addr, size })?;
        Ok(Subtree {
            name: node.name(),
            range,
        })
    }

    /// The recorded size; a v2 blob without one must be an FDT, which knows its own.
    fn blob_size<M: FrozenMem>(
        &self,
        mem: &M,
        node: FdtNode<'_>,
        addr: PhysAddr,
    ) -> Result<u64, Fault> {
        let at = self.at;
        let has_one = fdt::property(node, BLOB_SIZE).is_some();
        if self.generation == Generation::V2 && !has_one {
            return Ok(fdt::total_size(mem, addr)?.into());
        }
        let name = BLOB_SIZE;
        match fdt::number(node, name) {
            None => Err(Fault::Property { at, name }),
            Some(0) => Err(Fault::Count {
                at,
                found: 0,
                max: u64::MAX,
            }),
            Some(size) => Ok(size),
        }
    }

    /// The sub-blobs of a checked root, in the order of their nodes.
    pub(crate) fn subtrees<M: FrozenMem>(
        &self,
        mem: &'a M,
    ) -> impl Iterator<Item = Subtree<'a>> + use<'a, M> {
        let root = *self;
        root.fdt
            .root()
            .children()
            .filter_map(move |node| root.subtree(mem, node).ok())
    }
}

//! The root description of a handover.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use kho_abi::chunk::V1Bitmaps;
use kho_abi::fdt::{
    BLOB_SIZE, COMPATIBLE, FDT, Generation, METADATA, PRESERVED_DATA, PRESERVED_FOLIO_MAP,
    PRESERVED_MEMORY, PRESERVED_MEMORY_MAP,
};
use kho_hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::BootData;
use crate::incoming::ascending::{Sorter, name_key};
use crate::incoming::map::{Lookup, Map};
use crate::incoming::places::Ram;
use crate::incoming::{Claims, Fault, IncomingError, Part, Report, fdt, steps};

/// The root description, its structure checked; of what it points to, nothing is.
#[derive(Clone, Copy, Debug)]
pub struct RootFdt<'a> {
    fdt: Fdt<'a>,
    at: PhysAddr,
    format: Format,
    map: PhysAddr,
}

/// What the description says of its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Known(Generation),
    /// Mainline v1, of whatever bitmaps.
    V1,
}

impl Format {
    fn is_nested(self) -> bool {
        matches!(self, Self::Known(generation) if generation.is_nested())
    }

    fn has_radix_tree(self) -> bool {
        matches!(self, Self::Known(generation) if generation.has_radix_tree())
    }

    /// The property of a sub-blob's node that has its address.
    fn blob_property(self) -> &'static str {
        if self.has_radix_tree() {
            PRESERVED_DATA
        } else {
            FDT
        }
    }
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
        let fdt = fdt::tree(mem, ram, at, boot.fdt_size)?;
        let root = Self::from_fdt(fdt, at)?;
        // Where users keep all they have inside, it may be long.
        if !root.format.is_nested() && root.total_size() > page.as_usize() {
            return Err(Fault::Count {
                at,
                found: root.total_size() as u64,
                max: page.bytes(),
            });
        }
        Ok(root)
    }

    fn from_fdt(fdt: Fdt<'a>, at: PhysAddr) -> Result<Self, Fault> {
        let root = fdt.root();
        let is = |generation: Generation| fdt::is_compatible(root, generation.compatible());
        let memory = fdt::child(root, PRESERVED_MEMORY);
        let has_map = fdt::property(root, PRESERVED_MEMORY_MAP).is_some();
        let (format, holder, name) = if is(Generation::Sketch) {
            (Format::Known(Generation::Sketch), root, PRESERVED_FOLIO_MAP)
        } else if is(Generation::V1Small) {
            match (memory, has_map) {
                (None, _) => (Format::V1, root, PRESERVED_MEMORY_MAP),
                (Some(node), false) => (Format::Known(Generation::SeriesV5), node, METADATA),
                (Some(_), true) => return Err(Fault::UnknownVersion { at }),
            }
        } else {
            let known = [Generation::V2, Generation::V3, Generation::V4]
                .into_iter()
                .find(|g| is(*g));
            let known = known.ok_or(match fdt::property(root, COMPATIBLE) {
                Some(_) => Fault::UnknownVersion { at },
                None => Fault::Property {
                    at,
                    name: COMPATIBLE,
                },
            })?;
            (Format::Known(known), root, PRESERVED_MEMORY_MAP)
        };
        let map = fdt::number(holder, name).ok_or(Fault::Property { at, name })?;
        // An empty tree has a root page; an empty list has no chunk.
        if map == 0 && format.has_radix_tree() {
            return Err(Fault::Null { at });
        }
        Ok(Self {
            fdt,
            at,
            format,
            map: PhysAddr::new(map),
        })
    }

    /// The root's `compatible` string.
    pub fn compatible(&self) -> &'static str {
        match self.format {
            Format::Known(generation) => generation.compatible(),
            Format::V1 => Generation::V1Small.compatible(),
        }
    }

    /// The generation of the format; `None` for mainline v1, whose two layouts the description
    /// does not tell apart.
    pub fn generation(&self) -> Option<Generation> {
        match self.format {
            Format::Known(generation) => Some(generation),
            Format::V1 => None,
        }
    }

    /// The generation, with the bitmaps of mainline v1 told, or proved by the map.
    pub(crate) fn decide<M: FrozenMem>(
        &self,
        mem: &M,
        page: PageSize,
        ram: &Ram<'_>,
        told: Option<V1Bitmaps>,
    ) -> Result<Generation, Fault> {
        if let Format::Known(generation) = self.format {
            return Ok(generation);
        }
        let at = self.map;
        match (told, Map::proves_small(mem, page, ram, at)?) {
            (Some(V1Bitmaps::Small), _) | (None, true) => Ok(Generation::V1Small),
            (Some(V1Bitmaps::Page), false) => Ok(Generation::V1Page),
            (Some(V1Bitmaps::Page), true) => Err(Fault::NotPageBitmaps { at }),
            (None, false) => Err(Fault::Ambiguous { at }),
        }
    }

    /// Where the map of preserved memory starts.
    pub fn map(&self) -> PhysAddr {
        self.map
    }

    /// Name, address and, where one is recorded, size of each sub-blob, in the order of the nodes.
    /// A node without an address is left out.
    pub fn nodes(&self) -> impl Iterator<Item = (&'a str, PhysAddr, Option<u64>)> + use<'a> {
        let name = self.format.blob_property();
        self.blob_nodes().filter_map(move |node| {
            let addr = PhysAddr::new(fdt::number(node, name)?);
            Some((node.name(), addr, fdt::number(node, BLOB_SIZE)))
        })
    }

    /// The nodes of sub-blobs; none where users keep their data inline.
    fn blob_nodes(&self) -> impl Iterator<Item = FdtNode<'a>> + use<'a> {
        let nested = self.format.is_nested();
        self.fdt.root().children().filter(move |_| !nested)
    }

    /// The nodes in which users keep their data inline, where they do.
    pub(crate) fn inline_nodes(&self) -> impl Iterator<Item = FdtNode<'a>> + use<'a> {
        let nested = self.format.is_nested();
        let children = self.fdt.root().children();
        children.filter(move |node| nested && node.name() != PRESERVED_MEMORY)
    }

    /// Where the description lies.
    pub(crate) fn range(&self) -> PhysRange {
        // The bytes are in memory, so their range does not wrap.
        PhysRange::new(self.at, self.fdt.data().len() as u64).unwrap_or_default()
    }

    /// Bytes of the FDT, by its own header.
    pub fn total_size(&self) -> usize {
        self.fdt.data().len()
    }

    /// What it costs to go through the FDT.
    pub(crate) fn steps(&self) -> u64 {
        steps(self.total_size() as u64)
    }

    /// Checks that no two properties of the root and of its children have one name, and no two
    /// children.
    #[inline(never)]
    pub(crate) fn check_names(&self, workspace: &mut [u64]) -> Result<(), Fault> {
        let at = self.at;
        let twice = |_| Fault::Duplicate { at };
        let key = |name: &str| name_key(name.as_bytes()).ok_or(Fault::Name { at });
        let mut sorter = Sorter::new(workspace);
        let root = self.fdt.root();
        // To go from child to child is to go through all that is in them.
        let children = |list: &mut dyn FnMut(_)| {
            root.children()
                .try_for_each(|child| key(child.name()).map(&mut *list))
        };
        sorter.unique(self.steps(), children, twice)?;
        for node in [root].into_iter().chain(root.children()) {
            let properties = |list: &mut dyn FnMut(_)| {
                node.properties()
                    .try_for_each(|property| key(property.name()).map(&mut *list))
            };
            sorter.unique(0, properties, twice)?;
        }
        Ok(())
    }

    /// Checks that neither the FDT nor a sub-blob overlaps another. What cannot be a sub-blob is left
    /// to [`RootFdt::claim`].
    #[inline(never)]
    pub(crate) fn check_apart<M: FrozenMem>(
        &self,
        mem: &M,
        lookup: &Lookup<'_, '_, M>,
        workspace: &mut [u64],
        report: &mut Report<'_>,
    ) -> Result<(), IncomingError> {
        let mut around = 0u64;
        Sorter::new(workspace).ascending(
            self.steps(),
            |list: &mut dyn FnMut(u64)| {
                // The end of one may be the start of the next, and comes first then.
                let mut borders = |range: PhysRange| {
                    if Ram::Unknown.range(range.start(), range.size()).is_ok() {
                        list(range.end().as_u64() * 2);
                        list(range.start().as_u64() * 2 + 1);
                    }
                };
                borders(self.range());
                for node in self.blob_nodes() {
                    if let Ok(Some(blob)) = self.preserved_subtree(mem, lookup, node) {
                        borders(blob.range);
                    }
                }
                Ok(())
            },
            |border| {
                let starts = border % 2 == 1;
                if starts && around > 0 {
                    let addr = PhysAddr::new(border / 2);
                    report(Part::Subtree.is(Fault::Overlap { addr }))?;
                }
                around = match starts {
                    true => around + 1,
                    false => around.saturating_sub(1),
                };
                Ok(())
            },
        )
    }

    /// Claims the FDT and the sub-blobs, which are apart, and calls `visit` with those that are
    /// whole. What is in a blob is not looked at.
    pub(crate) fn claim<M: FrozenMem>(
        &self,
        mem: &M,
        claims: &mut Claims<'_, 'a, M>,
        mut visit: impl FnMut(Subtree<'a>),
    ) -> Result<(), IncomingError> {
        claims.work += self.steps();
        // Where users keep their data inside, the description comes in scratch. An empty list, as
        // Linux 6.16 may write one, preserves nothing at all.
        let is_empty = !self.format.has_radix_tree() && claims.map().folios() == 0;
        if !self.format.is_nested() && !is_empty {
            let own = claims.blob(self.range());
            claims.or_report(own.map_err(|fault| Part::RootFdt.is(fault)))?;
        }
        for node in self.blob_nodes() {
            let blob = self.preserved_subtree(mem, claims.lookup, node);
            let claimed = blob.and_then(|blob| {
                if let Some(blob) = blob {
                    claims.blob(blob.range)?;
                    visit(blob);
                }
                Ok(())
            });
            claims.or_report(claimed.map_err(|fault| Part::Subtree.is(fault)))?;
        }
        Ok(())
    }

    /// As [`RootFdt::subtree`], of a node whose address is preserved: the size may have to be read
    /// from there.
    fn preserved_subtree<M: FrozenMem>(
        &self,
        mem: &M,
        lookup: &Lookup<'_, '_, M>,
        node: FdtNode<'a>,
    ) -> Result<Option<Subtree<'a>>, Fault> {
        if let Some(addr) = fdt::number(node, self.format.blob_property()) {
            let addr = PhysAddr::new(addr);
            let range = PhysRange::new(addr, 1).unwrap_or_default();
            lookup
                .folio_containing(addr)?
                .ok_or(Fault::NotPreserved { range })?;
        }
        self.subtree(mem, node)
    }

    /// What a node says of its sub-blob; a node without an address is none of ours.
    fn subtree<M: FrozenMem>(
        &self,
        mem: &M,
        node: FdtNode<'a>,
    ) -> Result<Option<Subtree<'a>>, Fault> {
        let at = self.at;
        let name = self.format.blob_property();
        if fdt::property(node, name).is_none() {
            return Ok(None);
        }
        let addr = fdt::number(node, name).ok_or(Fault::Property { at, name })?;
        if addr == 0 {
            return Err(Fault::Null { at });
        }
        let addr = PhysAddr::new(addr);
        let size = self.blob_size(mem, node, addr)?;
        let range = PhysRange::new(addr, size).ok_or(Fault::NotRam { addr, size })?;
        Ok(Some(Subtree {
            name: node.name(),
            range,
        }))
    }

    /// The recorded size. A blob of v1 or v2 without one must be an FDT, which knows its own.
    fn blob_size<M: FrozenMem>(
        &self,
        mem: &M,
        node: FdtNode<'_>,
        addr: PhysAddr,
    ) -> Result<u64, Fault> {
        let at = self.at;
        let optional = matches!(self.format, Format::V1 | Format::Known(Generation::V2));
        let name = BLOB_SIZE;
        match fdt::number(node, name) {
            None if optional && fdt::property(node, name).is_none() => fdt::blob_size(mem, addr),
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
    pub(crate) fn subtrees<'m, M: FrozenMem>(
        &self,
        mem: &'m M,
    ) -> impl Iterator<Item = Subtree<'a>> + use<'a, 'm, M> {
        self.try_subtrees(mem).flatten()
    }

    /// As [`RootFdt::subtrees`]; memory may not be there any more.
    pub(crate) fn try_subtrees<'m, M: FrozenMem>(
        &self,
        mem: &'m M,
    ) -> impl Iterator<Item = Result<Subtree<'a>, Fault>> + use<'a, 'm, M> {
        let root = *self;
        root.blob_nodes()
            .filter_map(move |node| root.subtree(mem, node).transpose())
    }
}

//! Named reserved regions.

use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;
use kho_abi::memblock::{COMPATIBLE, REGION_COMPATIBLE, SIZE, START};
use kho_hal::{FrozenMem, PhysAddr, PhysRange};

use crate::incoming::{Claims, Fault, fdt};

/// A region that was reserved under a name, with Linux's `reserve_mem=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its memory.
    pub range: PhysRange,
}

/// The checked regions of a handover, in the order of their nodes.
#[derive(Clone, Copy, Debug)]
pub struct ReserveMem<'a>(Option<FdtNode<'a>>);

impl<'a> ReserveMem<'a> {
    /// No regions.
    pub(crate) const NONE: Self = Self(None);

    /// Checks the sub-blob `memblock`.
    pub(crate) fn check_blob<M: FrozenMem>(
        mem: &'a M,
        blob: PhysRange,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<Self, Fault> {
        let at = blob.start();
        Self::check(fdt::tree(mem, at, blob.size())?.root(), at, claims)
    }

    /// Checks the regions below `root`, in the tree at `at`; a version that is not known has none.
    /// Regions are whole pages of preserved
    /// memory; a tail that is less than a page is not preserved by Linux and not asked for here.
    pub(crate) fn check<M: FrozenMem>(
        root: FdtNode<'a>,
        at: PhysAddr,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<Self, Fault> {
        if !fdt::is_compatible(root, COMPATIBLE) {
            return Ok(Self::NONE);
        }
        for (i, node) in root.children().enumerate() {
            if !fdt::is_compatible(node, REGION_COMPATIBLE) {
                return Err(Fault::UnknownVersion { at });
            }
            if root
                .children()
                .take(i)
                .any(|earlier| earlier.name() == node.name())
            {
                return Err(Fault::Duplicate { at });
            }
            let number = |name| fdt::number(node, name).ok_or(Fault::Property { at, name });
            let (addr, size) = (PhysAddr::new(number(START)?), number(SIZE)?);
            let range = PhysRange::new(addr, size).ok_or(Fault::NotRam { addr, size })?;
            claims.whole_pages(range)?;
        }
        Ok(Self(Some(root)))
    }

    /// The regions.
    pub fn iter(&self) -> impl Iterator<Item = Region<'a>> + use<'a> {
        self.0
            .into_iter()
            .flat_map(|root| root.children())
            .filter_map(|node| {
                let start = PhysAddr::new(fdt::number(node, START)?);
                let range = PhysRange::new(start, fdt::number(node, SIZE)?)?;
                Some(Region {
                    name: node.name(),
                    range,
                })
            })
    }

    /// The region of this name.
    pub fn find(&self, name: &str) -> Option<Region<'a>> {
        self.iter().find(|region| region.name == name)
    }
}

//! Named reserved regions.

use kho_abi::memblock::{COMPATIBLE, REGION_COMPATIBLE, SIZE, START};
use kho_hal::{FrozenMem, PhysAddr, PhysRange};

use crate::incoming::ascending::{Sorter, name_key};
use crate::incoming::loose::{self, LooseNode};
use crate::incoming::{Claims, Fault, IncomingError, Part, fdt, steps};

/// A region that was reserved under a name, with Linux's `reserve_mem=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its memory, as it is recorded. Checked to be preserved are its whole pages, from that of its
    /// first byte on: Linux preserves no more. Whatever is behind them may be anybody's.
    pub range: PhysRange,
}

/// The checked regions of a handover, in the order of their nodes.
#[derive(Clone, Copy, Debug)]
pub struct ReserveMem<'a> {
    /// Where the tree is.
    at: PhysAddr,
    /// The node that has the regions below it.
    node: Option<LooseNode<'a>>,
}

/// More regions than this are refused; Linux makes 8.
const MAX_REGIONS: usize = 256;

impl<'a> ReserveMem<'a> {
    /// No regions.
    pub(crate) const NONE: Self = Self {
        at: PhysAddr::new(0),
        node: None,
    };

    /// Checks the tree at `at`, which has at most `max` bytes. The regions are below its root, or
    /// below a child of the root. Those of a version that is not known are none.
    ///
    /// Regions are whole pages of preserved memory; a tail that is less than a page is not
    /// preserved by Linux and not asked for here.
    pub(crate) fn check<M: FrozenMem>(
        mem: &'a M,
        at: PhysAddr,
        max: u64,
        child: Option<&str>,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<Self, IncomingError> {
        let fault = |fault| Part::ReserveMem.is(fault);
        let root = loose::root(mem, at, max).map_err(fault)?;
        // The tree is gone through once to check its structure, and once from region to region.
        claims.work += 2 * steps(root.left() as u64);
        let node = match child {
            Some(name) => root.child(name),
            None => Some(root),
        };
        let Some(node) = node.filter(|node| is_compatible(node, COMPATIBLE)) else {
            return Ok(Self::NONE);
        };
        for (i, child) in node.children().enumerate() {
            if i >= MAX_REGIONS {
                return Err(fault(Fault::Count {
                    at,
                    found: i as u64 + 1,
                    max: MAX_REGIONS as u64,
                }));
            }
            let region = Self::check_region(at, child, claims);
            claims.or_report(region.map_err(fault))?;
        }
        let node = Some(node);
        Ok(Self { at, node })
    }

    fn check_region<M: FrozenMem>(
        at: PhysAddr,
        node: LooseNode<'a>,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<(), Fault> {
        if !is_compatible(&node, REGION_COMPATIBLE) {
            return Err(Fault::UnknownVersion { at });
        }
        let number = |name| node.number(name).ok_or(Fault::Property { at, name });
        let (addr, size) = (PhysAddr::new(number(START)?), number(SIZE)?);
        let region = region(node).ok_or(match core::str::from_utf8(node.name()) {
            Ok(_) => Fault::NotRam { addr, size },
            Err(_) => Fault::Name { at },
        })?;
        claims.whole_pages(region.range)
    }

    /// Makes sure that names occur once, and have 64 bytes at most; Linux takes 15.
    #[inline(never)]
    pub(crate) fn check_names(&self, workspace: &mut [u64]) -> Result<(), Fault> {
        let at = self.at;
        let cost = self.node.map_or(0, |node| steps(node.left() as u64));
        let names = |list: &mut dyn FnMut(_)| {
            self.iter().try_for_each(|region| {
                list(name_key(region.name.as_bytes()).ok_or(Fault::Name { at })?);
                Ok(())
            })
        };
        Sorter::new(workspace).unique(cost, names, |_| Fault::Duplicate { at })
    }

    /// The regions.
    pub fn iter(&self) -> impl Iterator<Item = Region<'a>> + use<'a> {
        let nodes = self.node.into_iter().flat_map(|node| node.children());
        nodes.filter_map(region)
    }

    /// The region of this name.
    pub fn find(&self, name: &str) -> Option<Region<'a>> {
        self.iter().find(|region| region.name == name)
    }
}

fn is_compatible(node: &LooseNode<'_>, text: &str) -> bool {
    node.property(kho_abi::fdt::COMPATIBLE)
        .is_some_and(|value| fdt::has_string(value, text))
}

fn region(node: LooseNode<'_>) -> Option<Region<'_>> {
    let start = PhysAddr::new(node.number(START)?);
    Some(Region {
        name: core::str::from_utf8(node.name()).ok()?,
        range: PhysRange::new(start, node.number(SIZE)?)?,
    })
}

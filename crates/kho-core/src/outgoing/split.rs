//! From ranges of pages to naturally aligned blocks.
//!
//! Preserving a range stores one key for each block, and unpreserving it must find the very same
//! keys. Both go through [`blocks`], so they cannot disagree.
//!
//! # Source
//! Linux 7.3-rc7, `kernel/liveupdate/kexec_handover.c`; same split for both directions since
//! commit 8fd2f26fa2a3, the node rule since 91e74fa8b1bc.

use core::iter;

use kho_hal::{Order, PageSize, Pfn, PhysAddr, PhysRange};

/// Which NUMA node a page belongs to: no block may start on one node and end on another.
///
/// Linux's page allocator keeps nodes apart, so a block that crosses could not be given back.
pub trait Nodes {
    /// The node of a page; any numbering will do.
    fn node(&self, pfn: Pfn) -> u32;
}

/// A machine whose memory is all on one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneNode;

impl Nodes for OneNode {
    fn node(&self, _: Pfn) -> u32 {
        0
    }
}

impl<F: Fn(Pfn) -> u32> Nodes for F {
    fn node(&self, pfn: Pfn) -> u32 {
        self(pfn)
    }
}

/// Splits `range`, whose bounds are page-aligned, into the fewest naturally aligned blocks that
/// do not cross a node, ascending. Pages cut off by a bound that is not aligned are left out.
pub(crate) fn blocks<N: Nodes>(
    range: PhysRange,
    page: PageSize,
    nodes: &N,
) -> impl Iterator<Item = (PhysAddr, Order)> {
    let mut next = range.start().pfn(page).as_u64();
    let end = range.end().pfn(page).as_u64();
    iter::from_fn(move || {
        let left = end.checked_sub(next).filter(|&left| left > 0)?;
        let first = Pfn::new(next);
        let mut order = first.trailing_zeros().min(left.ilog2());
        while order > 0 && nodes.node(first) != nodes.node(Pfn::new(next + (1 << order) - 1)) {
            order -= 1;
        }
        next += 1 << order;
        Some((first.addr(page)?, Order::new(order)?))
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, last: u64, page: PageSize) -> PhysRange {
        let addr = |pfn| Pfn::new(pfn).addr(page).unwrap();
        PhysRange::new(addr(first), (last - first) * page.bytes()).unwrap()
    }

    fn split<N: Nodes>(first: u64, end: u64, nodes: &N) -> Vec<(u64, u32)> {
        let page = PageSize::Size4K;
        blocks(range(first, end, page), page, nodes)
            .map(|(addr, order)| (addr.pfn(page).as_u64(), order.as_u32()))
            .collect()
    }

    #[test]
    fn aligned_and_greedy() {
        assert_eq!(split(3, 12, &OneNode), [(3, 0), (4, 2), (8, 2)]);
        assert_eq!(split(0, 5, &OneNode), [(0, 2), (4, 0)]);
        assert_eq!(split(7, 7, &OneNode), []);
    }

    #[test]
    fn a_block_stays_on_its_node() {
        let from_six = |pfn: Pfn| u32::from(pfn.as_u64() >= 6);
        assert_eq!(split(0, 8, &from_six), [(0, 2), (4, 1), (6, 1)]);
    }

    proptest! {
        #[test]
        fn tiles_any_range(
            first in 0u64..1 << 40, len in 0u64..5000, cut in 0u64..5000,
            page in prop::sample::select(&PageSize::ALL),
        ) {
            let nodes = |pfn: Pfn| u32::from(pfn.as_u64() >= first + cut);
            let whole = range(first, first + len, page);
            let mut next = whole.start();
            for (addr, order) in blocks(whole, page, &nodes) {
                let size = order.bytes(page).unwrap();
                prop_assert_eq!(addr, next);
                prop_assert!(addr.is_aligned_to(size));
                let last = addr.checked_add(size - 1).unwrap();
                prop_assert_eq!(nodes.node(addr.pfn(page)), nodes.node(last.pfn(page)));
                next = addr.checked_add(size).unwrap();
            }
            prop_assert_eq!(next, whole.end());
        }
    }
}

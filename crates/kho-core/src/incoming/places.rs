//! Where things may lie: RAM, scratch, and each place once.

use core::ops::Range;

use kho_abi::boot::KhoScratch;
use kho_hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::incoming::read;
use crate::incoming::{Fault, IncomingError, Part};

/// What is known of the machine's memory.
#[derive(Clone, Copy, Debug)]
pub enum Ram<'a> {
    /// Nothing: any address below 2^52 may be RAM. For looking at an image, which may lack pages
    /// that are preserved.
    Unknown,
    /// These ranges, ascending and disjoint, are all there is.
    Known(&'a [PhysRange]),
}

/// No machine addresses memory above this.
const PHYS_LIMIT: u64 = 1 << 52;

impl Ram<'_> {
    /// The range of `size` bytes at `addr`, if all of it is RAM.
    pub(crate) fn range(&self, addr: PhysAddr, size: u64) -> Result<PhysRange, Fault> {
        let not_ram = Fault::NotRam { addr, size };
        let Some(range) = PhysRange::new(addr, size) else {
            return Err(not_ram);
        };
        let inside = match self {
            Self::Unknown => range.end().as_u64() <= PHYS_LIMIT,
            Self::Known(ram) => covered(ram, range),
        };
        if inside { Ok(range) } else { Err(not_ram) }
    }
}

/// Whether ascending `ranges`, some of which may touch, contain all of `range`.
fn covered(ranges: &[PhysRange], range: PhysRange) -> bool {
    let first = ranges.partition_point(|ram| ram.end() <= range.start());
    let mut from = range.start();
    for ram in ranges.get(first..).unwrap_or_default() {
        if ram.start() > from {
            return false;
        }
        from = ram.end();
        if from >= range.end() {
            return true;
        }
    }
    false
}

/// The scratch areas that came with a handover.
#[derive(Clone, Copy, Debug)]
pub struct Scratch<'a>(&'a [KhoScratch]);

/// Most scratch areas: low, global, and one a node of the largest Linux machine.
const MAX_SCRATCH: u64 = 1024 + 2;

impl<'a> Scratch<'a> {
    /// No scratch.
    pub(crate) const NONE: Self = Self(&[]);

    /// Checks the array of `size` bytes at `addr`: areas are RAM and disjoint. An area of size 0
    /// is legal, as Linux writes one.
    pub(crate) fn check<M: FrozenMem>(
        mem: &'a M,
        ram: &Ram<'_>,
        addr: PhysAddr,
        size: u64,
    ) -> Result<Self, IncomingError> {
        let entry = size_of::<KhoScratch>() as u64;
        if size / entry > MAX_SCRATCH || !size.is_multiple_of(entry) {
            return Err(Part::Scratch.is(Fault::Count {
                at: addr,
                found: size,
                max: MAX_SCRATCH * entry,
            }));
        }
        let areas = read::array(mem, addr, (size / entry) as usize)
            .map_err(|cause| Part::Scratch.is(cause.into()))?;
        let scratch = Self(areas);
        for (i, area) in areas.iter().enumerate() {
            let addr = PhysAddr::new(area.addr.get());
            let range = ram.range(addr, area.size.get());
            let range = range.map_err(|fault| Part::Scratch.is(fault))?;
            if scratch
                .areas()
                .take(i)
                .any(|earlier| earlier.overlaps(range))
            {
                return Err(Part::Scratch.is(Fault::Overlap { addr }));
            }
        }
        Ok(scratch)
    }

    /// The areas, in the order of the array, those of size 0 included.
    pub fn areas(&self) -> impl Iterator<Item = PhysRange> + 'a {
        self.0.iter().map(|area| {
            // Checked not to wrap.
            PhysRange::new(PhysAddr::new(area.addr.get()), area.size.get()).unwrap_or_default()
        })
    }

    /// Refuses a range that touches an area.
    pub(crate) fn refuse(&self, range: PhysRange) -> Result<(), Fault> {
        match self.areas().find(|area| area.overlaps(range)) {
            Some(scratch) => Err(Fault::InScratch { range, scratch }),
            None => Ok(()),
        }
    }
}

/// Makes sure that no page is claimed twice, in memory that the caller lends.
///
/// `list` is called once for each window of addresses in which something is claimed, and reports
/// every claim each time. A window is as large as `workspace` has bits, so with a bit for each page
/// between the lowest and the highest claim there is a single pass; with less memory there are
/// more passes, at most one a claim.
pub(crate) fn each_page_once<E>(
    workspace: &mut [u64],
    page: PageSize,
    mut list: impl FnMut(&mut dyn FnMut(PhysRange) -> Result<(), Twice>) -> Result<(), E>,
) -> Result<(), E> {
    let window_pages = (workspace.len() as u64).saturating_mul(64).max(64);
    let mut spare = [0];
    let bits = if workspace.is_empty() {
        &mut spare[..]
    } else {
        workspace
    };
    let mut start = 0;
    loop {
        bits.fill(0);
        let end = window_pages.saturating_add(start);
        let mut next_start = None;
        list(&mut |claim| {
            let first = claim.start().pfn(page).as_u64();
            let last = claim.end().as_u64().div_ceil(page.bytes());
            if last > end {
                let outside = first.max(end);
                next_start = Some(next_start.unwrap_or(outside).min(outside));
            }
            let inside = first.max(start)..last.min(end);
            match set_bits(
                bits,
                inside.start.saturating_sub(start)..inside.end.saturating_sub(start),
            ) {
                Some(bit) => Err(Twice((start + bit) << page.shift())),
                None => Ok(()),
            }
        })?;
        match next_start {
            Some(next) => start = next,
            None => return Ok(()),
        }
    }
}

/// The address of a page that is claimed twice.
pub(crate) struct Twice(u64);

impl Twice {
    pub(crate) fn page(&self) -> PhysAddr {
        PhysAddr::new(self.0)
    }
}

/// Sets the bits of `range`; returns the first word's lowest bit that was set before.
fn set_bits(words: &mut [u64], range: Range<u64>) -> Option<u64> {
    let mut bit = range.start;
    while bit < range.end {
        let word = words.get_mut((bit / 64) as usize)?;
        let count = (64 - bit % 64).min(range.end - bit);
        let mask = (u64::MAX >> (64 - count)) << (bit % 64);
        let before = *word & mask;
        if before != 0 {
            return Some(bit - bit % 64 + u64::from(before.trailing_zeros()));
        }
        *word |= mask;
        bit += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    #[test]
    fn ram_ranges_may_touch() {
        let ram = [
            range(0x1000, 0x1000),
            range(0x2000, 0x1000),
            range(0x5000, 0x1000),
        ];
        let ram = Ram::Known(&ram);
        assert!(ram.range(PhysAddr::new(0x1800), 0x1800).is_ok());
        assert!(ram.range(PhysAddr::new(0x2800), 0x3000).is_err());
        assert!(ram.range(PhysAddr::new(0x800), 0x1000).is_err());
        assert!(ram.range(PhysAddr::new(0x5fff), 2).is_err());
        assert!(ram.range(PhysAddr::new(u64::MAX), 2).is_err());
        assert!(Ram::Unknown.range(PhysAddr::new(PHYS_LIMIT - 1), 1).is_ok());
        assert!(
            Ram::Unknown
                .range(PhysAddr::new(PHYS_LIMIT - 1), 2)
                .is_err()
        );
    }

    proptest! {
        /// Against a set of pages, with a workspace of 0 to 3 words.
        #[test]
        fn finds_what_is_claimed_twice(
            claims in prop::collection::vec((0u64..600, 1u64..80), 0..12), words in 0usize..4,
        ) {
            let page = PageSize::Size4K;
            let mut seen = std::collections::BTreeSet::new();
            let mut twice = false;
            for &(first, count) in &claims {
                for pfn in first..first + count {
                    twice |= !seen.insert(pfn);
                }
            }
            let mut workspace: Vec<u64> = std::iter::repeat_n(!0, words).collect();
            let found = each_page_once(&mut workspace, page, |claim| {
                claims.iter().try_for_each(|&(first, count)| {
                    claim(range(first << 12, count << 12))
                })
            });
            prop_assert_eq!(found.is_err(), twice);
        }
    }
}

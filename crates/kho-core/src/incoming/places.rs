//! Where things may lie: RAM, scratch, and each place once.

use kho_abi::boot::KhoScratch;
use kho_hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::incoming::read;
use crate::incoming::{Fault, IncomingError, Part, Report};

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

    /// A range of RAM with `addr` in it, empty if that is not RAM. It may go on after its end.
    pub(crate) fn around(&self, addr: PhysAddr) -> PhysRange {
        let found = match self {
            Self::Unknown => PhysRange::new(PhysAddr::new(0), PHYS_LIMIT),
            Self::Known(ram) => {
                let first = ram.partition_point(|ram| ram.end() <= addr);
                ram.get(first).copied()
            }
        };
        found.filter(|ram| ram.contains(addr)).unwrap_or_default()
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
        report: &mut Report<'_>,
    ) -> Result<Self, IncomingError> {
        let scratch = match Self::read(mem, ram, addr, size) {
            Ok(scratch) => scratch,
            Err(fault) => {
                report(Part::Scratch.is(fault))?;
                Self::NONE
            }
        };
        for (i, area) in scratch.0.iter().enumerate() {
            if let Err(fault) = scratch.check_area(i, area, ram) {
                report(Part::Scratch.is(fault))?;
            }
        }
        Ok(scratch)
    }

    fn read<M: FrozenMem>(
        mem: &'a M,
        ram: &Ram<'_>,
        addr: PhysAddr,
        size: u64,
    ) -> Result<Self, Fault> {
        let entry = size_of::<KhoScratch>() as u64;
        if size / entry > MAX_SCRATCH || !size.is_multiple_of(entry) {
            return Err(Fault::Count {
                at: addr,
                found: size,
                max: MAX_SCRATCH * entry,
            });
        }
        ram.range(addr, size)?;
        Ok(Self(read::array(mem, addr, (size / entry) as usize)?))
    }

    fn check_area(&self, i: usize, area: &KhoScratch, ram: &Ram<'_>) -> Result<(), Fault> {
        let addr = PhysAddr::new(area.addr.get());
        if area.size.get() == 0 {
            return Ok(());
        }
        let range = ram.range(addr, area.size.get())?;
        let mut earlier = self.areas().take(i);
        if earlier.any(|earlier| earlier.overlaps(range)) {
            return Err(Fault::Overlap { addr });
        }
        Ok(())
    }

    /// The areas, in the order of the array, those of size 0 included.
    pub fn areas(&self) -> impl Iterator<Item = PhysRange> + 'a {
        self.0.iter().map(|area| {
            // Checked not to wrap, or reported.
            PhysRange::new(PhysAddr::new(area.addr.get()), area.size.get()).unwrap_or_default()
        })
    }

    /// The part of `range` around `addr` that is in no area; empty if `addr` is in one.
    pub(crate) fn around(&self, range: PhysRange, addr: PhysAddr) -> PhysRange {
        let (mut start, mut end) = (range.start(), range.end());
        for area in self.areas().filter(|area| !area.is_empty()) {
            if area.start() <= addr {
                start = start.max(area.end());
            } else {
                end = end.min(area.start());
            }
        }
        let size = end.checked_offset_from(start);
        let part = size.and_then(|size| PhysRange::new(start, size));
        part.filter(|part| part.contains(addr)).unwrap_or_default()
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
/// every claim each time. A window has as many pages as `workspace` has bits. `most` is how many
/// claims of whole folios there can be if none is made twice; beyond a few million claims in all
/// passes the workspace is too small. What a pass costs besides, in claims, `list` returns.
pub(crate) fn each_page_once<E: From<Unfit>>(
    workspace: &mut [u64],
    page: PageSize,
    most: u64,
    mut list: impl FnMut(&mut dyn FnMut(PhysAddr, Share) -> Result<(), Unfit>) -> Result<u64, E>,
) -> Result<(), E> {
    let mut spare = [0; 4];
    let bits = if workspace.is_empty() {
        &mut spare[..]
    } else {
        workspace
    };
    let window = bits.len() as u64 * 64;
    let (mut start, mut spent) = (0, 0u64);
    loop {
        bits.fill(0);
        let (mut claims, mut wholes, mut lowest, mut highest) = (0, 0, u64::MAX, 0);
        let mut next_start = None;
        let work = list(&mut |claim, share| {
            let pfn = claim.pfn(page).as_u64();
            claims += 1;
            wholes += u64::from(share == Share::Whole);
            (lowest, highest) = (pfn.min(lowest), pfn.max(highest));
            let Some(offset) = pfn.checked_sub(start).filter(|&offset| offset < window) else {
                if pfn >= start {
                    next_start = Some(next_start.unwrap_or(pfn).min(pfn));
                }
                // One of them is made twice, if not this one.
                return if wholes > most {
                    Err(Unfit::Twice(claim))
                } else {
                    Ok(())
                };
            };
            match bits.get_mut((offset / 64) as usize) {
                Some(word) if *word >> (offset % 64) & 1 == 0 => {
                    *word |= 1 << (offset % 64);
                    Ok(())
                }
                Some(_) if share == Share::Part => Ok(()),
                _ => Err(Unfit::Twice(claim)),
            }
        })?;
        let Some(next) = next_start else {
            return Ok(());
        };
        start = next;
        let pass = work.saturating_add(claims);
        spent = spent.saturating_add(pass);
        if spent > most.max(pass).saturating_mul(8).max(1 << 22) {
            let words = highest.saturating_sub(lowest) / 64 + 1;
            return Err(Unfit::Workspace(words).into());
        }
    }
}

/// How much of a folio is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it, as its taker will take it.
    Whole,
    /// A part that nobody else claims: others may have had theirs before.
    Part,
}

/// Why the claims are not all fit.
pub(crate) enum Unfit {
    /// This page is claimed twice.
    Twice(PhysAddr),
    /// The workspace should have this many words.
    Workspace(u64),
}

impl From<Unfit> for Fault {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Twice(addr) => Self::Overlap { addr },
            Unfit::Workspace(words) => Self::Workspace { words },
        }
    }
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

    #[test]
    fn says_how_much_workspace_is_needed() {
        let claims = |claim: &mut dyn FnMut(PhysAddr, Share) -> Result<(), Unfit>| {
            (0..1 << 16).try_for_each(|i| claim(PhysAddr::new(i << 20), Share::Whole))?;
            Ok(0)
        };
        let check = |words: usize| {
            let mut calls = 0;
            let mut workspace: Vec<u64> = std::iter::repeat_n(0, words).collect();
            let list = |claim: &mut dyn FnMut(PhysAddr, Share) -> Result<(), Unfit>| {
                calls += 1;
                claims(claim)
            };
            let page = PageSize::Size4K;
            let checked = each_page_once::<Fault>(&mut workspace, page, 1 << 16, list);
            (calls, checked)
        };
        let words = ((1u64 << 24) - 256) / 64 + 1;
        // After 64 of them, just as many claims as are allowed were listed.
        assert_eq!(check(16), (65, Err(Fault::Workspace { words })));
        assert_eq!(check(words as usize), (1, Ok(())));
    }

    /// Eight passes are always allowed, of 16 claims that take 16 windows.
    #[test]
    fn what_a_pass_costs_besides_counts() {
        let check = |work: u64| {
            let mut calls = 0;
            let page = PageSize::Size4K;
            let checked = each_page_once::<Fault>(&mut [0], page, 16, |claim| {
                calls += 1;
                (0..16).try_for_each(|i| claim(PhysAddr::new(i << 18), Share::Whole))?;
                Ok(work)
            });
            (calls, checked)
        };
        assert_eq!(check(0), (16, Ok(())));
        // Before the last of them, 15 are counted.
        let most = (1 << 22) / 15 - 16;
        assert_eq!(check(most), (16, Ok(())));
        let too_small = Err(Fault::Workspace { words: 16 });
        assert_eq!(check(most + 1), (15, too_small.clone()));
        assert_eq!(check(1 << 20), (9, too_small));
    }

    /// There are no two whole folios if there is one in all; of one, there may be any number of
    /// parts.
    #[test]
    fn more_wholes_than_there_can_be_are_found_at_once() {
        use Share::{Part, Whole};
        let mut calls = 0;
        let mut check = |claims: &[(u64, Share)]| {
            calls = 0;
            let page = PageSize::Size4K;
            let checked = each_page_once::<Fault>(&mut [0], page, 1, |claim| {
                calls += 1;
                let place = |pfn: u64| PhysAddr::new(pfn << 12);
                let mut claims = claims.iter();
                claims.try_for_each(|&(pfn, share)| claim(place(pfn), share))?;
                Ok(0)
            });
            (calls, checked)
        };
        let addr = PhysAddr::new(7 << 24);
        let twice = (1, Err(Fault::Overlap { addr }));
        assert_eq!(check(&[(7 << 12, Whole), (7 << 12, Whole)]), twice);
        let parts = [(7 << 12, Part), (7 << 12, Part), (9 << 12, Whole)];
        assert_eq!(check(&parts), (3, Ok(())));
    }

    proptest! {
        /// Against a set of pages, with a workspace of 0 to 3 words; parts are claimed first.
        #[test]
        fn finds_what_is_claimed_twice(
            parts in prop::collection::vec(0u64..6000, 0..20),
            claims in prop::collection::vec(0u64..6000, 0..60), words in 0usize..4,
        ) {
            let page = PageSize::Size4K;
            let mut seen: std::collections::BTreeSet<_> = parts.iter().copied().collect();
            let twice = !claims.iter().all(|pfn| seen.insert(*pfn));
            let mut workspace: Vec<u64> = std::iter::repeat_n(!0, words).collect();
            let found = each_page_once::<Fault>(&mut workspace, page, 60, |claim| {
                let parts = parts.iter().map(|pfn| (pfn, Share::Part));
                let wholes = claims.iter().map(|pfn| (pfn, Share::Whole));
                parts
                    .chain(wholes)
                    .try_for_each(|(pfn, share)| claim(PhysAddr::new(pfn << 12), share))?;
                Ok(0)
            });
            prop_assert_eq!(found.is_err(), twice);
        }
    }
}

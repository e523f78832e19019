//! Sets of memory ranges.

use alloc::vec::Vec;

use kho::hal::{PageSize, PhysAddr, PhysRange};

/// What is in `ranges` and in none of `holes`.
pub fn without(ranges: &[PhysRange], holes: impl IntoIterator<Item = PhysRange>) -> Vec<PhysRange> {
    let mut left = ranges.to_vec();
    for hole in holes {
        left = left
            .into_iter()
            .flat_map(|range| {
                if !range.overlaps(hole) {
                    return [Some(range), None];
                }
                [
                    between(range.start(), hole.start()),
                    between(hole.end(), range.end()),
                ]
            })
            .flatten()
            .collect();
    }
    left
}

/// The whole pages of each range, ascending; what has none is left out.
pub fn whole_pages(ranges: &[PhysRange], page: PageSize) -> Vec<PhysRange> {
    let mask = page.bytes() - 1;
    let mut pages: Vec<_> = ranges
        .iter()
        .filter_map(|range| {
            let start = range.start().as_u64().checked_add(mask)? & !mask;
            let end = range.end().as_u64() & !mask;
            between(PhysAddr::new(start), PhysAddr::new(end))
        })
        .collect();
    pages.sort();
    pages
}

/// The pages that `range` touches.
pub fn touched_pages(range: PhysRange, page: PageSize) -> PhysRange {
    let mask = page.bytes() - 1;
    let start = PhysAddr::new(range.start().as_u64() & !mask);
    let end = PhysAddr::new(range.end().as_u64().saturating_add(mask) & !mask);
    between(start, end).unwrap_or_default()
}

fn between(start: PhysAddr, end: PhysAddr) -> Option<PhysRange> {
    let size = end.checked_offset_from(start).filter(|&size| size > 0)?;
    PhysRange::new(start, size)
}

//! Handing on named reserved regions, as Linux's `reserve_mem=` takes them.

use kho_abi::NameError;
use kho_abi::fdt::COMPATIBLE as COMPATIBLE_PROPERTY;
use kho_abi::memblock::{COMPATIBLE, MAX_NAME, MAX_REGIONS, NODE, REGION_COMPATIBLE, SIZE, START};
use kho_hal::{PageAlloc, PhysMem};

use crate::incoming::Region;
use crate::outgoing::split::Nodes;
use crate::outgoing::{Outgoing, OutgoingError, description};

/// Preserves `regions` and adds the sub-blob `memblock` that names them. Their bounds are
/// page-aligned; their names are distinct.
///
/// Without regions there is no sub-blob.
///
/// # Errors
/// [`OutgoingError::Name`] (1 to 15 bytes), [`OutgoingError::Exists`] for an equal name,
/// [`OutgoingError::TooMany`] above 8 regions, and those of [`crate::Tracker::preserve_pages`] and
/// [`Outgoing::add_blob`]. Then nothing is preserved that was not before.
pub fn publish<M: PhysMem, A: PageAlloc, N: Nodes>(
    outgoing: &Outgoing<'_, M, A, N>,
    regions: &[Region<'_>],
) -> Result<(), OutgoingError> {
    if regions.len() > MAX_REGIONS {
        let max = MAX_REGIONS as u64;
        return Err(OutgoingError::TooMany { max });
    }
    if regions.is_empty() {
        return Ok(());
    }
    for (i, region) in regions.iter().enumerate() {
        description::check_name(region.name)?;
        if region.name.len() > MAX_NAME {
            return Err(NameError { max: MAX_NAME }.into());
        }
        if regions
            .iter()
            .take(i)
            .any(|earlier| earlier.name == region.name)
        {
            return Err(OutgoingError::Exists);
        }
    }
    let fdt = description::tree(|fdt| {
        fdt.property_string(COMPATIBLE_PROPERTY, COMPATIBLE)?;
        for region in regions {
            let node = fdt.begin_node(region.name)?;
            fdt.property_string(COMPATIBLE_PROPERTY, REGION_COMPATIBLE)?;
            fdt.property(START, &region.range.start().as_u64().to_le_bytes())?;
            fdt.property(SIZE, &region.range.size().to_le_bytes())?;
            fdt.end_node(node)?;
        }
        Ok(())
    })?;
    let tracker = outgoing.tracker();
    let mut done = 0;
    let mut preserve = || {
        for region in regions {
            tracker.preserve_pages(region.range)?;
            done += 1;
        }
        outgoing.add_blob(NODE, &fdt)?;
        Ok(())
    };
    preserve().inspect_err(|_: &OutgoingError| {
        for region in regions.iter().take(done) {
            // Preserved a moment ago.
            let _ = tracker.unpreserve_pages(region.range);
        }
    })
}

//! Describing the cache to the next program.

use kho_abi::fdt::COMPATIBLE;
use kho_abi::pcsc::{DATA, NODE, NODE_PREFIX, RULES, RULES_VERSION, VERSION};
use kho_core::outgoing::{Nodes, Outgoing, OutgoingError, Participant};
use kho_hal::{Access, PageAlloc, PciConfigAccess, PhysAddr, PhysMem, PhysRange, Sbdf};
use std_alloc::format;
use std_alloc::vec::Vec;
use vm_fdt::FdtWriter;

use super::saved::key;
use crate::cache::Cached;
use crate::function::{Function, Kind};
use crate::infer::Inference;
use crate::space::Space;

impl<C: PciConfigAccess> Cached<'_, C> {
    /// Preserves the pages of every function of header type 0 and adds the sub-blob `pcsc`.
    /// Returns how many functions there are; with none, nothing is added.
    ///
    /// Only a cache made by [`Cached::in_pages`] has pages; of the memory that `outgoing` tracks.
    /// Nothing is copied. What is known at this moment arrives, less what is invalidated until
    /// the jump; what is learned after it does so if the cache takes part in
    /// [`Outgoing::finalize`].
    ///
    /// # Errors
    /// Those of preserving and of adding a sub-blob. Then nothing is preserved that was not
    /// before, and there is no sub-blob.
    pub fn save<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        outgoing: &Outgoing<'_, M, A, N>,
    ) -> Result<usize, OutgoingError> {
        let Some(order) = self.pages.and_then(|pages| pages.order()) else {
            return Ok(0);
        };
        let functions = self.eligible();
        if functions.is_empty() {
            return Ok(0);
        }
        self.sync();
        let fdt = describe(&functions).map_err(|_| OutgoingError::TooMany {
            max: u32::MAX.into(),
        })?;
        let tracker = outgoing.tracker();
        let folios = functions.iter().map(|(_, addr)| (*addr, order));
        tracker.preserve_folios(folios.clone())?;
        outgoing.add_blob(NODE, &fdt).inspect_err(|_| {
            // Preserved a moment ago.
            let _ = tracker.unpreserve_folios(folios);
        })?;
        Ok(functions.len())
    }

    /// Undoes [`Cached::save`].
    ///
    /// # Errors
    /// [`OutgoingError::Unknown`] if there is no sub-blob `pcsc`, [`OutgoingError::Memory`]. Then
    /// everything is preserved that was.
    pub fn unsave<M: PhysMem, A: PageAlloc, N: Nodes>(
        &self,
        outgoing: &Outgoing<'_, M, A, N>,
    ) -> Result<(), OutgoingError> {
        let tracker = outgoing.tracker();
        let mut folios = Vec::new();
        if let Some(order) = self.pages.and_then(|pages| pages.order()) {
            for function in self.index.all() {
                let Some(Space::Pages(addr, _)) = function.space() else {
                    continue;
                };
                let range = PhysRange::folio(*addr, order, tracker.page_size());
                match tracker.check_pages_preserved(range.unwrap_or_default()) {
                    Ok(()) => folios.push((*addr, order)),
                    // Functions that were added since were never preserved.
                    Err(OutgoingError::NotPreserved { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let folios = folios.iter().copied();
        tracker.unpreserve_folios(folios.clone())?;
        outgoing.remove_blob(NODE).inspect_err(|_| {
            // Unpreserved a moment ago.
            let _ = tracker.preserve_folios(folios);
        })
    }

    /// Functions to save, in address order.
    fn eligible(&self) -> Vec<(Sbdf, PhysAddr)> {
        let mut functions: Vec<_> = self
            .index
            .all()
            .filter_map(|function| Some((function.place(), self.pages_of(function)?)))
            .collect();
        functions.sort_unstable_by_key(|(place, _)| key(*place));
        functions
    }

    /// Brings the pages and bitmaps of every function to save up to date.
    fn sync(&self) {
        for function in self.index.all() {
            if self.pages_of(function).is_some() {
                if function.state().kind() == Kind::Active {
                    // The next program walks the capabilities without the hardware: what it looks
                    // at for that has to be known.
                    let mut source = |at: Access| self.read(function.place(), at).ok();
                    let _ = Inference::new(&mut source);
                }
                function.sync_known();
            }
        }
    }

    fn pages_of(&self, function: &Function<'_>) -> Option<PhysAddr> {
        let kept = matches!(function.state().kind(), Kind::Active | Kind::Unsettled);
        match function.space() {
            Some(Space::Pages(addr, _)) if kept && function.is_endpoint() => Some(*addr),
            _ => None,
        }
    }
}

/// What was learned since [`Cached::save`] is handed over too.
impl<C: PciConfigAccess, T> Participant<T> for &Cached<'_, C> {
    fn freeze(&mut self, _: &T) -> Result<(), OutgoingError> {
        self.sync();
        Ok(())
    }

    fn unfreeze(&mut self, _: &T) {}
}

fn describe(functions: &[(Sbdf, PhysAddr)]) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string(COMPATIBLE, VERSION)?;
    fdt.property(RULES, &RULES_VERSION.to_le_bytes())?;
    for (function, addr) in functions {
        let name = format!(
            "{NODE_PREFIX}{:04x}_{:02x}_{:02x}_{:x}",
            function.segment(),
            function.bus(),
            function.device(),
            function.function()
        );
        let node = fdt.begin_node(&name)?;
        fdt.property(DATA, &addr.as_u64().to_le_bytes())?;
        fdt.end_node(node)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

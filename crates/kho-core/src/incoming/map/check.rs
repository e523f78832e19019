//! Checking the folios of a map, in one pass over it.

use kho_hal::{FrozenMem, PhysAddr, PhysRange};

use super::Map;
use super::spread::Spread;
use crate::incoming::places::{Ram, Scratch};
use crate::incoming::{Fault, IncomingError, Part, Report};
use crate::runs::{First, Runs};

/// Goes through a map's folios by ascending address. Each must be RAM, outside scratch, and apart
/// from the one before.
pub(super) struct CheckedFolios<'c, 'a, M: FrozenMem> {
    runs: Runs<'a, Map<'a, M>>,
    ram: &'c Ram<'c>,
    scratch: &'c Scratch<'a>,
    /// RAM outside scratch: what was found when last looked up.
    free: PhysRange,
    /// The last folios.
    last: PhysRange,
    /// Bit `o`: there are folios of order `o`.
    pub(super) orders: u64,
    /// Number of folios so far, and where they are.
    spread: &'c mut Spread,
    report: &'c mut Report<'c>,
    /// The first folios that are no RAM.
    outside: PhysRange,
}

impl<'c, 'a, M: FrozenMem> CheckedFolios<'c, 'a, M> {
    pub(super) fn new(
        map: Map<'a, M>,
        ram: &'c Ram<'c>,
        scratch: &'c Scratch<'a>,
        spread: &'c mut Spread,
        report: &'c mut Report<'c>,
    ) -> Self {
        Self {
            runs: Runs::new(map, First::LOWEST, u64::MAX),
            ram,
            scratch,
            free: PhysRange::default(),
            last: PhysRange::default(),
            orders: 0,
            spread,
            report,
            outside: PhysRange::default(),
        }
    }

    /// Goes on without what is wrong, if that is asked for.
    pub(super) fn report(&mut self, fault: Fault) -> Result<(), IncomingError> {
        (self.report)(Part::Map.is(fault))
    }

    /// Goes on to the folios that end above `own`, which must not be in any of them. Has to be
    /// called with ascending ranges.
    pub(super) fn keep_off(&mut self, own: PhysRange) -> Result<(), IncomingError> {
        while self.last.end() <= own.start() {
            if !self.next(own.start())? {
                return Ok(());
            }
        }
        if self.last.start() < own.end() {
            let addr = own.start().max(self.last.start());
            self.report(Fault::Overlap { addr })?;
        }
        Ok(())
    }

    /// Goes through all the folios that are left. Fails if one is no RAM, whoever heard of it:
    /// what is preserved is going to be read.
    pub(super) fn finish(&mut self) -> Result<(), IncomingError> {
        while self.next(PhysAddr::new(u64::MAX))? {}
        let (addr, size) = (self.outside.start(), self.outside.size());
        match self.outside.is_empty() {
            true => Ok(()),
            false => Err(Part::Map.is(Fault::NotRam { addr, size })),
        }
    }

    /// Checks the next folios: a run, or several whose range ends at `border` or below.
    fn next(&mut self, border: PhysAddr) -> Result<bool, IncomingError> {
        let free = self.free;
        let may_join = |range: PhysRange| range.end() <= border && free.contains_range(range);
        let stretch = self.runs.next_stretch(may_join);
        let Some(folios) = stretch.map_err(|fault| Part::Map.is(fault))? else {
            return Ok(false);
        };
        let range = folios.range;
        if range.start() < self.last.end() {
            let addr = range.start();
            self.report(Fault::Overlap { addr })?;
        }
        if !free.contains_range(range) {
            let ram = self.ram.range(range.start(), range.size());
            if ram.is_err() && self.outside.is_empty() {
                self.outside = range;
            }
            match ram.and_then(|ram| self.scratch.refuse(ram)) {
                Ok(()) => {
                    let ram = self.ram.around(range.start());
                    self.free = self.scratch.around(ram, range.start());
                }
                Err(fault) => self.report(fault)?,
            }
        }
        self.last = range;
        self.orders |= 1 << folios.order.as_u32();
        self.spread.add(range, folios.folios);
        // More cannot be.
        if self.spread.folios() > self.runs.map().most_folios() {
            let addr = range.start();
            return Err(Part::Map.is(Fault::ReachedTwice { addr }));
        }
        Ok(true)
    }
}

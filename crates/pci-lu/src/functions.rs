//! What the predecessor knew of each function: the object beside the record, checked.
//!
//! It is this library's own ([`kho_abi::pci::functions`]); a Linux predecessor leaves none. Without
//! it a function is known by its address alone, is taken for the strictest kind its registers allow,
//! and has no BAR sizes.

use kho_abi::Name;
use kho_abi::pci::functions::{FunctionSer, FunctionsSer, NAME, SIZES_KNOWN};
use kho_abi::pci::key;
use kho_core::incoming::{Blocks, Incoming};
use kho_hal::{FrozenMem, PhysAddr, Sbdf};
use zerocopy::FromBytes;

use crate::bars::Bars;
use crate::record::{RecordError, check_owner, memory, object, pages};
use crate::table::Kind;

/// What is known of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is to the update.
    pub kind: Kind,
    /// Vendor and device, the dword at 00h.
    pub identity: u32,
    /// Revision and class, the dword at 08h.
    pub class: u32,
    /// The sizes of its BARs, if they are known.
    pub bars: Option<Bars>,
}

impl Facts {
    /// As it is written.
    pub fn ser(&self, function: Sbdf) -> FunctionSer {
        let bars = self.bars.unwrap_or_default();
        FunctionSer {
            domain: function.segment().into(),
            bdf: function.bdf().into(),
            kind: self.kind as u8,
            flags: if self.bars.is_some() { SIZES_KNOWN } else { 0 },
            identity: self.identity.into(),
            class: self.class.into(),
            bars: bars.bars,
            rom: bars.rom,
            vf_bars: bars.vf_bars,
            reserved: [0; 3],
        }
    }

    /// The value that was written; `None` if it has none of the values it can have.
    fn of(ser: &FunctionSer) -> Option<Self> {
        let bars = Bars {
            bars: ser.bars,
            rom: ser.rom,
            vf_bars: ser.vf_bars,
        };
        let known = ser.flags & SIZES_KNOWN != 0;
        let sizes = bars.bars.iter().chain([&bars.rom]).chain(&bars.vf_bars);
        let possible = sizes.copied().all(|log2| log2 < 64)
            && ser.flags & !SIZES_KNOWN == 0
            && ser.reserved == [0; 3]
            && (known || bars == Bars::default());
        Some(Self {
            kind: *Kind::ALL.get(usize::from(ser.kind))?,
            identity: ser.identity.get(),
            class: ser.class.get(),
            bars: known.then_some(bars),
        })
        .filter(|_| possible)
    }
}

/// The checked object. Can only be had by passing the check.
#[derive(Debug)]
pub struct Functions<'a, M> {
    entries: Blocks<'a, FunctionSer, M>,
}

impl<'a, M: FrozenMem> Functions<'a, M> {
    /// Finds and checks the object; `None` if the predecessor left none.
    ///
    /// `workspace` is what [`Incoming::check`] needs.
    ///
    /// # Errors
    /// [`RecordError`], as for the record.
    pub fn read(
        incoming: &Incoming<'a, M>,
        workspace: &mut [u64],
    ) -> Result<Option<Self>, RecordError> {
        let Some(luo) = incoming.luo().known() else {
            return Ok(None);
        };
        let named = |name: &Name<48>| name.to_str() == Some(NAME);
        let Some(flb) = luo.flbs().iter().find(|flb| named(&flb.name)) else {
            return Ok(None);
        };
        let at = PhysAddr::new(flb.data.get());
        let bytes = incoming
            .bytes(at, size_of::<FunctionsSer>() as u64, workspace)
            .map_err(|error| memory(at, &error))?;
        let header = FunctionsSer::ref_from_bytes(bytes).map_err(|_| RecordError::Memory { at })?;
        let entries = incoming
            .blocks::<FunctionSer>(PhysAddr::new(header.entries.get()), workspace)
            .map_err(|error| memory(at, &error))?;
        // Neither may any of it be the record's.
        let record = object(incoming, workspace)?;
        check_owner(incoming, at, workspace, || {
            let theirs = record.iter();
            let theirs = theirs.flat_map(|(at, blocks)| pages(*at, blocks.as_ref()));
            theirs.chain(pages(at, Some(&entries)))
        })?;
        let (found, expected) = (entries.iter().count() as u64, header.count.get());
        if found != expected {
            return Err(RecordError::Mismatch {
                at,
                found,
                expected,
            });
        }
        let mut last = None;
        for entry in entries.iter() {
            let function = entry.function();
            match last {
                Some(last) if last == key(function) => {
                    return Err(RecordError::Duplicate { function });
                }
                Some(last) if last > key(function) => {
                    return Err(RecordError::Unsorted { function });
                }
                _ => last = Some(key(function)),
            }
            if Facts::of(entry).is_none() {
                return Err(RecordError::Reserved { function });
            }
        }
        Ok(Some(Self { entries }))
    }

    /// The functions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Sbdf, Facts)> {
        let known = |entry: &FunctionSer| Some((entry.function(), Facts::of(entry)?));
        self.entries.iter().filter_map(known)
    }
}

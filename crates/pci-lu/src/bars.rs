//! Sizes of BARs: by the writes of a cold boot, or from what the predecessor knew.
//!
//! A BAR tells its size only to who writes ones to it. While a peer sends to the device, such a
//! write sends the peer's data elsewhere, and so does the Memory Space bit that is cleared around
//! it. A function that arrived live is therefore never asked (`Registry::bars`): its sizes
//! come from the [record](kho_abi::pci::functions), and are held against what can be read.
//!
//! What else could tell a size, and why it does not: the address in the BAR is a multiple of it, so
//! it is only a bound from above; a saved configuration space holds that address and no more; the
//! Resizable BAR capability tells it, for the BARs that have one, and is compared.
//!
//! # Source
//! PCI Local Bus 3.0, 6.2.5.1; PCI Express Base 5.0, 7.8.6 (Resizable BAR) and 9.3.3.14 (VF BARs).

use core::fmt;

use kho_hal::walk::CapId;
use kho_hal::{PciConfigAccess, PciError, Sbdf};

use crate::fields::{FieldError, capability};

/// Sizes of the BARs of one function: logarithms to base 2 of bytes, 0 for no BAR. The upper half of
/// a 64-bit BAR is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    /// BAR 0 to 5; a bridge has two.
    pub bars: [u8; 6],
    /// Expansion ROM.
    pub rom: u8,
    /// The BARs of virtual functions, each one function's share.
    pub vf_bars: [u8; 6],
}

/// Why sizes are not known, or not those of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarError {
    /// The function arrived live, and no record has its sizes; or its virtual functions are on.
    /// Nothing was written.
    Unknown {
        /// The function.
        function: Sbdf,
    },
    /// No BAR can have this size, or the address in it does not fit it.
    Misfit {
        /// The function.
        function: Sbdf,
        /// Where the BAR is.
        offset: u16,
        /// The size in the record.
        log2: u8,
    },
    /// The Resizable BAR capability says another size.
    Resizable {
        /// The function.
        function: Sbdf,
        /// Which BAR.
        index: u8,
        /// The size that the capability says.
        found: u8,
        /// The size in the record.
        log2: u8,
    },
    /// An access did not happen. The BARs and Command hold what they held, unless the access method
    /// failed for that, too.
    Config(PciError),
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { function } => {
                write!(
                    f,
                    "{function}: BAR sizes are not known, and must not be asked for"
                )
            }
            Self::Misfit {
                function,
                offset,
                log2,
            } => write!(
                f,
                "{function}: the BAR at {offset:#x} cannot have 2^{log2} bytes"
            ),
            Self::Resizable {
                function,
                index,
                found,
                log2,
            } => write!(
                f,
                "{function}: BAR {index} has 2^{found} bytes, not 2^{log2}"
            ),
            Self::Config(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for BarError {}

impl From<PciError> for BarError {
    fn from(cause: PciError) -> Self {
        Self::Config(cause)
    }
}

/// Where the capability is, if there is one.
fn place_of<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    id: u16,
) -> Result<Option<u16>, PciError> {
    let place = capability(config, function, CapId::Extended(id));
    place.map_err(|error| {
        let offset = match error {
            FieldError::Unreadable { offset, .. } => offset,
            _ => 0x34,
        };
        PciError::Failed { function, offset }
    })
}

const SRIOV: u16 = 0x10;

/// Offset of the ROM's BAR and number of BARs, by header type; `None` for others.
fn layout(header_type: u8) -> Option<(u16, usize)> {
    match header_type & 0x7f {
        0 => Some((0x30, 6)),
        1 => Some((0x38, 2)),
        _ => None,
    }
}

impl Bars {
    /// Asks a function that is not live: writes ones with decoding off, and puts back what was there,
    /// also after an error. The BARs of virtual functions only while those are off.
    ///
    /// # Errors
    /// [`BarError::Unknown`] while virtual functions are on, [`BarError::Config`].
    pub fn probe<C: PciConfigAccess>(config: &C, function: Sbdf) -> Result<Self, BarError> {
        let mut found = Self::default();
        let Some((rom, count)) = layout(config.read_u8(function, 0x0e)?) else {
            return Ok(found);
        };
        let sriov = place_of(config, function, SRIOV)?;
        if let Some(at) = sriov
            && config.read_u16(function, at + 8)? & 1 != 0
        {
            return Err(BarError::Unknown { function });
        }
        let command = config.read_u16(function, 0x04)?;
        if command & 3 != 0 {
            config.write_u16(function, 0x04, command & !3)?;
        }
        let bars = found.bars.get_mut(..count).unwrap_or_default();
        let probed = probe(config, function, 0x10, bars).and_then(|()| {
            let mask = ask(config, function, rom, 0xffff_f800)? & 0xffff_f800;
            found.rom = log2(mask.into());
            match sriov {
                Some(at) => probe(config, function, at + 0x24, &mut found.vf_bars),
                None => Ok(()),
            }
        });
        let restored = match command & 3 {
            0 => Ok(()),
            _ => config.write_u16(function, 0x04, command),
        };
        probed?;
        restored?;
        Ok(found)
    }

    /// Holds the sizes against what can be read: each address is a multiple of its size, what has an
    /// address has a size, and the Resizable BAR capabilities agree. No write.
    ///
    /// # Errors
    /// [`BarError`].
    pub fn check<C: PciConfigAccess>(&self, config: &C, function: Sbdf) -> Result<(), BarError> {
        let Some((rom, count)) = layout(config.read_u8(function, 0x0e)?) else {
            return Ok(());
        };
        check(
            config,
            function,
            0x10,
            self.bars.get(..count).unwrap_or_default(),
        )?;
        let address = config.read_u32(function, rom)? & 0xffff_f800;
        if !fits(address.into(), self.rom, 11..=24) {
            let (offset, log2) = (rom, self.rom);
            return Err(BarError::Misfit {
                function,
                offset,
                log2,
            });
        }
        match place_of(config, function, SRIOV)? {
            Some(at) => check(config, function, at + 0x24, &self.vf_bars)?,
            None if self.vf_bars != [0; 6] => return Err(BarError::Unknown { function }),
            None => {}
        }
        for (id, bars) in [(0x15, &self.bars), (0x24, &self.vf_bars)] {
            if let Some(at) = place_of(config, function, id)? {
                resizable(config, function, at, bars)?;
            }
        }
        Ok(())
    }
}

/// Compares with a Resizable BAR capability at `at`.
fn resizable<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    at: u16,
    bars: &[u8; 6],
) -> Result<(), BarError> {
    let count = (config.read_u32(function, at + 8)? >> 5 & 7) as u16;
    for n in 0..count {
        let control = config.read_u32(function, at + 8 + 8 * n)?;
        let index = (control & 7) as u8;
        let found = 20 + (control >> 8 & 0x3f) as u8;
        let log2 = bars.get(usize::from(index)).copied().unwrap_or(0);
        if log2 != found {
            return Err(BarError::Resizable {
                function,
                index,
                found,
                log2,
            });
        }
    }
    Ok(())
}

/// The size of the smallest part that a mask of writable address bits leaves fixed.
fn log2(mask: u64) -> u8 {
    match mask {
        0 => 0,
        mask => mask.trailing_zeros() as u8,
    }
}

/// Writes `ones` to a register, reads what stays of them, and puts back what was there.
fn ask<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    offset: u16,
    ones: u32,
) -> Result<u32, PciError> {
    let old = config.read_u32(function, offset)?;
    let asked = config
        .write_u32(function, offset, ones)
        .and_then(|()| config.read_u32(function, offset));
    let restored = config.write_u32(function, offset, old);
    let asked = asked?;
    restored?;
    Ok(asked)
}

/// Sizes the BARs from `first` on.
fn probe<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    first: u16,
    sizes: &mut [u8],
) -> Result<(), BarError> {
    let mut slots = (first..).step_by(4).zip(sizes.iter_mut());
    while let Some((offset, size)) = slots.next() {
        let low = ask(config, function, offset, u32::MAX)?;
        *size = match (low & 1, low >> 1 & 3) {
            (1, _) => log2((low & !3).into()),
            (_, 2) => match slots.next() {
                Some((offset, _)) => {
                    let high = ask(config, function, offset, u32::MAX)?;
                    log2(u64::from(low & !0xf) | u64::from(high) << 32)
                }
                None => 0,
            },
            _ => log2((low & !0xf).into()),
        };
    }
    Ok(())
}

/// Whether a BAR of this size can hold the address.
fn fits(address: u64, log2: u8, sizes: core::ops::RangeInclusive<u8>) -> bool {
    match log2 {
        0 => address == 0,
        log2 => sizes.contains(&log2) && address.trailing_zeros() >= log2.into(),
    }
}

/// Holds the sizes of the BARs from `first` on against what they hold.
fn check<C: PciConfigAccess>(
    config: &C,
    function: Sbdf,
    first: u16,
    sizes: &[u8],
) -> Result<(), BarError> {
    let mut slots = (first..).step_by(4).zip(sizes);
    while let Some((offset, &log2)) = slots.next() {
        let low = config.read_u32(function, offset)?;
        let fit = match (low & 1, low >> 1 & 3) {
            (1, _) => fits((low & !3).into(), log2, 2..=31),
            (_, 2) => match slots.next() {
                Some((upper, &half)) => {
                    let high = config.read_u32(function, upper)?;
                    let address = u64::from(low & !0xf) | u64::from(high) << 32;
                    half == 0 && fits(address, log2, 4..=63)
                }
                None => false,
            },
            _ => fits((low & !0xf).into(), log2, 4..=31),
        };
        if !fit {
            return Err(BarError::Misfit {
                function,
                offset,
                log2,
            });
        }
    }
    Ok(())
}

//! An entry of ACPI's MCFG table: which memory to map for configuration space.
//!
//! `acpi` 6 needs a nightly compiler, so it is not a dependency: the fields of its `McfgEntry` are
//! passed by value.
//!
//! ```
//! use kho_adapters::ecam::EcamRegion;
//! use kho_hal::{Ecam, PhysRange};
//!
//! # struct McfgEntry { base_address: u64, pci_segment_group: u16, bus_number_start: u8, bus_number_end: u8 }
//! # let entry = McfgEntry {
//! #     base_address: 0xe000_0000, pci_segment_group: 0, bus_number_start: 0x40, bus_number_end: 0x7f,
//! # };
//! // For each entry of `tables.find_table::<acpi::sdt::mcfg::Mcfg>()`:
//! let buses = entry.bus_number_start..=entry.bus_number_end;
//! let region = EcamRegion::new(entry.base_address, entry.pci_segment_group, buses)?;
//!
//! assert_eq!(region.memory().to_string(), "0xe4000000..0xe8000000");
//!
//! /// Maps a region with a function of the kernel's that maps device memory.
//! unsafe fn open(region: &EcamRegion, map: impl Fn(PhysRange) -> usize) -> Ecam {
//!     let mapped = map(region.memory());
//!     let bus_0 = mapped.wrapping_sub(region.memory_offset() as usize);
//!     // SAFETY: the caller promises that this is configuration space.
//!     unsafe { Ecam::new(bus_0, region.segment(), region.buses()) }
//! }
//! # Ok::<(), kho_adapters::ecam::EcamError>(())
//! ```
//!
//! # The base counts from bus 0
//! It is the address of bus 0 also where the first bus is another one: the memory of buses
//! `start..=end` begins `start` MiB above it. `PciConfigRegions::physical_address` of `acpi` 6.1
//! counts from the first bus instead; with a first bus other than 0 it names other functions.
//!
//! # Source
//! PCI Firmware 3.3, 4.1.2, table 4-3.

use core::fmt;
use core::ops::RangeInclusive;

use kho_hal::{PhysAddr, PhysRange};

/// Bytes of configuration space of the functions on one bus.
const BUS: u64 = 1 << 20;

/// The memory-mapped configuration space of some buses of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcamRegion {
    base: PhysAddr,
    segment: u16,
    buses: RangeInclusive<u8>,
    memory: PhysRange,
}

/// Why an entry of the table describes no configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EcamError {
    /// The first bus comes after the last.
    NoBus {
        /// The buses found.
        buses: RangeInclusive<u8>,
    },
    /// The base is no multiple of 1 MiB, the size of one bus.
    Misaligned {
        /// The base found.
        base: PhysAddr,
    },
    /// The memory would reach beyond the address space, or starts at 0.
    NoMemory {
        /// The base found.
        base: PhysAddr,
    },
}

impl fmt::Display for EcamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBus { buses } => {
                write!(f, "the first bus, {:#x}, is after the last", buses.start())
            }
            Self::Misaligned { base } => write!(f, "the base {base} is no multiple of 1 MiB"),
            Self::NoMemory { base } => write!(f, "there is no room for the buses at {base}"),
        }
    }
}

impl core::error::Error for EcamError {}

impl EcamRegion {
    /// The region of an entry: `base` is the physical address of bus 0, whatever the first bus is.
    ///
    /// # Errors
    /// [`EcamError`], if the entry cannot be true. Whether the memory is free for it is for the
    /// machine's memory map to say.
    pub fn new(base: u64, segment: u16, buses: RangeInclusive<u8>) -> Result<Self, EcamError> {
        if buses.is_empty() {
            return Err(EcamError::NoBus { buses });
        }
        let base = PhysAddr::new(base);
        if !base.is_aligned_to(BUS) {
            return Err(EcamError::Misaligned { base });
        }
        let count = u64::from(buses.end() - buses.start()) + 1;
        let memory = base
            .checked_add(u64::from(*buses.start()) * BUS)
            .filter(|start| start.as_u64() != 0)
            .and_then(|start| PhysRange::new(start, count * BUS))
            .ok_or(EcamError::NoMemory { base })?;
        Ok(Self {
            base,
            segment,
            buses,
            memory,
        })
    }

    /// The segment group.
    pub const fn segment(&self) -> u32 {
        self.segment as u32
    }

    /// The buses.
    pub fn buses(&self) -> RangeInclusive<u8> {
        self.buses.clone()
    }

    /// The memory to map, as device memory: 1 MiB for each bus.
    pub const fn memory(&self) -> PhysRange {
        self.memory
    }

    /// By how many bytes the memory starts above the base, the address of bus 0.
    pub const fn memory_offset(&self) -> u64 {
        self.memory.start().as_u64() - self.base.as_u64()
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn memory_starts_at_the_first_bus() {
        let region = EcamRegion::new(0xe000_0000, 0, 0..=255).unwrap();
        assert_eq!(region.memory().size(), 256 << 20);
        assert_eq!(region.memory_offset(), 0);
        let region = EcamRegion::new(0xe000_0000, 3, 0x40..=0x7f).unwrap();
        assert_eq!(region.memory().start(), PhysAddr::new(0xe400_0000));
        assert_eq!(region.memory().end(), PhysAddr::new(0xe800_0000));
        assert_eq!((region.segment(), region.memory_offset()), (3, 0x400_0000));
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let base = PhysAddr::new;
        #[allow(clippy::reversed_empty_ranges, reason = "that is the error")]
        let buses = 2..=1;
        let error = EcamRegion::new(0xe000_0000, 0, buses.clone());
        let text = "the first bus, 0x2, is after the last";
        assert_eq!(error.clone().unwrap_err().to_string(), text);
        assert_eq!(error, Err(EcamError::NoBus { buses }));
        assert_eq!(
            EcamRegion::new(0xe000_1000, 0, 0..=0),
            Err(EcamError::Misaligned {
                base: base(0xe000_1000)
            })
        );
        let top = 0u64.wrapping_sub(BUS);
        for (at, buses) in [(0, 0..=0), (top, 0..=0), (top, 1..=1)] {
            let error = EcamError::NoMemory { base: base(at) };
            assert_eq!(EcamRegion::new(at, 0, buses), Err(error));
        }
        // Bus 1 lies above address 0, even though bus 0 would lie at it.
        assert!(EcamRegion::new(0, 0, 1..=1).is_ok());
    }
}

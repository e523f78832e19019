//! The entries of an MCFG table, as `acpi` reads them, mean what `EcamRegion` says.
#![cfg(test)]

use std::ptr::NonNull;

use acpi::aml::AmlError;
use acpi::sdt::mcfg::{Mcfg, McfgEntry};
use acpi::{AcpiTables, Handle, Handler, PciAddress, PhysicalMapping};
use kho_adapters::ecam::EcamRegion;

/// Physical memory is the test's own. The tables are read, and no registers.
#[derive(Clone)]
struct Identity;

macro_rules! unused {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self, $(_: $argument),*) $(-> $result)? {
            unreachable!("reading tables calls no {}", stringify!($name))
        })*
    };
}

impl Handler for Identity {
    unsafe fn map_physical_region<T>(&self, at: usize, size: usize) -> PhysicalMapping<Self, T> {
        PhysicalMapping {
            physical_start: at,
            virtual_start: NonNull::new(std::ptr::with_exposed_provenance_mut(at)).unwrap(),
            region_length: size,
            mapped_length: size,
            handler: Self,
        }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}

    unused! {
        read_u8(usize) -> u8; read_u16(usize) -> u16; read_u32(usize) -> u32; read_u64(usize) -> u64;
        write_u8(usize, u8); write_u16(usize, u16); write_u32(usize, u32); write_u64(usize, u64);
        read_io_u8(u16) -> u8; read_io_u16(u16) -> u16; read_io_u32(u16) -> u32;
        write_io_u8(u16, u8); write_io_u16(u16, u16); write_io_u32(u16, u32);
        read_pci_u8(PciAddress, u16) -> u8;
        read_pci_u16(PciAddress, u16) -> u16;
        read_pci_u32(PciAddress, u16) -> u32;
        write_pci_u8(PciAddress, u16, u8);
        write_pci_u16(PciAddress, u16, u16);
        write_pci_u32(PciAddress, u16, u32);
        nanos_since_boot() -> u64; stall(u64); sleep(u64);
        create_mutex() -> Handle; acquire(Handle, u16) -> Result<(), AmlError>; release(Handle);
    }
}

/// A table: its header of 36 bytes, then `body`.
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = vec![0; 36];
    table[..4].copy_from_slice(signature);
    table[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
    table[8] = 1;
    table.extend(body);
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = 0u8.wrapping_sub(sum);
    table
}

/// Base, segment, first and last bus, as PCI Firmware 3.3, 4.1.2, has it.
fn entry(base: u64, segment: u16, first: u8, last: u8) -> Vec<u8> {
    let mut entry = base.to_le_bytes().to_vec();
    entry.extend(segment.to_le_bytes());
    entry.extend([first, last, 0, 0, 0, 0]);
    entry
}

/// Reads the entries as a kernel would.
fn with_entries(entries: &[Vec<u8>], test: impl FnOnce(&AcpiTables<Identity>, &Mcfg)) {
    let mut body = vec![0; 8];
    body.extend(entries.concat());
    let mcfg = table(b"MCFG", &body);
    let at = mcfg.as_ptr().expose_provenance();
    let xsdt = table(b"XSDT", &(at as u64).to_le_bytes());
    // The list of tables is 36 bytes in; `acpi` reads it by words of eight.
    let mut place = vec![0u64; 1 + xsdt.len().div_ceil(8)];
    let at = place.as_mut_ptr().cast::<u8>().wrapping_add(4);
    // SAFETY: the vector has four bytes more than the table.
    unsafe { at.copy_from_nonoverlapping(xsdt.as_ptr(), xsdt.len()) };
    // SAFETY: the table is there, and what it points to is too.
    let tables = unsafe { AcpiTables::from_rsdt(Identity, 2, at.expose_provenance()) }.unwrap();
    let found = tables.find_table::<Mcfg>().unwrap();
    test(&tables, &found);
}

fn regions(mcfg: &Mcfg) -> Vec<EcamRegion> {
    let entries = mcfg.entries().iter();
    let region = |entry: &McfgEntry| {
        let buses = entry.bus_number_start..=entry.bus_number_end;
        EcamRegion::new(entry.base_address, entry.pci_segment_group, buses)
    };
    entries.map(|entry| region(entry).unwrap()).collect()
}

#[test]
fn each_entry_is_a_region() {
    let entries = [
        entry(0xe000_0000, 0, 0, 0xff),
        entry(1 << 36, 7, 0x40, 0x7f),
    ];
    with_entries(&entries, |_, mcfg| {
        let found = regions(mcfg);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].memory().size(), 256 << 20);
        assert_eq!(found[1].segment(), 7);
        assert_eq!(found[1].buses(), 0x40..=0x7f);
        assert_eq!(found[1].memory().start().as_u64(), (1 << 36) + (0x40 << 20));
    });
}

/// Where the first bus is 0, `acpi` and we say the same. Where it is not, `acpi` counts the base
/// from the first bus. This fails when that is mended; the page of `ecam` says so too.
#[test]
fn acpi_counts_from_the_first_bus() {
    use acpi::platform::PciConfigRegions;
    let entries = [
        entry(0xe000_0000, 0, 0, 0xff),
        entry(1 << 36, 7, 0x40, 0x7f),
    ];
    with_entries(&entries, |tables, mcfg| {
        let ours = regions(mcfg);
        let theirs = PciConfigRegions::new(tables).unwrap();
        let of = |region: &EcamRegion, bus: u8| {
            let buses = u64::from(bus - region.buses().start());
            region.memory().start().as_u64() + (buses << 20)
        };
        assert_eq!(theirs.physical_address(0, 5, 0, 0), Some(of(&ours[0], 5)));
        let found = theirs.physical_address(7, 0x45, 0, 0).unwrap();
        assert_eq!(of(&ours[1], 0x45) - found, 0x40 << 20);
    });
}

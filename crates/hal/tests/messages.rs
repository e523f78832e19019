//! What errors and addresses say to a person.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use core::fmt::Display;

use kho_hal::sim::pci::DumpError;
use kho_hal::sim::{ElfError, Overlap};
use kho_hal::{AllocError, MemError, Order, PciError, PhysAddr, PhysRange, Sbdf, Width};

#[test]
fn an_error_says_where_and_what() {
    let addr = PhysAddr::new(0x1_2345);
    let order = Order::new(9).unwrap();
    let (function, offset) = (Sbdf::from_bdf(0, 0x3a0b), 0x1001);
    let overlap = Overlap { addr };
    let overlaps = "memory at 0x12345 overlaps another piece or is not aligned to a word";
    let refused = PciError::Refused {
        function,
        field: "ATS",
        reason: "it is on",
    };
    #[rustfmt::skip]
    let table: [(&dyn Display, &str); 19] = [
        (&addr, "0x12345"),
        (&PhysRange::new(addr, 0x10).unwrap(), "0x12345..0x12355"),
        (&order, "9"),
        (&AllocError { order }, "no free memory of order 9"),
        (&MemError::Absent { addr, len: 24 }, "no memory for 24 bytes at 0x12345"),
        (&MemError::Misaligned { addr }, "0x12345 is not aligned to a 64-bit word"),
        (&PciError::BadAccess { offset, width: Width::U16 }, "offset 0x1001 does not allow 2 bytes"),
        (&PciError::Unreachable { function, offset }, "0000:3a:01.3: offset 0x1001 is out of reach"),
        (&PciError::Failed { function, offset }, "0000:3a:01.3: the access at 0x1001 failed"),
        (&refused, "0000:3a:01.3: write refused, ATS must stay: it is on"),
        (&overlap, overlaps),
        (&ElfError::NotACore(2), "ELF type 2 is not a core file"),
        (&ElfError::Empty, "the core file has no memory segment"),
        (&ElfError::Overlap(overlap), overlaps),
        (&ElfError::Shared, "segments of the core file share its bytes"),
        (&DumpError::NotAByte { line: 7 }, "line 7: not a line of bytes"),
        (&DumpError::OutOfSpace { line: 7 }, "line 7: offset above fff"),
        (&DumpError::NoSuchFunction { line: 7 }, "line 7: no such device or function"),
        (&DumpError::Empty, "no function in the dump"),
    ];
    for (said, text) in table {
        assert_eq!(said.to_string(), text);
    }
    let cut = kho_hal::sim::ElfImage::parse(b"\x7fELF").unwrap_err();
    assert!(cut.to_string().starts_with("not a whole ELF file: "));
}

#[test]
fn an_address_takes_the_format_it_is_given() {
    let addr = PhysAddr::new(0x1_2345);
    assert_eq!(format!("{addr:x} {addr:#012x}"), "12345 0x0000012345");
    assert_eq!(format!("{:>3}", Order::new(9).unwrap()), "  9");
}

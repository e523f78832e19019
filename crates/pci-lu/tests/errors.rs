//! What errors say to a person.
#![allow(clippy::unwrap_used, reason = "tests")]

use kho_hal::{Access, PciError, PhysAddr, Sbdf};
use kho_pci_lu::{
    BarError, FieldError, GuardError, Kind, PreserveError, RecordError, SetError, Setting, State,
    UpdateError,
};

const AT: Sbdf = Sbdf::from_bdf(0, 0x3a0b);

#[test]
fn an_error_names_the_function_and_what_is_wrong() {
    let function = AT;
    let field = FieldError::Header { function, found: 2 };
    let bars = BarError::Unknown { function };
    let pci = Access::new(0x1001, kho_hal::Width::U16).unwrap_err();
    let guard = GuardError::Field(field);
    let request = Setting::Memory.to(3);
    let path = PreserveError::Frozen;
    let header = "0000:3a:01.3: header type 2 is not that of its kind";
    let sizes = "0000:3a:01.3: BAR sizes are not known, and must not be asked for";
    let access = "offset 0x1001 does not allow 2 bytes";
    #[rustfmt::skip]
    let table: [(&dyn core::fmt::Display, &str); 51] = [
        (&field, header),
        (&FieldError::Unreadable { function, offset: 0x34 }, "0000:3a:01.3: capabilities end badly at 0x34"),
        (&FieldError::NotPhysical { function }, "0000:3a:01.3 has no virtual functions on"),
        (&FieldError::Unfit { function, field: "IDE" }, "0000:3a:01.3 cannot be preserved while IDE is on"),
        (&bars, sizes),
        (&BarError::Misfit { function, offset: 0x10, log2: 20 }, "0000:3a:01.3: the BAR at 0x10 cannot have 2^20 bytes"),
        (&BarError::Resizable { function, index: 2, found: 21, log2: 20 }, "0000:3a:01.3: BAR 2 has 2^21 bytes, not 2^20"),
        (&BarError::from(pci), access),
        (&guard, header),
        (&GuardError::State { function, state: State::Normal }, "0000:3a:01.3 is in state Normal"),
        (&GuardError::Kind { function, known: Kind::Bridge }, "0000:3a:01.3 is known as Bridge"),
        (&GuardError::Unconfirmed { function, field: "ATS" }, "0000:3a:01.3: nobody has confirmed ATS"),
        (&GuardError::NotVendor { function, offset: 0x40 }, "0000:3a:01.3: 0x40 is not the vendor's to rule"),
        (&SetError::from(field), header),
        (&SetError::Absent { function, setting: Setting::Memory }, "0000:3a:01.3 has no Memory"),
        (&SetError::Range { function, request }, "0000:3a:01.3: 0x3 is too large for Memory"),
        (&SetError::Conflict { function, request }, "0000:3a:01.3: Memory is asked for as 0x3, and as another value"),
        (&SetError::Kept { function, field: "ATS", found: 1, reason: "DMA" }, "0000:3a:01.3: ATS must stay 0x1: DMA"),
        (&SetError::NotTaken { function, field: "ATS", found: 1 }, "0000:3a:01.3: ATS stays 0x1"),
        (&SetError::from(pci), access),
        (&PreserveError::Unknown { function }, "0000:3a:01.3 is not known"),
        (&PreserveError::Path { function }, "0000:3a:01.3 depends on itself, or on something else by now"),
        (&PreserveError::VirtualAlone { function }, "0000:3a:01.3 has no physical function above it"),
        (&PreserveError::AcsQuirk { function }, "0000:3a:01.3 needs a quirk to enable ACS"),
        (&PreserveError::Busy { function }, "0000:3a:01.3 is preserved already"),
        (&path, "the machine is frozen"),
        (&PreserveError::NoFile, "no preserved file needs the record"),
        (&PreserveError::Physical { function }, "0000:3a:01.3 is there only for its virtual functions"),
        (&PreserveError::Sriov { function }, "0000:3a:01.3 has SR-IOV, which the record cannot name"),
        (&PreserveError::TooMany { function }, "too many functions below 0000:3a:01.3"),
        (&PreserveError::Guard(guard), header),
        (&PreserveError::Bars(bars), sizes),
        (&UpdateError::Received, "a record was received already"),
        (&UpdateError::NotIncoming { function }, "0000:3a:01.3 is not incoming"),
        (&UpdateError::NotKnown { function }, "0000:3a:01.3 was preserved, and the facts beside the record lack it"),
        (&UpdateError::Missing { function }, "0000:3a:01.3 was preserved and is not there"),
        (&UpdateError::Identity { function, found: 1, expected: 0x8086_0002 }, "0000:3a:01.3 reads 00000001, and was 80860002"),
        (&UpdateError::Depended { function }, "0000:3a:01.3 is needed by functions below it"),
        (&UpdateError::Unreadable { function }, "0000:3a:01.3 cannot be read"),
        (&UpdateError::Refcount { function }, "0000:3a:01.3 counts other users than there are below it"),
        (&UpdateError::Path(path), "the machine is frozen"),
        (&UpdateError::Guard(guard), header),
        (&UpdateError::Bars(bars), sizes),
        (&UpdateError::NotFinished { function }, "0000:3a:01.3 is not finished"),
        (&RecordError::LuoNotUnderstood, "LUO has a version that is not known"),
        (&RecordError::TwoForms, "there is a PCI record of each form"),
        (&RecordError::Unsorted { function }, "0000:3a:01.3 is out of order in the record"),
        (&RecordError::Duplicate { function }, "0000:3a:01.3 is in the record twice"),
        (&RecordError::Reserved { function }, "0000:3a:01.3: bytes of its entry hold what they cannot"),
        (&RecordError::Refcount { function, found: 9, max: 2 }, "0000:3a:01.3 counts 9 users, at most 2 are possible"),
        (&RecordError::Workspace { words: 7 }, "the record needs a workspace of 7 words"),
    ];
    for (error, text) in table {
        assert_eq!(error.to_string(), text);
    }
    let _: PciError = pci;
}

#[test]
fn an_error_of_the_record_says_where_it_is() {
    let at = PhysAddr::new(0x1234_5000);
    for (error, text) in [
        (
            RecordError::Memory { at },
            "the PCI record at 0x12345000 is not all preserved, or not its own",
        ),
        (
            RecordError::Version { at, found: 3 },
            "the PCI record at 0x12345000 has the unknown version 3",
        ),
        (
            RecordError::Count {
                at,
                found: 9,
                max: 8,
            },
            "the PCI record at 0x12345000 counts 9, at most 8 is possible",
        ),
        (
            RecordError::Mismatch {
                at,
                found: 7,
                expected: 8,
            },
            "the PCI record at 0x12345000 counts 8 functions and has 7",
        ),
        (
            RecordError::Overlap { at },
            "the PCI record names the folio at 0x12345000 twice",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

//! The table itself (test 23 of the policy), and the guarded writes of the Linux series as cases.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

#[path = "common/pci.rs"]
mod pci;

use kho_hal::walk::CapId;
use kho_hal::{PciConfigAccess, PciError, Width};
use kho_pci_lu::table::{Bits, Place, Repeat, Row, TABLE_OF_FIELDS};
use kho_pci_lu::{Class, Guarded, Kind, for_each_field};
use pci::*;

#[test]
fn t23_every_row_has_a_reason_and_a_place_of_its_own() {
    for block in TABLE_OF_FIELDS {
        for row in block.rows {
            let bits = u64::from(row.bits) << (8 * (row.first & 3));
            assert!(
                bits <= u64::from(u32::MAX),
                "{}: leaves its dword",
                row.field
            );
            assert!(row.bits != 0 && !row.field.is_empty());
            for kind in Kind::ALL {
                match row.class(kind) {
                    Class::Preserve | Class::Action => {
                        assert!(row.reason.len() > 10, "{}", row.field);
                        // A comparison says nothing about bits that a one clears.
                        assert_eq!(row.access, Bits::Rw, "{}", row.field);
                    }
                    Class::Read => assert_eq!(row.access, Bits::Ro, "{}", row.field),
                    _ => assert!(!row.reason.is_empty() && row.access != Bits::Ro),
                }
            }
        }
        // Rows of one block share no bit; the two headers share none with what is common.
        let shares_header = |other: Place| match block.place {
            Place::Type0 | Place::Type1 => other == Place::Header,
            _ => false,
        };
        let others = TABLE_OF_FIELDS
            .iter()
            .filter(|other| other.place == block.place || shares_header(other.place));
        let rows = others.flat_map(|other| other.rows);
        let mut taken = [0u32; 1024];
        for row in rows {
            let (count, step) = match row.repeat {
                Repeat::Once => (1, 0),
                Repeat::Dwords(count) => (count, 4),
                Repeat::Count {
                    mask, plus, step, ..
                } => (mask + plus, step),
                Repeat::EgressVector => (8, 4),
                // Behind the capability's own registers, at no fixed place.
                Repeat::Streams { .. } => (0, 0),
            };
            for n in 0..count {
                let at = row.first + n * step;
                let bits = row.bits << (8 * (at & 3));
                let word = &mut taken[usize::from(at / 4)];
                assert_eq!(*word & bits, 0, "{}: {} overlaps", block.name, row.field);
                *word |= bits;
            }
        }
    }
    for (i, block) in TABLE_OF_FIELDS.iter().enumerate() {
        let mut before = TABLE_OF_FIELDS.iter().take(i);
        assert!(
            before.all(|other| other.place != block.place),
            "{}",
            block.name
        );
    }
}

/// Every bit that a write changes in the header or a capability has a row.
#[test]
fn t23_every_writable_bit_is_covered() {
    for kind in Kind::ALL {
        let mut covered = [0u32; 1024];
        for_each_field(&live(kind), HERE, kind, |field| {
            covered[usize::from(field.dword / 4)] |= field.bits;
        })
        .unwrap();
        let dwords = (0..0x400u16).step_by(4);
        for (dword, bit) in dwords.flat_map(|dword| (0..32).map(move |bit| (dword, bit))) {
            if covered[usize::from(dword / 4)] >> bit & 1 != 0 {
                continue;
            }
            let bus = live(kind);
            let before = bus.peek(HERE, at(dword, Width::U32));
            bus.write_u32(HERE, dword, before ^ 1 << bit).unwrap();
            let after = bus.peek(HERE, at(dword, Width::U32));
            // Clearing errors beside it is not what is looked for.
            let changed = (before ^ after) >> bit & 1;
            assert_eq!(changed, 0, "{kind:?}: {dword:#x} bit {bit} has no row");
        }
    }
}

/// Masks that `pci_regs.h` names, with the class that they must have somewhere.
#[test]
fn t23_masks_are_those_of_pci_regs_h() {
    let exp = Place::Cap(CapId::Standard(0x10));
    let ext = |id| Place::Cap(CapId::Extended(id));
    for (place, offset, mask) in [
        (Place::Header, 0x04, 0x2),                // PCI_COMMAND_MEMORY
        (Place::Header, 0x04, 0x4),                // PCI_COMMAND_MASTER
        (Place::Header, 0x0f, 0x40),               // PCI_BIST_START
        (Place::Type1, 0x3e, 0x40),                // PCI_BRIDGE_CTL_BUS_RESET
        (Place::Cap(CapId::Standard(1)), 4, 3),    // PCI_PM_CTRL_STATE_MASK
        (Place::Cap(CapId::Standard(0x13)), 4, 1), // PCI_AF_CTRL_FLR
        (exp, 0x08, 0x00e0),                       // PCI_EXP_DEVCTL_PAYLOAD
        (exp, 0x08, 0x0100 | 0x0200),              // PCI_EXP_DEVCTL_EXT_TAG, _PHANTOM
        (exp, 0x08, 0x7000),                       // PCI_EXP_DEVCTL_READRQ
        (exp, 0x08, 0x8000),                       // PCI_EXP_DEVCTL_BCR_FLR
        (exp, 0x10, 0x10),                         // PCI_EXP_LNKCTL_LD
        (exp, 0x10, 0x20),                         // PCI_EXP_LNKCTL_RL
        (exp, 0x18, 0x0400 | 0x0800),              // PCI_EXP_SLTCTL_PCC, _EIC
        (exp, 0x28, 0x20),                         // PCI_EXP_DEVCTL2_ARI
        (exp, 0x28, 0x40),                         // PCI_EXP_DEVCTL2_ATOMIC_REQ
        (exp, 0x28, 0x80),                         // PCI_EXP_DEVCTL2_ATOMIC_EGRESS_BLOCK
        (ext(0x0f), 6, 0x8000),                    // PCI_ATS_CTRL_ENABLE
        (ext(0x0f), 6, 0x1f),                      // PCI_ATS_CTRL_STU
        (ext(0x13), 4, 1),                         // PCI_PRI_CTRL_ENABLE
        (ext(0x13), 4, 2),                         // PCI_PRI_CTRL_RESET
        (ext(0x1b), 6, 1 | 2 | 4),                 // PCI_PASID_CTRL_ENABLE, _EXEC, _PRIV
        (ext(0x10), 0x08, 0x1),                    // PCI_SRIOV_CTRL_VFE
        (ext(0x10), 0x08, 0x8),                    // PCI_SRIOV_CTRL_MSE
        (ext(0x10), 0x08, 0x10),                   // PCI_SRIOV_CTRL_ARI
    ] {
        let block = TABLE_OF_FIELDS.iter().find(|block| block.place == place);
        let row = block
            .unwrap()
            .rows
            .iter()
            .find(|row| row.first == offset && row.bits == mask);
        let row = row.unwrap_or_else(|| panic!("{place:?} {offset:#x} {mask:#x}"));
        let guarded = |kind| matches!(row.class(kind), Class::Preserve | Class::Action);
        assert!(Kind::ALL.into_iter().any(guarded), "{}", row.field);
    }
}

/// Where a case writes.
#[derive(Clone, Copy)]
enum In {
    Header,
    Cap(CapId),
}

use In::{Cap, Header};

const E0: Kind = Kind::Endpoint;
const E1: Kind = Kind::PeerEndpoint;
const BR: Kind = Kind::Bridge;
const PF: Kind = Kind::Physical;
const B: Width = Width::U8;
const W: Width = Width::U16;
const L: Width = Width::U32;
const NOT: bool = false;
const YES: bool = true;

type Case = (u32, Kind, In, u16, Width, u32, u32, bool);

/// Row of the list of guarded writes, kind, place, offset, width, bits cleared, bits set, and
/// whether it arrives while the function is preserved. Rows 17 (a table in a BAR), 29, 65, 67 and 68
/// (no write) have none.
#[rustfmt::skip]
const CASES: &[Case] = &[
    (1, E1, Cap(ATS), 6, W, 0x801f, 5, NOT),
    (2, E1, Cap(ATS), 6, W, 0x1f, 0x8005, NOT),
    (2, E1, Cap(ATS), 6, W, 0, 0x8000, YES),
    (3, PF, Cap(SRIOV), 0x10, W, 0xffff, 6, NOT),
    (3, PF, Cap(SRIOV), 0x10, W, 0xffff, 0, NOT),
    (4, PF, Cap(SRIOV), 8, W, 0, 9, YES),
    (5, PF, Cap(SRIOV), 8, W, 9, 0, NOT),
    (6, PF, Cap(SRIOV), 8, W, 9, 0, NOT),
    (7, PF, Cap(SRIOV), 8, W, 0xffff, 0, NOT),
    (8, PF, Cap(SRIOV), 8, W, 0xffff, 0x10, NOT),
    (9, PF, Cap(SRIOV), 0x20, L, u32::MAX, 0x10, NOT),
    (10, PF, Cap(SRIOV), 8, W, 0, 0x10, NOT),
    (11, PF, Cap(SRIOV), 0x20, L, u32::MAX, 0x10, NOT),
    (12, PF, Cap(SRIOV), 8, W, 0, 9, YES),
    (13, PF, Cap(SRIOV), 0x24, L, u32::MAX, 0xc000_0000, NOT),
    (14, PF, Cap(SRIOV), 0x28, L, 0, 1, NOT),
    (15, E1, Cap(MSI), 0x10, L, 0, 0xff, YES),
    (16, E1, Cap(MSI), 2, W, 0x70, 0x10, YES),
    (16, E1, Cap(MSI), 4, L, u32::MAX, 0xfee0_0000, YES),
    (16, E1, Cap(MSI), 8, L, u32::MAX, 1, YES),
    (16, E1, Cap(MSI), 12, W, 0xffff, 0x31, YES),
    (18, E1, Cap(MSI), 2, W, 0, 1, YES),
    (19, E1, Cap(MSIX), 2, W, 0, 0x4000, YES),
    (20, E1, Cap(MSIX), 2, W, 0, 0xc000, YES),
    (21, E1, Cap(MSIX), 2, W, 0x4000, 0x8000, YES),
    (22, E1, Cap(MSIX), 2, W, 0xc000, 0, YES),
    (23, E1, Cap(MSIX), 2, W, 0, 0x8000, YES),
    (23, E1, Header, 4, W, 2, 0, NOT),
    (24, E1, Cap(MSIX), 2, W, 0x8000, 0, YES),
    (25, E0, Cap(MSI), 2, W, 1, 0, YES),
    (26, E0, Cap(MSIX), 2, W, 0x8000, 0, YES),
    (27, E1, Header, 0x0c, W, 0xffff, 0x4010, YES),
    (27, E1, Header, 4, W, 0, 0x140, YES),
    (27, E1, Header, 4, W, 0xffff, 0x140, NOT),
    (27, BR, Header, 0x1b, B, 0xff, 0x40, YES),
    (27, BR, Header, 0x3e, W, 0, 1, YES),
    (28, E1, Header, 6, W, 0, 0xf900, YES),
    (30, E1, Cap(ACS), 6, W, 0, 0x02, NOT),
    (30, BR, Cap(ACS), 6, W, 0x1d, 0, NOT),
    (31, E1, Cap(PM), 4, W, 0xffff, 0, YES),
    (32, E1, Cap(PM), 4, W, 3, 3, NOT),
    (32, PF, Cap(PM), 4, W, 3, 3, NOT),
    (33, E0, Cap(PCIX), 2, W, 0, 0x70, YES),
    (34, E1, Header, 4, W, 0x400, 0, YES),
    (35, E0, Header, 4, W, 4, 0, NOT),
    (35, BR, Header, 4, W, 4, 0, NOT),
    (36, E1, Cap(PM), 4, W, 0x100, 0x8000, YES),
    (37, E1, Cap(PM), 4, W, 0x100, 0x8000, YES),
    (38, E1, Cap(PM), 4, W, 0, 0x100, YES),
    (39, BR, Cap(EXP), 0x28, W, 0, 0x20, YES),
    (40, BR, Cap(EXP), 0x28, W, 0x20, 0, NOT),
    (41, E1, Header, 4, W, 0, 4, YES),
    (41, BR, Header, 4, W, 4, 0, NOT),
    (42, E1, Header, 4, W, 0, 0x10, YES),
    (43, E1, Header, 4, W, 0x10, 0, YES),
    (44, E1, Header, 4, W, 0x40, 0, YES),
    (45, E1, Header, 4, W, 0, 0x400, YES),
    (46, E1, Cap(PM), 4, W, 3, 3, NOT),
    (47, E1, Cap(PM), 4, W, 3, 0, YES),
    (48, BR, Header, 0x3e, W, 0, 0x40, NOT),
    (49, E0, Header, 4, W, 0xffff, 0x400, NOT),
    (50, E0, Cap(PCIX), 2, W, 0x0c, 4, YES),
    (51, E1, Cap(EXP), 8, W, 0x7000, 0x5000, YES),
    (51, PF, Cap(EXP), 8, W, 0x7000, 0x5000, NOT),
    (52, E0, Cap(EXP), 8, W, 0xe0, 0x40, NOT),
    (52, BR, Cap(EXP), 8, W, 0xe0, 0x40, NOT),
    (53, E1, Header, 4, W, 3, 0, NOT),
    (53, E0, Header, 4, W, 3, 0, YES),
    (54, BR, Header, 0x3e, W, 0, 8, YES),
    (55, E1, Header, 4, W, 2, 0, NOT),
    (56, BR, Cap(EXP), 0x10, W, 0, 0x40, YES),
    (56, BR, Cap(EXP), 0x10, W, 0, 0x60, NOT),
    (57, BR, Cap(EXP), 0x1c, W, 0, 8, YES),
    (58, BR, Cap(EXP), 0x1c, W, 8, 0, YES),
    (58, BR, Cap(EXP), 0x20, L, 0, 0x1_0000, YES),
    (59, BR, Cap(EXP), 0x1c, W, 0, 8, YES),
    (60, E1, Header, 4, W, 3, 0, NOT),
    (60, BR, Header, 4, W, 3, 0, NOT),
    (61, E1, Header, 0x10, L, 0, u32::MAX, NOT),
    (61, E1, Header, 0x30, L, 0, 0xffff_f800, YES),
    (62, E1, Header, 4, W, 0, 2, YES),
    (63, BR, Cap(EXP), 0x1c, W, 0, 0x10, YES),
    (64, BR, Header, 0x3e, W, 0x20, 0, YES),
    (66, BR, Header, 0x3e, W, 0, 0, YES),
    (69, E1, Cap(EXP), 8, W, 0x100, 0, NOT),
    (70, BR, Header, 0x3e, W, 0, 2, YES),
    (71, BR, Header, 0x30, L, u32::MAX, 0xffff, YES),
    (71, BR, Header, 0x1c, W, 0xffff, 0x3020, YES),
    (72, BR, Header, 0x20, L, u32::MAX, 0xfff0, NOT),
    (73, BR, Header, 0x24, L, u32::MAX, 0xfff0, NOT),
    (73, BR, Header, 0x28, L, u32::MAX, 0, NOT),
    (73, BR, Header, 0x2c, L, u32::MAX, 0, NOT),
    (74, BR, Header, 0x3e, W, 0xffff, 0, YES),
];

/// The class of each row, from 1: cold, preserve, action, driver, or read-side. Adopting is what
/// software does beside it.
const CLASSES: &str = "PPPPPPPPPPPPPPCCCCCCCCCCCCCCRPPPCCPCCCPPPCCCCPPXPCDPPCPXCCCPPPCCRCRRPCCPPC";

#[test]
fn rows_have_the_classes_of_the_policy() {
    let count = |class| CLASSES.chars().filter(|c| *c == class).count();
    // 23 preserve and adopt, 10 preserve; one action, one more with a field that is adopted.
    assert_eq!(['C', 'P', 'X', 'D', 'R'].map(count), [34, 33, 2, 1, 4]);
    for (number, letter) in (1..).zip(CLASSES.chars()) {
        let expected = match letter {
            'C' => Class::Cold,
            'P' => Class::Preserve,
            'X' => Class::Action,
            'D' => Class::Driver,
            // No write: see the test below.
            _ => continue,
        };
        let mut found = Vec::new();
        for &(_, kind, place, offset, width, clear, set, _) in
            CASES.iter().filter(|c| c.0 == number)
        {
            let bus = live(kind);
            let base = match place {
                Header => 0,
                Cap(id) => cap(&bus, HERE, id),
            };
            let at = base + offset;
            let written = match (clear | set) & width.mask() {
                0 => width.mask(),
                bits => bits,
            };
            let written = written << (8 * (at & 3));
            for_each_field(&bus, HERE, kind, |field| {
                if field.dword == at & !3 && field.bits & written != 0 {
                    found.push(field.class);
                }
            })
            .unwrap();
        }
        // The table in a BAR is no configuration space.
        assert!(
            found.contains(&expected) || number == 17,
            "row {number}: {found:?}"
        );
    }
}

#[test]
fn the_guarded_writes_of_the_series() {
    for &(number, kind, place, offset, width, clear, set, arrives) in CASES {
        for live_update in [false, true] {
            let bus = live(kind);
            let base = match place {
                Header => 0,
                Cap(id) => cap(&bus, HERE, id),
            };
            let access = at(base + offset, width);
            let guard = Guarded::new(&bus);
            if live_update {
                guard.adopt(HERE, kind).unwrap();
            }
            let before = bus.peek(HERE, access);
            let writes = bus.writes();
            let value = before & !clear | set;
            bus.record(true);
            let result = guard.write(HERE, access, value);
            bus.record(false);
            let mut arrived = bus.take_records();
            arrived.retain(|record| record.write);
            let text = format!("row {number}, {kind:?}, at {offset:#x}: {result:?}");
            if arrives || !live_update {
                assert_eq!(result, Ok(()), "{text}");
                assert_eq!(bus.writes(), writes + 1, "{text}");
                // As before: the same value, at the same width.
                assert_eq!((arrived[0].at, arrived[0].value), (access, value), "{text}");
            } else {
                assert!(matches!(result, Err(PciError::Refused { .. })), "{text}");
                assert_eq!(bus.writes(), writes, "{text}");
                assert_eq!(bus.peek(HERE, access), before, "{text}");
            }
        }
    }
    let numbers: std::collections::BTreeSet<_> = CASES.iter().map(|case| case.0).collect();
    let without = [17, 29, 65, 67, 68];
    let all = (1..=74).filter(|number| !without.contains(number));
    assert!(numbers.into_iter().eq(all));
}

/// The register map of the policy, column by column (E0, E1, BR, PF), written down once more by hand:
/// whoever changes a class of the table must change it here, too.
#[test]
fn t01_the_register_map() {
    let std = |id| Place::Cap(CapId::Standard(id));
    let ext = |id| Place::Cap(CapId::Extended(id));
    let (h, t0, t1) = (Place::Header, Place::Type0, Place::Type1);
    let exp = std(0x10);
    let map: &[(Place, u16, u32, &str)] = &[
        (h, 0x04, 1, "CCCC"),
        (h, 0x04, 2, "CPPC"),
        (h, 0x04, 4, "PPPC"),
        (h, 0x04, 0x3f0, "CCCC"),
        (h, 0x04, 0x400, "CCCC"),
        (h, 0x06, 0xf900, "CCCC"),
        (h, 0x0c, 0xffff, "CCCC"),
        (h, 0x3c, 0xff, "CCCC"),
        (h, 0x0f, 0x40, "XXXX"),
        (t0, 0x10, !0, "CP-C"),
        (t0, 0x24, !0, "CP-C"),
        (t0, 0x30, !0, "CC-C"),
        (t1, 0x10, !0, "--C-"),
        (t1, 0x14, !0, "--C-"),
        (t1, 0x38, !0, "--C-"),
        (t1, 0x18, 0xff_ffff, "--P-"),
        (t1, 0x1c, 0xffff, "--C-"),
        (t1, 0x30, !0, "--C-"),
        (t1, 0x20, !0, "--P-"),
        (t1, 0x24, !0, "--P-"),
        (t1, 0x28, !0, "--P-"),
        (t1, 0x2c, !0, "--P-"),
        (t1, 0x1e, 0xf900, "--C-"),
        (t1, 0x3e, 0x2f, "--C-"),
        (t1, 0x3e, 0x40, "--X-"),
        (std(1), 4, 3, "PPPP"),
        (std(1), 4, 0x8100, "CCCC"),
        (std(5), 2, 0x71, "CCCC"),
        (std(5), 4, !0, "CCCC"),
        (std(5), 0x14, !0, "CCCC"),
        (std(0x11), 2, 0xc000, "CCCC"),
        (exp, 8, 0xf, "CCCC"),
        (exp, 8, 0x810, "CCCC"),
        (exp, 8, 0xe0, "PPPP"),
        (exp, 8, 0x300, "PPPP"),
        (exp, 8, 0x400, "CCCC"),
        (exp, 8, 0x7000, "DDCP"),
        (exp, 8, 0x8000, "XXCX"),
        (exp, 0x0a, 0xf, "CCCC"),
        (exp, 0x10, 3, "CCCC"),
        (exp, 0x10, 8, "AAAA"),
        (exp, 0x10, 0x30, "--X-"),
        (exp, 0x10, 0x140, "AAAA"),
        (exp, 0x10, 0xc00, "--C-"),
        (exp, 0x12, 0xc000, "--C-"),
        (exp, 0x30, 0xf, "AAAA"),
        (exp, 0x18, 0xc00, "--X-"),
        (exp, 0x18, 0x3ff, "--C-"),
        (exp, 0x1a, 0x11f, "--C-"),
        (exp, 0x1c, 0x1f, "--C-"),
        (exp, 0x20, 0x1_0000, "--C-"),
        (exp, 0x28, 0x1f, "CCCC"),
        (exp, 0x28, 0x20, "--P-"),
        (exp, 0x28, 0xc0, "DPPP"),
        (exp, 0x28, 0x6300, "CCCC"),
        (exp, 0x28, 0x400, "CCCC"),
        (exp, 0x28, 0x1000, "PPPP"),
        (ext(0x18), 4, !0, "CCCC"),
        (ext(0xf), 6, 0x8000, "CP-C"),
        (ext(0xf), 6, 0x1f, "CP-P"),
        (ext(0x13), 4, 1, "CP-P"),
        (ext(0x13), 4, 2, "XX-X"),
        (ext(0x13), 6, 3, "CC-C"),
        (ext(0x13), 0xc, !0, "CP-P"),
        (ext(0x1b), 6, 7, "CP-P"),
        (ext(0xd), 6, 0xffff, "PPPP"),
        (ext(0xd), 8, !0, "PPPP"),
        (ext(0xe), 6, 0x73, "CP-P"),
        (ext(0x10), 8, 0x19, "CC-P"),
        (ext(0x10), 8, 6, "CC-C"),
        (ext(0x10), 0x10, 0xffff, "CC-P"),
        (ext(0x10), 0x20, !0, "CC-P"),
        (ext(0x10), 0x24, !0, "CC-P"),
        (ext(0x10), 0x38, !0, "CC-P"),
        (ext(1), 4, !0, "CCCC"),
        (ext(1), 0x10, !0, "CCCC"),
        (ext(1), 8, !0, "CCCC"),
        (ext(1), 0xc, !0, "CCCC"),
        (ext(1), 0x14, !0, "CCCC"),
        (ext(1), 0x18, 0x140, "CCCC"),
        (ext(1), 0x2c, 7, "--C-"),
        (ext(1), 0x30, 0x7f, "--C-"),
        (ext(0x1d), 6, 0x3f, "--C-"),
        (ext(0x1d), 6, 0x40, "--X-"),
        (ext(0x1d), 8, 0xffff, "--C-"),
        (ext(0x1e), 8, !0, "CCCC"),
        (ext(0x1e), 0xc, !0, "CCCC"),
        (ext(0x15), 8, 0x1f00, "CPCP"),
        (ext(0x24), 8, 0x1f00, "CPCP"),
        (ext(2), 0xc, 0xe, "AAAA"),
        (ext(2), 0xc, 1, "XXXX"),
        (ext(2), 0x14, 0x1_0000, "XXXX"),
        (ext(2), 0x14, 0x8700_00ff, "AAAA"),
        (ext(0x1f), 8, 0xff03, "DDAD"),
        (ext(0x17), 8, 0x307, "DD-D"),
        (ext(0x17), 0xc, 0xffff, "DD-D"),
        (std(0x13), 4, 1, "XXXX"),
        (std(7), 2, 0xffff, "CCCC"),
        (std(3), 2, 0xffff, "CCCC"),
        (ext(0x2e), 8, !0, "DDDD"),
        (ext(0x30), 8, !0, "PPPP"),
        (
            Place::Dvsec {
                vendor: 0x1e98,
                id: 0,
            },
            0x0c,
            0xffff,
            "PPPP",
        ),
    ];
    let mut wrong = Vec::new();
    for &(place, first, mask, classes) in map {
        let mask = u64::from(mask) << (8 * (first & 3));
        let mut left = mask as u32;
        for row in TABLE_OF_FIELDS
            .iter()
            .filter(|b| b.place == place)
            .flat_map(|b| b.rows)
        {
            let count = match row.repeat {
                Repeat::Dwords(n) => n,
                Repeat::Streams { .. } => continue,
                _ => 1,
            };
            let at = (0..count)
                .map(|n| row.first + 4 * n)
                .find(|at| at & !3 == first & !3);
            let bits = at.map_or(0, |at| row.bits << (8 * (at & 3)));
            if bits & mask as u32 == 0 {
                continue;
            }
            left &= !bits;
            let found: String = Kind::ALL[..4]
                .iter()
                .map(|&kind| match row.class(kind) {
                    Class::Preserve => 'P',
                    Class::Action => 'X',
                    Class::Adopt => 'A',
                    Class::Cold => 'C',
                    Class::Driver => 'D',
                    Class::Read => 'R',
                    Class::Absent => '-',
                })
                .collect();
            if found != classes {
                wrong.push(format!("{}: {found}, policy {classes}", row.field));
            }
        }
        if left != 0 {
            wrong.push(format!(
                "{place:?} +{first:#x}: bits {left:#x} have no row, policy {classes}"
            ));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// What must not change comes before what must not be set, and that before the rest.
#[test]
fn the_class_of_two_kinds_is_the_stricter_of_both() {
    let row = TABLE_OF_FIELDS[0].rows[0];
    let classes = [Class::Preserve, Class::Action, Class::Adopt, Class::Cold];
    for peer in 0..classes.len() {
        for physical in 0..classes.len() {
            let class = [
                Class::Absent,
                classes[peer],
                Class::Absent,
                classes[physical],
            ];
            // Of what is not guarded, the endpoint's.
            let expected = match peer.min(physical) {
                guarded @ 0..=1 => classes[guarded],
                _ => classes[peer],
            };
            let row = Row { class, ..row };
            assert_eq!(row.class(Kind::PeerPhysical), expected, "{class:?}");
        }
    }
}

/// A function that is two kinds at once has the stricter class of each.
#[test]
fn a_function_of_two_kinds_has_the_stricter_class() {
    for row in TABLE_OF_FIELDS.iter().flat_map(|block| block.rows) {
        let guarded = |kind| matches!(row.class(kind), Class::Preserve | Class::Action);
        let either = guarded(Kind::PeerEndpoint) || guarded(Kind::Physical);
        assert_eq!(guarded(Kind::PeerPhysical), either, "{}", row.field);
        for kind in Kind::ALL.into_iter().filter(|&kind| guarded(kind)) {
            for stricter in Kind::ALL.into_iter().filter(|k| k.covers(kind)) {
                assert!(
                    guarded(stricter),
                    "{}: {stricter:?} covers {kind:?}",
                    row.field
                );
            }
        }
    }
}

//! Both serialized forms: what is found in them, and what is refused (test 22 of the policy).
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use common::{SimTracker, check, hand_over, memory};
use kho_abi::pci::functions::{self, FunctionSer, FunctionsSer, SIZES_KNOWN};
use kho_abi::pci::{v1, v2};
use kho_core::outgoing::BlockSet;
use kho_hal::{PhysAddr, PhysMem, Sbdf};
use kho_pci_lu::{Bars, Facts, Form, Functions, Kind, Record, RecordError};
use proptest::prelude::*;
use zerocopy::IntoBytes;

fn at(bus: u8, device: u8) -> Sbdf {
    Sbdf::new(0, bus, device, 0).unwrap()
}

fn entry1(function: Sbdf) -> v1::PciDevSer {
    v1::PciDevSer {
        domain: function.segment().into(),
        bdf: function.bdf().into(),
        reserved: 0.into(),
    }
}

fn entry2(function: Sbdf, refcount: u16) -> v2::PciDevSer {
    v2::PciDevSer {
        domain: function.segment().into(),
        bdf: function.bdf().into(),
        refcount: refcount.into(),
    }
}

const FREE: v2::PciDevSer = v2::PciDevSer {
    domain: zerocopy::little_endian::U32::ZERO,
    bdf: zerocopy::little_endian::U16::ZERO,
    refcount: zerocopy::little_endian::U16::ZERO,
};

/// The first form, with this capacity and these numbers in the header.
fn write_v1(tracker: &SimTracker<'_>, max: u64, nr: u64, entries: &[v1::PciDevSer]) -> u64 {
    let size = 16 + 8 * entries.len() as u64;
    let (at, _) = tracker.alloc_preserved(size).unwrap();
    let header = v1::PciSer {
        max_nr_devices: max.into(),
        nr_devices: nr.into(),
    };
    tracker.mem().write(at, header.as_bytes()).unwrap();
    let first = PhysAddr::new(at.as_u64() + 16);
    tracker.mem().write(first, entries.as_bytes()).unwrap();
    at.as_u64()
}

fn write_v2(tracker: &SimTracker<'_>, version: u32, nr: u32, entries: &[v2::PciDevSer]) -> u64 {
    let mut set = BlockSet::<v2::PciDevSer>::default();
    set.resize(tracker, entries.len()).unwrap();
    for (i, entry) in entries.iter().enumerate() {
        set.write(tracker, i, entry).unwrap();
    }
    header_v2(tracker, version, nr, set.head())
}

fn header_v2(tracker: &SimTracker<'_>, version: u32, nr: u32, head: PhysAddr) -> u64 {
    let (at, _) = tracker.alloc_preserved(16).unwrap();
    let header = v2::PciSer {
        version: version.into(),
        nr_devices: nr.into(),
        devices: head.as_u64().into(),
    };
    tracker.mem().write(at, header.as_bytes()).unwrap();
    at.as_u64()
}

/// What reading gives: form and entries, or the error.
type Read = Result<Option<(Form, Vec<(Sbdf, u16)>)>, RecordError>;

fn read_with(
    words: usize,
    build: impl FnOnce(&SimTracker<'_>) -> Vec<(&'static str, u64)>,
) -> Read {
    let mut memory = memory();
    let boot = hand_over(&memory, build);
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let mut workspace = vec![0; words];
    let record = Record::read(&incoming, &mut workspace)?;
    Ok(record.map(|record| {
        let entries: Vec<_> = record.iter().map(|e| (e.function, e.refcount)).collect();
        for entry in record.iter() {
            assert_eq!(record.find(entry.function), Some(entry));
        }
        assert_eq!(record.find(Sbdf::from_bdf(7, 7)), None);
        assert_eq!(record.len(), entries.len());
        assert_eq!(record.is_empty(), entries.is_empty());
        (record.form(), entries)
    }))
}

fn read(build: impl FnOnce(&SimTracker<'_>) -> Vec<(&'static str, u64)>) -> Read {
    read_with(4096, build)
}

#[test]
fn without_an_object_nothing_is_preserved() {
    assert_eq!(read(|_| vec![]), Ok(None));
    assert_eq!(read(|_| vec![("vfio", 1), ("xpci", 2)]), Ok(None));
}

#[test]
fn the_first_form_is_searched_in_place() {
    let far = Sbdf::new(0x1_0000, 1, 0, 0).unwrap();
    let functions = [at(0, 1), at(0, 2), at(3, 0), far];
    let entries = functions.map(entry1);
    let expected = functions.map(|function| (function, 1)).to_vec();
    let found = read(|tracker| vec![(v1::NAME, write_v1(tracker, 510, 4, &entries))]);
    assert_eq!(found, Ok(Some((Form::V1, expected))));
    let found = read(|tracker| vec![(v1::NAME, write_v1(tracker, 0, 0, &[]))]);
    assert_eq!(found, Ok(Some((Form::V1, vec![]))));
}

#[test]
fn the_second_form_has_holes_and_no_order() {
    // Three blocks; the second one is free slots only.
    let mut entries = vec![FREE; 2 * 510 + 3];
    entries[5] = entry2(at(3, 0), 1);
    entries[1] = entry2(at(0, 1), 2);
    entries[1021] = entry2(at(2, 0), 1);
    let expected = vec![(at(0, 1), 2), (at(2, 0), 1), (at(3, 0), 1)];
    let found = read(|tracker| vec![(v2::NAME, write_v2(tracker, 2, 3, &entries))]);
    assert_eq!(found, Ok(Some((Form::V2, expected))));
    let found = read(|tracker| vec![(v2::NAME, write_v2(tracker, 2, 0, &[]))]);
    assert_eq!(found, Ok(Some((Form::V2, vec![]))));
    let found = read(|tracker| vec![(v2::NAME, write_v2(tracker, 2, 0, &[FREE]))]);
    assert_eq!(found, Ok(Some((Form::V2, vec![]))));
}

#[test]
fn an_unknown_object_stops_the_take_over() {
    for name in ["pci-v2", "pci-v10", "pcie", "pci "] {
        let error = read(|_| vec![("vfio", 1), (name, 0)]).unwrap_err();
        assert!(
            matches!(error, RecordError::UnknownObject { name: found } if found.to_str() == Some(name)),
            "{error}"
        );
    }
    let both = read(|tracker| {
        vec![
            (v1::NAME, write_v1(tracker, 0, 0, &[])),
            (v2::NAME, write_v2(tracker, 2, 0, &[])),
        ]
    });
    assert_eq!(both, Err(RecordError::TwoForms));
}

#[test]
fn t22_hostile_records_of_the_first_form() {
    let two = [entry1(at(0, 2)), entry1(at(0, 1))];
    let v1 = |max, nr, entries: &[v1::PciDevSer]| {
        read(|tracker| vec![(v1::NAME, write_v1(tracker, max, nr, entries))]).unwrap_err()
    };
    let function = at(0, 1);
    assert_eq!(v1(2, 2, &two), RecordError::Unsorted { function });
    let twice = [two[1], two[1]];
    assert_eq!(v1(2, 2, &twice), RecordError::Duplicate { function });
    let mut reserved = two[1];
    reserved.reserved = 1.into();
    assert_eq!(v1(1, 1, &[reserved]), RecordError::Reserved { function });
    for (max, nr) in [
        (1, 2),
        (511, 1),
        (u64::MAX, 1),
        (1 << 61, 1 << 61),
        (0, u64::MAX),
    ] {
        let error = v1(max, nr, &two);
        assert!(
            matches!(error, RecordError::Count { .. }),
            "{max} {nr}: {error}"
        );
    }
    // Not a page, not preserved, not memory, nothing.
    for data in [0, 0x12_3000, 0x12_3001, 1 << 50, u64::MAX] {
        for name in [v1::NAME, v2::NAME] {
            let error = read(|_| vec![(name, data)]).unwrap_err();
            assert!(
                matches!(error, RecordError::Memory { .. }),
                "{data:#x}: {error}"
            );
        }
    }
    // The middle of somebody's folio.
    let error = read(|tracker| {
        let (at, _) = tracker.alloc_preserved(3 * 4096).unwrap();
        vec![(v1::NAME, at.as_u64() + 4096)]
    });
    assert!(matches!(error, Err(RecordError::Memory { .. })));
}

#[test]
fn t22_hostile_records_of_the_second_form() {
    let v2 = |version, nr, entries: &[v2::PciDevSer]| {
        read(|tracker| vec![(v2::NAME, write_v2(tracker, version, nr, entries))]).unwrap_err()
    };
    let function = at(0, 1);
    let one = [entry2(function, 1)];
    for found in [0, 1, 3, u32::MAX] {
        let error = v2(found, 1, &one);
        assert!(matches!(error, RecordError::Version { found: f, .. } if f == found));
    }
    for nr in [0, 2, u32::MAX] {
        let error = v2(2, nr, &one);
        assert!(
            matches!(error, RecordError::Mismatch { found: 1, .. }),
            "{error}"
        );
    }
    // Equal but for the count, which is not part of the key.
    let twice = [one[0], entry2(at(0, 2), 1), entry2(function, 2)];
    assert_eq!(v2(2, 3, &twice), RecordError::Duplicate { function });
    assert_eq!(
        v2(2, 1, &[one[0], entry2(function, 0)]),
        RecordError::Reserved { function }
    );
    let error = RecordError::Refcount {
        function,
        found: 2,
        max: 1,
    };
    assert_eq!(v2(2, 1, &[entry2(function, 2)]), error);
    // The header is its own first block: as such, version 2 would count many entries.
    let error = read(|tracker| {
        let at = header_v2(tracker, 2, 0, PhysAddr::new(0));
        let head = v2::PciSer {
            version: 2.into(),
            nr_devices: 0.into(),
            devices: at.into(),
        };
        tracker
            .mem()
            .write(PhysAddr::new(at), head.as_bytes())
            .unwrap();
        vec![(v2::NAME, at)]
    });
    assert!(error.is_err());
    // A block in the header's own folio, whose entry is sound.
    let mut folio = 0;
    let error = read(|tracker| {
        let (at, block) = header_and_block(tracker, one[0].as_bytes());
        let head = v2::PciSer {
            version: 2.into(),
            nr_devices: 1.into(),
            devices: block.into(),
        };
        let place = PhysAddr::new(at);
        tracker.mem().write(place, head.as_bytes()).unwrap();
        folio = at;
        vec![(v2::NAME, at)]
    });
    let at = PhysAddr::new(folio);
    assert_eq!(error.unwrap_err(), RecordError::Overlap { at });
    // A block that counts none, or more than it has room for.
    for found in [0, 511] {
        let mut at = PhysAddr::new(0);
        let error = read(|tracker| {
            (at, _) = tracker.alloc_preserved(4096).unwrap();
            tracker.mem().write(at, [0, found].as_bytes()).unwrap();
            vec![(v2::NAME, header_v2(tracker, 2, 1, at))]
        });
        let max = 510;
        assert_eq!(error, Err(RecordError::Count { at, found, max }));
    }
    // A chain that leads back into itself.
    let error = read(|tracker| {
        let (block, _) = tracker.alloc_preserved(4096).unwrap();
        let words = [block.as_u64().to_le_bytes(), 1u64.to_le_bytes()];
        tracker.mem().write(block, words.as_flattened()).unwrap();
        vec![(v2::NAME, header_v2(tracker, 2, 1, block))]
    });
    assert!(
        matches!(error, Err(RecordError::Memory { .. })),
        "{error:?}"
    );
}

#[test]
fn ten_thousand_functions() {
    let function = |n: usize| Sbdf::from_bdf(n as u32 % 7, (n * 13 % 0x1_0000) as u16);
    let mut all: Vec<_> = (0..10_000).map(function).collect();
    let entries: Vec<_> = all.iter().map(|f| entry2(*f, 1)).collect();
    let build = |tracker: &SimTracker<'_>| vec![(v2::NAME, write_v2(tracker, 2, 10_000, &entries))];
    assert_eq!(
        read_with(9_999, build),
        Err(RecordError::Workspace { words: 10_000 })
    );
    all.sort();
    let (_, found) = read_with(10_000, build).unwrap().unwrap();
    assert!(found.iter().map(|found| found.0).eq(all));
}

/// The second form read slowly: what there is to find, `None` if anything is wrong.
fn slowly(nr: u32, entries: &[(u8, u8, u16)]) -> Option<Vec<(Sbdf, u16)>> {
    let mut found: Vec<(Sbdf, u16)> = Vec::new();
    for &(domain, bdf, refcount) in entries {
        let function = Sbdf::from_bdf(domain.into(), bdf.into());
        match refcount {
            0 if (domain, bdf) != (0, 0) => return None,
            0 => continue,
            _ if found.iter().any(|entry| entry.0 == function) => return None,
            _ => found.push((function, refcount)),
        }
    }
    let fits = found
        .iter()
        .all(|entry| usize::from(entry.1) <= found.len());
    found.sort();
    (fits && found.len() == nr as usize).then_some(found)
}

fn facts(kind: Kind) -> Facts {
    Facts {
        kind,
        identity: 0x0a54_8086,
        class: 0x0108_0203,
        bars: Some(Bars {
            bars: [14, 0, 20, 0, 0, 0],
            rom: 16,
            vf_bars: [0, 0, 0, 0, 0, 12],
        }),
    }
}

fn write_functions(tracker: &SimTracker<'_>, count: u64, entries: &[FunctionSer]) -> u64 {
    let mut set = BlockSet::<FunctionSer>::default();
    set.resize(tracker, entries.len()).unwrap();
    for (i, entry) in entries.iter().enumerate() {
        set.write(tracker, i, entry).unwrap();
    }
    let (at, _) = tracker.alloc_preserved(16).unwrap();
    let header = FunctionsSer {
        count: count.into(),
        entries: set.head().as_u64().into(),
    };
    tracker.mem().write(at, header.as_bytes()).unwrap();
    at.as_u64()
}

/// A folio with a block of one entry in its second page; the first is for a header.
fn header_and_block(tracker: &SimTracker<'_>, entry: &[u8]) -> (u64, u64) {
    let (at, _) = tracker.alloc_preserved(8192).unwrap();
    let block = PhysAddr::new(at.as_u64() + 4096);
    let words = [0, 1].map(u64::to_le_bytes);
    let bytes = [words.as_flattened(), entry].concat();
    tracker.mem().write(block, &bytes).unwrap();
    (at.as_u64(), block.as_u64())
}

fn read_functions(
    build: impl FnOnce(&SimTracker<'_>) -> Vec<(&'static str, u64)>,
) -> Result<Option<Vec<(Sbdf, Facts)>>, RecordError> {
    let mut memory = memory();
    let boot = hand_over(&memory, build);
    let frozen = memory.freeze();
    let incoming = check(&frozen, boot);
    let found = Functions::read(&incoming, &mut [0; 4096])?;
    Ok(found.map(|found| found.iter().collect()))
}

#[test]
fn t22_what_is_known_of_functions_comes_back_or_is_refused() {
    let all: Vec<_> = (0..300u16)
        .map(|n| {
            (
                Sbdf::from_bdf(u32::from(n) / 100, n),
                facts(Kind::ALL[usize::from(n) % Kind::ALL.len()]),
            )
        })
        .collect();
    let sers: Vec<_> = all.iter().map(|(f, facts)| facts.ser(*f)).collect();
    let written = |count, sers: &[FunctionSer]| {
        read_functions(|tracker| vec![(functions::NAME, write_functions(tracker, count, sers))])
    };
    assert_eq!(written(300, &sers), Ok(Some(all)));
    let kinds = [
        Kind::Endpoint,
        Kind::PeerEndpoint,
        Kind::Bridge,
        Kind::Physical,
        Kind::PeerPhysical,
    ];
    let numbers = kinds.map(|kind| facts(kind).ser(at(0, 0)).kind);
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(written(0, &[]), Ok(Some(Vec::new())));
    assert_eq!(read_functions(|_| Vec::new()), Ok(None));
    // Not written, or another number than there are.
    for count in [u64::MAX, 299, 301] {
        assert!(matches!(
            written(count, &sers),
            Err(RecordError::Mismatch { found: 300, expected, .. }) if expected == count
        ));
    }
    let with = |change: fn(&mut Vec<FunctionSer>)| {
        let mut sers = sers[..3].to_vec();
        change(&mut sers);
        written(3, &sers).unwrap_err()
    };
    let [zero, one] = [0, 1].map(|bdf| Sbdf::from_bdf(0, bdf));
    let duplicate = with(|sers| sers[1] = sers[0]);
    assert_eq!(duplicate, RecordError::Duplicate { function: zero });
    let unsorted = with(|sers| sers.swap(0, 1));
    assert_eq!(unsorted, RecordError::Unsorted { function: zero });
    for change in [
        (|sers| sers[1].kind = 5) as fn(&mut Vec<FunctionSer>),
        |sers| sers[1].flags = 2 | SIZES_KNOWN,
        |sers| sers[1].flags = 0,
        |sers| sers[1].bars[5] = 64,
        |sers| sers[1].rom = 255,
        |sers| sers[1].vf_bars[0] = 64,
        |sers| sers[1].reserved[2] = 1,
    ] {
        assert_eq!(with(change), RecordError::Reserved { function: one });
    }
    // A block in the header's own folio, whose entry is sound.
    let mut folio = 0;
    let error = read_functions(|tracker| {
        let (at, block) = header_and_block(tracker, sers[0].as_bytes());
        let header = FunctionsSer {
            count: 1.into(),
            entries: block.into(),
        };
        let place = PhysAddr::new(at);
        tracker.mem().write(place, header.as_bytes()).unwrap();
        folio = at;
        vec![(functions::NAME, at)]
    });
    let overlap = PhysAddr::new(folio);
    assert_eq!(error, Err(RecordError::Overlap { at: overlap }));
    // Memory that is not preserved.
    let error = read_functions(|_| vec![(functions::NAME, 0x50_0000)]);
    assert!(
        matches!(error, Err(RecordError::Memory { .. })),
        "{error:?}"
    );
    // Whoever does not know the object reads the record all the same.
    let (form, found) = {
        let function = at(3, 0);
        read(|tracker| {
            vec![
                (v2::NAME, write_v2(tracker, 2, 1, &[entry2(function, 1)])),
                (functions::NAME, write_functions(tracker, 0, &[])),
            ]
        })
    }
    .unwrap()
    .unwrap();
    assert_eq!((form, found.len()), (Form::V2, 1));
}

/// Memory that both objects name; each by itself is sound.
#[test]
fn t22_two_objects_never_share_memory() {
    let write = |tracker: &SimTracker<'_>, words: [u64; 2]| {
        let (at, _) = tracker.alloc_preserved(4096).unwrap();
        let bytes = words.map(u64::to_le_bytes);
        tracker.mem().write(at, bytes.as_flattened()).unwrap();
        at.as_u64()
    };
    // A block of one entry: a free slot, and what is known of 0000:00:00.0.
    let block = |tracker: &SimTracker<'_>| write(tracker, [0, 1]);
    let both = |share: fn(&mut [u64; 2], &mut [u64; 2])| {
        read_functions(|tracker| {
            // Header and block of each.
            let facts = block(tracker);
            let mut facts = [write(tracker, [1, facts]), facts];
            let record = block(tracker);
            let mut record = [write(tracker, [2, record]), record];
            share(&mut record, &mut facts);
            let rewrite = |[at, block]: [u64; 2], first: u64| {
                let words = [first, block].map(u64::to_le_bytes);
                let place = PhysAddr::new(at);
                tracker.mem().write(place, words.as_flattened()).unwrap();
            };
            rewrite(record, 2);
            // As a record's header, what says that there are two functions has version 2.
            let two = record[0] == facts[0];
            if two {
                let count = PhysAddr::new(record[1] + 8);
                tracker.mem().write(count, &[2]).unwrap();
                // The second function, behind what is a record's last free slot.
                let second = PhysAddr::new(record[1] + 16 + 32);
                tracker.mem().write(second, &[1]).unwrap();
            }
            rewrite(facts, if two { 2 } else { 1 });
            vec![(v2::NAME, record[0]), (functions::NAME, facts[0])]
        })
    };
    assert_eq!(both(|_, _| {}).unwrap().unwrap().len(), 1);
    for share in [
        (|record, facts| facts[1] = record[1]) as fn(&mut [u64; 2], &mut [u64; 2]),
        |record, facts| *facts = *record,
    ] {
        let error = both(share).unwrap_err();
        assert!(matches!(error, RecordError::Overlap { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_second_form_as_read_slowly(
        mut entries in prop::collection::vec((0..2u8, 0..40u8, 1..4u16), 0..12),
        free in prop::collection::vec(0..12usize, 0..4),
        damage in 0..4u8,
    ) {
        for at in free {
            if let Some(entry) = entries.get_mut(at) {
                *entry = (0, 0, 0);
            }
        }
        if damage == 0 && let Some(entry) = entries.first_mut() {
            entry.2 = 0;
        }
        let used = entries.iter().filter(|entry| entry.2 != 0).count() as u32;
        let nr = if damage == 1 { used + 1 } else { used };
        let sers: Vec<_> = entries
            .iter()
            .map(|e| entry2(Sbdf::from_bdf(e.0.into(), e.1.into()), e.2))
            .collect();
        let found = read(|tracker| vec![(v2::NAME, write_v2(tracker, 2, nr, &sers))]);
        let expected = slowly(nr, &entries);
        prop_assert_eq!(found.ok().flatten().map(|found| found.1), expected);
    }

    /// Any bytes at all are a record or an error.
    #[test]
    fn any_bytes(words in prop::collection::vec(prop_oneof![0..4u64, any::<u64>(), Just(1 << 20)], 2..64)) {
        for name in [v1::NAME, v2::NAME] {
            let _ = read(|tracker| {
                let (at, _) = tracker.alloc_preserved(4096).unwrap();
                tracker.mem().write(at, words.as_bytes()).unwrap();
                vec![(name, at.as_u64())]
            });
        }
        let _ = read_functions(|tracker| {
            let (at, _) = tracker.alloc_preserved(4096).unwrap();
            tracker.mem().write(at, words.as_bytes()).unwrap();
            vec![(functions::NAME, at.as_u64())]
        });
    }
}

/// However many functions there are, 64 KiB of stack are enough to read either object of them.
#[test]
fn reading_takes_a_small_stack() {
    const COUNT: u16 = 20_000;
    let functions = || (0..COUNT).map(|n| Sbdf::from_bdf(0, n));
    let mut memory = memory();
    let boot = hand_over(&memory, |tracker| {
        let entries: Vec<_> = functions().map(|function| entry2(function, 1)).collect();
        let sers: Vec<_> = functions().map(|f| facts(Kind::Endpoint).ser(f)).collect();
        let known = write_functions(tracker, COUNT.into(), &sers);
        vec![
            (v2::NAME, write_v2(tracker, 2, COUNT.into(), &entries)),
            (functions::NAME, known),
        ]
    });
    let frozen = memory.freeze();
    let mut workspace = vec![0; COUNT.into()];
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let read = || {
            let incoming = check(&frozen, boot);
            let known = Functions::read(&incoming, &mut workspace).unwrap().unwrap();
            let count = known.iter().count();
            let record = Record::read(&incoming, &mut workspace).unwrap().unwrap();
            assert_eq!((count, record.len()), (COUNT.into(), COUNT.into()));
        };
        thread.spawn_scoped(scope, read).unwrap().join().unwrap();
    });
}

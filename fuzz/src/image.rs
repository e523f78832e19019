//! Handovers with some words changed: what is accepted is what a slow reader finds.

use std::cell::RefCell;

use arbitrary::{Arbitrary, Unstructured};
use kho::abi::chunk::V1Bitmaps;
use kho::abi::fdt::Generation;
use kho::core::incoming::{Folio, Incoming, Machine};
use kho::hal::{FrozenMem, MemError, Order, PhysAddr, PhysRange};
use kho::pci_lu::{Functions, Record};

use crate::base::{Base, OBJECT_DATA, PAGE};

/// One change.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Change {
    place: u16,
    value: Value,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    Small(u8),
    Max,
    Raw(u64),
    /// A page, of memory and a little beyond.
    Page(u8),
    /// What stands at another place.
    Copy(u16),
    FlipBit(u8),
    Add(i8),
    Byte(u8, u8),
}

/// Memory from address 0 on.
struct Words<'a>(&'a [u64]);

impl FrozenMem for Words<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let absent = MemError::Absent {
            addr,
            len: len as u64,
        };
        let from = usize::try_from(addr.as_u64()).map_err(|_| absent)?;
        let end = from.checked_add(len).ok_or(absent)?;
        zerocopy::IntoBytes::as_bytes(self.0)
            .get(from..end)
            .ok_or(absent)
    }
}

/// Applies the changes to a copy that is kept, calls `test`, and takes them back.
fn damaged(base: &mut Base, changes: &[Change], test: impl FnOnce(&Base)) {
    let mut undo = Vec::new();
    for change in changes.iter().take(16) {
        let place = |n: u16| base.places[usize::from(n) % base.places.len()];
        let at = place(change.place);
        let was = base.words[at];
        let now = match change.value {
            Value::Small(n) => n.into(),
            Value::Max => u64::MAX,
            Value::Raw(raw) => raw,
            Value::Page(page) => u64::from(page) << 12,
            Value::Copy(from) => base.words[place(from)],
            Value::FlipBit(bit) => was ^ 1 << (bit % 64),
            Value::Add(n) => was.wrapping_add_signed(n.into()),
            Value::Byte(i, byte) => {
                let shift = u32::from(i % 8) * 8;
                was & !(0xff << shift) | u64::from(byte) << shift
            }
        };
        undo.push((at, was));
        base.words[at] = now;
    }
    test(base);
    for (at, was) in undo.into_iter().rev() {
        base.words[at] = was;
    }
}

fn changes(data: &[u8]) -> Vec<Change> {
    Vec::arbitrary_take_rest(Unstructured::new(data)).unwrap_or_default()
}

/// Whatever is changed in a handover of the newest generation.
pub fn handover(data: &[u8]) {
    thread_local!(static BASE: RefCell<Base> = RefCell::new(Base::new(Generation::V4)));
    BASE.with_borrow_mut(|base| damaged(base, &changes(data), check));
}

/// Whatever is changed in a handover whose map is a list. The first byte says which generation.
pub fn lists(data: &[u8]) {
    const LISTS: [Generation; 4] = [
        Generation::Sketch,
        Generation::SeriesV5,
        Generation::V1Small,
        Generation::V1Page,
    ];
    thread_local!(static BASES: RefCell<[Base; 4]> = RefCell::new(LISTS.map(Base::new)));
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    BASES.with_borrow_mut(|bases| {
        damaged(&mut bases[usize::from(first % 4)], &changes(rest), check)
    });
}

/// The bytes of a record of PCI functions and of its first block, in either form, or of what is known
/// of the functions.
pub fn pci_record(data: &[u8]) {
    thread_local!(static BASE: RefCell<Base> = RefCell::new(Base::new(Generation::V4)));
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    BASE.with_borrow_mut(|base| {
        let mut base = base.clone();
        let name: &[u8] = match form & 5 {
            0 => b"pci-v1",
            1 => b"pci",
            _ => b"kho-functions-v1",
        };
        for (i, bytes) in name.chunks(8).enumerate() {
            let mut raw = [0; 8];
            raw[..bytes.len()].copy_from_slice(bytes);
            base.words[base.object + i] = u64::from_le_bytes(raw);
        }
        let [header, block] = base.pages;
        base.words[base.object + OBJECT_DATA] = header as u64 * 8;
        let half = rest.len().min(if form & 5 == 0 { 4096 } else { 16 });
        for (page, bytes) in [(header, &rest[..half]), (block, &rest[half..])] {
            for (word, bytes) in base.words[page..page + 512].iter_mut().zip(bytes.chunks(8)) {
                let mut raw = [0; 8];
                raw[..bytes.len()].copy_from_slice(bytes);
                *word = u64::from_le_bytes(raw);
            }
        }
        if form & 2 != 0 {
            base.words[header + 1] = block as u64 * 8;
        }
        let memory = Words(&base.words);
        let mut workspace = [0; 64];
        let incoming = Incoming::check(&memory, base.boot, Machine::unknown(PAGE), &mut workspace)
            .expect("an object's own data is not looked at");
        let mut workspace = [0; 1024];
        if let Ok(Some(record)) = Record::read(&incoming, &mut workspace) {
            let all: Vec<_> = record.iter().collect();
            assert_eq!(all.len(), record.len());
            for entry in &all {
                assert_eq!(record.find(entry.function), Some(*entry));
            }
        }
        if let Ok(Some(functions)) = Functions::read(&incoming, &mut [0; 64]) {
            let all: Vec<_> = functions.iter().map(|(function, _)| function).collect();
            assert!(all.is_sorted_by(|a, b| a < b));
        }
    });
}

/// Checks the handover; if it is accepted, everything in it is what it must be.
fn check(base: &Base) {
    let memory = Words(&base.words);
    let machine = Machine {
        v1_bitmaps: match base.generation {
            Generation::V1Small => Some(V1Bitmaps::Small),
            Generation::V1Page => Some(V1Bitmaps::Page),
            _ => None,
        },
        ..Machine::unknown(PAGE)
    };
    let checked = Incoming::check(&memory, base.boot, machine, &mut [0; 64]);
    let mut problems = Vec::new();
    let report = |error| problems.push(error);
    let diagnosed = Incoming::diagnose(&memory, base.boot, machine, &mut [0; 64], report);
    let incoming = match checked {
        Ok(incoming) => incoming,
        Err(error) => {
            assert!(
                diagnosed.is_err() || problems.contains(&error),
                "{problems:?}"
            );
            return;
        }
    };
    assert_eq!((diagnosed, problems.len()), (Ok(()), 0), "{problems:?}");
    let found: Vec<Folio> = incoming.folios().take(100_000).collect();
    if incoming.generation() == base.generation {
        let mut expected = match base.generation {
            Generation::V4 => naive_tree(&memory, incoming.map_addr().as_u64()),
            _ => naive_list(&memory, incoming.map_addr().as_u64(), base.generation),
        };
        expected.sort();
        if found.len() < 100_000 {
            assert_eq!(found, expected, "the folios that a slow reader finds");
        }
    }
    let mut end = PhysAddr::new(0);
    for folio in &found {
        let range = folio.range(PAGE);
        assert!(range.start() >= end, "folios are ascending and disjoint");
        assert!(incoming.scratch().areas().all(|area| !area.overlaps(range)));
        end = range.end();
    }
    let preserved = |range: PhysRange| {
        incoming
            .folios_in(range)
            .map(|folio| folio.range(PAGE).size())
            .sum::<u64>()
            >= range.size()
    };
    for blob in incoming.subtrees() {
        assert!(preserved(blob.range), "{blob:?}");
    }
    for region in incoming.reserve_mem().iter() {
        assert!(incoming.reserve_mem().find(region.name).is_some());
    }
    if let Ok(area) = incoming.vmalloc(base.area, &mut [0; 64]) {
        // Some of them: each is a walk through the list and a look through the map.
        for (i, group) in area.groups().enumerate().step_by(50) {
            assert!(preserved(group));
            assert_eq!(area.locate(i as u64 * group.size()), Some(group));
        }
    }
    let [first, second] = base.pages.map(|page| PhysAddr::new(page as u64 * 8));
    if let Ok(blocks) = incoming.blocks::<[u8; 16]>(first, &mut [0; 64]) {
        let own = |block: PhysAddr| PhysRange::new(block, 4096).is_some_and(preserved);
        assert!(blocks.blocks().all(|(block, _)| own(block)));
    }
    let _ = incoming.bytes(second, 4096, &mut [0; 64]);
    incoming.for_each_map_page(|page| assert!(!found.iter().any(|f| f.range(PAGE).overlaps(page))));
    let Some(luo) = incoming.luo().known() else {
        return;
    };
    for session in luo.sessions() {
        assert_eq!(session.files().count() as u64, session.count());
        for memory in session.files().filter_map(|file| file.memfd()) {
            let mut next = 0;
            for segment in memory.segments() {
                assert!(segment.offset >= next && preserved(segment.range));
                assert_eq!(memory.locate(segment.offset), Some(segment));
                next = segment.offset + segment.range.size();
            }
            assert!(next <= memory.descriptor().size.get());
        }
    }
}

fn word(memory: &Words<'_>, at: u64) -> u64 {
    let bytes = memory.bytes(PhysAddr::new(at), 8).expect("it was accepted");
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn folio(addr: u64, order: u32) -> Folio {
    let order = Order::new(order).expect("it was accepted");
    Folio {
        addr: PhysAddr::new(addr),
        order,
    }
}

/// Every key of the tree, one after the other.
fn naive_tree(memory: &Words<'_>, root: u64) -> Vec<Folio> {
    fn below(memory: &Words<'_>, node: u64, level: u32, path: u64, found: &mut Vec<Folio>) {
        for i in 0..512 {
            let word = word(memory, node + i * 8);
            if level > 0 {
                if word != 0 {
                    below(memory, word, level - 1, path << 9 | i, found);
                }
                continue;
            }
            for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
                let key = path << 15 | i << 6 | bit;
                let order = 52 - key.ilog2();
                found.push(folio((key ^ 1 << key.ilog2()) << (12 + order), order));
            }
        }
    }
    let mut found = Vec::new();
    below(memory, root, 5, 0, &mut found);
    found
}

/// Every bit of every bitmap, one after the other.
fn naive_list(memory: &Words<'_>, head: u64, generation: Generation) -> Vec<Folio> {
    let bytes = if generation == Generation::V1Page {
        4096
    } else {
        512
    };
    let mut found = Vec::new();
    let mut chunk = head;
    while chunk != 0 {
        let (next, numbers) = match generation {
            Generation::Sketch => (word(memory, chunk + 8), word(memory, chunk)),
            _ => (word(memory, chunk), word(memory, chunk + 8)),
        };
        let (order, count) = (numbers as u32, numbers >> 32);
        for entry in 0..count {
            let start = word(memory, chunk + 16 + entry * 16);
            let bitmap = word(memory, chunk + 24 + entry * 16);
            for i in 0..bytes / 8 {
                let word = word(memory, bitmap + i * 8);
                for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
                    found.push(folio(start + ((i * 64 + bit) << (12 + order)), order));
                }
            }
        }
        chunk = next;
    }
    found
}

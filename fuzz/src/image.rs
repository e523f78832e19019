//! Handovers that are damaged, as they lie in memory.

use std::cell::RefCell;

use kho::abi::fdt::Generation;
use kho::core::incoming::{Incoming, Machine};
use kho::hal::PageSize;
use kho::pci_lu::{Functions, Record};

use crate::base::{Base, OBJECT_DATA};
use crate::changes::{Reader, changes, damaged, overwritten};
use crate::check::check;

/// Those whose map is a tree: ours, and captured ones.
fn trees() -> Vec<Base> {
    use Generation::{V2, V3, V4};
    use PageSize::{Size4K, Size16K, Size64K};
    let captured = [
        "linux-7.3-x86_64",
        "linux-7.3-arm64",
        "linux-to-ours-x86_64",
        "linux-to-ours-aarch64",
    ];
    let ours = [
        (V4, Size4K),
        (V3, Size4K),
        (V2, Size4K),
        (V4, Size16K),
        (V3, Size64K),
        (V4, Size64K),
    ];
    let ours = ours.map(|(generation, page)| Base::new(generation, page));
    let ours = ours.into_iter().chain([Base::without_sizes()]);
    ours.chain(captured.map(Base::captured)).collect()
}

/// Those whose map is a list.
fn lists_of_chunks() -> Vec<Base> {
    use Generation::{SeriesV5, Sketch, V1Page, V1Small};
    use PageSize::{Size4K, Size16K, Size64K};
    let ours = [
        (Sketch, Size4K),
        (SeriesV5, Size4K),
        (V1Small, Size4K),
        (V1Page, Size4K),
        (V1Small, Size64K),
        (V1Page, Size16K),
        (SeriesV5, Size16K),
        (Sketch, Size64K),
    ];
    ours.map(|(generation, page)| Base::new(generation, page))
        .into()
}

thread_local! {
    static TREES: RefCell<Vec<Base>> = RefCell::new(trees());
    static LISTS: RefCell<Vec<Base>> = RefCell::new(lists_of_chunks());
}

/// Some words changed: the first byte says in which of the handovers, the second how it is read.
fn some_words(bases: &RefCell<Vec<Base>>, data: &[u8]) {
    let &[which, reader, ref rest @ ..] = data else {
        return;
    };
    let mut bases = bases.borrow_mut();
    let count = bases.len();
    let base = &mut bases[usize::from(which) % count];
    let reader = Reader::new(reader, base);
    damaged(base, &changes(rest), |base| check(base, &reader));
}

/// Whatever is changed in a handover whose map is a tree.
pub fn handover(data: &[u8]) {
    TREES.with(|bases| some_words(bases, data));
}

/// Whatever is changed in a handover whose map is a list.
pub fn lists(data: &[u8]) {
    LISTS.with(|bases| some_words(bases, data));
}

/// Any bytes in place of a page or a sub-blob of any handover: which handover, how it is read, which
/// page, its bytes.
pub fn pages(data: &[u8]) {
    let &[which, reader, spot, ref bytes @ ..] = data else {
        return;
    };
    TREES.with_borrow_mut(|trees| {
        LISTS.with_borrow_mut(|lists| {
            let (which, count) = (usize::from(which), trees.len() + lists.len());
            let mut bases = trees.iter_mut().chain(lists);
            let base = bases.nth(which % count).expect("as many");
            let reader = Reader::new(reader, base);
            overwritten(base, spot, bytes, |base| check(base, &reader));
        });
    });
}

/// Inputs to [`pages`] that change nothing: each spot of each handover as it is, with a name.
pub fn sound_pages() -> Vec<(String, Vec<u8>)> {
    let mut inputs = Vec::new();
    let bases = trees().into_iter().chain(lists_of_chunks());
    for (which, base) in bases.enumerate() {
        for (i, spot) in base.spots.iter().enumerate() {
            let bytes = base.memory.bytes(spot.start().as_u64(), spot.size());
            let bytes = bytes.expect("a spot is in memory");
            let end = bytes.iter().rposition(|&byte| byte != 0);
            let mut input = vec![which as u8, 1, i as u8];
            input.extend(&bytes[..end.map_or(0, |last| last + 1)]);
            inputs.push((format!("{which:02}-{i:02}"), input));
        }
    }
    inputs
}

/// The bytes of a record of PCI functions and of its first block, in either form, or of what is known
/// of the functions.
pub fn pci_record(data: &[u8]) {
    const PAGE: PageSize = PageSize::Size4K;
    thread_local!(static BASE: RefCell<Base> = RefCell::new(Base::new(Generation::V4, PAGE)));
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    BASE.with_borrow(|base| {
        let mut base = base.clone();
        let name: &[u8] = match form & 5 {
            0 => b"pci-v1\0\0",
            1 => b"pci\0\0\0\0\0",
            _ => b"kho-functions-v1",
        };
        let [header, block] = base.pages.map(|page| page.as_u64());
        let number = header.to_le_bytes();
        base.memory.write(base.object, name);
        base.memory.write(base.object + OBJECT_DATA, &number);
        let half = rest.len().min(if form & 5 == 0 { 4096 } else { 16 });
        let (first, second) = rest.split_at(half);
        base.memory.write(header, first);
        base.memory.write(block, &second[..second.len().min(4096)]);
        if form & 2 != 0 {
            base.memory.write(header + 8, &block.to_le_bytes());
        }
        let reader = Reader::new(2, &base);
        let memory = base.memory.lend(reader.ram());
        let machine = Machine {
            ram: reader.ram(),
            ..Machine::unknown(PAGE)
        };
        let mut workspace = [0; 64];
        let incoming = Incoming::check(&memory, base.boot, machine, &mut workspace)
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

//! The inference on functions that lie.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use kho_hal::{Access, Width};
use kho_pcsc::walk::{End, walk_extended, walk_standard};
use kho_pcsc::{CapId, Inference, Source};
use proptest::prelude::*;

struct Image(Vec<u8>);

impl Source for Image {
    fn read(&mut self, at: Access) -> Option<u32> {
        let bytes = self
            .0
            .get(usize::from(at.offset())..usize::from(at.end()))?;
        Some(bytes.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b)))
    }
}

/// A PCI Express endpoint whose two lists are one capability each.
fn endpoint() -> Image {
    let mut bytes = vec![0; 4096];
    bytes[0x06] = 0x10;
    bytes[0x34] = 0x40;
    bytes[0x40..0x44].copy_from_slice(&[0x10, 0x00, 0x02, 0x00]);
    bytes[0x100..0x104].copy_from_slice(&[0x01, 0x00, 0x01, 0x00]);
    Image(bytes)
}

fn standard(image: &mut Image) -> (End, usize) {
    let mut count = 0;
    let end = walk_standard(image, 0, |_| count += 1);
    (end, count)
}

fn extended(image: &mut Image) -> (End, usize) {
    let mut count = 0;
    let end = walk_extended(image, |_| count += 1);
    (end, count)
}

#[test]
fn lists_that_loop_or_leave_end() {
    let mut image = endpoint();
    assert_eq!(standard(&mut image), (End::Complete, 1));
    assert_eq!(extended(&mut image), (End::Complete, 1));
    for (next, end) in [
        (0x40, End::Loop { offset: 0x40 }),
        (0x43, End::Loop { offset: 0x40 }),
        (0x3c, End::Outside { offset: 0x3c }),
        (0x03, End::Complete),
    ] {
        image.0[0x41] = next;
        assert_eq!(standard(&mut image), (end, 1), "{next:#x}");
    }
    for (next, end) in [
        (0x1000u16, End::Loop { offset: 0x100 }),
        (0x1020, End::Loop { offset: 0x100 }),
        (0x0fc0, End::Outside { offset: 0xfc }),
        (0x0030, End::Complete),
        (0xffc0, End::Unreadable { offset: 0xffc }),
    ] {
        image.0[0x102..0x104].copy_from_slice(&(next | 1).to_le_bytes());
        assert_eq!(extended(&mut image), (end, 1), "{next:#x}");
    }
    // A header of zeros or ones says "no list" at its head, and behind a pointer nothing.
    for hole in [0, 0xff] {
        image.0[0x102..0x104].copy_from_slice(&0x2001u16.to_le_bytes());
        image.0[0x200..0x204].fill(hole);
        assert_eq!(extended(&mut image), (End::Unreadable { offset: 0x200 }, 1));
        let mut none = endpoint();
        none.0[0x100..0x104].fill(hole);
        assert_eq!(extended(&mut none), (End::Complete, 0));
    }
    image.0[0x200..0x204].fill(0);
    // The longest lists there can be.
    for offset in (0x40..0x100).step_by(4) {
        image.0[offset] = 1;
        image.0[offset + 1] = (offset + 4) as u8;
    }
    assert_eq!(standard(&mut image), (End::Complete, 48));
    for offset in (0x100..0x1000u32).step_by(4) {
        let header = 0x1_0001 | (offset + 4) << 20;
        let at = offset as usize;
        image.0[at..at + 4].copy_from_slice(&header.to_le_bytes());
    }
    assert_eq!(extended(&mut image), (End::Complete, 960));
}

#[test]
fn an_incomplete_list_has_no_unlisted_bytes() {
    let mut image = endpoint();
    assert!(Inference::new(&mut image).unwrap().is_complete());
    image.0[0x41] = 0x40;
    assert!(!Inference::new(&mut image).unwrap().is_complete());
}

#[test]
fn rows_end_where_the_next_capability_starts() {
    let mut image = endpoint();
    image.0[0x41] = 0x4c;
    image.0[0x4c] = 0x01;
    let inference = Inference::new(&mut image).unwrap();
    let regions: Vec<_> = inference.regions().map(|r| (r.start, r.end)).collect();
    assert_eq!(regions, [(0x40, 0x4c), (0x4c, 0x54), (0x100, 0x148)]);
    let first = inference.regions().next().unwrap();
    assert_eq!(first.id, CapId::Standard(0x10));
    assert!(inference.cacheable.contains(0x4f) && !inference.cacheable.contains(0x50));
}

/// PCI-X 2.0 may have a second list; what is in it is not known.
#[test]
fn the_list_of_a_pci_x_function_is_not_the_whole() {
    for (id, complete) in [(0x07, false), (0x06, true)] {
        let mut image = endpoint();
        image.0[0x40] = id;
        let inference = Inference::new(&mut image).unwrap();
        assert_eq!(inference.is_complete(), complete, "{id:#x}");
    }
}

/// A length that leaves no room for the header is none.
#[test]
fn a_capability_ends_where_its_own_length_says() {
    for (len, end) in [
        (0u8, 0x100),
        (1, 0x100),
        (2, 0x82),
        (3, 0x83),
        (0x20, 0xa0),
        (0xff, 0x100),
    ] {
        let mut image = endpoint();
        image.0[0x41] = 0x80;
        image.0[0x80] = 0x09;
        image.0[0x82] = len;
        let inference = Inference::new(&mut image).unwrap();
        let mut regions = inference.regions();
        let found = regions.find(|region| region.start == 0x80).unwrap();
        assert_eq!(found.end, end, "{len:#x}");
    }
    for (len, end) in [
        (0u16, 0x1000),
        (3, 0x1000),
        (4, 0x104),
        (0x18, 0x118),
        (0xfff, 0x1000),
    ] {
        for id in [0x0b, 0x23] {
            let mut image = endpoint();
            image.0[0x100] = id;
            image.0[0x106..0x108].copy_from_slice(&(len << 4 | 0x0f).to_le_bytes());
            let inference = Inference::new(&mut image).unwrap();
            let found = inference.regions().last().unwrap();
            assert_eq!((found.start, found.end), (0x100, end), "{id:#x} {len:#x}");
        }
    }
}

#[test]
fn of_a_cardbus_bridge_only_the_identity_is_cacheable() {
    let mut image = endpoint();
    image.0[0x06] = 0;
    image.0[0x0e] = 2;
    let inference = Inference::new(&mut image).unwrap();
    let cacheable: Vec<_> = inference.cacheable.ranges().collect();
    assert_eq!(cacheable, [0..4, 8..12, 14..15]);
}

/// The count stands in the middle of the first control register.
#[test]
fn a_resizable_bar_has_as_many_registers_as_it_says() {
    for count in 0..8u16 {
        let mut image = endpoint();
        image.0[0x100..0x104].copy_from_slice(&[0x15, 0x00, 0x01, 0x00]);
        image.0[0x108..0x10a].copy_from_slice(&(0x3f1f | count << 5).to_le_bytes());
        let inference = Inference::new(&mut image).unwrap();
        let found = inference.cacheable.ranges().last();
        assert_eq!(found, Some(0x100..0x104 + 8 * count));
    }
}

/// Where the count would stand, another capability begins.
#[test]
fn a_resizable_bar_without_its_count_has_no_registers() {
    let mut image = endpoint();
    image.0[0x100..0x104].copy_from_slice(&[0x15, 0x00, 0x81, 0x10]);
    image.0[0x108..0x10c].copy_from_slice(&[0xe0, 0x00, 0x01, 0x00]);
    let inference = Inference::new(&mut image).unwrap();
    let found: Vec<_> = inference
        .cacheable
        .ranges()
        .skip_while(|r| r.start < 0x100)
        .collect();
    assert_eq!(found, [0x100..0x104, 0x108..0x10c]);
}

proptest! {
    #[test]
    fn any_bytes_give_a_sound_map(
        seed in prop::collection::vec(any::<u8>(), 4096),
        header in 0u8..4,
        ids in prop::collection::vec(any::<u8>(), 24),
    ) {
        let mut image = Image(seed);
        image.0[0x06] |= 0x10;
        image.0[0x0e] = header;
        // Pointers that lead somewhere, so that the walks get far.
        for (n, id) in ids.iter().enumerate() {
            let at = 0x40 + 8 * n;
            image.0[at] = id % 0x16;
            let at = 0x100 + 0x40 * n;
            let next = (at as u32 + 0x40) << 20;
            let word = u32::from(id % 0x2a) | 1 << 16 | next;
            image.0[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let inference = Inference::new(&mut image).unwrap();
        for never in (4..8).chain([0x0f]).chain(0x35..0x38) {
            prop_assert!(!inference.cacheable.contains(never));
        }
        for (word, constant) in inference.cacheable.words().iter().zip(inference.constant.words()) {
            prop_assert_eq!(word & constant, *constant);
        }
        for (word, listed) in inference.cacheable.words().iter().zip(inference.listed.words()) {
            prop_assert_eq!(word & !listed, 0);
        }
        let mut last = 0;
        for region in inference.regions() {
            prop_assert!(region.start >= last && region.end >= region.start);
            last = region.end;
        }
        let at = Access::new(0, Width::U8).unwrap();
        prop_assert!(image.read(at).is_some());
    }
}

/// Ones are what an absent function answers.
#[test]
fn ones_are_no_header_type() {
    let mut image = endpoint();
    for (header, known) in [(0x80, true), (0x7f, true), (0xff, false)] {
        image.0[0x0e] = header;
        let inference = Inference::new(&mut image);
        assert_eq!(inference.is_some(), known, "{header:#x}");
    }
}

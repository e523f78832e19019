//! The arithmetic of effects, against the plainest way to say the same.

use std::vec::Vec;

use kho_hal::Width;
use proptest::prelude::*;

use super::*;

fn bridge_on(bus: u8) -> Sbdf {
    Sbdf::from_bdf(0, u16::from(bus) << 8 | 8)
}

/// The range, if there is a bus in it.
fn some((first, last): (u8, u8)) -> Option<(u8, u8)> {
    (first <= last).then_some((first, last))
}

/// Every access inside one 16-byte window that starts at `from`.
fn accesses(from: u16) -> impl Iterator<Item = Access> {
    let widths = [Width::U8, Width::U16, Width::U32];
    (from..from + 16)
        .flat_map(move |offset| widths.map(|width| Access::new(offset, width)))
        .flatten()
}

/// PCI-to-PCI Bridge 1.2, 3.2.5.3 and 3.2.5.4: 0 and 0 after a reset; otherwise the buses from the
/// secondary to the subordinate one, which come after the primary.
#[test]
fn the_buses_below_are_those_from_secondary_to_subordinate() {
    for bus in [0u8, 1, 0x20, 0xfe, 0xff] {
        let above = (bus < 0xff).then(|| (bus + 1, 0xff));
        for secondary in 0..=u8::MAX {
            for subordinate in 0..=u8::MAX {
                // Primary bus and latency timer do not matter.
                let value = u32::from_le_bytes([0x5a, secondary, subordinate, 0xa5]);
                let expected = match (secondary, subordinate) {
                    (0, 0) => None,
                    (first, last) if first > bus && last >= first => Some((first, last)),
                    _ => above,
                };
                let found = span(bridge_on(bus), value);
                assert_eq!(some(found), expected, "{bus:x} {value:x}");
            }
        }
        assert_eq!(some(every_bus_above(bridge_on(bus))), above);
    }
}

/// A write as its bytes, and a rule's register as its bits, one by one.
fn meets_model(rule: &Rule, base: u16, at: Access, value: u32) -> Option<Touched> {
    let written: Vec<(u16, u8)> = (at.offset()..at.end()).zip(value.to_le_bytes()).collect();
    let register = base + rule.first..=base + rule.last;
    if !written.iter().any(|(offset, _)| register.contains(offset)) {
        return None;
    }
    let mut met = Touched {
        ones: 0,
        touched: 0,
    };
    for bit in (0..32u16).filter(|bit| rule.mask >> bit & 1 != 0) {
        let byte = base + rule.first + bit / 8;
        if let Some((_, value)) = written.iter().find(|(offset, _)| *offset == byte) {
            met.touched |= 1 << bit;
            met.ones |= u32::from(value >> (bit % 8) & 1) << bit;
        }
    }
    Some(met)
}

#[test]
fn a_write_meets_the_bits_of_a_rule_that_its_bytes_hold() {
    let values = [0, u32::MAX, 0x8000_0001, 0x1234_5678, 0x0000_ff00];
    for rule in RULES {
        for base in [0x40, 0x42, 0x100] {
            for at in accesses((base + rule.first) & !7).chain(accesses((base + rule.last) & !7)) {
                for value in values {
                    let expected = meets_model(rule, base, at, value);
                    assert_eq!(rule.meets(base, at, value), expected, "{rule:x?} {at:x?}");
                }
            }
        }
    }
}

/// What the four triggers promise, over every way in which a one-bit register can be written.
#[test]
fn triggers_fire_as_their_documentation_says() {
    let (set, clear, beside) = ((1, 1), (0, 1), (0, 0));
    let (was_set, was_clear, unknown) = (Some(true), Some(false), None);
    #[rustfmt::skip]
    let table = [
        // The write, what it was before: any, set, level, change.
        (set,    was_set,   [true, true,  true,  false]),
        (set,    was_clear, [true, true,  true,  true]),
        (set,    unknown,   [true, true,  true,  true]),
        (clear,  was_set,   [true, false, true,  true]),
        (clear,  was_clear, [true, false, false, false]),
        (clear,  unknown,   [true, false, true,  true]),
        (beside, was_set,   [true, false, false, false]),
        (beside, was_clear, [true, false, false, false]),
        (beside, unknown,   [true, false, false, false]),
    ];
    let triggers = [Trigger::Any, Trigger::Set, Trigger::Level, Trigger::Change];
    for ((ones, touched), before, expected) in table {
        for (trigger, expected) in triggers.into_iter().zip(expected) {
            let rule = Rule {
                place: Place::Bridge,
                first: 0,
                last: 0,
                mask: 1,
                trigger,
                effects: &[],
            };
            let fires = rule.fires(Touched { ones, touched }, before);
            assert_eq!(fires, expected, "{trigger:?} {ones} {touched} {before:?}");
        }
    }
}

proptest! {
    /// SR-IOV 1.1, 3.3.9 and 3.3.10: the first is at the offset, each next a stride further.
    #[test]
    fn virtual_functions_are_a_stride_apart(
        physical: u16,
        offset in prop_oneof![0u16..600, any::<u16>()],
        stride in 0u16..5,
        total in 0u16..40,
        near in 0u16..700,
        other: u16,
    ) {
        let place = Sbdf::from_bdf(0, physical);
        let theirs: Vec<u16> = (0..total)
            .map(|n| physical.wrapping_add(offset).wrapping_add(n * stride))
            .collect();
        let functions = VirtualFunctions { offset, stride, total };
        for bdf in [physical.wrapping_add(near), physical.wrapping_add(offset), other]
            .into_iter()
            .chain(theirs.iter().copied())
            .chain(theirs.iter().map(|bdf| bdf.wrapping_add(1)))
        {
            let expected = theirs.contains(&bdf);
            prop_assert_eq!(functions.contains(place, bdf), expected, "{:x}", bdf);
        }
    }

    #[test]
    fn a_region_comes_back_from_its_word(
        id: u16, start in 0x40u16.., end: u16, extended: bool,
    ) {
        let id = if extended { CapId::Extended(id) } else { CapId::Standard(id as u8) };
        let region = Region { id, start, end };
        prop_assert_eq!(unpack(pack(region)), region);
        // Which ends the list.
        prop_assert_ne!(pack(region), 0);
    }
}

#[test]
fn no_two_rules_share_a_bit() {
    let mut seen = 0;
    for (known, value) in (0..32).map(held_bits) {
        assert_eq!((known & value, seen & (known | value)), (0, 0));
        seen |= known | value;
    }
    assert_eq!(seen, u64::MAX);
}

//! Sizes of BARs, of every kind and size that there is.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

use kho_hal::sim::pci::{SimBus, SimFunction};
use kho_hal::{Access, PciConfigAccess, Sbdf, Width};
use kho_pci_lu::{BarError, Bars};
use proptest::prelude::*;

const HERE: Sbdf = Sbdf::from_bdf(0, 0x0018);
const VF_BARS: u16 = 0x100 + 0x24;

/// What stands in the place of a BAR, or of two.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Empty,
    Io(u8),
    Memory32(u8),
    Memory64(u8),
}

fn slot() -> impl Strategy<Value = Slot> {
    prop_oneof![
        Just(Slot::Empty),
        (2u8..=31).prop_map(Slot::Io),
        (4u8..=31).prop_map(Slot::Memory32),
        (4u8..=63).prop_map(Slot::Memory64),
    ]
}

/// BARs from `first` on, each at a multiple of its size, with their sizes. PCI Local Bus 3.0,
/// 6.2.5.1: bit 0 says I/O, bits 2:1 are 2 for 64 bits, bit 3 says prefetchable.
fn with_bars(
    mut function: SimFunction,
    (first, count): (u16, usize),
    slots: &[(Slot, u64)],
) -> (SimFunction, [u8; 6]) {
    let mut sizes = [0; 6];
    let mut n = 0;
    for (slot, address) in slots {
        let (log2, flags, dwords) = match *slot {
            Slot::Empty => (0, 0, 1),
            Slot::Io(log2) => (log2, 1, 1),
            Slot::Memory32(log2) => (log2, 0, 1),
            Slot::Memory64(log2) => (log2, 0x0c, 2),
        };
        if n + dwords > count {
            break;
        }
        let writable = match log2 {
            0 => 0,
            log2 => !0u64 << log2,
        };
        let value = address & writable | flags;
        for (half, shift) in (0..dwords).zip([0, 32]) {
            let offset = first + 4 * (n + half) as u16;
            let (value, writable) = ((value >> shift) as u32, (writable >> shift) as u32);
            function = function.with_register(offset, 4, value, writable, 0);
        }
        sizes[n] = log2;
        n += dwords;
    }
    (function, sizes)
}

/// A function with these BARs, and what their sizes are.
fn function(
    bridge: bool,
    slots: &[(Slot, u64)],
    vf_slots: Option<&[(Slot, u64)]>,
    rom: Option<u8>,
    command: u16,
) -> (SimBus, Bars) {
    let (function, count, rom_at) = match bridge {
        false => (SimFunction::endpoint(0x8086, 2), 6, 0x30),
        true => (SimFunction::bridge(0x1b36, 2, 1, 1), 2, 0x38),
    };
    let mut function = function.with_express(if bridge { 4 } else { 0 });
    let mut sizes = Bars::default();
    if let Some(slots) = vf_slots {
        function.extended(0x10, 1, 0x40);
        (function, sizes.vf_bars) = with_bars(function, (VF_BARS, 6), slots);
    }
    (function, sizes.bars) = with_bars(function, (0x10, count), slots);
    if let Some(log2) = rom {
        let writable = u32::MAX << log2 | 1;
        function = function.with_register(rom_at, 4, 0xff00_0001 & writable, writable, 0);
        sizes.rom = log2;
    }
    function = function.with_register(0x04, 2, command.into(), 0x0547, 0);
    let bus = SimBus::new();
    bus.add(HERE, function);
    (bus, sizes)
}

fn slots() -> impl Strategy<Value = Vec<(Slot, u64)>> {
    // Addresses of few bits, so that most are not a multiple of twice the size.
    let address = prop_oneof![Just(0), any::<u64>(), any::<u64>().prop_map(|a| a << 40)];
    prop::collection::vec((slot(), address), 6)
}

fn space(bus: &SimBus) -> Vec<u32> {
    let dwords = (0..0x200).step_by(4);
    dwords
        .map(|at| bus.peek(HERE, Access::new(at, Width::U32).unwrap()))
        .collect()
}

proptest! {
    /// Asked with decoding off, and everything as before afterwards.
    #[test]
    fn every_size_is_found(
        bridge: bool,
        slots in slots(),
        vf_slots in prop::option::of(slots()),
        rom in prop::option::of(11u8..=24),
        command in 0u16..8,
    ) {
        let (bus, sizes) = function(bridge, &slots, vf_slots.as_deref(), rom, command);
        let before = space(&bus);
        bus.record(true);
        prop_assert_eq!(Bars::probe(&bus, HERE), Ok(sizes));
        bus.record(false);
        prop_assert_eq!(space(&bus), before);
        let writes: Vec<_> = bus.take_records().into_iter().filter(|record| record.write).collect();
        let mut decodes = command & 3 != 0;
        for record in &writes {
            if record.at.offset() == 0x04 {
                decodes = record.value & 3 != 0;
                prop_assert_eq!(record.value & !3, u32::from(command & !3));
            } else {
                prop_assert!(!decodes, "{:?}", record);
            }
        }
        prop_assert_eq!(decodes, command & 3 != 0);
        let commands = writes.iter().filter(|record| record.at.offset() == 0x04).count();
        prop_assert_eq!(commands, if decodes { 2 } else { 0 });
        // The right sizes fit what can be read.
        prop_assert_eq!(sizes.check(&bus, HERE), Ok(()));
    }

    /// A record with another size is refused, as far as the address shows it, and nothing is written.
    #[test]
    fn a_size_that_does_not_fit_is_refused(
        slots in slots(),
        vf_slots in slots(),
        rom in 11u8..=24,
        place in 0usize..13,
        log2: u8,
    ) {
        let (bus, sizes) = function(false, &slots, Some(&vf_slots), Some(rom), 6);
        let dword = |at| u64::from(bus.peek(HERE, Access::new(at, Width::U32).unwrap()));
        let mut wrong = sizes;
        let (first, size, kinds) = match place {
            0..6 => (0x10 + 4 * place as u16, &mut wrong.bars[place], Some(&sizes.bars)),
            6..12 => {
                let n = place - 6;
                (VF_BARS + 4 * n as u16, &mut wrong.vf_bars[n], Some(&sizes.vf_bars))
            }
            _ => (0x30, &mut wrong.rom, None),
        };
        *size = log2;
        let low = dword(first);
        // The upper half of a BAR of 64 bits: the dword before says so, and is none itself.
        let start = if place < 6 { 0x10 } else { VF_BARS };
        let mut is_upper = false;
        let mut at = start;
        while kinds.is_some() && at < first {
            let wide = dword(at) & 7 == 4;
            is_upper = wide && at + 4 == first;
            at += if wide { 8 } else { 4 };
        }
        let (address, smallest, largest) = match (kinds, low & 1, low >> 1 & 3) {
            (None, ..) => (low & 0xffff_f800, 11, 24),
            (_, 1, _) => (low & !3, 2, 31),
            (_, _, 2) => (low & !0xf | dword(first + 4) << 32, 4, 63),
            _ => (low & !0xf, 4, 31),
        };
        let fits = match log2 {
            0 => address == 0 || is_upper,
            _ if is_upper => false,
            _ => (smallest..=largest).contains(&log2) && address % (1 << log2) == 0,
        };
        let before = bus.writes();
        let checked = wrong.check(&bus, HERE);
        match fits {
            true => prop_assert_eq!(checked, Ok(())),
            false if is_upper => prop_assert!(checked.is_err(), "{:?}", checked),
            false => {
                let (function, offset) = (HERE, first);
                prop_assert_eq!(checked, Err(BarError::Misfit { function, offset, log2 }));
            }
        }
        prop_assert_eq!(bus.writes(), before);
    }
}

/// PCI Express Base 5.0, 7.8.6.3: bits 2:0 say which BAR, 13:8 its size, 1 MiB << n; of the first,
/// 7:5 how many there are.
#[test]
fn a_resizable_bar_has_the_size_that_it_says() {
    let resizable = |controls: &[(u32, u32)]| {
        let mut function = SimFunction::endpoint(0x8086, 2).with_express(0);
        let at = function.extended(0x15, 1, 0x34);
        for (n, (bar, size)) in (0u16..).zip(controls) {
            let count = (controls.len() as u32) << 5;
            let value = size << 8 | count | bar;
            function = function.with_register(at + 8 + 8 * n, 4, value, 0, 0);
        }
        // What comes behind the last control register is none.
        let behind = at + 8 + 8 * controls.len() as u16;
        let bus = SimBus::new();
        bus.add(HERE, function.with_register(behind, 4, 0x0507, 0, 0));
        bus
    };
    let sizes = |bars| Bars {
        bars,
        ..Bars::default()
    };
    let two = resizable(&[(0, 1), (2, 43)]);
    // 64-bit BARs, which hold nothing yet.
    for at in [0x10, 0x18] {
        two.poke(HERE, Access::new(at, Width::U32).unwrap(), 0x0c);
    }
    assert_eq!(sizes([21, 0, 63, 0, 0, 0]).check(&two, HERE), Ok(()));
    let refused = |index, found, log2| {
        let function = HERE;
        Err(BarError::Resizable {
            function,
            index,
            found,
            log2,
        })
    };
    assert_eq!(
        sizes([20, 0, 63, 0, 0, 0]).check(&two, HERE),
        refused(0, 21, 20)
    );
    assert_eq!(
        sizes([21, 0, 62, 0, 0, 0]).check(&two, HERE),
        refused(2, 63, 62)
    );
    assert_eq!(sizes([0; 6]).check(&resizable(&[]), HERE), Ok(()));
    assert_eq!(
        sizes([0; 6]).check(&resizable(&[(7, 0)]), HERE),
        refused(7, 20, 0)
    );
}

/// PCI Express Base 5.0, 9.3.3.14: what VF BARs hold may not change while VF Enable is set.
#[test]
fn virtual_functions_that_are_on_are_not_asked_for() {
    let slots = [(Slot::Memory32(14), 0xfe00_0000)];
    let (bus, sizes) = function(false, &slots, Some(&slots), None, 6);
    let control = Access::new(0x108, Width::U16).unwrap();
    bus.poke(HERE, control, 9);
    let unknown = Err(BarError::Unknown { function: HERE });
    assert_eq!(Bars::probe(&bus, HERE), unknown);
    assert_eq!(bus.writes(), 0);
    bus.poke(HERE, control, 8);
    assert_eq!(Bars::probe(&bus, HERE), Ok(sizes));
    // Sizes of virtual functions of a function that has none.
    let (none, _) = function(false, &slots, None, None, 6);
    assert_eq!(sizes.check(&none, HERE).map_err(|_| ()), Err(()));
    let unnamed = Bars {
        vf_bars: [0; 6],
        ..sizes
    };
    assert_eq!(unnamed.check(&none, HERE), Ok(()));
}

/// Whichever access fails, the function is left as it was found, or the error says so.
#[test]
fn a_failed_access_leaves_the_bars_as_they_were() {
    /// Fails one access, by its number.
    struct Failing(SimBus, core::cell::Cell<i32>);
    impl Failing {
        fn next(&self, function: Sbdf, offset: u16) -> Result<(), kho_hal::PciError> {
            self.1.set(self.1.get() - 1);
            match self.1.get() {
                -1 => Err(kho_hal::PciError::Failed { function, offset }),
                _ => Ok(()),
            }
        }
    }
    impl PciConfigAccess for Failing {
        fn read(&self, function: Sbdf, at: Access) -> Result<u32, kho_hal::PciError> {
            self.next(function, at.offset())?;
            self.0.read(function, at)
        }
        fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), kho_hal::PciError> {
            self.next(function, at.offset())?;
            self.0.write(function, at, value)
        }
    }
    let slots = [(Slot::Memory64(14), 0x12_fe00_0000), (Slot::Io(5), 0xe000)];
    let mut unrestored = 0;
    let mut succeeded = false;
    for n in 0..200 {
        let (bus, sizes) = function(false, &slots, Some(&slots), Some(16), 7);
        let before = space(&bus);
        let failing = Failing(bus, core::cell::Cell::new(n));
        match Bars::probe(&failing, HERE) {
            Err(error) => assert!(matches!(error, BarError::Config(_)), "{error}"),
            // A capability that could not be found is none.
            Ok(found) if failing.1.get() < 0 => assert_eq!(found.bars, sizes.bars),
            Ok(found) => {
                assert_eq!(found, sizes);
                succeeded = true;
                break;
            }
        }
        unrestored += u32::from(space(&failing.0) != before);
    }
    assert!(succeeded);
    // Of 6 BARs, the ROM and 6 VF BARs one each, if it is the write that restores it, and of
    // Command. Those that hold nothing, and read back as nothing, are the same without.
    assert_eq!(unrestored, 3 + 1 + 3 + 1);
}

//! What a predecessor could do with the objects of PCI functions: every address that they hold, and
//! memory that changes after it was checked.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/pci.rs"]
mod pci;

use std::cell::Cell;

use common::{PAGE, SCRATCH, SimTracker, hand_over, range};
use kho_abi::pci::functions::{self, FunctionSer, FunctionsSer};
use kho_abi::pci::{v1, v2};
use kho_core::BootData;
use kho_core::incoming::{Incoming, Machine, Ram};
use kho_core::outgoing::BlockSet;
use kho_hal::sim::{FrozenSim, SimMemory};
use kho_hal::{FrozenMem, MemError, PhysAddr, PhysMem, Sbdf};
use kho_pci_lu::{Facts, Form, Functions, Kind, Record, RecordError, Registry};
use zerocopy::IntoBytes;

const RAM: (u64, u64) = (0x1000, (16 << 20) - 0x1000);
/// Registers: they can be read, and must not be.
const MMIO: (u64, u64) = (1 << 32, 1 << 16);
/// Enough for several blocks of each object.
const FUNCTIONS: u16 = 600;

fn memory() -> SimMemory {
    SimMemory::new([range(0, 16 << 20), range(MMIO.0, MMIO.1)]).unwrap()
}

/// Memory that fails the test when anything but RAM is read; from the `at`-th read on it has other
/// contents, as a device may leave that still writes.
struct Lent<'a> {
    frozen: &'a FrozenSim<'a>,
    changed: Option<(PhysAddr, &'a [u8], u64)>,
    reads: Cell<u64>,
}

impl<'a> Lent<'a> {
    fn new(frozen: &'a FrozenSim<'a>) -> Self {
        Self {
            frozen,
            changed: None,
            reads: Cell::new(0),
        }
    }
}

impl FrozenMem for Lent<'_> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < 2_000_000, "reading does not end");
        let bytes = self.frozen.bytes(addr, len)?;
        let read = range(addr.as_u64(), len as u64);
        let Some((start, changed, at)) = self.changed else {
            assert!(
                range(RAM.0, RAM.1).contains_range(read),
                "{read} is no RAM and was read"
            );
            return Ok(bytes);
        };
        let offset = addr.as_u64().wrapping_sub(start.as_u64()) as usize;
        let other = changed.get(offset..offset.saturating_add(len));
        Ok(other.filter(|_| self.reads.get() > at).unwrap_or(bytes))
    }
}

/// Every address that the objects hold: its name, where it is, and what it is.
type Pointers = Vec<(&'static str, PhysAddr, u64)>;

/// A record of this form, what is known of its functions, and where their addresses are.
fn objects(tracker: &SimTracker<'_>, form: Form) -> (Vec<(&'static str, u64)>, Pointers) {
    let function = |n: u16| Sbdf::from_bdf(0, n);
    let mut pointers = Pointers::new();
    let header = |bytes: &[u8]| {
        let (at, _) = tracker.alloc_preserved(bytes.len() as u64).unwrap();
        tracker.mem().write(at, bytes).unwrap();
        at.as_u64()
    };
    let link = |head: PhysAddr| tracker.mem().word(head).unwrap();
    let (name, record) = match form {
        Form::V1 => {
            let entries = (0..FUNCTIONS).map(|n| u64::from(n) << 32);
            let count = u64::from(FUNCTIONS);
            let bytes: Vec<_> = [count, count].into_iter().chain(entries).collect();
            (v1::NAME, header(bytes.as_slice().as_bytes()))
        }
        Form::V2 => {
            let mut set = BlockSet::<v2::PciDevSer>::default();
            set.resize(tracker, FUNCTIONS.into()).unwrap();
            for n in 0..FUNCTIONS {
                let entry = v2::PciDevSer {
                    domain: 0.into(),
                    bdf: n.into(),
                    refcount: 1.into(),
                };
                set.write(tracker, n.into(), &entry).unwrap();
            }
            let head = set.head();
            let at = header(
                v2::PciSer {
                    version: v2::VERSION.into(),
                    nr_devices: u32::from(FUNCTIONS).into(),
                    devices: head.as_u64().into(),
                }
                .as_bytes(),
            );
            pointers.push(("entries", PhysAddr::new(at + 8), head.as_u64()));
            pointers.push(("next entries", head, link(head)));
            (v2::NAME, at)
        }
    };
    let mut set = BlockSet::<FunctionSer>::default();
    set.resize(tracker, FUNCTIONS.into()).unwrap();
    for n in 0..FUNCTIONS {
        let facts = Facts {
            kind: Kind::Endpoint,
            identity: 1,
            class: 2,
            bars: None,
        };
        set.write(tracker, n.into(), &facts.ser(function(n)))
            .unwrap();
    }
    let head = set.head();
    let known = header(
        FunctionsSer {
            count: u64::from(FUNCTIONS).into(),
            entries: head.as_u64().into(),
        }
        .as_bytes(),
    );
    pointers.push(("functions", PhysAddr::new(known + 8), head.as_u64()));
    pointers.push(("next functions", head, link(head)));
    (vec![(name, record), (functions::NAME, known)], pointers)
}

fn check<'a>(lent: &'a Lent<'a>, boot: BootData) -> Option<Incoming<'a, Lent<'a>>> {
    let ram = [range(RAM.0, RAM.1)];
    let machine = Machine {
        ram: Ram::Known(&ram),
        ..Machine::unknown(PAGE)
    };
    Incoming::check(lent, boot, machine, &mut [0; 512]).ok()
}

/// Reads both objects, and everything in them.
fn ask_everything(incoming: &Incoming<'_, Lent<'_>>) -> Result<(), RecordError> {
    let mut workspace = [0; 1024];
    let record = Record::read(incoming, &mut workspace)?;
    let known = Functions::read(incoming, &mut [0; 512])?;
    let (Some(record), Some(known)) = (record, known) else {
        return Ok(());
    };
    for entry in record.iter() {
        let _ = record.find(entry.function);
    }
    let _ = known.iter().count();
    let (bus, _) = machine::machine();
    let registry = Registry::new(bus);
    let _ = registry.receive(&record, Some(&known));
    for function in [machine::ROOT, machine::PF] {
        let _ = registry.set_up(function);
    }
    Ok(())
}

const FORMS: [Form; 2] = [Form::V1, Form::V2];

/// Hands over the objects; `attack` may change their numbers, and memory through the tracker.
fn handed_over(
    memory: &SimMemory,
    form: Form,
    attack: impl FnOnce(&SimTracker<'_>, &mut Vec<(&'static str, u64)>, &Pointers),
) -> BootData {
    hand_over(memory, |tracker| {
        let (mut numbers, pointers) = objects(tracker, form);
        attack(tracker, &mut numbers, &pointers);
        numbers
    })
}

/// Puts each wrong address in the place of every address of both objects; all are refused. It lies
/// in registers, outside memory, in scratch, in memory that is not preserved, in the description and
/// what it leads to, in the objects themselves, or not at the start of a page.
#[test]
fn t22_every_pointer_to_a_wrong_place() {
    for form in FORMS {
        let mut memory = memory();
        let mut own = Vec::new();
        let boot = handed_over(&memory, form, |_, numbers, pointers| {
            own.extend(numbers.iter().map(|number| number.1));
            own.extend(pointers.iter().map(|pointer| pointer.2));
        });
        let frozen = memory.freeze();
        let lent = Lent::new(&frozen);
        let incoming = check(&lent, boot).unwrap();
        ask_everything(&incoming).unwrap();
        let luo = incoming.subtree("LUO").unwrap().range.start();
        let sessions = frozen.bytes(PhysAddr::new(luo.as_u64() + 16), 8).unwrap();
        let mut targets = vec![
            0,
            MMIO.0,
            SCRATCH.0 + 0x4000,
            0x50_0000,
            boot.fdt_addr.as_u64(),
            incoming.map_addr().as_u64(),
            luo.as_u64(),
            u64::from_le_bytes(sessions.try_into().unwrap()),
            1 << 41,
            (1 << 52) - 0x1000,
            1 << 52,
            !0xfff,
            u64::MAX - 7,
        ];
        targets.extend(&own);
        targets.extend([1, 4, 8, 0x800].map(|bytes| own[1] + bytes));
        for n in 0..own.len() {
            for &target in targets.iter().filter(|target| **target != own[n]) {
                let mut memory = self::memory();
                let boot = handed_over(&memory, form, |tracker, numbers, pointers| {
                    match n.checked_sub(numbers.len()) {
                        None => numbers[n].1 = target,
                        Some(n) => {
                            let at = pointers[n].1;
                            tracker.mem().write(at, &target.to_le_bytes()).unwrap();
                        }
                    }
                });
                let frozen = memory.freeze();
                let lent = Lent::new(&frozen);
                let found = check(&lent, boot).map(|incoming| ask_everything(&incoming));
                assert!(
                    !matches!(found, Some(Ok(()))),
                    "{form:?}: {target:#x} was accepted as pointer {n}"
                );
            }
        }
    }
}

/// Whenever memory changes, and to whatever: no panic, and an end.
#[test]
fn t22_memory_that_changes_after_it_was_checked() {
    let heap = range(1 << 20, 64 << 12);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for form in FORMS {
        let mut memory = memory();
        let boot = handed_over(&memory, form, |_, _, _| {});
        let frozen = memory.freeze();
        let lent = Lent::new(&frozen);
        ask_everything(&check(&lent, boot).unwrap()).unwrap();
        let reads = lent.reads.get();
        let original = frozen.bytes(heap.start(), heap.size() as usize).unwrap();
        for kind in 0..5 {
            let word = |bytes: &[u8]| {
                let was = u64::from_le_bytes(bytes.try_into().unwrap());
                match kind {
                    0 => 0,
                    1 => u64::MAX,
                    // What was an address, or small, is another one.
                    2 if was != 0 => heap.start().as_u64() + random() % heap.size() / 4096 * 4096,
                    // Every list is a cycle.
                    4 => heap.start().as_u64(),
                    3 if random() % 4 == 0 => random() >> (random() % 64),
                    _ => was,
                }
            };
            let changed: Vec<u64> = original.chunks(8).map(word).collect();
            for at in (0..reads).step_by(reads as usize / 100) {
                let lent = Lent {
                    changed: Some((heap.start(), changed.as_slice().as_bytes(), at)),
                    ..Lent::new(&frozen)
                };
                if let Some(incoming) = check(&lent, boot) {
                    let _ = ask_everything(&incoming);
                }
            }
        }
    }
}

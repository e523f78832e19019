//! The promise with two CPUs: each read returns what the hardware held at some moment between the
//! call and the return, while both write, and functions come, go and are reset.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::{Mutex, RwLock};

use common::{ALL, NAMED, PF, PORT, SWITCH, find, machine, volatile};
use kho_hal::sim::pci::{ResetKind, SimBus};
use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};
use kho_pcsc::{Cached, Reset, Unlisted};
use proptest::prelude::*;

/// The registers that are looked at: the header, and both ends of the capabilities.
fn seen() -> impl Iterator<Item = (Sbdf, u16)> {
    let offsets = (0..0x40).chain(0x40..0xc0).chain(0x100..0x200).step_by(4);
    ALL.iter().flat_map(move |function| {
        let function = *function;
        offsets.clone().map(move |offset| (function, offset))
    })
}

/// All of them at one moment.
type Snapshot = Vec<u32>;

/// A bus that keeps what every register held after each access.
struct History<'b> {
    bus: &'b SimBus,
    snapshots: Mutex<Vec<Snapshot>>,
}

impl<'b> History<'b> {
    fn new(bus: &'b SimBus) -> Self {
        let history = Self {
            bus,
            snapshots: Mutex::default(),
        };
        history.act(None, |_| ());
        history
    }

    /// Does something to the hardware, at one moment; to one function only, or to any.
    fn act<T>(&self, only: Option<Sbdf>, act: impl FnOnce(&SimBus) -> T) -> T {
        let mut snapshots = self.snapshots.lock().unwrap();
        let result = act(self.bus);
        let mut now = snapshots.last().cloned().unwrap_or_default();
        now.resize(seen().count(), 0);
        for (value, (function, offset)) in now.iter_mut().zip(seen()) {
            if only.is_none_or(|only| only == function) {
                let at = Access::new(offset, Width::U32).unwrap();
                *value = self.bus.peek(function, at);
            }
        }
        if snapshots.last() != Some(&now) {
            snapshots.push(now);
        }
        result
    }

    fn moment(&self) -> usize {
        self.snapshots.lock().unwrap().len() - 1
    }

    /// What the register number `index` of those seen held from one moment to another.
    fn held(&self, index: usize, moments: std::ops::RangeInclusive<usize>) -> Vec<u32> {
        let snapshots = self.snapshots.lock().unwrap();
        snapshots[moments].iter().map(|all| all[index]).collect()
    }
}

impl PciConfigAccess for History<'_> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.act(Some(function), |bus| bus.read(function, at))
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.act(None, |bus| bus.write(function, at, value))
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Some registers, one after the other.
    Read(usize, usize),
    Write(usize, u32),
    /// A write that a rule is about.
    Named(usize, u32),
    Add(Sbdf),
    Forget(Sbdf),
    Status(Sbdf, u16, u8),
    ResetOutside(Sbdf),
    ResetTold(Sbdf),
    Switch,
}

fn op() -> impl Strategy<Value = Op> {
    let function = || prop::sample::select(&ALL[..]);
    let index = || 0..seen().count();
    prop_oneof![
        12 => (index(), 1usize..40).prop_map(|(from, count)| Op::Read(from, count)),
        2 => (index(), any::<u32>()).prop_map(|(at, value)| Op::Write(at, value)),
        6 => (0..NAMED.len(), any::<u32>()).prop_map(|(row, value)| Op::Named(row, value)),
        3 => function().prop_map(Op::Add),
        1 => function().prop_map(Op::Forget),
        2 => (function(), any::<u16>(), any::<u8>()).prop_map(|(f, n, v)| Op::Status(f, n, v)),
        1 => function().prop_map(Op::ResetOutside),
        1 => function().prop_map(Op::ResetTold),
        1 => Just(Op::Switch),
    ]
}

struct Machine<'b> {
    history: &'b History<'b>,
    cache: Cached<'b, &'b History<'b>>,
    /// Held alone while the hardware does what the cache is told only afterwards.
    untold: RwLock<()>,
    /// Held by whoever adds functions or takes them out: what is below a bridge may be in the
    /// cache only while the bridge is.
    topology: Mutex<()>,
}

impl Machine<'_> {
    fn read(&self, index: usize) {
        let _told = self.untold.read().unwrap();
        let (function, offset) = seen().nth(index).unwrap();
        let first = self.history.moment();
        let value = self.cache.read_u32(function, offset).unwrap();
        let held = self.history.held(index, first..=self.history.moment());
        assert!(
            held.contains(&value),
            "{function} {offset:#x}: cache says {value:#x}, device {held:x?}"
        );
    }

    fn run(&self, op: &Op) {
        match *op {
            Op::Read(from, count) => {
                let last = seen().count();
                (from..(from + count).min(last)).for_each(|index| self.read(index));
            }
            Op::Write(index, value) => {
                let (function, offset) = seen().nth(index).unwrap();
                self.cache.write_u32(function, offset, value).unwrap();
                self.read(index);
            }
            Op::Named(row, pick) => {
                let (function, capability, offset, width, values) = NAMED[row];
                let value = values[pick as usize % values.len()];
                let start = find(self.history.bus, function, capability);
                if let Some(start) = start {
                    let at = Access::new(start + offset, width).unwrap();
                    self.cache.write(function, at, value).unwrap();
                }
            }
            Op::Add(function) => {
                let _alone = self.topology.lock().unwrap();
                // Bridges before what is below them, physical functions before virtual ones; and
                // nothing that is below one that is not there.
                for function in [PORT, SWITCH, PF, function] {
                    if self.cache.add_with(function, Unlisted::Constant).is_err() {
                        break;
                    }
                }
            }
            Op::Forget(function) => {
                let _alone = self.topology.lock().unwrap();
                self.cache.forget(function);
            }
            Op::Status(function, pick, value) => self.history.act(None, |bus| {
                let bytes = volatile(bus, function);
                let at = bytes[usize::from(pick) % bytes.len()];
                let value = if at == 0x0f { value | 0x80 } else { value };
                bus.poke(function, Access::new(at, Width::U8).unwrap(), value.into());
            }),
            Op::ResetOutside(function) => {
                let _untold = self.untold.write().unwrap();
                self.cache.reset(function, Reset::Function);
                self.history
                    .act(None, |bus| bus.reset(function, ResetKind::Function));
                self.cache.reset(function, Reset::Function);
                self.cache.reset(function, Reset::Below);
            }
            Op::ResetTold(function) => self.cache.reset(function, Reset::Power),
            Op::Switch => self.cache.set_enabled(true),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn two_cpus_see_what_the_device_held(
        one in prop::collection::vec(op(), 1..50),
        other in prop::collection::vec(op(), 1..50),
    ) {
        let bus = machine();
        bus.write_u16(PORT, 0x68 + 0x28, 0x20).unwrap();
        let sriov = find(&bus, PF, 0x8010).unwrap();
        bus.write_u16(PF, sriov + 0x10, 2).unwrap();
        bus.write_u16(PF, sriov + 8, 9).unwrap();
        let history = History::new(&bus);
        let machine = Machine { history: &history, cache: Cached::new(&history), untold: RwLock::default(), topology: Mutex::default() };
        for function in ALL {
            machine.cache.add_with(function, Unlisted::Constant).ok();
        }
        std::thread::scope(|scope| {
            for ops in [&one, &other] {
                scope.spawn(|| ops.iter().for_each(|op| machine.run(op)));
            }
        });
        for index in (0..seen().count()).chain(0..seen().count()) {
            machine.read(index);
        }
    }
}

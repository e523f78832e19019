//! The n-th allocation, the n-th access to memory or the n-th access to configuration space fails, for
//! every n and every operation.
//!
//! Afterwards the state is as before or as after, nothing leaks, and a retry succeeds
//! ([`every_failure`]). What writes several registers, such as [`Guarded::init`], may have written
//! some; a retry writes the rest. Sizing puts back what it can: that is `t07_sizing_*` in `update.rs`.
//!
//! The tables are in the order of the public functions: each that touches memory or configuration
//! space, or allocates, has its line.
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
use std::fmt::{Debug, Display};
use std::hash::{DefaultHasher, Hasher};

use common::{File, PAGE};
use kho_abi::pci::functions;
use kho_core::incoming::{Incoming, Machine};
use kho_hal::sim::{Attempt, Failing, Faulty, FrozenSim, every_failure};
use kho_hal::{Order, PciConfigAccess, PhysAddr, Sbdf, Width};
use kho_pci_lu::{
    BusNumbers, Functions, Guarded, Kind, OutgoingForm, Record, Registry, Setting, State,
    for_each_field, for_each_field_of_fit, kind_of,
};
use machine::*;

const V1: OutgoingForm = OutgoingForm::V1 { capacity: 8 };
const V2: OutgoingForm = OutgoingForm::V2;

type Config = &'static Faulty<Bus>;

fn text(error: impl Display) -> String {
    error.to_string()
}

/// A machine for all failures of one test, and what its registers held at first.
struct Hardware {
    bus: Bus,
    config: Config,
    devices: Devices,
    registers: Vec<u32>,
    /// How many writes there were when they last held it.
    writes: Cell<u64>,
}

impl Hardware {
    fn new() -> Self {
        let (bus, devices) = machine();
        let config = Box::leak(Box::new(Faulty::new(bus)));
        let registers = all_of(bus);
        Self {
            bus,
            config,
            devices,
            registers,
            writes: Cell::new(bus.writes()),
        }
    }

    /// Makes all registers hold again what they held.
    fn restore(&self) {
        if self.bus.writes() == self.writes.get() {
            return;
        }
        let mut registers = self.registers.iter();
        for function in self.bus.functions() {
            for (offset, &held) in (0..0x1000).step_by(4).zip(&mut registers) {
                let at = pci::at(offset, Width::U32);
                if self.bus.peek(function, at) != held {
                    self.bus.poke(function, at, held);
                }
            }
        }
        self.writes.set(self.bus.writes());
    }

    /// A hash of all registers; 0 if they hold what they held at first.
    fn held(&self) -> u64 {
        if self.bus.writes() == self.writes.get() {
            return 0;
        }
        let now = all_of(self.bus);
        if now == self.registers {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        now.iter().for_each(|&held| hasher.write_u32(held));
        hasher.finish()
    }
}

/// A registry with a handover that is open.
struct Preserving<'t, 'h> {
    hardware: &'t Hardware,
    registry: Registry<Config>,
    outgoing: &'t mut HarnessOutgoing<'h>,
    luo: &'t mut HarnessLuo<'h>,
    memory: &'h Faults<'h>,
    work: Work,
}

type Prepare =
    for<'h> fn(&Registry<Config>, &Devices, &mut HarnessOutgoing<'h>, &mut HarnessLuo<'h>);
type Work = for<'h> fn(
    &Registry<Config>,
    &Devices,
    &mut HarnessOutgoing<'h>,
    &mut HarnessLuo<'h>,
) -> Result<(), String>;

/// What is preserved, and what is allocated besides the tracker's own pages.
#[derive(Debug, PartialEq)]
struct Outside {
    registers: u64,
    functions: Vec<(Sbdf, u16, State, Option<Kind>)>,
    order: Vec<Sbdf>,
    live: Vec<(PhysAddr, Order, bool)>,
}

impl Attempt for Preserving<'_, '_> {
    type State = Outside;
    type Error = String;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        let pages: &dyn Failing = *self.outgoing.tracker().page_alloc();
        vec![
            ("allocation", pages),
            ("access to memory", self.memory),
            ("access to configuration space", self.hardware.config),
        ]
    }

    fn state(&mut self) -> Outside {
        let tracker = self.outgoing.tracker();
        let mut own = Vec::new();
        tracker.for_each_page(|page| own.push(page)).unwrap();
        let mut live = tracker.page_alloc().live();
        live.retain(|(page, _)| !own.contains(page));
        let live = live.into_iter();
        let config = self.registry.config();
        let functions = self.hardware.devices.keys().map(|&function| {
            let count = self.registry.outgoing_refcount(function);
            (
                function,
                count,
                config.state(function),
                config.kind(function),
            )
        });
        Outside {
            registers: self.hardware.held(),
            functions: functions.collect(),
            order: self.registry.freeze_order(),
            live: live
                .map(|(page, order)| (page, order, tracker.is_preserved(page, order)))
                .collect(),
        }
    }

    fn work(&mut self) -> Result<(), String> {
        (self.work)(
            &self.registry,
            &self.hardware.devices,
            self.outgoing,
            self.luo,
        )
    }
}

fn every_failure_of_preserving(form: OutgoingForm, prepare: Prepare, work: Work) -> u64 {
    let hardware = Hardware::new();
    every_failure(|attempt| {
        let memory = common::memory();
        let registry = Registry::new(hardware.config);
        open(&memory, &registry, form, |outgoing, luo, memory| {
            prepare(&registry, &hardware.devices, outgoing, luo);
            attempt(&mut Preserving {
                hardware: &hardware,
                registry: registry.clone(),
                outgoing,
                luo,
                memory,
                work,
            });
        });
    })
}

/// Takes the file that needs the objects out, and with it the objects.
fn without_file<'h>(
    _: &Registry<Config>,
    _: &Devices,
    outgoing: &mut HarnessOutgoing<'h>,
    luo: &mut HarnessLuo<'h>,
) {
    luo.destroy_session(outgoing.tracker(), "vm").unwrap();
    luo.create_session(outgoing.tracker(), "vm").unwrap();
}

fn add_file<'h>(
    form: OutgoingForm,
    outgoing: &mut HarnessOutgoing<'h>,
    luo: &mut HarnessLuo<'h>,
) -> Result<(), String> {
    let names = vec![form.name(), functions::NAME];
    let file = Box::new(File(1, names));
    luo.preserve_file(outgoing.tracker(), "vm", 1, file)
        .map_err(text)
}

macro_rules! preserving {
    ($($name:ident: $form:expr, $prepare:expr => $work:expr;)*) => {$(
        #[test]
        fn $name() {
            let faults = every_failure_of_preserving($form, $prepare, $work);
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

// `Registry`, outgoing: `preserve`, `unpreserve`, `set_bars`, and its two objects.
preserving! {
    preserving_a_function: V2, |_, _, _, _| {} => |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), NVME[0]).map_err(text)
    };
    preserving_a_function_beside_another: V2, |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), NVME[1]).unwrap();
    } => |r, d, o, _| r.preserve(o.tracker(), &find(d), NVME[0]).map_err(text);
    preserving_a_virtual_function: V2, |_, _, _, _| {} => |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), VF[0]).map_err(text)
    };
    preserving_a_function_in_the_first_form: V1, |_, _, _, _| {} => |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), NVME[0]).map_err(text)
    };
    unpreserving_a_function: V2, |r, d, o, _| {
        NVME.iter().for_each(|&nvme| r.preserve(o.tracker(), &find(d), nvme).unwrap());
    } => |r, _, o, _| r.unpreserve(o.tracker(), NVME[0]).map_err(text);
    telling_the_sizes_of_bars: V2, |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), NVME[0]).unwrap();
    } => |r, d, _, _| r.set_bars(NVME[0], d[&NVME[0]].bars.unwrap()).map_err(text);
    preserving_the_objects: V2, without_file => |_, _, o, l| add_file(V2, o, l);
    preserving_the_objects_in_the_first_form: V1, without_file => |_, _, o, l| add_file(V1, o, l);
    freezing: V2, |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), NVME[0]).unwrap();
        r.preserve(o.tracker(), &find(d), VF[0]).unwrap();
    } => |_, _, o, l| freeze(o, l).map_err(text);
    freezing_in_the_first_form: V1, |r, d, o, _| {
        r.preserve(o.tracker(), &find(d), NVME[0]).unwrap();
    } => |_, _, o, l| freeze(o, l).map_err(text);
}

/// A guard, and a function behind it.
struct Guarding<'t> {
    hardware: &'t Hardware,
    guard: Guarded<Config>,
    work: GuardWork,
    /// Whether an error leaves some registers written.
    in_steps: bool,
    failed: bool,
}

type GuardWork = fn(&Guarded<Config>, &Hardware) -> Result<(), String>;

impl Attempt for Guarding<'_> {
    type State = (u64, Vec<(State, Option<Kind>, bool)>);
    type Error = String;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        vec![("access", self.hardware.config)]
    }

    fn state(&mut self) -> Self::State {
        if self.in_steps && self.failed {
            self.hardware.restore();
        }
        let of = |&function: &Sbdf| {
            let guard = &self.guard;
            (
                guard.state(function),
                guard.kind(function),
                guard.is_closed(function),
            )
        };
        let functions = self.hardware.devices.keys();
        (self.hardware.held(), functions.map(of).collect())
    }

    fn work(&mut self) -> Result<(), String> {
        let done = (self.work)(&self.guard, self.hardware);
        self.failed = done.is_err();
        done
    }
}

fn every_failure_of_guarding(
    in_steps: bool,
    prepare: fn(&Guarded<Config>),
    work: GuardWork,
) -> u64 {
    let hardware = Hardware::new();
    every_failure(|attempt| {
        hardware.restore();
        let guard = Guarded::new(hardware.config);
        prepare(&guard);
        attempt(&mut Guarding {
            hardware: &hardware,
            guard,
            work,
            in_steps,
            failed: false,
        });
    })
}

fn frozen(guard: &Guarded<Config>) {
    guard.prepare(NVME[0], Kind::Endpoint).unwrap();
    guard.freeze(NVME[0]).unwrap();
}

macro_rules! guarding {
    ($in_steps:expr; $($name:ident: $prepare:expr => $work:expr;)*) => {$(
        #[test]
        fn $name() {
            let faults = every_failure_of_guarding($in_steps, $prepare, $work);
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

// `Bars::check`, `for_each_field`, `for_each_field_of_fit`, `kind_of`; `Guarded`, of whose functions
// `Config` has the last three as well.
guarding! {
    false;
    checking_sizes_of_bars: |_| {} => |_, h| {
        let bars = h.devices[&PF].bars.unwrap();
        bars.check(h.config, PF).map_err(text)
    };
    visiting_fields: |_| {} => |_, h| {
        let mut fields = 0;
        for_each_field(h.config, PF, Kind::Physical, |_| fields += 1).map_err(text)?;
        assert_eq!(fields, 116);
        Ok(())
    };
    visiting_fields_of_a_fit: |_| {} => |_, h| {
        let mut fields = 0;
        for_each_field_of_fit(h.config, PF, Kind::Physical, |_| fields += 1).map_err(text)?;
        assert_eq!(fields, 116);
        Ok(())
    };
    telling_the_kind: |_| {} => |_, h| {
        assert_eq!(kind_of(h.config, PF).map_err(text)?, Kind::PeerPhysical);
        Ok(())
    };
    preparing: |_| {} => |g, _| g.prepare(NVME[0], Kind::Endpoint).map_err(text);
    freezing_one: |g| g.prepare(NVME[0], Kind::Endpoint).unwrap()
        => |g, _| g.freeze(NVME[0]).map_err(text);
    adopting: |g| g.close(NVME[0]) => |g, _| g.adopt(NVME[0], Kind::Endpoint).map_err(text);
    adding_a_rule: |g| g.prepare(NVME[0], Kind::Endpoint).unwrap()
        => |g, _| g.add_rule(NVME[0], 0xf0c, 1, "a", "b").map_err(text);
    reading: frozen => |g, _| g.read_u32(NVME[0], 0).map(drop).map_err(text);
    writing: frozen => |g, _| g.write_u16(NVME[0], 4, 0x406 & !0x400).map_err(text);
}

// What writes several registers: `Guarded::init` and `Guarded::set`, which take `Survey::of` and
// `Plan::apply`.
guarding! {
    true;
    setting_up: |_| {} => |g, _| g.init(NVME[0], &[]).map(drop).map_err(text);
    setting_up_what_is_frozen: frozen => |g, _| g.init(NVME[0], &[]).map(drop).map_err(text);
    setting: |_| {} => |g, _| {
        let asked = [Setting::MaxPayload.to(2), Setting::BusMaster.to(0)];
        let set = g.set(NVME[0], &asked).map_err(text)?;
        assert!(asked.iter().all(|request| set.get(request.setting) == Some(request.value)));
        Ok(())
    };
}

/// What a predecessor left, and a registry that has not looked at it.
struct Arriving<'t, M> {
    hardware: &'t Hardware,
    registry: &'t Registry<Config>,
    memory: Option<&'t Faulty<M>>,
    work: &'t dyn Fn(&Registry<Config>) -> Result<(), String>,
}

impl<M> Attempt for Arriving<'_, M> {
    type State = (u64, usize, Vec<(bool, State, Option<Kind>)>);
    type Error = String;

    fn sources(&self) -> Vec<(&'static str, &dyn Failing)> {
        let config: (_, &dyn Failing) = ("access to configuration space", self.hardware.config);
        let memory = self
            .memory
            .map(|memory| ("read of memory", memory as &dyn Failing));
        memory.into_iter().chain([config]).collect()
    }

    fn state(&mut self) -> Self::State {
        let config = self.registry.config();
        let of = |&function: &Sbdf| {
            let incoming = self.registry.is_incoming(function);
            (incoming, config.state(function), config.kind(function))
        };
        let functions = self.hardware.devices.keys().map(of).collect();
        (
            self.hardware.held(),
            self.registry.incoming_count(),
            functions,
        )
    }

    fn work(&mut self) -> Result<(), String> {
        (self.work)(self.registry)
    }
}

type Handed<'a> = Incoming<'a, Faulty<FrozenSim<'a>>>;

/// Fails everything in `work`, with what is handed over, after `prepare`; `reads` says whether memory
/// may fail as well.
fn every_failure_of_arriving(
    form: OutgoingForm,
    reads: bool,
    prepare: impl Fn(&Registry<Config>, &Handed<'_>),
    work: impl Fn(&Registry<Config>, &Handed<'_>) -> Result<(), String>,
) -> u64 {
    let hardware = Hardware::new();
    let mut memory = common::memory();
    let old = Registry::new(hardware.config);
    let boot = hand_over(&memory, &old, form, &hardware.devices, &[NVME[0]]);
    let memory = Faulty::new(memory.freeze());
    let machine = Machine::unknown(PAGE);
    let incoming = Incoming::check(&memory, boot, machine, &mut [0; 4096]).unwrap();
    every_failure(|attempt| {
        hardware.restore();
        let registry = Registry::new(hardware.config);
        prepare(&registry, &incoming);
        attempt(&mut Arriving {
            hardware: &hardware,
            registry: &registry,
            memory: reads.then_some(&memory),
            work: &|registry| work(registry, &incoming),
        });
    })
}

fn receive_all(registry: &Registry<Config>, incoming: &Handed<'_>) -> Result<(), String> {
    let mut workspace = vec![0; 4096];
    let functions = Functions::read(incoming, &mut workspace).map_err(text)?;
    let record = Record::read(incoming, &mut workspace)
        .map_err(text)?
        .unwrap();
    registry
        .receive(&record, functions.as_ref())
        .map(drop)
        .map_err(text)
}

fn received(registry: &Registry<Config>, incoming: &Handed<'_>) {
    receive_all(registry, incoming).unwrap();
}

fn found(registry: &Registry<Config>, incoming: &Handed<'_>) {
    received(registry, incoming);
    for function in [ROOT, UP, DOWN[0], NVME[0]] {
        registry.set_up(function).unwrap();
    }
}

macro_rules! arriving {
    ($reads:expr; $($name:ident: $form:expr, $prepare:expr => $work:expr;)*) => {$(
        #[test]
        fn $name() {
            let faults = every_failure_of_arriving($form, $reads, $prepare, $work);
            println!("{faults} faults in {}", stringify!($name));
            assert!(faults > 0);
        }
    )*};
}

// `Record::read`, `Functions::read` and `Functions::iter`, `Registry::receive`.
arriving! {
    true;
    reading_a_record: V2, |_, _| {} => |_, i| {
        let mut workspace = [0; 4096];
        let record = Record::read(i, &mut workspace).map_err(text)?;
        assert_eq!(record.unwrap().len(), 4);
        Ok(())
    };
    reading_a_record_of_the_first_form: V1, |_, _| {} => |_, i| {
        let mut workspace = [0; 4096];
        let record = Record::read(i, &mut workspace).map_err(text)?;
        assert_eq!(record.unwrap().len(), 1);
        Ok(())
    };
    reading_what_is_known: V2, |_, _| {} => |_, i| {
        let known = Functions::read(i, &mut [0; 4096]).map_err(text)?;
        match known.unwrap().iter().count() {
            4 => Ok(()),
            less => Err(format!("{less} functions")),
        }
    };
    receiving: V2, |_, _| {} => receive_all;
}

// `Registry`, incoming: `set_up`, `bars` and `bus_numbers`. What follows touches nothing.
arriving! {
    false;
    setting_up_what_arrived: V2, received => |r, _| {
        assert!(r.set_up(NVME[0]).map_err(text)?);
        Ok(())
    };
    setting_up_a_bridge_that_the_record_lacks: V1, received => |r, _| {
        assert!(r.set_up(ROOT).map_err(text)?);
        Ok(())
    };
    asking_for_sizes_of_bars: V2, found => |r, _| r.bars(NVME[0]).map(drop).map_err(text);
    asking_for_bus_numbers: V2, found => |r, _| {
        let numbers = r.bus_numbers(ROOT, 1..=255).map_err(text)?;
        assert!(matches!(numbers, BusNumbers::Inherited(_)));
        Ok(())
    };
    clearing_bus_numbers: V2, received => |r, _| {
        // They overlap those of a sibling; and the bridge is nobody's.
        let numbers = r.bus_numbers(DOWN[1], 5..=255).map_err(text)?;
        assert_eq!(numbers, BusNumbers::Closed);
        Ok(())
    };
}

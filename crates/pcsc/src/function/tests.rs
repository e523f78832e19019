//! One function by one CPU, against a model that has a few flags for every byte. What several
//! CPUs do at once is for the model checker.

use std::vec::Vec;

use kho_hal::Width;
use proptest::prelude::*;

use super::*;
use crate::table::{COMMAND, fixed};

/// Bytes that are played with: two words of a bitmap, and some.
const BYTES: u16 = 160;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Byte {
    value: u8,
    marked: bool,
    constant: bool,
    answered: bool,
    kept: bool,
    /// What the page says.
    known: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Fill(Access, u32),
    Keep(Access, u32),
    Invalidate(Range<u16>, Keep),
    Wipe(Keep),
    Publish,
    KeepKnown(usize, u64),
    Sync,
}

fn access() -> impl Strategy<Value = Access> {
    (0..BYTES, 0..3usize).prop_map(|(offset, width)| {
        let width = [Width::U8, Width::U16, Width::U32][width];
        Access::new(offset / width.bytes() * width.bytes(), width).unwrap()
    })
}

fn op() -> impl Strategy<Value = Op> {
    let keep = || prop::sample::select(&[Keep::Constants, Keep::Nothing][..]);
    prop_oneof![
        8 => (access(), any::<u32>()).prop_map(|(at, value)| Op::Fill(at, value)),
        4 => (access(), any::<u32>()).prop_map(|(at, value)| Op::Keep(at, value)),
        2 => (0..BYTES, 0..60u16, keep()).prop_map(|(start, len, keep)| {
            Op::Invalidate(start..(start + len).min(BYTES), keep)
        }),
        1 => keep().prop_map(Op::Wipe),
        1 => Just(Op::Publish),
        1 => (0..3usize, any::<u64>()).prop_map(|(n, known)| Op::KeepKnown(n, known)),
        1 => Just(Op::Sync),
    ]
}

/// An active function with these bytes marked and constant.
fn function(bytes: &[Byte]) -> Function<'static> {
    let function = Function::new();
    assert!(function.set_space(|| Some(Space::heap())));
    for (offset, byte) in bytes.iter().enumerate() {
        let bit = |set: bool| u64::from(set) << (offset % 64);
        let space = function.space().unwrap();
        let marked = space.cacheable(offset / 64).unwrap();
        marked.fetch_or(bit(byte.marked), Ordering::Relaxed);
        function.constant[offset / 64].fetch_or(bit(byte.constant), Ordering::Relaxed);
    }
    function.enter(Kind::Active);
    function
}

/// Bytes that may be answered: those that are marked, and of an endpoint those that every
/// endpoint has.
fn may_answer(bytes: &[Byte], offset: usize) -> bool {
    let header = |range: Range<u16>| range.contains(&(offset as u16));
    bytes[offset].marked || header(COMMAND) || fixed(0, true).into_iter().any(header)
}

fn run(model: &mut [Byte], op: &Op) {
    let may_answer: Vec<bool> = (0..model.len())
        .map(|offset| may_answer(model, offset))
        .collect();
    let stays = |byte: &Byte, keep: &Keep| *keep == Keep::Constants && byte.constant;
    match op {
        Op::Fill(at, value) | Op::Keep(at, value) => {
            for (offset, value) in (at.offset()..at.end()).zip(value.to_le_bytes()) {
                let byte = &mut model[usize::from(offset)];
                byte.value = value;
                match op {
                    Op::Fill(..) => byte.answered = true,
                    _ => byte.kept = true,
                }
            }
        }
        Op::Invalidate(range, keep) => {
            let range = usize::from(range.start)..usize::from(range.end).max(range.start.into());
            for byte in model[range].iter_mut().filter(|byte| !stays(byte, keep)) {
                (byte.answered, byte.kept, byte.known) = (false, false, false);
            }
        }
        Op::Wipe(keep) => {
            for byte in model {
                byte.kept = (byte.answered || byte.kept) && stays(byte, keep);
                byte.known &= byte.kept;
                byte.answered = false;
            }
        }
        Op::Publish => {
            for (byte, may_answer) in model.iter_mut().zip(may_answer) {
                byte.answered |= byte.kept && may_answer;
                byte.kept = false;
            }
        }
        Op::KeepKnown(n, known) => {
            for (offset, byte) in model.iter_mut().enumerate() {
                if offset / 64 == *n {
                    let known = known >> (offset % 64) & 1 != 0 && may_answer[offset];
                    byte.known &= known;
                    byte.kept |= known;
                }
            }
        }
        Op::Sync => {
            for byte in model {
                byte.known = (byte.answered || byte.kept) && byte.marked;
            }
        }
    }
}

fn apply(function: &Function<'_>, op: &Op) {
    match op {
        Op::Fill(at, value) => {
            let ticket = function.claim(*at, Kind::Active).unwrap();
            assert!(function.claim(*at, Kind::Active).is_none(), "claimed twice");
            function.fill(ticket, *value);
        }
        Op::Keep(at, value) => {
            let ticket = function.claim(*at, Kind::Active).unwrap();
            function.keep(ticket, *value);
        }
        Op::Invalidate(range, keep) => function.invalidate(range.clone(), *keep),
        Op::Wipe(keep) => function.wipe(*keep),
        Op::Publish => function.publish(function.state()),
        Op::KeepKnown(n, known) => function.keep_known(*n, *known),
        Op::Sync => function.sync_known(),
    }
}

fn check(function: &Function<'_>, model: &[Byte]) -> Result<(), TestCaseError> {
    for width in [Width::U8, Width::U16, Width::U32] {
        let step = usize::from(width.bytes());
        for (n, bytes) in model.chunks_exact(step).enumerate() {
            let at = Access::new((n * step) as u16, width).unwrap();
            let value = bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u32::from(byte.value));
            let hit = bytes.iter().all(|byte| byte.answered).then_some(value);
            prop_assert_eq!(function.hit(at), hit, "{:?}", at);
            prop_assert_eq!(function.page_value(at), Some(value));
            let constant = bytes.iter().all(|byte| byte.constant);
            prop_assert_eq!(function.is_constant(at), constant);
            let may_answer = (n * step..(n + 1) * step).all(|offset| may_answer(model, offset));
            prop_assert_eq!(function.may_cache(at), may_answer);
        }
    }
    let space = function.space().unwrap();
    for (offset, byte) in model.iter().enumerate() {
        let known = space.known(offset / 64).unwrap().load(Ordering::Relaxed);
        prop_assert_eq!(known >> (offset % 64) & 1 != 0, byte.known, "{:x}", offset);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_byte_is_answered_as_the_model_says(
        map in prop::collection::vec(any::<(bool, bool)>(), usize::from(BYTES)),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let mut model: Vec<Byte> = map
            .into_iter()
            .map(|(marked, constant)| Byte { marked, constant, ..Byte::default() })
            .collect();
        let function = function(&model);
        for op in &ops {
            apply(&function, op);
            run(&mut model, op);
            check(&function, &model)?;
        }
    }
}

fn at(offset: u16) -> Access {
    Access::new(offset, Width::U32).unwrap()
}

fn active() -> Function<'static> {
    function(&[Byte::default(); BYTES as usize])
}

type Overtake = fn(&Function<'_>);

#[test]
fn a_value_that_was_overtaken_is_not_stored() {
    let overtakers: [(&str, Overtake); 3] = [
        ("a write", |function| {
            function.invalidate(0x13..0x14, Keep::Nothing)
        }),
        ("a write beside it, in its line", |function| {
            function.invalidate(0x1f..0x20, Keep::Nothing);
        }),
        ("a reset", |function| function.wipe(Keep::Constants)),
    ];
    for (what, overtake) in overtakers {
        let function = active();
        let ticket = function.claim(at(0x10), Kind::Active).unwrap();
        overtake(&function);
        function.fill(ticket, 7);
        assert_eq!(function.hit(at(0x10)), None, "{what}");
        // The claim is given up, and the next one holds.
        let ticket = function.claim(at(0x10), Kind::Active).unwrap();
        function.fill(ticket, 8);
        assert_eq!(function.hit(at(0x10)), Some(8), "{what}");
    }
    let function = active();
    let ticket = function.claim(at(0x10), Kind::Active).unwrap();
    function.invalidate(0x20..0x30, Keep::Nothing);
    function.fill(ticket, 7);
    assert_eq!(function.hit(at(0x10)), Some(7), "a write to another line");
}

#[test]
fn a_line_is_claimed_by_one_reader_while_nobody_writes() {
    let function = active();
    let ticket = function.claim(at(0x10), Kind::Active).unwrap();
    assert!(
        function.claim(at(0x1c), Kind::Active).is_none(),
        "the same line"
    );
    assert!(function.claim(at(0x20), Kind::Active).is_some());
    function.release(ticket);
    assert!(
        function.claim(at(0x30), Kind::Adding).is_none(),
        "in another state"
    );
    let writing = function.begin_write();
    for _ in 0..2 {
        assert!(
            function.claim(at(0x1c), Kind::Active).is_none(),
            "a write is under way"
        );
    }
    function.end_write(writing);
    assert!(function.claim(at(0x1c), Kind::Active).is_some());
    assert!(function.claim(at(0x30), Kind::Active).is_some());
}

#[test]
fn a_write_is_alone_if_no_other_began_or_ended_meanwhile() {
    let function = active();
    let first = function.begin_write();
    assert!(function.is_alone(&first));
    let second = function.begin_write();
    assert!(!function.is_alone(&first) && !function.is_alone(&second));
    function.end_write(second);
    assert!(!function.is_alone(&first), "another one came and went");
    let third = function.begin_write();
    function.end_write(first);
    assert!(!function.is_alone(&third), "another one went");
    function.end_write(third);
    for _ in 0..3 {
        let next = function.begin_write();
        assert!(function.is_alone(&next));
        function.end_write(next);
    }
    // The count of writes that ever began wraps.
    function.writers.store(!WRITERS, Ordering::Relaxed);
    let wrapped = function.begin_write();
    assert!(function.is_alone(&wrapped));
}

#[test]
fn a_state_moves_on_only_from_what_it_was() {
    let function = active();
    let active = function.state();
    let reset = function.enter(Kind::Unsettled);
    assert!(!active.same_epoch(reset) && function.state() == reset);
    assert!(!function.advance(active, Kind::Vacant), "an older state");
    let writing = function.begin_write();
    assert_eq!(
        function.settle(reset),
        None,
        "a write may be what resets it"
    );
    function.end_write(writing);
    let settled = function.settle(reset).unwrap();
    assert!(settled.kind() == Kind::Active && settled.same_epoch(reset));
    assert_eq!((function.state(), reset.active()), (settled, settled));
    assert_eq!(function.settle(reset), None, "it is no more");
    assert!(!function.restart_addition(), "none is under way");
    let adding = function.enter(Kind::Adding);
    assert!(function.restart_addition());
    assert!(function.state().kind() == Kind::Adding && !function.state().same_epoch(adding));
}

#[test]
fn what_is_published_is_of_the_present_state() {
    let function = active();
    let old = function.state();
    let ticket = function.claim(at(0), Kind::Active).unwrap();
    function.keep(ticket, 7);
    function.enter(Kind::Unsettled);
    function.publish(old);
    assert_eq!(function.hit(at(0)), None);
}

#[test]
fn small_facts_come_back_as_they_were_noted() {
    let function = active();
    assert_eq!(function.buses(), None);
    for buses in [(0, 0), (1, 0x80), (0xff, 0xff)] {
        function.set_buses(buses);
        assert_eq!(function.buses(), Some(buses));
    }
    function.set_identity(0x1234_5678, 0x9abc_def0);
    assert_eq!(function.identity(), (0x1234_5678, 0x9abc_def0));
    for place in [Sbdf::from_bdf(0, 0), Sbdf::from_bdf(u32::MAX, 0x8001)] {
        function.set_place(place);
        assert_eq!(function.place(), place);
    }
}

/// The count of writes that ever began outgrows the room of those under way.
#[test]
fn a_write_after_many_others_is_alone() {
    let function = Function::new();
    for _ in 0..3 * WRITERS / 2 {
        let writing = function.begin_write();
        assert!(function.is_alone(&writing));
        function.end_write(writing);
    }
    let (first, second) = (function.begin_write(), function.begin_write());
    assert!(!function.is_alone(&first) && !function.is_alone(&second));
}

//! The protocol of [`crate::function`] under the model checker: every interleaving of two CPUs with at
//! most three preemptions, of three with two.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p kho-pcsc --release --all-features --lib model`.

use core::sync::atomic::AtomicUsize;

use kho_hal::sync::{AtomicU64, Ordering};
use kho_hal::{Access, Width};
use loom::sync::Arc;
use loom::thread;

use crate::function::{Function, Keep, Kind};
use crate::space::{MAP, Space};
use crate::wide::WideWrites;

/// One function with one register of the device behind it.
struct Device {
    function: Function<'static>,
    register: AtomicU64,
    /// What the last write that reached the device wrote.
    reached: AtomicU64,
}

fn at() -> Access {
    Access::new(8, Width::U32).unwrap()
}

fn device(constant: bool) -> Arc<Device> {
    let function = Function::new();
    function.set_space(|| Some(Space::heap()));
    for n in 0..MAP {
        let marked = function
            .space()
            .and_then(|space| space.cacheable(n))
            .unwrap();
        marked.store(u64::MAX, Ordering::Relaxed);
        if constant {
            function.constant[n].store(u64::MAX, Ordering::Relaxed);
        }
    }
    let now = function.enter(Kind::Adding);
    function.advance(now, Kind::Active);
    Arc::new(Device {
        function,
        register: AtomicU64::new(1),
        reached: AtomicU64::new(1),
    })
}

/// Every interleaving of two CPUs with at most three preemptions.
fn bounded(run: impl Fn() + Send + Sync + 'static) {
    bounded_by(3, run);
}

fn bounded_by(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&orders);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        run();
    });
    std::println!("{} orders", orders.load(Ordering::Relaxed));
}

impl Device {
    /// As [`crate::Cached`] reads; whether it was a hit, and the value.
    fn read(&self) -> (bool, u64) {
        if let Some(value) = self.function.hit(at()) {
            return (true, value.into());
        }
        let ticket = self.function.claim(at(), Kind::Active);
        let value = self.register.load(Ordering::SeqCst);
        if let Some(ticket) = ticket {
            self.function.fill(ticket, value as u32);
        }
        (false, value)
    }

    /// As [`crate::Cached`] writes.
    fn write(&self, value: u64) {
        let writing = self.function.begin_write();
        self.function.invalidate(8..12, Keep::Nothing);
        self.register.store(value, Ordering::SeqCst);
        self.reached.store(value, Ordering::SeqCst);
        self.function.invalidate(8..12, Keep::Nothing);
        self.function.end_write(writing);
    }

    /// As [`crate::Cached`] resets.
    fn reset(&self) {
        let now = self.function.enter(Kind::Resetting);
        self.function.wipe(Keep::Constants);
        self.function.advance(now, Kind::Unsettled);
    }

    /// As [`crate::Cached`] does when the device was seen again.
    fn settle(&self) {
        if let Some(now) = self.function.settle(self.function.state()) {
            self.function.publish(now);
        }
    }
}

#[test]
fn a_reader_that_missed_never_inserts_the_old_value_after_a_write() {
    bounded(|| {
        let device = device(false);
        let writer = {
            let device = Arc::clone(&device);
            thread::spawn(move || device.write(2))
        };
        device.read();
        writer.join().unwrap();
        assert_eq!(device.read().1, 2);
        assert_eq!(device.read().1, 2);
    });
}

#[test]
fn no_reader_gets_what_the_device_has_no_more() {
    bounded(|| {
        let device = device(false);
        let reader = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                // This may be in the middle of the write, and must not keep what it reads there.
                device.read();
                let floor = device.reached.load(Ordering::SeqCst);
                let (_, value) = device.read();
                assert!(value >= floor, "{value} after {floor}");
            })
        };
        device.write(2);
        reader.join().unwrap();
    });
}

#[test]
fn two_readers_and_a_writer_agree_in_the_end() {
    bounded_by(2, || {
        let device = device(false);
        let writer = {
            let device = Arc::clone(&device);
            thread::spawn(move || device.write(2))
        };
        let reader = {
            let device = Arc::clone(&device);
            thread::spawn(move || device.read())
        };
        device.read();
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(device.read().1, 2);
    });
}

#[test]
fn a_reset_is_not_survived_by_a_fill_under_way() {
    bounded(|| {
        let device = device(false);
        let resetter = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                let start = || {
                    let now = device.function.enter(Kind::Resetting);
                    device.function.wipe(Keep::Constants);
                    now
                };
                start();
                device.register.store(0, Ordering::SeqCst);
                let now = start();
                device.function.advance(now, Kind::Unsettled);
            })
        };
        device.read();
        resetter.join().unwrap();
        let now = device.function.state();
        let now = device.function.settle(now).unwrap();
        device.function.publish(now);
        assert_eq!(device.read().1, 0);
    });
}

#[test]
fn constants_are_not_published_over_a_write() {
    bounded(|| {
        let device = device(true);
        device.read();
        device.reset();
        let writer = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                device.write(2);
                assert_eq!(device.read().1, 2);
            })
        };
        device.settle();
        writer.join().unwrap();
        assert_eq!(device.read().1, 2);
    });
}

#[test]
fn constants_are_not_answered_while_the_device_was_not_seen_since_its_reset() {
    bounded(|| {
        let device = device(true);
        device.read();
        device.reset();
        let resetter = {
            let device = Arc::clone(&device);
            thread::spawn(move || device.reset())
        };
        device.settle();
        resetter.join().unwrap();
        if device.function.state().kind() != Kind::Active {
            assert_eq!(device.function.hit(at()), None);
        }
    });
}

/// A read of four bytes, one of them a constant that is known, beside a reset: what the device
/// answers while it is away is not taken for the constant afterwards.
#[test]
fn a_fill_that_is_refused_spoils_nothing_that_is_kept() {
    bounded(|| {
        let device = device(true);
        let byte = Access::new(8, Width::U8).unwrap();
        let ticket = device.function.claim(byte, Kind::Active).unwrap();
        device.function.fill(ticket, 1);
        let reader = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                device.read();
            })
        };
        let now = device.function.enter(Kind::Resetting);
        device.function.wipe(Keep::Constants);
        device.register.store(7, Ordering::SeqCst);
        reader.join().unwrap();
        device.register.store(1, Ordering::SeqCst);
        device.function.wipe(Keep::Constants);
        device.function.advance(now, Kind::Unsettled);
        device.settle();
        assert!(matches!(device.function.hit(byte), None | Some(1)));
    });
}

#[test]
fn a_constant_that_was_written_is_not_brought_back_by_a_reset() {
    bounded(|| {
        let device = device(true);
        device.read();
        let writer = {
            let device = Arc::clone(&device);
            thread::spawn(move || device.write(2))
        };
        device.reset();
        writer.join().unwrap();
        device.settle();
        assert_eq!(device.read().1, 2);
    });
}

#[test]
fn what_the_page_says_at_a_save_is_true() {
    bounded(|| {
        let device = device(false);
        device.read();
        let writer = {
            let device = Arc::clone(&device);
            thread::spawn(move || device.write(2))
        };
        device.function.sync_known();
        writer.join().unwrap();
        let space = device.function.space().unwrap();
        let known = space.known(0).unwrap().load(Ordering::SeqCst) & 0xf00 == 0xf00;
        let value = device.function.page_value(at());
        assert!(!known || value == Some(2), "{value:?}");
    });
}

/// Whoever wrote alone knows what the register held before; afterwards it is known what it holds,
/// or known that it is not.
#[test]
fn writers_at_the_same_time_know_that_they_know_nothing() {
    const UNKNOWN: u64 = 9;
    bounded(|| {
        let device = device(false);
        let held = Arc::new(AtomicU64::new(1));
        let write = {
            let (device, held) = (Arc::clone(&device), Arc::clone(&held));
            move |value| {
                let function = &device.function;
                let writing = function.begin_write();
                let before = held.load(Ordering::Acquire);
                let is_known = function.is_alone(&writing) && before != UNKNOWN;
                held.store(value, Ordering::Release);
                let old = device.register.swap(value, Ordering::SeqCst);
                if !function.is_alone(&writing) {
                    held.store(UNKNOWN, Ordering::Release);
                } else if is_known {
                    assert_eq!(before, old);
                }
                function.end_write(writing);
            }
        };
        let other = {
            let write = write.clone();
            thread::spawn(move || {
                write(2);
                write(3);
            })
        };
        write(4);
        other.join().unwrap();
        let held = held.load(Ordering::SeqCst);
        assert!(held == UNKNOWN || held == device.register.load(Ordering::SeqCst));
    });
}

/// A write to another function, which acts on this one.
#[test]
fn what_a_write_elsewhere_changed_is_never_answered_as_it_was() {
    bounded(|| {
        let device = device(false);
        let wide = Arc::new(WideWrites::new());
        let reader = {
            let (device, wide) = (Arc::clone(&device), Arc::clone(&wide));
            thread::spawn(move || {
                for _ in 0..2 {
                    let floor = device.reached.load(Ordering::SeqCst);
                    let hit = device.function.hit(at());
                    let value = hit.map_or_else(
                        || {
                            let ticket = device.function.claim(at(), Kind::Active);
                            let is_narrow = !wide.any();
                            let value = device.register.load(Ordering::SeqCst);
                            match ticket {
                                Some(ticket) if is_narrow => {
                                    device.function.fill(ticket, value as u32);
                                }
                                Some(ticket) => device.function.release(ticket),
                                None => {}
                            }
                            value
                        },
                        u64::from,
                    );
                    assert!(value >= floor, "{value} after {floor}");
                }
            })
        };
        wide.enter();
        device.function.invalidate(8..12, Keep::Nothing);
        device.register.store(2, Ordering::SeqCst);
        device.reached.store(2, Ordering::SeqCst);
        device.function.invalidate(8..12, Keep::Nothing);
        wide.leave();
        reader.join().unwrap();
    });
}

/// A write that began while the function was not in the cache, beside an addition.
#[test]
fn an_addition_keeps_nothing_from_before_a_write_that_it_could_not_see() {
    bounded(|| {
        let device = device(true);
        device.function.enter(Kind::Vacant);
        let wide = Arc::new(WideWrites::new());
        let writer = {
            let (device, wide) = (Arc::clone(&device), Arc::clone(&wide));
            thread::spawn(move || {
                wide.enter();
                let function = &device.function;
                if function.state().kind() == Kind::Vacant {
                    device.register.store(2, Ordering::SeqCst);
                    wide.look();
                    if function.state().kind() != Kind::Vacant {
                        // The addition fails, or is undone.
                        function.enter(Kind::Vacant);
                        function.wipe(Keep::Nothing);
                    }
                } else {
                    // The addition starts anew.
                    function.restart_addition();
                    device.write(2);
                    function.restart_addition();
                }
                wide.leave();
                device.read();
            })
        };
        let function = &device.function;
        let now = function.enter(Kind::Adding);
        wide.look();
        let ticket = function.claim(at(), Kind::Adding);
        let is_narrow = !wide.any();
        let value = device.register.load(Ordering::SeqCst);
        match ticket {
            Some(ticket) if is_narrow => function.keep(ticket, value as u32),
            Some(ticket) => function.release(ticket),
            None => {}
        }
        if function.advance(now, Kind::Active) {
            function.publish(now.active());
        }
        writer.join().unwrap();
        assert_eq!(device.read().1, 2);
    });
}

#[test]
fn a_hit_is_never_half_old_and_half_new() {
    bounded(|| {
        let device = device(false);
        device.register.store(0x0101_0101, Ordering::SeqCst);
        device.read();
        let reader = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                let hit = device.function.hit(at());
                assert!(
                    matches!(hit, None | Some(0x0101_0101 | 0x0202_0202)),
                    "{hit:x?}"
                );
            })
        };
        device.write(0x0202_0202);
        // Somebody fills one byte of the four.
        let byte = Access::new(8, Width::U8).unwrap();
        if let Some(ticket) = device.function.claim(byte, Kind::Active) {
            device.function.fill(ticket, 0x02);
        }
        reader.join().unwrap();
    });
}

#[test]
fn nothing_is_kept_for_a_function_that_left() {
    bounded(|| {
        let device = device(false);
        let reader = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                device.read();
            })
        };
        device.function.enter(Kind::Vacant);
        device.function.wipe(Keep::Nothing);
        reader.join().unwrap();
        assert_eq!(device.function.hit(at()), None);
    });
}

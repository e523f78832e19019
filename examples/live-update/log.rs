//! What happened when, for the drawing.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use kho_draw::{Picture, Timeline};

/// Steps, each of which lasts until the next one begins.
pub struct Log {
    start: Instant,
    steps: RefCell<Vec<(&'static str, &'static str, Duration)>>,
}

impl Log {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            steps: RefCell::default(),
        }
    }

    /// A step begins: whose, and what.
    pub fn step(&self, lane: &'static str, what: &'static str) {
        let now = self.start.elapsed();
        self.steps.borrow_mut().push((lane, what, now));
    }

    /// The steps as a picture; the last one ends now.
    pub fn draw(&self) -> Picture {
        let mut timeline = Timeline::new();
        let steps = self.steps.borrow();
        let starts = steps.iter().map(|(_, _, start)| *start);
        let ends = starts.skip(1).chain([self.start.elapsed()]);
        for ((lane, what, start), end) in steps.iter().zip(ends) {
            timeline.add(lane, what, *start, end - *start);
        }
        timeline.draw()
    }
}

//! A progress bar, for what takes longer than a second.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(1);

/// One thing that may take a while. Shows on a terminal only, and disappears when it is dropped, as a
/// `ProgressBar` does by itself.
pub struct Progress {
    what: &'static str,
    total: Option<u64>,
    done: Cell<u64>,
    start: Instant,
    bar: OnceCell<ProgressBar>,
}

impl Progress {
    /// `total` is in bytes, if it is known.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        Self {
            what,
            total,
            done: Cell::new(0),
            start: Instant::now(),
            bar: OnceCell::new(),
        }
    }

    pub fn advance(&self, bytes: u64) {
        self.done.set(self.done.get().saturating_add(bytes));
        if self.start.elapsed() > PATIENCE {
            let bar = self.bar.get_or_init(|| self.bar());
            bar.set_position(self.done.get());
        }
    }

    fn bar(&self) -> ProgressBar {
        let (bar, template) = match self.total {
            Some(total) => (
                ProgressBar::new(total),
                "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {msg}: {bytes} in {elapsed}",
            ),
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(self.what);
        // What was done before it showed says nothing about how fast it goes from here.
        bar.with_position(self.done.get())
            .with_elapsed(self.start.elapsed())
    }
}

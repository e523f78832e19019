//! What happened when.

use std::time::Duration;

use svg::node::element::{Group, Line, Rectangle};

use crate::Picture;
use crate::picture::{WIDTH, text};

const ROW: u32 = 26;
const TOP: u32 = 30;
const BARS: u32 = 360;
const NOTE: u32 = 110;
const COLOURS: [&str; 6] = [
    "#0969da", "#bf8700", "#1a7f37", "#8250df", "#cf222e", "#57606a",
];

/// Steps in the order in which they happened, each on a lane.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    lanes: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    lane: usize,
    what: String,
    start: Duration,
    took: Duration,
}

impl Timeline {
    /// Without a step.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step of `lane`, who did it; times count from any moment that is the same for all.
    pub fn add(&mut self, lane: &str, what: &str, start: Duration, took: Duration) {
        let known = self.lanes.iter().position(|known| known == lane);
        let lane = known.unwrap_or_else(|| {
            self.lanes.push(lane.to_owned());
            self.lanes.len() - 1
        });
        self.steps.push(Step {
            lane,
            what: what.to_owned(),
            start,
            took,
        });
    }

    /// Draws one row for each step, to scale.
    pub fn draw(&self) -> Picture {
        let end = |step: &Step| step.start + step.took;
        let first = self.steps.iter().map(|step| step.start).min();
        let last = self.steps.iter().map(end).max();
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        let whole = (last - first).as_secs_f64().max(1e-9);
        let width = f64::from(WIDTH - BARS - NOTE);
        let x = |at: Duration| f64::from(BARS) + (at - first).as_secs_f64() / whole * width;
        let height = TOP + ROW * self.steps.len() as u32;
        let mut group = Group::new()
            .add(text(0, 12, "Steps"))
            .add(text(BARS, 12, "0").set("class", "dim"))
            .add(
                text(WIDTH - NOTE, 12, format!("{:.1?}", last - first))
                    .set("text-anchor", "end")
                    .set("class", "dim"),
            );
        for edge in [BARS, WIDTH - NOTE] {
            group = group.add(
                Line::new()
                    .set("x1", edge)
                    .set("x2", edge)
                    .set("y1", TOP - 10)
                    .set("y2", height)
                    .set("stroke", "#d0d7de"),
            );
        }
        for (i, step) in self.steps.iter().enumerate() {
            let y = TOP + ROW * i as u32;
            let colour = COLOURS.get(step.lane % COLOURS.len()).copied();
            let colour = colour.unwrap_or_default();
            let lane = self.lanes.get(step.lane).map_or("", String::as_str);
            let (from, to) = (x(step.start), x(end(step)));
            let bar = Rectangle::new()
                .set("x", format!("{from:.1}"))
                .set("y", y)
                .set("width", format!("{:.1}", (to - from).max(2.0)))
                .set("height", ROW - 8)
                .set("rx", 2)
                .set("fill", colour);
            group = group
                .add(text(0, y + 14, lane).set("style", format!("fill:{colour}")))
                .add(text(90, y + 14, step.what.as_str()))
                .add(bar)
                .add(
                    text(0, y + 14, format!("{:.1?}", step.took))
                        .set("x", format!("{:.1}", to.max(from + 2.0) + 6.0))
                        .set("class", "dim"),
                );
        }
        Picture { group, height }
    }
}

//! What happened when.

use std::time::Duration;

use svg::node::element::{Group, Line, Rectangle, Title};

use crate::Picture;
use crate::picture::{WIDTH, text, text_width};

const ROW: u32 = 26;
const TOP: u32 = 30;
const NOTE: u32 = 110;
/// Between columns.
const GAP: u32 = 20;
/// However long the labels are, the bars have as much.
const LEAST: u32 = 300;
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

    /// Draws one row for each step, to scale. Labels that are too long for the picture are cut off,
    /// and shown in full under the pointer.
    pub fn draw(&self) -> Picture {
        let lanes = self.lanes.iter().map(|lane| text_width(lane)).max();
        let labels = lanes.unwrap_or_default() + GAP;
        let whats = self.steps.iter().map(|step| text_width(&step.what)).max();
        let bars = (labels + whats.unwrap_or_default() + GAP).min(WIDTH - NOTE - LEAST);
        let end = |step: &Step| step.start + step.took;
        let first = self.steps.iter().map(|step| step.start).min();
        let last = self.steps.iter().map(end).max();
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        let whole = (last - first).as_secs_f64().max(1e-9);
        let width = f64::from(WIDTH - bars - NOTE);
        let x = |at: Duration| f64::from(bars) + (at - first).as_secs_f64() / whole * width;
        let height = TOP + ROW * self.steps.len() as u32;
        let mut group = Group::new()
            .add(text(0, 12, "Steps"))
            .add(text(bars, 12, "0").set("class", "dim"))
            .add(
                text(WIDTH - NOTE, 12, format!("{:.1?}", last - first))
                    .set("text-anchor", "end")
                    .set("class", "dim"),
            );
        for edge in [bars, WIDTH - NOTE] {
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
                .add(fitting(
                    labels,
                    y + 14,
                    &step.what,
                    bars.saturating_sub(labels + GAP),
                ))
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

/// Text that has this much room.
fn fitting(x: u32, y: u32, what: &str, room: u32) -> Group {
    let group = Group::new();
    if text_width(what) <= room {
        return group.add(text(x, y, what));
    }
    let count = (1..).take_while(|&count| text_width("…") * (count + 1) <= room);
    let mut cut: String = what.chars().take(count.count()).collect();
    cut.push('…');
    group.add(text(x, y, cut)).add(Title::new(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn drawn(lane: &str, what: &str) -> (String, u32) {
        let mut timeline = Timeline::new();
        let second = Duration::from_secs(1);
        timeline.add("a", "b", Duration::ZERO, second);
        timeline.add(lane, what, second, second);
        let svg = document("", [timeline.draw()]);
        // The line where the bars begin is the first.
        let start = svg
            .split_once("x1=\"")
            .and_then(|(_, rest)| rest.split_once('"'));
        let start = start.and_then(|(number, _)| number.parse().ok());
        (svg, start.unwrap_or(0))
    }

    /// The second of three steps of the same length is in the middle.
    #[test]
    fn bars_are_to_scale_however_long_it_took() {
        for took in [Duration::from_nanos(50), Duration::from_secs(3600)] {
            let mut timeline = Timeline::new();
            for i in 5..8 {
                timeline.add("", "", took * i, took);
            }
            let svg = document("", [timeline.draw()]);
            let bars = f64::from(2 * GAP);
            let third = (f64::from(WIDTH - NOTE) - bars) / 3.0;
            let bar = format!("width=\"{third:.1}\" x=\"{:.1}\"", bars + third);
            assert!(svg.contains(&bar), "{bar} in {svg}");
        }
    }

    #[test]
    fn labels_have_the_room_that_they_need() {
        let what = "a step whose name says exactly what is being done";
        let (svg, bars) = drawn("the successor", what);
        assert!(svg.contains(what), "{svg}");
        assert!(
            bars > text_width("the successor") + text_width(what),
            "{bars}"
        );
        assert!(drawn("a", "short").1 < 120, "and no more");
    }

    #[test]
    fn what_does_not_fit_at_all_is_cut_off() {
        let what = "a name that goes on ".repeat(20);
        let (svg, bars) = drawn("lane", &what);
        assert_eq!(bars, WIDTH - NOTE - LEAST);
        let shown = svg
            .split_once('…')
            .and_then(|(before, _)| before.rsplit_once('>'));
        let shown = shown.map_or("", |(_, shown)| shown.trim());
        assert!(what.starts_with(shown) && shown.len() > 60, "{shown}");
        assert!(text_width("lane") + GAP + text_width(shown) + 8 <= bars - GAP);
        assert!(svg.contains("<title>"));
    }
}

//! The ratios as a bar chart.

use std::fmt::Write;

use super::results::Results;
use super::tables::{TARGETS, figure};

const ROW: usize = 26;
const LEFT: usize = 290;
const WIDTH: f64 = 400.0;
/// The ratio at the right end.
const FULL: f64 = 1.25;

/// A bar for each ratio that has a target below 1, with a mark at the target and a line at 1.
pub fn draw(results: &Results) -> String {
    let mut rows = String::new();
    let mut count = 0;
    let x = |ratio: f64| LEFT as f64 + ratio.min(FULL) / FULL * WIDTH;
    for target in TARGETS.iter().filter(|target| target.at_most < 1.0) {
        let Some(ratio) = target.ratio(results) else {
            continue;
        };
        let y = 40 + count * ROW;
        count += 1;
        let colour = if ratio <= target.at_most {
            "#2a7f62"
        } else {
            "#c8862b"
        };
        let (label, text) = (LEFT - 8, y + 13);
        let (top, bottom) = (y - 3, y + 19);
        let mark = x(target.at_most);
        let width = x(ratio) - LEFT as f64;
        let after = x(ratio.max(target.at_most)) + 6.0;
        let (what, ratio) = (target.what, figure(ratio));
        let _ = writeln!(
            rows,
            r#"<text x="{label}" y="{text}" text-anchor="end">{what}</text>
<rect x="{LEFT}" y="{y}" width="{width:.1}" height="16" fill="{colour}"/>
<line x1="{mark:.1}" x2="{mark:.1}" y1="{top}" y2="{bottom}" stroke="black" stroke-width="2"/>
<text x="{after:.1}" y="{text}">{ratio}</text>"#,
        );
    }
    let height = 50 + count * ROW;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="780" height="{height}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="20">time of ours by time of the peer; | is the target</text>
<line x1="{one:.1}" x2="{one:.1}" y1="30" y2="{height}" stroke="#888" stroke-dasharray="4 3"/>
{rows}</svg>
"##,
        one = x(1.0),
    )
}

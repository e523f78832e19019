//! What all pictures share: a document, text, and colours.

use svg::node::element::{Group, Rectangle, Style, Text};

/// How wide every picture is, in pixels.
pub(crate) const WIDTH: u32 = 1120;

const MARGIN: u32 = 24;
const TITLE: u32 = 40;
const GAP: u32 = 28;

/// A drawing that has a place in a document.
#[derive(Clone, Debug)]
pub struct Picture {
    pub(crate) group: Group,
    pub(crate) height: u32,
}

/// One SVG document: a title, and pictures one below the other. It needs nothing but itself.
pub fn document(title: &str, pictures: impl IntoIterator<Item = Picture>) -> String {
    let mut all = Group::new();
    let mut y = MARGIN + TITLE;
    for picture in pictures {
        let place = format!("translate({MARGIN},{y})");
        all = all.add(picture.group.set("transform", place));
        y += picture.height + GAP;
    }
    let (width, height) = (WIDTH + 2 * MARGIN, y - GAP + MARGIN);
    let paper = Rectangle::new()
        .set("width", "100%")
        .set("height", "100%")
        .set("fill", "#ffffff");
    let style = "text{font-family:ui-monospace,Menlo,'DejaVu Sans Mono',monospace;\
                 font-size:13px;fill:#24292f}.title{font-size:19px;font-weight:600}\
                 .dim{fill:#57606a}";
    svg::Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .add(Style::new(style))
        .add(paper)
        .add(text(MARGIN, MARGIN + 18, title).set("class", "title"))
        .add(all)
        .to_string()
}

/// Text whose baseline starts at a point.
pub(crate) fn text(x: u32, y: u32, what: impl Into<String>) -> Text {
    Text::new(what).set("x", x).set("y", y)
}

/// About how wide a line of text is: all characters of the font are, 0.6 of its size.
pub(crate) fn text_width(what: &str) -> u32 {
    what.chars().count() as u32 * 8
}

//! Small pictures, each as the file that a reader can look at.
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::time::Duration;

use kho_draw::{Kind, MemoryMap, Size, Timeline, document};
use kho_hal::{PhysAddr, PhysRange};

/// Writes what was drawn next to what was expected, to be looked at.
#[track_caller]
fn looks_like(drawn: &str, expected: &str, name: &str) {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let shown = std::fs::write(&path, drawn).map(|()| path);
    assert!(
        drawn == expected.trim_end(),
        "{name} differs; drawn: {shown:?}"
    );
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

/// Rows of 64 cells of 4 KiB: a few cells of each kind, cells that are shared, one row that is
/// full and followed by three like it, and gaps within a row and between rows.
fn memory() -> MemoryMap {
    let mut map = MemoryMap::new();
    map.add(range(0, 0x4000), Kind::Other);
    map.add(range(0x1000, 0x1000), Kind::Small);
    // A quarter small, half description, and of scratch so little that it has the least height.
    map.add(range(0x2000, 0x400), Kind::Small);
    map.add(range(0x2400, 0x800), Kind::Description);
    map.add(range(0x2c00, 0x10), Kind::Scratch);
    // A full one, so what is raised to the least height takes of the others.
    map.add(range(0x3000, 0x800), Kind::Small);
    map.add(range(0x3800, 0x7f0), Kind::Description);
    map.add(range(0x3ff0, 0x10), Kind::Scratch);
    map.add(range(0x8000, 0x1000), Kind::Large);
    map.add(range(0x3e000, 0x4000), Kind::Scratch);
    map.add(range(0x20_0000, 0x10_0000), Kind::Medium);
    map.add(range(0x30_0000, 0x1000), Kind::Other);
    map
}

#[test]
fn a_map_of_memory() {
    let drawn = document("Memory <1> & more", [memory().draw()]);
    looks_like(&drawn, include_str!("memory.svg"), "memory.svg");
}

#[test]
fn a_map_of_memory_in_letters() {
    let map = memory();
    let line = |width| -> String { map.line(width).into_iter().map(Kind::letter).collect() };
    assert_eq!(line(500), format!("·pdp L ssss {}·", "M".repeat(256)));
    // Cells of 128 KiB: of the first, pages of small folios are most.
    assert_eq!(line(16), "pss MMMMMMMM·");
    let bytes = Kind::ALL.map(|kind| map.bytes(kind));
    let other = 0x1000 + 0x3f0 + 0x1000;
    assert_eq!(bytes, [0x1000, 0x10_0000, 0x1c00, 0xff0, 0x4020, other]);
    assert_eq!(map.bytes(Kind::Nothing), 0);
    let span = map.span().unwrap();
    assert_eq!(span, (PhysAddr::new(0), PhysAddr::new(0x30_0fff)));
    assert_eq!(MemoryMap::new().span(), None);
}

/// Seven lanes, one more than there are colours; steps that overlap, one too short to be seen and
/// one whose name is too long.
#[test]
fn a_timeline() {
    let ms = Duration::from_millis;
    let mut timeline = Timeline::new();
    timeline.add("predecessor", "preserve memory", ms(1000), ms(250));
    timeline.add("predecessor", "freeze", ms(1250), ms(50));
    timeline.add("kexec", "jump", ms(1300), Duration::from_nanos(1500));
    timeline.add(
        "successor",
        &"read what there is ".repeat(5),
        ms(1400),
        ms(600),
    );
    for lane in ["four", "five", "six", "seven"] {
        timeline.add(lane, "step", ms(1500), ms(100));
    }
    let drawn = document("Steps", [timeline.draw()]);
    looks_like(&drawn, include_str!("timeline.svg"), "timeline.svg");
}

#[test]
fn pictures_stand_below_each_other() {
    let empty = || MemoryMap::new().draw();
    let one = document("", [empty()]);
    let two = document("", [empty(), empty()]);
    // A margin of 24, a title of 40, pictures of 40 with 28 between them, and a margin.
    assert!(
        one.contains(r#"height="128" viewBox="0 0 1168 128""#),
        "{one}"
    );
    assert!(
        two.contains(r#"height="196" viewBox="0 0 1168 196""#),
        "{two}"
    );
    for place in ["translate(24,64)", "translate(24,132)"] {
        assert!(two.contains(place), "{two}");
    }
}

#[test]
fn sizes_have_the_largest_unit_that_fits() {
    for (bytes, text) in [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1025, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1024.0 KiB"),
        (1 << 20, "1 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5 TiB"),
        (7 << 50, "7 PiB"),
        (u64::MAX, "16.0 EiB"),
    ] {
        assert_eq!(Size(bytes).to_string(), text);
    }
    assert_eq!(
        format!("{:>8}|{:<7}|", Size(2048), Size(1)),
        "   2 KiB|1 B    |"
    );
}

/// Preserved memory is blue, the darker the larger its folios.
#[test]
fn kinds_have_their_colours() {
    let darkness = [Kind::Large, Kind::Medium, Kind::Small].map(|kind| {
        let (red, green, blue) = kind.colour();
        assert!(blue > red && blue > green);
        u32::from(red) + u32::from(green) + u32::from(blue)
    });
    assert!(darkness.is_sorted());
    assert_eq!(Kind::Nothing.colour(), (255, 255, 255));
    let sizes = [0x3fff_ffff, 0x4000_0000, 0x1f_ffff, 0x20_0000].map(Kind::preserved);
    assert_eq!(
        sizes,
        [Kind::Medium, Kind::Large, Kind::Small, Kind::Medium]
    );
    assert_eq!(
        (Kind::Nothing.letter(), Kind::Nothing.name()),
        (' ', "nothing known")
    );
}

//! Numbers of bytes for people.

use std::fmt;

/// Prints a number of bytes with the largest unit of which it has at least one: with one decimal
/// where it is not whole.
///
/// ```
/// use kho_draw::Size;
/// assert_eq!(Size(64 << 20).to_string(), "64 MiB");
/// assert_eq!(Size(1536).to_string(), "1.5 KiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let step = bytes.max(1).ilog2() / 10;
        let unit = UNITS.get(step as usize).copied().unwrap_or_default();
        let text = if bytes.is_multiple_of(1 << (10 * step)) {
            format!("{} {unit}", bytes >> (10 * step))
        } else {
            format!("{:.1} {unit}", bytes as f64 / (1u64 << (10 * step)) as f64)
        };
        f.pad(&text)
    }
}

//! Reading a recorded trace.
//!
//! # Format
//! One access a line: `R bb:dd.f OFFSET LEN VALUE` or `W ...`, with an optional segment before the
//! bus; offset and value are hexadecimal, the length is 1, 2 or 4. `MARK name` begins a phase.
//! Empty lines and lines that begin with `#` are passed over.

use std::io::Read;
use std::path::Path;

use kho::hal::{Access, Sbdf, Width};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What the device gave.
    Read(Sbdf, Access, u32),
    /// What was written.
    Write(Sbdf, Access, u32),
    /// A phase begins.
    Mark(String),
}

/// First bytes of an xz file.
const XZ: &[u8] = b"\xfd7zXZ\0";
/// More than any trace has; a compressed file could expand without end.
const LIMIT: u64 = 1 << 30;

/// Reads a trace, compressed or plain.
pub fn load(path: &Path) -> Result<Vec<Event>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = if bytes.starts_with(XZ) {
        let mut text = Vec::new();
        lzma_rust2::XzReader::new(bytes.as_slice(), true)
            .take(LIMIT)
            .read_to_end(&mut text)
            .map_err(|error| format!("not a whole xz file: {error}"))?;
        text
    } else {
        bytes
    };
    let text = str::from_utf8(&text).map_err(|_| "neither text nor xz".to_owned())?;
    parse(text)
}

/// Reads the lines of a trace.
pub fn parse(text: &str) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let event =
            event(line).ok_or_else(|| format!("line {number}: not an access: {line:.60}"))?;
        events.push(event);
    }
    if events.is_empty() {
        return Err("no access in the trace".to_owned());
    }
    Ok(events)
}

fn event(line: &str) -> Option<Event> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next()?;
    if kind == "MARK" {
        let name = words.next()?.to_owned();
        return Some(Event::Mark(name));
    }
    let function = function(words.next()?)?;
    let offset = u16::from_str_radix(words.next()?, 16).ok()?;
    let width = match words.next()? {
        "1" => Width::U8,
        "2" => Width::U16,
        "4" => Width::U32,
        _ => return None,
    };
    let at = Access::new(offset, width).ok()?;
    let value = u32::from_str_radix(words.next()?, 16).ok()?;
    if words.next().is_some() || value & !width.mask() != 0 {
        return None;
    }
    match kind {
        "R" => Some(Event::Read(function, at, value)),
        "W" => Some(Event::Write(function, at, value)),
        _ => None,
    }
}

fn function(word: &str) -> Option<Sbdf> {
    let (rest, function) = word.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    let hex = |word| u32::from_str_radix(word, 16).ok();
    Sbdf::new(
        hex(segment)?,
        hex(bus)?.try_into().ok()?,
        hex(device)?.try_into().ok()?,
        hex(function)?.try_into().ok()?,
    )
}

//! Functions from the text that `lspci -xxx` and `lspci -xxxx` print.
//!
//! # Format
//! A function starts with a line `[dddd:]bb:dd.f ` and anything after it. Lines of bytes follow,
//! an offset of two or three hexadecimal digits, a colon, and up to sixteen bytes. Lines in
//! between that are neither are passed over, and an empty line ends the function.
//!
//! # Source
//! lspci(8), option `-F`, and its output.

use core::fmt;

use std_alloc::vec;
use std_alloc::vec::Vec;

use super::function::SimFunction;
use crate::Sbdf;

/// One function of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedFunction {
    /// Where it was.
    pub function: Sbdf,
    /// Its space from offset 0 to the last byte that the dump shows, at most 4096.
    pub bytes: Vec<u8>,
}

/// What makes a dump unreadable. Lines count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DumpError {
    /// A line of bytes holds something that is not a byte.
    NotAByte {
        /// The line.
        line: usize,
    },
    /// A line of bytes reaches beyond offset fffh.
    OutOfSpace {
        /// The line.
        line: usize,
    },
    /// The device number is above 1fh or the function number above 7.
    NoSuchFunction {
        /// The line.
        line: usize,
    },
    /// No line names a function.
    Empty,
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAByte { line } => write!(f, "line {line}: not a line of bytes"),
            Self::OutOfSpace { line } => write!(f, "line {line}: offset above fff"),
            Self::NoSuchFunction { line } => write!(f, "line {line}: no such device or function"),
            Self::Empty => f.write_str("no function in the dump"),
        }
    }
}

impl core::error::Error for DumpError {}

/// Reads the text of a dump: its functions in the order of the text.
///
/// # Errors
/// [`DumpError`], for the first line that cannot be read.
pub fn parse_dump(text: &str) -> Result<Vec<DumpedFunction>, DumpError> {
    let mut functions: Vec<DumpedFunction> = Vec::new();
    let mut open = false;
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim_end();
        if content.is_empty() {
            open = false;
        } else if let Some(place) = slot(content) {
            let (segment, bus, device, function) = place;
            let function = Sbdf::new(segment, bus, device, function)
                .ok_or(DumpError::NoSuchFunction { line })?;
            let bytes = Vec::new();
            functions.push(DumpedFunction { function, bytes });
            open = true;
        } else if let (true, Some((offset, rest)), Some(last)) =
            (open, byte_line(content), functions.last_mut())
        {
            put_bytes(&mut last.bytes, offset, rest, line)?;
        }
    }
    if functions.is_empty() {
        return Err(DumpError::Empty);
    }
    Ok(functions)
}

/// A number of exactly one of the given digit counts.
fn hex(text: &str, digits: &[usize]) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain || !digits.contains(&text.len()) {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

fn slot(line: &str) -> Option<(u32, u8, u8, u8)> {
    let name = line.split(' ').next()?;
    let (buses, function) = name.rsplit_once('.')?;
    let function = hex(function, &[1])?;
    let (rest, device) = buses.rsplit_once(':')?;
    let device = hex(device, &[2])?;
    let (segment, bus) = match rest.split_once(':') {
        Some((segment, bus)) => (hex(segment, &[4, 5, 6, 7, 8])?, bus),
        None => (0, rest),
    };
    let bus = hex(bus, &[2])?;
    Some((segment, bus as u8, device as u8, function as u8))
}

fn byte_line(line: &str) -> Option<(u32, &str)> {
    let (offset, rest) = line.split_once(": ")?;
    Some((hex(offset, &[2, 3])?, rest))
}

fn put_bytes(bytes: &mut Vec<u8>, offset: u32, rest: &str, line: usize) -> Result<(), DumpError> {
    let words = rest.split(' ').filter(|word| !word.is_empty());
    for (offset, word) in (offset as usize..).zip(words) {
        let byte = hex(word, &[2]).ok_or(DumpError::NotAByte { line })?;
        if offset >= 4096 {
            return Err(DumpError::OutOfSpace { line });
        }
        if offset >= bytes.len() {
            bytes.resize(offset + 1, 0);
        }
        if let Some(place) = bytes.get_mut(offset) {
            *place = byte as u8;
        }
    }
    Ok(())
}

impl SimFunction {
    /// A function with these bytes, from offset 0; what is missing reads as all ones.
    ///
    /// A dump does not show access types, so the common header is given those that the
    /// specification states for its header type, and everything behind it is read-only.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = vec![0xff; if bytes.len() > 256 { 4096 } else { 256 }];
        for (place, byte) in image.iter_mut().zip(bytes) {
            *place = *byte;
        }
        let mut function = Self::empty(image.len() as u16);
        for (offset, byte) in (0u16..).zip(&image) {
            let value = u32::from(*byte);
            function.registers.define(offset, 1, value, 0, 0);
        }
        let bridge = function.is_bridge();
        let mut give = |offset: u16, len: u16, writable: u32, clears: u32| {
            let value = function.registers.value(offset, len);
            function
                .registers
                .define(offset, len, value, writable, clears);
        };
        give(0x04, 4, 0x0547, 0xf900_0000);
        give(0x0c, 2, 0xff, 0);
        give(0x3c, 1, 0xff, 0);
        if bridge {
            give(0x18, 4, 0x00ff_ffff, 0);
            give(0x1c, 4, 0xf0f0, 0xf900_0000);
            give(0x20, 4, 0xfff0_fff0, 0);
            give(0x24, 4, 0xfff0_fff0, 0);
            give(0x3e, 2, 0x005f, 0);
        }
        function
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Width};

    #[test]
    fn functions_and_bytes_are_found_between_other_lines() {
        let text = "00:1f.2 SATA controller: Made up\n\tSubsystem: none\n00: 86 80 22 29\n10: 01\n\n\
                    20: 05\n10000:01:00.7 x\r\n3fc: aa bb cc dd\r\n";
        let functions = parse_dump(text).unwrap();
        assert_eq!(functions[0].function, Sbdf::new(0, 0, 0x1f, 2).unwrap());
        assert_eq!(functions[0].bytes.len(), 0x11);
        assert_eq!(functions[1].function, Sbdf::new(0x10000, 1, 0, 7).unwrap());
        assert_eq!(functions[1].bytes[0x3fc..], [0xaa, 0xbb, 0xcc, 0xdd]);
        let sim = SimFunction::from_bytes(&functions[0].bytes);
        assert_eq!(sim.peek(Access::new(0, Width::U32).unwrap()), 0x2922_8086);
        assert_eq!(sim.peek(Access::new(0x40, Width::U32).unwrap()), u32::MAX);
    }

    #[test]
    fn unreadable_lines_are_named() {
        assert_eq!(parse_dump("hello\n"), Err(DumpError::Empty));
        assert_eq!(
            parse_dump("00:00.0 x\n00: 0g\n"),
            Err(DumpError::NotAByte { line: 2 })
        );
        assert_eq!(
            parse_dump("00:00.0 x\nff8: 0 \n"),
            Err(DumpError::NotAByte { line: 2 })
        );
        assert_eq!(
            parse_dump("00:00.0 x\nfff: 00 11\n"),
            Err(DumpError::OutOfSpace { line: 2 })
        );
        assert_eq!(
            parse_dump("00:3f.0 x\n"),
            Err(DumpError::NoSuchFunction { line: 1 })
        );
    }
}

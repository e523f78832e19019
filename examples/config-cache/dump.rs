//! What may be cached of the functions in a dump.

use std::fmt::Write as _;

use kho::hal::sim::pci::{DumpedFunction, parse_dump};
use kho::hal::{Access, Sbdf};
use kho::pcsc::walk::{walk_extended, walk_standard};
use kho::pcsc::{CapId, Inference, Source};
use serde_json::{Value, json};

/// The bytes that a dump shows of one function; nothing else can be read.
struct Shown<'a>(&'a [u8]);

impl Source for Shown<'_> {
    fn read(&mut self, at: Access) -> Option<u32> {
        let bytes = self
            .0
            .get(usize::from(at.offset())..usize::from(at.end()))?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u32::from(*byte)),
        )
    }
}

/// One object for each function of the dump, in its order.
pub fn facts(dump: &[u8]) -> Result<Value, String> {
    if !dump.ends_with(b"\n") {
        return Err("the last line is cut off".to_owned());
    }
    let text = String::from_utf8_lossy(dump);
    let functions = parse_dump(&text).map_err(|error| error.to_string())?;
    // As lspci prints them: with segments only if there is one.
    let segments = functions.iter().any(|f| f.function.segment() != 0);
    let facts = functions.iter().map(|function| one(function, segments));
    facts.collect()
}

fn name(function: Sbdf, segments: bool) -> String {
    let name = function.to_string();
    match name.split_once(':') {
        Some((_, short)) if !segments => short.to_owned(),
        _ => name,
    }
}

fn one(dumped: &DumpedFunction, segments: bool) -> Result<Value, String> {
    let mut shown = Shown(&dumped.bytes);
    let no_header = || format!("{}: the header is not in the dump", dumped.function);
    let header_type = shown.u8(0x0e).ok_or_else(no_header)? & 0x7f;
    let mut capabilities = Vec::new();
    let (mut express, mut extended_space) = (false, false);
    walk_standard(&mut shown, header_type, |found| {
        if let CapId::Standard(id) = found.id {
            express |= id == 0x10;
            // PCI-X functions can have extended capabilities too.
            extended_space |= id == 0x10 || id == 0x07;
            capabilities.push(json!({ "offset": found.offset, "id": id }));
        }
    });
    let mut extended = Vec::new();
    if extended_space {
        walk_extended(&mut shown, |found| {
            if let CapId::Extended(id) = found.id {
                extended
                    .push(json!({ "offset": found.offset, "id": id, "version": found.version }));
            }
        });
    }
    let inference = Inference::new(&mut shown);
    let ranges = inference
        .iter()
        .flat_map(|inference| inference.cacheable.ranges());
    let cacheable: Vec<Value> = ranges
        .map(|range| json!([range.start, range.end]))
        .collect();
    Ok(json!({
        "bdf": name(dumped.function, segments),
        "header_type": header_type,
        "pcie": express,
        "capabilities": capabilities,
        "extended": extended,
        "cacheable": cacheable,
    }))
}

/// The same in words.
pub fn text(facts: &Value) -> String {
    let mut out = String::new();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for function in list(facts) {
        let bdf = function["bdf"].as_str().unwrap_or_default();
        let _ = writeln!(
            out,
            "{bdf} header type {}",
            number(&function["header_type"])
        );
        for capability in list(&function["capabilities"]) {
            let (offset, id) = (number(&capability["offset"]), number(&capability["id"]));
            let _ = writeln!(out, "  [{offset:02x}] capability {id:02x}");
        }
        for capability in list(&function["extended"]) {
            let (offset, id) = (number(&capability["offset"]), number(&capability["id"]));
            let version = number(&capability["version"]);
            let _ = writeln!(
                out,
                "  [{offset:03x} v{version}] extended capability {id:04x}"
            );
        }
        let ranges = list(&function["cacheable"]);
        let bytes: u64 = ranges.iter().map(|r| number(&r[1]) - number(&r[0])).sum();
        let _ = write!(out, "  {bytes} bytes may be cached:");
        for range in ranges {
            let _ = write!(out, " {:x}..{:x}", number(&range[0]), number(&range[1]));
        }
        let _ = writeln!(out);
    }
    out
}

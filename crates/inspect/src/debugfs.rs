//! A handover as Linux shows it in debugfs: descriptions and blobs, but not the memory they name.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::Path;
use std::{fs, io};

use kho::abi::memblock;
use kho::abi::metadata::{self, KexecMetadata};
use kho::core::incoming::{IncomingError, RootFdt};
use kho::core::preflight::preflight_description;
use kho::core::{Token, Tokens};
use kho::hal::PhysAddr;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zerocopy::FromBytes;

use crate::facts;
use crate::failure::Failure;

/// The facts in a folder that holds `fdt` and `sub_fdts`, or two such folders, `in` and `out`.
pub fn facts(folder: &Path) -> Result<Value, Failure> {
    if folder.join("fdt").exists() {
        return side(folder);
    }
    let mut sides = BTreeMap::new();
    for name in ["in", "out"] {
        let path = folder.join(name);
        if path.join("fdt").exists() {
            sides.insert(name, side(&path)?);
        }
    }
    if sides.is_empty() {
        let why = "there is no description: neither fdt, in/fdt nor out/fdt";
        return Err(Failure::unreadable(why));
    }
    Ok(json!({ "debugfs": sides }))
}

/// What is no file may have no end.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    fs::read(path)
}

fn side(folder: &Path) -> Result<Value, Failure> {
    let path = folder.join("fdt");
    let unreadable = |error| Failure::unreadable(format!("{}: {error}", path.display()));
    let bytes = read_file(&path).map_err(unreadable)?;
    let description = read(&bytes)?;
    let folder = folder.join("sub_fdts");
    let blobs = || fs::read_dir(&folder).into_iter().flatten().flatten();
    let blobs: BTreeMap<_, _> = blobs()
        .filter_map(|file| {
            Some((
                file.file_name().into_string().ok()?,
                read_file(&file.path()).ok()?,
            ))
        })
        .collect();
    let blob = |name: &str| blobs.get(name).map(Vec::as_slice);
    let mut subtrees = json!({});
    for (name, addr, size) in description.nodes {
        subtrees[name] = json!({ "addr": addr.as_u64(), "size": size });
    }
    for (name, bytes) in &blobs {
        let digest = Sha256::digest(bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        subtrees[name]["size"] = json!(bytes.len());
        subtrees[name]["sha256"] = json!(digest);
    }
    let compatible = description.compatible;
    Ok(json!({
        "compatible": compatible,
        "fdt_totalsize": description.size,
        "preserved_memory_map": description.map,
        "subtrees": subtrees,
        "kexec_metadata": blob(metadata::NODE).map(who),
        "reserve_mem": blob(memblock::NODE).map_or(json!({}), reserve_mem),
        "preflight": facts::preflight(|consumer| preflight_description(compatible, blob, consumer)),
    }))
}

/// What a root description says, as far as it is shown.
struct Description<'a> {
    compatible: &'a str,
    /// Bytes, by its own header.
    size: u64,
    map: u64,
    nodes: Vec<(&'a str, PhysAddr, Option<u64>)>,
}

/// Reads a file `fdt`: of the incoming description, it has all. That of the outgoing one keeps the
/// length that the description had when Linux 7.3 booted, before most sub-blobs were added: of what
/// became of it, the file has the start.
fn read(bytes: &[u8]) -> Result<Description<'_>, IncomingError> {
    let size = bytes.get(4..8).and_then(|size| size.try_into().ok());
    let size = size.map_or(0, u32::from_be_bytes) as usize;
    if let Some((compatible, map)) = first(bytes).filter(|_| bytes.len() < size) {
        return Ok(Description {
            compatible,
            size: size as u64,
            map,
            nodes: Vec::new(),
        });
    }
    // Or, in other releases, the whole page.
    let fdt = bytes.get(..size).unwrap_or(bytes);
    let root = RootFdt::parse(fdt, PhysAddr::new(0))?;
    Ok(Description {
        compatible: root.compatible(),
        size: root.total_size() as u64,
        map: root.map().as_u64(),
        nodes: root.nodes().collect(),
    })
}

/// The values of the first two properties that Linux gives the root, without their names, which are
/// at the end: `compatible` and the map's address.
fn first(fdt: &[u8]) -> Option<(&str, u64)> {
    const BEGIN_ROOT: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 0];
    let at = u32::from_be_bytes(fdt.get(8..12)?.try_into().ok()?);
    let (compatible, rest) = property(fdt.get(at as usize..)?.strip_prefix(&BEGIN_ROOT)?)?;
    let (map, _) = property(rest)?;
    let compatible = CStr::from_bytes_with_nul(compatible).ok()?.to_str().ok()?;
    Some((compatible, u64::from_le_bytes(map.try_into().ok()?)))
}

/// The value of the property that comes next, and what comes after it.
fn property(structure: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = structure.strip_prefix(&[0, 0, 0, 3])?.split_first_chunk()?;
    let len = u32::from_be_bytes(*len) as usize;
    let value = rest.get(4..)?;
    let next = value.get(len.checked_next_multiple_of(4)?..)?;
    Some((value.get(..len)?, next))
}

fn who(blob: &[u8]) -> Value {
    match KexecMetadata::ref_from_prefix(blob) {
        Ok((metadata, _)) if metadata.version.get() == metadata::VERSION => json!({
            "version": metadata.version.get(),
            "previous_release": metadata.previous_release.to_string(),
            "kexec_count": metadata.kexec_count.get(),
        }),
        _ => Value::Null,
    }
}

/// The regions: children of the root, with two numbers each.
fn reserve_mem(blob: &[u8]) -> Value {
    let mut regions = json!({});
    let mut name = String::new();
    for token in Tokens::new(blob).into_iter().flatten() {
        match token {
            Token::BeginNode(node) => name = String::from_utf8_lossy(node).into_owned(),
            Token::Property(key, value) => {
                let number = value.try_into().map(u64::from_le_bytes);
                if let (b"start" | b"size", Ok(number)) = (key, number) {
                    regions[&name][String::from_utf8_lossy(key).as_ref()] = json!(number);
                }
            }
            _ => {}
        }
    }
    regions
}

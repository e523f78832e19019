//! A handover as Linux shows it in debugfs: descriptions and blobs, but not the memory they name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kho::abi::memblock;
use kho::abi::metadata::{self, KexecMetadata};
use kho::core::incoming::RootFdt;
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

fn side(folder: &Path) -> Result<Value, Failure> {
    let path = folder.join("fdt");
    let unreadable = |error| Failure::unreadable(format!("{}: {error}", path.display()));
    let bytes = fs::read(&path).map_err(unreadable)?;
    // Linux shows the whole page.
    let size = bytes
        .get(4..8)
        .and_then(|size| size.try_into().ok())
        .map(u32::from_be_bytes);
    let fdt = size
        .and_then(|size| bytes.get(..size as usize))
        .unwrap_or(&bytes);
    let root = RootFdt::parse(fdt, PhysAddr::new(0))?;
    let read = |name: &str| {
        Some((
            name.to_owned(),
            fs::read(folder.join("sub_fdts").join(name)).ok()?,
        ))
    };
    let blobs: BTreeMap<_, _> = root.nodes().filter_map(|(name, ..)| read(name)).collect();
    let blob = |name: &str| blobs.get(name).map(Vec::as_slice);
    let mut subtrees = BTreeMap::new();
    for (name, addr, size) in root.nodes() {
        let mut blob = json!({ "addr": addr.as_u64(), "size": size });
        if let Some(bytes) = blobs.get(name) {
            let digest = Sha256::digest(bytes);
            blob["size"] = json!(bytes.len());
            blob["sha256"] = json!(
                digest
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect::<String>()
            );
        }
        subtrees.insert(name, blob);
    }
    Ok(json!({
        "compatible": root.compatible(),
        "fdt_totalsize": root.total_size(),
        "preserved_memory_map": root.map().as_u64(),
        "subtrees": subtrees,
        "kexec_metadata": blob(metadata::NODE).map(who),
        "reserve_mem": blob(memblock::NODE).map_or(json!({}), reserve_mem),
        "preflight": facts::preflight(|consumer| preflight_description(&root, blob, consumer)),
    }))
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
            Token::Property(key, value) if !name.is_empty() => {
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

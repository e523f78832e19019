//! Checking a handover, and saying what is in it.

use alloc::string::String;
use alloc::vec;

use kho::core::BootData;
use kho::core::incoming::{File, Incoming, Machine as Layout, Memfd, Ram};
use kho::hal::FrozenMem;
use serde_json::json;

use crate::error::Result;
use crate::machine::{Machine, PAGE};
use crate::memory::Frozen;
use crate::say::{Sum, fact};

/// A bit for each page of 1 GiB, and some more.
pub const WORKSPACE: usize = 8192;

/// Checks everything that the predecessor left.
pub fn check<'a>(
    memory: &'a Frozen,
    machine: &Machine,
    boot: BootData,
) -> Result<Incoming<'a, Frozen>> {
    let layout = Layout {
        page_size: PAGE,
        ram: Ram::Known(&machine.ram),
        v1_bitmaps: None,
    };
    let mut workspace = vec![0; WORKSPACE];
    Ok(Incoming::check(memory, boot, layout, &mut workspace)?)
}

/// States everything that was handed over.
pub fn state(memory: &Frozen, incoming: &Incoming<'_, Frozen>) -> Result<()> {
    let boot = incoming.boot_data();
    let (mut folios, mut count, mut bytes) = (Sum::default(), 0u64, 0u64);
    for folio in incoming.folios() {
        folios.add(&folio.addr.as_u64().to_le_bytes());
        folios.add(&folio.order.as_u32().to_le_bytes());
        count += 1;
        bytes += folio.range(PAGE).size();
    }
    fact(
        "handover",
        json!({
            "fdt_addr": boot.fdt_addr.as_u64(),
            "scratch_addr": boot.scratch_addr.as_u64(),
            "compatible": incoming.generation().compatible(),
            "map": incoming.map_addr().as_u64(),
            "folios": count,
            "folios_sha256": folios.finish(),
            "bytes": bytes,
            "extents": incoming.extents().count(),
        }),
    );
    for area in incoming.scratch().areas() {
        let (start, size) = (area.start().as_u64(), area.size());
        fact("scratch", json!({ "start": start, "size": size }));
    }
    for blob in incoming.subtrees() {
        let bytes = memory.bytes(blob.range.start(), blob.range.size() as usize)?;
        fact(
            "subtree",
            json!({
                "name": blob.name,
                "start": blob.range.start().as_u64(),
                "size": blob.range.size(),
                "sha256": Sum::of(bytes),
            }),
        );
    }
    if let Some(metadata) = incoming.metadata().known() {
        let release = metadata.previous_release.to_str().unwrap_or("");
        let count = metadata.kexec_count.get();
        fact("metadata", json!({ "release": release, "count": count }));
    }
    for region in incoming.reserve_mem().iter() {
        let bytes = memory.bytes(region.range.start(), region.range.size() as usize)?;
        fact(
            "region",
            json!({
                "name": region.name,
                "start": region.range.start().as_u64(),
                "size": region.range.size(),
                "sha256": Sum::of(bytes),
            }),
        );
    }
    if let Some(luo) = incoming.luo().known() {
        fact("luo", json!({ "liveupdate_num": luo.liveupdate_num() }));
        for flb in luo.flbs() {
            let (data, count) = (flb.data.get(), flb.count.get());
            let name = flb.name.to_str().unwrap_or("");
            fact("flb", json!({ "name": name, "data": data, "count": count }));
        }
        for session in luo.sessions() {
            let name = core::str::from_utf8(session.name()).unwrap_or("");
            fact("session", json!({ "name": name, "count": session.count() }));
            for file in session.files() {
                state_file(memory, name, &file)?;
            }
        }
    }
    Ok(())
}

fn state_file(memory: &Frozen, session: &str, file: &File<'_, Frozen>) -> Result<()> {
    let memfd = file.memfd();
    let size = memfd.map(|memfd| memfd.descriptor().size.get());
    let sum = memfd.map(|memfd| content(memory, &memfd)).transpose()?;
    fact(
        "file",
        json!({
            "session": session,
            "token": file.token(),
            "compatible": file.compatible(),
            "data": file.data(),
            "size": size,
            "sha256": sum,
        }),
    );
    Ok(())
}

/// The digest of a file's bytes.
fn content(memory: &Frozen, memfd: &Memfd<'_, Frozen>) -> Result<String> {
    let (mut sum, mut done) = (Sum::default(), 0);
    for segment in memfd.segments() {
        zeros(&mut sum, segment.offset - done);
        let length = segment.range.size();
        sum.add(memory.bytes(segment.range.start(), length as usize)?);
        done = segment.offset + length;
    }
    zeros(&mut sum, memfd.descriptor().size.get() - done);
    Ok(sum.finish())
}

/// A hole in a file reads as zeros.
fn zeros(sum: &mut Sum, mut count: u64) {
    const ZEROS: [u8; 4096] = [0; 4096];
    while count > 0 {
        let part = count.min(ZEROS.len() as u64);
        sum.add(ZEROS.get(..part as usize).unwrap_or_default());
        count -= part;
    }
}

//! A checked handover as one JSON object.

use std::cell::Cell;
use std::collections::BTreeMap;

use kho::abi::radix;
use kho::core::incoming::{Component, File, Incoming, Luo, Memfd};
use kho::core::preflight::{self, Consumer, Verdict};
use kho::hal::{FrozenMem, PhysAddr, PhysRange};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::image::Arch;
use crate::map;
use crate::memory::FileMem;
use crate::progress::Progress;

/// Folios shown by name; of all others only the digest.
const HEAD: usize = 16;
const MEMFD_HEAD: usize = 4;

/// Files above this many bytes have no digest.
pub const MAX_CONTENT: u64 = 1 << 36;

/// Holes of all files together that are read as zeroes, if the image is small: a sparse file can claim
/// any size.
const HOLES: u64 = 1 << 30;

/// What may be read of files.
struct Limits {
    /// Bytes of a file.
    file: u64,
    /// Bytes of holes that are left, of all files.
    holes: Cell<u64>,
}

/// How much of a file is read at once.
const BUFFER: usize = 1 << 20;

pub fn of(
    mem: &FileMem,
    incoming: &Incoming<'_, FileMem>,
    (arch, entry): (Arch, Option<PhysAddr>),
    max_content: u64,
) -> Result<Value, String> {
    let boot = incoming.boot_data();
    let mut facts = json!({
        "arch": arch.name(),
        "problems": [],
        "page_size": incoming.page_size().bytes(),
        "entry": entry.map(PhysAddr::as_u64),
        "kho_data": {
            "fdt_addr": boot.fdt_addr.as_u64(),
            "fdt_size": boot.fdt_size,
            // Nobody said where the list is, if it was searched for.
            "scratch_addr": (boot.scratch_size > 0).then_some(boot.scratch_addr.as_u64()),
            "scratch_size": boot.scratch_size,
        },
        "scratch": incoming.scratch().areas().map(range).collect::<Vec<_>>(),
        "compatible": incoming.generation().compatible(),
        "generation": incoming.generation().name(),
        "fdt_totalsize": incoming.fdt_size(),
        "preserved_memory_map": incoming.map_addr().as_u64(),
        "extents": incoming.extents().map(range).collect::<Vec<_>>(),
        "reserve_mem": incoming.reserve_mem().iter().map(|region| {
            let value = json!({
                "start": region.range.start().as_u64(),
                "size": region.range.size(),
            });
            (region.name.to_owned(), value)
        }).collect::<BTreeMap<_, _>>(),
    });
    facts["subtrees"] = subtrees(mem, incoming)?;
    let [map, fdt, blobs, scratch] = map::cost(incoming);
    facts["description_bytes"] = json!({
        "map": map,
        "fdt": fdt,
        "subtrees": blobs,
        "scratch_list": scratch,
        "total": map + fdt + blobs + scratch,
    });
    folios(incoming, &mut facts);
    facts["kexec_metadata"] = match incoming.metadata() {
        Component::Known(metadata) => json!({
            "version": metadata.version.get(),
            "previous_release": metadata.previous_release.to_string(),
            "kexec_count": metadata.kexec_count.get(),
        }),
        Component::NotUnderstood | Component::Absent => Value::Null,
    };
    facts["luo"] = match incoming.luo() {
        Component::Known(luo) => {
            let limits = Limits {
                file: max_content,
                holes: Cell::new(mem.size().max(HOLES)),
            };
            luo_facts(mem, &luo, &limits)
        }
        Component::NotUnderstood => json!("not understood"),
        Component::Absent => Value::Null,
    };
    facts["preflight"] = preflight(|consumer| preflight::preflight(incoming, consumer));
    Ok(facts)
}

/// What each known consumer will do with the handover, by the verdict on its parts.
pub fn preflight<'v, const N: usize>(judge: impl Fn(Consumer) -> [Verdict<'v>; N]) -> Value {
    let consumer = |consumer: Consumer| {
        let verdicts = judge(consumer);
        let worst = verdicts.iter().map(|verdict| verdict.outcome).max();
        let parts = verdicts.map(|verdict| {
            json!({
                "component": verdict.part.to_string(),
                "outcome": verdict.outcome.to_string(),
                "found": verdict.found.to_string(),
                "expected": verdict.expected.to_string(),
            })
        });
        json!({
            "consumer": consumer.to_string(),
            "outcome": worst.map(|outcome| outcome.to_string()),
            "components": parts.to_vec(),
        })
    };
    Consumer::ALL.map(consumer).into_iter().collect()
}

fn range(range: PhysRange) -> Value {
    json!({ "addr": range.start().as_u64(), "size": range.size() })
}

fn subtrees<M: FrozenMem>(mem: &M, incoming: &Incoming<'_, M>) -> Result<Value, String> {
    let mut found = BTreeMap::new();
    for blob in incoming.subtrees() {
        let (addr, size) = (blob.range.start(), blob.range.size());
        let bytes = mem
            .bytes(addr, size as usize)
            .map_err(|error| error.to_string())?;
        let value = json!({
            "addr": addr.as_u64(),
            "size": size,
            "preserved": map::is_preserved(incoming, blob.range),
            "sha256": hex(&Sha256::digest(bytes)),
        });
        found.insert(blob.name, value);
    }
    Ok(json!(found))
}

fn folios<M: FrozenMem>(incoming: &Incoming<'_, M>, facts: &mut Value) {
    let page = incoming.page_size();
    let (mut count, mut bytes, mut head) = (0u64, 0, Vec::new());
    let mut by_order = BTreeMap::new();
    let mut digest = Sha256::new();
    for folio in incoming.folios() {
        let (addr, order) = (folio.addr.as_u64(), folio.order.as_u32());
        digest.update(addr.to_le_bytes());
        digest.update(order.to_le_bytes());
        *by_order.entry(order).or_insert(0u64) += 1;
        count += 1;
        bytes += folio.range(page).size();
        if head.len() < HEAD {
            head.push(json!([addr, order]));
        }
    }
    let by_order: BTreeMap<_, _> = by_order
        .into_iter()
        .map(|(order, count)| (order.to_string(), count))
        .collect();
    if incoming.generation().has_radix_tree() {
        let mut nodes = Vec::new();
        incoming.for_each_map_page(|page| nodes.push(page.start().as_u64()));
        nodes.sort_unstable();
        facts["radix"] = json!({
            "depth": radix::depth(page),
            "node_pages": nodes,
            "folios": count,
        });
    }
    facts["folios"] = json!(count);
    facts["folios_by_order"] = json!(by_order);
    facts["preserved_bytes"] = json!(bytes);
    facts["folios_sha256"] = json!(hex(&digest.finalize()));
    facts["folios_head"] = json!(head);
}

fn luo_facts(mem: &FileMem, luo: &Luo<'_, FileMem>, limits: &Limits) -> Value {
    let sessions = luo.sessions().map(|session| {
        json!({
            "name": String::from_utf8_lossy(session.name()),
            "count": session.count(),
            "files": session.files().map(|file| file_facts(mem, &file, limits)).collect::<Vec<_>>(),
        })
    });
    let flbs = luo.flbs().iter().map(|flb| {
        json!({
            "name": flb.name.to_string(),
            "data": flb.data.get(),
            "count": flb.count.get(),
        })
    });
    json!({
        "compatible": kho::abi::luo::COMPATIBLE,
        "liveupdate_num": luo.liveupdate_num(),
        "sessions": sessions.collect::<Vec<_>>(),
        "flb_pgcnt": luo.flb_pages(),
        "flbs": flbs.collect::<Vec<_>>(),
    })
}

fn file_facts(mem: &FileMem, file: &File<'_, FileMem>, limits: &Limits) -> Value {
    let mut facts = json!({
        "compatible": file.compatible(),
        "token": file.token(),
        "data": file.data(),
    });
    if let Some(memfd) = file.memfd() {
        facts["memfd"] = memfd_facts(mem, &memfd, limits);
    }
    facts
}

fn memfd_facts(mem: &FileMem, memfd: &Memfd<'_, FileMem>, limits: &Limits) -> Value {
    let ser = memfd.descriptor();
    let list = memfd.vmalloc();
    let mut head = Vec::new();
    let mut digest = Sha256::new();
    for folio in memfd.folios() {
        let (pfn, flags, index) = (folio.pfn().as_u64(), folio.flags(), folio.index.get());
        for number in [pfn, flags.into(), index] {
            digest.update(number.to_le_bytes());
        }
        if head.len() < MEMFD_HEAD {
            head.push(json!([pfn, flags, index]));
        }
    }
    let content = content(mem, memfd, limits);
    let mut facts = json!({
        "pos": ser.pos.get(),
        "size": ser.size.get(),
        "seals": ser.seals.get(),
        "flags": ser.flags.get(),
        "nr_folios": ser.nr_folios.get(),
        "vmalloc": {
            "total_pages": list.descriptor().total_pages.get(),
            "flags": list.descriptor().flags.get(),
            "order": list.descriptor().order.get(),
            "chunks": list.chunks().count(),
        },
        "folios_head": head,
        "folios_sha256": hex(&digest.finalize()),
        "content_in_image": content.is_some(),
    });
    if let Some(content) = content {
        facts["content_sha256"] = json!(content);
    }
    facts
}

/// The digest of the file's bytes, holes as zeroes; `None` if it is too large, or the image
/// lacks some of them.
fn content(mem: &FileMem, memfd: &Memfd<'_, FileMem>, limits: &Limits) -> Option<String> {
    let size = memfd.descriptor().size.get();
    if size > limits.file {
        return None;
    }
    let size = memfd.descriptor().size.get();
    let progress = Progress::new("reading a memory file", Some(size));
    let mut digest = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut add = |from: Option<PhysAddr>, count: u64| {
        if from.is_none() {
            let left = limits.holes.get().checked_sub(count)?;
            limits.holes.set(left);
        }
        let mut done = 0;
        while done < count {
            let part = buffer.get_mut(..(count - done).min(BUFFER as u64) as usize)?;
            match from {
                Some(from) => mem.copy(from.checked_add(done)?, part).ok()?,
                None => part.fill(0),
            }
            digest.update(&*part);
            done += part.len() as u64;
            progress.advance(part.len() as u64);
        }
        Some(())
    };
    let mut done = 0;
    for segment in memfd.segments() {
        add(None, segment.offset.checked_sub(done)?)?;
        add(Some(segment.range.start()), segment.range.size())?;
        done = segment.offset + segment.range.size();
    }
    add(None, size.checked_sub(done)?)?;
    Some(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The tables of docs/guide/formats.md say what the types in kho-abi are.
//!
//! `KHO_WRITE_FORMATS=1 cargo test --test formats` writes them.
#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::path::Path;

use kho::abi::{block, boot, chunk, luo, memfd, metadata, pci, pcsc, vmalloc};

/// One table: a type, what it is, and offset and name of each field.
struct Table {
    path: &'static str,
    size: usize,
    fields: Vec<(usize, &'static str)>,
}

macro_rules! tables {
    ($($($module:ident)::+ $type:ident { $($field:ident)* })*) => {
        vec![$({
            type Type = $($module)::+::$type;
            // A field that is missing here does not compile.
            #[allow(dead_code, reason = "only its pattern matters")]
            fn complete(Type { $($field: _),* }: Type) {}
            Table {
                path: concat!($(stringify!($module), "::",)+ stringify!($type)),
                size: size_of::<Type>(),
                fields: vec![$((offset_of!(Type, $field), stringify!($field))),*],
            }
        }),*]
    };
}

fn tables() -> Vec<Table> {
    tables! {
        boot SetupData { next kind len }
        boot KhoData { fdt_addr fdt_size scratch_addr scratch_size }
        boot KhoScratch { addr size }
        chunk ChunkHeader { next order num_elms }
        chunk SketchChunkHeader { order num_elms next }
        chunk ChunkEntry { phys_start bitmap }
        block BlockHeader { next count }
        vmalloc KhoVmalloc { first total_pages flags order }
        metadata KexecMetadata { version previous_release kexec_count }
        luo LuoSer { compatible liveupdate_num sessions_pa flbs_pa }
        luo LuoSessionSer { name files count }
        luo LuoFileSer { compatible data token }
        luo LuoFlbHeaderSer { pgcnt count }
        luo LuoFlbSer { name data count }
        memfd MemfdSer { pos size seals flags nr_folios folios }
        memfd MemfdFolioSer { pfn_and_flags index }
        pci::v1 PciSer { max_nr_devices nr_devices }
        pci::v1 PciDevSer { domain bdf reserved }
        pci::v2 PciSer { version nr_devices devices }
        pci::v2 PciDevSer { domain bdf refcount }
        pci::functions FunctionsSer { count entries }
        pci::functions FunctionSer { domain bdf kind flags identity class bars rom vf_bars reserved }
        pcsc PcscData { cfg_space cachable_bitmask cached_bitmask }
        pcsc PcscDataConventional { cfg_space cachable_bitmask cached_bitmask }
    }
}

fn markdown() -> String {
    let mut out = String::new();
    for Table { path, size, fields } in tables() {
        let _ = write!(out, "\n### `{path}`, {size} bytes\n\n");
        out += "| offset | size | field |\n| --- | --- | --- |\n";
        let ends = fields
            .iter()
            .skip(1)
            .map(|&(offset, _)| offset)
            .chain([size]);
        for (&(offset, field), end) in fields.iter().zip(ends) {
            let _ = writeln!(out, "| {offset} | {} | `{field}` |", end - offset);
        }
    }
    out
}

#[test]
fn the_tables_are_those_of_the_code() {
    const MARK: &str = "<!-- tables -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/formats.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (text, written) = page.split_once(MARK).unwrap();
    if std::env::var_os("KHO_WRITE_FORMATS").is_some() {
        std::fs::write(&path, format!("{text}{MARK}{}", markdown())).unwrap();
    } else {
        assert_eq!(written, markdown());
    }
}

//! Shows the handover in an image of a machine's memory.
//!
//! ```text
//! inspect [OPTIONS] FILE.elf
//! inspect [OPTIONS] --arch x86_64|aarch64 --entry ADDR [--base ADDR] RAM-FILE
//! inspect [--json] /sys/kernel/debug/kho
//!
//!   --json                     one JSON object instead of text
//!   --page-size BYTES          the predecessor's page size: 4096, 16384 or 65536
//!   --v1-bitmaps small|page    what kho-v1 does not say: 6.16 and 6.17, or 6.18 to 7.0
//!   --preflight                what each known consumer will do with it
//!   --convert GENERATION -o F  write it in another generation, as a core file
//!   --extract -o F             write it alone, as a core file
//! ```
//!
//! An ELF core names entry address, architecture and page size itself. For a raw RAM file they are
//! given: the entry is the address of the boot parameters (x86_64) or the device tree (aarch64),
//! the base is the physical address of the file's first byte. A folder of debugfs blobs has the
//! description but not the memory it points to.
//!
//! Exit status: 0 the handover is whole and valid, 1 it is not, 2 wrong usage.
#![allow(
    clippy::indexing_slicing,
    reason = "serde_json indexes objects by name, which inserts"
)]

mod convert;
mod core_file;
mod debugfs;
mod extract;
mod facts;
mod image;
mod text;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use kho::abi::chunk::V1Bitmaps;
use kho::abi::fdt::Generation;
use kho::hal::{PageSize, PhysAddr};
use serde_json::Value;

use crate::image::Arch;

const USAGE: &str = "\
usage: inspect [OPTIONS] FILE.elf
       inspect [OPTIONS] --arch x86_64|aarch64 --entry ADDR [--base ADDR] RAM-FILE
       inspect [--json] /sys/kernel/debug/kho

  --json                     one JSON object instead of text
  --page-size BYTES          the predecessor's page size: 4096, 16384 or 65536
  --v1-bitmaps small|page    what kho-v1 does not say: 6.16 and 6.17, or 6.18 to 7.0
  --preflight                what each known consumer will do with it
  --convert GENERATION -o F  write it in another generation, as a core file:
                             sketch, series-v5, v1-small, v1-page, v2, v3 or v4
  --extract -o F             write it alone, as a core file: no other memory, and
                             no contents of files above 128 KiB";

/// What the command line says.
#[derive(Debug, Default)]
struct Options {
    json: bool,
    page_size: Option<PageSize>,
    arch: Option<Arch>,
    entry: Option<PhysAddr>,
    base: Option<PhysAddr>,
    v1_bitmaps: Option<V1Bitmaps>,
    preflight: bool,
    /// Which generation to convert to, and the core file to write.
    convert: Option<(Generation, PathBuf)>,
    /// The core file to write the handover to as it is.
    extract: Option<PathBuf>,
    path: PathBuf,
}

fn main() -> ExitCode {
    let options = match parse(lexopt::Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("inspect: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let found = if options.path.is_dir() {
        debugfs::facts(&options.path)
    } else {
        image::facts(&options)
    };
    match found {
        Ok(facts) => {
            print(&facts, options.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("inspect: {}: {error}", options.path.display());
            ExitCode::FAILURE
        }
    }
}

/// A reader that has seen enough, such as `head`, is no error.
fn print(facts: &Value, json: bool) {
    let page = if json {
        format!("{facts:#}\n")
    } else {
        text::page(facts)
    };
    let _ = std::io::stdout().write_all(page.as_bytes());
}

/// The options, or `None` if help is asked for.
fn parse(mut args: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let (mut path, mut to, mut output) = (None, None, None);
    let mut extract = false;
    while let Some(arg) = args.next()? {
        match arg {
            Long("json") => options.json = true,
            Long("preflight") => options.preflight = true,
            Long("convert") => to = Some(args.value()?.parse_with(generation)?),
            Long("extract") => extract = true,
            Long("output") | Short('o') => output = Some(PathBuf::from(args.value()?)),
            Long("page-size") => {
                let page = args.value()?.parse_with(number)?;
                let page =
                    PageSize::from_bytes(page).ok_or("pages have 4096, 16384 or 65536 bytes");
                options.page_size = Some(page?);
            }
            Long("arch") => options.arch = Some(args.value()?.parse_with(Arch::parse)?),
            Long("entry") => options.entry = Some(PhysAddr::new(args.value()?.parse_with(number)?)),
            Long("base") => options.base = Some(PhysAddr::new(args.value()?.parse_with(number)?)),
            Long("v1-bitmaps") => {
                options.v1_bitmaps = Some(args.value()?.parse_with(|name| match name {
                    "small" => Ok(V1Bitmaps::Small),
                    "page" => Ok(V1Bitmaps::Page),
                    _ => Err("bitmaps are small or page"),
                })?);
            }
            Long("help") | Short('h') => return Ok(None),
            Value(value) if path.is_none() => path = Some(value),
            other => return Err(other.unexpected()),
        }
    }
    options.path = path.ok_or("no file is given")?.into();
    match (to, extract, output) {
        (None, false, None) => {}
        (Some(to), false, Some(output)) => options.convert = Some((to, output)),
        (None, true, Some(output)) => options.extract = Some(output),
        _ => return Err("-o goes with one of --convert and --extract".into()),
    }
    Ok(Some(options))
}

/// A generation of the format by its name, or by its string where that says enough.
fn generation(name: &str) -> Result<Generation, &'static str> {
    let mut all = Generation::ALL.into_iter();
    let is_string = |generation: Generation| {
        generation.compatible() == name && name != Generation::V1Small.compatible()
    };
    all.find(|generation| generation.name() == name || is_string(*generation))
        .ok_or("generations are sketch, series-v5, v1-small, v1-page, v2, v3 and v4")
}

/// A decimal or, with 0x, hexadecimal number.
fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

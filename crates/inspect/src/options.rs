//! The command line.

use std::path::PathBuf;

use kho::abi::chunk::V1Bitmaps;
use kho::abi::fdt::Generation;
use kho::core::BootData;
use kho::hal::{PageSize, PhysAddr};
use serde_json::Value;

use crate::failure::Failure;
use crate::image::Arch;

const HELP: &str = include_str!("help.txt");

/// What the command line says.
#[derive(Debug, Default)]
pub struct Options {
    pub json: bool,
    pub page_size: Option<PageSize>,
    pub arch: Option<Arch>,
    pub entry: Option<PhysAddr>,
    pub base: Option<PhysAddr>,
    pub boot: Option<BootData>,
    pub v1_bitmaps: Option<V1Bitmaps>,
    pub preflight: bool,
    /// Whether to look for the handover in all of the memory.
    pub search: bool,
    pub accepted_by: Vec<Consumer>,
    pub svg: Option<PathBuf>,
    /// Which generation to convert to, and the core file to write.
    pub convert: Option<(Generation, PathBuf)>,
    /// The core file to write the handover to as it is.
    pub extract: Option<PathBuf>,
    pub path: PathBuf,
    /// What to compare with.
    pub other: Option<PathBuf>,
}

/// A consumer, by a version that its name has.
#[derive(Clone, Debug)]
pub struct Consumer(String);

impl Consumer {
    fn parse(name: &str) -> Result<Self, &'static str> {
        use kho::core::preflight::Consumer as Known;
        let wanted = match name {
            "kho-core" => "this library",
            name => name.trim_start_matches('v'),
        };
        let is_known = Known::ALL
            .iter()
            .any(|known| is_in(wanted, &known.to_string()));
        let known = is_known.then(|| Self(wanted.to_owned()));
        known.ok_or("the consumer is a version of Linux, from 6.16 to 7.3, or kho-core")
    }

    /// Why the consumer does not accept all of the handover, if so.
    pub fn refuses(&self, facts: &Value) -> Result<Option<String>, Failure> {
        // Of debugfs, what will be handed over; what was accepted before is of no interest.
        let [image, out] = [facts, &facts["debugfs"]["out"]].map(|facts| &facts["preflight"]);
        let consumers = [image, out]
            .into_iter()
            .filter_map(Value::as_array)
            .flatten();
        let mut consumers = consumers
            .filter_map(|consumer| Some((consumer["consumer"].as_str()?, &consumer["outcome"])));
        let found = consumers.find(|(name, _)| is_in(&self.0, name));
        let why = "nothing is shown here that will be handed over";
        let (name, outcome) = found.ok_or(Failure::unreadable(why))?;
        let outcome = outcome.as_str().unwrap_or_default();
        Ok((outcome != "accepts").then(|| format!("not accepted by {name}: {outcome}")))
    }
}

/// Whether a name such as `Linux 6.16, 6.17` has this version.
fn is_in(version: &str, name: &str) -> bool {
    let versions = name.trim_start_matches("Linux ");
    versions.split(", ").any(|known| known == version)
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    Handover(Box<Options>),
    /// A text that has nothing to do with a handover.
    Text(&'static str),
}

const VERSION: &str = concat!("kho-inspect ", env!("CARGO_PKG_VERSION"), "\n");

/// What the command line asks for.
pub fn parse(mut args: lexopt::Parser) -> Result<Asked, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let (mut paths, mut to, mut output) = (Vec::new(), None, None);
    let (mut diff, mut extract) = (false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Long("json") => options.json = true,
            Long("preflight") => options.preflight = true,
            Long("search") => options.search = true,
            Long("diff") => diff = true,
            Long("extract") => extract = true,
            Long("svg") => options.svg = Some(args.value()?.into()),
            Long("accepted-by") => {
                let consumer = args.value()?.parse_with(Consumer::parse)?;
                options.accepted_by.push(consumer);
            }
            Long("convert") => to = Some(args.value()?.parse_with(generation)?),
            Long("output") | Short('o') => output = Some(PathBuf::from(args.value()?)),
            Long("page-size") => {
                let page = args.value()?.parse_with(number)?;
                let page =
                    PageSize::from_bytes(page).ok_or("pages have 4096, 16384 or 65536 bytes");
                options.page_size = Some(page?);
            }
            Long("arch") => options.arch = Some(args.value()?.parse_with(Arch::parse)?),
            Long("kho-data") => options.boot = Some(args.value()?.parse_with(boot_data)?),
            Long("entry") => options.entry = Some(PhysAddr::new(args.value()?.parse_with(number)?)),
            Long("base") => options.base = Some(PhysAddr::new(args.value()?.parse_with(number)?)),
            Long("v1-bitmaps") => {
                options.v1_bitmaps = Some(args.value()?.parse_with(|name| match name {
                    "small" => Ok(V1Bitmaps::Small),
                    "page" => Ok(V1Bitmaps::Page),
                    _ => Err("bitmaps are small or page"),
                })?);
            }
            Long("help") | Short('h') => return Ok(Asked::Text(HELP)),
            Long("version") | Short('V') => return Ok(Asked::Text(VERSION)),
            Value(value) => paths.push(PathBuf::from(value)),
            other => return Err(other.unexpected()),
        }
    }
    let mut paths = paths.into_iter();
    options.path = paths.next().ok_or("no image is given")?;
    options.other = paths.next();
    if diff != options.other.is_some() || paths.next().is_some() {
        return Err("one image is shown; --diff takes two".into());
    }
    if options.search && (options.entry.is_some() || options.boot.is_some()) {
        return Err("--search is for when --entry and --kho-data are not known".into());
    }
    match (to, extract, output) {
        (None, false, None) => {}
        (Some(to), false, Some(output)) => options.convert = Some((to, output)),
        (None, true, Some(output)) => options.extract = Some(output),
        _ => return Err("-o goes with one of --convert and --extract".into()),
    }
    let writes = options.convert.is_some() || options.extract.is_some() || options.svg.is_some();
    if diff && writes {
        return Err("--diff writes no file".into());
    }
    Ok(Asked::Handover(Box::new(options)))
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

/// Four numbers: address and size of the root description, and of the list of scratch areas.
fn boot_data(text: &str) -> Result<BootData, &'static str> {
    let numbers: Result<Vec<_>, _> = text.split(',').map(number).collect();
    match numbers.as_deref() {
        Ok(&[fdt_addr, fdt_size, scratch_addr, scratch_size]) => Ok(BootData {
            fdt_addr: PhysAddr::new(fdt_addr),
            fdt_size,
            scratch_addr: PhysAddr::new(scratch_addr),
            scratch_size,
        }),
        _ => Err("--kho-data takes four numbers with commas between them"),
    }
}

/// A decimal or, with 0x, hexadecimal number.
fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test panics when it fails")]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Options> {
        let parser = lexopt::Parser::from_args(line.split(' '));
        match parse(parser).ok()? {
            Asked::Handover(options) => Some(*options),
            Asked::Text(_) => panic!("{line} asks for text"),
        }
    }

    #[test]
    fn words_have_their_meaning() {
        let arch = |word| parsed(&format!("--arch {word} image")).and_then(|o| o.arch);
        assert_eq!(arch("x86_64"), Some(Arch::X86_64));
        assert_eq!(arch("aarch64"), Some(Arch::Aarch64));
        assert_eq!(arch("arm64"), Some(Arch::Aarch64));
        assert_eq!(arch("arm"), None);
        let bitmaps =
            |word| parsed(&format!("--v1-bitmaps {word} image")).and_then(|o| o.v1_bitmaps);
        assert_eq!(bitmaps("small"), Some(V1Bitmaps::Small));
        assert_eq!(bitmaps("page"), Some(V1Bitmaps::Page));
        assert_eq!(bitmaps("large"), None);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, accepted) in [
            ("image", true),
            ("image other", false),
            ("--diff image", false),
            ("--diff image other", true),
            ("--diff image other more", false),
            ("--search image", true),
            ("--search --entry 1 image", false),
            ("--search --kho-data 1,2,3,4 image", false),
            ("--entry 1 --kho-data 1,2,3,4 image", true),
            ("--extract -o file image", true),
            ("--convert v3 -o file image", true),
            ("-o file image", false),
            ("--extract image", false),
            ("--convert v3 image", false),
            ("--extract --convert v3 -o file image", false),
            ("--svg file image", true),
            ("--svg file --diff image other", false),
            ("--extract -o file --diff image other", false),
            ("--convert v3 -o file --diff image other", false),
        ] {
            assert_eq!(parsed(line).is_some(), accepted, "{line}");
        }
    }
}

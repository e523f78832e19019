//! A handover in an image of physical memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use elf::ElfStream;
use elf::abi::{EM_AARCH64, EM_X86_64, ET_CORE, PT_LOAD};
use elf::endian::LittleEndian;
use kho::core::incoming::{Fault, Incoming, IncomingError, Machine};
use kho::core::{BootData, BootPlace};
use kho::hal::{PageSize, PhysAddr, PhysRange};
use kho_draw::MemoryMap;
use serde_json::Value;

use crate::failure::{Failure, Problem};
use crate::memory::FileMem;
use crate::{Options, convert, extract, facts, live, search};

/// How the boot data is passed, by architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// `setup_data` behind the boot parameters.
    X86_64,
    /// `/chosen` of the device tree.
    Aarch64,
}

impl Arch {
    /// Of the machine that this program runs on.
    pub const OWN: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            _ => Err("the architecture is x86_64 or aarch64"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// Words to check any image with: a bit for each page of 2 TiB. A larger one may take as much as it
/// has memory.
const WORKSPACE: u64 = 1 << 23;

/// An image, with what is known of the machine it was taken from.
struct Image {
    memory: FileMem,
    arch: Arch,
    /// The argument of the next kernel, if the file names it or it was given.
    entry: Option<PhysAddr>,
    /// The four numbers of the handover, if they were given.
    boot: Option<BootData>,
    page_size: PageSize,
}

/// Said of a handover that the running kernel took over, if it is not whole any more.
const REUSED: &str = "a running kernel gives the memory of the map that it took over to others; \
                      --search finds what it is about to hand over";

/// Everything there is to say of the handover in a file, and a map of the memory. Converts the
/// handover as well, if that is asked for.
pub fn facts(path: &Path, options: &Options) -> Result<(Value, MemoryMap), Failure> {
    let image = open(path, options)?;
    // What the library calls absent memory may be a file that cannot be read.
    look(&image, options).map_err(|failure| match image.memory.failure() {
        Some(error) => Failure::unreadable(format!("{error}: {}", failure.lines().join("; "))),
        None => hint(failure, path, options.search),
    })
}

/// What went wrong with the memory at `path`, and what can be done.
fn hint(failure: Failure, path: &Path, search: bool) -> Failure {
    match failure {
        Failure::Unsound(problems, _) if path == Path::new(live::PATH) && !search => {
            Failure::Unsound(problems, Some(REUSED))
        }
        failure => failure,
    }
}

fn look(image: &Image, options: &Options) -> Result<(Value, MemoryMap), Failure> {
    let mut workspace = Vec::new();
    let (incoming, place) = image.check(options, &mut workspace)?;
    let target = || {
        let why = "to write a core file, the place of the boot data must be known: give --entry";
        let place = place.zip(image.entry).ok_or(Failure::unreadable(why))?;
        Ok::<_, Failure>((place.0, (image.arch, place.1)))
    };
    if let Some((to, output)) = &options.convert {
        let (place, target) = target()?;
        let core = convert::core(&image.memory, &incoming, *to, place, target);
        write(output, core)?;
    }
    if let Some(output) = &options.extract {
        let (_, target) = target()?;
        // Another look, of which every page is noted.
        let mut again = open(&options.path, options)?;
        again.memory.note(image.page_size);
        let mut workspace = Vec::new();
        let (same, _) = again.check(options, &mut workspace)?;
        let source = (image.arch, image.entry);
        facts::of(&again.memory, &same, source, extract::MAX_CONTENT).map_err(Failure::Refused)?;
        write(
            output,
            extract::core(&again.memory, image.page_size, target),
        )?;
    }
    let source = (image.arch, image.entry);
    let facts = facts::of(&image.memory, &incoming, source, facts::MAX_CONTENT);
    let facts = facts.map_err(Failure::Refused)?;
    Ok((facts, MemoryMap::of(image.memory.ranges(), &incoming)))
}

fn write(output: &Path, core: Result<Vec<u8>, String>) -> Result<(), Failure> {
    let written = std::fs::write(output, core.map_err(Failure::Refused)?);
    written.map_err(|error| Failure::unreadable(format!("{}: {error}", output.display())))
}

impl Image {
    fn check<'a>(
        &'a self,
        options: &Options,
        workspace: &mut Vec<u64>,
    ) -> Result<(Incoming<'a, FileMem>, Option<BootPlace>), Failure> {
        let machine = Machine {
            v1_bitmaps: options.v1_bitmaps,
            ..Machine::unknown(self.page_size)
        };
        let (boot, place) = if options.search {
            (self.search(machine, workspace)?, None)
        } else {
            find(self)?
        };
        Ok((check(&self.memory, boot, machine, workspace)?, place))
    }

    /// The only whole handover in the memory, wherever it is.
    fn search(&self, machine: Machine<'_>, workspace: &mut Vec<u64>) -> Result<BootData, Failure> {
        let (mut whole, mut others) = (Vec::new(), Vec::new());
        let roots = search::roots(&self.memory, self.page_size);
        for (fdt_addr, fdt_size) in roots.map_err(Failure::unreadable)? {
            // Only the boot data leads to the list of scratch areas.
            let boot = BootData {
                fdt_addr,
                fdt_size,
                scratch_addr: fdt_addr,
                scratch_size: 0,
            };
            match check(&self.memory, boot, machine, workspace) {
                Ok(_) => whole.push(boot),
                Err(failure) => others.push((fdt_addr, failure)),
            }
        }
        if let [boot] = whole[..] {
            return Ok(boot);
        }
        if whole.is_empty() && others.len() <= 1 {
            let none = || Failure::Refused("there is no root description in the memory".into());
            return Err(others.pop().map_or_else(none, |(_, failure)| failure));
        }
        let whole = whole.iter().map(|boot| (boot.fdt_addr, "whole".to_owned()));
        let others = others
            .iter()
            .map(|(addr, failure)| (*addr, failure.lines().join(", ")));
        let all: Vec<_> = whole
            .chain(others)
            .map(|(addr, what)| format!("at {addr}: {what}"))
            .collect();
        let why = format!(
            "choose with --kho-data from the handovers {}",
            all.join("; ")
        );
        Err(Failure::unreadable(why))
    }
}

/// The boot data, and where it stands.
fn find(image: &Image) -> Result<(BootData, Option<BootPlace>), Failure> {
    if let Some(boot) = image.boot {
        return Ok((boot, None));
    }
    let entry = image.entry.ok_or(Failure::unreadable(
        "where the handover is described is not known: give --entry, --kho-data or --search",
    ))?;
    let found = match image.arch {
        Arch::X86_64 => BootData::from_boot_params(&image.memory, entry),
        Arch::Aarch64 => BootData::from_device_tree(&image.memory, entry),
    };
    let (boot, place) = found?;
    Ok((boot, Some(place)))
}

/// Checks a handover. If it is not whole, that is one of many problems: names them all.
fn check<'a>(
    memory: &'a FileMem,
    boot: BootData,
    machine: Machine<'_>,
    workspace: &mut Vec<u64>,
) -> Result<Incoming<'a, FileMem>, Failure> {
    let most = most_words(memory.size());
    let checked = with_workspace(workspace, most, |workspace| {
        Incoming::check(memory, boot, machine, workspace)
    });
    checked.map_err(|first| {
        let mut problems = Vec::new();
        let listed = with_workspace(workspace, most, |workspace| {
            problems.clear();
            Incoming::diagnose(memory, boot, machine, workspace, |problem| {
                if problems.len() < MOST && !problems.contains(&problem) {
                    problems.push(problem);
                }
            })
        });
        problems.extend(listed.err());
        // Memory that changes meanwhile may look whole by now.
        if problems.is_empty() {
            problems.push(first);
        }
        let hint = (problems.len() >= MOST).then_some("and there are more problems");
        Failure::Unsound(problems.into_iter().map(Problem::from).collect(), hint)
    })
}

/// More problems than this are not shown.
const MOST: usize = 100;

/// Most words to check an image of this much memory with.
fn most_words(memory: u64) -> u64 {
    (memory / 8).max(WORKSPACE)
}

/// Does what says itself how much workspace it needs, if that is not more than `most` words.
fn with_workspace<T>(
    workspace: &mut Vec<u64>,
    most: u64,
    mut work: impl FnMut(&mut [u64]) -> Result<T, IncomingError>,
) -> Result<T, IncomingError> {
    workspace.resize(workspace.len().max(1 << 12), 0);
    loop {
        match work(workspace) {
            Err(IncomingError {
                fault: Fault::Workspace { words },
                ..
            }) if words > workspace.len() as u64 && words <= most => {
                workspace.resize(words as usize, 0);
            }
            done => return done,
        }
    }
}

fn open(path: &Path, options: &Options) -> Result<Image, Failure> {
    let mut file = File::open(path).map_err(Failure::unreadable)?;
    if path == Path::new(live::PATH) {
        return from_machine(file, options);
    }
    // Also of a block device, which has no size by name.
    let len = file.seek(SeekFrom::End(0)).map_err(|error| {
        let why = "what cannot be read from any place, such as a pipe, has to be a file first";
        Failure::unreadable(format!("{error}: {why}"))
    })?;
    file.rewind().map_err(Failure::unreadable)?;
    let mut start = Vec::new();
    let head = Read::by_ref(&mut file).take(16).read_to_end(&mut start);
    head.map_err(Failure::unreadable)?;
    if COMPRESSED.iter().any(|magic| start.starts_with(magic)) {
        let why = "a kdump-compressed dump, of which no address can be found without unpacking \
                   it: take it as ELF (QEMU's dump-guest-memory without -z, -l, -s, -R; \
                   makedumpfile -E; or a plain copy of /proc/vmcore)";
        return Err(Failure::unreadable(why));
    }
    if start.starts_with(b"\x7fELF") {
        from_elf(file, len, options)
    } else {
        from_raw(file, len, options)
    }
}

/// How the dumps of makedumpfile and QEMU start whose pages are compressed: as they are used, and
/// flattened, to go through a pipe.
const COMPRESSED: [&[u8]; 3] = [b"KDUMP   ", b"DISKDUMP", b"makedumpfile\0"];

/// The parts of a core file: also of those that QEMU's `dump-guest-memory` and kdump write, which
/// name no entry and no page size.
fn from_elf(file: File, len: u64, options: &Options) -> Result<Image, Failure> {
    let broken =
        |why: &dyn std::fmt::Display| Failure::unreadable(format!("not a whole ELF file: {why}"));
    let own = file.try_clone().map_err(Failure::unreadable)?;
    let elf = ElfStream::<LittleEndian, _>::open_stream(file).map_err(|error| broken(&error))?;
    if elf.ehdr.class != elf::file::Class::ELF64 {
        return Err(broken(&"it is for 32 bits"));
    }
    if elf.ehdr.e_type != ET_CORE {
        let kind = elf.ehdr.e_type;
        return Err(Failure::unreadable(format!(
            "ELF type {kind} is not a core file"
        )));
    }
    let arch = match (options.arch, elf.ehdr.e_machine) {
        (Some(arch), _) => arch,
        (None, EM_X86_64) => Arch::X86_64,
        (None, EM_AARCH64) => Arch::Aarch64,
        (None, other) => {
            let why = format!("no handover is known for the ELF machine {other}");
            return Err(Failure::unreadable(why));
        }
    };
    let (mut pieces, mut page_size) = (Vec::new(), None);
    for segment in elf.segments() {
        if segment.p_type == PT_LOAD {
            page_size = page_size.or(PageSize::from_bytes(segment.p_align));
            let range = PhysRange::new(PhysAddr::new(segment.p_paddr), segment.p_filesz);
            let range = range.ok_or_else(|| broken(&"a segment wraps"))?;
            let end = segment.p_offset.checked_add(segment.p_filesz);
            if end.is_none_or(|end| end > len) {
                return Err(broken(&"a segment ends behind the file"));
            }
            pieces.push((range, segment.p_offset));
        }
    }
    if pieces.is_empty() {
        return Err(broken(&"it has no memory"));
    }
    let memory = FileMem::new(own, pieces);
    if memory.size() > len {
        return Err(broken(&"it has more memory than bytes"));
    }
    // What only says where the first instruction would be is no argument of a kernel.
    let entry = Some(PhysAddr::new(elf.ehdr.e_entry)).filter(|entry| entry.as_u64() != 0);
    Ok(Image {
        memory,
        arch,
        entry: options.entry.or(entry),
        boot: options.boot,
        page_size: options.page_size.or(page_size).unwrap_or(PageSize::Size4K),
    })
}

fn from_raw(file: File, len: u64, options: &Options) -> Result<Image, Failure> {
    if len == 0 {
        return Err(Failure::unreadable("the file is empty"));
    }
    let why = "not an ELF file; for a RAM file give --arch";
    let arch = options.arch.ok_or(Failure::unreadable(why))?;
    let base = options.base.unwrap_or(PhysAddr::new(match arch {
        Arch::X86_64 => 0,
        Arch::Aarch64 => 0x4000_0000,
    }));
    let range = PhysRange::new(base, len).ok_or(Failure::unreadable("the base is too high"))?;
    Ok(Image {
        memory: FileMem::new(file, vec![(range, 0)]),
        arch,
        entry: options.entry,
        boot: options.boot,
        page_size: options.page_size.unwrap_or(PageSize::Size4K),
    })
}

/// The memory of the machine that this program runs on, where its kernel allows that.
fn from_machine(file: File, options: &Options) -> Result<Image, Failure> {
    let arch = options.arch.or(Arch::OWN);
    let ram = live::ram().map_err(Failure::unreadable)?;
    let pieces = ram.into_iter().map(|range| (range, range.start().as_u64()));
    Ok(Image {
        memory: FileMem::new(file, pieces.collect()),
        arch: arch.ok_or(Failure::unreadable("no handover is known for this machine"))?,
        entry: options.entry,
        boot: told(options, live::boot_data).map_err(Failure::unreadable)?,
        page_size: options.page_size.unwrap_or(PageSize::Size4K),
    })
}

/// The boot data that the command line gives, or else the running kernel, unless it is looked for.
fn told(
    options: &Options,
    kernel: impl FnOnce() -> Result<BootData, String>,
) -> Result<Option<BootData>, String> {
    match (options.boot, options.entry) {
        (None, None) if !options.search => kernel().map(Some),
        (boot, _) => Ok(boot),
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test panics when it fails")]
mod tests {
    use kho::core::incoming::Part;

    use super::*;

    #[test]
    fn the_running_kernel_is_asked_if_nothing_else_says_where() {
        let boot = BootData {
            fdt_addr: PhysAddr::new(0x1000),
            fdt_size: 1,
            scratch_addr: PhysAddr::new(0x2000),
            scratch_size: 2,
        };
        let none = Options::default;
        let entry = Some(PhysAddr::new(1));
        for (options, asked) in [
            (none(), true),
            (
                Options {
                    search: true,
                    ..none()
                },
                false,
            ),
            (Options { entry, ..none() }, false),
            (
                Options {
                    boot: Some(boot),
                    ..none()
                },
                false,
            ),
            (
                Options {
                    boot: Some(boot),
                    search: true,
                    ..none()
                },
                false,
            ),
        ] {
            let refused = told(&options, || Err("asked".into()));
            assert_eq!(
                refused,
                if asked {
                    Err("asked".into())
                } else {
                    Ok(options.boot)
                }
            );
            let found = told(&options, || Ok(boot));
            assert_eq!(found, Ok(if asked { Some(boot) } else { options.boot }));
        }
    }

    #[test]
    fn a_hint_is_for_what_the_running_kernel_took_over() {
        let hinted = |path: &str, search| {
            let (part, fault) = (Part::Map, Fault::Workspace { words: 1 });
            let failure = Failure::from(IncomingError { part, fault });
            match hint(failure, Path::new(path), search) {
                Failure::Unsound(problems, hint) if problems.len() == 1 => hint,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(hinted("/dev/mem", false), Some(REUSED));
        assert_eq!(hinted("/dev/mem", true), None);
        assert_eq!(hinted("image", false), None);
        let refused = hint(Failure::Refused("no".into()), Path::new("/dev/mem"), false);
        assert_eq!(refused.lines(), ["no"]);
    }

    /// It gets what it asks for up to the limit, and is not asked again if that is not more.
    #[test]
    fn a_workspace_grows_as_long_as_that_helps() {
        let first = 1 << 12;
        for (words, lens) in [
            (first, vec![first]),
            (first + 1, vec![first, first + 1]),
            (2 * first, vec![first, 2 * first]),
            (2 * first + 1, vec![first]),
        ] {
            let (mut seen, mut workspace) = (Vec::new(), Vec::new());
            let asked = with_workspace(&mut workspace, 2 * first, |workspace| {
                seen.push(workspace.len() as u64);
                assert!(seen.len() < 3, "{seen:?}");
                let (part, fault) = (Part::Map, Fault::Workspace { words });
                Err::<(), _>(IncomingError { part, fault })
            });
            assert!(asked.is_err());
            assert_eq!(seen, lens, "{words}");
        }
    }

    /// What asks for more and more gets no more than there is memory in the image.
    #[test]
    fn a_workspace_is_no_larger_than_the_image() {
        for (memory, most) in [(0, 1 << 23), (1 << 26, 1 << 23), (1 << 27, 1 << 24)] {
            let (mut largest, mut workspace) = (0, Vec::new());
            let asked = with_workspace(&mut workspace, most_words(memory), |workspace| {
                largest = workspace.len() as u64;
                let words = largest + (1 << 20);
                let (part, fault) = (Part::Map, Fault::Workspace { words });
                Err::<(), _>(IncomingError { part, fault })
            });
            assert!(asked.is_err());
            assert!((most - (1 << 20)..=most).contains(&largest), "{largest}");
        }
    }
}

//! Shows the handover in an image of a machine's memory, or in the running Linux.
//!
//! Why: what a kernel hands over is invisible until its successor refuses it. This shows it before
//! the kexec, and from a dump after one: what is preserved, what the description costs, and which
//! Linux releases will accept it. `kho-inspect --help` says the rest.
//!
//! The program is [`run`]: others can call it with their own arguments, and fuzzers do.
#![doc = concat!("```text\n", include_str!("help.txt"), "```")]
#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    reason = "serde_json indexes objects by name, which inserts"
)]

mod convert;
mod core_file;
mod debugfs;
mod diff;
mod extract;
mod facts;
mod failure;
mod image;
mod live;
mod map;
mod memory;
mod options;
mod progress;
mod search;
mod text;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;

use console::Style;
use kho_draw::{MemoryMap, document};
use serde_json::Value;

use crate::failure::Failure;
use crate::options::{Asked, Options};

/// Does what the arguments ask for, which are those behind the program's name. What is asked for goes
/// to `out`, why there is none to `err`. Returns the exit status.
pub fn run<I>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> u8
where
    I: IntoIterator<IntoIter: 'static>,
    I::Item: Into<OsString>,
{
    let options = match options::parse(lexopt::Parser::from_args(args)) {
        Ok(Asked::Handover(options)) => options,
        Ok(Asked::Text(text)) => {
            print(out, text);
            return 0;
        }
        Err(error) => {
            let line = format!("kho-inspect: {error}; see kho-inspect --help\n");
            print(err, &line);
            return 2;
        }
    };
    let done = match &options.other {
        None => show(&options, out),
        Some(other) => differ(&options, other, out),
    };
    done.unwrap_or_else(|(path, failure)| {
        for line in failure.lines() {
            print(err, &format!("kho-inspect: {}: {line}\n", path.display()));
        }
        if let Some(problems) = failure.json().filter(|_| options.json) {
            print(out, &format!("{problems:#}\n"));
        }
        failure.status()
    })
}

/// The exit status, or what failed with which file.
type Done<'a> = Result<u8, (&'a Path, Failure)>;

/// Shows one handover.
fn show<'a>(options: &'a Options, out: &mut dyn Write) -> Done<'a> {
    let path = options.path.as_path();
    let (facts, map) = look(path, options)?;
    if let Some(output) = &options.svg {
        draw(options, map.as_ref(), output).map_err(|failure| (path, failure))?;
    }
    if options.json {
        print(out, &format!("{facts:#}\n"));
    } else {
        print(out, &text::page(&facts, map.as_ref(), options.preflight));
    }
    for consumer in &options.accepted_by {
        let refused = consumer.refuses(&facts);
        if let Some(why) = refused.map_err(|failure| (path, failure))? {
            return Err((path, Failure::Refused(why)));
        }
    }
    Ok(0)
}

/// Shows what differs between two handovers; the status is 1 if anything does.
fn differ<'a>(options: &'a Options, other: &'a Path, out: &mut dyn Write) -> Done<'a> {
    let (old, _) = look(&options.path, options)?;
    let (new, _) = look(other, options)?;
    let lines = diff::lines(&old, &new);
    if options.json {
        print(out, &format!("{:#}\n", serde_json::json!(lines)));
    } else {
        for line in &lines {
            let style = match line.chars().next() {
                Some('+') => Style::new().green(),
                Some('-') => Style::new().red(),
                _ => Style::new().yellow(),
            };
            let line = style.apply_to(text::harmless(line));
            print(out, &format!("{line}\n"));
        }
    }
    Ok(u8::from(!lines.is_empty()))
}

/// The facts in a file or a folder, and what lies where, if the memory is there.
fn look<'a>(
    path: &'a Path,
    options: &Options,
) -> Result<(Value, Option<MemoryMap>), (&'a Path, Failure)> {
    let found = if path.is_dir() {
        debugfs::facts(path).map(|facts| (facts, None))
    } else {
        image::facts(path, options).map(|(facts, map)| (facts, Some(map)))
    };
    found.map_err(|failure| (path, failure))
}

fn draw(options: &Options, map: Option<&MemoryMap>, output: &Path) -> Result<(), Failure> {
    let map = map.ok_or(Failure::unreadable("debugfs has no memory to draw"))?;
    let title = format!("Handover in {}", options.path.display());
    let written = fs::write(output, document(&title, [map.draw()]));
    written.map_err(|error| Failure::unreadable(format!("{}: {error}", output.display())))
}

/// A reader that has seen enough, such as `head`, is no error.
fn print(to: &mut dyn Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}

//! Files and folders of machines that nobody trusts, as `kho-inspect` reads them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kho::abi::fdt::Generation;
use kho::abi::{luo, memblock, metadata};
use kho::hal::PageSize;

use crate::base::Base;
use crate::changes::{changes, damaged};

/// What can be asked of a file; what is written goes nowhere.
const ASKED: [&[&str]; 14] = [
    &["--json"],
    &[],
    &["--preflight"],
    &["--search", "--json"],
    &["--search", "--arch", "aarch64", "--page-size", "65536"],
    &["--accepted-by", "7.3"],
    &["--accepted-by", "6.18", "--v1-bitmaps", "page"],
    &["--svg", "/dev/null"],
    &["--extract", "-o", "/dev/null"],
    &["--convert", "v4", "-o", "/dev/null"],
    &["--convert", "v3", "-o", "/dev/null"],
    &["--convert", "v1-page", "-o", "/dev/null"],
    &["--convert", "sketch", "-o", "/dev/null"],
    &["--page-size", "16384"],
];

/// Asks for something, by a number, of a file or folder, with further arguments.
fn ask(which: u8, path: &Path, further: &[String]) {
    let asked = ASKED[usize::from(which) % ASKED.len()];
    let asked = asked.iter().map(|arg| arg.to_string());
    let path = path.to_str().expect("an ASCII path").to_owned();
    let diff = (which >= 0xf0).then(|| ["--diff".to_owned(), path.clone()]);
    let asked = asked
        .filter(|_| diff.is_none())
        .chain(diff.iter().flatten().cloned());
    let args = asked.chain(further.iter().cloned()).chain([path]);
    let args: Vec<_> = args.collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = kho_inspect::run(args, &mut out, &mut err);
    // Whoever shows nothing says why.
    assert_eq!(err.is_empty(), status == 0, "{status}");
}

/// A place in the file system that goes when it is not used any more.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let number = thread.replace(|c: char| !c.is_ascii_digit(), "");
        let name = format!("kho-fuzz-{name}-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file without a name.
fn nameless() -> File {
    let Place(path) = &Place::new("image");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true);
    let file = options.open(path).expect("a temporary file");
    fs::remove_file(path).expect("it is there");
    file
}

/// A captured handover: its file, and where in it the places are.
struct Captured {
    file: Vec<u8>,
    base: Base,
    offsets: Vec<usize>,
}

impl Captured {
    fn new(name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let file = fs::read(fixtures.join(format!("{name}.elf"))).expect("a fixture");
        let number = |at: usize| {
            let bytes = file[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        // Program headers follow the header: offset, physical address and size of each segment.
        let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
        let segments = (0..count).map(|i| 64 + i * 56);
        let segments: Vec<_> = segments
            .map(|at| (number(at + 8), number(at + 24), number(at + 32)))
            .collect();
        let base = Base::captured(name);
        let offset = |&place: &u64| {
            let inside =
                |&&(_, start, size): &&(u64, u64, u64)| place >= start && place - start < size;
            let found = segments.iter().find(inside);
            let (offset, start, _) = found.expect("places are in the file");
            (offset + place - start) as usize
        };
        let offsets = base.places.iter().map(offset).collect();
        Self {
            file,
            offsets,
            base,
        }
    }
}

struct Images {
    file: File,
    own: Base,
    captured: [Captured; 2],
}

thread_local!(static IMAGES: RefCell<Images> = RefCell::new(Images {
    file: nameless(),
    own: Base::new(Generation::V4, PageSize::Size4K),
    captured: ["ours-to-ours-x86_64", "linux-to-ours-aarch64"].map(Captured::new),
}));

/// An image of a machine's memory: what is asked, and what the image is. Any bytes, as a file or as a
/// RAM file; or a handover in which some words are changed, as a RAM file or a core file.
pub fn inspect_image(data: &[u8]) {
    let &[which, kind, ref rest @ ..] = data else {
        return;
    };
    IMAGES.with_borrow_mut(|images| {
        let Images {
            file,
            own,
            captured,
        } = images;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let look = |bytes: &[u8], further: &[String]| {
            file.set_len(0).expect("a temporary file");
            file.write_all_at(bytes, 0).expect("a temporary file");
            ask(which, &path, further);
        };
        match kind % 5 {
            0 => look(rest, &[]),
            1 => look(rest, &args(&["--arch", "x86_64", "--entry", "4096"])),
            2 => damaged(own, &changes(rest), |base| {
                let boot = base.boot;
                let [fdt, list] = [boot.fdt_addr, boot.scratch_addr].map(|at| at.as_u64());
                let numbers = format!("{fdt},{},{list},{}", boot.fdt_size, boot.scratch_size);
                let ram = base.memory.ranges().next().expect("one range");
                let bytes = base.memory.bytes(0, ram.size()).expect("all of it");
                look(bytes, &args(&["--arch", "x86_64", "--kho-data", &numbers]));
            }),
            n => {
                let Captured {
                    file,
                    base,
                    offsets,
                } = &mut captured[usize::from(n - 3)];
                damaged(base, &changes(rest), |base| {
                    for (&place, &offset) in base.places.iter().zip(&*offsets) {
                        let word = base.memory.bytes(place, 8).expect("a place");
                        file[offset..offset + 8].copy_from_slice(word);
                    }
                    look(file, &[]);
                });
            }
        }
    });
}

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

/// A folder of debugfs: what is asked, which sub-blob there is, how long the description is (two
/// bytes), the description, the sub-blob.
pub fn inspect_debugfs(data: &[u8]) {
    const BLOBS: [&str; 4] = [memblock::NODE, metadata::NODE, luo::NODE, "kho_test"];
    thread_local!(static FOLDER: Place = Place::new("debugfs"));
    let &[which, blob, low, high, ref bytes @ ..] = data else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([low, high])).min(bytes.len());
    let (fdt, rest) = bytes.split_at(len);
    FOLDER.with(|Place(folder)| {
        let sub_blobs = folder.join("sub_fdts");
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(&sub_blobs).expect("a temporary folder");
        fs::write(folder.join("fdt"), fdt).expect("a temporary file");
        let name = BLOBS[usize::from(blob) % BLOBS.len()];
        fs::write(sub_blobs.join(name), rest).expect("a temporary file");
        ask(which, folder, &[]);
    });
}

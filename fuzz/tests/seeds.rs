//! Every target on its seeds, on shortened and on damaged seeds: what CI can run on any toolchain.
//!
//! The seeds are `seeds/TARGET/*`, and what is made here from the repository's fixtures.

use std::fs;
use std::path::Path;

use kho_fuzz::{TARGETS, pages, sound_pages};

/// How many damaged seeds each target is given.
const ROUNDS: usize = 3000;

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<_> = fs::read_dir(root.join("seeds").join(target))
        .map(|folder| {
            folder
                .map(|file| read(&file.expect("a file").path()))
                .collect()
        })
        .unwrap_or_default();
    if target == "elf" {
        let fixtures = root.join("../tests/fixtures");
        for name in ["linux-7.3-x86_64.elf", "linux-7.3-arm64.elf"] {
            // The headers, and the first bytes of memory.
            let mut file = read(&fixtures.join(name));
            file.truncate(16 << 10);
            seeds.push(file);
        }
    }
    seeds.push(Vec::new());
    seeds
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

/// Each page of each handover as it is: all of them are accepted, and read whole.
#[test]
fn sound_handovers_are_what_slow_readers_find() {
    for (name, input) in sound_pages() {
        println!("{name}");
        pages(&input);
    }
}

/// How the seeds of what starts with a number of a handover were made: of each the description, of
/// one of ours and one of Linux all pages; and some changes to each.
#[test]
#[ignore = "writes the seeds anew, when handovers or pages of them were added"]
fn write_seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(target)).expect("a folder");
        fs::write(root.join(target).join(name), bytes).expect("a file");
    };
    let mut handovers = 0;
    for (name, input) in sound_pages() {
        let [which, _, spot, ..] = input[..] else {
            continue;
        };
        handovers = handovers.max(usize::from(which) + 1);
        if spot == 0 || [0, 7].contains(&which) {
            write("pages", &name, &input);
        }
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for which in 0..handovers {
        for target in ["handover", "lists"] {
            let reader = [0, 1, 2, 3, random.below(256)][random.below(5)];
            let mut input = vec![which as u8, reader as u8];
            input.extend((0..random.below(5) * 24).map(|_| random.below(256) as u8));
            write(target, &format!("changes-{which:02}"), &input);
        }
    }
    for asked in 0..14 {
        for kind in 2..5 {
            let mut input = vec![asked, kind];
            input.extend((0..random.below(2) * 24).map(|_| random.below(256) as u8));
            write("inspect_image", &format!("{asked:02}-{kind}"), &input);
        }
    }
    for (i, name) in ["memblock", "root"].into_iter().enumerate() {
        for machine in ["arm64", "x86_64"] {
            let seed = |name: &str| read(&root.join("tokens").join(format!("{name}-{machine}")));
            let (fdt, blob) = (seed("root"), seed(name));
            let mut input = vec![[0, 0xff][i], i as u8 * 3];
            input.extend((fdt.len() as u16).to_le_bytes());
            input.extend([fdt, blob].concat());
            write("inspect_debugfs", &format!("{name}-{machine}"), &input);
        }
    }
    let image = read(&root.join("elf/two"));
    write("inspect_image", "core", &[&[0, 0], &image[..]].concat());
    write("inspect_image", "compressed", b"\0\0KDUMP   ");
}

/// Stack that is enough for all targets, whatever they are given.
const STACK: usize = 128 << 10;

#[test]
fn every_target_survives_its_seeds() {
    let small = std::thread::Builder::new().stack_size(STACK);
    let ended = small.spawn(run_all).expect("a thread").join();
    ended.expect("the targets survive");
}

fn run_all() {
    for (name, target) in TARGETS {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut executions = 0;
        let seeds = seeds(name);
        let rounds = ROUNDS.div_ceil(seeds.len());
        for seed in seeds {
            target(&seed);
            for _ in 0..rounds {
                let mut bytes = seed.clone();
                match random.below(4) {
                    0 => bytes.truncate(random.below(seed.len() + 1)),
                    1 => bytes.extend((0..random.below(64)).map(|_| random.below(256) as u8)),
                    _ => {}
                }
                for _ in 0..random.below(4) {
                    let len = bytes.len();
                    if let Some(byte) = bytes.get_mut(random.below(len)) {
                        *byte = [0, 0xff, 0x80, 1, random.below(256) as u8][random.below(5)];
                    }
                }
                target(&bytes);
                executions += 1;
            }
        }
        println!("{name}: {executions} executions");
        assert!(executions >= ROUNDS);
    }
}

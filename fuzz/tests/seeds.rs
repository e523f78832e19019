//! Every target on its seeds, on shortened and on damaged seeds: what CI can run on any toolchain.
//!
//! The seeds are `seeds/TARGET/*`, and what is made here from the repository's fixtures.

use std::fs;
use std::path::Path;

use kho_fuzz::TARGETS;

/// How often each seed is damaged.
const ROUNDS: u32 = 300;

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

#[test]
fn every_target_survives_its_seeds() {
    for (name, target) in TARGETS {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut executions = 0;
        for seed in seeds(name) {
            target(&seed);
            for _ in 0..ROUNDS {
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

//! Device trees as nobody but an attacker writes them.

use kho_core::BootData;
use kho_hal::sim::SimMemory;
use kho_hal::{PageSize, PhysMem};

use super::{Sim, addr, pages};

const PAGE: PageSize = PageSize::Size4K;

/// A tree, token by token.
#[derive(Default)]
pub struct Tree {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Tree {
    fn word(&mut self, word: usize) {
        self.structure.extend((word as u32).to_be_bytes());
    }

    fn pad(&mut self) {
        let len = self.structure.len().next_multiple_of(4);
        self.structure.resize(len, 0);
    }

    pub fn begin(&mut self, name: &str) {
        self.word(1);
        self.structure.extend(name.bytes().chain([0]));
        self.pad();
    }

    pub fn end(&mut self) {
        self.word(2);
    }

    pub fn property(&mut self, name: &str, value: &[u8]) {
        let at = self.strings.len();
        self.strings.extend(name.bytes().chain([0]));
        self.word(3);
        self.word(value.len());
        self.word(at);
        self.structure.extend(value);
        self.pad();
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.word(9);
        let (start, len) = (56, self.structure.len());
        let total = start + len + self.strings.len();
        let strings = self.strings.len();
        let header = [
            0xd00d_feed,
            total,
            start,
            start + len,
            40,
            17,
            16,
            0,
            strings,
            len,
            0,
            0,
            0,
            0,
        ];
        let header = header.map(|word| (word as u32).to_be_bytes());
        [header.as_flattened(), &self.structure, &self.strings].concat()
    }
}

/// A description of a generation that keeps users' data inline, with its list of chunks at `map`, 0 for
/// none. It lies from page 1 on, and is all of the machine's memory.
pub fn inline(map: u64, more: impl FnOnce(&mut Tree)) -> (Sim, BootData) {
    let mut tree = Tree::default();
    tree.begin("");
    tree.property("compatible", b"linux-kho,v1\0");
    tree.property("preserved-folio-map", &map.to_le_bytes());
    more(&mut tree);
    tree.end();
    let bytes = tree.finish();
    let sim = Sim {
        memory: SimMemory::new([pages(PAGE, 1, 1 + bytes.len() as u64 / 4096)]).unwrap(),
        ..Sim::new(PAGE)
    };
    sim.memory.write(addr(4096), &bytes).unwrap();
    let boot = BootData {
        fdt_addr: addr(4096),
        fdt_size: bytes.len() as u64,
        scratch_addr: addr(4096),
        scratch_size: 0,
    };
    (sim, boot)
}

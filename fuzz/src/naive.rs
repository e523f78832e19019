//! Slow readers of what was accepted: one thing after the other, into vectors, with every word
//! looked up by itself. What they cannot read should have been refused, so they panic.

use kho::abi::Name;
use kho::abi::block::BlockHeader;
use kho::abi::chunk::V1Bitmaps;
use kho::abi::fdt::Generation;
use kho::abi::luo::{LuoFileSer, LuoFlbHeaderSer, LuoFlbSer, LuoSer, LuoSessionSer};
use kho::abi::memfd::{self, MemfdFolioSer, MemfdSer};
use kho::abi::vmalloc::KhoVmalloc;
use kho::core::incoming::{Folio, Segment};
use kho::hal::{Order, PageSize, PhysAddr, PhysRange};
use zerocopy::{FromBytes, IntoBytes};

use crate::memory::Memory;

/// A node of a flattened device tree.
#[derive(Debug, Default)]
pub struct Node {
    pub name: Vec<u8>,
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
    pub children: Vec<Node>,
}

impl Node {
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.properties.iter();
        let (_, value) = all.find(|(found, _)| found == name.as_bytes())?;
        Some(value)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        Some(u64::from_le_bytes(self.property(name)?.try_into().ok()?))
    }

    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children
            .iter()
            .find(|child| child.name == name.as_bytes())
    }

    /// Whether one of the strings of `compatible` is this one.
    pub fn is_compatible(&self, text: &str) -> bool {
        let mut strings = self.property("compatible").unwrap_or_default();
        strings = strings.strip_suffix(b"\0").unwrap_or_default();
        strings
            .split(|&byte| byte == 0)
            .any(|string| string == text.as_bytes())
    }
}

/// All nodes of a tree, by the Devicetree Specification 0.4, chapter 5.
pub fn fdt(bytes: &[u8]) -> Node {
    let number = |at: usize| {
        let word = bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(word) as usize
    };
    let (mut at, strings) = (number(8), number(12));
    let text = |at: usize| {
        let len = bytes[at..].iter().position(|&byte| byte == 0);
        bytes[at..at + len.expect("a NUL")].to_vec()
    };
    let mut open = vec![Node::default()];
    loop {
        let token = number(at);
        at += 4;
        let top = open.len() - 1;
        match token {
            1 => {
                let name = text(at);
                at = (at + name.len() + 1).next_multiple_of(4);
                open.push(Node {
                    name,
                    ..Node::default()
                });
            }
            2 => {
                let node = open.pop().expect("it began");
                open[top - 1].children.push(node);
            }
            3 => {
                let (len, name) = (number(at), text(strings + number(at + 4)));
                let value = bytes[at + 8..at + 8 + len].to_vec();
                open[top].properties.push((name, value));
                at = (at + 8 + len).next_multiple_of(4);
            }
            4 => {}
            9 => break,
            other => panic!("token {other}"),
        }
    }
    assert_eq!(open.len(), 1, "each node ends");
    open[0].children.pop().expect("a root")
}

/// A file of a session.
#[derive(Debug, PartialEq)]
pub struct File {
    pub compatible: Vec<u8>,
    pub token: u64,
    pub data: u64,
    /// The descriptor, and the segments, of a memory file.
    pub memory: Option<(MemfdSer, Vec<Segment>)>,
}

/// What LUO handed over.
#[derive(Debug, PartialEq)]
pub struct Luo {
    pub number: u64,
    pub sessions: Vec<(Vec<u8>, Vec<File>)>,
    pub objects: Vec<LuoFlbSer>,
}

/// Reads memory with pages of this size.
pub struct Slow<'m> {
    pub memory: &'m Memory,
    pub page: PageSize,
}

impl Slow<'_> {
    fn word(&self, at: u64) -> u64 {
        self.memory.word(at).expect("it was accepted")
    }

    pub fn object<T: FromBytes>(&self, at: u64) -> T {
        let bytes = self.memory.bytes(at, size_of::<T>() as u64);
        T::read_from_bytes(bytes.expect("it was accepted")).expect("as many bytes")
    }

    pub fn fdt(&self, at: u64, size: u64) -> Node {
        fdt(self.memory.bytes(at, size).expect("it was accepted"))
    }

    /// The folios of a map, ascending.
    pub fn folios(&self, map: u64, generation: Generation) -> Vec<Folio> {
        let mut found = Vec::new();
        match generation {
            Generation::V2 | Generation::V3 | Generation::V4 => {
                self.tree(map, self.depth() - 1, 0, &mut found);
            }
            _ => self.list(map, generation, &mut found),
        }
        found.sort();
        found
    }

    /// Levels of a tree whose keys have a bit for each page below 2^52, and an order bit.
    fn depth(&self) -> u32 {
        let shift = self.page.shift();
        let (leaf, table) = (shift + 3, shift - 3);
        // The highest key has the order bit of order 0 at 64 - 12 bits of page address.
        let key_bits = 64 - shift + 1;
        1 + (key_bits - leaf).div_ceil(table)
    }

    /// Every key of the tree, one after the other.
    fn tree(&self, node: u64, level: u32, path: u64, found: &mut Vec<Folio>) {
        let entries = self.page.bytes() / 8;
        for i in 0..entries {
            let word = self.word(node + i * 8);
            if level > 0 {
                if word != 0 {
                    self.tree(word, level - 1, path * entries + i, found);
                }
                continue;
            }
            for bit in bits(word) {
                let key = (path * entries + i) * 64 + bit;
                let shift = self.page.shift();
                let order = 64 - shift - key.ilog2();
                found.push(folio((key ^ 1 << key.ilog2()) << (shift + order), order));
            }
        }
    }

    /// Every bit of every bitmap, one after the other.
    fn list(&self, head: u64, generation: Generation, found: &mut Vec<Folio>) {
        let bytes = match generation {
            Generation::V1Page => self.page.bytes(),
            _ => 512,
        };
        let mut chunk = head;
        while chunk != 0 {
            let (next, numbers) = match generation {
                Generation::Sketch => (self.word(chunk + 8), self.word(chunk)),
                _ => (self.word(chunk), self.word(chunk + 8)),
            };
            let (order, count) = (numbers as u32, numbers >> 32);
            for entry in 0..count {
                let start = self.word(chunk + 16 + entry * 16);
                let bitmap = self.word(chunk + 24 + entry * 16);
                for i in 0..bytes / 8 {
                    for bit in bits(self.word(bitmap + i * 8)) {
                        let addr = start + ((i * 64 + bit) << (self.page.shift() + order));
                        found.push(folio(addr, order));
                    }
                }
            }
            chunk = next;
        }
    }

    /// The pages of a list of pages, and the groups of the area.
    pub fn area(&self, area: KhoVmalloc) -> (Vec<u64>, Vec<PhysRange>) {
        let size = self.page.bytes() << area.order.get();
        let (mut pages, mut groups) = (Vec::new(), Vec::new());
        let mut next = area.first.get();
        while next != 0 {
            pages.push(next);
            for i in 1..self.page.bytes() / 8 {
                let addr = self.word(next + i * 8);
                // Nothing is said of what stands behind the end.
                if addr == 0 {
                    break;
                }
                groups.extend(PhysRange::new(PhysAddr::new(addr), size));
            }
            next = self.word(next);
        }
        (pages, groups)
    }

    /// The blocks of a set, and its entries with the address of each.
    pub fn blocks<T: FromBytes>(&self, head: u64) -> (Vec<u64>, Vec<T>) {
        let (mut blocks, mut entries) = (Vec::new(), Vec::new());
        let mut next = head;
        while next != 0 {
            blocks.push(next);
            let header: BlockHeader = self.object(next);
            for i in 0..header.count.get() {
                entries.push(self.object(next + 16 + i * size_of::<T>() as u64));
            }
            next = header.next.get();
        }
        (blocks, entries)
    }

    /// Everything behind the sub-blob at `at`; `folios` are all that are preserved.
    pub fn luo(&self, at: u64, folios: &[Folio]) -> Luo {
        let ser: LuoSer = self.object(at);
        let (_, sessions) = self.blocks::<LuoSessionSer>(ser.sessions_pa.get());
        let session = |session: LuoSessionSer| {
            let (_, files) = self.blocks::<LuoFileSer>(session.files.get());
            let files = files.into_iter().map(|ser| {
                let compatible = until_nul(&ser.compatible);
                let is_memory = compatible == memfd::COMPATIBLE.as_bytes();
                File {
                    compatible,
                    token: ser.token.get(),
                    data: ser.data.get(),
                    memory: is_memory.then(|| self.memory_file(ser.data.get(), folios)),
                }
            });
            (until_nul(&session.name), files.collect())
        };
        Luo {
            number: ser.liveupdate_num.get(),
            sessions: sessions.into_iter().map(session).collect(),
            objects: self.objects(ser.flbs_pa.get()),
        }
    }

    pub fn objects(&self, at: u64) -> Vec<LuoFlbSer> {
        if at == 0 {
            return Vec::new();
        }
        let header: LuoFlbHeaderSer = self.object(at);
        let object = |i| self.object(at + 16 + i * size_of::<LuoFlbSer>() as u64);
        (0..header.count.get()).map(object).collect()
    }

    fn memory_file(&self, at: u64, folios: &[Folio]) -> (MemfdSer, Vec<Segment>) {
        let ser: MemfdSer = self.object(at);
        let (count, size) = (ser.nr_folios.get(), ser.size.get());
        let mut segments = Vec::new();
        if count > 0 {
            let (_, groups) = self.area(ser.folios);
            let bytes = groups.iter().flat_map(|group| {
                let bytes = self.memory.bytes(group.start().as_u64(), group.size());
                bytes.expect("it was accepted").chunks(16)
            });
            for bytes in bytes.take(count as usize) {
                let entry = MemfdFolioSer::read_from_bytes(bytes).expect("16 bytes");
                let pfn = entry.pfn_and_flags.get() << 12 >> 12;
                if pfn == 0 {
                    continue;
                }
                let addr = PhysAddr::new(pfn << self.page.shift());
                let found = folios.binary_search_by_key(&addr, |folio| folio.addr);
                let folio = folios[found.expect("it is preserved")];
                let offset = entry.index.get() << self.page.shift();
                let len = folio.range(self.page).size().min(size - offset);
                let range = PhysRange::new(addr, len).expect("a part of a folio");
                segments.push(Segment { offset, range });
            }
        }
        (ser, segments)
    }
}

/// What a field with a NUL at its end says.
pub fn until_nul<const N: usize>(name: &Name<N>) -> Vec<u8> {
    let text = name.as_bytes().iter().copied();
    text.take_while(|&byte| byte != 0).collect()
}

/// Which bitmaps a reader of this generation is told of.
pub fn told(generation: Generation) -> Option<V1Bitmaps> {
    match generation {
        Generation::V1Small => Some(V1Bitmaps::Small),
        Generation::V1Page => Some(V1Bitmaps::Page),
        _ => None,
    }
}

fn bits(word: u64) -> impl Iterator<Item = u64> {
    let any = if word == 0 { 0..0 } else { 0..64 };
    any.filter(move |bit| word >> bit & 1 != 0)
}

fn folio(addr: u64, order: u32) -> Folio {
    let order = Order::new(order).expect("it was accepted");
    Folio {
        addr: PhysAddr::new(addr),
        order,
    }
}

//! Reading a handover that may be damaged: what is accepted is what slow readers find, and neither
//! accepting nor refusing takes more reads than there is memory.

use kho::abi::{luo, memblock, metadata};
use kho::core::incoming::{Component, Folio, Incoming, Machine};
use kho::core::preflight::{Consumer, preflight};
use kho::hal::{PhysAddr, PhysRange};

use crate::base::Base;
use crate::changes::Reader;
use crate::memory::{Lent, merged};
use crate::naive::{File, Luo, Node, Slow, fdt, told, until_nul};

type Checked<'a> = Incoming<'a, Lent<'a>>;

/// Checks the handover; if it is accepted, everything in it is what it must be.
pub fn check(base: &Base, reader: &Reader) {
    let memory = base.memory.lend(reader.ram());
    let machine = Machine {
        page_size: base.page,
        ram: reader.ram(),
        v1_bitmaps: told(base.generation),
    };
    let mut workspace = vec![0; reader.workspace];
    // What a description names is looked up in its map, which has a few levels, a few times.
    let words = base.places.len() as u64 + base.page.bytes() / 8;
    let few = |what| {
        let reads = memory.reads();
        assert!(
            reads <= 16 * words,
            "{what}: {reads} reads for {words} words"
        );
    };
    let checked = Incoming::check(&memory, base.boot, machine, &mut workspace);
    few("check");
    let mut problems = Vec::new();
    let mut again = vec![0; reader.workspace];
    let diagnosed = Incoming::diagnose(&memory, base.boot, machine, &mut again, |error| {
        problems.push(error);
    });
    few("diagnose");
    match checked {
        Ok(incoming) => {
            assert_eq!((diagnosed, problems.len()), (Ok(()), 0), "{problems:?}");
            accepted(base, &incoming);
            let _ = incoming.vmalloc(base.area, &mut workspace);
            memory.reads();
            let _ = incoming.luo().known().map(|luo| luo.sessions().count());
            let _ = incoming.folios().count();
            few("folios and sessions");
        }
        Err(error) => assert!(
            diagnosed.is_err() || problems.contains(&error),
            "{problems:?}"
        ),
    }
}

/// What slow readers found, to hold the library's answers against.
struct Expected<'m> {
    slow: Slow<'m>,
    /// Ascending.
    folios: Vec<Folio>,
    /// As the longest ranges.
    preserved: Vec<PhysRange>,
    root: Node,
}

impl Expected<'_> {
    fn is_preserved(&self, range: PhysRange) -> bool {
        let after = self
            .preserved
            .partition_point(|known| known.end() <= range.start());
        let known = self.preserved.get(after);
        known.is_some_and(|known| known.contains_range(range))
    }

    fn folios_in(&self, range: PhysRange) -> &[Folio] {
        let page = self.slow.page;
        let first = self
            .folios
            .partition_point(|folio| folio.range(page).end() <= range.start());
        let end = self
            .folios
            .partition_point(|folio| folio.addr < range.end());
        &self.folios[first.min(end)..end]
    }
}

fn accepted(base: &Base, incoming: &Checked<'_>) {
    let slow = Slow {
        memory: &base.memory,
        page: base.page,
    };
    let map = incoming.map_addr().as_u64();
    let folios = slow.folios(map, incoming.generation());
    let ranges = folios.iter().map(|folio| folio.range(base.page));
    let fdt_at = base.boot.fdt_addr.as_u64();
    let expected = Expected {
        preserved: merged(ranges.collect()),
        folios,
        root: slow.fdt(fdt_at, incoming.fdt_size() as u64),
        slow,
    };
    map_is(incoming, &expected);
    let blobs = blobs_are(incoming, &expected);
    let find = |name: &str| blobs.iter().find(|(found, _)| found == name.as_bytes());
    regions_are(incoming, &expected, find(memblock::NODE).map(|(_, at)| *at));
    if let Some((_, blob)) = find(metadata::NODE) {
        if let Component::Known(found) = incoming.metadata() {
            assert!(blob.size() >= 73);
            let raw: kho::abi::metadata::KexecMetadata =
                expected.slow.object(blob.start().as_u64());
            assert_eq!((found, found.version.get()), (&raw, metadata::VERSION));
        }
    } else {
        assert!(matches!(incoming.metadata(), Component::Absent));
    }
    luo_is(incoming, &expected, find(luo::NODE).map(|(_, at)| *at));
    foreign_is(base, incoming, &expected);
    for consumer in Consumer::ALL {
        let _ = preflight(incoming, consumer);
    }
}

fn map_is(incoming: &Checked<'_>, expected: &Expected<'_>) {
    let page = expected.slow.page;
    let found: Vec<Folio> = incoming.folios().collect();
    let same = found == expected.folios;
    assert!(same, "a slow reader finds other folios");
    assert!(incoming.extents().eq(expected.preserved.iter().copied()));
    let parts = std::num::NonZeroUsize::new(3).expect("three");
    assert!(incoming.split(parts).flatten().eq(found.iter().copied()));
    let mut end = PhysAddr::new(0);
    for folio in &found {
        let range = folio.range(page);
        assert!(range.start() >= end, "folios are ascending and disjoint");
        end = range.end();
    }
    for area in incoming.scratch().areas().filter(|area| !area.is_empty()) {
        assert!(expected.folios_in(area).is_empty(), "{area} is scratch");
    }
    incoming.for_each_map_page(|own| assert!(expected.folios_in(own).is_empty(), "{own}"));
}

/// Name and memory of each sub-blob.
fn blobs_are(incoming: &Checked<'_>, expected: &Expected<'_>) -> Vec<(Vec<u8>, PhysRange)> {
    let generation = incoming.generation();
    let property = match generation.has_radix_tree() {
        true => kho::abi::fdt::PRESERVED_DATA,
        false => kho::abi::fdt::FDT,
    };
    let nodes = match generation.is_nested() {
        true => &[][..],
        false => &expected.root.children,
    };
    let blob = |node: &Node| {
        let at = node.number(property)?;
        let size = node.number(kho::abi::fdt::BLOB_SIZE).unwrap_or_else(|| {
            let own: zerocopy::big_endian::U32 = expected.slow.object(at + 4);
            own.get().max(8).into()
        });
        let range = PhysRange::new(PhysAddr::new(at), size).expect("it was accepted");
        Some((node.name.clone(), range))
    };
    let blobs: Vec<_> = nodes.iter().filter_map(blob).collect();
    let found = incoming.subtrees();
    let found: Vec<_> = found
        .map(|blob| (blob.name.as_bytes().to_vec(), blob.range))
        .collect();
    assert_eq!(found, blobs, "the sub-blobs that a slow reader finds");
    for (_, range) in &blobs {
        assert!(expected.is_preserved(*range), "{range}");
        let folios = incoming.folios_in(*range);
        assert!(folios.eq(expected.folios_in(*range).iter().copied()));
    }
    blobs
}

fn regions_are(incoming: &Checked<'_>, expected: &Expected<'_>, blob: Option<PhysRange>) {
    let tree = blob.map(|blob| {
        let bytes = expected
            .slow
            .memory
            .bytes(blob.start().as_u64(), blob.size());
        fdt(bytes.expect("it was accepted"))
    });
    let node = match incoming.generation().is_nested() {
        true => expected.root.child(memblock::NODE),
        false => tree.as_ref(),
    };
    let node = node.filter(|node| node.is_compatible(memblock::COMPATIBLE));
    let nodes = node.map_or(&[][..], |node| &node.children);
    let region = |node: &Node| {
        let (start, size) = (node.number(memblock::START), node.number(memblock::SIZE));
        (node.name.clone(), start, size)
    };
    let regions: Vec<_> = nodes.iter().map(region).collect();
    let found = incoming.reserve_mem();
    let found = found.iter().map(|region| {
        let (start, size) = (region.range.start().as_u64(), region.range.size());
        (region.name.as_bytes().to_vec(), Some(start), Some(size))
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found, regions, "the regions that a slow reader finds");
    for region in incoming.reserve_mem().iter() {
        assert_eq!(incoming.reserve_mem().find(region.name), Some(region));
        let page = expected.slow.page.bytes();
        let start = PhysAddr::new(region.range.start().as_u64() / page * page);
        let whole = PhysRange::new(start, region.range.size() / page * page);
        let whole = whole.expect("a part of a range");
        assert!(whole.is_empty() || expected.is_preserved(whole));
    }
}

fn luo_is(incoming: &Checked<'_>, expected: &Expected<'_>, blob: Option<PhysRange>) {
    let Component::Known(luo) = incoming.luo() else {
        let version = blob.map(|blob| expected.slow.object(blob.start().as_u64()));
        let version = version.map(|version| until_nul::<8>(&version));
        assert_ne!(version.as_deref(), Some(luo::COMPATIBLE.as_bytes()));
        return;
    };
    let file = |file: kho::core::incoming::File<'_, _>| File {
        compatible: file.compatible().into(),
        token: file.token(),
        data: file.data(),
        memory: file
            .memfd()
            .map(|memory| (*memory.descriptor(), memory.segments().collect())),
    };
    let sessions = luo.sessions().map(|session| {
        assert_eq!(session.files().count() as u64, session.count());
        (session.name().to_vec(), session.files().map(file).collect())
    });
    let found = Luo {
        number: luo.liveupdate_num(),
        sessions: sessions.collect(),
        objects: luo.flbs().to_vec(),
    };
    let at = blob.expect("LUO is a sub-blob").start().as_u64();
    assert_eq!(found, expected.slow.luo(at, &expected.folios));
    let files = luo.sessions().flat_map(|session| session.files());
    for memory in files.filter_map(|file| file.memfd()) {
        let mut next = 0;
        for segment in memory.segments() {
            assert!(segment.offset >= next && expected.is_preserved(segment.range));
            assert_eq!(memory.locate(segment.offset), Some(segment));
            next = segment.offset + segment.range.size();
        }
        assert!(next <= memory.descriptor().size.get());
    }
}

/// What only its owner knows of.
fn foreign_is(base: &Base, incoming: &Checked<'_>, expected: &Expected<'_>) {
    if let Ok(area) = incoming.vmalloc(base.area, &mut [0; 64]) {
        let (pages, groups) = expected.slow.area(base.area);
        assert!(area.chunks().map(PhysAddr::as_u64).eq(pages));
        assert!(area.groups().eq(groups.iter().copied()));
        assert!(groups.iter().all(|group| expected.is_preserved(*group)));
        // Some of them: each is a walk through the list.
        for (i, group) in groups.into_iter().enumerate().step_by(50) {
            assert_eq!(area.locate(i as u64 * group.size()), Some(group));
        }
    }
    let [first, second] = base.pages;
    if let Ok(blocks) = incoming.blocks::<[u8; 16]>(first, &mut [0; 64]) {
        let (pages, entries) = expected.slow.blocks::<[u8; 16]>(first.as_u64());
        assert!(blocks.blocks().map(|(at, _)| at.as_u64()).eq(pages));
        assert!(blocks.iter().eq(&entries));
    }
    let _ = incoming.bytes(second, 4096, &mut [0; 64]);
}

//! What we write against what Linux wrote for the same preserved memory.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]
#![allow(unsafe_code, reason = "the second reader's constructor is unsafe")]

mod common;

use common::{FIXTURES, read};
use fdt_rs::base::DevTree;
use fdt_rs::prelude::{FallibleIterator, PropReader};
use kho::abi::radix;
use kho::core::BootData;
use kho::core::Tracker;
use kho::core::incoming::{Folio, Incoming, Machine};
use kho::core::outgoing::Outgoing;
use kho::hal::sim::{ElfImage, FrozenSim, SimAlloc, SimMemory};
use kho::hal::{FrozenMem, PageSize, PhysAddr, PhysRange};
use zerocopy::IntoBytes;

const PAGE: PageSize = PageSize::Size4K;

fn with_fixture(name: &str, test: impl Fn(&FrozenSim<'_>, &Incoming<'_, FrozenSim<'_>>)) {
    let mut image = ElfImage::parse(&read(&format!("{name}.elf"))).unwrap();
    let frozen = image.memory.freeze();
    let (boot, _) = BootData::from_boot_params(&frozen, image.entry)
        .or_else(|_| BootData::from_device_tree(&frozen, image.entry))
        .unwrap();
    let machine = Machine::unknown(PAGE);
    let incoming = Incoming::check(&frozen, boot, machine, &mut [0; 256]).unwrap();
    test(&frozen, &incoming);
}

fn page<'a>(mem: &'a FrozenSim<'_>, at: u64) -> &'a [u8] {
    mem.bytes(PhysAddr::new(at), PAGE.bytes() as usize).unwrap()
}

fn children<'a>(mem: &'a FrozenSim<'_>, at: u64) -> impl Iterator<Item = u64> + 'a {
    page(mem, at)
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
}

/// Whether a part of Linux's tree holds no folio. Linux keeps pages that became empty.
fn is_empty(mem: &FrozenSim<'_>, node: u64, level: u32) -> bool {
    match level {
        0 => page(mem, node).iter().all(|&byte| byte == 0),
        _ => children(mem, node).all(|child| child == 0 || is_empty(mem, child, level - 1)),
    }
}

/// Compares two trees page by page. Returns how many pages were equal.
fn compare(theirs: (&FrozenSim<'_>, u64), ours: (&FrozenSim<'_>, u64), level: u32) -> usize {
    if level == 0 {
        assert_eq!(
            page(theirs.0, theirs.1),
            page(ours.0, ours.1),
            "leaf {:#x}",
            theirs.1
        );
        return 1;
    }
    let mut equal = 1;
    for (a, b) in children(theirs.0, theirs.1).zip(children(ours.0, ours.1)) {
        match (a, b) {
            (0, 0) => {}
            (0, _) => panic!("Linux's table {:#x} has no such entry", theirs.1),
            (a, 0) => assert!(is_empty(theirs.0, a, level - 1), "{a:#x} is missing"),
            (a, b) => equal += compare((theirs.0, a), (ours.0, b), level - 1),
        }
    }
    equal
}

#[test]
fn the_same_folios_give_the_same_tree() {
    for name in FIXTURES {
        with_fixture(name, |theirs, incoming| {
            let base = PhysRange::new(PhysAddr::new(1 << 40), 1 << 20).unwrap();
            let mut memory = SimMemory::new([base]).unwrap();
            let mut pages = 0;
            let root = {
                let alloc = SimAlloc::new(&memory, PAGE, [base]);
                let tracker = Tracker::new(&memory, &alloc, PAGE, &[]).unwrap();
                for Folio { addr, order } in incoming.folios() {
                    tracker.preserve_folio(addr, order).unwrap();
                }
                tracker.for_each_page(|_| pages += 1).unwrap();
                tracker.root().as_u64()
            };
            let ours = memory.freeze();
            let levels = radix::depth(PAGE) - 1;
            let equal = compare(
                (theirs, incoming.map_addr().as_u64()),
                (&ours, root),
                levels,
            );
            assert_eq!(equal, pages, "all of our pages were compared");
            assert!(equal > 30, "{name} has {equal}");
        });
    }
}

/// Our root description as a second reader, and dtc where there is one, see it.
#[test]
fn others_read_our_description() {
    let low = PhysRange::new(PhysAddr::new(0x10_0000), 1 << 20).unwrap();
    let scratch = [PhysRange::new(PhysAddr::new(0x40_0000), 1 << 20).unwrap()];
    let mut memory = SimMemory::new([low, scratch[0]]).unwrap();
    let (boot, root, blobs) = {
        let alloc = SimAlloc::new(&memory, PAGE, [low]);
        let tracker = Tracker::new(&memory, &alloc, PAGE, &scratch).unwrap();
        let mut outgoing = Outgoing::new(tracker).unwrap();
        let names = ["kexec-metadata", "LUO", "x"];
        let blobs = names.map(|name| (name, outgoing.add_blob(name, name.as_bytes()).unwrap()));
        let boot = outgoing
            .finalize(scratch[0].start(), &mut [])
            .unwrap()
            .hand_over();
        (boot, outgoing.tracker().root(), blobs)
    };
    let frozen = memory.freeze();
    let fdt = page(&frozen, boot.fdt_addr.as_u64()).to_vec();
    let size = u32::from_be_bytes(fdt[4..8].try_into().unwrap()) as usize;
    // The reader asks for alignment.
    let mut aligned = vec![0u64; size.div_ceil(8)];
    let bytes = &mut aligned.as_mut_bytes()[..size];
    bytes.copy_from_slice(&fdt[..size]);
    // SAFETY: `DevTree::new` asks for a buffer aligned to 4 bytes that stays while the tree does;
    // `aligned` is, and is not touched until the tree's last use.
    let tree = unsafe { DevTree::new(bytes) }.unwrap();
    let mut expected = vec![
        ("".to_owned(), "compatible".to_owned(), b"kho-v4\0".to_vec()),
        (
            "".to_owned(),
            "preserved-memory-map".to_owned(),
            root.as_u64().to_le_bytes().to_vec(),
        ),
    ];
    for (name, blob) in blobs.iter().rev() {
        let numbers = [
            ("blob-size", blob.size()),
            ("preserved-data", blob.start().as_u64()),
        ];
        for (property, number) in numbers {
            expected.push((
                (*name).to_owned(),
                property.to_owned(),
                number.to_le_bytes().to_vec(),
            ));
        }
    }
    let mut found = Vec::new();
    let mut nodes = tree.nodes();
    while let Some(node) = nodes.next().unwrap() {
        let mut properties = node.props();
        while let Some(property) = properties.next().unwrap() {
            let name = node.name().unwrap().to_owned();
            let value = property.propbuf().to_vec();
            found.push((name, property.name().unwrap().to_owned(), value));
        }
    }
    assert_eq!(found, expected);
    let source = dtc(bytes);
    if let Some(source) = source {
        for part in [
            "LUO {",
            "kexec-metadata {",
            "compatible = \"kho-v4\"",
            "blob-size =",
        ] {
            assert!(source.contains(part), "{part} in\n{source}");
        }
    }
}

/// The tree as source, if the device tree compiler is installed.
fn dtc(bytes: &[u8]) -> Option<String> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("ours.dtb");
    std::fs::write(&path, bytes).unwrap();
    let output = std::process::Command::new("dtc")
        .args(["-I", "dtb", "-O", "dts"])
        .arg(&path)
        .output();
    std::fs::remove_file(&path).unwrap();
    let Ok(output) = output else {
        println!("skipped: dtc is not installed");
        return None;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

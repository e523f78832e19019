//! Handovers captured in QEMU by `cargo xtask interop --capture`: from Linux 7.3 to us, and from us
//! to ourselves. They hold what the plan of the scenarios says.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use common::read;
use kho::core::BootData;
use kho::core::incoming::{Incoming, Machine, Memfd};
use kho::core::preflight::{Consumer, Outcome, preflight};
use kho::hal::sim::{ElfImage, FrozenSim};
use kho::hal::{FrozenMem, PageSize};
use kho_interop_plan::{NOTE, REGION, REGION_SIZE, RELEASE, SESSIONS, fill};

const PAGE: PageSize = PageSize::Size4K;

fn with_captured(name: &str, test: impl Fn(&FrozenSim<'_>, &Incoming<'_, FrozenSim<'_>>)) {
    let mut image = ElfImage::parse(&read(&format!("{name}.elf"))).unwrap();
    assert_eq!(image.page_size, Some(PAGE));
    let frozen = image.memory.freeze();
    let (boot, _) = BootData::from_boot_params(&frozen, image.entry)
        .or_else(|_| BootData::from_device_tree(&frozen, image.entry))
        .unwrap();
    let mut workspace = [0; 512];
    let incoming = Incoming::check(&frozen, boot, Machine::unknown(PAGE), &mut workspace).unwrap();
    test(&frozen, &incoming);
}

/// What of a file is in the image, which is all or nothing.
fn content(mem: &FrozenSim<'_>, file: &Memfd<'_, FrozenSim<'_>>) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    for segment in file.segments() {
        assert_eq!(segment.offset, content.len() as u64, "a hole");
        let size = segment.range.size() as usize;
        content.extend_from_slice(mem.bytes(segment.range.start(), size).ok()?);
    }
    Some(content)
}

/// The plan's sessions and region. Returns how many files have their contents in the image.
fn check_plan(mem: &FrozenSim<'_>, incoming: &Incoming<'_, FrozenSim<'_>>) -> usize {
    let luo = incoming.luo().known().unwrap();
    let mut found = 0;
    for plan in SESSIONS {
        let session = luo.session_named(plan.name).unwrap();
        assert_eq!(session.count() as usize, plan.files.len());
        for plan in plan.files {
            let file = session.file(plan.token).unwrap().memfd().unwrap();
            assert_eq!(file.descriptor().size.get(), plan.size);
            let Some(content) = content(mem, &file) else {
                continue;
            };
            let mut expected = vec![0; plan.size as usize];
            fill(plan.seed, 0, &mut expected);
            assert!(content == expected, "file {:#x} differs", plan.token);
            found += 1;
        }
    }
    let region = incoming.reserve_mem().find(REGION).unwrap();
    assert_eq!(region.range.size(), REGION_SIZE);
    assert!(incoming.restore_pages(region.range).is_some());
    found
}

#[test]
fn linux_to_us() {
    for name in ["linux-to-ours-x86_64", "linux-to-ours-aarch64"] {
        with_captured(name, |mem, incoming| {
            assert_eq!(check_plan(mem, incoming), 1);
            let metadata = incoming.metadata().known().unwrap();
            assert_eq!(metadata.previous_release.to_str(), Some("7.3.0-rc7"));
            assert_eq!(metadata.kexec_count.get(), 1);
            let luo = incoming.luo().known().unwrap();
            assert_eq!(luo.liveupdate_num(), 1);
            // Linux's test objects, which every memory file uses.
            assert_eq!(luo.flbs().len(), 3);
            assert!(luo.flbs().iter().all(|flb| flb.count.get() == 3));
            assert!(incoming.subtree("kho_test").is_some());
        });
    }
}

#[test]
fn us_to_ourselves() {
    for name in ["ours-to-ours-x86_64", "ours-to-ours-aarch64"] {
        with_captured(name, |mem, incoming| {
            assert_eq!(check_plan(mem, incoming), 1);
            let metadata = incoming.metadata().known().unwrap();
            assert_eq!(metadata.previous_release.to_str(), Some(RELEASE));
            assert_eq!(metadata.kexec_count.get(), 1);
            let note = incoming.subtree(NOTE).unwrap().range;
            let note = mem.bytes(note.start(), note.size() as usize).unwrap();
            assert_eq!(note, RELEASE.as_bytes());
            // The same handover, given to Linux 7.3, is taken over in all its parts.
            for verdict in preflight(incoming, Consumer::Linux7_2) {
                assert_eq!(verdict.outcome, Outcome::Accepts, "{verdict:?}");
            }
        });
    }
}

/// Linux on x86 overwrites the first MiB before it reads what is preserved.
#[test]
fn nothing_of_ours_is_below_one_mib() {
    with_captured("ours-to-ours-x86_64", |_, incoming| {
        let above = |addr: u64| assert!(addr >= 1 << 20, "{addr:#x} is below 1 MiB");
        incoming
            .extents()
            .for_each(|range| above(range.start().as_u64()));
        incoming.for_each_map_page(|page| above(page.start().as_u64()));
    });
}

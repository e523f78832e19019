//! Everything that can be handed over, from an outgoing program to an incoming one.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{FREE, Sim, SimTracker, addr, check, order, pages};
use kho_abi::luo::LuoFileSer;
use kho_abi::memfd::MemfdFolioSer;
use kho_core::incoming::{Component, Folio, Region};
use kho_core::outgoing::luo::{Flb, LiveFile, Luo};
use kho_core::outgoing::memfd::{self, MemfdFile, Preserved};
use kho_core::outgoing::{
    BlockSet, Outgoing, OutgoingError, Tracker, metadata, reserve_mem, vmalloc,
};
use kho_hal::sim::{Faulty, SimAlloc, SimMemory};
use kho_hal::{Order, PageAlloc, PageSize, PhysRange};
use zerocopy::FromZeros;

#[test]
fn sub_blobs_metadata_and_regions() {
    for page in PageSize::ALL {
        let mut sim = Sim::new(page);
        let region = pages(page, FREE + 3, 10);
        let (boot, blob) = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            metadata::publish(&outgoing, "ours-0.1", None).unwrap();
            reserve_mem::publish(
                &outgoing,
                &[Region {
                    name: "oops",
                    range: region,
                }],
            )
            .unwrap();
            let blob = outgoing.add_blob("note", b"hello").unwrap();
            outgoing.add_blob("gone", b"x").unwrap();
            outgoing.remove_blob("gone").unwrap();
            (
                outgoing
                    .finalize(sim.scratch_array(), &mut [])
                    .unwrap()
                    .hand_over(),
                blob,
            )
        };
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, page).unwrap();
        let names: Vec<_> = incoming.subtrees().map(|blob| blob.name).collect();
        assert_eq!(
            names,
            ["note", "memblock", "kexec-metadata"],
            "newest first, as Linux does"
        );
        assert_eq!(incoming.subtree("note").unwrap().range, blob);
        let metadata = incoming.metadata().known().unwrap();
        assert_eq!(metadata.previous_release.to_str(), Some("ours-0.1"));
        assert_eq!(metadata.kexec_count.get(), 1);
        assert_eq!(incoming.reserve_mem().find("oops").unwrap().range, region);
        assert_eq!(incoming.reserve_mem().find("other"), None);
        assert!(matches!(incoming.luo(), Component::Absent));
        assert_eq!(incoming.scratch().areas().collect::<Vec<_>>(), sim.scratch);
    }
}

#[test]
fn the_description_refuses_and_stays_as_it_was() {
    let page = PageSize::Size4K;
    let sim = Sim::new(page);
    let alloc = sim.alloc();
    let outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let blob = pages(page, FREE, 1);
    outgoing.add_subtree("one", blob).unwrap();
    assert_eq!(
        outgoing.add_subtree("one", blob),
        Err(OutgoingError::Exists)
    );
    assert_eq!(outgoing.remove_subtree("two"), Err(OutgoingError::Unknown));
    assert_eq!(outgoing.remove_blob("two"), Err(OutgoingError::Unknown));
    assert!(matches!(
        outgoing.remove_blob("one"),
        Err(OutgoingError::NotPreserved { .. })
    ));
    for bad in ["", "a@1", "a/b", "a b", "a-name-that-is-longer-than-31-by"] {
        let expected = bad.len() == 31;
        assert_eq!(outgoing.add_subtree(bad, blob).is_ok(), expected, "{bad:?}");
    }
    let mut added = 0;
    let error = loop {
        match outgoing.add_subtree(&format!("blob{added:02}"), blob) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(
        error,
        OutgoingError::Full {
            available: 4096,
            ..
        }
    ));
    assert!(
        (60..70).contains(&added),
        "a page holds about 69 names of 6 bytes, not {added}"
    );
    assert_eq!(outgoing.find(&format!("blob{added:02}")), None);
    let live = alloc.live().len();
    assert!(outgoing.add_blob("more", b"more").is_err());
    assert_eq!(alloc.live().len(), live, "what did not fit was freed");
    assert!(outgoing.destroy().is_ok());
    assert_eq!(alloc.live(), []);
}

#[test]
fn dropping_a_finalized_handover_opens_it_again() {
    let sim = Sim::new(PageSize::Size4K);
    let alloc = sim.alloc();
    let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    outgoing
        .finalize(sim.scratch_array(), &mut [])
        .unwrap()
        .abort();
    outgoing
        .tracker()
        .preserve_pages(pages(sim.page, FREE, 1))
        .unwrap();
    let outside = sim.scratch[0].end();
    assert!(matches!(
        outgoing.finalize(outside, &mut []),
        Err(OutgoingError::BadScratch { .. })
    ));
}

/// How many allocations there are that are not pages of the tree, which never shrinks.
fn besides_the_tree(
    outgoing: &Outgoing<'_, &SimMemory, &SimAlloc<&SimMemory>>,
    alloc: &SimAlloc<&SimMemory>,
) -> usize {
    let mut pages = 0;
    outgoing.tracker().for_each_page(|_| pages += 1).unwrap();
    alloc.live().len() - pages
}

/// A vmalloc area of any length and order comes back in the area's order.
#[test]
fn vmalloc_areas() {
    for page in PageSize::ALL {
        let capacity = kho_abi::vmalloc::chunk_capacity(page) as u64;
        for (count, o) in [
            (1, 0),
            (5, 0),
            (3, 2),
            (capacity - 1, 0),
            (capacity, 0),
            (capacity + 1, 1),
        ] {
            let mut sim = Sim::new(page);
            // Every other group, downwards; those of order 2 are not naturally aligned.
            let group = |i: u64| addr((FREE + 1 + (count - i) * (2 << o)) << page.shift());
            let groups: Vec<_> = (0..count).map(group).collect();
            let (boot, descriptor) = {
                let alloc = sim.alloc();
                let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
                let before = besides_the_tree(&outgoing, &alloc);
                let list = vmalloc::preserve(outgoing.tracker(), &groups, order(o)).unwrap();
                assert!(besides_the_tree(&outgoing, &alloc) > before);
                vmalloc::unpreserve(outgoing.tracker(), &list).unwrap();
                assert!(vmalloc::unpreserve(outgoing.tracker(), &list).is_err());
                assert_eq!(besides_the_tree(&outgoing, &alloc), before);
                let list = vmalloc::preserve(outgoing.tracker(), &groups, order(o)).unwrap();
                (
                    outgoing
                        .finalize(sim.scratch_array(), &mut [])
                        .unwrap()
                        .hand_over(),
                    list,
                )
            };
            let frozen = sim.memory.freeze();
            let incoming = check(&frozen, boot, page).unwrap();
            let area = incoming.vmalloc(descriptor, &mut [0; 16]).unwrap();
            let found: Vec<_> = area.groups().map(PhysRange::start).collect();
            assert_eq!(found, groups, "{page:?} {count} {o}");
            // As Linux: a full chunk is followed by another, even by an empty one.
            assert_eq!(area.chunks().count() as u64, count / capacity + 1);
            for (i, group) in groups.iter().enumerate().step_by(97) {
                let offset = ((i as u64 * page.bytes()) << o) + 5;
                let found = area.locate(offset).unwrap();
                assert_eq!(found.start().as_u64(), group.as_u64() + 5);
                assert_eq!(found.size(), (page.bytes() << o) - 5);
            }
            assert_eq!(area.locate(area.size()), None);
        }
    }
}

#[test]
fn blocks_grow_and_shrink() {
    for page in PageSize::ALL {
        let capacity = kho_abi::block::capacity(64, page);
        let mut sim = Sim::new(page);
        let entry = |i: usize| LuoFileSer {
            token: (i as u64 + 1).into(),
            ..LuoFileSer::new_zeroed()
        };
        let (boot, head) = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let tracker = outgoing.tracker();
            let mut set = BlockSet::default();
            assert_eq!(set.head(), addr(0));
            assert!(set.is_empty());
            set.resize(tracker, 2 * capacity + 1).unwrap();
            assert!(!set.is_empty());
            let live = alloc.live().len();
            for i in 0..set.len() {
                set.write(tracker, i, &entry(i)).unwrap();
            }
            assert_eq!(
                set.write(tracker, set.len(), &entry(0)),
                Err(OutgoingError::Unknown)
            );
            let tokens = set.iter(tracker).map(|entry| entry.unwrap().token.get());
            assert!(tokens.eq(1..=set.len() as u64));
            set.resize(tracker, 2 * capacity - 1).unwrap();
            set.resize(tracker, 2 * capacity).unwrap();
            let last = set.iter(tracker).last().unwrap().unwrap();
            assert_eq!(last.token.get(), 0, "in a block that was kept");
            set.resize(tracker, capacity - 1).unwrap();
            assert_eq!(
                live - alloc.live().len(),
                2,
                "blocks that are not needed are freed"
            );
            // Blocks that stay in use have room for what was cut off.
            set.resize(tracker, 2 * capacity).unwrap();
            for i in capacity - 1..set.len() {
                set.write(tracker, i, &entry(i)).unwrap();
            }
            set.resize(tracker, capacity + 1).unwrap();
            set.resize(tracker, 2 * capacity).unwrap();
            let head = set.head();
            (
                outgoing
                    .finalize(sim.scratch_array(), &mut [])
                    .unwrap()
                    .hand_over(),
                head,
            )
        };
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, page).unwrap();
        let blocks = incoming.blocks::<LuoFileSer>(head, &mut [0; 16]).unwrap();
        let tokens: Vec<_> = blocks.iter().map(|entry| entry.token.get()).collect();
        let kept = 1..=capacity as u64 + 1;
        let zeroed = core::iter::repeat_n(0, capacity - 1);
        let expected: Vec<_> = kept.chain(zeroed).collect();
        assert_eq!(tokens, expected, "entries that come back are zeroed");
        assert_eq!(blocks.blocks().count(), 2);
    }
}

/// Whichever access to memory fails: the set is as before, and can be used on.
#[test]
fn blocks_survive_failing_memory() {
    let page = PageSize::Size4K;
    for (from, to) in [(0, 200), (200, 1), (60, 64), (64, 60), (63, 64), (64, 63)] {
        for n in 0..40 {
            let sim = Sim::new(page);
            let memory = Faulty::new(&sim.memory);
            let alloc = sim.alloc();
            let tracker = Tracker::new(&memory, &alloc, page, &sim.scratch).unwrap();
            let mut set = BlockSet::<LuoFileSer>::default();
            set.resize(&tracker, from).unwrap();
            memory.fail_at(Some(n));
            let result = set.resize(&tracker, to);
            memory.fail_at(None);
            assert_eq!(
                set.len(),
                if result.is_ok() { to } else { from },
                "{from} {to} {n}"
            );
            let capacity = kho_abi::block::capacity(64, page);
            let (mut next, mut len) = (set.head(), 0);
            while next.as_u64() != 0 {
                assert!(
                    alloc.live().iter().any(|&(block, _)| block == next),
                    "{from} {to} {n}"
                );
                let word = |offset| sim.memory.word(addr(next.as_u64() + offset)).unwrap();
                len += word(8) as usize;
                next = addr(word(0));
            }
            assert_eq!(
                len,
                set.len(),
                "{from} to {to}, access {n}: {capacity} a block"
            );
            set.resize(&tracker, to).unwrap();
            set.resize(&tracker, 0).unwrap();
        }
    }
}

/// A file that keeps a log of what is asked of it, and can refuse.
struct Logged {
    name: &'static str,
    flbs: Vec<&'static str>,
    refuse: Option<&'static str>,
    log: Rc<RefCell<Vec<String>>>,
}

impl Logged {
    fn call(&self, what: &'static str) -> Result<u64, OutgoingError> {
        if self.refuse == Some(what) {
            return Err(OutgoingError::Refused(5));
        }
        self.log.borrow_mut().push(format!("{what} {}", self.name));
        Ok(self.name.len() as u64)
    }
}

impl<'m> LiveFile<SimTracker<'m>> for Logged {
    fn compatible(&self) -> &str {
        "logged-v1"
    }
    fn identity(&self) -> u64 {
        self.name.as_ptr() as u64
    }
    fn flbs(&self) -> &[&str] {
        &self.flbs
    }
    fn preserve(&mut self, _: &SimTracker<'m>) -> Result<u64, OutgoingError> {
        self.call("preserve")
    }
    fn unpreserve(&mut self, _: &SimTracker<'m>) {
        self.call("unpreserve").unwrap();
    }
    fn freeze(&mut self, _: &SimTracker<'m>, data: u64) -> Result<u64, OutgoingError> {
        self.call("freeze")?;
        Ok(data + 100)
    }
    fn unfreeze(&mut self, _: &SimTracker<'m>) {
        self.call("unfreeze").unwrap();
    }
}

impl<'m> Flb<SimTracker<'m>> for Logged {
    fn name(&self) -> &str {
        self.name
    }
    fn preserve(&mut self, _: &SimTracker<'m>) -> Result<u64, OutgoingError> {
        self.call("preserve")
    }
    fn unpreserve(&mut self, _: &SimTracker<'m>) {
        self.call("unpreserve").unwrap();
    }
    fn freeze(&mut self, _: &SimTracker<'m>) -> Result<(), OutgoingError> {
        self.call("freeze").map(drop)
    }
    fn unfreeze(&mut self, _: &SimTracker<'m>) {
        self.call("unfreeze").unwrap();
    }
}

#[test]
fn sessions_files_and_objects() {
    let mut sim = Sim::new(PageSize::Size4K);
    let log = Rc::new(RefCell::new(Vec::new()));
    let take = || log.borrow_mut().drain(..).collect::<Vec<_>>();
    let logged = |name, flbs: &[&'static str], refuse| {
        Box::new(Logged {
            name,
            flbs: flbs.to_vec(),
            refuse,
            log: Rc::clone(&log),
        })
    };
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let mut luo = Luo::new(&outgoing, 6).unwrap();
        let tracker = outgoing.tracker();
        for flb in [
            logged("x", &[], None),
            logged("y", &[], None),
            logged("bad", &[], Some("preserve")),
            logged("stiff", &[], Some("freeze")),
        ] {
            luo.register_flb(tracker, flb).unwrap();
        }
        assert_eq!(
            luo.register_flb(tracker, logged("x", &[], None)),
            Err(OutgoingError::Exists)
        );
        luo.create_session(tracker, "vm0").unwrap();
        luo.create_session(tracker, "vm1").unwrap();
        assert_eq!(
            luo.create_session(tracker, "vm0"),
            Err(OutgoingError::Exists)
        );
        assert!(matches!(
            luo.create_session(tracker, ""),
            Err(OutgoingError::Name(_))
        ));

        let mut preserve =
            |session: &str, token, file| luo.preserve_file(tracker, session, token, file);
        preserve("vm0", 1, logged("a", &["x"], None)).unwrap();
        preserve("vm0", 2, logged("b", &["x", "y"], None)).unwrap();
        assert_eq!(
            take(),
            ["preserve x", "preserve a", "preserve y", "preserve b"]
        );
        assert_eq!(
            preserve("vm9", 1, logged("c", &[], None)),
            Err(OutgoingError::Unknown)
        );
        assert_eq!(
            preserve("vm0", 1, logged("c", &[], None)),
            Err(OutgoingError::Exists)
        );
        assert_eq!(
            preserve("vm1", 1, logged("a", &[], None)),
            Err(OutgoingError::Busy)
        );
        assert_eq!(
            preserve("vm1", 1, logged("c", &["z"], None)),
            Err(OutgoingError::NoHandler)
        );
        assert_eq!(take(), [""; 0]);
        // A refusal undoes what was done for the file, in reverse.
        let refused = Err(OutgoingError::Refused(5));
        assert_eq!(
            preserve("vm1", 1, logged("c", &["y", "bad"], None)),
            refused
        );
        assert_eq!(take(), [""; 0], "y had a user already");
        assert_eq!(
            preserve("vm1", 1, logged("c", &["x"], Some("preserve"))),
            refused
        );
        preserve("vm1", 7, logged("d", &["y"], None)).unwrap();
        assert_eq!(luo.flb("x"), Some((1, 2)));
        assert_eq!(luo.flb("y"), Some((1, 2)));
        assert_eq!(luo.flb("bad"), None);
        take();

        // A file that cannot be frozen: those before it are unfrozen, the last first.
        luo.create_session(tracker, "vm2").unwrap();
        luo.preserve_file(tracker, "vm2", 1, logged("e", &[], None))
            .unwrap();
        luo.preserve_file(tracker, "vm2", 2, logged("f", &[], Some("freeze")))
            .unwrap();
        take();
        let array = sim.scratch_array();
        let failed = outgoing.finalize(array, &mut [&mut luo]).map(drop);
        assert_eq!(failed, Err(OutgoingError::Refused(5)));
        assert_eq!(
            take(),
            ["freeze a", "freeze b", "freeze d", "freeze e"]
                .into_iter()
                .chain(["unfreeze e", "unfreeze d", "unfreeze b", "unfreeze a"])
                .collect::<Vec<_>>()
        );
        let tracker = outgoing.tracker();
        luo.destroy_session(tracker, "vm2").unwrap();
        assert_eq!(take(), ["unpreserve f", "unpreserve e"]);
        assert_eq!(
            luo.destroy_session(tracker, "vm2"),
            Err(OutgoingError::Unknown)
        );

        // An object that cannot be frozen: it comes after all files, and those before it are undone.
        luo.create_session(tracker, "vm2").unwrap();
        luo.preserve_file(tracker, "vm2", 1, logged("g", &["stiff"], None))
            .unwrap();
        take();
        let failed = outgoing.finalize(array, &mut [&mut luo]).map(drop);
        assert_eq!(failed, Err(OutgoingError::Refused(5)));
        let frozen = ["a", "b", "d", "g", "x", "y"];
        let calls = frozen.map(|name| format!("freeze {name}")).into_iter();
        let undone = frozen.iter().rev().map(|name| format!("unfreeze {name}"));
        assert_eq!(take(), calls.chain(undone).collect::<Vec<_>>());
        let tracker = outgoing.tracker();
        luo.destroy_session(tracker, "vm2").unwrap();
        take();

        // A finalized handover can be opened again; what comes after LUO may refuse as well.
        outgoing.finalize(array, &mut [&mut luo]).unwrap().abort();
        let both = [
            "freeze a",
            "freeze b",
            "freeze d",
            "freeze x",
            "freeze y",
            "unfreeze y",
            "unfreeze x",
            "unfreeze d",
            "unfreeze b",
            "unfreeze a",
        ];
        assert_eq!(take(), both);
        let outside = sim.scratch[0].end();
        assert!(outgoing.finalize(outside, &mut [&mut luo]).is_err());
        assert_eq!(take(), both);
        let boot = outgoing
            .finalize(array, &mut [&mut luo])
            .unwrap()
            .hand_over();
        // Too late: what the successor will find stays as it is.
        let tracker = outgoing.tracker();
        assert_eq!(luo.create_session(tracker, "vm3"), Err(OutgoingError::Busy));
        assert_eq!(
            luo.destroy_session(tracker, "vm0"),
            Err(OutgoingError::Busy)
        );
        boot
    };
    let frozen = sim.memory.freeze();
    let incoming = check(&frozen, boot, sim.page).unwrap();
    let luo = incoming.luo().known().unwrap();
    assert_eq!(luo.liveupdate_num(), 7);
    let sessions: Vec<_> = luo
        .sessions()
        .map(|session| {
            let files = session.files().map(|file| (file.token(), file.data()));
            (
                String::from_utf8_lossy(session.name()).into_owned(),
                files.collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(
        sessions,
        [
            ("vm0".to_owned(), vec![(1, 101), (2, 101)]),
            ("vm1".to_owned(), vec![(7, 101)])
        ]
    );
    let flbs: Vec<_> = luo
        .flbs()
        .iter()
        .map(|flb| (flb.name.to_string(), flb.count.get()))
        .collect();
    assert_eq!(flbs, [("x".to_owned(), 2), ("y".to_owned(), 2)]);
    assert!(luo.session_named("vm1").unwrap().file(7).is_some());
    assert!(luo.session_named("vm2").is_none());
}

#[test]
fn what_is_destroyed_leaves_nothing_behind() {
    let sim = Sim::new(PageSize::Size4K);
    let log = Rc::new(RefCell::new(Vec::new()));
    let logged = |name, flbs: &[&'static str]| {
        Box::new(Logged {
            name,
            flbs: flbs.to_vec(),
            refuse: None,
            log: Rc::clone(&log),
        })
    };
    let alloc = sim.alloc();
    let outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let mut luo = Luo::new(&outgoing, 0).unwrap();
    let tracker = outgoing.tracker();
    luo.register_flb(tracker, logged("x", &[])).unwrap();
    for session in ["one", "two"] {
        luo.create_session(tracker, session).unwrap();
    }
    luo.preserve_file(tracker, "one", 1, logged("a", &["x"]))
        .unwrap();
    luo.preserve_file(tracker, "two", 1, logged("b", &["x"]))
        .unwrap();
    log.borrow_mut().clear();
    assert!(luo.destroy(&outgoing).is_ok());
    assert_eq!(
        *log.borrow(),
        ["unpreserve b", "unpreserve a", "unpreserve x"]
    );
    assert!(outgoing.destroy().is_ok());
    assert_eq!(alloc.live(), []);
}

/// The guest's memory of the test below.
struct Memory {
    folios: Vec<(u64, Folio)>,
    size: u64,
    preserved: Option<Preserved>,
}

impl<'m> LiveFile<SimTracker<'m>> for Memory {
    fn compatible(&self) -> &str {
        kho_abi::memfd::COMPATIBLE
    }
    fn identity(&self) -> u64 {
        self as *const Self as u64
    }
    fn preserve(&mut self, tracker: &SimTracker<'m>) -> Result<u64, OutgoingError> {
        let preserved = memfd::preserve(tracker, self.file())?;
        self.preserved = Some(preserved);
        Ok(preserved.data())
    }
    fn unpreserve(&mut self, tracker: &SimTracker<'m>) {
        let preserved = self.preserved.take().unwrap();
        memfd::unpreserve(tracker, self.file(), preserved).unwrap();
    }
    fn freeze(&mut self, tracker: &SimTracker<'m>, data: u64) -> Result<u64, OutgoingError> {
        memfd::set_pos(tracker, self.preserved.unwrap(), 77)?;
        Ok(data)
    }
}

impl Memory {
    fn file(&self) -> MemfdFile<'_> {
        MemfdFile {
            pos: 5,
            size: self.size,
            seals: 0x21,
            folios: &self.folios,
        }
    }
}

#[test]
fn memory_files() {
    for page in PageSize::ALL {
        let mut sim = Sim::new(page);
        // Folios of orders 0 and 2, with a hole of one page after each sixth; the last is cut off.
        let mut index = 0;
        let folios: Vec<_> = (0..1500)
            .map(|i| {
                let o = if i % 5 == 0 { 2 } else { 0 };
                let folio = Folio {
                    addr: addr((FREE + (3000 - i) * 4) << page.shift()),
                    order: order(o),
                };
                let at = index;
                index += folio.order.pages() + u64::from(i % 6 == 5);
                (at, folio)
            })
            .collect();
        let size = (folios.last().unwrap().0 << page.shift()) + 100;
        let boot = {
            let alloc = sim.alloc();
            let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
            let mut luo = Luo::new(&outgoing, 0).unwrap();
            let tracker = outgoing.tracker();
            luo.create_session(tracker, "vm").unwrap();
            let file = |folios: &[(u64, Folio)], size| {
                Box::new(Memory {
                    folios: folios.to_vec(),
                    size,
                    preserved: None,
                })
            };
            luo.preserve_file(tracker, "vm", 1, file(&folios, size))
                .unwrap();
            luo.preserve_file(tracker, "vm", 2, file(&[], 0)).unwrap();
            // The same memory in another file is refused, and nothing of the attempt stays.
            let live = alloc.live().len();
            assert!(
                luo.preserve_file(tracker, "vm", 3, file(&folios[9..], size))
                    .is_err()
            );
            let swapped = [folios[1], folios[0]];
            assert!(
                luo.preserve_file(tracker, "vm", 3, file(&swapped, size))
                    .is_err()
            );
            assert_eq!(alloc.live().len(), live);
            outgoing
                .finalize(sim.scratch_array(), &mut [&mut luo])
                .unwrap()
                .hand_over()
        };
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, page).unwrap();
        let session = incoming.luo().known().unwrap().session_named("vm").unwrap();
        let file = session.file(1).unwrap().memfd().unwrap();
        assert_eq!(file.descriptor().size.get(), size);
        assert_eq!(file.descriptor().pos.get(), 77);
        assert_eq!(file.folios().count(), folios.len());
        let all_there = |folio: &MemfdFolioSer| folio.flags() == 3;
        assert!(file.folios().all(all_there), "dirty and up to date");
        let found: Vec<_> = file
            .segments()
            .map(|s| (s.offset >> page.shift(), s.range.start()))
            .collect();
        let expected: Vec<_> = folios.iter().map(|(at, folio)| (*at, folio.addr)).collect();
        assert_eq!(found, expected);
        assert_eq!(
            file.segments().last().unwrap().range.size(),
            100,
            "cut off at the end"
        );
        for (at, folio) in folios.iter().step_by(31) {
            let inside = (at << page.shift()) + 9;
            let segment = file.locate(inside).unwrap();
            assert_eq!(
                (segment.offset, segment.range.start().as_u64()),
                (inside, folio.addr.as_u64() + 9)
            );
        }
        let (at, folio) = folios[5];
        let hole = (at + folio.order.pages()) << page.shift();
        assert_eq!(file.locate(hole), None);
        assert_eq!(file.locate(size), None);
        let empty = session.file(2).unwrap().memfd().unwrap();
        assert_eq!((empty.segments().count(), empty.locate(0)), (0, None));
    }
}

#[test]
fn a_handover_that_cannot_be_made_leaves_nothing() {
    let sim = Sim::new(PageSize::Size4K);
    for n in 0..3 {
        let alloc = sim.alloc();
        let tracker = sim.tracker(&alloc);
        alloc.fail_at(Some(n));
        match Outgoing::new(tracker) {
            Ok(outgoing) => assert!(outgoing.destroy().is_ok()),
            Err(error) => assert!(matches!(error, OutgoingError::Alloc(_))),
        }
        assert_eq!(alloc.live(), [], "making a handover, allocation {n}");
    }
}

/// Entries that stand for nothing, as Linux may read them, are skipped wherever they are.
#[test]
fn holes_in_the_list_of_folios() {
    let page = PageSize::Size4K;
    let mut sim = Sim::new(page);
    let folios: Vec<_> = (0..12)
        .map(|i| {
            (
                i * 2,
                Folio {
                    addr: addr((FREE + i) << 12),
                    order: Order::ZERO,
                },
            )
        })
        .collect();
    let boot = {
        let alloc = sim.alloc();
        let mut outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
        let mut luo = Luo::new(&outgoing, 0).unwrap();
        luo.create_session(outgoing.tracker(), "vm").unwrap();
        let file = Box::new(Memory {
            folios: folios.clone(),
            size: 24 << 12,
            preserved: None,
        });
        luo.preserve_file(outgoing.tracker(), "vm", 1, file)
            .unwrap();
        outgoing
            .finalize(sim.scratch_array(), &mut [&mut luo])
            .unwrap()
            .hand_over()
    };
    let array = {
        let frozen = sim.memory.freeze();
        let incoming = check(&frozen, boot, page).unwrap();
        let session = incoming.luo().known().unwrap().session_named("vm").unwrap();
        let file = session.file(1).unwrap().memfd().unwrap();
        file.vmalloc().groups().next().unwrap().start()
    };
    let holes = [0, 3, 4, 5, 7, 11];
    for hole in holes {
        let place = array.as_u64() + hole * 16;
        kho_hal::PhysMem::write(&sim.memory, addr(place), &[0; 16]).unwrap();
    }
    let frozen = sim.memory.freeze();
    let incoming = check(&frozen, boot, page).unwrap();
    let session = incoming.luo().known().unwrap().session_named("vm").unwrap();
    let file = session.file(1).unwrap().memfd().unwrap();
    assert_eq!(file.segments().count(), 6);
    for (i, (index, folio)) in folios.iter().enumerate() {
        let found = file
            .locate(index << 12)
            .map(|segment| segment.range.start());
        let expected = (!holes.contains(&(i as u64))).then_some(folio.addr);
        assert_eq!(found, expected, "folio {i}");
        assert_eq!(file.locate((index + 1) << 12), None);
    }
}

/// For every operation, whichever allocation fails: an error, nothing leaks, and a retry succeeds.
#[test]
fn a_failed_allocation_anywhere_is_undone() {
    let page = PageSize::Size4K;
    let sim = Sim::new(page);
    let alloc = sim.alloc();
    let outgoing = Outgoing::new(sim.tracker(&alloc)).unwrap();
    let tracker = outgoing.tracker();
    let folios: Vec<_> = (0..300)
        .map(|i| {
            (
                i,
                Folio {
                    addr: addr((FREE + i) << 12),
                    order: Order::ZERO,
                },
            )
        })
        .collect();
    let file = MemfdFile {
        pos: 0,
        size: 300 << 12,
        seals: 0,
        folios: &folios,
    };
    let groups: Vec<_> = (0..600).map(|i| addr((FREE + (i << 12)) << 12)).collect();
    let region = Region {
        name: "r",
        range: pages(page, FREE + 5000, 77),
    };
    let mut blocks = BlockSet::<LuoFileSer>::default();

    let failing = |what: &str,
                   work: &mut dyn FnMut() -> Result<(), OutgoingError>,
                   undo: &mut dyn FnMut()| {
        for n in 0.. {
            let before = besides_the_tree(&outgoing, &alloc);
            alloc.fail_at(Some(n));
            let calls = alloc.calls();
            let result = work();
            let failed = alloc.calls() - calls > n;
            alloc.fail_at(None);
            assert_eq!(
                result.is_err(),
                failed,
                "{what}, allocation {n}: {result:?}"
            );
            if !failed {
                undo();
                assert_eq!(
                    besides_the_tree(&outgoing, &alloc),
                    before,
                    "{what} undone leaks"
                );
                assert!(n > 0, "{what} allocates");
                return;
            }
            assert_eq!(
                besides_the_tree(&outgoing, &alloc),
                before,
                "{what}, allocation {n} leaks"
            );
        }
    };
    failing(
        "blob",
        &mut || outgoing.add_blob("b", &[1; 9000]).map(drop),
        &mut || {
            outgoing.remove_blob("b").unwrap();
        },
    );
    failing(
        "metadata",
        &mut || metadata::publish(&outgoing, "r", None),
        &mut || {
            outgoing.remove_blob(kho_abi::metadata::NODE).unwrap();
        },
    );
    failing(
        "regions",
        &mut || reserve_mem::publish(&outgoing, &[region]),
        &mut || {
            outgoing.remove_blob(kho_abi::memblock::NODE).unwrap();
            tracker.unpreserve_pages(region.range).unwrap();
        },
    );
    let list = RefCell::new(None);
    failing(
        "vmalloc",
        &mut || {
            vmalloc::preserve(tracker, &groups, Order::ZERO).map(|l| *list.borrow_mut() = Some(l))
        },
        &mut || vmalloc::unpreserve(tracker, &list.borrow_mut().take().unwrap()).unwrap(),
    );
    let preserved = RefCell::new(None);
    failing(
        "memfd",
        &mut || memfd::preserve(tracker, file).map(|p| *preserved.borrow_mut() = Some(p)),
        &mut || memfd::unpreserve(tracker, file, preserved.borrow_mut().take().unwrap()).unwrap(),
    );
    let blocks = RefCell::new(&mut blocks);
    failing(
        "blocks",
        &mut || blocks.borrow_mut().resize(tracker, 200),
        &mut || {
            blocks.borrow_mut().resize(tracker, 0).unwrap();
        },
    );
    let luo = RefCell::new(None);
    failing(
        "LUO",
        &mut || Luo::new(&outgoing, 0).map(|l| *luo.borrow_mut() = Some(l)),
        &mut || {
            let luo = luo.borrow_mut().take().unwrap();
            assert!(luo.destroy(&outgoing).is_ok());
        },
    );
    let (addr, order) = tracker.alloc_preserved(1).unwrap();
    tracker.free_preserved(addr, order).unwrap();
    assert!(tracker.page_alloc().alloc(Order::ZERO).is_ok());
}

//! The bytes of every format, written out: a layout cannot change unnoticed.
//!
//! If a test here fails, either the change is a mistake, or the format has changed. Then its
//! version string must change as well, here and in the reader: a successor goes by that string, and
//! one that reads other bytes under the same string takes them for something else.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

use kho_abi::Name;
use kho_abi::block::{BlockHeader, MAX_BLOCKS, capacity, fits_a_block};
use kho_abi::boot::{self, KhoData, KhoScratch, SETUP_KEXEC_KHO, SetupData};
use kho_abi::chunk::{self, ChunkEntry, ChunkHeader, SketchChunkHeader, V1Bitmaps};
use kho_abi::fdt::{self, Generation};
use kho_abi::luo::{self, LuoFileSer, LuoFlbHeaderSer, LuoFlbSer, LuoSer, LuoSessionSer};
use kho_abi::memfd::{self, MemfdFolioSer, MemfdSer};
use kho_abi::metadata::{self, KexecMetadata};
use kho_abi::pci::functions::{self, FunctionSer, FunctionsSer};
use kho_abi::pcsc::{self, PcscData, PcscDataConventional};
use kho_abi::radix::{self, Key};
use kho_abi::vmalloc::{self, KhoVmalloc};
use kho_abi::{memblock, pci};
use kho_hal::{Order, PageSize, Pfn, Sbdf};
use zerocopy::IntoBytes;

const CHANGED: &str =
    "the layout has changed: so must its version string (see the top of this file)";

/// Version and bytes together are the golden text.
#[track_caller]
fn golden(version: &str, bytes: &[u8], expected: &str) {
    let hex = |word: &[u8]| word.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let words: Vec<_> = bytes.chunks(8).map(hex).collect();
    assert_eq!(
        format!("{version}: {}", words.join(" ")),
        expected,
        "{CHANGED}"
    );
}

fn name<const N: usize>(text: &str) -> Name<N> {
    Name::new(text).unwrap()
}

const ROOT: &str = Generation::V4.compatible();

#[test]
fn boot_data() {
    let node = SetupData {
        next: 0x1122_3344_5566_7788.into(),
        kind: SETUP_KEXEC_KHO.into(),
        len: 32.into(),
    };
    golden(
        "setup_data",
        node.as_bytes(),
        "setup_data: 8877665544332211 0a00000020000000",
    );
    let data = KhoData {
        fdt_addr: 1.into(),
        fdt_size: 2.into(),
        scratch_addr: 3.into(),
        scratch_size: 4.into(),
    };
    golden(
        "setup_data",
        data.as_bytes(),
        "setup_data: 0100000000000000 0200000000000000 0300000000000000 0400000000000000",
    );
    let area = KhoScratch {
        addr: 5.into(),
        size: 6.into(),
    };
    golden(
        "scratch",
        area.as_bytes(),
        "scratch: 0500000000000000 0600000000000000",
    );
    assert_eq!(
        (
            boot::BOOT_PARAMS_SETUP_DATA,
            boot::CHOSEN_KHO_FDT,
            boot::CHOSEN_KHO_SCRATCH
        ),
        (0x250, "linux,kho-fdt", "linux,kho-scratch"),
        "{CHANGED}"
    );
}

/// Names and strings of the description, and which generation has which.
#[test]
fn description() {
    assert_eq!(
        Generation::ALL.map(Generation::compatible),
        [
            "linux-kho,v1",
            "kho-v1",
            "kho-v1",
            "kho-v1",
            "kho-v2",
            "kho-v3",
            "kho-v4"
        ],
        "{CHANGED}"
    );
    assert_eq!(
        Generation::ALL.map(Generation::name),
        [
            "sketch",
            "series-v5",
            "v1-small",
            "v1-page",
            "v2",
            "v3",
            "v4"
        ]
    );
    assert_eq!(
        Generation::ALL.map(Generation::has_radix_tree),
        [false, false, false, false, true, true, true],
        "{CHANGED}"
    );
    assert_eq!(
        Generation::ALL.map(Generation::is_nested),
        [true, true, false, false, false, false, false],
        "{CHANGED}"
    );
    let names = [
        fdt::COMPATIBLE,
        fdt::PHYS_ADDR_SIZE,
        fdt::VOID_P_SIZE,
        fdt::PRESERVED_MEMORY_MAP,
        fdt::PRESERVED_DATA,
        fdt::BLOB_SIZE,
        fdt::FDT,
        fdt::PRESERVED_FOLIO_MAP,
        fdt::PRESERVED_MEMORY,
        fdt::METADATA,
        memblock::NODE,
        memblock::COMPATIBLE,
        memblock::REGION_COMPATIBLE,
        memblock::START,
        memblock::SIZE,
        luo::NODE,
        metadata::NODE,
        pcsc::NODE,
        pcsc::VERSION,
        pcsc::RULES,
        pcsc::DATA,
        pcsc::NODE_PREFIX,
    ];
    assert_eq!(
        names.join(" "),
        "compatible phys-addr-size void-p-size preserved-memory-map preserved-data blob-size fdt preserved-folio-map preserved-memory \
         metadata memblock memblock-v1 reserve-mem-v1 start size LUO kexec-metadata pcsc pcsc-v1 \
         pv da dev_",
        "{CHANGED}"
    );
    assert_eq!(fdt::MAX_NODE_NAME, 31, "{CHANGED}");
}

/// The same folios at each page size: the way through the tree to each, and its bit in the leaf.
#[test]
fn radix_tree() {
    let mut found = Vec::new();
    for page in PageSize::ALL {
        for (pfn, order) in [(0x1_2345, 0), (0x40_0000, 9)] {
            let addr = Pfn::new(pfn).addr(page).unwrap();
            let key = Key::encode(addr, Order::new(order).unwrap(), page).unwrap();
            let index = |level| radix::table_index(key, level, page);
            let path: Vec<_> = (1..radix::depth(page)).rev().map(index).collect();
            let bit = radix::leaf_bit(key, page);
            found.push(format!("{ROOT}, {}: {path:x?} {bit:x}", page.bytes()));
        }
    }
    assert_eq!(
        found,
        [
            "kho-v4, 4096: [2, 0, 0, 0, 2] 2345",
            "kho-v4, 4096: [0, 2, 0, 0, 0] 2000",
            "kho-v4, 16384: [1, 0, 0, 0] 12345",
            "kho-v4, 16384: [0, 4, 0, 0] 2000",
            "kho-v4, 65536: [8, 0, 0] 12345",
            "kho-v4, 65536: [0, 80, 0] 2000",
        ],
        "{CHANGED}"
    );
}

#[test]
fn chunks() {
    let (next, order, num_elms) = (1.into(), 2.into(), 3.into());
    let header = ChunkHeader {
        next,
        order,
        num_elms,
    };
    golden(
        "kho-v1",
        header.as_bytes(),
        "kho-v1: 0100000000000000 0200000003000000",
    );
    let header = SketchChunkHeader {
        order,
        num_elms,
        next,
    };
    golden(
        "linux-kho,v1",
        header.as_bytes(),
        "linux-kho,v1: 0200000003000000 0100000000000000",
    );
    let entry = ChunkEntry {
        phys_start: 4.into(),
        bitmap: 5.into(),
    };
    golden(
        "kho-v1",
        entry.as_bytes(),
        "kho-v1: 0400000000000000 0500000000000000",
    );
    let sizes = PageSize::ALL.map(|page| {
        let bitmaps = [V1Bitmaps::Small, V1Bitmaps::Page].map(|bitmaps| bitmaps.bytes(page));
        (chunk::chunk_capacity(page), bitmaps)
    });
    let expected = [
        (255, [512, 4096]),
        (1023, [512, 16384]),
        (4095, [512, 65536]),
    ];
    assert_eq!(sizes, expected, "{CHANGED}");
}

#[test]
fn lists_and_blocks() {
    let list = KhoVmalloc {
        first: 1.into(),
        total_pages: 2.into(),
        flags: vmalloc::FLAG_VM_ALLOW_HUGE.into(),
        order: 3.into(),
    };
    golden(
        ROOT,
        list.as_bytes(),
        "kho-v4: 0100000000000000 0200000002000300",
    );
    let flags = [vmalloc::FLAG_VM_ALLOC, vmalloc::FLAG_VM_ALLOW_HUGE];
    let header = (vmalloc::CHUNK_HEADER, flags);
    assert_eq!(header, (8, [1, 2]), "{CHANGED}");
    let header = BlockHeader {
        next: 1.into(),
        count: 2.into(),
    };
    golden(
        ROOT,
        header.as_bytes(),
        "kho-v4: 0100000000000000 0200000000000000",
    );
    assert_eq!(
        [0, 1, 4080, 4081].map(fits_a_block),
        [false, true, true, false],
        "{CHANGED}"
    );
    assert_eq!(MAX_BLOCKS, 10_000, "{CHANGED}");
    let counts = PageSize::ALL.map(|page| {
        let blocks = [80, 64, 8].map(|size| capacity(size, page));
        (vmalloc::chunk_capacity(page), blocks, luo::max_flbs(page))
    });
    let expected = [
        (511, [51, 63, 510], 63),
        (2047, [204, 255, 2046], 255),
        (8191, [819, 1023, 8190], 1023),
    ];
    assert_eq!(counts, expected, "{CHANGED}");
}

#[test]
fn live_update() {
    let ser = LuoSer {
        compatible: name(luo::COMPATIBLE),
        liveupdate_num: 1.into(),
        sessions_pa: 2.into(),
        flbs_pa: 3.into(),
    };
    golden(
        luo::COMPATIBLE,
        ser.as_bytes(),
        "luo-v5: 6c756f2d76350000 0100000000000000 0200000000000000 0300000000000000",
    );
    // Each starts with a name; its end and the numbers behind it.
    let session = LuoSessionSer {
        name: name("s"),
        files: 1.into(),
        count: 2.into(),
    };
    let file = LuoFileSer {
        compatible: name("f"),
        data: 1.into(),
        token: 2.into(),
    };
    let object = LuoFlbSer {
        name: name("o"),
        data: 1.into(),
        count: 2.into(),
    };
    for bytes in [
        &session.as_bytes()[56..],
        &file.as_bytes()[40..],
        &object.as_bytes()[40..],
    ] {
        golden(
            luo::COMPATIBLE,
            bytes,
            "luo-v5: 0000000000000000 0100000000000000 0200000000000000",
        );
    }
    let header = LuoFlbHeaderSer {
        pgcnt: 1.into(),
        count: 2.into(),
    };
    golden(
        luo::COMPATIBLE,
        header.as_bytes(),
        "luo-v5: 0100000000000000 0200000000000000",
    );
}

#[test]
fn memory_file() {
    let folios = KhoVmalloc {
        first: 6.into(),
        total_pages: 7.into(),
        flags: 8.into(),
        order: 9.into(),
    };
    let file = MemfdSer {
        pos: 1.into(),
        size: 2.into(),
        seals: 3.into(),
        flags: 4.into(),
        nr_folios: 5.into(),
        folios,
    };
    golden(
        memfd::COMPATIBLE,
        file.as_bytes(),
        "memfd-v2: 0100000000000000 0200000000000000 0300000004000000 0500000000000000 \
         0600000000000000 0700000008000900",
    );
    let folio = MemfdFolioSer::new(Pfn::new(0x12345), memfd::FOLIO_UPTODATE, 1).unwrap();
    golden(
        memfd::COMPATIBLE,
        folio.as_bytes(),
        "memfd-v2: 4523010000002000 0100000000000000",
    );
    assert_eq!(
        (memfd::FOLIO_DIRTY, memfd::FOLIO_UPTODATE, memfd::ALL_SEALS),
        (1, 2, 0x3f),
        "{CHANGED}"
    );
}

#[test]
fn kexec_metadata() {
    let metadata = KexecMetadata {
        version: metadata::VERSION.into(),
        previous_release: name("r"),
        kexec_count: 2.into(),
    };
    let bytes = metadata.as_bytes();
    let ends = [&bytes[..8], &bytes[bytes.len() - 8..]].concat();
    let version = format!("version {}, {} bytes", metadata::VERSION, bytes.len());
    golden(
        &version,
        &ends,
        "version 1, 73 bytes: 0100000072000000 0000000002000000",
    );
}

/// 0001:3a:1f.7 in both forms; in the second with three users.
#[test]
fn pci_functions() {
    let function = Sbdf::new(1, 0x3a, 0x1f, 7).unwrap();
    let (domain, bdf) = (function.segment().into(), function.bdf().into());
    let header = pci::v1::PciSer {
        max_nr_devices: 1.into(),
        nr_devices: 2.into(),
    };
    golden(
        pci::v1::NAME,
        header.as_bytes(),
        "pci-v1: 0100000000000000 0200000000000000",
    );
    let entry = pci::v1::PciDevSer {
        domain,
        bdf,
        reserved: 0.into(),
    };
    golden(pci::v1::NAME, entry.as_bytes(), "pci-v1: 01000000ff3a0000");
    let header = pci::v2::PciSer {
        version: pci::v2::VERSION.into(),
        nr_devices: 1.into(),
        devices: 2.into(),
    };
    golden(
        pci::v2::NAME,
        header.as_bytes(),
        "pci: 0200000001000000 0200000000000000",
    );
    let entry = pci::v2::PciDevSer {
        domain,
        bdf,
        refcount: 3.into(),
    };
    golden(pci::v2::NAME, entry.as_bytes(), "pci: 01000000ff3a0300");
    assert_eq!(pci::PREFIX, "pci", "{CHANGED}");
}

#[test]
fn facts_of_pci_functions() {
    let header = FunctionsSer {
        count: 1.into(),
        entries: 2.into(),
    };
    golden(
        functions::NAME,
        header.as_bytes(),
        "kho-functions-v1: 0100000000000000 0200000000000000",
    );
    let entry = FunctionSer {
        domain: 1.into(),
        bdf: 2.into(),
        kind: 3,
        flags: functions::SIZES_KNOWN,
        identity: 4.into(),
        class: 5.into(),
        bars: [6, 7, 8, 9, 10, 11],
        rom: 12,
        vf_bars: [13, 14, 15, 16, 17, 18],
        reserved: [19, 20, 21],
    };
    golden(
        functions::NAME,
        entry.as_bytes(),
        "kho-functions-v1: 0100000002000301 0400000005000000 060708090a0b0c0d 0e0f101112131415",
    );
}

/// Where values and both bitmaps begin and end, by what is in them.
#[test]
fn saved_spaces() {
    let (kinds, version) = ([1, 2, 3], pcsc::VERSION);
    let large = PcscData {
        cfg_space: [1; 4096],
        cachable_bitmask: [2; 512],
        cached_bitmask: [3; 512],
    };
    let small = PcscDataConventional {
        cfg_space: [1; 256],
        cachable_bitmask: [2; 32],
        cached_bitmask: [3; 32],
    };
    let ends = [large.as_bytes(), small.as_bytes()].map(|bytes| {
        let end = |kind| bytes.iter().rposition(|&byte| byte == kind).unwrap() + 1;
        (bytes.is_sorted(), kinds.map(end))
    });
    assert_eq!(
        format!("{version}, rules {}: {ends:?}", pcsc::RULES_VERSION),
        "pcsc-v1, rules 1: [(true, [4096, 4608, 5120]), (true, [256, 288, 320])]",
        "{CHANGED}"
    );
}

/// What people read in logs: all bytes of a name, and which limit was missed.
#[test]
fn names_as_text() {
    let text = name::<8>("vm\n0");
    assert_eq!(
        (text.to_string(), format!("{text:?}").contains("vm\\n0")),
        ("vm\\n0".to_owned(), true)
    );
    let error = Name::<8>::new("").unwrap_err();
    assert_eq!(error.to_string(), "a name has 1 to 7 bytes and no NUL");
    let odd = Key::encode(
        Pfn::new(1).addr(PageSize::Size4K).unwrap(),
        Order::new(1).unwrap(),
        PageSize::Size4K,
    );
    assert!(!odd.unwrap_err().to_string().is_empty());
}

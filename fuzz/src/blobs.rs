//! Single pieces of data: any bytes.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use kho::core::incoming::RootFdt;
use kho::core::outgoing::{Reserved, ScratchSizes};
use kho::core::{BootData, Token, Tokens};
use kho::hal::sim::pci::parse_dump;
use kho::hal::sim::{ElfImage, SimMemory};
use kho::hal::walk::Source;
use kho::hal::{Access, PhysAddr, Width};
use kho::pcsc::{Inference, Saved, Variant};

/// Boot data at the start of the bytes: boot parameters, a chain of nodes, a device tree.
pub fn boot(data: &[u8]) {
    // Not at address 0, which ends a chain.
    let base = PhysAddr::new(0x1000);
    let Ok(mut memory) = SimMemory::from_raw(base, data) else {
        return;
    };
    let frozen = memory.freeze();
    let _ = BootData::from_boot_params(&frozen, base);
    let _ = BootData::from_setup_data(&frozen, base);
    let _ = BootData::from_device_tree(&frozen, base);
}

/// A flattened device tree: what the strict reader accepts, the tokens say as well.
pub fn tokens(data: &[u8]) {
    let _ = RootFdt::parse(data, PhysAddr::new(0x1000));
    let found = Tokens::new(data).map(|tokens| tokens.map(|token| format!("{token:?}")));
    let found: Option<Vec<_>> = found.map(Iterator::collect);
    let Ok(tree) = Fdt::new(data) else { return };
    let mut expected = Vec::new();
    describe(tree.root(), &mut expected);
    expected.push(format!("{:?}", Token::End));
    // The strict reader takes older versions, and goes beyond the size of the structure block.
    if let Some(found) = found.filter(|found| found.last() == expected.last()) {
        assert_eq!(found, expected);
    }
}

fn describe(node: FdtNode<'_>, tokens: &mut Vec<String>) {
    let mut push = |token: Token<'_>| tokens.push(format!("{token:?}"));
    push(Token::BeginNode(node.name().as_bytes()));
    for property in node.properties() {
        push(Token::Property(
            property.name().as_bytes(),
            property.value(),
        ));
    }
    for child in node.children() {
        describe(child, tokens);
    }
    tokens.push(format!("{:?}", Token::EndNode));
}

/// A description of saved configuration spaces.
pub fn pcsc(data: &[u8]) {
    for variant in [Variant::Extended, Variant::Conventional] {
        if let Ok(saved) = Saved::read(data, variant, |addr| addr.as_u64() % 3 != 0) {
            assert!(saved.len() <= data.len());
            assert_eq!(saved.is_empty(), saved.len() == 0);
        }
    }
}

/// A dump of configuration spaces, as text; and the bytes themselves as one.
pub fn config_space(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        for function in parse_dump(text).unwrap_or_default() {
            infer(&function.bytes);
        }
    }
    infer(data);
}

fn infer(bytes: &[u8]) {
    let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0xff));
    let mut source = |at: Access| {
        let offset = usize::from(at.offset());
        let count = match at.width() {
            Width::U8 => 1,
            Width::U16 => 2,
            Width::U32 => 4,
        };
        Some((0..count).map(|i| byte(offset + i) << (8 * i)).sum())
    };
    let Some(inference) = Inference::new(&mut source) else {
        return;
    };
    let mut last = 0;
    for region in inference.regions() {
        assert!(region.start >= last && region.end >= region.start && region.end <= 4096);
        last = region.end;
    }
    // Command, status, built-in self-test.
    for never in (4..8).chain([0x0f]) {
        assert!(!inference.cacheable.contains(never));
    }
    for (word, constant) in inference
        .cacheable
        .words()
        .iter()
        .zip(inference.constant.words())
    {
        assert_eq!(word & constant, *constant);
    }
    let _ = source.u32(0);
}

/// The text of `kho_scratch=`.
pub fn scratch_sizes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(sizes) = text.parse::<ScratchSizes>() else {
        return;
    };
    let reserved = Reserved {
        low: u64::MAX,
        total: u64::MAX,
        nodes: &[0, u64::MAX],
    };
    for size in sizes.areas(reserved, 4 << 20) {
        assert_eq!(size % (4 << 20), 0);
    }
    if let ScratchSizes::Scale { percent } = sizes {
        assert_eq!(text.trim_end_matches('%').parse(), Ok(percent));
    }
}

/// A core file.
pub fn elf(data: &[u8]) {
    let Ok(image) = ElfImage::parse(data) else {
        return;
    };
    let bytes: u64 = image.memory.ranges().map(|range| range.size()).sum();
    assert!(
        bytes <= data.len() as u64,
        "no more memory than the file has bytes"
    );
}

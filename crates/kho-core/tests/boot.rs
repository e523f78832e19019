//! The boot data, there and back.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

use common::{addr, range};
use kho_core::incoming::{Fault, IncomingError, Part};
use kho_core::{BootData, BootPlace, SETUP_DATA_LEN};
use kho_hal::sim::SimMemory;
use kho_hal::{PhysAddr, PhysMem};
use vm_fdt::FdtWriter;

const BOOT: BootData = BootData {
    fdt_addr: PhysAddr::new(0x1_2345_6000),
    fdt_size: 4096,
    scratch_addr: PhysAddr::new(0x7_0000_1000),
    scratch_size: 48,
};

const OTHER: BootData = BootData {
    fdt_addr: PhysAddr::new(0x8000),
    fdt_size: 16384,
    scratch_addr: PhysAddr::new(0x9000),
    scratch_size: 16,
};

fn fault<T: std::fmt::Debug>(result: Result<T, IncomingError>) -> Fault {
    let error = result.unwrap_err();
    assert_eq!(error.part, Part::Boot);
    error.fault
}

#[test]
fn says_where_the_handover_is() {
    assert_eq!(
        BOOT.to_string(),
        "4096 bytes at 0x123456000, scratch: 48 bytes at 0x700001000"
    );
}

/// A chain of other nodes, with the handover in the middle, as Linux links them.
#[test]
fn setup_data() {
    let mut memory = SimMemory::new([range(0x1000, 0x2000)]).unwrap();
    let node = BOOT.to_setup_data(addr(0x2100));
    assert_eq!(node[8..16], [10, 0, 0, 0, 32, 0, 0, 0]);
    memory
        .write(addr(0x1250), &0x2000u64.to_le_bytes())
        .unwrap();
    // A node of type 9, then the handover, then one of type 1.
    memory
        .write(addr(0x2000), &0x2040u64.to_le_bytes())
        .unwrap();
    memory
        .write(addr(0x2008), &[9, 0, 0, 0, 4, 0, 0, 0])
        .unwrap();
    memory.write(addr(0x2040), &node).unwrap();
    memory
        .write(addr(0x2108), &[1, 0, 0, 0, 4, 0, 0, 0])
        .unwrap();
    let place = BootPlace::SetupData(addr(0x2040));
    let read = |memory: &mut SimMemory| BootData::from_boot_params(&memory.freeze(), addr(0x1000));
    assert_eq!(read(&mut memory), Ok((BOOT, place)));
    OTHER.replace(&memory, place).unwrap();
    assert_eq!(read(&mut memory), Ok((OTHER, place)));

    // What follows may be missing, as in an image; what comes before may not.
    memory
        .write(addr(0x2040), &0x9000u64.to_le_bytes())
        .unwrap();
    assert_eq!(read(&mut memory), Ok((OTHER, place)));
    memory
        .write(addr(0x2000), &0x9000u64.to_le_bytes())
        .unwrap();
    assert!(matches!(fault(read(&mut memory)), Fault::Memory(_)));
    memory
        .write(addr(0x2000), &0x2040u64.to_le_bytes())
        .unwrap();

    memory
        .write(addr(0x2040), &0x2080u64.to_le_bytes())
        .unwrap();
    memory
        .write(addr(0x2080), &BOOT.to_setup_data(addr(0)))
        .unwrap();
    assert_eq!(
        fault(read(&mut memory)),
        Fault::Duplicate { at: addr(0x2080) }
    );
    memory
        .write(addr(0x2080), &0x2000u64.to_le_bytes())
        .unwrap();
    memory.write(addr(0x2088), &[2]).unwrap();
    assert_eq!(
        fault(read(&mut memory)),
        Fault::Duplicate { at: addr(0x2040) },
        "a cycle"
    );
    memory.write(addr(0x2048), &[2]).unwrap();
    let many = Fault::Count {
        at: addr(0x2000),
        found: 65,
        max: 64,
    };
    assert_eq!(fault(read(&mut memory)), many, "a cycle without one");
    memory.write(addr(0x1250), &[0; 8]).unwrap();
    assert_eq!(fault(read(&mut memory)), Fault::NoHandover);
    memory
        .write(addr(0x1250), &0x2040u64.to_le_bytes())
        .unwrap();
    memory.write(addr(0x2048), &[10, 0, 0, 0, 31]).unwrap();
    assert!(matches!(
        fault(read(&mut memory)),
        Fault::Mismatch {
            found: 31,
            expected: 32,
            ..
        }
    ));
    assert_eq!(SETUP_DATA_LEN, 48);
}

/// A device tree with `/chosen` as the arm64 loader makes it, and firmware's long names.
fn device_tree(chosen: &[(&str, Vec<u8>)], cells: (u32, u32)) -> SimMemory {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", cells.0).unwrap();
    fdt.property_u32("#size-cells", cells.1).unwrap();
    let usb = fdt.begin_node("usb").unwrap();
    fdt.property_null("snps,dis-tx-ipgap-linecheck-qui")
        .unwrap();
    let nested = fdt.begin_node("chosen").unwrap();
    fdt.property_string("not-this", "one").unwrap();
    fdt.end_node(nested).unwrap();
    fdt.end_node(usb).unwrap();
    let node = fdt.begin_node("chosen").unwrap();
    fdt.property_string("bootargs", "console=ttyAMA0").unwrap();
    for (name, value) in chosen {
        fdt.property(name, value).unwrap();
    }
    fdt.end_node(node).unwrap();
    fdt.end_node(root).unwrap();
    let mut bytes = fdt.finish().unwrap();
    // The writer does not take more than 31 bytes; firmware has them. The string is the last but
    // two, so it is made longer in place of the next one.
    let at = bytes
        .windows(8)
        .position(|window| window == b"not-this")
        .unwrap();
    bytes[at - 1] = b'r';
    let memory = SimMemory::new([range(0x4000_0000, bytes.len() as u64)]).unwrap();
    memory.write(addr(0x4000_0000), &bytes).unwrap();
    memory
}

#[test]
fn chosen() {
    let properties: Vec<_> = BOOT
        .to_chosen()
        .into_iter()
        .map(|(name, value)| (name, value.to_vec()))
        .collect();
    let read =
        |memory: &mut SimMemory| BootData::from_device_tree(&memory.freeze(), addr(0x4000_0000));
    let mut memory = device_tree(&properties, (2, 2));
    let (found, place) = read(&mut memory).unwrap();
    assert_eq!(found, BOOT);
    OTHER.replace(&memory, place).unwrap();
    assert_eq!(read(&mut memory), Ok((OTHER, place)));

    let both = |fdt: &[u8], scratch: &[u8]| {
        vec![
            ("linux,kho-fdt", fdt.to_vec()),
            ("linux,kho-scratch", scratch.to_vec()),
        ]
    };
    let mut small = device_tree(
        &both(
            &[0, 0, 0x80, 0, 0, 0, 0x40, 0],
            &[0, 0, 0x90, 0, 0, 0, 0, 16],
        ),
        (1, 1),
    );
    let (found, place) = read(&mut small).unwrap();
    assert_eq!(found, OTHER);
    let below_4_gib = BootData {
        fdt_addr: addr(0xffff_f000),
        ..OTHER
    };
    below_4_gib.replace(&small, place).unwrap();
    assert_eq!(read(&mut small), Ok((below_4_gib, place)));
    assert!(
        BOOT.replace(&small, place).is_err(),
        "an address above 4 GiB in one cell"
    );

    assert_eq!(
        fault(read(&mut device_tree(&[], (2, 2)))),
        Fault::NoHandover
    );
    let property = |result| match fault(result) {
        Fault::Property { name, .. } => name,
        fault => panic!("{fault}"),
    };
    let one = &properties[..1];
    assert_eq!(
        property(read(&mut device_tree(one, (2, 2)))),
        "linux,kho-scratch"
    );
    let long = both(&[0; 17], &[0; 16]);
    assert_eq!(
        property(read(&mut device_tree(&long, (2, 2)))),
        "linux,kho-fdt"
    );
    assert_eq!(
        property(read(&mut device_tree(&properties, (2, 1)))),
        "linux,kho-fdt"
    );
    assert_eq!(
        property(read(&mut device_tree(&properties, (3, 2)))),
        "#address-cells"
    );
}

#[test]
fn broken_device_trees() {
    let properties: Vec<_> = BOOT
        .to_chosen()
        .into_iter()
        .map(|(name, value)| (name, value.to_vec()))
        .collect();
    let whole = device_tree(&properties, (2, 2));
    let len = whole.ranges().next().unwrap().size() as usize;
    let mut bytes = vec![0; len];
    whole.read(addr(0x4000_0000), &mut bytes).unwrap();
    // Whatever byte is changed, and however: an answer or an error, never a panic.
    for at in 0..len {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            let mut memory = SimMemory::from_raw(addr(0x4000_0000), &bytes).unwrap();
            let _ = BootData::from_device_tree(&memory.freeze(), addr(0x4000_0000));
        }
        let mut memory = SimMemory::from_raw(addr(0x4000_0000), &bytes[..at]).unwrap();
        assert!(BootData::from_device_tree(&memory.freeze(), addr(0x4000_0000)).is_err());
    }
}

/// What people are told of a tree in which something is missing: where.
#[test]
fn where_a_device_tree_is_broken() {
    let memory = device_tree(&[], (2, 2));
    let len = memory.ranges().next().unwrap().size() as usize;
    let mut bytes = vec![0; len];
    memory.read(addr(0x4000_0000), &mut bytes).unwrap();
    // The structure block ends with the ends of `/chosen`, the root, and the tree.
    let ends = [0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 9];
    let at = bytes.windows(12).rposition(|window| window == ends);
    let last = at.unwrap() + 4;
    assert!(last + 8 < len, "the names follow");
    bytes[last + 3] = 4;
    let mut memory = SimMemory::from_raw(addr(0x4000_0000), &bytes).unwrap();
    let error = BootData::from_device_tree(&memory.freeze(), addr(0x4000_0000));
    let told = fault(error).to_string();
    let wrong = format!("malformed structure at offset {last}");
    assert!(told.ends_with(&wrong), "{told}: {wrong}");
}

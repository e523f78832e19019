use super::*;
use crate::sim::pci::SriovShape;

fn at(bus: u8, device: u8) -> Sbdf {
    Sbdf::new(0, bus, device, 0).unwrap()
}

#[test]
fn bars_answer_a_size_probe_and_commands_leave_errors_alone() {
    let bus = SimBus::new();
    let nic = at(0, 3);
    bus.add(nic, SimFunction::endpoint(0x8086, 0x10c9).with_bar64(0, 20));
    bus.write_u32(nic, 0x10, u32::MAX).unwrap();
    bus.write_u32(nic, 0x14, u32::MAX).unwrap();
    assert_eq!(bus.read_u32(nic, 0x10).unwrap(), 0xfff0_000c);
    assert_eq!(bus.read_u32(nic, 0x14).unwrap(), u32::MAX);
    bus.poke(nic, Access::new(6, crate::Width::U16).unwrap(), 0x8000);
    bus.write_u16(nic, 4, 0x0406).unwrap();
    assert_eq!(bus.read_u32(nic, 4).unwrap(), 0x8000_0406);
    bus.write_u32(nic, 4, 0x8000_0000).unwrap();
    assert_eq!(bus.read_u32(nic, 4).unwrap(), 0);
    assert_eq!((bus.reads(), bus.writes()), (4, 4));
}

#[test]
fn a_function_level_reset_clears_and_reads_as_zero() {
    let bus = SimBus::new();
    let nic = at(0, 3);
    let function = SimFunction::endpoint(1, 2)
        .with_bar32(0, 12)
        .with_express(0);
    bus.add(nic, function.slow_reset(2));
    bus.write_u32(nic, 0x10, 0xfe00_0000).unwrap();
    bus.write_u16(nic, 0x48, 0x8000).unwrap();
    assert_eq!(bus.read_u32(nic, 0).unwrap(), u32::MAX);
    assert_eq!(bus.read_u32(nic, 0).unwrap(), u32::MAX);
    assert_eq!(bus.read_u32(nic, 0).unwrap(), 0x0002_0001);
    assert_eq!(bus.read_u32(nic, 0x10).unwrap(), 0);
    assert_eq!(bus.read_u16(nic, 0x48).unwrap() & 0x8000, 0);
}

#[test]
fn vpd_turns_its_flag_when_done() {
    let bus = SimBus::new();
    let nic = at(0, 3);
    bus.add(nic, SimFunction::endpoint(1, 2).with_vpd());
    bus.write_u16(nic, 0x42, 0x0004).unwrap();
    assert_eq!(bus.read_u16(nic, 0x42).unwrap(), 0x0004);
    assert_eq!(bus.read_u16(nic, 0x42).unwrap(), 0x8004);
}

#[test]
fn a_bridge_routes_holds_and_resets() {
    let bus = SimBus::new();
    let (bridge, below) = (at(0, 1), at(2, 0));
    bus.add(bridge, SimFunction::bridge(1, 2, 2, 3).with_express(4));
    bus.add_behind(bridge, below, SimFunction::endpoint(3, 4));
    bus.write_u8(below, 0x3c, 5).unwrap();
    bus.write_u16(bridge, 0x3e, 0x40).unwrap();
    assert_eq!(bus.read_u32(below, 0).unwrap(), u32::MAX);
    bus.write_u16(bridge, 0x3e, 0).unwrap();
    assert_eq!(bus.read_u8(below, 0x3c).unwrap(), 0xff);
    bus.write_u8(bridge, 0x19, 4).unwrap();
    assert_eq!(bus.read_u32(below, 0).unwrap(), u32::MAX);
}

#[test]
fn virtual_functions_appear_where_offset_and_stride_say() {
    let bus = SimBus::new();
    let pf = at(1, 0);
    let shape = SriovShape {
        total: 4,
        offset: [0x80, 1],
        stride: [2, 1],
        device: 0x10ca,
        template: SimFunction::virtual_function().with_express(0),
    };
    bus.add(pf, SimFunction::endpoint(1, 2).with_sriov(shape));
    bus.write_u16(pf, 0x110, 3).unwrap();
    assert_eq!(bus.read_u32(pf, 0x114).unwrap(), 0x0002_0080);
    bus.write_u16(pf, 0x108, 0x11).unwrap();
    assert_eq!(bus.read_u32(pf, 0x114).unwrap(), 0x0001_0001);
    let vf = Sbdf::from_bdf(0, 0x0103);
    assert_eq!(
        bus.functions(),
        [pf, Sbdf::from_bdf(0, 0x0101), Sbdf::from_bdf(0, 0x0102), vf]
    );
    assert_eq!(bus.read_u32(vf, 0).unwrap(), u32::MAX);
    assert_eq!(bus.read_u32(vf, 8).unwrap(), 0x0200_0001);
    bus.write_u16(pf, 0x108, 0).unwrap();
    assert_eq!(bus.functions(), [pf]);
}

#[test]
fn a_resized_bar_needs_a_new_address() {
    let bus = SimBus::new();
    let gpu = at(0, 3);
    let function = SimFunction::endpoint(1, 2).with_bar64(0, 20);
    bus.add(gpu, function.with_resizable_bar(0, true, 0xff));
    bus.write_u32(gpu, 0x10, 0xfff0_0000).unwrap();
    bus.write_u32(gpu, 0x108, 0x0400).unwrap();
    assert_eq!(bus.read_u32(gpu, 0x10).unwrap(), 0xff00_000c);
}

#[test]
fn accesses_are_recorded_and_can_fail() {
    let bus = SimBus::new();
    bus.record(true);
    bus.fail_next(1);
    assert!(bus.read_u8(at(0, 0), 1).is_err());
    assert_eq!(bus.read_u8(at(0, 0), 1).unwrap(), 0xff);
    let records = bus.take_records();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].value, records[0].write), (0xff, false));
}

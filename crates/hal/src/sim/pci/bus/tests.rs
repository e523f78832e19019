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
    for (count, offset_and_stride) in [(1, 0x80), (2, 0x0002_0080), (3, 0x0002_0080)] {
        bus.write_u16(pf, 0x110, count).unwrap();
        assert_eq!(bus.read_u32(pf, 0x114).unwrap(), offset_and_stride);
    }
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

fn one(function: SimFunction) -> (SimBus, Sbdf) {
    let bus = SimBus::new();
    bus.add(at(1, 0), function);
    (bus, at(1, 0))
}

fn access(offset: u16, width: crate::Width) -> Access {
    Access::new(offset, width).unwrap()
}

/// Whatever the width of the write, the bit alone counts. Device Control is at 48h here, the
/// control of Advanced Features at 80h.
#[test]
fn a_function_level_reset_needs_its_bit() {
    use crate::Width::{U8, U16, U32};
    let function = SimFunction::endpoint(1, 2).with_express(0).with_af();
    for (offset, width, value, resets) in [
        (0x48, U32, 0x8000, true),
        (0x48, U16, 0x8000, true),
        (0x49, U8, 0x80, true),
        (0x48, U32, 0xffff_7fff, false),
        (0x49, U8, 0x7f, false),
        (0x48, U8, 0x8080, false),
        (0x4a, U16, 0xffff, false),
        (0x4c, U32, u32::MAX, false),
        (0x44, U32, u32::MAX, false),
        (0x80, U8, 1, true),
        (0x80, U32, 1, true),
        (0x80, U16, 0xfffe, false),
        (0x81, U8, 1, false),
        (0x82, U16, 0xffff, false),
        (0x7c, U32, u32::MAX, false),
        (0x84, U32, u32::MAX, false),
        (0x04, U32, u32::MAX, false),
    ] {
        let (bus, here) = one(function.clone());
        bus.write_u8(here, 0x3c, 7).unwrap();
        bus.write(here, access(offset, width), value).unwrap();
        let was_reset = bus.read_u8(here, 0x3c).unwrap() == 0xff;
        assert_eq!(was_reset, resets, "{offset:#x} {width:?} {value:#x}");
    }
}

#[test]
fn a_busy_function_takes_no_writes_and_shows_nothing() {
    let (bus, here) = one(SimFunction::endpoint(1, 2).with_express(0).slow_reset(2));
    bus.write_u16(here, 0x48, 0x8000).unwrap();
    bus.write_u8(here, 0x3c, 7).unwrap();
    assert_eq!(bus.peek(here, access(0x00, crate::Width::U16)), 0xffff);
    assert_eq!(bus.read_u16(here, 0).unwrap(), 0xffff);
    bus.write_u8(here, 0x3c, 7).unwrap();
    assert_eq!(bus.read_u16(here, 0).unwrap(), 0xffff);
    assert_eq!(bus.read_u8(here, 0x3c).unwrap(), 0xff);
    bus.write_u8(here, 0x3c, 7).unwrap();
    assert_eq!(bus.peek(here, access(0x3c, crate::Width::U8)), 7);
}

/// PCI Bus Power Management Interface 1.2, 5.4.1: D3hot to D0 is a soft reset, unless No_Soft_Reset.
#[test]
fn leaving_d3hot_resets_what_does_not_say_otherwise() {
    for (states, no_soft_reset, resets) in [
        (&[3, 0][..], false, true),
        (&[3, 0], true, false),
        (&[1, 0], false, false),
        (&[2, 0], false, false),
        (&[3, 1], false, false),
        (&[3, 3], false, false),
        (&[0, 0], false, false),
    ] {
        let (bus, here) = one(SimFunction::endpoint(1, 2).with_pm(no_soft_reset));
        bus.write_u8(here, 0x3c, 7).unwrap();
        for &state in states {
            bus.write_u16(here, 0x44, state).unwrap();
        }
        let was_reset = bus.read_u8(here, 0x3c).unwrap() == 0xff;
        assert_eq!(was_reset, resets, "{states:?}, {no_soft_reset}");
    }
}

/// What takes the link down, and what else is in the same register.
#[test]
fn a_port_that_is_closed_resets_what_is_below() {
    // Power management is at 40h, PCI Express at 48h, containment at 100h.
    let port = SimFunction::bridge(1, 2, 2, 2)
        .with_pm(true)
        .with_express(4);
    let port = port.with_dpc(true);
    let below = SimFunction::endpoint(3, 4);
    for (offset, closes, harmless, reset) in [
        (0x3e, 0x40, 0xffbf, true),
        (0x58, 0x10, 0xffef, true),
        (0x60, 0x400, 0xfbff, true),
        // Software trigger, with and without either trigger enabled.
        (0x106, 0x41, 0xffbf, true),
        (0x106, 0x42, 0x0040, true),
        (0x44, 3, 0xfffe, false),
        (0x44, 3, 0xfffd, false),
    ] {
        let bus = SimBus::new();
        let (bridge, child) = (at(0, 1), at(2, 0));
        bus.add(bridge, port.clone());
        bus.add_behind(bridge, child, below.clone());
        bus.write_u8(child, 0x3c, 7).unwrap();
        bus.write_u16(bridge, offset, harmless).unwrap();
        assert_eq!(
            bus.read_u8(child, 0x3c).unwrap(),
            7,
            "{offset:#x} {harmless:#x}"
        );
        bus.write_u16(bridge, offset, closes).unwrap();
        assert_eq!(
            bus.read_u32(child, 0).unwrap(),
            u32::MAX,
            "{offset:#x} {closes:#x}"
        );
        bus.write_u8(child, 0x3c, 8).unwrap();
        bus.write_u16(bridge, offset, 0).unwrap();
        if offset == 0x106 {
            assert_eq!(
                bus.read_u32(child, 0).unwrap(),
                u32::MAX,
                "until it is cleared"
            );
            bus.write_u16(bridge, 0x108, 1).unwrap();
        }
        let line = bus.read_u8(child, 0x3c).unwrap();
        assert_eq!(line, if reset { 0xff } else { 7 }, "{offset:#x}");
    }
}

#[test]
fn containment_is_triggered_by_its_own_byte_alone() {
    let (bus, here) = one(SimFunction::bridge(1, 2, 2, 2).with_dpc(false));
    let status = || bus.peek(here, access(0x108, crate::Width::U16));
    bus.write_u8(here, 0x106, 0x02).unwrap();
    for (offset, value) in [(0x107, 0x40), (0x105, 0x40), (0x104, 0x40), (0x108, 0x40)] {
        bus.write_u8(here, offset, value).unwrap();
        assert_eq!(status(), 0x1f00, "{offset:#x}");
    }
    for _ in 0..2 {
        bus.write_u8(here, 0x106, 0x42).unwrap();
        assert_eq!(status(), 0x1f01);
    }
}

#[test]
fn a_reset_goes_down_through_all_bridges() {
    let bus = SimBus::new();
    let (port, switch, leaf, beside) = (at(0, 1), at(1, 0), at(2, 0), at(0, 2));
    bus.add(port, SimFunction::bridge(1, 2, 1, 2));
    bus.add_behind(port, switch, SimFunction::bridge(1, 2, 2, 2));
    bus.add_behind(switch, leaf, SimFunction::endpoint(3, 4));
    bus.add(beside, SimFunction::endpoint(3, 4));
    for function in [port, leaf, beside] {
        bus.write_u8(function, 0x3c, 7).unwrap();
    }
    bus.write_u16(port, 0x3e, 0x40).unwrap();
    bus.write_u16(port, 0x3e, 0).unwrap();
    let lines = [port, leaf, beside].map(|at| bus.read_u8(at, 0x3c).unwrap());
    assert_eq!(lines, [7, 0xff, 7]);
    bus.set_present(switch, false);
    assert_eq!(bus.read_u16(leaf, 0).unwrap(), 0xffff);
    bus.set_present(switch, true);
    assert_eq!(bus.read_u16(leaf, 0).unwrap(), 3);
    bus.write_u16(switch, 0x18, 0x0302).unwrap();
    assert_eq!(bus.read_u16(leaf, 0).unwrap(), 0xffff, "which is now bus 3");
    // Bridges behind each other lead nowhere.
    bus.add_behind(switch, port, SimFunction::bridge(1, 2, 0, 255));
    assert_eq!(bus.read_u16(port, 0).unwrap(), 0xffff);
}

#[test]
fn a_reset_goes_as_deep_as_there_are_buses() {
    let bus = SimBus::new();
    bus.add(at(0, 0), SimFunction::bridge(1, 2, 1, 255));
    for n in 1..255 {
        bus.add_behind(
            at(n - 1, 0),
            at(n, 0),
            SimFunction::bridge(1, 2, n + 1, 255),
        );
    }
    let leaf = at(255, 0);
    bus.add_behind(at(254, 0), leaf, SimFunction::endpoint(3, 4));
    bus.write_u8(leaf, 0x3c, 7).unwrap();
    assert_eq!(bus.read_u8(leaf, 0x3c), Ok(7));
    bus.write_u16(at(0, 0), 0x3e, 0x40).unwrap();
    bus.write_u16(at(0, 0), 0x3e, 0).unwrap();
    // Bridges that were reset forward what they did at first.
    assert_eq!(bus.read_u16(leaf, 0x3c), Ok(0x01ff));
}

/// PCI Express Base, 6.13: without ARI Forwarding a port takes device numbers other than 0 for
/// absent.
#[test]
fn without_ari_forwarding_only_device_0_is_reached() {
    let bus = SimBus::new();
    let (port, first, second) = (at(0, 1), at(2, 0), at(2, 1));
    let bridge = SimFunction::bridge(1, 2, 2, 2).with_express(4);
    bus.add(port, bridge.with_ari_forwarding());
    for function in [first, second] {
        bus.add_behind(port, function, SimFunction::endpoint(3, 4));
    }
    let seen = || [first, second].map(|at| bus.read_u16(at, 0).unwrap() == 3);
    assert_eq!(seen(), [true, false]);
    bus.write_u16(port, 0x68, 0x20).unwrap();
    assert_eq!(seen(), [true, true]);
    bus.write_u16(port, 0x68, !0x20).unwrap();
    assert_eq!(seen(), [true, false]);
}

#[test]
fn a_backdoor_sets_its_target_and_nothing_else_does() {
    let (bus, here) = one(SimFunction::endpoint(1, 2).with_backdoor(0xe0, 0x2c));
    for offset in [0x2c, 0xdc, 0xe4] {
        bus.write_u32(here, offset, u32::MAX).unwrap();
        assert_eq!(
            bus.read_u32(here, 0x2c).unwrap(),
            0x0001_1af4,
            "{offset:#x}"
        );
    }
    bus.write_u8(here, 0xe3, 0x12).unwrap();
    assert_eq!(bus.read_u32(here, 0x2c).unwrap(), 0x1201_1af4);
    bus.reset(here, ResetKind::Function);
    assert_eq!(bus.read_u32(here, 0x2c).unwrap(), 0x1201_1af4);
    bus.reset(here, ResetKind::Cold);
    assert_eq!(bus.read_u32(here, 0x2c).unwrap(), 0x0001_1af4);
}

/// PCI Local Bus 3.0, 6.2.4 (BIST) and appendix I (VPD): each ends some reads later.
#[test]
fn operations_end_after_two_reads_and_start_again_when_asked_again() {
    let (bus, here) = one(SimFunction::endpoint(1, 2).with_bist().with_vpd());
    bus.write_u32(here, 0x0c, 0xbf00_0000).unwrap();
    bus.write_u8(here, 0x0e, 0x40).unwrap();
    assert_eq!([0; 3].map(|_| bus.read_u8(here, 0x0f).unwrap()), [0x80; 3]);
    bus.write_u8(here, 0x0f, 0x40).unwrap();
    assert_eq!(
        [0; 3].map(|_| bus.read_u8(here, 0x0f).unwrap()),
        [0xc0, 0x81, 0x81]
    );
    assert_eq!(bus.read_u8(here, 0x0e).unwrap(), 0);
    // A read of data, then a write: the flag turns each time.
    bus.write_u32(here, 0x44, 5).unwrap();
    bus.write_u16(here, 0x40, 0xffff).unwrap();
    assert_eq!(
        bus.read_u32(here, 0x44).unwrap(),
        5,
        "neither data nor the header starts it"
    );
    bus.write_u16(here, 0x42, 0x0010).unwrap();
    assert_eq!(bus.read_u32(here, 0x44).unwrap(), 0x5044_5600);
    assert_eq!(bus.read_u16(here, 0x42).unwrap(), 0x8010);
    bus.write_u16(here, 0x42, 0x8014).unwrap();
    assert_eq!(bus.read_u16(here, 0x42).unwrap(), 0x8014);
    bus.write_u16(here, 0x42, 0x8018).unwrap();
    assert_eq!(
        [0; 2].map(|_| bus.read_u16(here, 0x42).unwrap()),
        [0x8018, 0x0018]
    );
    assert_eq!(bus.read_u32(here, 0x44).unwrap(), 0x5044_5601);
    // What has ended changes nothing any more, and what the device did before stays done.
    let code = access(0x0f, crate::Width::U8);
    bus.poke(here, code, 0x85);
    assert_eq!([0; 2].map(|_| bus.read(here, code).unwrap()), [0x85; 2]);
    bus.write_u16(here, 0x42, 0x0020).unwrap();
    bus.poke(here, access(0x42, crate::Width::U16), 0x8020);
    assert_eq!(
        [0; 2].map(|_| bus.read_u16(here, 0x42).unwrap()),
        [0x8020; 2]
    );
    // A reset ends them for good.
    bus.write_u8(here, 0x0f, 0x40).unwrap();
    bus.reset(here, ResetKind::Function);
    assert_eq!([0; 3].map(|_| bus.read_u8(here, 0x0f).unwrap()), [0x80; 3]);
}

#[test]
fn virtual_functions_go_with_their_physical_one() {
    let bus = SimBus::new();
    let (port, pf) = (at(0, 1), at(1, 0));
    let shape = SriovShape {
        total: 2,
        offset: [1, 1],
        stride: [1, 1],
        device: 3,
        template: SimFunction::virtual_function(),
    };
    // Power management is at 40h, PCI Express at 48h, SR-IOV at 100h.
    let function = SimFunction::endpoint(1, 2).with_pm(false).with_express(0);
    bus.add(port, SimFunction::bridge(1, 2, 1, 1));
    bus.add_behind(port, pf, function.with_sriov(shape));
    let vf = Sbdf::from_bdf(0, 0x0101);
    let enable = || {
        bus.write_u16(pf, 0x110, 9).unwrap();
        bus.write_u16(pf, 0x108, 1).unwrap();
        assert_eq!(bus.functions().len(), 2 + 2, "no more than there are");
        assert_eq!(bus.read_u16(vf, 4).unwrap(), 0);
    };
    enable();
    bus.write_u16(vf, 4, 4).unwrap();
    bus.write_u16(pf, 0x108, 9).unwrap();
    assert_eq!(bus.read_u16(vf, 4).unwrap(), 4, "still the same");
    bus.set_present(pf, false);
    assert_eq!(bus.read_u32(vf, 8).unwrap(), u32::MAX);
    bus.set_present(pf, true);
    bus.write_u16(port, 0x3e, 0x40).unwrap();
    bus.write_u16(port, 0x3e, 0).unwrap();
    assert_eq!(bus.functions(), [port, pf]);
    enable();
    bus.write_u16(pf, 0x50, 0x8000).unwrap();
    assert_eq!(bus.functions(), [port, pf]);
    assert_eq!(bus.read_u32(pf, 0x114).unwrap(), 1, "stride is zero again");
    enable();
    bus.write_u16(pf, 0x44, 3).unwrap();
    bus.write_u16(pf, 0x44, 0).unwrap();
    assert_eq!(bus.functions(), [port, pf]);
    enable();
    bus.reset(pf, ResetKind::Function);
    assert_eq!(bus.functions(), [port, pf]);
}

/// PCI Express Base, 9.3.3.13 and 9.3.3.14: a virtual function's BAR covers a system page at least.
#[test]
fn the_bar_of_virtual_functions_follows_the_page_size() {
    let shape = SriovShape {
        total: 2,
        offset: [1, 1],
        stride: [1, 1],
        device: 3,
        template: SimFunction::virtual_function(),
    };
    let (bus, here) = one(SimFunction::endpoint(1, 2).with_sriov(shape));
    for (pages, low) in [
        (0x1, 0xffff_c00c),
        (0x2, 0xffff_c00c),
        (0x10, 0xffff_000c),
        (0x400, 0xffc0_000c),
    ] {
        bus.write_u32(here, 0x124, u32::MAX).unwrap();
        bus.write_u32(here, 0x120, pages).unwrap();
        bus.write_u32(here, 0x124, bus.read_u32(here, 0x124).unwrap())
            .unwrap();
        assert_eq!(bus.read_u32(here, 0x124).unwrap(), low, "{pages:#x}");
        bus.write_u32(here, 0x120, 1).unwrap();
        assert_eq!(
            bus.read_u32(here, 0x124).unwrap(),
            low,
            "cleared bits stay so"
        );
    }
}

/// PCI Express Base, 7.8.6: BAR Size is in bits 13:8, n for 2^(20 + n) bytes.
#[test]
fn a_resized_bar_answers_a_size_probe_with_its_new_size() {
    let function = SimFunction::endpoint(1, 2)
        .with_bar64(2, 20)
        .with_bar32(1, 20);
    let function = function.with_resizable_bar(2, true, 0xff);
    let (bus, here) = one(function.with_resizable_bar(1, false, 0xff));
    for (control, bar, n, expected) in [
        (0x108, 0x18, 0, [0xfff0_000c, u32::MAX]),
        (0x108, 0x18, 1, [0xffe0_000c, u32::MAX]),
        (0x108, 0x18, 12, [0x0000_000c, u32::MAX]),
        (0x108, 0x18, 20, [0x0000_000c, 0xffff_ff00]),
        (0x108, 0x18, 43, [0x0000_000c, 0x8000_0000]),
        (0x108, 0x18, 63, [0x0000_000c, 0x8000_0000]),
        (0x114, 0x14, 0, [0xfff0_0000, 0xfff0_000c]),
        (0x114, 0x14, 11, [0x8000_0000, 0xfff0_000c]),
    ] {
        bus.reset(here, ResetKind::Function);
        bus.write_u16(here, control, n << 8).unwrap();
        bus.write_u32(here, bar, u32::MAX).unwrap();
        bus.write_u32(here, bar + 4, u32::MAX).unwrap();
        let probed = [bar, bar + 4].map(|bar| bus.read_u32(here, bar).unwrap());
        assert_eq!(probed, expected, "{bar:#x} {n}");
    }
    bus.reset(here, ResetKind::Function);
    bus.write_u32(here, 0x14, u32::MAX).unwrap();
    assert_eq!(
        bus.read_u32(here, 0x14).unwrap(),
        0xfff0_0000,
        "the size it starts with"
    );
}

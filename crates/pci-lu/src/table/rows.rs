//! The rows.

use kho_hal::walk::CapId;

use super::{Bits, Block, Boot, Class, Place, Repeat, Row, Setting, When};

const P: Class = Class::Preserve;
const X: Class = Class::Action;
const A: Class = Class::Adopt;
const C: Class = Class::Cold;
const D: Class = Class::Driver;
const R: Class = Class::Read;
const N: Class = Class::Absent;
const ALL: u32 = u32::MAX;
const ANY: u8 = 0b1111;
const E0: u8 = 0b0001;
const E1: u8 = 0b0010;
const BR: u8 = 0b0100;

const RESET: &str = "resets the function, and with it the DMA in flight";
const LINK: &str = "takes the link down for everything below";
const WINDOW: &str = "peer requests are misrouted, and DMA upward to an address in it is swallowed";
const TAGS: &str = "undefined with requests outstanding";
const VFS: &str = "undefined while virtual functions are on: their place and DMA depend on it";
const VF_BAR: &str = "the virtual functions' registers move, peers hit a wrong address";
const REPORTING: &str = "error reporting only";
const DELIVERY: &str = "interrupt delivery only; set up afresh by the new owner";
const RETRAIN: &str = "takes effect by a retrain, which is refused; the value found is kept";
const HINT: &str = "a hint, without effect on what DMA does";
const VCS: &str = "the mapping of traffic classes is in use; the value found is kept";
const TABLE: &str = "starts to load a table while its channel is in use";
const IDE: &str = "encrypted streams are not supported";
const REBAR: &str = "moves the bounds of a BAR that peers use";

/// The whole policy.
pub const TABLE_OF_FIELDS: &[Block] = &[
    block(Place::Header, "header", &[
        ro("Vendor and Device ID", 0x00, ALL),
        rw("Command: I/O Space", 0x04, 1 << 0, [C, C, C, C], "I/O space is never DMA"),
        rw("Command: Memory Space", 0x04, 1 << 1, [C, P, P, C],
            "peers lose their target; on a bridge, every request downward is lost")
            .is(Setting::Memory),
        rw("Command: Bus Master", 0x04, 1 << 2, [P, P, P, C],
            "stops the DMA of the function, on a bridge of everything below")
            .is(Setting::BusMaster),
        rw("Command: MWI, VGA snoop, parity, SERR, fast back-to-back", 0x04, 0x03f8, [C; 4],
            "no effect on DMA on PCI Express"),
        rw("Command: INTx Disable", 0x04, 1 << 10, [C; 4], DELIVERY)
            .is(Setting::IntxDisable).boot(Boot::Value(1)).when(When::Pin),
        w1c("Status: errors", 0x06, 0xf900, [C; 4], "clearing is bookkeeping"),
        ro("Revision and Class", 0x08, ALL),
        rw("Cache Line Size, Latency Timer", 0x0c, 0xffff, [C; 4], "no function on PCI Express"),
        ro("Header Type", 0x0e, 0xff),
        rw("BIST: Start", 0x0f, 1 << 6, [X; 4], "the self test stops the device"),
        ro("Capabilities Pointer", 0x34, 0xff),
        rw("Interrupt Line", 0x3c, 0xff, [C; 4], "software's own note"),
        ro("Interrupt Pin", 0x3d, 0xff),
    ]),
    block(Place::Type0, "header, type 0", &[
        rw("BAR 0-5", 0x10, ALL, [C, P, N, C], "peers reach the function at this address")
            .is(Setting::Bar)
            .dwords(6),
        ro("Subsystem", 0x2c, ALL),
        rw("Expansion ROM", 0x30, ALL, [C, C, N, C], "never a target of DMA"),
    ]),
    block(Place::Type1, "header, type 1", &[
        rw("BAR 0-1", 0x10, ALL, [N, N, C, N], "the port's own registers").dwords(2),
        rw("Primary, Secondary, Subordinate Bus", 0x18, 0x00ff_ffff, [N, N, P, N],
            "requester IDs and the routing of completions; the IOMMU knows them")
            .is(Setting::BusNumbers),
        rw("Secondary Latency Timer", 0x1b, 0xff, [N, N, C, N], "no function on PCI Express"),
        rw("I/O window", 0x1c, 0xffff, [N, N, C, N], "I/O space is never DMA"),
        w1c("Secondary Status: errors", 0x1e, 0xf900, [N, N, C, N], "clearing is bookkeeping").boot(Boot::Clear),
        rw("Memory window", 0x20, ALL, [N, N, P, N], WINDOW)
            .is(Setting::MemoryWindow),
        rw("Prefetchable window", 0x24, ALL, [N, N, P, N], WINDOW)
            .is(Setting::PrefetchWindow),
        rw("Prefetchable window, upper half", 0x28, ALL, [N, N, P, N], WINDOW)
            .is(Setting::PrefetchUpper).dwords(2),
        rw("I/O window, upper half", 0x30, ALL, [N, N, C, N], "I/O space is never DMA"),
        rw("Expansion ROM", 0x38, ALL, [N, N, C, N], "never a target of DMA"),
        rw("Bridge Control: reporting and legacy routing", 0x3e, 0x0fbf, [N, N, C, N],
            "no effect on DMA on PCI Express"),
        rw("Bridge Control: Secondary Bus Reset", 0x3e, 1 << 6, [N, N, X, N],
            "resets everything below"),
    ]),
    block(cap(0x01), "Power Management", &[
        ro("PM Capabilities", 0x02, 0xffff),
        rw("PMCSR: PowerState", 0x04, 0x0003, [P; 4],
            "D1 to D3 stop the DMA, the way back may reset; a physical function's also its VFs'")
            .is(Setting::PowerState)
            .zero(ANY),
        ro("PMCSR: No_Soft_Reset", 0x04, 1 << 3),
        rw("PMCSR: PME_En, Data_Select", 0x04, 0x1f00, [C; 4], "wake-up only").boot(Boot::Value(0)),
        w1c("PMCSR: PME_Status", 0x04, 1 << 15, [C; 4], "wake-up only").boot(Boot::Clear),
    ]),
    block(cap(0x03), "Vital Product Data", &[
        rw("VPD Address", 0x02, 0xffff, [C; 4], "never DMA"),
        rw("VPD Data", 0x04, ALL, [C; 4], "never DMA"),
    ]),
    block(cap(0x05), "MSI", &[
        rw("MSI Control: Enable, vectors", 0x02, 0x0471, [C; 4], DELIVERY)
            .is(Setting::Msi).boot(Boot::Value(0)),
        rw("MSI address, data, mask", 0x04, ALL, [C; 4], DELIVERY).dwords(5),
    ]),
    block(cap(0x07), "PCI-X", &[
        rw("PCI-X Command", 0x02, 0xffff, [C; 4], "legacy bus"),
    ]),
    block(cap(0x10), "PCI Express", &[
        rw("Device Control: error reporting", 0x08, 0x000f, [C; 4], REPORTING),
        rw("Device Control: Relaxed Ordering, No Snoop", 0x08, 0x0810, [C; 4],
            "may change at any time"),
        rw("Device Control: Max Payload Size", 0x08, 0x00e0, [P; 4],
            "a packet above the receiver's limit is malformed, a fatal error")
            .is(Setting::MaxPayload),
        rw("Device Control: Extended Tag, Phantom Functions", 0x08, 0x0300, [P; 4], TAGS)
            .is(Setting::Tags),
        rw("Device Control: Aux Power", 0x08, 1 << 10, [C; 4], "power of D3 only"),
        rw("Device Control: Max Read Request Size", 0x08, 0x7000, [D, D, C, P],
            "the virtual functions use the physical one's")
            .is(Setting::MaxReadRequest),
        rw("Device Control: Function Level Reset", 0x08, 1 << 15, [X, X, C, X], RESET),
        w1c("Device Status: errors", 0x0a, 0x000f, [C; 4], "clearing is bookkeeping").boot(Boot::Clear),
        rw("Link Control: ASPM", 0x10, 0x0003, [C; 4], "no packet is lost by rule"),
        rw("Link Control: RCB", 0x10, 1 << 3, [A; 4], "must equal the root port's, and does"),
        rw("Link Control: Link Disable", 0x10, 1 << 4, [N, N, X, N], LINK),
        rw("Link Control: Retrain Link", 0x10, 1 << 5, [N, N, X, N],
            "retrains under load, and may fail"),
        rw("Link Control: Common Clock, clock power management", 0x10, 0x0140, [A; 4], RETRAIN),
        rw("Link Control: Extended Synch, autonomous width", 0x10, 0x0280, [C; 4],
            "no packet is lost by rule"),
        rw("Link Control: bandwidth interrupts", 0x10, 0x0c00, [N, N, C, N], REPORTING),
        w1c("Link Status: bandwidth", 0x12, 0xc000, [N, N, C, N], "clearing is bookkeeping"),
        rw("Slot Control: power, interlock", 0x18, 0x0c00, [N, N, X, N],
            "cuts the device off its power").when(When::Slot),
        rw("Slot Control: interrupts, indicators", 0x18, 0xf3ff, [N, N, C, N], REPORTING)
            .when(When::Slot),
        w1c("Slot Status", 0x1a, 0x011f, [N, N, C, N],
            "bookkeeping; presence is compared before a stale event is acted on")
            .when(When::Slot),
        rw("Root Control", 0x1c, 0x001f, [N, N, C, N], REPORTING),
        w1c("Root Status: PME", 0x20, 1 << 16, [N, N, C, N], "wake-up only"),
        rw("Device Control 2: completion timeout", 0x28, 0x001f, [C; 4], "may change at any time")
            .when(When::Version2),
        rw("Device Control 2: ARI Forwarding", 0x28, 1 << 5, [N, N, P, N],
            "functions above 7 appear or vanish, and IDs are read differently")
            .is(Setting::AriForwarding)
            .when(When::Version2),
        rw("Device Control 2: AtomicOp Requester", 0x28, 1 << 6, [D, P, P, P],
            "atomics in flight would fail")
            .is(Setting::AtomicRequester).when(When::Version2),
        rw("Device Control 2: AtomicOp Egress Blocking", 0x28, 1 << 7, [D, P, P, P],
            "atomics in flight would fail").when(When::Version2),
        rw("Device Control 2: IDO, OBFF", 0x28, 0x6300, [C; 4], HINT).when(When::Version2),
        rw("Device Control 2: LTR", 0x28, 1 << 10, [C; 4], HINT).when(When::Version2),
        rw("Device Control 2: 10-Bit Tag Requester", 0x28, 1 << 12, [P; 4], TAGS)
            .is(Setting::TenBitTags)
            .when(When::Version2),
        rw("Device Control 2: End-End TLP Prefix Blocking", 0x28, 1 << 15, [N, N, P, N],
            "requests with a PASID are dropped").when(When::Version2),
        rw("Link Control 2: target speed", 0x30, 0x000f, [A; 4], RETRAIN).when(When::Version2),
        rw("Link Control 2: transmitter", 0x30, 0xfff0, [A; 4], RETRAIN).when(When::Version2),
    ]),
    block(cap(0x11), "MSI-X", &[
        rw("MSI-X Control: Enable, Function Mask", 0x02, 0xc000, [C; 4], DELIVERY)
            .is(Setting::Msix).boot(Boot::Value(0)),
        ro("MSI-X Control: size", 0x02, 0x07ff),
        ro("MSI-X table, pending bits", 0x04, ALL).dwords(2),
    ]),
    block(cap(0x13), "Advanced Features", &[
        rw("AF Control: Function Level Reset", 0x04, 1 << 0, [X; 4], RESET),
    ]),
    block(ext(0x0001), "Advanced Error Reporting", &[
        w1c("Uncorrectable Error Status", 0x04, ALL, [C; 4], "bookkeeping, logged first").boot(Boot::Clear),
        rw("Uncorrectable Error Mask, Severity", 0x08, ALL, [C; 4], REPORTING).dwords(2),
        w1c("Correctable Error Status", 0x10, ALL, [C; 4], "bookkeeping, logged first").boot(Boot::Clear),
        rw("Correctable Error Mask", 0x14, ALL, [C; 4], REPORTING),
        rw("ECRC generation, check", 0x18, 0x0140, [C; 4], REPORTING),
        rw("Root Error Command", 0x2c, 0x0007, [N, N, C, N], REPORTING),
        w1c("Root Error Status", 0x30, 0x007f, [N, N, C, N], "bookkeeping, logged first").boot(Boot::Clear),
    ]),
    block(ext(0x0003), "Device Serial Number", &[
        ro("Serial Number", 0x04, ALL).is(Setting::Serial).dwords(2),
    ]),
    block(ext(0x0002), "Virtual Channel", VC),
    block(ext(0x0009), "Virtual Channel, with MFVC", VC),
    block(ext(0x0008), "Multi-Function Virtual Channel", VC),
    block(ext(0x000d), "Access Control Services", &[
        rw("ACS Control", 0x06, 0xffff, [P; 4],
            "reroutes peer requests, merges or splits IOMMU groups")
            .is(Setting::Acs)
            .boot(Boot::Supported { at: 0x04, bits: 0x1d })
            .for_life(),
        rw("ACS Egress Control Vector", 0x08, ALL, [P; 4], "reroutes peer requests")
            .is(Setting::AcsEgress).for_life()
            .repeat(Repeat::EgressVector),
    ]),
    block(ext(0x000e), "Alternative Routing-ID", &[
        rw("ARI Control: function groups", 0x06, 0x0073, [C, P, N, P],
            "changes who is checked by ACS and arbitrated together")
            .is(Setting::AriGroups),
    ]),
    block(ext(0x000f), "Address Translation Services", &[
        rw("ATS Control: Enable", 0x06, 1 << 15, [C, P, N, C],
            "translated DMA is refused, the device's cached translations die")
            .is(Setting::Ats).boot(Boot::Value(0)).confirmed(Setting::Ats).zero(E0),
        rw("ATS Control: Smallest Translation Unit", 0x06, 0x001f, [C, P, N, P],
            "cached translations, also of virtual functions, mean something else")
            .is(Setting::AtsUnit).confirmed(Setting::Ats),
    ]),
    block(ext(0x0010), "Single Root I/O Virtualization", &[
        rw("SR-IOV Control: VF Enable", 0x08, 1 << 0, [C, C, N, P],
            "all virtual functions vanish with their DMA")
            .is(Setting::VfEnable).boot(Boot::Value(0)).zero(E0 | E1),
        rw("SR-IOV Control: migration", 0x08, 0x0006, [C, C, N, C], "not in use"),
        rw("SR-IOV Control: VF Memory Space", 0x08, 1 << 3, [C, C, N, P], VF_BAR)
            .is(Setting::VfMemory).boot(Boot::Value(0)),
        rw("SR-IOV Control: ARI Capable Hierarchy", 0x08, 1 << 4, [C, C, N, P], VFS)
            .is(Setting::VfAri),
        rw("SR-IOV Control: VF 10-Bit Tag Requester", 0x08, 1 << 5, [C, C, N, P], TAGS),
        w1c("SR-IOV Status", 0x0a, 1 << 0, [C, C, N, C], "not in use"),
        ro("Initial and Total VFs", 0x0c, ALL),
        rw("NumVFs", 0x10, 0xffff, [C, C, N, P], VFS)
            .is(Setting::NumVfs).boot(Boot::Value(0)),
        ro("First VF Offset, VF Stride", 0x14, ALL).is(Setting::VfPlaces),
        ro("VF Device ID", 0x1a, 0xffff),
        rw("System Page Size", 0x20, ALL, [C, C, N, P], VFS)
            .is(Setting::VfPageSize).boot(Boot::Value(1)),
        rw("VF BAR 0-5", 0x24, ALL, [C, C, N, P], VF_BAR)
            .is(Setting::VfBar).dwords(6),
    ]),
    block(ext(0x0013), "Page Request Interface", &[
        rw("PRI Control: Enable", 0x04, 1 << 0, [C, P, N, P],
            "page requests in flight are lost, also those of virtual functions")
            .is(Setting::Pri).boot(Boot::Value(0)).confirmed(Setting::Pri).zero(E0),
        rw("PRI Control: Reset", 0x04, 1 << 1, [X, X, N, X], "only allowed while it is off"),
        w1c("PRI Status: RF, UPRGI", 0x06, 0x0003, [C, C, N, C],
            "cleared by the IOMMU's driver once it has adopted it"),
        rw("Outstanding Page Request Allocation", 0x0c, ALL, [C, P, N, P],
            "undefined while it is on")
            .is(Setting::PriAllocation).confirmed(Setting::Pri),
    ]),
    block(ext(0x0015), "Resizable BAR", &[
        rw("BAR Size", 0x08, 0x3f00, [C, P, C, P], REBAR)
            .is(Setting::BarSize).repeat(BARS),
    ]),
    block(ext(0x0017), "TPH Requester", &[
        rw("TPH Control: enable, mode", 0x08, 0x0307, [D, D, N, D], HINT)
            .is(Setting::Tph),
        rw("TPH Steering Table", 0x0c, 0xffff, [D, D, N, D], HINT)
            .when(When::SteeringHere).repeat(STEERING),
    ]),
    block(ext(0x001b), "Process Address Space ID", &[
        rw("PASID Control", 0x06, 0x0007, [C, P, N, P],
            "undefined while ATS is on; virtual functions share it")
            .is(Setting::Pasid).boot(Boot::Value(0)).confirmed(Setting::Pasid).zero(E0),
    ]),
    block(ext(0x001d), "Downstream Port Containment", &[
        rw("DPC Control", 0x06, 0xffbf, [N, N, C, N],
            "reporting; enabled only after stale errors are cleared"),
        rw("DPC Control: Software Trigger", 0x06, 1 << 6, [N, N, X, N], LINK),
        w1c("DPC Status: Trigger", 0x08, 1 << 0, [N, N, C, N],
            "the link is down already, so nothing below was preserved").zero(BR),
        w1c("DPC Status", 0x08, 0xfffe, [N, N, C, N], "bookkeeping"),
        w1c("RP PIO Status", 0x0c, ALL, [N, N, C, N], "bookkeeping"),
        rw("RP PIO masks, severity, exceptions", 0x10, ALL, [N, N, C, N], REPORTING).dwords(4),
    ]),
    block(ext(0x001e), "L1 PM Substates", &[
        rw("L1 PM Substates Control", 0x08, ALL, [C; 4], "no packet is lost by rule").dwords(2),
    ]),
    block(ext(0x001f), "Precision Time Measurement", &[
        rw("PTM Control", 0x08, 0x0000_ff03, [D, D, A, D], "time only; not off above a user")
            .is(Setting::Ptm),
    ]),
    block(ext(0x0018), "Latency Tolerance Reporting", &[
        rw("Max Latencies", 0x04, ALL, [C; 4], HINT),
    ]),
    block(ext(0x0024), "VF Resizable BAR", &[
        rw("VF BAR Size", 0x08, 0x3f00, [C, P, C, P], REBAR)
            .is(Setting::VfBarSize).repeat(BARS),
    ]),
    block(ext(0x002e), "Data Object Exchange", &[
        rw("DOE Control", 0x08, ALL, [D; 4], "never DMA"),
    ]),
    block(ext(0x0030), "Integrity and Data Encryption", &[
        rw("IDE Control", 0x08, ALL, [P; 4], IDE).zero(ANY),
        rw("Link IDE Stream: Enable", 0x00, 1 << 0, [P; 4], IDE)
            .repeat(Repeat::Streams { selective: false }).zero(ANY),
        rw("Selective IDE Stream: Enable", 0x04, 1 << 0, [P; 4], IDE)
            .repeat(Repeat::Streams { selective: true }).zero(ANY),
    ]),
    block(Place::Dvsec { vendor: 0x1e98, id: 0 }, "CXL", &[
        rw("CXL Control: Cache, Mem", 0x0c, 0x0005, [P; 4], "CXL is not supported").zero(ANY),
        rw("CXL Control", 0x0c, 0xfffa, [P; 4], "CXL is not supported"),
    ]),
];

const STEERING: Repeat = Repeat::Count {
    at: 0x04,
    shift: 16,
    mask: 0x3f,
    plus: 1,
    step: 2,
};

const BARS: Repeat = Repeat::Count {
    at: 0x08,
    shift: 5,
    mask: 7,
    plus: 0,
    step: 8,
};

const VC: &[Row] = &[
    rw("Port VC Control: Load Table", 0x0c, 1 << 0, [X; 4], TABLE),
    rw("Port VC Control: arbitration", 0x0c, 0x000e, [A; 4], VCS),
    rw("VC Resource Control", 0x14, 0x870e_00ff, [A; 4], VCS).repeat(CHANNELS),
    rw(
        "VC Resource Control: Load Table",
        0x14,
        1 << 16,
        [X; 4],
        TABLE,
    )
    .repeat(CHANNELS),
];

const CHANNELS: Repeat = Repeat::Count {
    at: 0x04,
    shift: 0,
    mask: 7,
    plus: 1,
    step: 0x0c,
};

const fn row(
    field: &'static str,
    first: u16,
    bits: u32,
    access: Bits,
    class: [Class; 4],
    reason: &'static str,
) -> Row {
    Row {
        field,
        first,
        bits,
        access,
        class,
        reason,
        repeat: Repeat::Once,
        when: When::Always,
        zero: 0,
        setting: None,
        boot: Boot::Keep,
        for_life: false,
        confirmed: None,
    }
}

const fn rw(
    field: &'static str,
    first: u16,
    bits: u32,
    class: [Class; 4],
    reason: &'static str,
) -> Row {
    row(field, first, bits, Bits::Rw, class, reason)
}

const fn w1c(
    field: &'static str,
    first: u16,
    bits: u32,
    class: [Class; 4],
    reason: &'static str,
) -> Row {
    row(field, first, bits, Bits::Rw1c, class, reason)
}

const fn ro(field: &'static str, first: u16, bits: u32) -> Row {
    row(
        field,
        first,
        bits,
        Bits::Ro,
        [R; 4],
        "identity and layout, compared with the record",
    )
}

const fn block(place: Place, name: &'static str, rows: &'static [Row]) -> Block {
    Block { place, name, rows }
}

const fn cap(id: u8) -> Place {
    Place::Cap(CapId::Standard(id))
}

const fn ext(id: u16) -> Place {
    Place::Cap(CapId::Extended(id))
}

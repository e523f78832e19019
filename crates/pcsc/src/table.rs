//! What may be cached, as a table to hold against the specification.
//!
//! Each capability has rows of inclusive byte offsets, counted from the start of the capability,
//! each with a class and the conditions under which the row exists. Bytes without a row are never
//! cached: status, pending, write-one-to-clear, self-clearing and data-port registers, and what the
//! device changes by itself. The engine in [`crate::infer`] clamps every row to the capability's
//! length and to the next capability.
//!
//! # Fields that look cacheable and are not
//! | field | why |
//! | --- | --- |
//! | BIST (header 0f), in a function that has it | start bit clears itself, the code is the device's |
//! | secondary status (type 1, 1e), bridge control high byte (3f) of PCI bridges | write-one-to-clear |
//! | VPD address (2-3) | the flag turns when the transfer is done |
//! | Device Capabilities bits 25:18 (bytes 6-7) of functions facing upstream | captured slot power limit, set by a message |
//! | Device Control 2 bit 10 (byte 29) of downstream-facing ports | LTR enable, cleared when the link goes down |
//! | AER capability and control (18-1b) | first error pointer |
//! | First VF Offset, VF Stride (SR-IOV, 14-17) | the lowest physical function's ARI Capable Hierarchy changes them in all |
//! | expansion ROM, low byte | validation status, set by the device |
//! | PRI control (4-5) | Reset clears itself |
//! | Link Control 2 (PCI Express, 30-31) | transmit margin and compliance bits follow the link's training |
//! | Link Control 3 (secondary PCI Express) | Perform Equalization clears itself |
//!
//! # Source
//! PCI Local Bus 3.0 chapter 6; PCI-to-PCI Bridge 1.2 chapter 3; PCI Power Management 1.2; PCI
//! Express Base 5.0 chapters 7 and 9. Row order and offsets follow the register figures there.

use crate::CapId;

/// When the bytes of a row change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Never, as long as the same device sits there: read-only or set once by hardware.
    Constant,
    /// Only by a write, to this register or to one named in [`crate::rules`], or by a reset.
    Written,
}

/// A condition on the 16-bit register at `at`: the masked value equals `is`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// Offset from the start of the capability (for the header: of the space).
    pub at: u16,
    /// Bits looked at.
    pub mask: u16,
    /// What they must be.
    pub is: u16,
}

/// The row exists several times, `step` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Offset of the 16-bit register that holds the count.
    pub at: u16,
    /// Lowest bit of the count.
    pub shift: u8,
    /// The count's bits after the shift.
    pub mask: u16,
    /// Bytes from one to the next.
    pub step: u16,
}

/// Bytes that may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// First byte.
    pub first: u16,
    /// Last byte, inclusive.
    pub last: u16,
    /// When they change.
    pub class: Class,
    /// All of these must hold.
    pub when: [Option<When>; 2],
    /// PCI Express port types that have the row, bit n for type n. A function without a PCI
    /// Express capability counts as type 0.
    pub ports: u16,
    /// Whether there are several.
    pub repeat: Option<Repeat>,
}

impl Row {
    const fn new(first: u16, last: u16, class: Class) -> Self {
        Self {
            first,
            last,
            class,
            when: [None, None],
            ports: ANY_PORT,
            repeat: None,
        }
    }

    const fn when(mut self, at: u16, mask: u16, is: u16) -> Self {
        let condition = Some(When { at, mask, is });
        self.when = match self.when {
            [None, second] => [condition, second],
            [first, _] => [first, condition],
        };
        self
    }

    const fn ports(mut self, ports: u16) -> Self {
        self.ports = ports;
        self
    }

    const fn times(mut self, at: u16, shift: u8, mask: u16, step: u16) -> Self {
        self.repeat = Some(Repeat {
            at,
            shift,
            mask,
            step,
        });
        self
    }
}

/// How long a capability is, before it is clamped to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Len {
    /// At most this many bytes.
    Max(u16),
    /// As the byte at this offset says.
    Byte(u16),
    /// As bits 15:4 of the 16-bit register at this offset say.
    Upper12(u16),
    /// Not known: up to the next capability.
    ToNext,
}

/// One capability of the table. Its header (two or four bytes) is a constant row of its own.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which capability.
    pub id: CapId,
    /// Its name in the specification.
    pub name: &'static str,
    /// Its length.
    pub len: Len,
    /// What may be cached.
    pub rows: &'static [Row],
}

const ANY_PORT: u16 = 0xffff;
/// Root port, downstream port.
const DOWNSTREAM: u16 = 1 << 4 | 1 << 6;
/// Root port, event collector.
const ROOT: u16 = 1 << 4 | 1 << 10;
/// Functions that no slot power message reaches: also the integrated ones.
const NO_CAPTURE: u16 = DOWNSTREAM | 1 << 9 | 1 << 10;
/// Ports of which the whole bridge control register is PCI Express's own.
const EXPRESS_BRIDGES: u16 = DOWNSTREAM | 1 << 5;

const fn c(first: u16, last: u16) -> Row {
    Row::new(first, last, Class::Constant)
}

const fn w(first: u16, last: u16) -> Row {
    Row::new(first, last, Class::Written)
}

const fn entry(id: CapId, name: &'static str, len: Len, rows: &'static [Row]) -> Entry {
    Entry {
        id,
        name,
        len,
        rows,
    }
}

/// Header type 0: endpoints.
pub const HEADER_0: &[Row] = &[
    c(0x00, 0x03),                        // vendor, device
    c(0x08, 0x0b),                        // revision, class
    w(0x0c, 0x0d),                        // cache line size, latency timer
    c(0x0e, 0x0e),                        // header type
    w(0x10, 0x27),                        // BAR 0-5
    c(0x28, 0x2f),                        // CIS pointer, subsystem
    w(0x31, 0x33),                        // expansion ROM, but for its status
    c(0x34, 0x34).when(0x06, 0x10, 0x10), // capability pointer, if Status says there is a list
    w(0x3c, 0x3c),                        // interrupt line
    c(0x3d, 0x3f),                        // interrupt pin, min grant, max latency
];

/// Header type 0 of a virtual function: what a physical function's software writes is read-only
/// here, mostly zero. PCI Express Base 5.0, 9.3.4.1.
pub const HEADER_VF: &[Row] = &[
    c(0x00, 0x03), // read as ones
    c(0x08, 0x0e),
    c(0x10, 0x33),
    c(0x34, 0x34).when(0x06, 0x10, 0x10),
    c(0x3c, 0x3f),
];

/// Bytes of the header that the specification fixes at zero in this header type: reserved ones
/// (PCI Local Bus 3.0, 6.1), and BIST in a function that has none (6.2.4).
///
/// They are answered like constants, but they are not marked as cacheable: a reader of the
/// handed-over page takes marks there for the sign of another format.
pub const fn fixed(header_type: u8, has_bist: bool) -> [core::ops::Range<u16>; 2] {
    let reserved = match header_type {
        0 => 0x35..0x3c,
        1 => 0x35..0x38,
        _ => 0..0,
    };
    let bist = match header_type {
        0 | 1 if !has_bist => 0x0f..0x10,
        _ => 0..0,
    };
    [bist, reserved]
}

/// The command register of header types 0 and 1: only writes and resets change it. It is answered,
/// but not marked as cacheable, for the same reason.
pub const COMMAND: core::ops::Range<u16> = 0x04..0x06;

/// Header type 1: bridges.
pub const HEADER_1: &[Row] = &[
    c(0x00, 0x03),
    c(0x08, 0x0b),
    w(0x0c, 0x0d),
    c(0x0e, 0x0e),
    w(0x10, 0x17), // BAR 0-1
    w(0x18, 0x1b), // bus numbers, secondary latency timer
    w(0x1c, 0x1d), // I/O base and limit
    w(0x20, 0x33), // memory, prefetchable and upper I/O windows
    c(0x34, 0x34).when(0x06, 0x10, 0x10),
    w(0x39, 0x3b), // expansion ROM, but for its status
    w(0x3c, 0x3c),
    c(0x3d, 0x3d),
    w(0x3e, 0x3e),                        // bridge control
    w(0x3f, 0x3f).ports(EXPRESS_BRIDGES), // discard timer status exists on PCI only
];

/// Header type 2: CardBus bridges. Only what names the device.
pub const HEADER_2: &[Row] = &[c(0x00, 0x03), c(0x08, 0x0b), c(0x0e, 0x0e)];

/// Capabilities in 40..100.
pub const CAPABILITIES: &[Entry] = &[
    entry(
        CapId::Standard(0x01),
        "power management",
        Len::Max(8),
        &[c(0x02, 0x03)],
    ),
    entry(
        CapId::Standard(0x03),
        "vital product data",
        Len::Max(8),
        &[],
    ),
    entry(CapId::Standard(0x05), "MSI", Len::Max(0x18), MSI),
    entry(
        CapId::Standard(0x09),
        "vendor-specific",
        Len::Byte(2),
        &[c(0x02, 0x02)],
    ),
    entry(
        CapId::Standard(0x0a),
        "debug port",
        Len::Max(4),
        &[c(0x02, 0x03)],
    ),
    entry(
        CapId::Standard(0x0d),
        "subsystem of a bridge",
        Len::Max(8),
        &[c(0x04, 0x07)],
    ),
    entry(
        CapId::Standard(0x10),
        "PCI Express",
        Len::Max(0x3c),
        EXPRESS,
    ),
    entry(
        CapId::Standard(0x11),
        "MSI-X",
        Len::Max(12),
        &[
            w(0x02, 0x03), // message control
            c(0x04, 0x0b), // table, pending bits
        ],
    ),
    entry(
        CapId::Standard(0x13),
        "advanced features",
        Len::Max(6),
        &[c(0x02, 0x03)],
    ),
    entry(
        CapId::Standard(0x14),
        "enhanced allocation",
        Len::ToNext,
        &[c(0x02, 0x03)],
    ),
];

const MSI: &[Row] = &[
    w(0x02, 0x07),                            // message control, address
    w(0x08, 0x09).when(0x02, 0x0080, 0x0000), // data, 32-bit address
    w(0x08, 0x0d).when(0x02, 0x0080, 0x0080), // upper address, data
    w(0x0c, 0x0f).when(0x02, 0x0180, 0x0100), // mask, 32-bit address
    w(0x10, 0x13).when(0x02, 0x0180, 0x0180), // mask, 64-bit address
];

/// Version 1 ends where the port type lets it end; version 2 always has all registers.
const EXPRESS: &[Row] = &[
    c(0x02, 0x02), // version, port type
    w(0x03, 0x03), // slot, interrupt message number
    c(0x04, 0x05), // device capabilities low
    c(0x06, 0x07).ports(NO_CAPTURE),
    w(0x08, 0x09),                       // device control
    w(0x0c, 0x11).when(0x02, 0x000f, 2), // link capabilities and control
    w(0x0c, 0x11)
        .when(0x02, 0x000f, 1)
        .ports(!(1 << 9 | 1 << 10)),
    c(0x14, 0x17).when(0x02, 0x000f, 2), // slot capabilities
    c(0x14, 0x17).when(0x02, 0x010f, 0x0101).ports(DOWNSTREAM),
    w(0x18, 0x19).when(0x02, 0x000f, 2), // slot control
    w(0x18, 0x19).when(0x02, 0x010f, 0x0101).ports(DOWNSTREAM),
    w(0x1c, 0x1d).when(0x02, 0x000f, 2), // root control
    w(0x1c, 0x1d).when(0x02, 0x000f, 1).ports(ROOT),
    c(0x1e, 0x1f).when(0x02, 0x000f, 2), // root capabilities
    c(0x1e, 0x1f).when(0x02, 0x000f, 1).ports(ROOT),
    c(0x24, 0x27).when(0x02, 0x000f, 2), // device capabilities 2
    w(0x28, 0x28).when(0x02, 0x000f, 2), // device control 2
    w(0x29, 0x29).when(0x02, 0x000f, 2).ports(!DOWNSTREAM),
    c(0x2c, 0x2f).when(0x02, 0x000f, 2), // link capabilities 2
    c(0x34, 0x37).when(0x02, 0x000f, 2), // slot capabilities 2
    w(0x38, 0x39).when(0x02, 0x000f, 2), // slot control 2
];

/// Capabilities from 100 on.
pub const EXTENDED: &[Entry] = &[
    entry(
        CapId::Extended(0x0001),
        "advanced error reporting",
        Len::Max(0x48),
        &[
            w(0x08, 0x0f),             // uncorrectable mask, severity
            w(0x14, 0x17),             // correctable mask
            w(0x2c, 0x2f).ports(ROOT), // root error command
        ],
    ),
    entry(
        CapId::Extended(0x0003),
        "device serial number",
        Len::Max(12),
        &[c(0x04, 0x0b)],
    ),
    entry(
        CapId::Extended(0x0005),
        "root complex link declaration",
        Len::ToNext,
        &[
            c(0x04, 0x07), // element self description
            c(0x10, 0x1f).times(0x04, 8, 0xff, 16),
        ],
    ),
    entry(
        CapId::Extended(0x000b),
        "vendor-specific",
        Len::Upper12(6),
        &[c(0x04, 0x07)],
    ),
    entry(
        CapId::Extended(0x000d),
        "access control services",
        Len::ToNext,
        &[c(0x04, 0x05), w(0x06, 0x07)],
    ),
    entry(
        CapId::Extended(0x000e),
        "alternative routing-ID",
        Len::Max(8),
        &[w(0x04, 0x07)],
    ),
    entry(
        CapId::Extended(0x000f),
        "address translation services",
        Len::Max(8),
        &[c(0x04, 0x05), w(0x06, 0x07)],
    ),
    entry(
        CapId::Extended(0x0010),
        "SR-IOV",
        Len::Max(0x40),
        &[
            w(0x04, 0x09), // capabilities, control
            w(0x0c, 0x12), // initial, total and number of VFs, dependency link
            c(0x1a, 0x1f), // VF device, supported page sizes
            w(0x20, 0x3b), // system page size, VF BAR 0-5
            c(0x3c, 0x3f), // migration state array
        ],
    ),
    entry(
        CapId::Extended(0x0013),
        "page request interface",
        Len::Max(16),
        &[c(0x08, 0x0b), w(0x0c, 0x0f)],
    ),
    entry(
        CapId::Extended(0x0015),
        "resizable BAR",
        Len::ToNext,
        RESIZABLE,
    ),
    entry(
        CapId::Extended(0x0017),
        "TPH requester",
        Len::ToNext,
        &[c(0x04, 0x07), w(0x08, 0x0b)],
    ),
    entry(
        CapId::Extended(0x0018),
        "latency tolerance reporting",
        Len::Max(8),
        &[w(0x04, 0x07)],
    ),
    entry(
        CapId::Extended(0x001b),
        "process address space ID",
        Len::Max(8),
        &[c(0x04, 0x05), w(0x06, 0x07)],
    ),
    entry(
        CapId::Extended(0x001d),
        "downstream port containment",
        Len::ToNext,
        &[
            w(0x04, 0x04), // interrupt message number
            c(0x05, 0x05),
            w(0x06, 0x07),
            // RP PIO mask, severity, system error, exception
            w(0x10, 0x1f).when(0x04, 0x0020, 0x0020),
        ],
    ),
    entry(
        CapId::Extended(0x001e),
        "L1 PM substates",
        Len::Max(0x14),
        &[c(0x04, 0x07), w(0x08, 0x0f)],
    ),
    entry(
        CapId::Extended(0x001f),
        "precision time measurement",
        Len::Max(12),
        &[c(0x04, 0x07), w(0x08, 0x0b)],
    ),
    entry(
        CapId::Extended(0x0023),
        "designated vendor-specific",
        Len::Upper12(6),
        &[c(0x04, 0x09)],
    ),
    entry(
        CapId::Extended(0x0024),
        "VF resizable BAR",
        Len::ToNext,
        RESIZABLE,
    ),
];

/// Capability and control register of each BAR; the count stands in the first control register.
const RESIZABLE: &[Row] = &[
    c(0x04, 0x07).times(0x08, 5, 7, 8),
    w(0x08, 0x0b).times(0x08, 5, 7, 8),
];

/// The table's entry for a capability, if it has one.
pub fn entry_of(id: CapId) -> Option<&'static Entry> {
    let table = match id {
        CapId::Standard(_) => CAPABILITIES,
        CapId::Extended(_) => EXTENDED,
    };
    table.iter().find(|entry| entry.id == id)
}

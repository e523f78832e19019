//! Which writes have effects elsewhere, as a table to hold against the specification.
//!
//! Always, and without a row here: a write invalidates the bytes it touches, before and after it
//! reaches the hardware; a write into a capability invalidates that whole capability but for its
//! constant bytes; a write to bytes that belong to nothing, or into a capability whose meaning is
//! the vendor's or is not known, invalidates the whole function and everything below it.

use crate::CapId;

/// Where the register of a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the header of a bridge (header type 1 or 2).
    Bridge,
    /// In this capability.
    In(CapId),
}

/// Which writes a rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Any that touches the bytes.
    Any,
    /// One that sets a bit of the mask.
    Set,
    /// One that sets a bit of the mask, or that clears one that was set or may have been.
    Level,
    /// One that changes a bit of the mask, or may.
    Change,
}

/// What becomes unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Everything of this function that is not constant; it may be away for a while.
    Reset,
    /// Everything below this bridge; it may be away for a while.
    Below,
    /// Which functions are below this bridge.
    Renumber,
    /// Which functions of the segment are below this bridge, on whatever bus.
    Routing,
    /// Whether the virtual functions exist. They have to be added again.
    VirtualFunctions,
    /// The BARs in the header.
    Bars,
    /// Interrupt message numbers in the other capabilities of this function.
    MessageNumbers,
    /// Link capabilities of every function beside this one.
    Links,
    /// Another capability of this function.
    Capability(CapId),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Where the register is.
    pub place: Place,
    /// First byte, from the start of the capability (or of the header).
    pub first: u16,
    /// Last byte, inclusive; within four bytes if there is a mask.
    pub last: u16,
    /// Bits looked at, from bit 0 of the first byte.
    pub mask: u32,
    /// Which writes.
    pub trigger: Trigger,
    /// What they do.
    pub effects: &'static [Effect],
}

const fn rule(
    place: Place,
    (first, last): (u16, u16),
    mask: u32,
    trigger: Trigger,
    effects: &'static [Effect],
) -> Rule {
    Rule {
        place,
        first,
        last,
        mask,
        trigger,
        effects,
    }
}

const fn standard(id: u8) -> Place {
    Place::In(CapId::Standard(id))
}

const fn extended(id: u16) -> Place {
    Place::In(CapId::Extended(id))
}

/// The table. Sources: PCI-to-PCI Bridge 1.2, 3.2.5; PCI Power Management 1.2, 3.2.4; PCI Express
/// Base 5.0, 6.6, 6.14, 7.5.3, 7.8.6, 7.9.15, 9.2, 9.3.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    // Bus numbers decide who answers below.
    rule(Place::Bridge, (0x18, 0x1a), 0, Trigger::Any, &[Effect::Renumber]),
    // Bridge control: secondary bus reset, held for as long as the bit is set.
    rule(Place::Bridge, (0x3e, 0x3f), 0x0040, Trigger::Level, &[Effect::Below]),
    // PMCSR: power state. D3hot to D0 may reset, firmware acts on the way, links go down.
    rule(standard(0x01), (4, 5), 0x0003, Trigger::Level,
         &[Effect::Reset, Effect::Below, Effect::VirtualFunctions]),
    // MSI and MSI-X control: which messages there are. PCI Express Base 5.0, 7.5.3.2.
    rule(standard(0x05), (2, 3), 0, Trigger::Any, &[Effect::MessageNumbers]),
    rule(standard(0x11), (2, 3), 0, Trigger::Any, &[Effect::MessageNumbers]),
    // Link control: common clock configuration is one for the device, and exit latencies follow.
    rule(standard(0x10), (0x10, 0x11), 0x0040, Trigger::Change, &[Effect::Links]),
    // Device control: initiate function-level reset.
    rule(standard(0x10), (0x08, 0x09), 0x8000, Trigger::Set,
         &[Effect::Reset, Effect::VirtualFunctions]),
    // Link control: link disable.
    rule(standard(0x10), (0x10, 0x11), 0x0010, Trigger::Level, &[Effect::Below]),
    // Slot control: power controller off.
    rule(standard(0x10), (0x18, 0x19), 0x0400, Trigger::Level, &[Effect::Below]),
    // Device control 2: ARI forwarding decides which device numbers are reached below.
    rule(standard(0x10), (0x28, 0x29), 0x0020, Trigger::Change, &[Effect::Renumber]),
    // Flattening portal bridge: which routing IDs are below, one by one. PCI Express Base 5.0,
    // 6.26, 7.8.10.
    rule(standard(0x15), (0x04, 0x23), 0, Trigger::Any, &[Effect::Routing]),
    // Advanced features: initiate function-level reset.
    rule(standard(0x13), (4, 4), 0x01, Trigger::Set, &[Effect::Reset, Effect::VirtualFunctions]),
    // SR-IOV control: VF enable, ARI capable hierarchy.
    rule(extended(0x0010), (0x08, 0x09), 0, Trigger::Any, &[Effect::VirtualFunctions]),
    // NumVFs: how many there are, and where, if it is written while they are enabled.
    rule(extended(0x0010), (0x10, 0x11), 0, Trigger::Any, &[Effect::VirtualFunctions]),
    // Resizable BAR: size, in the control registers of up to six.
    rule(extended(0x0015), (0x08, 0x37), 0, Trigger::Any, &[Effect::Bars]),
    // The same for the BARs of virtual functions, which stand in the SR-IOV capability.
    rule(extended(0x0024), (0x08, 0x37), 0, Trigger::Any,
         &[Effect::Capability(CapId::Extended(0x0010))]),
    // Downstream port containment: software trigger.
    rule(extended(0x001d), (6, 7), 0x0040, Trigger::Set, &[Effect::Below]),
    // Its status, when the trigger is cleared: the link was down until now.
    rule(extended(0x001d), (8, 9), 0x0001, Trigger::Set, &[Effect::Below]),
];

/// Capabilities whose registers mean what the vendor says: a write can do anything.
pub const VENDORS_OWN: &[CapId] = &[
    CapId::Standard(0x09),
    CapId::Extended(0x000b),
    CapId::Extended(0x0023),
];

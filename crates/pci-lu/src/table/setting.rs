//! What software asks of a function: fields by name, and the values they are wanted to have.

use core::fmt;

/// A field that software asks for by name, whatever the offset.
///
/// Names say a state, not a change: "ATS on with unit 0", not "enable ATS". A field that occurs more
/// than once is counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Setting {
    /// Command: Memory Space.
    Memory,
    /// Command: Bus Master.
    BusMaster,
    /// Command: INTx Disable.
    IntxDisable,
    /// BAR 0 to 5, a dword each.
    Bar,
    /// Primary, secondary and subordinate bus number of a bridge, one byte each from the lowest.
    BusNumbers,
    /// Memory base and limit of a bridge.
    MemoryWindow,
    /// Prefetchable base and limit of a bridge; the lowest bits say whether it has 64 bits.
    PrefetchWindow,
    /// Upper halves of base (0) and limit (1) of the prefetchable window.
    PrefetchUpper,
    /// The power state, 0 for D0. A cold boot leaves it, as the way to D0 takes 10 ms of waiting.
    PowerState,
    /// MSI: Enable and the number of vectors, as in Message Control.
    Msi,
    /// MSI-X: Enable (bit 1) and Function Mask (bit 0).
    Msix,
    /// Max Payload Size: 128 bytes << n.
    MaxPayload,
    /// Extended tags (bit 0) and phantom functions (bit 1).
    Tags,
    /// Max Read Request Size: 128 bytes << n.
    MaxReadRequest,
    /// ARI Forwarding of a port.
    AriForwarding,
    /// AtomicOp Requester Enable.
    AtomicRequester,
    /// 10-Bit Tag Requester Enable.
    TenBitTags,
    /// Device serial number, lower (0) and upper (1) half; read-only.
    Serial,
    /// The ACS control register.
    Acs,
    /// The ACS egress control vector, 32 ports each.
    AcsEgress,
    /// ARI Control: function groups.
    AriGroups,
    /// ATS: Enable.
    Ats,
    /// ATS: Smallest Translation Unit, 4 KiB << n.
    AtsUnit,
    /// SR-IOV: VF Enable.
    VfEnable,
    /// SR-IOV: VF Memory Space Enable.
    VfMemory,
    /// SR-IOV: ARI Capable Hierarchy.
    VfAri,
    /// SR-IOV: number of virtual functions.
    NumVfs,
    /// SR-IOV: first VF offset in the lower half, VF stride in the upper; read-only.
    VfPlaces,
    /// SR-IOV: System Page Size, one bit: 4 KiB << n.
    VfPageSize,
    /// SR-IOV: VF BAR 0 to 5, a dword each.
    VfBar,
    /// PRI: Enable.
    Pri,
    /// PRI: Outstanding Page Request Allocation.
    PriAllocation,
    /// PASID: Enable, Execute, Privileged.
    Pasid,
    /// Resizable BAR: size, 1 MiB << n.
    BarSize,
    /// VF Resizable BAR: size, 1 MiB << n.
    VfBarSize,
    /// TPH Requester: Enable and mode.
    Tph,
    /// PTM: Enable, Root Select, granularity.
    Ptm,
}

impl Setting {
    /// The wish that the field holds `value`, counted in the field's own lowest bit.
    pub const fn to(self, value: u32) -> Request {
        Request {
            setting: self,
            index: 0,
            value,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a caller wants a field to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The field.
    pub setting: Setting,
    /// Which of them, from 0.
    pub index: u16,
    /// The value, counted in the field's own lowest bit.
    pub value: u32,
}

impl Request {
    /// The same for the `index`-th field of that name, from 0.
    pub const fn at(mut self, index: u16) -> Self {
        self.index = index;
        self
    }
}

/// What a cold boot makes of a field if nobody asks for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// Nothing.
    Keep,
    /// This value, counted in the field's own lowest bit.
    Value(u32),
    /// These bits as far as the 16-bit register at this offset of the capability has them: what is
    /// supported is on.
    Supported {
        /// Offset of the capability register, that of a dword.
        at: u16,
        /// The bits, at the same places in both.
        bits: u32,
    },
    /// Events that are noted in it are cleared.
    Clear,
}

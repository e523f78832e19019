//! The write policy, as a table to hold against the specification: one row a field.
//!
//! Most writes of a cold boot are harmless to a device that keeps running, and wanted. A few would
//! stop its DMA, send it elsewhere, or change the identity that the IOMMU knows. The table names
//! exactly those, each with its reason, for each [kind](Kind) of function; everything else is
//! written as on any boot. The engine that locates the rows in one function is in
//! [`crate::fields`], and [`crate::guard`] judges writes by them.
//!
//! # Classes
//! | class | a write while the function is live |
//! | --- | --- |
//! | [`Class::Preserve`] | refused if it would change a bit |
//! | [`Class::Action`] | refused if it sets a bit: writing 1 resets, retrains, cuts off |
//! | [`Class::Adopt`] | allowed; its owner takes the value found over instead of deciding anew |
//! | [`Class::Cold`] | as on any boot |
//! | [`Class::Driver`] | the driver's to decide |
//! | [`Class::Read`] | none: read-only, compared with what is known |
//! | [`Class::Absent`] | none: the kind does not have the field |
//!
//! Bits without a row are reserved, read-only, or a vendor's; they are not judged.
//!
//! # Source
//! Offsets and masks: PCI Express Base 5.0, chapter 7, as Linux `include/uapi/linux/pci_regs.h` has
//! them. Classes and reasons: the review of the Linux series "PCI: liveupdate". What no source
//! discusses is our choice: MaxReadReq, VC, PTM, DPC, AER, L1 substates, VF 10-bit tags, and
//! End-End TLP Prefix Blocking.

mod rows;
mod setting;

use kho_hal::walk::CapId;

pub use rows::TABLE_OF_FIELDS;
pub use setting::{Boot, Request, Setting};

/// What a function is to the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An endpoint that does DMA to memory only, without address translation of its own.
    Endpoint,
    /// An endpoint with peer-to-peer DMA, or with ATS, PRI or PASID in use.
    PeerEndpoint,
    /// A bridge, port or switch above a preserved function.
    Bridge,
    /// A physical function whose virtual functions are preserved; its own DMA is not.
    Physical,
    /// A physical function that does DMA for itself as well: both a [`Kind::PeerEndpoint`] and a
    /// [`Kind::Physical`], so the stricter class of the two holds.
    PeerPhysical,
}

impl Kind {
    /// Every kind. Those that a row has a class for come first, in its order.
    pub const ALL: [Self; 5] = [
        Self::Endpoint,
        Self::PeerEndpoint,
        Self::Bridge,
        Self::Physical,
        Self::PeerPhysical,
    ];

    /// The header type that a function of this kind has.
    pub const fn header_type(self) -> u8 {
        match self {
            Self::Bridge => 1,
            Self::Endpoint | Self::PeerEndpoint | Self::Physical | Self::PeerPhysical => 0,
        }
    }

    /// Whether virtual functions depend on it.
    pub const fn is_physical(self) -> bool {
        matches!(self, Self::Physical | Self::PeerPhysical)
    }

    /// Whether guarding a function as this kind keeps all that guarding it as `other` would.
    pub const fn covers(self, other: Self) -> bool {
        match self {
            Self::Endpoint | Self::Physical | Self::Bridge => self as u8 == other as u8,
            Self::PeerEndpoint => matches!(other, Self::Endpoint | Self::PeerEndpoint),
            Self::PeerPhysical => !matches!(other, Self::Bridge),
        }
    }
}

/// What becomes of a write. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Must keep its value.
    Preserve,
    /// Must not be set.
    Action,
    /// Taken over by its owner.
    Adopt,
    /// Written as on any boot.
    Cold,
    /// The driver decides.
    Driver,
    /// Read-only.
    Read,
    /// Not there.
    Absent,
}

/// What a write does to the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Nothing.
    Ro,
    /// Sets them.
    Rw,
    /// Clears those written as one.
    Rw1c,
}

/// Where a block of rows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The header, of either type.
    Header,
    /// The header of type 0.
    Type0,
    /// The header of type 1.
    Type1,
    /// A capability.
    Cap(CapId),
    /// A designated vendor-specific extended capability of this vendor and with this number.
    Dvsec {
        /// Vendor.
        vendor: u16,
        /// The vendor's number.
        id: u16,
    },
}

/// How often a row occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Once.
    Once,
    /// This often, 4 bytes apart.
    Dwords(u16),
    /// As often as some bits of the 32-bit register at `at` say, and `plus`.
    Count {
        /// The register's offset in the capability.
        at: u16,
        /// Lowest bit of the count.
        shift: u8,
        /// The count's bits after the shift.
        mask: u16,
        /// Added to the count.
        plus: u16,
        /// Bytes from one to the next.
        step: u16,
    },
    /// The egress control vector: one bit a port, if the ACS capability has it.
    EgressVector,
    /// Once for each link stream of the IDE capability, or each selective stream, which follow them
    /// and vary in length.
    Streams {
        /// Whether the selective ones are meant.
        selective: bool,
    },
}

/// A condition for a row to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// None.
    Always,
    /// The PCI Express capability has version 2.
    Version2,
    /// The port has a slot.
    Slot,
    /// The function has an interrupt pin.
    Pin,
    /// The TPH capability itself has the steering table.
    SteeringHere,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub field: &'static str,
    /// First byte, from the start of the capability or of the space.
    pub first: u16,
    /// Its bits in the little-endian number that starts there. Never reaches into another dword.
    pub bits: u32,
    /// What a write does to them.
    pub access: Bits,
    /// One class for each of the first four of [`Kind::ALL`].
    pub class: [Class; 4],
    /// What would break; for a field that is not guarded, why not.
    pub reason: &'static str,
    /// How often.
    pub repeat: Repeat,
    /// Under which condition.
    pub when: When,
    /// Kinds, bit n for entry n of [`Kind::ALL`], of which the field must read as zero, or the
    /// function is not of that kind or cannot be preserved.
    pub zero: u8,
    /// How software asks for it; `None` if nobody does.
    pub setting: Option<Setting>,
    /// What a cold boot makes of it.
    pub boot: Boot,
    /// Whether what is found in an incoming function is its value for good, also after FINISH.
    pub for_life: bool,
    /// Somebody other than the driver must say before FINISH that he knows what it holds, if the
    /// function has arrived with this one on: the field itself, or the one that makes it count.
    pub confirmed: Option<Setting>,
}

impl Row {
    /// The class for this kind.
    pub const fn class(&self, kind: Kind) -> Class {
        let [endpoint, peer, bridge, physical] = self.class;
        match kind {
            Kind::Endpoint => endpoint,
            Kind::PeerEndpoint => peer,
            Kind::Bridge => bridge,
            Kind::Physical => physical,
            Kind::PeerPhysical => match (peer, physical) {
                (Class::Preserve, _) | (_, Class::Preserve) => Class::Preserve,
                (Class::Action, _) | (_, Class::Action) => Class::Action,
                _ => peer,
            },
        }
    }

    /// Whether the field must read as zero in a preserved function of this kind.
    pub const fn must_be_zero(&self, kind: Kind) -> bool {
        let column = match kind {
            Kind::PeerPhysical => Kind::Physical,
            kind => kind,
        };
        self.zero >> column as u8 & 1 != 0
    }

    const fn dwords(mut self, count: u16) -> Self {
        self.repeat = Repeat::Dwords(count);
        self
    }

    const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    const fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    const fn zero(mut self, kinds: u8) -> Self {
        self.zero = kinds;
        self
    }

    const fn is(mut self, setting: Setting) -> Self {
        self.setting = Some(setting);
        self
    }

    const fn boot(mut self, boot: Boot) -> Self {
        self.boot = boot;
        self
    }

    const fn for_life(mut self) -> Self {
        self.for_life = true;
        self
    }

    const fn confirmed(mut self, enable: Setting) -> Self {
        self.confirmed = Some(enable);
        self
    }
}

/// The rows of the header or of one capability.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Where.
    pub place: Place,
    /// The name in the specification.
    pub name: &'static str,
    /// The fields.
    pub rows: &'static [Row],
}

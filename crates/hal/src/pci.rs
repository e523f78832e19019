//! Configuration space of PCI functions.

use core::fmt;

/// The address of a PCI function: segment, bus, device, function.
///
/// Prints as lspci does: `0000:3a:00.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbdf {
    segment: u32,
    bdf: u16,
}

impl Sbdf {
    /// The function at this place, or `None` for a device above 31 or a function above 7.
    ///
    /// Segments are 32 bits wide: Linux numbers some host bridges above 0xffff.
    pub const fn new(segment: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        let bdf = (bus as u16) << 8 | (device as u16) << 3 | function as u16;
        Some(Self { segment, bdf })
    }

    /// The function with this routing identifier, `bus << 8 | device << 3 | function`.
    pub const fn from_bdf(segment: u32, bdf: u16) -> Self {
        Self { segment, bdf }
    }

    /// PCI segment group; Linux calls it domain.
    pub const fn segment(self) -> u32 {
        self.segment
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.bdf >> 8) as u8
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.bdf >> 3) as u8 & 31
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.bdf as u8 & 7
    }

    /// Routing identifier, `bus << 8 | device << 3 | function`.
    pub const fn bdf(self) -> u16 {
        self.bdf
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.segment,
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

/// How wide an access is. Hardware distinguishes: a narrow write never becomes a wide one, which
/// would clear write-one-to-clear bits beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
}

impl Width {
    /// Number of bytes.
    pub const fn bytes(self) -> u16 {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// All bits that a value of this width can have.
    pub const fn mask(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes() as u32)
    }
}

/// A place in configuration space that one access can reach: naturally aligned, in 0..4096.
///
/// Valid by construction, so a layer in a stack of layers never checks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    offset: u16,
    width: Width,
}

impl Access {
    /// Bytes of a PCI Express function's configuration space.
    pub const SPACE: u16 = 4096;

    /// The access of `width` at byte `offset`.
    ///
    /// # Errors
    /// [`PciError::BadAccess`] if `offset` is not a multiple of the width, or above 4095.
    pub const fn new(offset: u16, width: Width) -> Result<Self, PciError> {
        if offset < Self::SPACE && offset.is_multiple_of(width.bytes()) {
            Ok(Self { offset, width })
        } else {
            Err(PciError::BadAccess { offset, width })
        }
    }

    /// First byte.
    pub const fn offset(self) -> u16 {
        self.offset
    }

    /// One past the last byte.
    pub const fn end(self) -> u16 {
        self.offset + self.width.bytes()
    }

    /// Width.
    pub const fn width(self) -> Width {
        self.width
    }
}

/// Why an access did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PciError {
    /// The offset is not a multiple of the width, or outside configuration space.
    BadAccess {
        /// Byte offset asked for.
        offset: u16,
        /// Width asked for.
        width: Width,
    },
    /// The access method does not reach this function, or not this part of its space.
    Unreachable {
        /// The function asked for.
        function: Sbdf,
        /// Byte offset asked for.
        offset: u16,
    },
    /// The access method reports that the access failed.
    Failed {
        /// The function asked for.
        function: Sbdf,
        /// Byte offset asked for.
        offset: u16,
    },
    /// The write would change something that must stay, so none of it was written.
    Refused {
        /// The function asked for.
        function: Sbdf,
        /// The register field that must stay.
        field: &'static str,
        /// What would break.
        reason: &'static str,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAccess { offset, width } => {
                write!(
                    f,
                    "offset {offset:#x} does not allow {} bytes",
                    width.bytes()
                )
            }
            Self::Unreachable { function, offset } => {
                write!(f, "{function}: offset {offset:#x} is out of reach")
            }
            Self::Failed { function, offset } => {
                write!(f, "{function}: the access at {offset:#x} failed")
            }
            Self::Refused {
                function,
                field,
                reason,
            } => write!(f, "{function}: write refused, {field} must stay: {reason}"),
        }
    }
}

impl core::error::Error for PciError {}

/// Reads and writes configuration space, with exactly the width asked for.
///
/// Layers (a cache, a guard) implement the trait they wrap, so they stack.
///
/// # What the implementer does
/// * An access of one width reaches the function as one access of that width.
/// * A function that is absent reads as all ones, as the bus answers; that is not an error.
/// * Two CPUs may call at once.
pub trait PciConfigAccess {
    /// Reads; bits above the width are zero.
    ///
    /// # Errors
    /// [`PciError::Unreachable`] or [`PciError::Failed`].
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError>;

    /// Writes the bits of `value` that the width holds.
    ///
    /// # Errors
    /// As [`PciConfigAccess::read`], and [`PciError::Refused`]. Then nothing was written.
    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError>;

    /// Reads one byte.
    ///
    /// # Errors
    /// As [`PciConfigAccess::read`], and [`PciError::BadAccess`].
    fn read_u8(&self, function: Sbdf, offset: u16) -> Result<u8, PciError> {
        Ok(self.read(function, Access::new(offset, Width::U8)?)? as u8)
    }

    /// Reads two bytes.
    ///
    /// # Errors
    /// As [`PciConfigAccess::read`], and [`PciError::BadAccess`].
    fn read_u16(&self, function: Sbdf, offset: u16) -> Result<u16, PciError> {
        Ok(self.read(function, Access::new(offset, Width::U16)?)? as u16)
    }

    /// Reads four bytes.
    ///
    /// # Errors
    /// As [`PciConfigAccess::read`], and [`PciError::BadAccess`].
    fn read_u32(&self, function: Sbdf, offset: u16) -> Result<u32, PciError> {
        self.read(function, Access::new(offset, Width::U32)?)
    }

    /// Writes one byte.
    ///
    /// # Errors
    /// As [`PciConfigAccess::write`], and [`PciError::BadAccess`].
    fn write_u8(&self, function: Sbdf, offset: u16, value: u8) -> Result<(), PciError> {
        self.write(function, Access::new(offset, Width::U8)?, value.into())
    }

    /// Writes two bytes.
    ///
    /// # Errors
    /// As [`PciConfigAccess::write`], and [`PciError::BadAccess`].
    fn write_u16(&self, function: Sbdf, offset: u16, value: u16) -> Result<(), PciError> {
        self.write(function, Access::new(offset, Width::U16)?, value.into())
    }

    /// Writes four bytes.
    ///
    /// # Errors
    /// As [`PciConfigAccess::write`], and [`PciError::BadAccess`].
    fn write_u32(&self, function: Sbdf, offset: u16, value: u32) -> Result<(), PciError> {
        self.write(function, Access::new(offset, Width::U32)?, value)
    }
}

impl<C: PciConfigAccess + ?Sized> PciConfigAccess for &C {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        (**self).read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        (**self).write(function, at, value)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn sbdf_prints_as_lspci_and_cannot_be_out_of_range() {
        let function = Sbdf::new(0, 0x3a, 0x1f, 7).unwrap();
        assert_eq!(function.to_string(), "0000:3a:1f.7");
        assert_eq!(function.bdf(), 0x3aff);
        assert_eq!(Sbdf::from_bdf(0, 0x3aff), function);
        assert_eq!(
            (function.bus(), function.device(), function.function()),
            (0x3a, 0x1f, 7)
        );
        assert_eq!(
            Sbdf::new(0x1_0000, 0, 0, 0).unwrap().to_string(),
            "10000:00:00.0"
        );
        assert_eq!(Sbdf::new(0, 0, 32, 0), None);
        assert_eq!(Sbdf::new(0, 0, 0, 8), None);
    }

    #[test]
    fn an_access_is_aligned_and_inside() {
        assert!(Access::new(0xffc, Width::U32).is_ok());
        assert_eq!(Access::new(0xfff, Width::U8).unwrap().end(), 0x1000);
        for (offset, width) in [(0xffd, Width::U16), (2, Width::U32), (0x1000, Width::U8)] {
            assert_eq!(
                Access::new(offset, width),
                Err(PciError::BadAccess { offset, width })
            );
        }
        assert_eq!(
            [Width::U8, Width::U16, Width::U32].map(Width::mask),
            [0xff, 0xffff, u32::MAX]
        );
    }
}

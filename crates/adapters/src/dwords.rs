//! Accesses of every width on top of accesses of 32 bits.

use kho_hal::{Access, PciError, Sbdf, Width};
use spin::mutex::SpinMutex;

/// What becomes of a write of 8 or 16 bits where only 32 are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarrowWrites {
    /// It is refused ([`PciError::Refused`]), and nothing is accessed.
    Refuse,
    /// The four bytes around it are read, changed and written back. Write-one-to-clear bits among
    /// the other bytes are cleared if they were set, and what other programs write to those bytes
    /// meanwhile is lost. Only for whoever knows that neither matters.
    Widen,
}

/// Accesses of four bytes, at a multiple of four.
pub(crate) trait Dwords {
    fn load(&mut self, function: Sbdf, offset: u16) -> Result<u32, PciError>;
    fn store(&mut self, function: Sbdf, offset: u16, value: u32) -> Result<(), PciError>;
}

/// An access method that has 32 bits only, under a lock: widening takes two accesses.
#[derive(Debug)]
pub(crate) struct Widened<D> {
    access: SpinMutex<D>,
    narrow: NarrowWrites,
}

impl<D: Dwords> Widened<D> {
    pub(crate) const fn new(access: D, narrow: NarrowWrites) -> Self {
        Self {
            access: SpinMutex::new(access),
            narrow,
        }
    }

    pub(crate) fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        let (offset, shift) = place(at);
        let dword = self.access.lock().load(function, offset)?;
        Ok(dword >> shift & at.width().mask())
    }

    pub(crate) fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        let (offset, shift) = place(at);
        let mut access = self.access.lock();
        if at.width() == Width::U32 {
            return access.store(function, offset, value);
        }
        match self.narrow {
            NarrowWrites::Refuse => Err(PciError::Refused {
                function,
                field: "the rest of the four bytes",
                reason: "only 32 bits can be written, which clears write-one-to-clear bits",
            }),
            NarrowWrites::Widen => {
                let others = access.load(function, offset)? & !(at.width().mask() << shift);
                access.store(
                    function,
                    offset,
                    others | (value & at.width().mask()) << shift,
                )
            }
        }
    }
}

/// The four bytes that contain an access, and by how many bits it lies above the first of them.
const fn place(at: Access) -> (u16, u32) {
    (at.offset() & !3, 8 * (at.offset() as u32 & 3))
}

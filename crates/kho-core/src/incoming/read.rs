//! Typed views of memory that a predecessor left.

use kho_hal::{FrozenMem, MemError, PhysAddr};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A structure in place. An address whose alignment `T` does not allow is an error.
pub(crate) fn object<T, M>(mem: &M, addr: PhysAddr) -> Result<&T, MemError>
where
    T: FromBytes + Immutable + KnownLayout,
    M: FrozenMem + ?Sized,
{
    let bytes = mem.bytes(addr, size_of::<T>())?;
    T::ref_from_bytes(bytes).map_err(|_| MemError::Misaligned { addr })
}

/// An array in place. An address whose alignment `T` does not allow is an error.
pub(crate) fn array<T, M>(mem: &M, addr: PhysAddr, count: usize) -> Result<&[T], MemError>
where
    T: FromBytes + Immutable,
    M: FrozenMem + ?Sized,
{
    let absent = MemError::Absent {
        addr,
        len: u64::MAX,
    };
    let len = count.checked_mul(size_of::<T>()).ok_or(absent)?;
    let bytes = mem.bytes(addr, len)?;
    <[T]>::ref_from_bytes_with_elems(bytes, count).map_err(|_| MemError::Misaligned { addr })
}

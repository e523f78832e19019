//! The real backends: all of physical memory, mapped at a constant distance.
//!
//! Most kernels keep such a map (Linux: the direct map; a unikernel: identity, distance 0).
#![allow(
    unsafe_code,
    reason = "turning a physical address into a pointer is what these backends are for"
)]

use core::slice;
use core::sync::atomic::AtomicU64;

use crate::mem::{wanted, wanted_words};
use crate::{FrozenMem, MemError, PhysAddr, PhysMem, PhysRange};

/// Physical memory that is written through atomics only, by way of a direct map.
///
/// See [`FrozenDirectMap`] for memory that is only read.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap<'a> {
    map: Map<'a>,
}

impl<'a> DirectMap<'a> {
    /// Lends the memory in `ranges`, where physical address `p` is mapped at `p + offset`
    /// (wrapping, so a map below the physical address is a negative distance).
    ///
    /// # Safety
    /// For as long as this object or a copy of it exists:
    /// * every byte of `ranges` is mapped, readable and writable, at that distance;
    /// * the memory is accessed in no other way than through 64-bit atomics, unless both accesses
    ///   only read; in particular no Rust reference to plain data covers it, and no
    ///   [`FrozenDirectMap`] lends it;
    /// * no range includes the null pointer once mapped, and none is longer than `isize::MAX`.
    pub const unsafe fn new(offset: usize, ranges: &'a [PhysRange]) -> Self {
        Self {
            map: Map { offset, ranges },
        }
    }
}

impl PhysMem for DirectMap<'_> {
    #[inline]
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        let pointer = self.map.pointer(wanted_words(addr, count)?)?;
        if !pointer.addr().is_multiple_of(align_of::<AtomicU64>()) {
            return Err(MemError::Misaligned { addr });
        }
        // SAFETY: `from_raw_parts`:
        // * valid: `pointer` checked that one of the ranges contains all `count` words, and `new`
        //   requires the ranges to be mapped while `self` lives; the result borrows `self`;
        // * aligned: checked above;
        // * initialised: any 64 bits are an `AtomicU64`;
        // * no aliasing: `new` requires all other accesses to be atomic, which a shared slice of
        //   atomics allows;
        // * not longer than `isize::MAX`: `new` requires it of the range.
        Ok(unsafe { slice::from_raw_parts(pointer.cast::<AtomicU64>(), count) })
    }
}

/// Physical memory that nobody writes, by way of a direct map: what a predecessor left behind.
#[derive(Clone, Copy, Debug)]
pub struct FrozenDirectMap<'a> {
    map: Map<'a>,
}

impl<'a> FrozenDirectMap<'a> {
    /// Lends the memory in `ranges`, where physical address `p` is mapped at `p + offset`
    /// (wrapping, so a map below the physical address is a negative distance).
    ///
    /// # Safety
    /// For as long as this object or a copy of it exists:
    /// * every byte of `ranges` is mapped and readable at that distance;
    /// * nothing writes to memory while bytes of it that this object lent are borrowed: a
    ///   preserved page that has been taken into use may be written once nothing borrows it;
    /// * no range includes the null pointer once mapped, and none is longer than `isize::MAX`.
    pub const unsafe fn new(offset: usize, ranges: &'a [PhysRange]) -> Self {
        Self {
            map: Map { offset, ranges },
        }
    }
}

impl FrozenMem for FrozenDirectMap<'_> {
    #[inline]
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let pointer = self.map.pointer(wanted(addr, len as u64)?)?;
        // SAFETY: `from_raw_parts`:
        // * valid: `pointer` checked that one of the ranges contains all `len` bytes, and `new`
        //   requires the ranges to be mapped while `self` lives; the result borrows `self`;
        // * aligned and initialised: any byte is a `u8`;
        // * no aliasing: `new` requires that nothing writes while the result is borrowed;
        // * not longer than `isize::MAX`: `new` requires it of the range.
        Ok(unsafe { slice::from_raw_parts(pointer, len) })
    }
}

/// Where physical memory is mapped.
#[derive(Clone, Copy, Debug)]
struct Map<'a> {
    offset: usize,
    ranges: &'a [PhysRange],
}

impl Map<'_> {
    /// The address at which `wanted` is mapped, if one range contains all of it.
    #[inline]
    fn pointer(&self, wanted: PhysRange) -> Result<*const u8, MemError> {
        let absent = MemError::Absent {
            addr: wanted.start(),
            len: wanted.size(),
        };
        let known = self.ranges.iter().any(|range| range.contains_range(wanted));
        let phys = usize::try_from(wanted.start().as_u64()).map_err(|_| absent)?;
        let address = phys.wrapping_add(self.offset);
        if known && address != 0 {
            Ok(core::ptr::with_exposed_provenance(address))
        } else {
            Err(absent)
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;

    fn at(addr: u64) -> PhysAddr {
        PhysAddr::new(addr)
    }

    #[test]
    fn lends_words_and_bytes_inside_its_ranges_only() {
        let memory = [7u64; 16];
        let offset = memory.as_ptr().expose_provenance().wrapping_sub(0x1000);
        let ranges = [PhysRange::new(at(0x1000), 128).unwrap()];
        // SAFETY: 128 bytes at `memory` are mapped at this distance, and only the map is used.
        let map = unsafe { FrozenDirectMap::new(offset, &ranges) };
        assert_eq!(
            map.bytes(at(0x1001), 9).unwrap(),
            [0, 0, 0, 0, 0, 0, 0, 7, 0]
        );
        assert_eq!(map.bytes(at(0x1078), 8).unwrap().len(), 8);
        let absent = |addr, len| {
            Err(MemError::Absent {
                addr: at(addr),
                len,
            })
        };
        assert_eq!(map.bytes(at(0x1078), 9), absent(0x1078, 9));
        assert_eq!(map.bytes(at(0xfff), 1), absent(0xfff, 1));
        assert_eq!(map.bytes(at(u64::MAX), 2), absent(u64::MAX, 2));
    }

    #[test]
    fn words_are_aligned_and_shared() {
        let mut memory = [0u64; 16];
        let offset = memory.as_mut_ptr().expose_provenance().wrapping_sub(0x1000);
        let ranges = [PhysRange::new(at(0x1000), 128).unwrap()];
        // SAFETY: 128 bytes at `memory` are mapped at this distance, and only the map is used
        // until the vector is read after the map's last use.
        let map = unsafe { DirectMap::new(offset, &ranges) };
        assert_eq!(
            map.words(at(0x1004), 1).unwrap_err(),
            MemError::Misaligned { addr: at(0x1004) }
        );
        assert!(map.words(at(0x1000), 17).is_err());
        assert!(map.words(at(0x1000), usize::MAX).is_err());
        map.words(at(0x1008), 1).unwrap()[0].store(5, Ordering::Relaxed);
        map.write(at(0x1013), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
            .unwrap();
        let mut back = [0; 12];
        map.read(at(0x1012), &mut back).unwrap();
        assert_eq!(back, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]);
        assert_eq!(memory[1], 5);
    }
}

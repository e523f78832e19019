//! A virtual machine's memory, as `vm-memory` 0.18 maps it, behind the traits of `kho_hal`.
//!
//! A hypervisor that is built on rust-vmm has its guest's memory in a `GuestMemoryMmap`. With the
//! two types here it can make a handover in it, as the guest's firmware would, and check one that
//! a guest made, before the guest's next kernel does.
//!
//! | type | implements | for |
//! | --- | --- | --- |
//! | [`GuestMem`] | `PhysMem` | making a handover in memory that others write as well |
//! | [`FrozenGuestMem`] | `FrozenMem` | reading a handover while the guest stands still |
//!
//! It needs `std`, as `vm-memory` does; all other crates of the family do without.
//!
//! # Example
//! ```
//! use kho_hal::{FrozenMem, PhysAddr, PhysMem};
//! use kho_vm_memory::{FrozenGuestMem, GuestMem};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x4000_0000), 1 << 20)])?;
//! // SAFETY: memory of this process alone, which nothing else accesses.
//! let guest = unsafe { GuestMem::new(&ram) };
//! guest.write(PhysAddr::new(0x4000_1003), b"handed over")?;
//! // SAFETY: and nobody writes to it any more.
//! let frozen = unsafe { FrozenGuestMem::new(&ram) };
//! assert_eq!(frozen.bytes(PhysAddr::new(0x4000_1003), 11)?, b"handed over");
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Limits
//! * What is lent lies in one region: a range across two regions is absent, even if they touch.
//! * Writes do not show in the dirty bitmap, because words are lent, not copied.
#![allow(
    unsafe_code,
    reason = "vm-memory lends pointers; turning them into slices is what this crate is for"
)]

use core::slice;
use core::sync::atomic::AtomicU64;

use kho_hal::{FrozenMem, MemError, PhysAddr, PhysMem};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// A guest's memory that is written through atomics only.
#[derive(Debug)]
pub struct GuestMem<'a, G> {
    guest: &'a G,
}

impl<'a, G: GuestMemoryBackend> GuestMem<'a, G> {
    /// Lends the memory of `guest`.
    ///
    /// # Safety
    /// For as long as this object exists:
    /// * all of the guest's memory stays mapped while `guest` is borrowed: a Xen guest's, of which
    ///   pieces are mapped on demand, does not;
    /// * in this process, it is accessed through 64-bit atomics only, unless both accesses only
    ///   read. A guest that runs meanwhile accesses it as a device would.
    pub const unsafe fn new(guest: &'a G) -> Self {
        Self { guest }
    }
}

impl<G: GuestMemoryBackend> PhysMem for GuestMem<'_, G> {
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        if !addr.is_aligned_to(8) {
            return Err(MemError::Misaligned { addr });
        }
        let pointer = pointer(self.guest, addr, count.checked_mul(8))?;
        if !pointer.cast::<AtomicU64>().is_aligned() {
            return Err(MemError::Misaligned { addr });
        }
        // SAFETY: `from_raw_parts`:
        // * valid: `vm-memory` maps all of the slice that `pointer` was given, and `new` requires
        //   that it stays mapped while `guest` is borrowed, which the result is not longer;
        // * aligned: checked above;
        // * initialised: mapped memory is, and any 64 bits are an `AtomicU64`;
        // * no aliasing: `new` requires all other accesses to be atomic;
        // * not longer than `isize::MAX`: a mapping is not.
        Ok(unsafe { slice::from_raw_parts(pointer.cast(), count) })
    }
}

/// A guest's memory while nobody writes to it.
#[derive(Debug)]
pub struct FrozenGuestMem<'a, G> {
    guest: &'a G,
}

impl<'a, G: GuestMemoryBackend> FrozenGuestMem<'a, G> {
    /// Lends the memory of `guest`.
    ///
    /// # Safety
    /// For as long as this object exists:
    /// * all of the guest's memory stays mapped while `guest` is borrowed: a Xen guest's, of which
    ///   pieces are mapped on demand, does not;
    /// * nothing writes to it: the guest's processors stand still, and so do the devices that the
    ///   hypervisor emulates.
    pub const unsafe fn new(guest: &'a G) -> Self {
        Self { guest }
    }
}

impl<G: GuestMemoryBackend> FrozenMem for FrozenGuestMem<'_, G> {
    fn bytes(&self, addr: PhysAddr, len: usize) -> Result<&[u8], MemError> {
        let pointer = pointer(self.guest, addr, Some(len))?;
        // SAFETY: `from_raw_parts`:
        // * valid: as in `GuestMem::words`;
        // * aligned and initialised: any byte of mapped memory is a `u8`;
        // * no aliasing: `new` requires that nothing writes;
        // * not longer than `isize::MAX`: a mapping is not.
        Ok(unsafe { slice::from_raw_parts(pointer, len) })
    }
}

/// Where `len` bytes at `addr` are mapped, all in one region.
fn pointer<G: GuestMemoryBackend>(
    guest: &G,
    addr: PhysAddr,
    len: Option<usize>,
) -> Result<*const u8, MemError> {
    let absent = MemError::Absent {
        addr,
        len: len.map_or(u64::MAX, |len| len as u64),
    };
    let len = len.ok_or(absent)?;
    let place = guest.get_slice(GuestAddress(addr.as_u64()), len);
    // The trait is safe: nothing but its documentation says that the slice is as long as asked for.
    let place = place
        .ok()
        .filter(|place| place.len() == len)
        .ok_or(absent)?;
    Ok(place.ptr_guard().as_ptr())
}

#[cfg(test)]
mod tests {
    use kho_core::incoming::{Incoming, Machine};
    use kho_core::outgoing::{Outgoing, Tracker};
    use kho_hal::sim::SimAlloc;
    use kho_hal::{Order, PageSize, PhysRange};
    use vm_memory::{Bytes, GuestMemoryMmap};

    use super::*;

    const PAGE: PageSize = PageSize::Size4K;
    const MIB: u64 = 1 << 20;

    /// Two regions that touch, and one apart.
    fn guest() -> GuestMemoryMmap {
        let regions = [(MIB, 2 << 20), (3 * MIB, 1 << 20), (64 * MIB, 1 << 20)];
        let regions = regions.map(|(addr, size)| (GuestAddress(addr), size));
        GuestMemoryMmap::from_ranges(&regions).unwrap()
    }

    fn at(addr: u64) -> PhysAddr {
        PhysAddr::new(addr)
    }

    #[test]
    fn lends_what_one_region_has() {
        let guest = guest();
        // SAFETY: nothing else accesses it but for `read_slice` below, after the last write.
        let mem = unsafe { GuestMem::new(&guest) };
        mem.write(at(MIB + 5), b"across words").unwrap();
        let mut back = [0; 12];
        guest.read_slice(&mut back, GuestAddress(MIB + 5)).unwrap();
        assert_eq!(&back, b"across words");
        assert_eq!(mem.words(at(64 * MIB), 1 << 17).unwrap().len(), 1 << 17);
        for (addr, count) in [
            (0, 1),
            (MIB - 8, 2),
            (3 * MIB - 8, 2),
            (4 * MIB - 8, 2),
            (64 * MIB, (1 << 17) + 1),
            (MIB, usize::MAX),
            (u64::MAX - 7, 2),
        ] {
            assert!(
                matches!(mem.words(at(addr), count), Err(MemError::Absent { .. })),
                "{addr:#x}"
            );
        }
        let addr = at(MIB + 4);
        assert_eq!(
            mem.words(addr, 1).unwrap_err(),
            MemError::Misaligned { addr }
        );

        // SAFETY: nothing writes any more.
        let frozen = unsafe { FrozenGuestMem::new(&guest) };
        assert_eq!(frozen.bytes(at(MIB + 5), 12).unwrap(), b"across words");
        assert_eq!(frozen.bytes(at(4 * MIB - 1), 1).unwrap(), [0]);
        for (addr, len) in [(4 * MIB - 1, 2), (0, 1), (u64::MAX, 1), (MIB, usize::MAX)] {
            assert!(frozen.bytes(at(addr), len).is_err(), "{addr:#x}");
        }
    }

    /// A hypervisor makes a handover in its guest's memory, and checks it.
    #[test]
    fn a_handover_in_a_guest() {
        let guest = guest();
        // SAFETY: nothing else accesses it.
        let mem = unsafe { GuestMem::new(&guest) };
        let heap = PhysRange::new(at(MIB), MIB).unwrap();
        let scratch = [PhysRange::new(at(3 * MIB), MIB).unwrap()];
        let folio = at(64 * MIB);
        let boot = {
            let alloc = SimAlloc::new(&mem, PAGE, [heap]);
            let outgoing = Outgoing::new(Tracker::new(&mem, &alloc, PAGE, &scratch).unwrap());
            let mut outgoing = outgoing.unwrap();
            let order = Order::new(8).unwrap();
            outgoing.tracker().preserve_folio(folio, order).unwrap();
            outgoing.add_blob("note", b"from the host").unwrap();
            let array = at(4 * MIB - 4096);
            outgoing.finalize(array, &mut []).unwrap().hand_over()
        };
        // SAFETY: nothing writes any more.
        let frozen = unsafe { FrozenGuestMem::new(&guest) };
        let mut workspace = [0; 256];
        let incoming = Incoming::check(&frozen, boot, Machine::unknown(PAGE), &mut workspace);
        let incoming = incoming.unwrap();
        let note = incoming.subtree("note").unwrap().range;
        assert_eq!(frozen.bytes(note.start(), 13).unwrap(), b"from the host");
        assert_eq!(incoming.restore_folio(folio).unwrap().order.as_u32(), 8);
    }
}

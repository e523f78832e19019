//! The smallest program that hands memory over: RAM of its own, an allocator that only counts up,
//! one preserved folio, one note. With an operating system it prints what its successor is told;
//! without one (`--target x86_64-unknown-none`) it is `no_std` and stops there, as a kernel would
//! jump.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kho_core::BootData;
use kho_core::outgoing::{Outgoing, OutgoingError, Tracker};
use kho_hal::{AllocError, MemError, Order, PageAlloc, PageSize, PhysAddr, PhysMem, PhysRange};

/// 1 MiB of RAM at 1 GiB: the upper half is scratch, where the successor starts.
struct Ram([AtomicU64; 1 << 17]);
static RAM: Ram = Ram([const { AtomicU64::new(0) }; 1 << 17]);
const BASE: u64 = 1 << 30;
const SCRATCH: PhysAddr = PhysAddr::new(BASE + (1 << 19));

impl PhysMem for Ram {
    fn words(&self, addr: PhysAddr, count: usize) -> Result<&[AtomicU64], MemError> {
        let absent = MemError::Absent {
            addr,
            len: count as u64 * 8,
        };
        let first = addr
            .checked_offset_from(PhysAddr::new(BASE))
            .ok_or(absent)?
            / 8;
        let words = self
            .0
            .get(first as usize..)
            .and_then(|words| words.get(..count));
        if addr.is_aligned_to(8) {
            words.ok_or(absent)
        } else {
            Err(MemError::Misaligned { addr })
        }
    }
}

/// Gives pages below scratch, lowest first, and takes none back. The RAM is zero at the start.
struct Pages(AtomicU64);

impl PageAlloc for Pages {
    fn alloc(&self, order: Order) -> Result<PhysAddr, AllocError> {
        let size = order.bytes(PageSize::Size4K).ok_or(AllocError { order })?;
        let next = |at: u64| at.checked_next_multiple_of(size)?.checked_add(size);
        let next = |at| next(at).filter(|&end| end <= SCRATCH.as_u64());
        let before = self.0.fetch_update(Relaxed, Relaxed, next);
        let before = before.map_err(|_| AllocError { order })?;
        Ok(PhysAddr::new(before.next_multiple_of(size)))
    }
    fn free(&self, _: PhysAddr, _: Order) {}
}

/// Preserves four pages, says so, and returns what the boot protocol has to pass on.
fn hand_over() -> Result<BootData, OutgoingError> {
    let pages = Pages(AtomicU64::new(BASE));
    let scratch = [PhysRange::new(SCRATCH, 1 << 19).unwrap_or_default()];
    let tracker = Tracker::new(&RAM, &pages, PageSize::Size4K, &scratch)?;
    let mut outgoing = Outgoing::new(tracker)?;
    let (guest, _) = outgoing.tracker().alloc_preserved(4 * 4096)?;
    outgoing.add_blob("guest", &guest.as_u64().to_le_bytes())?;
    Ok(outgoing.finalize(SCRATCH, &mut [])?.hand_over())
}

#[cfg(not(target_os = "none"))]
fn main() -> Result<(), OutgoingError> {
    println!("{}", hand_over()?);
    Ok(())
}

/// What every kernel has already.
#[cfg(target_os = "none")]
#[allow(
    unsafe_code,
    reason = "an entry point has a name that the linker knows"
)]
mod kernel {
    use buddy_system_allocator::LockedHeap;

    static mut HEAP_SPACE: [u8; 1 << 16] = [0; 1 << 16];
    #[global_allocator]
    static HEAP: LockedHeap<33> = LockedHeap::empty();

    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        let space = &raw mut HEAP_SPACE;
        // SAFETY: the heap alone has the space.
        unsafe { HEAP.lock().init(space.addr(), 1 << 16) };
        let _boot = super::hand_over();
        loop {}
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(test)]
mod tests {
    use kho_core::incoming::{Incoming, Machine};
    use kho_hal::FrozenMem;
    use kho_hal::sim::SimMemory;

    use super::*;

    #[test]
    fn a_successor_takes_it_over() {
        let boot = hand_over().unwrap();
        let bytes: Vec<u8> = RAM
            .0
            .iter()
            .flat_map(|word| word.load(Relaxed).to_le_bytes())
            .collect();
        let mut memory = SimMemory::from_raw(PhysAddr::new(BASE), &bytes).unwrap();
        let memory = memory.freeze();
        let machine = Machine::unknown(PageSize::Size4K);
        let mut workspace = [0; 256];
        let incoming = Incoming::check(&memory, boot, machine, &mut workspace).unwrap();
        let note = incoming.subtree("guest").unwrap().range;
        let addr = memory.bytes(note.start(), 8).unwrap();
        let addr = PhysAddr::new(u64::from_le_bytes(addr.try_into().unwrap()));
        assert_eq!(incoming.restore_folio(addr).unwrap().order.as_u32(), 2);
    }
}

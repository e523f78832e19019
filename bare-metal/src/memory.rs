//! Who may use which memory, and the library's direct maps over it.
//!
//! RAM falls into three parts that share no byte: this image; what is read as bytes (everything the
//! predecessor and the boot loader left); what is written as words (free pages, and the places in
//! scratch where the next kernel is put). Everything is mapped where it is.
#![allow(
    unsafe_code,
    reason = "the direct maps are created here, and only here"
)]

use alloc::boxed::Box;
use alloc::vec::Vec;

use kho::core::incoming::Incoming;
use kho::hal::{DirectMap, FrozenDirectMap, PhysRange};

use crate::image;
use crate::machine::{Machine, PAGE};
use crate::ranges::{touched_pages, whole_pages, without};

/// The map through which what a predecessor left is read.
pub type Frozen = FrozenDirectMap<'static>;
/// The map through which new memory is written.
pub type Writable = DirectMap<'static>;

/// All RAM but this image, to be read.
pub fn frozen(machine: &Machine) -> Frozen {
    let ranges = Vec::leak(without(&machine.ram, [image::range()]));
    // SAFETY: `FrozenDirectMap::new`:
    // * mapped: `arch::machine` refuses RAM that it has not mapped where it is, and nothing is
    //   unmapped; that the ranges are RAM is the boot loader's word;
    // * not written while borrowed: what is read through this map is what the predecessor or the
    //   boot loader left; what is written is `Plan::writable`, which excludes all of that;
    // * page 0 is not RAM for a `Machine`, and no machine has `isize::MAX` bytes of it.
    unsafe { Frozen::new(0, ranges) }
}

/// Which memory is used for what.
pub struct Plan {
    /// Where the successor starts.
    pub scratch: &'static [PhysRange],
    /// Free pages outside scratch.
    pub free: Vec<PhysRange>,
    /// What is in use, so that nothing is put there.
    pub used: Vec<PhysRange>,
}

impl Plan {
    /// After a handover: all of it stays where it is, and so do the scratch areas.
    pub fn after(machine: &Machine, incoming: &Incoming<'_, Frozen>) -> Self {
        let mut used: Vec<_> = incoming.extents().collect();
        incoming.for_each_map_page(|page| used.push(page));
        let boot = incoming.boot_data();
        used.extend(PhysRange::new(boot.scratch_addr, boot.scratch_size));
        let scratch = incoming.scratch().areas().collect();
        Self::new(machine, scratch, used)
    }

    /// Without a handover: the scratch areas are the caller's choice.
    pub fn new(machine: &Machine, scratch: Vec<PhysRange>, mut used: Vec<PhysRange>) -> Self {
        let boot = machine.boot_memory.iter();
        used.extend(boot.map(|&range| touched_pages(range, PAGE)));
        used.push(image::range());
        let taken = used.iter().chain(&scratch).copied();
        let free = whole_pages(&without(&machine.ram, taken), PAGE);
        Self {
            scratch: Vec::leak(scratch),
            free,
            used,
        }
    }

    /// Memory to be written: what is free, what nobody uses in scratch, and `kept`, preserved
    /// memory that is taken into use and not read as the predecessor's any more. Once for each plan.
    pub fn writable(&self, kept: &[PhysRange]) -> &'static Writable {
        let scratch = without(self.scratch, self.used.iter().copied());
        let kept = without(kept, [image::range()]);
        let ranges = [&self.free, &*whole_pages(&scratch, PAGE), &kept].concat();
        // SAFETY: `DirectMap::new`:
        // * mapped: as in `frozen`, and writable;
        // * accessed through atomics only: no Rust object lies outside the image, which is in
        //   `used`; what a frozen map is asked for is what the predecessor and the boot loader
        //   left, which is in `used` as well, less `kept`;
        // * null and length: as in `frozen`.
        let map = unsafe { Writable::new(0, Vec::leak(ranges)) };
        Box::leak(Box::new(map))
    }
}

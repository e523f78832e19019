//! A handover made from nothing: nobody handed anything to us.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;

use kho::abi::fdt::Generation;
use kho::core::incoming::{Folio, Region};
use kho::core::outgoing::luo::Luo;
use kho::core::outgoing::{Outgoing, StateTree, metadata, reserve_mem};
use kho::core::{BootData, Tracker};
use kho::hal::{Order, PageAlloc, PhysAddr, PhysMem, PhysRange};
use kho_interop_plan::{NOTE, REGION, REGION_SEED, REGION_SIZE, RELEASE, SESSIONS, fill};
use serde_json::json;

use crate::arch;
use crate::error::{Error, Result};
use crate::hand_over::{Handover, Keeper, KeptFile};
use crate::machine::{Machine, PAGE};
use crate::memory::{Frozen, Plan, Writable};
use crate::next::{Next, Room};
use crate::pages::Pages;
use crate::say::fact;

const MIB: u64 = 1 << 20;
/// Where a successor starts: room for a kernel and its RAM disk, where kernels like to be.
const SCRATCH_OFFSET: u64 = 16 * MIB;
const SCRATCH_SIZE: u64 = 160 * MIB;

/// The start of a handover.
pub struct Begun {
    pub outgoing: Handover<'static>,
    pub map: &'static Writable,
    pub pages: &'static Pages,
    pub room: Room,
}

/// Begins a handover of which all memory is ours to arrange.
pub fn begin(machine: &Machine) -> Result<Begun> {
    let scratch = machine.ram.iter().find_map(|range| {
        let start = range.start().as_u64().next_multiple_of(4 * MIB) + SCRATCH_OFFSET;
        let scratch = PhysRange::new(PhysAddr::new(start), SCRATCH_SIZE)?;
        range.contains_range(scratch).then_some(scratch)
    });
    let scratch = vec![scratch.ok_or(Error::missing("RAM for scratch"))?];
    let plan = Plan::new(machine, scratch, Vec::new());
    let map = plan.writable(&[]);
    let pages: &'static Pages = Box::leak(Box::new(Pages::new(map, &plan.free)));
    let outgoing = Outgoing::new(Tracker::new(map, pages, PAGE, plan.scratch)?)?;
    let room = Room::new(&plan);
    Ok(Begun {
        outgoing,
        map,
        pages,
        room,
    })
}

/// The sessions and the region of the plan, and a note; ready to be handed over as `generation`.
pub fn plan(begun: &mut Begun, generation: Generation) -> Result<BootData> {
    let Begun {
        outgoing,
        map,
        pages,
        room,
    } = begun;
    metadata::publish(outgoing, RELEASE, None)?;
    let order = Order::for_bytes(REGION_SIZE, PAGE).unwrap_or_default();
    let start = pages.alloc(order).map_err(|_| Error::missing("memory"))?;
    let range = PhysRange::new(start, REGION_SIZE).unwrap_or_default();
    write(map, range, REGION_SEED, 0)?;
    reserve_mem::publish(
        outgoing,
        &[Region {
            name: REGION,
            range,
        }],
    )?;
    let place = json!({ "name": REGION, "start": start.as_u64(), "size": REGION_SIZE });
    fact("region", place);
    outgoing.add_blob(NOTE, RELEASE.as_bytes())?;
    let mut luo = sessions(outgoing, map, pages)?;
    let array = room.take(PAGE.bytes(), PAGE.bytes(), 0, u64::MAX)?;
    let ready = match generation {
        Generation::V4 => outgoing.finalize(array, &mut [&mut luo])?.hand_over(),
        older => {
            let state = StateTree::new();
            outgoing
                .finalize_as(older, array, &mut [&mut luo], &state)?
                .hand_over()
        }
    };
    Ok(ready)
}

/// Makes the plan's handover and gives it to the kernel that was loaded beside us.
pub fn run(memory: &Frozen, machine: &Machine) -> Result<Infallible> {
    let generation = match machine.option("generation") {
        None => Generation::V4,
        Some(name) => {
            let mut all = Generation::ALL.into_iter();
            let known = all.find(|generation| generation.name() == name);
            known.ok_or(Error::missing("such generation"))?
        }
    };
    let next = Next::loaded(memory, machine)?;
    let mut begun = begin(machine)?;
    let boot = plan(&mut begun, generation)?;
    let Begun { map, mut room, .. } = begun;
    arch::boot(memory, map, &mut room, machine, &next, Some(&boot))
}

/// The sessions of the plan, in single pages as Linux has them.
fn sessions(
    outgoing: &Handover<'static>,
    map: &Writable,
    pages: &Pages,
) -> Result<Luo<Keeper<'static>>> {
    let tracker = outgoing.tracker();
    let mut luo = Luo::new(outgoing, 0)?;
    for session in SESSIONS {
        luo.create_session(tracker, session.name)?;
        for file in session.files {
            let mut folios = Vec::new();
            for index in 0..file.size.div_ceil(PAGE.bytes()) {
                let order = Order::ZERO;
                let page = pages.alloc(order).map_err(|_| Error::missing("memory"))?;
                let offset = index * PAGE.bytes();
                // Linux keeps zeros behind the end of a file.
                let size = PAGE.bytes().min(file.size - offset);
                let range = PhysRange::new(page, size).unwrap_or_default();
                write(map, range, file.seed, offset)?;
                folios.push((index, Folio { addr: page, order }));
            }
            let kept = KeptFile::made(file.size, folios);
            luo.preserve_file(tracker, session.name, file.token, Box::new(kept))?;
        }
    }
    Ok(luo)
}

/// Writes a pattern, from byte `offset` of it on.
fn write(map: &Writable, range: PhysRange, seed: u64, offset: u64) -> Result<()> {
    let mut bytes = [0; 4096];
    let mut done = 0;
    while done < range.size() {
        let count = (range.size() - done).min(bytes.len() as u64);
        let part = bytes.get_mut(..count as usize).unwrap_or_default();
        fill(seed, offset + done, part);
        map.write(PhysAddr::new(range.start().as_u64() + done), part)?;
        done += count;
    }
    Ok(())
}

//! The second program: it knows the boot data and its machine, and trusts nothing.

use std::error::Error;

use kho::core::BootData;
use kho::core::incoming::{Incoming, Machine, Ram};
use kho::hal::{FrozenMem, PhysRange};
use kho_draw::MemoryMap;

use crate::Log;
use crate::machine::{OOPS, PAGE, RAM, guest, pattern, range};

/// Takes over. What comes out is a map of what was found.
pub fn run<M: FrozenMem>(
    log: &Log,
    memory: &M,
    boot: BootData,
) -> Result<MemoryMap, Box<dyn Error>> {
    let ram = RAM.map(range);
    let machine = Machine {
        page_size: PAGE,
        ram: Ram::Known(&ram),
        v1_bitmaps: None,
    };
    let mut workspace = [0; 256];
    let incoming = log.step("incoming", "check", || {
        let incoming = Incoming::check(memory, boot, machine, &mut workspace)?;
        let generation = incoming.generation().compatible();
        Ok::<_, Box<dyn Error>>((incoming, generation.to_owned()))
    })?;
    log.step("incoming", "list what is preserved", || {
        let folios = incoming.folios().count();
        let bytes: u64 = incoming.extents().map(PhysRange::size).sum();
        let extents = incoming.extents().count();
        let found = format!("{folios} folios, {extents} extents, {} MiB", bytes >> 20);
        Ok::<_, Box<dyn Error>>(((), found))
    })?;
    log.step("incoming", "sub-blobs and regions", || {
        let note = incoming.subtree("example").ok_or("the note is gone")?;
        let note = memory.bytes(note.range.start(), note.range.size() as usize)?;
        expect(note == b"a note from the predecessor", "the note")?;
        let metadata = incoming.metadata().known().ok_or("the metadata is gone")?;
        expect(metadata.kexec_count.get() == 1, "the count of kexecs")?;
        let oops = incoming
            .reserve_mem()
            .find("oops")
            .ok_or("the region is gone")?;
        expect(oops.range == range(OOPS), "the region's place")?;
        verify(memory, oops.range)?;
        let who = metadata.previous_release;
        let note = String::from_utf8_lossy(note);
        Ok::<_, Box<dyn Error>>(((), format!("{who} wrote {note:?}; oops at {}", oops.range)))
    })?;
    log.step("incoming", "verify the guest's memory", || {
        let luo = incoming.luo().known().ok_or("LUO is gone")?;
        let session = luo.session_named("vm0").ok_or("the session is gone")?;
        let file = session.file(0x10).and_then(|file| file.memfd());
        let file = file.ok_or("the guest's memory is gone")?;
        let mut bytes = 0;
        for (segment, (index, folio)) in file.segments().zip(guest()) {
            let place = (index * PAGE.bytes(), folio.range(PAGE));
            expect((segment.offset, segment.range) == place, "a folio's place")?;
            // What an allocator would take into use.
            let restored = incoming.restore_folio(folio.addr);
            expect(restored == Some(folio), "a folio's order")?;
            verify(memory, segment.range)?;
            bytes += segment.range.size();
        }
        expect(
            bytes == file.descriptor().size.get(),
            "the size of the guest's memory",
        )?;
        expect(
            file.locate(bytes).is_none(),
            "the end of the guest's memory",
        )?;
        Ok::<_, Box<dyn Error>>(((), format!("{} MiB, byte by byte", bytes >> 20)))
    })?;
    Ok(MemoryMap::of(ram, &incoming))
}

fn expect(holds: bool, what: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("{what} differs"))
    }
}

fn verify<M: FrozenMem>(memory: &M, range: PhysRange) -> Result<(), Box<dyn Error>> {
    let bytes = memory.bytes(range.start(), range.size() as usize)?;
    for (i, word) in bytes.chunks_exact(8).enumerate() {
        let addr = range.start().as_u64() + i as u64 * 8;
        if word != pattern(addr).to_le_bytes() {
            return Err(format!("memory at {addr:#x} differs").into());
        }
    }
    Ok(())
}

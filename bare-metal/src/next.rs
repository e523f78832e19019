//! The next kernel: where it comes from, and where it goes.
//!
//! It is found in the LUO session `boot`, which each program hands on, or, where nobody handed
//! anything over, in the RAM disk: a flattened device tree with the properties `kernel`, `initrd`
//! and `cmdline`.

use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use kho::core::incoming::{Incoming, Session};
use kho::core::outgoing::{Placement, find_hole};
use kho::hal::{FrozenMem, PhysAddr, PhysMem, PhysRange};
use kho_interop_plan::{BOOT, BOOT_CMDLINE, BOOT_INITRD, BOOT_KERNEL};

use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::memory::{Frozen, Plan, Writable};

/// A kernel with what it needs.
pub struct Next {
    pub kernel: Content,
    pub initrd: Content,
    pub cmdline: String,
}

/// Bytes in pieces of memory, in order.
#[derive(Default)]
pub struct Content(Vec<PhysRange>);

impl Next {
    /// The kernel in the session `boot`, if there is one.
    pub fn handed_over(memory: &Frozen, incoming: &Incoming<'_, Frozen>) -> Result<Self> {
        let luo = incoming.luo().known().ok_or(Error::missing("LUO"))?;
        let session = luo.session_named(BOOT);
        let session = session.ok_or(Error::missing("session boot"))?;
        let cmdline = Content::of_file(&session, BOOT_CMDLINE)?;
        Ok(Self {
            kernel: Content::of_file(&session, BOOT_KERNEL)?,
            initrd: Content::of_file(&session, BOOT_INITRD)?,
            cmdline: text(&cmdline.read(memory, 0, PAGE.as_usize())?),
        })
    }

    /// The kernel that was loaded beside us.
    pub fn loaded(memory: &Frozen, machine: &Machine) -> Result<Self> {
        let disk = machine.initrd.ok_or(Error::missing("RAM disk"))?;
        let bytes = memory.bytes(disk.start(), disk.size() as usize)?;
        let fdt = Fdt::new(bytes).map_err(|_| Error::missing("kernel in the RAM disk"))?;
        let root = fdt.root();
        let value = |name| -> Option<&[u8]> { root.property(name)?.value_as().ok() };
        // Memory is mapped where it is, but that is not for this module to know.
        let place = |value: &[u8]| {
            let offset = value.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
            let start = disk.start().checked_add(offset as u64)?;
            Some(Content::of(PhysRange::new(start, value.len() as u64)?))
        };
        let kernel = value("kernel").and_then(place);
        Ok(Self {
            kernel: kernel.ok_or(Error::missing("kernel in the RAM disk"))?,
            initrd: value("initrd").and_then(place).unwrap_or_default(),
            cmdline: text(value("cmdline").unwrap_or_default()),
        })
    }

    /// This program once more, which was loaded beside us, with our RAM disk and `cmdline`.
    pub fn ourselves(memory: &Frozen, machine: &Machine, cmdline: String) -> Result<Self> {
        let disk = machine.initrd.ok_or(Error::missing("RAM disk"))?;
        Ok(Self {
            kernel: Self::loaded(memory, machine)?.kernel,
            initrd: Content::of(disk),
            cmdline,
        })
    }
}

fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from(String::from_utf8_lossy(text).trim())
}

impl Content {
    /// One piece.
    pub fn of(piece: PhysRange) -> Self {
        Self(alloc::vec![piece])
    }

    fn of_file(session: &Session<'_, Frozen>, token: u64) -> Result<Self> {
        let file = session.file(token).and_then(|file| file.memfd());
        let file = file.ok_or(Error::missing("file in session boot"))?;
        let mut end = 0;
        let mut pieces = Vec::new();
        for segment in file.segments() {
            if segment.offset != end {
                return Err(Error::missing("page in a file of session boot"));
            }
            end += segment.range.size();
            pieces.push(segment.range);
        }
        Ok(Self(pieces))
    }

    /// Number of bytes.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|piece| piece.size()).sum()
    }

    /// Calls `visit` with the bytes from `skip` on, piece by piece.
    fn visit(
        &self,
        memory: &Frozen,
        mut skip: u64,
        mut visit: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        for piece in &self.0 {
            let bytes = memory.bytes(piece.start(), piece.size() as usize)?;
            let here = skip.min(piece.size());
            skip -= here;
            visit(bytes.get(here as usize..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// At most `count` bytes from `skip` on.
    pub fn read(&self, memory: &Frozen, skip: u64, count: usize) -> Result<Vec<u8>> {
        let mut found = Vec::new();
        self.visit(memory, skip, |bytes| {
            let left = count - found.len();
            found.extend(bytes.iter().take(left));
            Ok(())
        })?;
        Ok(found)
    }

    /// Copies the bytes from `skip` on to `to`.
    pub fn copy(&self, memory: &Frozen, skip: u64, map: &Writable, to: PhysAddr) -> Result<()> {
        let mut at = to.as_u64();
        self.visit(memory, skip, |bytes| {
            map.write(PhysAddr::new(at), bytes)?;
            at += bytes.len() as u64;
            Ok(())
        })
    }
}

/// Room for the next kernel in scratch.
pub struct Room {
    areas: &'static [PhysRange],
    used: Vec<PhysRange>,
}

impl Room {
    pub fn new(plan: &Plan) -> Self {
        Self {
            areas: plan.scratch,
            used: plan.used.clone(),
        }
    }

    /// Takes room that nothing else is in, between two addresses.
    pub fn take(&mut self, size: u64, align: u64, from: u64, to: u64) -> Result<PhysAddr> {
        let bounds = PhysRange::new(PhysAddr::new(from), to.saturating_sub(from));
        let wanted = Placement {
            size,
            align: align.max(PAGE.bytes()),
            bounds: bounds.unwrap_or_default(),
            top_down: true,
        };
        let hole = find_hole(self.areas.iter().copied(), &self.used, wanted);
        let hole = hole.ok_or(Error::missing("room in scratch"))?;
        self.used.push(hole);
        Ok(hole.start())
    }
}

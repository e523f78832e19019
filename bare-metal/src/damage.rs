//! Handovers that are wrong: each is refused by the next program, which makes the next one.

use alloc::format;
use core::convert::Infallible;
use core::sync::atomic::Ordering;

use kho::abi::fdt::Generation;
use kho::abi::luo::NODE as LUO;
use kho::core::BootData;
use kho::hal::{PhysAddr, PhysMem};
use serde_json::json;

use crate::arch;
use crate::error::{Error, Result};
use crate::machine::{Machine, PAGE};
use crate::make::{self, Begun};
use crate::memory::{Frozen, Writable};
use crate::next::Next;
use crate::say::fact;
use crate::take_over;

/// What is done to a handover that was whole.
type Damage = fn(&Handed<'_>, &mut BootData) -> Result<()>;

const DAMAGES: [(&str, Damage); 12] = [
    ("root-string", |handed, boot| {
        let at = handed.find(boot.fdt_addr, b"kho-v4")?;
        handed.write(at, b"kho-v9")
    }),
    ("root-magic", |handed, boot| {
        handed.write(boot.fdt_addr, &[0])
    }),
    ("root-in-the-air", |_, boot| {
        boot.fdt_addr = PhysAddr::new(1 << 40);
        Ok(())
    }),
    ("map-misaligned", |handed, _| {
        let (entry, child) = handed.first_child()?;
        handed.put(entry, child + 8)
    }),
    ("map-cycle", |handed, _| {
        let (entry, _) = handed.first_child()?;
        handed.put(entry, handed.root.as_u64())
    }),
    ("map-outside", |handed, _| {
        let (entry, _) = handed.first_child()?;
        handed.put(entry, 1 << 41)
    }),
    ("blob-outside", |handed, boot| {
        let number = handed.luo.as_u64().to_le_bytes();
        let at = handed.find(boot.fdt_addr, &number)?;
        handed.put_unaligned(at, 1 << 41)
    }),
    ("sessions-cycle", |handed, _| {
        handed.put(handed.sessions()?, handed.sessions()?)
    }),
    ("sessions-count", |handed, _| {
        handed.put(handed.sessions()? + 8, 52)
    }),
    ("session-name", |handed, _| {
        handed.write(PhysAddr::new(handed.sessions()? + 16), &[b'x'; 64])
    }),
    ("memfd-seals", |handed, _| {
        handed.put(handed.memfd()? + 16, 0xff)
    }),
    ("memfd-folios", |handed, _| {
        handed.put(handed.memfd()? + 24, 1 << 20)
    }),
];

/// A handover that is ready, to be damaged.
struct Handed<'h> {
    map: &'h Writable,
    root: PhysAddr,
    luo: PhysAddr,
}

impl Handed<'_> {
    fn write(&self, at: PhysAddr, bytes: &[u8]) -> Result<()> {
        Ok(self.map.write(at, bytes)?)
    }

    fn put(&self, at: u64, value: u64) -> Result<()> {
        self.put_unaligned(PhysAddr::new(at), value)
    }

    fn put_unaligned(&self, at: PhysAddr, value: u64) -> Result<()> {
        self.write(at, &value.to_le_bytes())
    }

    fn word(&self, at: u64) -> Result<u64> {
        let words = self.map.words(PhysAddr::new(at), 1)?;
        Ok(words.first().map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Where `wanted` stands in a page.
    fn find(&self, page: PhysAddr, wanted: &[u8]) -> Result<PhysAddr> {
        let mut bytes = [0; 4096];
        self.map.read(page, &mut bytes)?;
        let at = bytes.windows(wanted.len()).position(|part| part == wanted);
        let at = at.ok_or(Error::missing("place to damage"))?;
        Ok(PhysAddr::new(page.as_u64() + at as u64))
    }

    /// The first entry of the map's root in use, and what is in it.
    fn first_child(&self) -> Result<(u64, u64)> {
        for at in (self.root.as_u64()..).step_by(8).take(PAGE.words()) {
            let child = self.word(at)?;
            if child != 0 {
                return Ok((at, child));
            }
        }
        Err(Error::missing("entry in the map"))
    }

    /// The first block of sessions.
    fn sessions(&self) -> Result<u64> {
        self.word(self.luo.as_u64() + 16)
    }

    /// The descriptor of the first file of the first session.
    fn memfd(&self) -> Result<u64> {
        let files = self.word(self.sessions()? + 16 + 64)?;
        self.word(files + 16 + 48)
    }
}

/// Says why the last handover is refused, and makes the next one. Done when there is none left.
pub fn run(memory: &Frozen, machine: &Machine) -> Result<()> {
    let turn: usize = match machine.option("turn") {
        Some(turn) => turn.parse().map_err(|_| Error::missing("turn"))?,
        None => 0,
    };
    if let Some((name, _)) = turn.checked_sub(1).and_then(|turn| DAMAGES.get(turn)) {
        let boot = machine.handover.clone()?;
        match take_over::check(memory, machine, boot) {
            Ok(_) => fact("accepted", json!({ "damage": name })),
            Err(Error::Incoming(error)) => {
                let (part, fault) = (format!("{:?}", error.part), format!("{:?}", error.fault));
                let text = format!("{error}");
                let what = json!({ "damage": name, "part": part, "fault": fault, "error": text });
                fact("refused", what);
            }
            Err(error) => return Err(error),
        }
    }
    match DAMAGES.get(turn) {
        Some((_, damage)) => match go_on(memory, machine, turn + 1, *damage)? {},
        None => Ok(()),
    }
}

/// Hands over damaged to this program itself, which was loaded beside us.
fn go_on(memory: &Frozen, machine: &Machine, turn: usize, damage: Damage) -> Result<Infallible> {
    let next = Next::ourselves(memory, machine, format!("interop=damage turn={turn}"))?;
    let mut begun = make::begin(machine)?;
    let mut boot = make::plan(&mut begun, Generation::V4)?;
    let Begun {
        outgoing,
        map,
        mut room,
        ..
    } = begun;
    let luo = outgoing.find(LUO).ok_or(Error::missing("LUO"))?;
    let handed = Handed {
        map,
        root: outgoing.tracker().root(),
        luo: luo.start(),
    };
    damage(&handed, &mut boot)?;
    arch::boot(memory, map, &mut room, machine, &next, Some(&boot))
}

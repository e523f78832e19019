//! What the command line asks for.
//!
//! | `interop=` | |
//! | --- | --- |
//! | `look` | take over, say what is there, power off |
//! | `relay` | take over, say what is there, hand it on to the kernel in session `boot` |
//! | `make` | make a handover from nothing, in `generation=`, for the kernel loaded beside us |
//! | `damage` | refuse damaged handovers, one after the other, each made by ourselves |
//! | `cache`, `cache-second` | hand the configuration-space cache over to ourselves |
//! | `live`, `live-second` | hand a device that does DMA over to ourselves |

use alloc::format;
use alloc::vec::Vec;

use kho::hal::{PhysAddr, PhysRange};
use serde_json::json;

use crate::error::{Error, Result};
use crate::say::fact;
use crate::{arch, damage, hand_over, image, make, memory, pci, take_over};

/// Does it.
pub fn run(entry: PhysAddr) -> Result<()> {
    let machine = arch::machine(entry)?;
    let image = image::range();
    let bounds = |range: &PhysRange| [range.start().as_u64(), range.end().as_u64()];
    let ram: Vec<_> = machine.ram.iter().map(bounds).collect();
    fact(
        "bare-metal",
        json!({
            "arch": arch::NAME,
            "entry": entry.as_u64(),
            "cmdline": machine.cmdline,
            "image": bounds(&image),
            "ram": ram,
        }),
    );
    let frozen = memory::frozen(&machine);
    match machine.option("interop") {
        Some(job @ ("look" | "relay")) => {
            let boot = machine.handover.clone()?;
            let incoming = take_over::check(&frozen, &machine, boot)?;
            take_over::state(&frozen, &incoming)?;
            if job == "relay" {
                match hand_over::relay(&frozen, &machine, &incoming)? {}
            }
            Ok(())
        }
        Some("make") => match make::run(&frozen, &machine)? {},
        Some("damage") => damage::run(&frozen, &machine),
        Some("cache") => match pci::cache::first(&frozen, &machine)? {},
        Some("cache-second") => pci::cache::second(&frozen, &machine),
        Some("live") => match pci::live::first(&frozen, &machine)? {},
        Some("live-second") => pci::live::second(&frozen, &machine),
        other => Err(Error::Other(format!("interop={other:?} is not known"))),
    }
}

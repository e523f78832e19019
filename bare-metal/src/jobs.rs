//! What the command line asks for.
//!
//! | `interop=` | |
//! | --- | --- |
//! | `look` | take over, say what is there, power off |
//! | `relay` | take over, say what is there, hand it on to the kernel in session `boot` |

use alloc::format;

use kho::hal::PhysAddr;
use serde_json::json;

use crate::error::{Error, Result};
use crate::say::fact;
use crate::{arch, hand_over, image, memory, take_over};

/// Does it.
pub fn run(entry: PhysAddr) -> Result<()> {
    let machine = arch::machine(entry)?;
    let image = image::range();
    fact(
        "bare-metal",
        json!({
            "arch": arch::NAME,
            "entry": entry.as_u64(),
            "cmdline": machine.cmdline,
            "image": [image.start().as_u64(), image.end().as_u64()],
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
        other => Err(Error::Other(format!("interop={other:?} is not known"))),
    }
}

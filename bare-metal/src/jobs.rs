//! What the command line asks for.
//!
//! | `interop=` | |
//! | --- | --- |
//! | `look` | take over, say what is there, power off |

use alloc::format;

use kho::hal::PhysAddr;
use serde_json::json;

use crate::error::{Error, Result};
use crate::say::fact;
use crate::{arch, image, memory, take_over};

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
        Some("look") => {
            let boot = machine.handover.clone()?;
            let incoming = take_over::check(&frozen, &machine, boot)?;
            take_over::state(&frozen, &incoming)
        }
        other => Err(Error::Other(format!("interop={other:?} is not known"))),
    }
}

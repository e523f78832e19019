//! Who handed over, and how often.

use kho_abi::metadata::{KexecMetadata, VERSION};
use kho_hal::{FrozenMem, PhysAddr, PhysRange};
use zerocopy::little_endian::U32;

use crate::incoming::{Fault, read};

/// The sub-blob `kexec-metadata`; `None` if its version is not known, which Linux ignores too.
pub(crate) fn check<M: FrozenMem>(
    mem: &M,
    blob: PhysRange,
) -> Result<Option<&KexecMetadata>, Fault> {
    let at = blob.start();
    let too_short = |expected: usize| Fault::Mismatch {
        at,
        found: blob.size(),
        expected: expected as u64,
    };
    if blob.size() < size_of::<U32>() as u64 {
        return Err(too_short(size_of::<U32>()));
    }
    let version: &U32 = read::object(mem, at)?;
    if version.get() != VERSION {
        return Ok(None);
    }
    if blob.size() < size_of::<KexecMetadata>() as u64 {
        return Err(too_short(size_of::<KexecMetadata>()));
    }
    let metadata: &KexecMetadata = read::object(mem, at)?;
    if metadata.previous_release.to_str().is_none() {
        let at = PhysAddr::new(at.as_u64() + size_of::<U32>() as u64);
        return Err(Fault::Name { at });
    }
    Ok(Some(metadata))
}

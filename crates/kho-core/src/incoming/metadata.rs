//! Who handed over, and how often.

use kho_abi::metadata::{KexecMetadata, VERSION};
use kho_hal::{FrozenMem, PhysRange};

use crate::incoming::read;

/// The sub-blob `kexec-metadata`; `None` if its version is not known, or it is not what its version
/// says. Nothing depends on it, and Linux goes on without it as well.
pub(crate) fn check<M: FrozenMem>(mem: &M, blob: PhysRange) -> Option<&KexecMetadata> {
    if blob.size() < size_of::<KexecMetadata>() as u64 {
        return None;
    }
    let metadata: &KexecMetadata = read::object(mem, blob.start()).ok()?;
    let known = metadata.version.get() == VERSION && metadata.previous_release.to_str().is_some();
    known.then_some(metadata)
}

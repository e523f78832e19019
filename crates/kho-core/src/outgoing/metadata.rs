//! Saying who hands over, and how often it has happened.

use kho_abi::Name;
use kho_abi::metadata::{KexecMetadata, NODE, VERSION};
use kho_hal::{PageAlloc, PhysMem};
use zerocopy::IntoBytes;

use crate::outgoing::split::Nodes;
use crate::outgoing::{Outgoing, OutgoingError};

/// Adds the sub-blob `kexec-metadata`: `release` is what this program calls itself (1 to 64
/// bytes), `incoming` is what the predecessor left, if there was one.
///
/// # Errors
/// [`OutgoingError::Name`], and those of [`Outgoing::add_blob`].
pub fn publish<M: PhysMem, A: PageAlloc, N: Nodes>(
    outgoing: &Outgoing<'_, M, A, N>,
    release: &str,
    incoming: Option<&KexecMetadata>,
) -> Result<(), OutgoingError> {
    let before = incoming.map_or(0, |metadata| metadata.kexec_count.get());
    let metadata = KexecMetadata {
        version: VERSION.into(),
        previous_release: Name::new(release)?,
        kexec_count: before.wrapping_add(1).into(),
    };
    outgoing.add_blob(NODE, metadata.as_bytes())?;
    Ok(())
}

//! What the predecessor preserved: the incoming record, in either form.
//!
//! [`Record::read`] finds the object among LUO's, checks all of it, and gives one view of both
//! forms. Nothing is allocated: the first form is searched where it lies, the second is indexed in
//! memory that the caller lends.
//!
//! # Guarantees
//! * Whatever the record holds, the result is a value: an error with what was found, never a panic.
//! * An object whose name starts with `pci` and that is not understood is an error, and so is a LUO
//!   of an unknown version. Devices that nobody knows of may be doing DMA, so the caller must not
//!   go on as if there were none.
//! * Reading takes time linear in the size of the record, times its logarithm where the second form
//!   is sorted; finding a function takes logarithmic time.
//!
//! # Not checked here
//! Whether the functions are there, and whether the counts fit the topology: nobody has enumerated
//! yet. Linux looks at neither the number of entries in use nor the counts, and stops the machine
//! where a record cannot be used.
//!
//! # Source
//! [`kho_abi::pci`].

use core::fmt;

use kho_abi::Name;
use kho_abi::pci::{PREFIX, from_key, key, v1, v2};
use kho_core::incoming::{Blocks, Component, Fault, Incoming, IncomingError};
use kho_hal::{FrozenMem, PhysAddr, Sbdf};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Which serialized form a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `pci-v1`: functions without bridges and counts.
    V1,
    /// `pci`, version 2: functions and all bridges above them, with counts.
    V2,
}

/// A preserved function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which function.
    pub function: Sbdf,
    /// How many preserved functions are at or below it; always 1 in the first form.
    pub refcount: u16,
}

/// Why a record is refused: theirs to answer for. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// LUO handed over something of a version that is not known; functions may be among it.
    LuoNotUnderstood,
    /// An object whose name starts with `pci` is none of the known forms.
    UnknownObject {
        /// Its name.
        name: Name<48>,
    },
    /// There is an object of each form.
    TwoForms,
    /// The memory of the record is not as it must be; [`Record::read`] tells how.
    Memory {
        /// What the object's number or the header says.
        at: PhysAddr,
    },
    /// A `pci` object of another version than 2.
    Version {
        /// The header.
        at: PhysAddr,
        /// The version found.
        found: u32,
    },
    /// More than there is room for.
    Count {
        /// The header.
        at: PhysAddr,
        /// The number found.
        found: u64,
        /// The largest number possible.
        max: u64,
    },
    /// The number of entries in use is not what the header says.
    Mismatch {
        /// The header.
        at: PhysAddr,
        /// Entries in use.
        found: u64,
        /// What the header says.
        expected: u64,
    },
    /// An entry of the first form is below the one before it.
    Unsorted {
        /// The function.
        function: Sbdf,
    },
    /// A function has two entries.
    Duplicate {
        /// The function.
        function: Sbdf,
    },
    /// Bytes that must be zero are not, or hold what they cannot: the reserved ones of the first
    /// form, those of a free slot of the second, kind and sizes of the object beside it.
    Reserved {
        /// The function that the entry names.
        function: Sbdf,
    },
    /// A function counts more users than there are entries.
    Refcount {
        /// The function.
        function: Sbdf,
        /// The count found.
        found: u16,
        /// The largest count possible.
        max: u64,
    },
    /// A folio is named twice: as a header, as a block of entries, or by both objects.
    Overlap {
        /// The folio.
        at: PhysAddr,
    },
    /// The workspace is too small for the index, or for the check of the handover.
    Workspace {
        /// Words needed.
        words: u64,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LuoNotUnderstood => f.write_str("LUO has a version that is not known"),
            Self::UnknownObject { name } => write!(
                f,
                "the object {} is not understood: devices may be doing DMA",
                name.to_str().unwrap_or("?")
            ),
            Self::TwoForms => f.write_str("there is a PCI record of each form"),
            Self::Memory { at } => {
                write!(
                    f,
                    "the PCI record at {at} is not all preserved, or not its own"
                )
            }
            Self::Version { at, found } => {
                write!(f, "the PCI record at {at} has the unknown version {found}")
            }
            Self::Count { at, found, max } => {
                write!(
                    f,
                    "the PCI record at {at} counts {found}, at most {max} is possible"
                )
            }
            Self::Mismatch {
                at,
                found,
                expected,
            } => write!(
                f,
                "the PCI record at {at} counts {expected} functions and has {found}"
            ),
            Self::Unsorted { function } => write!(f, "{function} is out of order in the record"),
            Self::Duplicate { function } => write!(f, "{function} is in the record twice"),
            Self::Reserved { function } => {
                write!(f, "{function}: bytes of its entry hold what they cannot")
            }
            Self::Refcount {
                function,
                found,
                max,
            } => write!(
                f,
                "{function} counts {found} users, at most {max} are possible"
            ),
            Self::Overlap { at } => write!(f, "the PCI record names the folio at {at} twice"),
            Self::Workspace { words } => write!(f, "the record needs a workspace of {words} words"),
        }
    }
}

impl core::error::Error for RecordError {}

/// A checked record. Can only be had by passing the check.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    entries: Entries<'r>,
}

#[derive(Clone, Copy, Debug)]
enum Entries<'r> {
    Array(&'r [v1::PciDevSer]),
    /// `key << 16 | refcount`, ascending: a key has 48 bits.
    Index(&'r [u64]),
}

impl<'r> Record<'r> {
    /// Finds and checks the record; `None` if the predecessor preserved no function.
    ///
    /// `workspace` is what [`Incoming::check`] needs, or one word for each function of a record of
    /// the second form, whichever is more. The second form's index stays in it.
    ///
    /// # Errors
    /// [`RecordError`]. After any of them except [`RecordError::Workspace`], no function may be
    /// taken for one that nobody preserved.
    pub fn read<'a: 'r, M: FrozenMem>(
        incoming: &Incoming<'a, M>,
        workspace: &'r mut [u64],
    ) -> Result<Option<Self>, RecordError> {
        let entries = match find(incoming)? {
            None => return Ok(None),
            Some((Form::V1, at)) => Entries::Array(read_v1(incoming, at, workspace)?),
            Some((Form::V2, at)) => Entries::Index(read_v2(incoming, at, workspace)?),
        };
        Ok(Some(Self { entries }))
    }

    /// The form that the record has.
    pub fn form(&self) -> Form {
        match self.entries {
            Entries::Array(_) => Form::V1,
            Entries::Index(_) => Form::V2,
        }
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        match self.entries {
            Entries::Array(array) => array.len(),
            Entries::Index(index) => index.len(),
        }
    }

    /// Whether no function is preserved.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of a function; `None` if it was not preserved. Logarithmic time.
    pub fn find(&self, function: Sbdf) -> Option<Entry> {
        let wanted = key(function);
        let at = match self.entries {
            Entries::Array(array) => array.binary_search_by_key(&wanted, |e| key(e.function())),
            Entries::Index(index) => index.binary_search_by_key(&wanted, |word| word >> 16),
        };
        self.entry(at.ok()?)
    }

    /// The entries, by ascending segment, bus, device and function.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + use<'r> {
        let record = *self;
        (0..self.len()).filter_map(move |at| record.entry(at))
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        Some(match self.entries {
            Entries::Array(array) => Entry {
                function: array.get(at)?.function(),
                refcount: 1,
            },
            Entries::Index(index) => {
                let word = index.get(at)?;
                Entry {
                    function: from_key(word >> 16),
                    refcount: *word as u16,
                }
            }
        })
    }
}

/// Which object is the record, and what its number is.
fn find<M: FrozenMem>(incoming: &Incoming<'_, M>) -> Result<Option<(Form, PhysAddr)>, RecordError> {
    let luo = match incoming.luo() {
        Component::Absent => return Ok(None),
        Component::NotUnderstood => return Err(RecordError::LuoNotUnderstood),
        Component::Known(luo) => luo,
    };
    let mut found = None;
    for flb in luo.flbs() {
        let name = flb.name.to_bytes().unwrap_or_default();
        if !name.starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let form = match flb.name.to_str() {
            Some(v1::NAME) => Form::V1,
            Some(v2::NAME) => Form::V2,
            _ => return Err(RecordError::UnknownObject { name: flb.name }),
        };
        let data = PhysAddr::new(flb.data.get());
        if found.replace((form, data)).is_some() {
            return Err(RecordError::TwoForms);
        }
    }
    Ok(found)
}

/// Header and blocks of an object, as the start of each page.
pub(crate) fn pages<'a, M: FrozenMem, T>(
    header: PhysAddr,
    blocks: Option<&Blocks<'a, T, M>>,
) -> impl Iterator<Item = PhysAddr> + use<'a, M, T>
where
    T: FromBytes + Immutable + KnownLayout,
{
    let blocks = blocks.copied();
    let blocks = blocks.into_iter().flat_map(|blocks| blocks.blocks());
    [header].into_iter().chain(blocks.map(|(block, _)| block))
}

/// Where a record's header is, and its blocks if its form has some.
type Object<'a, M> = (PhysAddr, Option<BlocksV2<'a, M>>);

/// The memory of the record.
pub(crate) fn object<'a, M: FrozenMem>(
    incoming: &Incoming<'a, M>,
    workspace: &mut [u64],
) -> Result<Option<Object<'a, M>>, RecordError> {
    Ok(match find(incoming)? {
        None => None,
        Some((Form::V1, at)) => Some((at, None)),
        Some((Form::V2, at)) => Some((at, Some(blocks_v2(incoming, at, workspace)?.1))),
    })
}

type BlocksV2<'a, M> = Blocks<'a, v2::PciDevSer, M>;

/// Makes sure that no page is named twice, and that none has another owner; `at` is for errors.
pub(crate) fn check_owner<M: FrozenMem, I: Iterator<Item = PhysAddr>>(
    incoming: &Incoming<'_, M>,
    at: PhysAddr,
    workspace: &mut [u64],
    pages: impl Fn() -> I,
) -> Result<(), RecordError> {
    let size = incoming.page_size().bytes();
    let pieces = || pages().map(|page| (page, size));
    let checked = incoming.one_owner(workspace, pieces);
    checked.map_err(|error| match error.fault {
        Fault::Overlap { addr } => RecordError::Overlap { at: addr },
        _ => memory(at, &error),
    })
}

/// What a handover's check found, as an error of the record at `at`.
pub(crate) fn memory(at: PhysAddr, error: &IncomingError) -> RecordError {
    match error.fault {
        Fault::Workspace { words } => RecordError::Workspace { words },
        Fault::Count { at, found, max } => RecordError::Count { at, found, max },
        _ => RecordError::Memory { at },
    }
}

fn read_v1<'a, M: FrozenMem>(
    incoming: &Incoming<'a, M>,
    at: PhysAddr,
    workspace: &mut [u64],
) -> Result<&'a [v1::PciDevSer], RecordError> {
    let header_len = size_of::<v1::PciSer>() as u64;
    let bytes = incoming
        .bytes(at, header_len, workspace)
        .map_err(|error| memory(at, &error))?;
    let header = v1::PciSer::ref_from_bytes(bytes).map_err(|_| RecordError::Memory { at })?;
    let (max, found) = (header.max_nr_devices.get(), header.nr_devices.get());
    let folio = incoming
        .folio_containing(at)
        .filter(|folio| folio.addr == at)
        .ok_or(RecordError::Memory { at })?;
    let size = folio.range(incoming.page_size()).size();
    let room = (size - header_len) / size_of::<v1::PciDevSer>() as u64;
    for (found, max) in [(max, room), (found, max)] {
        if found > max {
            return Err(RecordError::Count { at, found, max });
        }
    }
    // At most the folio's size, so neither overflows.
    let used = header_len + found * size_of::<v1::PciDevSer>() as u64;
    let bytes = incoming
        .bytes(at, used, workspace)
        .map_err(|error| memory(at, &error))?;
    let entries = bytes.get(header_len as usize..).unwrap_or_default();
    let entries =
        <[v1::PciDevSer]>::ref_from_bytes(entries).map_err(|_| RecordError::Memory { at })?;
    let mut last = None;
    for entry in entries {
        let function = entry.function();
        if entry.reserved.get() != 0 {
            return Err(RecordError::Reserved { function });
        }
        match last {
            Some(last) if last == key(function) => {
                return Err(RecordError::Duplicate { function });
            }
            Some(last) if last > key(function) => return Err(RecordError::Unsorted { function }),
            _ => last = Some(key(function)),
        }
    }
    Ok(entries)
}

/// The header of the second form, and its blocks.
fn blocks_v2<'a, M: FrozenMem>(
    incoming: &Incoming<'a, M>,
    at: PhysAddr,
    workspace: &mut [u64],
) -> Result<(&'a v2::PciSer, BlocksV2<'a, M>), RecordError> {
    let bytes = incoming
        .bytes(at, size_of::<v2::PciSer>() as u64, workspace)
        .map_err(|error| memory(at, &error))?;
    let header = v2::PciSer::ref_from_bytes(bytes).map_err(|_| RecordError::Memory { at })?;
    let found = header.version.get();
    if found != v2::VERSION {
        return Err(RecordError::Version { at, found });
    }
    let blocks = incoming
        .blocks::<v2::PciDevSer>(PhysAddr::new(header.devices.get()), workspace)
        .map_err(|error| memory(at, &error))?;
    Ok((header, blocks))
}

fn read_v2<'r, M: FrozenMem>(
    incoming: &Incoming<'_, M>,
    at: PhysAddr,
    workspace: &'r mut [u64],
) -> Result<&'r [u64], RecordError> {
    let (header, blocks) = blocks_v2(incoming, at, workspace)?;
    check_owner(incoming, at, workspace, || pages(at, Some(&blocks)))?;
    let in_use = blocks.iter().filter(|entry| entry.refcount.get() != 0);
    let used = in_use.count() as u64;
    let expected = u64::from(header.nr_devices.get());
    if used != expected {
        return Err(RecordError::Mismatch {
            at,
            found: used,
            expected,
        });
    }
    let index = usize::try_from(used)
        .ok()
        .and_then(|used| workspace.get_mut(..used))
        .ok_or(RecordError::Workspace { words: used })?;
    let mut words = index.iter_mut();
    for entry in blocks.iter() {
        let (function, refcount) = (entry.function(), entry.refcount.get());
        if refcount == 0 {
            if key(function) != 0 {
                return Err(RecordError::Reserved { function });
            }
            continue;
        }
        if u64::from(refcount) > used {
            return Err(RecordError::Refcount {
                function,
                found: refcount,
                max: used,
            });
        }
        if let Some(word) = words.next() {
            *word = key(function) << 16 | u64::from(refcount);
        }
    }
    index.sort_unstable();
    let mut pairs = index.iter().zip(index.iter().skip(1));
    if let Some((word, _)) = pairs.find(|(a, b)| *a >> 16 == *b >> 16) {
        let function = from_key(word >> 16);
        return Err(RecordError::Duplicate { function });
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use kho_core::incoming::Part;

    use super::*;

    /// How much workspace is missing is the caller's to know, and which count is wrong; all else is
    /// memory that is not the record's.
    #[test]
    fn what_the_handovers_check_says() {
        let (record, at) = (PhysAddr::new(0x1000), PhysAddr::new(0x2000));
        let (found, max, words) = (9, 8, 7);
        for (fault, expected) in [
            (Fault::Workspace { words }, RecordError::Workspace { words }),
            (
                Fault::Count { at, found, max },
                RecordError::Count { at, found, max },
            ),
            (Fault::Null { at }, RecordError::Memory { at: record }),
        ] {
            let part = Part::Subtree;
            assert_eq!(memory(record, &IncomingError { part, fault }), expected);
        }
    }
}

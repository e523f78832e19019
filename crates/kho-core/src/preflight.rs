//! What will this consumer do with this handover?
//!
//! Each Linux release reads exactly one version of each part, and answers another one in its own
//! way: it boots as if nothing had been handed over, refuses to give sessions back, or panics. All
//! of that can be known before the kexec.
//!
//! # Source
//! The sources of the releases that [`Consumer`] names: `kernel/kexec_handover.c`, later
//! `kernel/liveupdate/kexec_handover.c`, `kernel/liveupdate/luo_core.c`, `mm/memblock.c`.

use core::fmt;

use kho_abi::fdt::Generation;
use kho_abi::metadata::KexecMetadata;
use kho_abi::{luo, memblock, memfd, metadata};
use kho_hal::FrozenMem;
use zerocopy::FromBytes;

use crate::incoming::{Component, Incoming, loose};

/// Who will take the handover over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Consumer {
    /// Linux 6.16 and 6.17.
    Linux6_16,
    /// Linux 6.18.
    Linux6_18,
    /// Linux 6.19 and 7.0.
    Linux6_19,
    /// Linux 7.1.
    Linux7_1,
    /// Linux 7.2 and 7.3.
    Linux7_2,
    /// This library.
    Ours,
}

impl Consumer {
    /// Every consumer, oldest first.
    pub const ALL: [Self; 6] = [
        Self::Linux6_16,
        Self::Linux6_18,
        Self::Linux6_19,
        Self::Linux7_1,
        Self::Linux7_2,
        Self::Ours,
    ];
}

/// What becomes of a part of a handover, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It is taken over, or there is nothing to take over.
    Accepts,
    /// The consumer boots without it. What it stands for is lost or stays out of use.
    GoesWithout,
    /// It is not established what happens.
    Unknown,
    /// No session can be retrieved; their memory stays out of use.
    RefusesSessions,
    /// It is taken for something else: memory is lost, or overwritten.
    Misreads,
    /// The consumer panics.
    Panics,
}

/// A part of a handover that has a version of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The root description and the map of preserved memory.
    Root,
    /// Live Update Orchestrator.
    Luo,
    /// Memory files in LUO sessions.
    Memfd,
    /// `kexec-metadata`.
    Metadata,
    /// `memblock`: named reserved regions.
    Memblock,
}

/// What was found, or is expected, in the place that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Version<'a> {
    /// Nothing.
    None,
    /// A version string.
    Text(&'a str),
    /// A version number.
    Number(u32),
    /// A generation, where its string alone does not say enough.
    Generation(Generation),
}

/// What becomes of one part, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The part.
    pub part: Part,
    /// What becomes of it.
    pub outcome: Outcome,
    /// What the handover has.
    pub found: Version<'a>,
    /// What the consumer reads.
    pub expected: Version<'static>,
}

/// What `consumer` will do with each part of the handover.
pub fn preflight<'a, M: FrozenMem>(
    incoming: &Incoming<'a, M>,
    consumer: Consumer,
) -> [Verdict<'a>; 5] {
    let found = incoming.generation();
    let nested = found.is_nested();
    let luo_version = match (incoming.luo(), incoming.blob_version(luo::NODE)) {
        (Component::Absent, _) => Version::None,
        (_, version) => Version::Text(version.unwrap_or("?")),
    };
    let metadata_version = match incoming.metadata() {
        Component::Absent => Version::None,
        found => metadata_version(found.known()),
    };
    let regions = incoming.reserve_mem().iter().next();
    let memblock_version = match incoming.blob_version(memblock::NODE) {
        Some(version) => Version::Text(version),
        // Inside the root, in a generation that has them there.
        None => regions.map_or(Version::None, |_| Version::Text(memblock::COMPATIBLE)),
    };
    let fits = fits_orders(incoming, consumer);
    below([
        root(found, incoming.map_addr().as_u64() != 0, fits, consumer),
        luo(luo_version, consumer),
        memfd(incoming, consumer),
        metadata(metadata_version, consumer),
        memblock(memblock_version, nested, consumer),
    ])
}

/// As [`preflight`], where only descriptions are at hand, as Linux shows them in debugfs: the
/// version string of the root, and by `blob` the bytes of the sub-blob of a name. Memory files, which
/// LUO describes elsewhere, are not judged, and neither are sizes of folios; of `kho-v1`, which form
/// it has is not known.
pub fn preflight_description<'a>(
    compatible: &'a str,
    blob: impl Fn(&str) -> Option<&'a [u8]>,
    consumer: Consumer,
) -> [Verdict<'a>; 4] {
    let text = |name| match blob(name) {
        None => Version::None,
        Some(bytes) => Version::Text(loose::version(bytes).unwrap_or("?")),
    };
    let metadata_version = match blob(metadata::NODE) {
        None => Version::None,
        Some(bytes) => metadata_version(KexecMetadata::ref_from_prefix(bytes).ok().map(|it| it.0)),
    };
    // Data that is inside the root is in no sub-blob.
    below([
        root_string(compatible, consumer),
        luo(text(luo::NODE), consumer),
        metadata(metadata_version, consumer),
        memblock(text(memblock::NODE), false, consumer),
    ])
}

/// Who does not take the root, the first part, over looks at nothing below it.
fn below<const N: usize>(parts: [Verdict<'_>; N]) -> [Verdict<'_>; N] {
    let without =
        |part: &Verdict<'_>| part.part == Part::Root && part.outcome == Outcome::GoesWithout;
    let gone = parts.iter().any(without);
    parts.map(|verdict| match gone {
        true => Verdict {
            outcome: Outcome::GoesWithout,
            ..verdict
        },
        false => verdict,
    })
}

/// The generation that a consumer reads; ours reads each.
fn reads(consumer: Consumer) -> Option<Generation> {
    match consumer {
        Consumer::Linux6_16 => Some(Generation::V1Small),
        Consumer::Linux6_18 | Consumer::Linux6_19 => Some(Generation::V1Page),
        Consumer::Linux7_1 => Some(Generation::V3),
        Consumer::Linux7_2 => Some(Generation::V4),
        Consumer::Ours => None,
    }
}

/// What becomes of a root of which only the version string is known; several generations may have it.
fn root_string(compatible: &str, consumer: Consumer) -> Verdict<'_> {
    let mut known = Generation::ALL
        .into_iter()
        .filter(|generation| generation.compatible() == compatible);
    let (first, second) = (known.next(), known.next());
    if let (Some(found), None) = (first, second) {
        return root(found, true, true, consumer);
    }
    let expected = reads(consumer);
    let is_read = match expected {
        Some(expected) => expected.compatible() == compatible,
        None => first.is_some(),
    };
    Verdict {
        part: Part::Root,
        outcome: if is_read {
            Outcome::Unknown
        } else {
            Outcome::GoesWithout
        },
        found: Version::Text(compatible),
        expected: expected.map_or(Version::None, Version::Generation),
    }
}

/// What becomes of a root. `has_map` says whether it has the address of a map, `fits` whether the
/// consumer can count with its folios.
fn root(found: Generation, has_map: bool, fits: bool, consumer: Consumer) -> Verdict<'static> {
    let expected = reads(consumer).unwrap_or(found);
    // The map's address was not looked at before 6.19: without one, nothing was preserved at all.
    let checks_map = consumer == Consumer::Linux6_19;
    let outcome = if found.compatible() != expected.compatible() {
        Outcome::GoesWithout
    } else if found == Generation::SeriesV5 && consumer != Consumer::Ours {
        if checks_map {
            Outcome::GoesWithout
        } else {
            Outcome::Misreads
        }
    } else if checks_map && !has_map {
        Outcome::GoesWithout
    } else if found != expected || !fits {
        Outcome::Misreads
    } else {
        Outcome::Accepts
    };
    Verdict {
        part: Part::Root,
        outcome,
        found: Version::Generation(found),
        expected: Version::Generation(expected),
    }
}

/// Up to 7.0 the size of a folio was computed in 32 bits.
fn fits_orders<M: FrozenMem>(incoming: &Incoming<'_, M>, consumer: Consumer) -> bool {
    let is_old = consumer <= Consumer::Linux6_19;
    let order = incoming.largest_order().unwrap_or_default();
    !is_old || order.as_u32() + incoming.page_size().shift() <= 30
}

fn luo(found: Version<'_>, consumer: Consumer) -> Verdict<'_> {
    let expected = match consumer {
        Consumer::Linux6_16 | Consumer::Linux6_18 => Version::None,
        // In 7.1 it is known from hearsay.
        Consumer::Linux6_19 | Consumer::Linux7_1 => Version::Text("luo-v1"),
        Consumer::Linux7_2 | Consumer::Ours => Version::Text(luo::COMPATIBLE),
    };
    let outcome = match consumer {
        _ if found == Version::None || found == expected => Outcome::Accepts,
        Consumer::Linux6_16 | Consumer::Linux6_18 | Consumer::Ours => Outcome::GoesWithout,
        Consumer::Linux6_19 | Consumer::Linux7_1 => Outcome::Unknown,
        Consumer::Linux7_2 => Outcome::Panics,
    };
    Verdict {
        part: Part::Luo,
        outcome,
        found,
        expected,
    }
}

fn memfd<'a, M: FrozenMem>(incoming: &Incoming<'a, M>, consumer: Consumer) -> Verdict<'a> {
    let sessions = incoming.luo().known();
    let files = sessions.into_iter().flat_map(|luo| luo.sessions());
    let memfds = files.flat_map(|session| session.files());
    let mut memfds = memfds
        .map(|file| file.compatible())
        .filter(|name| name.starts_with("memfd-"));
    let expected = match consumer {
        Consumer::Linux6_16 | Consumer::Linux6_18 => Version::None,
        Consumer::Linux6_19 | Consumer::Linux7_1 => Version::Text("memfd-v1"),
        Consumer::Linux7_2 | Consumer::Ours => Version::Text(memfd::COMPATIBLE),
    };
    // The first one that the consumer does not read decides; if there is none, any.
    let first = memfds.next();
    let odd = first
        .into_iter()
        .chain(memfds)
        .find(|name| Version::Text(name) != expected);
    let found = odd.or(first).map_or(Version::None, Version::Text);
    let outcome = match consumer {
        _ if found == Version::None || found == expected => Outcome::Accepts,
        Consumer::Linux6_16 | Consumer::Linux6_18 | Consumer::Ours => Outcome::GoesWithout,
        Consumer::Linux6_19 | Consumer::Linux7_1 => Outcome::Unknown,
        Consumer::Linux7_2 => Outcome::RefusesSessions,
    };
    Verdict {
        part: Part::Memfd,
        outcome,
        found,
        expected,
    }
}

/// The version of metadata that is there, if it can be read.
fn metadata_version(found: Option<&KexecMetadata>) -> Version<'static> {
    let number = found.map(|metadata| metadata.version.get());
    let known = number.filter(|&number| number == metadata::VERSION);
    known.map_or(Version::Text("?"), Version::Number)
}

fn metadata(found: Version<'_>, consumer: Consumer) -> Verdict<'_> {
    let expected = match consumer {
        Consumer::Linux6_16 | Consumer::Linux6_18 | Consumer::Linux6_19 => Version::None,
        _ => Version::Number(metadata::VERSION),
    };
    let taken = found == Version::None || found == expected;
    Verdict {
        part: Part::Metadata,
        outcome: if taken {
            Outcome::Accepts
        } else {
            Outcome::GoesWithout
        },
        found,
        expected,
    }
}

/// `inline` says whether the regions are inside the root.
fn memblock(found: Version<'_>, inline: bool, consumer: Consumer) -> Verdict<'_> {
    let expected = Version::Text(memblock::COMPATIBLE);
    // No release reads inline data.
    let taken = found == expected && (!inline || consumer == Consumer::Ours);
    let outcome = if taken || found == Version::None {
        Outcome::Accepts
    } else {
        Outcome::GoesWithout
    };
    Verdict {
        part: Part::Memblock,
        outcome,
        found,
        expected,
    }
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux6_16 => "Linux 6.16, 6.17",
            Self::Linux6_18 => "Linux 6.18",
            Self::Linux6_19 => "Linux 6.19, 7.0",
            Self::Linux7_1 => "Linux 7.1",
            Self::Linux7_2 => "Linux 7.2, 7.3",
            Self::Ours => "this library",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepts => "accepts",
            Self::GoesWithout => "boots without it",
            Self::Unknown => "not established",
            Self::RefusesSessions => "refuses sessions",
            Self::Misreads => "misreads",
            Self::Panics => "panics",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Luo => "LUO",
            Self::Memfd => "memfd",
            Self::Metadata => "metadata",
            Self::Memblock => "memblock",
        })
    }
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Generation(generation) => match generation {
                Generation::V1Small => write!(f, "{} (small)", generation.compatible()),
                Generation::V1Page => write!(f, "{} (page)", generation.compatible()),
                Generation::SeriesV5 => write!(f, "{} (series v5)", generation.compatible()),
                _ => f.write_str(generation.compatible()),
            },
        }
    }
}

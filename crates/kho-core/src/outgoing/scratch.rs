//! Scratch areas: where the successor starts, and where nothing survives.
//!
//! # Source
//! Linux 7.3-rc7 `kernel/liveupdate/kexec_handover.c` (`kho_scratch=`, sizes),
//! `kernel/kexec_file.c` (where segments of the next image go).

use core::fmt;
use core::str::FromStr;

use kho_abi::boot::KhoScratch;
use kho_hal::sync::Ordering;
use kho_hal::{PhysAddr, PhysMem, PhysRange};

use crate::OutgoingError;

/// How large the scratch areas are: what `kho_scratch=` on the command line says.
///
/// ```
/// use kho_core::outgoing::ScratchSizes;
///
/// let sizes: ScratchSizes = "16M,512M,64M".parse().unwrap();
/// assert_eq!(sizes, ScratchSizes::Explicit { low: 16 << 20, global: 512 << 20, per_node: 64 << 20 });
/// assert_eq!("150%".parse(), Ok(ScratchSizes::Scale { percent: 150 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScratchSizes {
    /// `L,G,N`: bytes below the architecture's DMA limit, anywhere, and on each node.
    Explicit {
        /// Low area.
        low: u64,
        /// Global area.
        global: u64,
        /// Each node's area.
        per_node: u64,
    },
    /// `N%` of what this kernel reserved while it booted.
    Scale {
        /// Per cent.
        percent: u64,
    },
}

impl Default for ScratchSizes {
    /// 200%, as Linux without the parameter.
    fn default() -> Self {
        Self::Scale { percent: 200 }
    }
}

/// The text is not a value of `kho_scratch=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScratchSyntax;

impl fmt::Display for ScratchSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kho_scratch is L,G,N in bytes (K, M, G, T, P, E), not all 0, or a percentage")
    }
}

impl core::error::Error for ScratchSyntax {}

impl FromStr for ScratchSizes {
    type Err = ScratchSyntax;

    fn from_str(text: &str) -> Result<Self, ScratchSyntax> {
        if let Some(digits) = text.strip_suffix('%') {
            // Linux copies at most ten digits.
            let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !decimal || digits.len() > 10 {
                return Err(ScratchSyntax);
            }
            let percent = digits.parse().map_err(|_| ScratchSyntax)?;
            return Ok(Self::Scale { percent });
        }
        let mut numbers = text.split(',').map(bytes);
        let mut number = || numbers.next().flatten().ok_or(ScratchSyntax);
        let (low, global, per_node) = (number()?, number()?, number()?);
        if numbers.next().is_some() || (low, global, per_node) == (0, 0, 0) {
            return Err(ScratchSyntax);
        }
        Ok(Self::Explicit {
            low,
            global,
            per_node,
        })
    }
}

/// A number as Linux's `memparse` takes it: decimal, 0x or octal, with an optional suffix.
fn bytes(text: &str) -> Option<u64> {
    let (text, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        (at, 't' | 'T') => (text.get(..at)?, 40),
        (at, 'p' | 'P') => (text.get(..at)?, 50),
        // In a hexadecimal number a final e is a digit.
        (at, 'e' | 'E') if !text.starts_with("0x") && !text.starts_with("0X") => {
            (text.get(..at)?, 60)
        }
        _ => (text, 0),
    };
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign, which Linux does not.
    if digits.starts_with('+') {
        return None;
    }
    let number = u64::from_str_radix(digits, radix).ok()?;
    number.checked_mul(1 << shift)
}

/// How much a kernel reserved while it booted: the measure for [`ScratchSizes::Scale`].
#[derive(Clone, Copy, Debug)]
pub struct Reserved<'a> {
    /// Bytes below the architecture's DMA limit.
    pub low: u64,
    /// Bytes everywhere.
    pub total: u64,
    /// Bytes on each node, by ascending node number.
    pub nodes: &'a [u64],
}

impl ScratchSizes {
    /// The sizes of the areas in bytes, in the order of the array: low, global, one a node. Each
    /// is rounded up to `align`, the size of the largest buddy block (4 MiB with 4 KiB pages).
    ///
    /// A size of 0 is possible; such an area stays in the array.
    pub fn areas<'a>(
        &self,
        reserved: Reserved<'a>,
        align: u64,
    ) -> impl Iterator<Item = u64> + use<'a> {
        let (low, global, each, percent) = match *self {
            Self::Explicit {
                low,
                global,
                per_node,
            } => (low, global, Some(per_node), 0),
            Self::Scale { percent } => {
                let low = scale(reserved.low, percent);
                let global = scale(reserved.total, percent).saturating_sub(low);
                (low, global, None, percent)
            }
        };
        let nodes = reserved.nodes.iter();
        let nodes = nodes.map(move |&bytes| each.unwrap_or(scale(bytes, percent)));
        let align = align.max(1);
        [low, global].into_iter().chain(nodes).map(move |size| {
            size.checked_next_multiple_of(align)
                .unwrap_or(u64::MAX / align * align)
        })
    }
}

fn scale(bytes: u64, percent: u64) -> u64 {
    let scaled = u128::from(bytes) * u128::from(percent) / 100;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Where a piece of the next image may go.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Bytes needed.
    pub size: u64,
    /// Alignment of the first byte, a power of two.
    pub align: u64,
    /// Bounds of all bytes.
    pub bounds: PhysRange,
    /// Whether to prefer the highest address in an area over the lowest.
    pub top_down: bool,
}

/// Finds room for a piece of the next image: inside one scratch area, the first in order that
/// fits, and apart from everything in `used`. `None` if there is none; other memory is no option,
/// because the successor must not touch it.
pub fn find_hole(
    areas: impl IntoIterator<Item = PhysRange>,
    used: &[PhysRange],
    wanted: Placement,
) -> Option<PhysRange> {
    areas
        .into_iter()
        .find_map(|area| hole_in(area, used, wanted))
}

fn hole_in(area: PhysRange, used: &[PhysRange], wanted: Placement) -> Option<PhysRange> {
    let align = wanted.align.max(1);
    let low = area.start().max(wanted.bounds.start()).as_u64();
    let high = area.end().min(wanted.bounds.end()).as_u64();
    if wanted.size == 0 {
        return None;
    }
    // Each step either fits or jumps over the piece in the way, so it ends.
    let mut at = if wanted.top_down {
        high.checked_sub(wanted.size)? / align * align
    } else {
        low.checked_next_multiple_of(align)?
    };
    loop {
        let hole = PhysRange::new(PhysAddr::new(at), wanted.size)?;
        if at < low || hole.end().as_u64() > high {
            return None;
        }
        let Some(taken) = used.iter().find(|piece| piece.overlaps(hole)) else {
            return Some(hole);
        };
        at = if wanted.top_down {
            taken.start().as_u64().checked_sub(wanted.size)? / align * align
        } else {
            taken.end().as_u64().checked_next_multiple_of(align)?
        };
    }
}

/// Writes the array of scratch areas to `at`, which is in scratch itself and a multiple of 8. Returns
/// its size in bytes.
///
/// # Errors
/// [`OutgoingError::BadScratch`] if areas overlap or the array is not in one of them;
/// [`OutgoingError::Memory`]. Then nothing was written.
pub fn write_scratch_array<M: PhysMem>(
    mem: &M,
    at: PhysAddr,
    areas: &[PhysRange],
) -> Result<u64, OutgoingError> {
    let size = (areas.len() * size_of::<KhoScratch>()) as u64;
    let array = PhysRange::new(at, size).ok_or(OutgoingError::BadScratch { addr: at })?;
    for (i, area) in areas.iter().enumerate() {
        if areas.iter().take(i).any(|earlier| earlier.overlaps(*area)) {
            return Err(OutgoingError::BadScratch { addr: area.start() });
        }
    }
    if !areas.iter().any(|area| area.contains_range(array)) {
        return Err(OutgoingError::BadScratch { addr: at });
    }
    let words = mem.words(at, size as usize / 8)?;
    let numbers = areas
        .iter()
        .flat_map(|area| [area.start().as_u64(), area.size()]);
    for (word, number) in words.iter().zip(numbers) {
        word.store(number.to_le(), Ordering::Relaxed);
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use kho_hal::sim::SimMemory;

    use super::*;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), size).unwrap()
    }

    #[test]
    fn grammar() {
        let explicit = |low, global, per_node| {
            Ok(ScratchSizes::Explicit {
                low,
                global,
                per_node,
            })
        };
        assert_eq!("16M,0x10,010k".parse(), explicit(16 << 20, 16, 8 << 10));
        assert_eq!("0,0,1E".parse(), explicit(0, 0, 1 << 60));
        assert_eq!("1g,1t,1p".parse(), explicit(1 << 30, 1 << 40, 1 << 50));
        assert_eq!("3g,5T,7p".parse(), explicit(3 << 30, 5 << 40, 7 << 50));
        assert_eq!("3G,5t,7P".parse(), explicit(3 << 30, 5 << 40, 7 << 50));
        assert_eq!("0x1e,0X1E,1".parse(), explicit(0x1e, 0x1e, 1));
        assert_eq!("0%".parse(), Ok(ScratchSizes::Scale { percent: 0 }));
        assert_eq!(
            "4294967295%".parse(),
            Ok(ScratchSizes::Scale {
                percent: 4294967295
            })
        );
        for bad in [
            "",
            "%",
            "-1%",
            "+1%",
            "1.5%",
            "12345678901%",
            "100%x",
            "100",
            "1,2",
            "1,2,3,4",
            "1,2,3x",
            "1,2,",
            "0,0,0",
            "1, 2,3",
            "16E,1,1",
            "x,1,1",
            "K,1,1",
            "08,1,1",
            "+1,1,1",
            "1,2,3,",
            "1,2,3\n",
        ] {
            assert_eq!(bad.parse::<ScratchSizes>(), Err(ScratchSyntax), "{bad:?}");
        }
        let expected =
            "kho_scratch is L,G,N in bytes (K, M, G, T, P, E), not all 0, or a percentage";
        assert_eq!(ScratchSyntax.to_string(), expected);
    }

    #[test]
    fn sizes_are_scaled_and_rounded() {
        let reserved = Reserved {
            low: 3 << 20,
            total: 10 << 20,
            nodes: &[9 << 20, 0],
        };
        let areas = |sizes: ScratchSizes| sizes.areas(reserved, 4 << 20).collect::<Vec<_>>();
        assert_eq!(
            areas(ScratchSizes::default()),
            [8 << 20, 16 << 20, 20 << 20, 0]
        );
        let explicit = "1,0,5M".parse().unwrap();
        assert_eq!(areas(explicit), [4 << 20, 0, 8 << 20, 8 << 20]);
        let huge = "0xffffffffffffffff,0,0".parse().unwrap();
        assert_eq!(areas(huge), [0xffff_ffff_ffc0_0000, 0, 0, 0]);
        let most = ScratchSizes::Explicit {
            low: u64::MAX,
            global: u64::MAX - (8 << 20),
            per_node: 0,
        };
        let aligned = 0u64.wrapping_sub(4 << 20);
        assert_eq!(areas(most), [aligned, aligned - (4 << 20), 0, 0]);
        // The low area already covers what the global area was meant for.
        let reserved = Reserved {
            low: 7,
            total: 7,
            nodes: &[],
        };
        let areas: Vec<_> = ScratchSizes::default().areas(reserved, 4096).collect();
        assert_eq!(areas, [4096, 0]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = ScratchSyntax.to_string();
        assert!(text.starts_with("kho_scratch is L,G,N"), "{text}");
    }

    #[test]
    fn the_array_has_an_entry_for_each_area() {
        let memory = SimMemory::new([range(0x1000, 0x1000)]).unwrap();
        let areas = [
            range(0x1000, 0x1000),
            range(0x8000, 0x3000),
            range(0x4000, 0),
        ];
        let at = PhysAddr::new(0x1800);
        assert_eq!(write_scratch_array(&memory, at, &areas), Ok(48));
        let word = |i: u64| memory.word(PhysAddr::new(0x1800 + i * 8)).unwrap();
        let words = [0x1000, 0x1000, 0x8000, 0x3000, 0x4000, 0, 0];
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(word), words);
    }

    #[test]
    fn a_hole_is_inside_one_area_and_apart_from_all() {
        let areas = [
            range(0x1000, 0x1000),
            range(0x4000, 0x0),
            range(0x8000, 0x8000),
        ];
        let used = [range(0x8000, 0x1800), range(0xf000, 0x800)];
        let everywhere = range(0, u64::MAX);
        let wanted = |size, align, top_down| Placement {
            size,
            align,
            bounds: everywhere,
            top_down,
        };
        let find = |wanted| find_hole(areas, &used, wanted);
        assert_eq!(
            find(wanted(0x1000, 0x1000, false)),
            Some(range(0x1000, 0x1000))
        );
        assert_eq!(
            find(wanted(0x2000, 0x1000, false)),
            Some(range(0xa000, 0x2000))
        );
        assert_eq!(
            find(wanted(0x2000, 0x1000, true)),
            Some(range(0xd000, 0x2000))
        );
        assert_eq!(find(wanted(0x5801, 1, true)), None);
        assert_eq!(find(wanted(0x5800, 1, true)), Some(range(0x9800, 0x5800)));
        let low = Placement {
            bounds: range(0, 0x9000),
            ..wanted(0x1001, 1, false)
        };
        assert_eq!(find_hole(areas, &used, low), None);
        assert_eq!(find(wanted(u64::MAX, 1, false)), None);
        assert_eq!(find(wanted(0, 1, false)), None);
    }
}

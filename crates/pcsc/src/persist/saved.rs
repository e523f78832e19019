//! The sub-blob, read into an index.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use kho_abi::fdt::COMPATIBLE;
use kho_abi::pcsc::{DATA, NODE_PREFIX, RULES, RULES_VERSION, VERSION};
use kho_hal::{PhysAddr, Sbdf};
use std_alloc::vec::Vec;

use super::scan::{Event, scan};

/// How the predecessor was built: how large a configuration space it kept. Nothing in the
/// sub-blob says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// 4096 bytes a function. Pages are taken into use in place.
    #[default]
    Extended,
    /// 256 bytes a function. What is known is copied.
    Conventional,
}

/// Why a sub-blob cannot be used. Every function starts with an empty cache then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SavedError {
    /// Not a flattened device tree.
    NotATree,
    /// A version that is not known.
    UnknownVersion,
}

impl fmt::Display for SavedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotATree => "the saved configuration space is not a device tree",
            Self::UnknownVersion => "the saved configuration space is of an unknown version",
        })
    }
}

impl core::error::Error for SavedError {}

/// Where a function's data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The sub-blob does not name the function.
    Absent,
    /// Its node is damaged, or there are two.
    Damaged,
    /// There.
    At(PhysAddr),
}

/// What the predecessor saved: an index of functions, made in one pass over the sub-blob.
#[derive(Debug)]
pub struct Saved {
    /// Ascending by key; an address of 0 marks a damaged entry.
    entries: Vec<(u64, u64)>,
    /// For each entry, whether something happened to the function since: what was saved of it
    /// does not hold any more.
    touched: Vec<AtomicBool>,
    same_rules: bool,
    damaged: usize,
    pub(crate) variant: Variant,
}

/// Bytes that the node of one function takes at least.
const NODE_BYTES: usize = 44;

impl Clone for Saved {
    fn clone(&self) -> Self {
        let touched = |touched: &AtomicBool| AtomicBool::new(touched.load(Ordering::SeqCst));
        Self {
            entries: self.entries.clone(),
            touched: self.touched.iter().map(touched).collect(),
            ..*self
        }
    }
}

impl Saved {
    /// Reads the sub-blob. Two allocations, whose sizes follow from the length of `blob`.
    ///
    /// `is_preserved` says whether the predecessor preserved the page (or two, of 4 KiB) at an
    /// address: one that it did not, the next allocation may give to somebody else. Data of which
    /// it says no is counted as damaged.
    ///
    /// Nodes whose names are not those of functions are passed over; a node without an address
    /// is counted as damaged.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn read(
        blob: &[u8],
        variant: Variant,
        mut is_preserved: impl FnMut(PhysAddr) -> bool,
    ) -> Result<Self, SavedError> {
        let mut saved = Self {
            entries: Vec::with_capacity(blob.len() / NODE_BYTES),
            touched: Vec::new(),
            same_rules: false,
            damaged: 0,
            variant,
        };
        let (mut known, mut sorted) = (false, true);
        let mut node: Option<(u64, u64)> = None;
        scan(blob, |event| match event {
            Event::Root(name, value) if name == COMPATIBLE.as_bytes() => {
                known = value.split_last().is_some_and(|(end, strings)| {
                    *end == 0 && strings.split(|b| *b == 0).any(|s| s == VERSION.as_bytes())
                });
            }
            Event::Root(name, value) if name == RULES.as_bytes() => {
                saved.same_rules = value == RULES_VERSION.to_le_bytes();
            }
            Event::Root(..) => {}
            Event::Begin(name) => node = key_of_name(name).map(|key| (key, 0)),
            Event::Property(name, value) => {
                if let (Some((_, data)), true) = (&mut node, name == DATA.as_bytes()) {
                    *data = value.try_into().map_or(0, u64::from_le_bytes);
                }
            }
            Event::End => {
                if let Some((key, data)) = node.take() {
                    let data = match data {
                        data if data != 0 && is_preserved(PhysAddr::new(data)) => data,
                        _ => 0,
                    };
                    saved.damaged += usize::from(data == 0);
                    sorted &= saved.entries.last().is_none_or(|(last, _)| *last < key);
                    saved.entries.push((key, data));
                }
            }
        })
        .ok_or(SavedError::NotATree)?;
        if !known {
            return Err(SavedError::UnknownVersion);
        }
        if !sorted {
            saved.entries.sort_unstable_by_key(|(key, _)| *key);
            saved.drop_twins();
        }
        saved.drop_shared();
        let untouched = || AtomicBool::new(false);
        saved.touched.resize_with(saved.entries.len(), untouched);
        Ok(saved)
    }

    /// Of functions whose data overlaps, none is believed: a page has one owner.
    fn drop_shared(&mut self) {
        let bytes = match self.variant {
            Variant::Extended => 5120,
            Variant::Conventional => 320,
        };
        self.entries.sort_unstable_by_key(|(_, data)| *data);
        let mut before: Option<(u64, &mut (u64, u64))> = None;
        for entry in self.entries.iter_mut().filter(|(_, data)| *data != 0) {
            let data = entry.1;
            if let Some((last, other)) = before
                && data - last < bytes
            {
                self.damaged += 1 + usize::from(other.1 != 0);
                other.1 = 0;
                entry.1 = 0;
            }
            before = Some((data, entry));
        }
        self.entries.sort_unstable_by_key(|(key, _)| *key);
    }

    /// Of functions that are named twice, neither is believed.
    fn drop_twins(&mut self) {
        let mut last: Option<u64> = None;
        let mut twin = None;
        for (key, data) in &mut self.entries {
            if last == Some(*key) {
                *data = 0;
                self.damaged += 1;
                twin = Some(*key);
            }
            last = Some(*key);
        }
        if twin.is_some() {
            let keys: Vec<u64> = self.entries.iter().map(|(key, _)| *key).collect();
            for (index, (key, data)) in self.entries.iter_mut().enumerate() {
                if keys.get(index + 1) == Some(key) {
                    *data = 0;
                }
            }
        }
    }

    /// How many functions were saved, damaged ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many of them cannot be used.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Whether bytes were marked by the rules that this library has.
    pub fn has_same_rules(&self) -> bool {
        self.same_rules
    }

    /// Where the function's data lies. A binary search at most.
    pub fn find(&self, function: Sbdf) -> Option<PhysAddr> {
        match self.place(function) {
            Place::At(addr) => Some(addr),
            Place::Absent | Place::Damaged => None,
        }
    }

    /// The entry where it would be if functions were spread evenly: a bus full of virtual
    /// functions, mostly, is.
    fn guess(&self, key: u64) -> Option<usize> {
        let ((first, _), (last, _)) = (self.entries.first()?, self.entries.last()?);
        let span = last.checked_sub(*first)?.max(1);
        let steps = self.entries.len() as u64 - 1;
        let index = (key.checked_sub(*first)?.checked_mul(steps)? / span) as usize;
        self.entries
            .get(index)
            .is_some_and(|(found, _)| *found == key)
            .then_some(index)
    }

    fn index(&self, function: Sbdf) -> Option<usize> {
        let key = key(function);
        self.guess(key).or_else(|| {
            let found = self.entries.binary_search_by_key(&key, |(key, _)| *key);
            found.ok()
        })
    }

    pub(crate) fn place(&self, function: Sbdf) -> Place {
        let entry = self.index(function).and_then(|n| self.entries.get(n));
        match entry {
            None => Place::Absent,
            Some((_, 0)) => Place::Damaged,
            Some((_, data)) => Place::At(PhysAddr::new(*data)),
        }
    }

    /// Whether something happened to the function since it was saved.
    pub(crate) fn is_touched(&self, function: Sbdf) -> bool {
        let touched = self.index(function).and_then(|n| self.touched.get(n));
        touched.is_some_and(|touched| touched.load(Ordering::SeqCst))
    }

    /// Notes that something happened to a function.
    pub(crate) fn touch(&self, function: Sbdf) {
        if let Some(touched) = self.index(function).and_then(|n| self.touched.get(n)) {
            touched.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that something happened to the functions that `which` says, of which it is told
    /// where their data lies.
    pub(crate) fn touch_all(&self, which: impl Fn(Sbdf, PhysAddr) -> bool) {
        for ((key, data), touched) in self.entries.iter().zip(&self.touched) {
            let function = Sbdf::from_bdf((key >> 16) as u32, *key as u16);
            if which(function, PhysAddr::new(*data)) {
                touched.store(true, Ordering::SeqCst);
            }
        }
    }
}

pub(crate) fn key(function: Sbdf) -> u64 {
    u64::from(function.segment()) << 16 | u64::from(function.bdf())
}

/// The function that `dev_SSSS_BB_DD_F` names.
fn key_of_name(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(NODE_PREFIX.as_bytes())?;
    // From the end: `_BB_DD_F`, and at least four digits of segment before it.
    let (segment, rest) = digits.split_at_checked(digits.len().checked_sub(8)?)?;
    let &[b'_', b1, b0, b'_', d1, d0, b'_', f] = rest else {
        return None;
    };
    if segment.len() < 4 {
        return None;
    }
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0u64, |number, digit| {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            number.checked_mul(16)?.checked_add(value.into())
        })
    };
    let segment = u32::try_from(number(segment)?).ok()?;
    let bus = number(&[b1, b0])? as u8;
    let device = number(&[d1, d0])? as u8;
    Sbdf::new(segment, bus, device, number(&[f])? as u8).map(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_to_the_letter() {
        let function = Sbdf::new(0, 0x3a, 0x1f, 7).unwrap();
        assert_eq!(key_of_name(b"dev_0000_3a_1f_7"), Some(key(function)));
        let wide = Sbdf::new(0x1_0000, 0, 0, 0).unwrap();
        assert_eq!(key_of_name(b"dev_10000_00_00_0"), Some(key(wide)));
        for bad in [
            "dev_000_3a_1f_7",
            "dev_0000_3A_1f_7",
            "dev_0000_3a_20_0",
            "dev_0000_3a_1f_8",
            "dev_",
            "0000_3a_1f_7",
        ] {
            assert_eq!(key_of_name(bad.as_bytes()), None, "{bad}");
        }
    }
}

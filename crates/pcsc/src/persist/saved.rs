//! The sub-blob, read into an index.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use kho_abi::fdt::COMPATIBLE;
use kho_abi::pcsc::{
    DATA, NODE_PREFIX, PcscData, PcscDataConventional, RULES, RULES_VERSION, VERSION,
};
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
    /// it says no is counted as damaged. The cache writes to these pages. That nobody else's memory is
    /// among them is for [`Incoming::one_owner`] to say, of all pages together.
    ///
    /// Nodes whose names are not those of functions are passed over; a node without an address
    /// is counted as damaged.
    ///
    /// [`Incoming::one_owner`]: kho_core::incoming::Incoming::one_owner
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
            variant,
        };
        let mut known = false;
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
                    saved.entries.push((key, data));
                }
            }
        })
        .ok_or(SavedError::NotATree)?;
        if !known {
            return Err(SavedError::UnknownVersion);
        }
        saved.drop_twins();
        saved.drop_shared();
        saved.entries.sort_unstable_by_key(|(key, _)| *key);
        let untouched = || AtomicBool::new(false);
        saved.touched.resize_with(saved.entries.len(), untouched);
        Ok(saved)
    }

    /// Of functions that are named twice, none is believed.
    fn drop_twins(&mut self) {
        self.entries.sort_unstable_by_key(|(key, _)| *key);
        self.drop_groups(|(a, _), (b, _)| a == b);
    }

    /// Of functions whose data overlaps, none is believed: a page has one owner. Leaves the
    /// entries in the order of their data.
    fn drop_shared(&mut self) {
        let bytes = match self.variant {
            Variant::Extended => size_of::<PcscData>(),
            Variant::Conventional => size_of::<PcscDataConventional>(),
        };
        self.entries.sort_unstable_by_key(|(_, data)| *data);
        self.drop_groups(|(_, a), (_, b)| *a != 0 && b - a < bytes as u64);
    }

    /// Takes its data from every entry that belongs together with one beside it.
    fn drop_groups(&mut self, together: impl Fn(&(u64, u64), &(u64, u64)) -> bool) {
        let groups = self.entries.chunk_by_mut(together);
        for (_, data) in groups.filter(|group| group.len() > 1).flatten() {
            *data = 0;
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
        self.entries.iter().filter(|(_, data)| *data == 0).count()
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
    use core::slice;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A sub-blob with these properties of the root, and nodes with their data.
    fn blob(root: &[(&str, &[u8])], nodes: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut fdt = vm_fdt::FdtWriter::new().unwrap();
        let top = fdt.begin_node("").unwrap();
        for (name, value) in root {
            fdt.property(name, value).unwrap();
        }
        for (name, data) in nodes {
            let node = fdt.begin_node(name).unwrap();
            fdt.property("other", &7u64.to_le_bytes()).unwrap();
            fdt.property("da", data).unwrap();
            fdt.end_node(node).unwrap();
        }
        fdt.end_node(top).unwrap();
        fdt.finish().unwrap()
    }

    const V1: (&str, &[u8]) = ("compatible", b"pcsc-v1\0");

    fn name(function: Sbdf) -> String {
        let (segment, bus) = (function.segment(), function.bus());
        let (device, function) = (function.device(), function.function());
        format!("dev_{segment:04x}_{bus:02x}_{device:02x}_{function:x}")
    }

    fn read(nodes: &[(Sbdf, u64)], variant: Variant) -> Saved {
        let named = |(function, data): &(Sbdf, u64)| (name(*function), data.to_le_bytes().to_vec());
        let nodes: Vec<_> = nodes.iter().map(named).collect();
        let preserved = |addr: PhysAddr| addr.as_u64() % 0x4000 != 0x400;
        Saved::read(&blob(&[V1], &nodes), variant, preserved).unwrap()
    }

    proptest! {
        /// A node is believed if its data is preserved, no other names the same function, and the
        /// data of no other that is named once overlaps it.
        #[test]
        fn what_is_ambiguous_is_not_believed(
            nodes in prop::collection::vec((0u16..40, 0u64..256), 0..14),
            wide in any::<bool>(),
        ) {
            let (variant, bytes) = match wide {
                true => (Variant::Extended, 5120),
                false => (Variant::Conventional, 320),
            };
            let nodes: Vec<_> = nodes
                .into_iter()
                .map(|(bdf, data)| (Sbdf::from_bdf(u32::from(bdf % 3), bdf), data * 64 * 5))
                .collect();
            let saved = read(&nodes, variant);
            let once = |function| nodes.iter().filter(|(other, _)| *other == function).count() == 1;
            let owned = |(function, data): &(Sbdf, u64)| {
                *data != 0 && data % 0x4000 != 0x400 && once(*function)
            };
            let believed = |node: &(Sbdf, u64)| {
                let shares = |other: &&(Sbdf, u64)| owned(other) && node.1.abs_diff(other.1) < bytes;
                owned(node) && nodes.iter().filter(shares).count() == 1
            };
            for node in &nodes {
                let expected = match believed(node) {
                    true => Place::At(PhysAddr::new(node.1)),
                    false => Place::Damaged,
                };
                prop_assert_eq!(saved.place(node.0), expected, "{:x?}", node);
            }
            let damaged = nodes.iter().filter(|node| !believed(node)).count();
            prop_assert_eq!((saved.len(), saved.damaged()), (nodes.len(), damaged));
            prop_assert_eq!(saved.is_empty(), nodes.is_empty());
            for function in (0..50).map(|bdf| Sbdf::from_bdf(u32::from(bdf % 3), bdf)) {
                let known = nodes.iter().any(|(named, _)| *named == function);
                prop_assert_eq!(saved.place(function) == Place::Absent, !known);
            }
        }

        /// Whatever it is asked first, a touch is noted of one function, or of those that are meant.
        #[test]
        fn touches_are_noted_of_whom_they_mean(
            functions in prop::collection::btree_set((0u32..2, any::<u16>()), 1..20),
            one in any::<prop::sample::Index>(),
            bus: u8,
        ) {
            let functions: Vec<_> =
                functions.iter().map(|(segment, bdf)| Sbdf::from_bdf(*segment, *bdf)).collect();
            let data = |n: usize| (n as u64 + 1) * 0x8000;
            let nodes: Vec<_> = (0..).map(data).zip(&functions).map(|(data, f)| (*f, data)).collect();
            let one = one.index(functions.len());
            let saved = read(&nodes, Variant::Extended);
            saved.touch(functions[one]);
            for copy in [&saved, &saved.clone()] {
                for (n, function) in functions.iter().enumerate() {
                    prop_assert_eq!(copy.is_touched(*function), n == one);
                }
            }
            let saved = read(&nodes, Variant::Extended);
            let last = data(one);
            saved.touch_all(|function, data| function.bus() > bus || data.as_u64() == last);
            for (n, function) in functions.iter().enumerate() {
                prop_assert_eq!(saved.is_touched(*function), function.bus() > bus || n == one);
            }
        }

        #[test]
        fn every_function_has_one_name(segment: u32, bdf: u16, at: prop::sample::Index, byte: u8) {
            let function = Sbdf::from_bdf(segment, bdf);
            let mut name = name(function).into_bytes();
            prop_assert_eq!(key_of_name(&name), Some(key(function)));
            let at = at.index(name.len());
            name[at] = byte;
            if let Some(key) = key_of_name(&name) {
                let other = self::name(Sbdf::from_bdf((key >> 16) as u32, key as u16));
                let zeros = name.len() - other.len();
                prop_assert!(name[4..4 + zeros].iter().all(|digit| *digit == b'0'));
                prop_assert_eq!(&name[4 + zeros..], &other.as_bytes()[4..]);
            }
        }
    }

    #[test]
    fn the_root_says_version_and_rules() {
        let rules = |value: &'static [u8]| ("pv", value);
        let node = (name(Sbdf::from_bdf(0, 8)), 0x8000u64.to_le_bytes().to_vec());
        let same = |root: &[_]| {
            let saved = Saved::read(
                &blob(root, slice::from_ref(&node)),
                Variant::Extended,
                |_| true,
            );
            saved.map(|saved| saved.has_same_rules())
        };
        assert_eq!(same(&[V1]), Ok(false));
        assert_eq!(same(&[V1, rules(&[1, 0, 0, 0])]), Ok(true));
        assert_eq!(same(&[rules(&[1, 0, 0, 0]), V1]), Ok(true));
        for other in [&[2u8, 0, 0, 0][..], &[1, 0, 0], &[0, 0, 0, 1], &[]] {
            assert_eq!(same(&[V1, ("pv", other)]), Ok(false), "{other:?}");
        }
        assert_eq!(same(&[("compatible", b"pcsc-v2\0pcsc-v1\0")]), Ok(false));
        for other in [&b"pcsc-v1"[..], b"pcsc-v10\0", b"", b"\0"] {
            assert_eq!(
                same(&[("compatible", other)]),
                Err(SavedError::UnknownVersion)
            );
        }
        assert_eq!(same(&[]), Err(SavedError::UnknownVersion));
        assert_eq!(
            same(&[("other", b"pcsc-v1\0")]),
            Err(SavedError::UnknownVersion)
        );
    }

    #[test]
    fn a_node_has_eight_bytes_of_address_or_is_damaged() {
        let function = Sbdf::from_bdf(0, 8);
        for (data, damaged) in [
            (&[0u8, 0x80, 0, 0, 0, 0, 0, 0][..], 0),
            (&[0, 0x80, 0, 0], 1),
            (&[0, 0x80, 0, 0, 0, 0, 0, 0, 0], 1),
            (&[], 1),
        ] {
            let nodes = [
                (name(function), data.to_vec()),
                ("strange".into(), data.to_vec()),
            ];
            let saved = Saved::read(&blob(&[V1], &nodes), Variant::Extended, |_| true).unwrap();
            assert_eq!((saved.len(), saved.damaged()), (1, damaged));
            let found = (damaged == 0).then_some(PhysAddr::new(0x8000));
            assert_eq!(saved.find(function), found);
        }
    }

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
            "dev_0000_3g_1f_7",
            "dev_0000-3a_1f_7",
            "dev_100000000_00_00_0",
            "0000_3a_1f_7",
        ] {
            assert_eq!(key_of_name(bad.as_bytes()), None, "{bad}");
        }
    }
}

//! The preserved-memory tree of `kho-v2` and later: geometry and keys.
//!
//! A preserved folio is one bit. Its position is a key that holds address and order; the upper
//! part of the key leads through pages of child addresses, the lower part is the bit in the leaf.
//! This module only computes; the tree itself is kept by `kho_core::Tracker` and read by
//! `kho_core::Incoming`.
//!
//! # Format
//! With pages of `2^s` bytes and order `o`, the key is `2^(64 - s - o) | address >> (s + o)`: the
//! highest set bit gives the order, the bits below it the address. Each order therefore has a
//! contiguous range of keys, higher orders first. A key depends on `s + o` alone, so folios of one
//! size have the same key under every page size.
//!
//! | | 4 KiB | 16 KiB | 64 KiB |
//! | --- | --- | --- | --- |
//! | bits of a key | 53 | 51 | 49 |
//! | entries of a table | 512 | 2048 | 8192 |
//! | bits of a leaf | 32768 | 131072 | 524288 |
//! | levels, leaf included | 6 | 5 | 4 |
//! | largest order | 51 | 49 | 47 |
//!
//! Linux before 7.1-rc6 computed 4 levels for 16 KiB pages, one too few for order 0. Such a tree
//! is never written here.
//!
//! # Guarantees
//! Decoding is total: each of the 2^64 keys gives a folio or a [`KeyError`]. Encoding is injective,
//! and decoding undoes it.
//!
//! # Source
//! Linux 7.3-rc7 `include/linux/kho_radix_tree.h`, `include/linux/kho/abi/kexec_handover.h`,
//! `kernel/liveupdate/kho_radix_tree.c`; depth as of commit d64b0372760e.

use core::fmt;

use kho_hal::{Order, PageSize, PhysAddr};
use static_assertions::const_assert_eq;

/// Bits of a key: an address in pages of order 0 and the marker above it.
pub const fn key_width(page: PageSize) -> u32 {
    64 - page.shift() + 1
}

/// log2 of the number of child addresses in a table page.
pub const fn table_shift(page: PageSize) -> u32 {
    page.shift() - 3
}

/// log2 of the number of bits in a leaf page.
pub const fn leaf_shift(page: PageSize) -> u32 {
    page.shift() + 3
}

/// Number of levels, the leaf included. The root is level `depth - 1`, leaves are level 0.
pub const fn depth(page: PageSize) -> u32 {
    (key_width(page) - leaf_shift(page)).div_ceil(table_shift(page)) + 1
}

/// Which entry of a table at `level` (1 and above) leads to `key`.
#[inline]
pub const fn table_index(key: Key, level: u32, page: PageSize) -> usize {
    let shift = (level - 1) * table_shift(page) + leaf_shift(page);
    (key.0 >> shift) as usize & ((1 << table_shift(page)) - 1)
}

/// Which bit of its leaf stands for `key`: bit `n % 64` of 64-bit word `n / 64`.
#[inline]
pub const fn leaf_bit(key: Key, page: PageSize) -> usize {
    key.0 as usize & ((1 << leaf_shift(page)) - 1)
}

const fn assert_geometry(page: PageSize, width: u32, table: u32, leaf: u32, levels: u32) {
    assert!(key_width(page) == width && table_shift(page) == table);
    assert!(leaf_shift(page) == leaf && depth(page) == levels);
}
const _: () = assert_geometry(PageSize::Size4K, 53, 9, 15, 6);
const _: () = assert_geometry(PageSize::Size16K, 51, 11, 17, 5);
const _: () = assert_geometry(PageSize::Size64K, 49, 13, 19, 4);
const_assert_eq!(PageSize::Size4K.max_order().as_u32(), 51);
const_assert_eq!(PageSize::Size16K.max_order().as_u32(), 49);
const_assert_eq!(PageSize::Size64K.max_order().as_u32(), 47);

/// One preserved folio as a number: its address and order. Which page size it was made for is
/// not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Key(u64);

/// A folio that has no key, or a key that names no folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The order is above [`PageSize::max_order`].
    Order {
        /// The order.
        order: Order,
    },
    /// The address is not a multiple of the folio's size.
    Misaligned {
        /// The address.
        addr: PhysAddr,
        /// The order.
        order: Order,
    },
    /// The number is below 2, or has more bits than a key.
    NotAKey {
        /// The number.
        key: u64,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order { order } => write!(f, "order {order} is larger than the format allows"),
            Self::Misaligned { addr, order } => {
                write!(f, "{addr} is not aligned to a folio of order {order}")
            }
            Self::NotAKey { key } => write!(f, "{key:#x} is not a key of the radix tree"),
        }
    }
}

impl core::error::Error for KeyError {}

impl Key {
    /// The key of the folio of `order` at `addr`.
    ///
    /// # Errors
    /// [`KeyError::Order`] or [`KeyError::Misaligned`].
    #[inline]
    pub const fn encode(addr: PhysAddr, order: Order, page: PageSize) -> Result<Self, KeyError> {
        let Some(size) = order.bytes(page) else {
            return Err(KeyError::Order { order });
        };
        if !addr.is_aligned_to(size) {
            return Err(KeyError::Misaligned { addr, order });
        }
        let shift = page.shift() + order.as_u32();
        Ok(Self(1 << (64 - shift) | addr.as_u64() >> shift))
    }

    /// The folio that this key names.
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] for a number that [`Key::encode`] never gives.
    pub const fn decode(self, page: PageSize) -> Result<(PhysAddr, Order), KeyError> {
        let error = KeyError::NotAKey { key: self.0 };
        if self.0 < 2 {
            return Err(error);
        }
        let marker = 63 - self.0.leading_zeros();
        let Some(order) = (64 - page.shift()).checked_sub(marker) else {
            return Err(error);
        };
        let Some(order) = Order::new(order) else {
            return Err(error);
        };
        Ok((PhysAddr::new(self.0 << (64 - marker)), order))
    }

    /// The key with this number, valid or not.
    pub const fn new(key: u64) -> Self {
        Self(key)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use PageSize::{Size4K, Size16K, Size64K};

    /// The worked examples of the format: address, order, key, indices from the root's level down,
    /// bit in the leaf.
    #[test]
    fn worked_examples() {
        type Row = (PageSize, u64, u32, u64, &'static [usize], usize);
        let rows: [Row; 15] = [
            (
                Size4K,
                0x1_16be_4000,
                0,
                0x0010_0000_0011_6be4,
                &[2, 0, 0, 0, 0x22],
                0x6be4,
            ),
            (
                Size4K,
                0x1_4000_0000,
                0,
                0x0010_0000_0014_0000,
                &[2, 0, 0, 0, 0x28],
                0,
            ),
            (
                Size4K,
                0x1_4020_0000,
                9,
                0x0000_0800_0000_0a01,
                &[0, 2, 0, 0, 0],
                0xa01,
            ),
            (
                Size4K,
                0x40_0000_0000,
                18,
                0x0000_0004_0000_0100,
                &[0, 0, 2, 0, 0],
                0x100,
            ),
            (Size4K, 0, 0, 0x0010_0000_0000_0000, &[2, 0, 0, 0, 0], 0),
            (
                Size16K,
                0x1_16be_4000,
                0,
                0x0004_0000_0004_5af9,
                &[1, 0, 0, 2],
                0x5af9,
            ),
            (
                Size16K,
                0x1_4000_0000,
                0,
                0x0004_0000_0005_0000,
                &[1, 0, 0, 2],
                0x10000,
            ),
            (
                Size16K,
                0x1_4020_0000,
                7,
                0x0000_0800_0000_0a01,
                &[0, 0x10, 0, 0],
                0xa01,
            ),
            (
                Size16K,
                0x40_0000_0000,
                16,
                0x0000_0004_0000_0100,
                &[0, 0, 0x40, 0],
                0x100,
            ),
            (Size16K, 0, 0, 0x0004_0000_0000_0000, &[1, 0, 0, 0], 0),
            (
                Size64K,
                0x1_16be_0000,
                0,
                0x0001_0000_0001_16be,
                &[8, 0, 0],
                0x116be,
            ),
            (
                Size64K,
                0x1_4000_0000,
                0,
                0x0001_0000_0001_4000,
                &[8, 0, 0],
                0x14000,
            ),
            (
                Size64K,
                0x1_4020_0000,
                5,
                0x0000_0800_0000_0a01,
                &[0, 0x800, 0],
                0xa01,
            ),
            (
                Size64K,
                0x40_0000_0000,
                14,
                0x0000_0004_0000_0100,
                &[0, 4, 0],
                0x100,
            ),
            (Size64K, 0, 0, 0x0001_0000_0000_0000, &[8, 0, 0], 0),
        ];
        for (page, addr, order, number, indices, bit) in rows {
            let (addr, order) = (PhysAddr::new(addr), Order::new(order).unwrap());
            let key = Key::encode(addr, order, page).unwrap();
            assert_eq!(key.as_u64(), number);
            assert_eq!(key.decode(page), Ok((addr, order)));
            assert_eq!(leaf_bit(key, page), bit);
            let levels = (1..depth(page)).rev();
            assert_eq!(levels.clone().count(), indices.len());
            for (level, &index) in levels.zip(indices) {
                assert_eq!(
                    table_index(key, level, page),
                    index,
                    "{page:?} {number:#x} {level}"
                );
            }
        }
    }

    #[test]
    fn numbers_that_are_no_keys() {
        for page in PageSize::ALL {
            for key in [0, 1, 1 << key_width(page), u64::MAX] {
                assert_eq!(Key::new(key).decode(page), Err(KeyError::NotAKey { key }));
            }
            let largest = page.max_order();
            let top = Key::encode(PhysAddr::new(1 << 63), largest, page).unwrap();
            assert_eq!(top.as_u64(), 3, "the last key of the largest order");
            assert_eq!(top.decode(page), Ok((PhysAddr::new(1 << 63), largest)));
            let order = Order::new(largest.as_u32() + 1).unwrap();
            assert_eq!(
                Key::encode(PhysAddr::new(0), order, page),
                Err(KeyError::Order { order })
            );
            let (addr, order) = (PhysAddr::new(page.bytes()), Order::new(1).unwrap());
            assert_eq!(
                Key::encode(addr, order, page),
                Err(KeyError::Misaligned { addr, order })
            );
        }
    }

    proptest! {
        /// Every folio has one key, and no other folio has it; decoding undoes encoding.
        #[test]
        fn keys_and_folios_are_one_to_one(
            page in prop::sample::select(&PageSize::ALL), orders in any::<[u32; 2]>(),
            addrs in any::<[u64; 2]>(),
        ) {
            let folio = |addr: u64, order: u32| {
                let order = Order::new(order % (page.max_order().as_u32() + 1)).unwrap();
                let size = order.bytes(page).unwrap();
                (PhysAddr::new(addr / size * size), order)
            };
            let folios = [folio(addrs[0], orders[0]), folio(addrs[1], orders[1])];
            let keys = folios.map(|(addr, order)| Key::encode(addr, order, page).unwrap());
            for (key, folio) in keys.into_iter().zip(folios) {
                prop_assert_eq!(key.decode(page), Ok(folio));
                prop_assert!(key.as_u64() >> key_width(page) == 0);
            }
            prop_assert_eq!(keys[0] == keys[1], folios[0] == folios[1]);
            // A folio of the same address and size has the same key under every page size.
            let (addr, order) = folios[0];
            for other in PageSize::ALL {
                let other_order = (order.as_u32() + page.shift()).checked_sub(other.shift());
                if let Some(order) = other_order.and_then(Order::new) {
                    prop_assert_eq!(Key::encode(addr, order, other), Ok(keys[0]));
                }
            }
        }

        /// Any number is a folio's key or an error.
        #[test]
        fn decoding_is_total(number in any::<u64>(), bits in 0u32..64, page in prop::sample::select(&PageSize::ALL)) {
            let key = Key::new(number >> bits);
            match key.decode(page) {
                Ok((addr, order)) => prop_assert_eq!(Key::encode(addr, order, page), Ok(key)),
                Err(error) => {
                    prop_assert_eq!(error, KeyError::NotAKey { key: key.as_u64() });
                    prop_assert!(key.as_u64() < 2 || key.as_u64() >> key_width(page) != 0);
                }
            }
        }
    }
}

//! Addresses, page numbers, orders and page sizes as types of their own.

use core::fmt;

/// A physical byte address.
///
/// Any 64-bit value is an address; whether memory answers there is for [`crate::PhysMem`] and
/// [`crate::FrozenMem`] to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// The address with this byte number.
    #[inline]
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// The byte number.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address `bytes` further up, or `None` past the end of the address space.
    #[inline]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// How many bytes `self` lies above `lower`, or `None` if it lies below.
    #[inline]
    pub const fn checked_offset_from(self, lower: Self) -> Option<u64> {
        self.0.checked_sub(lower.0)
    }

    /// Whether the address is a multiple of `align`, a power of two.
    #[inline]
    pub const fn is_aligned_to(self, align: u64) -> bool {
        self.0 & align.wrapping_sub(1) == 0
    }

    /// Whether a page of this size starts here.
    #[inline]
    pub const fn is_page_aligned(self, page: PageSize) -> bool {
        self.is_aligned_to(page.bytes())
    }

    /// The page that contains this address.
    #[inline]
    pub const fn pfn(self, page: PageSize) -> Pfn {
        Pfn(self.0 >> page.shift())
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A page frame number: a physical address divided by the page size.
///
/// It means nothing without that size, which is why both conversions ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// The page with this number.
    #[inline]
    pub const fn new(pfn: u64) -> Self {
        Self(pfn)
    }

    /// The page number.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The first byte of the page, or `None` if it lies past the end of the address space.
    #[inline]
    pub const fn addr(self, page: PageSize) -> Option<PhysAddr> {
        if self.0 > u64::MAX >> page.shift() {
            None
        } else {
            Some(PhysAddr(self.0 << page.shift()))
        }
    }

    /// The page `pages` further up, or `None` on overflow.
    #[inline]
    pub const fn checked_add(self, pages: u64) -> Option<Self> {
        match self.0.checked_add(pages) {
            Some(pfn) => Some(Self(pfn)),
            None => None,
        }
    }

    /// How many low bits are zero; 64 for page 0, which is aligned to every order.
    #[inline]
    pub const fn trailing_zeros(self) -> u32 {
        self.0.trailing_zeros()
    }
}

/// log2 of a number of pages: a folio of order `o` is `2^o` contiguous pages, naturally aligned.
///
/// Holds 0 to 63. Which orders a format can express depends on the page size:
/// [`PageSize::max_order`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// A single page.
    pub const ZERO: Self = Self(0);

    /// The order, or `None` above 63.
    #[inline]
    pub const fn new(order: u32) -> Option<Self> {
        if order < 64 {
            Some(Self(order as u8))
        } else {
            None
        }
    }

    /// The exponent.
    #[inline]
    pub const fn as_u32(self) -> u32 {
        self.0 as u32
    }

    /// `2^order`.
    #[inline]
    pub const fn pages(self) -> u64 {
        1 << self.0
    }

    /// Size in bytes, or `None` if it does not fit 64 bits.
    #[inline]
    pub const fn bytes(self, page: PageSize) -> Option<u64> {
        if self.0 as u32 > page.max_order().0 as u32 {
            None
        } else {
            Some(1 << (self.0 as u32 + page.shift()))
        }
    }

    /// The smallest order of at least `bytes` bytes, or `None` for 0 bytes and above 2^63.
    #[inline]
    pub const fn for_bytes(bytes: u64, page: PageSize) -> Option<Self> {
        if bytes == 0 || bytes > 1 << 63 {
            return None;
        }
        let log2 = bytes.next_power_of_two().trailing_zeros();
        Some(Self(log2.saturating_sub(page.shift()) as u8))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The size of a page: a parameter everywhere, because no generation of the format records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4096 bytes.
    Size4K,
    /// 16384 bytes.
    Size16K,
    /// 65536 bytes.
    Size64K,
}

impl PageSize {
    /// Every supported size, ascending.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size16K, Self::Size64K];

    /// The page size of this many bytes, if supported.
    #[inline]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            0x1000 => Some(Self::Size4K),
            0x4000 => Some(Self::Size16K),
            0x1_0000 => Some(Self::Size64K),
            _ => None,
        }
    }

    /// log2 of the size in bytes: 12, 14 or 16.
    #[inline]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }

    /// Size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Size in bytes, as a length of Rust slices.
    #[inline]
    pub const fn as_usize(self) -> usize {
        1 << self.shift()
    }

    /// Number of 64-bit words in a page.
    #[inline]
    pub const fn words(self) -> usize {
        self.as_usize() / 8
    }

    /// The largest order whose size in bytes fits 64 bits: 51, 49 or 47.
    #[inline]
    pub const fn max_order(self) -> Order {
        Order((63 - self.shift()) as u8)
    }
}

/// A half-open range of physical memory; never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysRange {
    start: PhysAddr,
    end: PhysAddr,
}

impl PhysRange {
    /// `size` bytes from `start`, or `None` if the end does not fit 64 bits.
    #[inline]
    pub const fn new(start: PhysAddr, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// The folio of this order at `start`, or `None` if its end does not fit 64 bits.
    #[inline]
    pub const fn folio(start: PhysAddr, order: Order, page: PageSize) -> Option<Self> {
        match order.bytes(page) {
            Some(size) => Self::new(start, size),
            None => None,
        }
    }

    /// First byte.
    #[inline]
    pub const fn start(self) -> PhysAddr {
        self.start
    }

    /// One past the last byte.
    #[inline]
    pub const fn end(self) -> PhysAddr {
        self.end
    }

    /// Length in bytes.
    #[inline]
    pub const fn size(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether it holds no byte.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether the byte at `addr` is inside.
    #[inline]
    pub const fn contains(self, addr: PhysAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }

    /// Whether all of `other` is inside. An empty `other` must still lie within the bounds.
    #[inline]
    pub const fn contains_range(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Whether the two share a byte. An empty range shares none.
    #[inline]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end.0
            && other.start.0 < self.end.0
            && !self.is_empty()
            && !other.is_empty()
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pfn_needs_its_page_size() {
        let addr = PhysAddr::new(0x1_4020_0000);
        assert_eq!(addr.pfn(PageSize::Size4K), Pfn::new(0x14_0200));
        assert_eq!(addr.pfn(PageSize::Size64K), Pfn::new(0x1_4020));
        assert_eq!(Pfn::new(0x1_4020).addr(PageSize::Size64K), Some(addr));
        assert_eq!(Pfn::new(u64::MAX).addr(PageSize::Size4K), None);
        assert_eq!(
            Pfn::new(u64::MAX >> 12).addr(PageSize::Size4K),
            Some(PhysAddr::new(!0xfff))
        );
        assert_eq!(Pfn::new(1 << 52).addr(PageSize::Size4K), None);
        assert_eq!(Pfn::new(5).checked_add(2), Some(Pfn::new(7)));
        assert_eq!(Pfn::new(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn orders_stop_where_bytes_do_not_fit() {
        for page in PageSize::ALL {
            assert_eq!(page.max_order().bytes(page), Some(1 << 63));
            let above = Order::new(page.max_order().as_u32() + 1).unwrap();
            assert_eq!(above.bytes(page), None);
            assert_eq!(Order::for_bytes(1, page), Some(Order::ZERO));
            assert_eq!(Order::for_bytes(page.bytes(), page), Some(Order::ZERO));
            assert_eq!(Order::for_bytes(page.bytes() + 1, page), Order::new(1));
            assert_eq!(Order::for_bytes(0, page), None);
            assert_eq!(Order::for_bytes(1 << 63, page), Some(page.max_order()));
            assert_eq!(Order::for_bytes((1 << 63) + 1, page), None);
            assert_eq!(PageSize::from_bytes(page.bytes()), Some(page));
        }
        assert_eq!(Order::new(64), None);
        assert_eq!(PageSize::from_bytes(8192), None);
    }

    #[test]
    fn ranges_are_half_open_and_do_not_wrap() {
        let range = |start, size| PhysRange::new(PhysAddr::new(start), size);
        let r = range(0x1000, 0x1000).unwrap();
        assert!(r.contains(PhysAddr::new(0x1fff)) && !r.contains(PhysAddr::new(0x2000)));
        assert!(!r.overlaps(range(0x2000, 1).unwrap()));
        assert!(!r.overlaps(range(0x1800, 0).unwrap()));
        assert!(r.overlaps(range(0x1fff, 1).unwrap()));
        assert!(r.contains_range(range(0x2000, 0).unwrap()));
        assert_eq!(range(u64::MAX, 2), None);
    }
}

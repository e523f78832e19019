//! Sets of pages to preserve, by address.

/// All of them lie here or above.
pub const START: u64 = 4 << 30;

/// How many pages 16 GiB are.
pub const PAGES: u64 = (16 << 30) >> 12;

/// Sixteen GiB without a gap: 4 Mi pages.
pub fn dense() -> Vec<u64> {
    (0..PAGES).map(|page| START + (page << 12)).collect()
}

/// Every other page of sixteen GiB, so that nothing merges: 2 Mi pages.
pub fn alternating() -> Vec<u64> {
    (0..PAGES)
        .step_by(2)
        .map(|page| START + (page << 12))
        .collect()
}

/// One half of the pages of sixteen GiB, by chance.
pub fn scattered() -> Vec<u64> {
    let mut random = Random(1);
    let mut pages = dense();
    pages.retain(|_| random.next() >> 63 != 0);
    pages
}

/// 64 Ki pages, as far apart as one TiB allows: 8 in each leaf of the tree.
pub fn spread() -> Vec<u64> {
    (0..1 << 16).map(|page| START + (page << 24)).collect()
}

/// The same pages in an order without a pattern.
pub fn shuffled(mut pages: Vec<u64>) -> Vec<u64> {
    let mut random = Random(2);
    for last in (1..pages.len()).rev() {
        pages.swap(last, (random.next() % (last as u64 + 1)) as usize);
    }
    pages
}

/// Splitmix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

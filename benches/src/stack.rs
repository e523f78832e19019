//! How much stack a call takes: it runs on a stack that was filled with a pattern, and what is not
//! the pattern afterwards was used.
//!
//! What a function reserves but never writes, below everything that is written, is not seen. The
//! frames of the measurement itself are taken off.
#![allow(
    unsafe_code,
    reason = "a stack is memory that is not Rust's to look at"
)]

/// Of the stack to run on.
const SIZE: usize = 256 << 10;
const PATTERN: u64 = 0xa5c3_96e1_7b2d_480f;

/// Bytes of stack that `work` used.
pub fn used(work: impl FnOnce()) -> usize {
    high_water(work) - high_water(|| ())
}

fn high_water(work: impl FnOnce()) -> usize {
    // Aligned for any ABI, by pages.
    let mut stack = vec![Page([PATTERN; 512]); SIZE / 4096];
    let base = stack.as_mut_ptr().cast::<u8>();
    // SAFETY: `base` is the low end of `SIZE` bytes that nothing else uses, aligned to a page.
    unsafe { psm::on_stack(base, SIZE, work) };
    let words = stack.iter().flat_map(|page| page.0);
    let unused = words.take_while(|&word| word == PATTERN).count() * 8;
    assert!(unused > 0, "the stack was used up");
    SIZE - unused
}

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page([u64; 512]);

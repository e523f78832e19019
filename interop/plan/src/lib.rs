//! What the programs of an interoperability scenario agree on: the guest's init, the bare-metal
//! program, and the host that judges what they say.
//!
//! A program says what it finds on the serial line, one JSON object a line behind [`PREFIX`]. It
//! says digests and numbers; whether they are right is for the host to decide.
#![no_std]
#![forbid(unsafe_code)]

/// What a line that states a fact starts with. Everything else on the serial line is log.
pub const PREFIX: &str = "@fact ";

/// A memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its key in the session.
    pub token: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Which pattern it holds.
    pub seed: u64,
}

/// A LUO session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub name: &'static str,
    /// Its files, in the order in which they are preserved.
    pub files: &'static [File],
}

const fn file(token: u64, size: u64, seed: u64) -> File {
    File { token, size, seed }
}

/// The sessions whose contents have to arrive. One file does not end with a page.
pub const SESSIONS: [Session; 2] = [
    Session {
        name: "vm0",
        files: &[file(0x10, 4 << 20, 1), file(0x11, 81_920 - 77, 2)],
    },
    Session {
        name: "vm1",
        files: &[file(0x20, 262_144, 3)],
    },
];

/// A region that lives under a name: `reserve_mem=1M:4096:oops`.
pub const REGION: &str = "oops";
/// Its size in bytes.
pub const REGION_SIZE: u64 = 1 << 20;
/// Which pattern it holds.
pub const REGION_SEED: u64 = 9;

/// Which pattern the device writes whose DMA goes on across a jump.
pub const DMA_SEED: u64 = 11;

/// The session in which a Linux kernel travels that the bare-metal program boots.
pub const BOOT: &str = "boot";
/// Token of the kernel image.
pub const BOOT_KERNEL: u64 = 1;
/// Token of the initial RAM disk.
pub const BOOT_INITRD: u64 = 2;
/// Token of the command line.
pub const BOOT_CMDLINE: u64 = 3;

/// The sub-blob that the bare-metal program adds.
pub const NOTE: &str = "bare-metal";
/// What the bare-metal program calls itself.
pub const RELEASE: &str = "kho-bare-metal-0.1";

/// The 64-bit word of pattern `seed` at byte `offset`, a multiple of 8: the finalizer of SplitMix64.
pub const fn word(seed: u64, offset: u64) -> u64 {
    let mut x = seed.wrapping_shl(48) ^ offset;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Fills `bytes` with pattern `seed` from byte `offset` on, a multiple of 8.
pub fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (i, piece) in bytes.chunks_mut(8).enumerate() {
        let word = word(seed, offset.wrapping_add(i as u64 * 8)).to_le_bytes();
        for (byte, value) in piece.iter_mut().zip(word) {
            *byte = value;
        }
    }
}

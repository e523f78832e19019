//! The Live Update Orchestrator: sessions, files, file-lifecycle-bound objects.
//!
//! The sub-blob `LUO` is a [`LuoSer`]. It leads to a set of [blocks](crate::block) of
//! [`LuoSessionSer`], each of which leads to a set of blocks of [`LuoFileSer`], and to one page of
//! [`LuoFlbSer`].
//!
//! # Source
//! Linux 7.3-rc7 `include/linux/kho/abi/luo.h`. Version string: [`COMPATIBLE`].

use kho_hal::PageSize;
use static_assertions::const_assert_eq;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Name;

/// Name of the sub-blob.
pub const NODE: &str = "LUO";

/// Value of [`LuoSer::compatible`].
pub const COMPATIBLE: &str = "luo-v5";

/// The sub-blob: C `struct luo_ser`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LuoSer {
    /// [`COMPATIBLE`].
    pub compatible: Name<8>,
    /// 1 in the first live update of a chain, one more in each that follows.
    pub liveupdate_num: U64,
    /// First block of sessions; 0 if there is none.
    pub sessions_pa: U64,
    /// The page of file-lifecycle-bound objects; 0 if there is none.
    pub flbs_pa: U64,
}
assert_layout!(LuoSer, 32, { compatible: 0, liveupdate_num: 8, sessions_pa: 16, flbs_pa: 24 });

/// A named set of files: C `struct luo_session_ser`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LuoSessionSer {
    /// Unique among sessions.
    pub name: Name<64>,
    /// First block of files; 0 if the session has none.
    pub files: U64,
    /// Number of files.
    pub count: U64,
}
assert_layout!(LuoSessionSer, 80, { name: 0, files: 64, count: 72 });

/// A preserved file: C `struct luo_file_ser`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LuoFileSer {
    /// Which handler understands `data`.
    pub compatible: Name<48>,
    /// The handler's own; for a memfd the address of its descriptor.
    pub data: U64,
    /// The file's key in its session, chosen by who preserved it.
    pub token: U64,
}
assert_layout!(LuoFileSer, 64, { compatible: 0, data: 48, token: 56 });

/// Start of the page of file-lifecycle-bound objects: C `struct luo_flb_header_ser`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LuoFlbHeaderSer {
    /// Pages of this array: 1.
    pub pgcnt: U64,
    /// Entries used.
    pub count: U64,
}
assert_layout!(LuoFlbHeaderSer, 16, { pgcnt: 0, count: 8 });

/// Global state that lives while a file of certain handlers is preserved: C `struct luo_flb_ser`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LuoFlbSer {
    /// Which owner understands `data`.
    pub name: Name<48>,
    /// The owner's own.
    pub data: U64,
    /// How many preserved files, and others, hold it.
    pub count: U64,
}
assert_layout!(LuoFlbSer, 64, { name: 0, data: 48, count: 56 });

/// Most file-lifecycle-bound objects: what fits one page.
pub const fn max_flbs(page: PageSize) -> usize {
    (page.as_usize() - size_of::<LuoFlbHeaderSer>()) / size_of::<LuoFlbSer>()
}
const_assert_eq!(max_flbs(PageSize::Size4K), 63);
const_assert_eq!(max_flbs(PageSize::Size16K), 255);
const_assert_eq!(max_flbs(PageSize::Size64K), 1023);

//! A flattened device tree as the tokens that it is made of.
//!
//! For who wants little of a long tree, in one pass, and for trees whose names follow no rule:
//! firmware's own, which arm64 kernels pass on, have property names of more than the 31 bytes that
//! the Devicetree Specification allows, and the labels of reserved regions are free text.
//!
//! # Guarantees
//! Any bytes give tokens and an end, or nothing; the name of a property has 255 bytes at most. No
//! allocation, time linear in the length. That nodes are closed is not checked here.
//!
//! # Source
//! Devicetree Specification 0.4, chapter 5.

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The first word of a flattened device tree.
pub(crate) const MAGIC: u32 = 0xd00d_feed;

/// The version that this reader knows; newer trees say that they can be read as this one.
const VERSION: u32 = 17;

/// Longest name of a property. The specification has 31 bytes and firmware some more; many properties
/// may share one long name, and each would look for its end.
const MAX_NAME: usize = 255;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: U32,
    totalsize: U32,
    off_dt_struct: U32,
    off_dt_strings: U32,
    off_mem_rsvmap: U32,
    version: U32,
    last_comp_version: U32,
    boot_cpuid_phys: U32,
    size_dt_strings: U32,
    size_dt_struct: U32,
}

/// The tokens of a tree, from some point on.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    /// The property name that was looked up last: where it is, and what. Most are the same again.
    last_name: (u32, &'a [u8]),
}

/// One token. Names come without their NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A node of this name begins.
    BeginNode(&'a [u8]),
    /// A property of the node that began last: name and value.
    Property(&'a [u8], &'a [u8]),
    /// The node that began last, and is not closed yet, ends.
    EndNode,
    /// The tree ends.
    End,
}

/// What is wrong with a tree's header: at which byte, and what.
pub(crate) type Malformed = (usize, &'static str);

impl<'a> Tokens<'a> {
    /// The tokens of the tree at the start of `bytes`; `None` if there is none, or not all of it.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        Self::parse(bytes).ok()
    }

    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| (0, "no header"))?;
        if header.magic.get() != MAGIC {
            return Err((0, "invalid magic number"));
        }
        if !(header.last_comp_version.get()..=header.version.get()).contains(&VERSION) {
            return Err((20, "unsupported version"));
        }
        let tree = bytes
            .get(..header.totalsize.get() as usize)
            .ok_or((4, "incomplete"))?;
        let block = |offset: U32, size: U32| {
            let start = offset.get() as usize;
            tree.get(start..start.checked_add(size.get() as usize)?)
        };
        Ok(Self {
            structure: block(header.off_dt_struct, header.size_dt_struct)
                .ok_or((8, "structure block outside the tree"))?,
            strings: block(header.off_dt_strings, header.size_dt_strings)
                .ok_or((12, "strings block outside the tree"))?,
            last_name: (0, &[]),
        })
    }

    /// What is left of the structure block.
    pub(crate) fn left(&self) -> &'a [u8] {
        self.structure
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.structure.split_first_chunk()?;
        self.structure = rest;
        Some(u32::from_be_bytes(*word))
    }

    /// `len` bytes, and the padding behind them.
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.structure.get(..len)?;
        self.structure = self.structure.get(len.checked_next_multiple_of(4)?..)?;
        Some(taken)
    }

    fn node_name(&mut self) -> Option<&'a [u8]> {
        let len = self.structure.iter().position(|&byte| byte == 0)?;
        self.take(len + 1)?.get(..len)
    }

    fn property_name(&mut self, at: u32) -> Option<&'a [u8]> {
        if self.last_name.0 != at || self.last_name.1.is_empty() {
            let name = self.strings.get(at as usize..)?;
            let name = name.get(..=MAX_NAME).unwrap_or(name);
            let len = name.iter().position(|&byte| byte == 0)?;
            self.last_name = (at, name.get(..len)?);
        }
        Some(self.last_name.1)
    }
}

/// Ends at the first thing that is no token; a whole tree's last token is [`Token::End`].
impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            match self.word()? {
                BEGIN_NODE => return Some(Token::BeginNode(self.node_name()?)),
                END_NODE => return Some(Token::EndNode),
                PROP => {
                    let (len, name) = (self.word()? as usize, self.word()?);
                    let value = self.take(len)?;
                    return Some(Token::Property(self.property_name(name)?, value));
                }
                NOP => {}
                END => return Some(Token::End),
                _ => return None,
            }
        }
    }
}

//! Device trees whose names follow no rule.
//!
//! Firmware's own trees, which arm64 kernels pass on, have property names of more than the 31 bytes
//! that the Devicetree Specification allows, and the labels of reserved regions are free text. The
//! reader of descriptions refuses such names, so these trees are read here, as tokens.
//!
//! # Source
//! Devicetree Specification 0.4, chapter 5.

use kho_hal::{FrozenMem, PhysAddr};
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::incoming::error::FdtError;
use crate::incoming::fdt::MAGIC;
use crate::incoming::{Fault, read};

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The version that this reader knows; newer trees say that they can be read as this one.
const VERSION: u32 = 17;

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
struct Tokens<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
enum Token<'a> {
    Begin(&'a [u8]),
    Property(&'a [u8], &'a [u8]),
    EndNode,
    End,
}

/// A node of a checked tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LooseNode<'a> {
    name: &'a [u8],
    /// What follows the node's name.
    inside: Tokens<'a>,
}

/// A tree whose structure is checked.
pub(crate) struct LooseTree<'a> {
    bytes: &'a [u8],
    pub(crate) root: LooseNode<'a>,
}

impl LooseTree<'_> {
    /// Where in the tree's bytes a part of them is.
    pub(crate) fn offset(&self, part: &[u8]) -> usize {
        part.as_ptr()
            .addr()
            .saturating_sub(self.bytes.as_ptr().addr())
    }
}

/// The root of the tree at `addr`, which has at most `max` bytes: its structure is checked.
pub(crate) fn root<M: FrozenMem>(
    mem: &M,
    addr: PhysAddr,
    max: u64,
) -> Result<LooseNode<'_>, Fault> {
    Ok(tree(mem, addr, max)?.root)
}

/// The tree at `addr`, which has at most `max` bytes: its structure is checked.
pub(crate) fn tree<M: FrozenMem>(
    mem: &M,
    addr: PhysAddr,
    max: u64,
) -> Result<LooseTree<'_>, Fault> {
    let malformed = |offset, what| Fault::Fdt {
        at: addr,
        cause: FdtError::loose(offset, what),
    };
    let header: &Header = read::object(mem, addr)?;
    if header.magic.get() != MAGIC {
        return Err(malformed(0, "invalid magic number"));
    }
    if !(header.last_comp_version.get()..=header.version.get()).contains(&VERSION) {
        return Err(malformed(20, "unsupported version"));
    }
    let size = header.totalsize.get();
    if u64::from(size) > max {
        return Err(Fault::Count {
            at: addr,
            found: size.into(),
            max,
        });
    }
    let bytes = mem.bytes(addr, size as usize)?;
    let block = |offset: U32, size: U32| {
        let start = offset.get() as usize;
        bytes.get(start..start.checked_add(size.get() as usize)?)
    };
    let tokens = Tokens {
        structure: block(header.off_dt_struct, header.size_dt_struct)
            .ok_or(malformed(8, "structure block outside the tree"))?,
        strings: block(header.off_dt_strings, header.size_dt_strings)
            .ok_or(malformed(12, "strings block outside the tree"))?,
    };
    let offset = header.off_dt_struct.get() as usize;
    let root = tokens
        .check()
        .map_err(|at| malformed(offset + at, "malformed structure"))?;
    Ok(LooseTree { bytes, root })
}

impl<'a> Tokens<'a> {
    /// Takes the next token, skipping those that say nothing.
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            match self.word()? {
                BEGIN_NODE => return Some(Token::Begin(self.string()?)),
                END_NODE => return Some(Token::EndNode),
                PROP => {
                    let (len, name) = (self.word()? as usize, self.word()? as usize);
                    let value = self.take(len)?;
                    let name = self.strings.get(name..)?;
                    let name = name.get(..name.iter().position(|&byte| byte == 0)?)?;
                    return Some(Token::Property(name, value));
                }
                NOP => {}
                END => return Some(Token::End),
                _ => return None,
            }
        }
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A string up to its NUL, and the padding behind it.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.structure.iter().position(|&byte| byte == 0)?;
        self.take(len + 1)?.get(..len)
    }

    /// `len` bytes, and the padding behind them.
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.structure.get(..len)?;
        self.structure = self.structure.get(len.checked_next_multiple_of(4)?..)?;
        Some(taken)
    }

    /// Checks that one node is all there is, and returns it; else where it is not.
    fn check(self) -> Result<LooseNode<'a>, usize> {
        let mut tokens = self;
        let mut depth = 0u64;
        let mut root = None;
        loop {
            let at = self.structure.len() - tokens.structure.len();
            match tokens.next().ok_or(at)? {
                Token::Begin(name) => {
                    if depth == 0 && root.is_some() {
                        return Err(at);
                    }
                    root.get_or_insert(LooseNode {
                        name,
                        inside: tokens,
                    });
                    depth += 1;
                }
                Token::Property(..) if depth > 0 => {}
                Token::EndNode => depth = depth.checked_sub(1).ok_or(at)?,
                Token::End if depth == 0 => return root.ok_or(at),
                Token::Property(..) | Token::End => return Err(at),
            }
        }
    }
}

impl<'a> LooseNode<'a> {
    /// The name, as bytes.
    pub(crate) fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The value of a property.
    pub(crate) fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut tokens = self.inside;
        while let Some(Token::Property(found, value)) = tokens.next() {
            if found == name.as_bytes() {
                return Some(value);
            }
        }
        None
    }

    /// The value of a property as a native u64.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        Some(u64::from_le_bytes(self.property(name)?.try_into().ok()?))
    }

    /// The children.
    pub(crate) fn children(&self) -> impl Iterator<Item = LooseNode<'a>> + use<'a> {
        let mut tokens = self.inside;
        let mut depth = 0u64;
        core::iter::from_fn(move || {
            loop {
                match tokens.next()? {
                    Token::Begin(name) => {
                        depth += 1;
                        if depth == 1 {
                            let inside = tokens;
                            return Some(LooseNode { name, inside });
                        }
                    }
                    Token::Property(..) => {}
                    Token::EndNode => depth = depth.checked_sub(1)?,
                    Token::End => return None,
                }
            }
        })
    }

    /// The child of exactly this name.
    pub(crate) fn child(&self, name: &str) -> Option<LooseNode<'a>> {
        self.children().find(|child| child.name == name.as_bytes())
    }
}

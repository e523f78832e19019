//! Device trees whose names follow no rule, as nodes.
//!
//! The reader of descriptions refuses names that the Devicetree Specification does not allow, so
//! firmware's trees and labels of regions are read from [tokens](crate::Tokens).

use kho_hal::{FrozenMem, PhysAddr};

use crate::Tokens;
use crate::incoming::error::FdtError;
use crate::incoming::{Fault, fdt};
use crate::tokens::{MAGIC, Token};

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
        offset(self.bytes, part)
    }
}

fn offset(bytes: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().saturating_sub(bytes.as_ptr().addr())
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
    let (magic, size) = fdt::magic_and_size(mem, addr, max)?;
    if magic != MAGIC {
        return Err(malformed(0, "invalid magic number"));
    }
    if u64::from(size) > max {
        return Err(Fault::Count {
            at: addr,
            found: size.into(),
            max,
        });
    }
    let bytes = mem.bytes(addr, size as usize)?;
    let tokens = Tokens::parse(bytes).map_err(|(offset, what)| malformed(offset, what))?;
    let root =
        check(tokens).map_err(|left| malformed(offset(bytes, left), "malformed structure"))?;
    Ok(LooseTree { bytes, root })
}

/// What a sub-blob says of its version: the `compatible` of its tree, or the string that it starts
/// with.
pub(crate) fn version(blob: &[u8]) -> Option<&str> {
    let tree = Tokens::parse(blob).ok();
    let version = match tree.and_then(|tokens| check(tokens).ok()) {
        Some(root) => root.property(kho_abi::fdt::COMPATIBLE)?,
        None => blob.get(..blob.len().min(8))?,
    };
    let version = version.split(|&byte| byte == 0).next()?;
    let version = core::str::from_utf8(version).ok()?;
    (!version.is_empty()).then_some(version)
}

/// Checks that one node is all there is, and returns it; else what is left of the structure block
/// where it is not.
fn check(mut tokens: Tokens<'_>) -> Result<LooseNode<'_>, &[u8]> {
    let mut depth = 0u64;
    let mut root = None;
    loop {
        let left = tokens.left();
        match tokens.next().ok_or(left)? {
            Token::BeginNode(name) => {
                if depth == 0 && root.is_some() {
                    return Err(left);
                }
                root.get_or_insert(LooseNode {
                    name,
                    inside: tokens,
                });
                depth += 1;
            }
            Token::Property(..) if depth > 0 => {}
            Token::EndNode => depth = depth.checked_sub(1).ok_or(left)?,
            Token::End if depth == 0 => return root.ok_or(left),
            Token::Property(..) | Token::End => return Err(left),
        }
    }
}

impl<'a> LooseNode<'a> {
    /// Bytes from here to the end of the tree's structure.
    pub(crate) fn left(&self) -> usize {
        self.inside.left().len()
    }

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
                    Token::BeginNode(name) => {
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

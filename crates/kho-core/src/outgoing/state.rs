//! The state tree of series v5: what users hand over, as nodes and properties.
//!
//! Nodes and properties are found by the hash of their name. They are written in the order of their
//! names, so that equal trees give equal bytes.
//!
//! # Source
//! Series v5 of 20 March 2025, `kernel/kexec_handover.c`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::HashMap;
use vm_fdt::FdtWriter;

use crate::OutgoingError;

/// Deepest nesting that the description's writer and Linux's reader can take.
const MAX_DEPTH: usize = 60;

/// Longest name of a node or property, in bytes.
const MAX_NAME: usize = 31;

/// A node: properties and children, each under a name of its own.
#[derive(Debug, Default)]
pub struct StateNode {
    properties: HashMap<Box<str>, Vec<u8>>,
    children: HashMap<Box<str>, StateNode>,
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'v> {
    /// A string; its NUL is added.
    Str(&'v str),
    /// A 32-bit number.
    U32(u32),
    /// A 64-bit number.
    U64(u64),
    /// Bytes as they are.
    Bytes(&'v [u8]),
}

/// Is told when a state tree is finalized, to bring its part of it up to date, and when that is
/// undone.
pub trait Notifier {
    /// The tree is about to be finalized; it can still be changed.
    ///
    /// # Errors
    /// Any: the tree is not finalized then.
    fn finalize(&mut self, tree: &mut StateTree) -> Result<(), OutgoingError>;

    /// The tree is open again.
    fn abort(&mut self, tree: &mut StateTree);
}

/// The state of all users. Nodes are named by their path: names from the root down, empty for the
/// root itself.
#[derive(Debug, Default)]
pub struct StateTree {
    root: StateNode,
    finalized: bool,
}

impl StateTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node below `parent`.
    ///
    /// # Errors
    /// [`OutgoingError::Busy`] when finalized, [`OutgoingError::Unknown`] parent,
    /// [`OutgoingError::Exists`], [`OutgoingError::Name`], [`OutgoingError::TooMany`] below 60
    /// levels, [`OutgoingError::NoMemory`].
    pub fn add_node(&mut self, parent: &[&str], name: &str) -> Result<(), OutgoingError> {
        if parent.len() >= MAX_DEPTH {
            let max = MAX_DEPTH as u64;
            return Err(OutgoingError::TooMany { max });
        }
        let node = self.node_mut(parent)?;
        insert(&mut node.children, name, StateNode::default())
    }

    /// Removes a node with all below it.
    ///
    /// # Errors
    /// [`OutgoingError::Busy`] when finalized, [`OutgoingError::Unknown`].
    pub fn remove_node(&mut self, parent: &[&str], name: &str) -> Result<(), OutgoingError> {
        let removed = self.node_mut(parent)?.children.remove(name);
        removed.map(drop).ok_or(OutgoingError::Unknown)
    }

    /// Adds a property to a node.
    ///
    /// # Errors
    /// As [`StateTree::add_node`].
    pub fn add_property(
        &mut self,
        node: &[&str],
        name: &str,
        value: Value<'_>,
    ) -> Result<(), OutgoingError> {
        let node = self.node_mut(node)?;
        let value = value.to_bytes()?;
        insert(&mut node.properties, name, value)
    }

    /// Removes a property from a node.
    ///
    /// # Errors
    /// As [`StateTree::remove_node`].
    pub fn remove_property(&mut self, node: &[&str], name: &str) -> Result<(), OutgoingError> {
        let removed = self.node_mut(node)?.properties.remove(name);
        removed.map(drop).ok_or(OutgoingError::Unknown)
    }

    /// The value of a property, if there is one.
    pub fn property(&self, node: &[&str], name: &str) -> Option<&[u8]> {
        let node = node
            .iter()
            .try_fold(&self.root, |node, name| node.children.get(*name))?;
        node.properties.get(name).map(Vec::as_slice)
    }

    /// Whether the tree is finalized.
    pub fn is_finalized(&self) -> bool {
        self.finalized
    }

    /// Tells all notifiers, in order, and closes the tree.
    ///
    /// # Errors
    /// [`OutgoingError::Busy`] when finalized already, or what a notifier returns: then those
    /// before it are told of the abort, the last first, and the tree stays open.
    pub fn finalize(&mut self, notifiers: &mut [&mut dyn Notifier]) -> Result<(), OutgoingError> {
        if self.finalized {
            return Err(OutgoingError::Busy);
        }
        for i in 0..notifiers.len() {
            let told = notifiers
                .get_mut(i)
                .map_or(Ok(()), |notifier| notifier.finalize(self));
            if let Err(error) = told {
                for notifier in notifiers.iter_mut().take(i).rev() {
                    notifier.abort(self);
                }
                return Err(error);
            }
        }
        self.finalized = true;
        Ok(())
    }

    /// Opens the tree again and tells all notifiers, in order.
    ///
    /// # Errors
    /// [`OutgoingError::Unknown`] if it is not finalized.
    pub fn abort(&mut self, notifiers: &mut [&mut dyn Notifier]) -> Result<(), OutgoingError> {
        if !self.finalized {
            return Err(OutgoingError::Unknown);
        }
        self.finalized = false;
        for notifier in notifiers {
            notifier.abort(self);
        }
        Ok(())
    }

    /// The users' nodes: name and content, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &StateNode)> {
        by_name(&self.root.children).into_iter()
    }

    fn node_mut(&mut self, path: &[&str]) -> Result<&mut StateNode, OutgoingError> {
        if self.finalized {
            return Err(OutgoingError::Busy);
        }
        let mut node = &mut self.root;
        for name in path {
            node = node.children.get_mut(*name).ok_or(OutgoingError::Unknown)?;
        }
        Ok(node)
    }
}

impl StateNode {
    /// Writes properties and children into the node that is open. Recursive to the depth of the
    /// tree, which is bounded.
    pub(crate) fn fill(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        for (name, value) in by_name(&self.properties) {
            fdt.property(name, value)?;
        }
        for (name, child) in by_name(&self.children) {
            let node = fdt.begin_node(name)?;
            child.fill(fdt)?;
            fdt.end_node(node)?;
        }
        Ok(())
    }
}

impl Value<'_> {
    fn to_bytes(self) -> Result<Vec<u8>, OutgoingError> {
        let mut bytes = Vec::new();
        let mut push = |part: &[u8]| {
            bytes
                .try_reserve(part.len())
                .map_err(|_| OutgoingError::NoMemory)?;
            bytes.extend_from_slice(part);
            Ok::<_, OutgoingError>(())
        };
        match self {
            Self::Str(text) => {
                push(text.as_bytes())?;
                push(&[0])?;
            }
            Self::U32(number) => push(&number.to_le_bytes())?,
            Self::U64(number) => push(&number.to_le_bytes())?,
            Self::Bytes(part) => push(part)?,
        }
        Ok(bytes)
    }
}

fn insert<V>(map: &mut HashMap<Box<str>, V>, name: &str, value: V) -> Result<(), OutgoingError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b",._+-@#?".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return Err(OutgoingError::Name(kho_abi::NameError { max: MAX_NAME }));
    }
    if map.contains_key(name) {
        return Err(OutgoingError::Exists);
    }
    let mut key = String::new();
    key.try_reserve_exact(name.len())
        .map_err(|_| OutgoingError::NoMemory)?;
    key.push_str(name);
    map.try_reserve(1).map_err(|_| OutgoingError::NoMemory)?;
    map.insert(key.into_boxed_str(), value);
    Ok(())
}

fn by_name<V>(map: &HashMap<Box<str>, V>) -> Vec<(&str, &V)> {
    let mut entries: Vec<_> = map.iter().map(|(name, value)| (&**name, value)).collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    entries
}

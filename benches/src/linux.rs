//! Linux's own tree of preserved memory, compiled from a Linux source tree.
#![allow(unsafe_code, reason = "Linux's functions are C")]

use crate::arena::Arena;

/// `struct kho_radix_tree`, as `linux/shim.h` lays out its parts.
#[repr(C)]
#[derive(Debug)]
struct RadixTree {
    root: *mut u8,
    lock: u64,
}

unsafe extern "C" {
    fn kho_peer_memory(base: usize, size: usize, distance: usize);
    fn kho_peer_init(tree: *mut RadixTree) -> i32;
    fn kho_peer_root(tree: *mut RadixTree) -> u64;
    fn kho_peer_preserve(tree: *mut RadixTree, phys: u64, order: u32) -> i32;
    fn kho_peer_unpreserve(tree: *mut RadixTree, phys: u64, order: u32);
    fn kho_peer_walk(tree: *mut RadixTree) -> u64;
}

/// A tree in an arena of its own. There is one at a time, as its allocator is global.
#[derive(Debug)]
pub struct LinuxTree {
    tree: RadixTree,
    /// Keeps the memory; only the C code uses it.
    arena: Arena,
}

impl LinuxTree {
    /// An empty tree with room for `size` bytes of pages.
    pub fn new(size: u64) -> Self {
        let arena = Arena::new(size);
        let mut tree = RadixTree {
            root: std::ptr::null_mut(),
            lock: 0,
        };
        let (base, size) = arena.mapped();
        // SAFETY: the memory is there while `self` lives, and nothing else uses it.
        unsafe { kho_peer_memory(base, size, arena.distance()) };
        // SAFETY: `tree` is laid out as C has it.
        assert_eq!(unsafe { kho_peer_init(&mut tree) }, 0);
        Self { tree, arena }
    }

    /// `kho_radix_add_key` of the folio's key.
    pub fn preserve(&mut self, phys: u64, order: u32) {
        // SAFETY: a tree that `kho_peer_init` made.
        assert_eq!(unsafe { kho_peer_preserve(&mut self.tree, phys, order) }, 0);
    }

    /// `kho_radix_del_key` of the folio's key.
    pub fn unpreserve(&mut self, phys: u64, order: u32) {
        // SAFETY: a tree that `kho_peer_init` made.
        unsafe { kho_peer_unpreserve(&mut self.tree, phys, order) };
    }

    /// `kho_radix_walk_tree` with a callback that decodes each key and adds address and order up.
    pub fn walk(&mut self) -> u64 {
        // SAFETY: a tree that `kho_peer_init` made.
        unsafe { kho_peer_walk(&mut self.tree) }
    }

    /// The physical address of the root.
    pub fn root(&mut self) -> u64 {
        // SAFETY: a tree that `kho_peer_init` made.
        unsafe { kho_peer_root(&mut self.tree) }
    }

    /// The memory of the tree.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}

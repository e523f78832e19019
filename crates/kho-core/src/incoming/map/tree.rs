//! Checking the pages of a radix tree.

use kho_abi::radix::{self, Key};
use kho_hal::{FrozenMem, PageSize, PhysAddr};

use crate::bits::Word;
use crate::incoming::Fault;
use crate::incoming::ascending::Sorter;
use crate::incoming::places::{Ram, Scratch};
use crate::tree::{Frozen, Tree};

/// Checks that each page is RAM, outside scratch, and reached once, and that only entries of the
/// root are in use that some address needs. Returns how many pages there are.
///
/// A tree that fails, but makes sense with a level less, is one of those that Linux before
/// 7.1-rc6 made for 16 KiB pages. Some folios in it cannot be told, so it is refused all the same.
pub(super) fn check<M: FrozenMem>(
    tree: &Tree<Frozen<'_, M>>,
    ram: &Ram<'_>,
    scratch: &Scratch<'_>,
    workspace: &mut [u64],
) -> Result<u64, Fault> {
    let checked = check_whole(tree, ram, scratch, workspace);
    let is_damaged = !matches!(checked, Ok(_) | Err(Fault::Workspace { .. }));
    if is_damaged && tree.page == PageSize::Size16K && is_short(tree, ram, scratch) {
        return Err(Fault::ShortTree { at: tree.root });
    }
    checked
}

/// Pages of a tree that are looked at before it is called damaged and not short.
const MAX_SHORT_PAGES: u32 = 1 << 16;

/// Whether all pages are in place when the root is taken for a table of the next level.
fn is_short<M: FrozenMem>(
    tree: &Tree<Frozen<'_, M>>,
    ram: &Ram<'_>,
    scratch: &Scratch<'_>,
) -> bool {
    let mut left = MAX_SHORT_PAGES;
    let visited = tree.visit_short(&mut |node| {
        left = left.checked_sub(1).ok_or(Fault::Null { at: node })?;
        check_page(node, tree.page.bytes(), ram, scratch)?;
        Ok::<_, Fault>(tree.words(node).map(|_| ())?)
    });
    visited.is_ok()
}

fn check_whole<M: FrozenMem>(
    tree: &Tree<Frozen<'_, M>>,
    ram: &Ram<'_>,
    scratch: &Scratch<'_>,
    workspace: &mut [u64],
) -> Result<u64, Fault> {
    let page = tree.page;
    check_page(tree.root, page.bytes(), ram, scratch)?;
    check_root_slots(tree)?;
    // Level by level: no table is entered before it is known that all tables of its level are
    // different, so a shared table cannot multiply the work; and should they change, there are no
    // more pages than the tables had room for.
    let mut sorter = Sorter::new(workspace);
    let mut pages = 0u64;
    for level in (0..radix::depth(page)).rev() {
        let most = pages.saturating_mul(page.words() as u64) + 1;
        sorter.unique(
            0,
            |report: &mut dyn FnMut(u64)| {
                pages = 0;
                tree.visit_nodes(level, &mut |node| {
                    pages += 1;
                    if pages > most {
                        return Err(Fault::ReachedTwice { addr: node });
                    }
                    check_page(node, page.bytes(), ram, scratch)?;
                    report(node.as_u64());
                    Ok(())
                })
            },
            |node| Fault::ReachedTwice {
                addr: PhysAddr::new(node),
            },
        )?;
    }
    // That the leaves can be read is part of the check as well.
    let mut left = pages;
    tree.visit_nodes(0, &mut |node| {
        let twice = Fault::ReachedTwice { addr: node };
        left = left.checked_sub(1).ok_or(twice)?;
        Ok::<_, Fault>(tree.words(node).map(|_| ())?)
    })?;
    // No folio has key 0 or 1, so no order's keys begin there.
    match tree.has_key(Key::new(0))? || tree.has_key(Key::new(1))? {
        true => Err(Fault::NotAFolio { at: tree.root }),
        false => Ok(pages),
    }
}

/// Checks a page of a map: aligned, RAM, and outside scratch.
pub(super) fn check_page(
    at: PhysAddr,
    size: u64,
    ram: &Ram<'_>,
    scratch: &Scratch<'_>,
) -> Result<(), Fault> {
    if !at.is_aligned_to(size) {
        return Err(Fault::Misaligned { addr: at });
    }
    scratch.refuse(ram.range(at, size)?)
}

fn check_root_slots<M: FrozenMem>(tree: &Tree<Frozen<'_, M>>) -> Result<(), Fault> {
    let page = tree.page;
    let shift = (radix::depth(page) - 2) * radix::table_shift(page) + radix::leaf_shift(page);
    for (slot, child) in tree.words(tree.root)?.iter().enumerate() {
        if child.get() != 0 && slot != 0 {
            // All keys behind a slot have one marker bit, and so one order. The lowest address
            // among them must be below 2^52, which is the marker's bit less 12.
            let lowest = (slot as u64).checked_shl(shift).unwrap_or(0);
            let marker = 1 << (slot.ilog2() + shift);
            if marker >> radix::key_width(page) != 0 || lowest - marker >= marker >> 12 {
                let at = tree.root;
                return Err(Fault::Geometry { at, slot });
            }
        }
    }
    Ok(())
}

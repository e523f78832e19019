//! Bytes of configuration space, with what a write does to each bit.

use core::ops::Range;

use std_alloc::vec;
use std_alloc::vec::Vec;

use crate::Access;

/// One byte. A bit that is in neither mask is read-only.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) value: u8,
    /// What a reset leaves.
    pub(super) reset: u8,
    /// Bits that take what is written (RW).
    pub(super) writable: u8,
    /// Bits that a written one clears (RW1C).
    pub(super) clears: u8,
    /// Bits that survive a function-level reset (RWS, RW1CS, HwInit).
    pub(super) sticky: u8,
}

/// The registers of one function: 256 or 4096 bytes.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    cells: Vec<Cell>,
}

impl Registers {
    pub(super) fn new(size: u16) -> Self {
        Self {
            cells: vec![Cell::default(); size.into()],
        }
    }

    /// Bytes in this space.
    pub(super) fn size(&self) -> u16 {
        self.cells.len() as u16
    }

    /// Defines `len` bytes at `offset`: their value after reset, and the writable and
    /// write-one-to-clear bits. All little-endian; bytes outside the space are ignored.
    pub(super) fn define(&mut self, offset: u16, len: u16, value: u32, writable: u32, clears: u32) {
        for i in 0..len.min(4) {
            let byte = |v: u32| (v >> (8 * i)) as u8;
            if let Some(cell) = self.cells.get_mut(usize::from(offset + i)) {
                *cell = Cell {
                    value: byte(value),
                    reset: byte(value),
                    writable: byte(writable),
                    clears: byte(clears),
                    sticky: cell.sticky,
                };
            }
        }
    }

    /// Lets these bytes survive a function-level reset.
    pub(super) fn keep(&mut self, bytes: Range<u16>) {
        for offset in bytes {
            if let Some(cell) = self.cell_mut(offset) {
                cell.sticky = 0xff;
            }
        }
    }

    pub(super) fn cell_mut(&mut self, offset: u16) -> Option<&mut Cell> {
        self.cells.get_mut(usize::from(offset))
    }

    /// Up to four bytes as a little-endian number; bytes outside the space read as ones.
    pub(super) fn value(&self, offset: u16, len: u16) -> u32 {
        (0..len.min(4)).rev().fold(0, |value, i| {
            let cell = self.cells.get(usize::from(offset + i));
            value << 8 | u32::from(cell.map_or(0xff, |cell| cell.value))
        })
    }

    /// Overwrites bytes as the device itself does, whatever their access type.
    pub(super) fn put(&mut self, offset: u16, len: u16, value: u32) {
        for i in 0..len.min(4) {
            if let Some(cell) = self.cells.get_mut(usize::from(offset + i)) {
                cell.value = (value >> (8 * i)) as u8;
            }
        }
    }

    /// What a write by software does.
    pub(super) fn write(&mut self, at: Access, value: u32) {
        for i in 0..at.width().bytes() {
            let byte = (value >> (8 * i)) as u8;
            if let Some(cell) = self.cells.get_mut(usize::from(at.offset() + i)) {
                let kept = cell.value & !cell.writable & !(cell.clears & byte);
                cell.value = kept | byte & cell.writable;
            }
        }
    }

    /// Every bit to its reset value; sticky ones only if `cold`.
    pub(super) fn reset(&mut self, cold: bool) {
        for cell in &mut self.cells {
            let kept = if cold { 0 } else { cell.sticky };
            cell.value = cell.value & kept | cell.reset & !kept;
        }
    }
}

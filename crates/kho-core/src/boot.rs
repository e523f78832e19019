//! How a handover is named to the next program: in x86 `setup_data` or arm64 `/chosen`.
//!
//! The same four numbers travel in both; [`BootData`] is them.

use core::fmt;

use kho_abi::boot::{
    BOOT_PARAMS_SETUP_DATA, CHOSEN_KHO_FDT, CHOSEN_KHO_SCRATCH, KhoData, SETUP_KEXEC_KHO, SetupData,
};
use kho_hal::{FrozenMem, PhysAddr, PhysMem};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::OutgoingError;
use crate::incoming::loose;
use crate::incoming::{Fault, IncomingError, Part, read};

/// Where a handover is: a claim of the predecessor, not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootData {
    /// Address of the root description.
    pub fdt_addr: PhysAddr,
    /// Bytes that hold it.
    pub fdt_size: u64,
    /// Address of the array of scratch areas.
    pub scratch_addr: PhysAddr,
    /// Size of that array in bytes.
    pub scratch_size: u64,
}

impl fmt::Display for BootData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fdt_addr,
            fdt_size,
            scratch_addr,
            scratch_size,
        } = self;
        write!(
            f,
            "{fdt_size} bytes at {fdt_addr}, scratch: {scratch_size} bytes at {scratch_addr}"
        )
    }
}

/// A chain of `setup_data` longer than this is taken for a cycle. Linux knows ten types.
const MAX_SETUP_DATA: usize = 64;

/// Root properties of a device tree: how many cells addresses and sizes have.
const ADDRESS_CELLS: &str = "#address-cells";
const SIZE_CELLS: &str = "#size-cells";

/// Size of an x86 `setup_data` node with a handover in it.
pub const SETUP_DATA_LEN: usize = size_of::<SetupData>() + size_of::<KhoData>();

/// Where the four numbers stand, so that others can be put in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootPlace {
    /// In an x86 `setup_data` node at this address.
    SetupData(PhysAddr),
    /// In two properties of `/chosen`: where their values are, and how many cells of 4 bytes an
    /// address and a size have.
    Chosen {
        /// The value of `linux,kho-fdt`.
        fdt: PhysAddr,
        /// The value of `linux,kho-scratch`.
        scratch: PhysAddr,
        /// Cells of an address, 1 or 2.
        address_cells: usize,
        /// Cells of a size, 1 or 2.
        size_cells: usize,
    },
}

impl BootData {
    /// Reads the x86 boot parameters at `boot_params`.
    ///
    /// # Errors
    /// As [`BootData::from_setup_data`].
    pub fn from_boot_params<M: FrozenMem>(
        mem: &M,
        boot_params: PhysAddr,
    ) -> Result<(Self, BootPlace), IncomingError> {
        let at = boot_params
            .checked_add(BOOT_PARAMS_SETUP_DATA)
            .ok_or(Part::Boot.is(Fault::Misaligned { addr: boot_params }))?;
        let first: &U64 = read::object(mem, at).map_err(|cause| Part::Boot.is(cause.into()))?;
        Self::from_setup_data(mem, PhysAddr::new(first.get()))
    }

    /// Reads the x86 `setup_data` chain that starts at `first`, 0 for an empty one.
    ///
    /// # Errors
    /// [`Part::Boot`] with [`Fault::NoHandover`] if no node is a handover, [`Fault::Duplicate`] if
    /// two are, [`Fault::Count`] if a handover is too short or the chain too long, and
    /// [`Fault::Memory`].
    pub fn from_setup_data<M: FrozenMem>(
        mem: &M,
        first: PhysAddr,
    ) -> Result<(Self, BootPlace), IncomingError> {
        let fault = |fault| Part::Boot.is(fault);
        let mut found = None;
        let mut next = first;
        for _ in 0..MAX_SETUP_DATA {
            if next == PhysAddr::new(0) {
                return found.ok_or(fault(Fault::NoHandover));
            }
            let node: &SetupData = match (read::object(mem, next), found) {
                (Ok(node), _) => node,
                // An image may lack what comes after the handover.
                (Err(_), Some(found)) => return Ok(found),
                (Err(cause), None) => return Err(fault(cause.into())),
            };
            if node.kind.get() == SETUP_KEXEC_KHO {
                let expected = size_of::<KhoData>() as u64;
                if u64::from(node.len.get()) < expected {
                    return Err(fault(Fault::Mismatch {
                        at: next,
                        found: node.len.get().into(),
                        expected,
                    }));
                }
                if found.is_some() {
                    return Err(fault(Fault::Duplicate { at: next }));
                }
                let data = next.checked_add(size_of::<SetupData>() as u64);
                let data = data.ok_or(fault(Fault::Misaligned { addr: next }))?;
                let data: &KhoData = read::object(mem, data).map_err(|e| fault(e.into()))?;
                found = Some((Self::from_abi(data), BootPlace::SetupData(next)));
            }
            next = PhysAddr::new(node.next.get());
        }
        Err(fault(Fault::Count {
            at: first,
            found: MAX_SETUP_DATA as u64 + 1,
            max: MAX_SETUP_DATA as u64,
        }))
    }

    /// Reads `/chosen` of the device tree at `dtb`, as arm64 passes it.
    ///
    /// # Errors
    /// [`Part::Boot`] with [`Fault::NoHandover`] if neither property is there,
    /// [`Fault::Property`] if one is missing or is not one pair of cells, [`Fault::Fdt`] and
    /// [`Fault::Memory`].
    pub fn from_device_tree<M: FrozenMem>(
        mem: &M,
        dtb: PhysAddr,
    ) -> Result<(Self, BootPlace), IncomingError> {
        let fault = |fault| Part::Boot.is(fault);
        let tree = loose::tree(mem, dtb, u64::from(u32::MAX)).map_err(fault)?;
        let missing = |name| fault(Fault::Property { at: dtb, name });
        let cells = |name, default| match tree.root.property(name) {
            Some(value) => be_cells(value).map(|n| n as usize),
            None => Some(default),
        };
        let is_possible = |n: &usize| (1..=2).contains(n);
        let address_cells = cells(ADDRESS_CELLS, 2).filter(is_possible);
        let size_cells = cells(SIZE_CELLS, 1).filter(is_possible);
        let chosen = tree.root.child("chosen").ok_or(fault(Fault::NoHandover))?;
        let values = [CHOSEN_KHO_FDT, CHOSEN_KHO_SCRATCH].map(|name| chosen.property(name));
        let [fdt, scratch] = values;
        if fdt.is_none() && scratch.is_none() {
            return Err(fault(Fault::NoHandover));
        }
        let address_cells = address_cells.ok_or(missing(ADDRESS_CELLS))?;
        let size_cells = size_cells.ok_or(missing(SIZE_CELLS))?;
        let pair = |value: Option<&[u8]>| {
            let (addr, size) = value?.split_at_checked(address_cells * 4)?;
            (size.len() == size_cells * 4).then_some(())?;
            Some((PhysAddr::new(be_cells(addr)?), be_cells(size)?))
        };
        let (fdt_addr, fdt_size) = pair(fdt).ok_or(missing(CHOSEN_KHO_FDT))?;
        let (scratch_addr, scratch_size) = pair(scratch).ok_or(missing(CHOSEN_KHO_SCRATCH))?;
        let place = |value: Option<&[u8]>| {
            let offset = tree.offset(value.unwrap_or_default());
            PhysAddr::new(dtb.as_u64().saturating_add(offset as u64))
        };
        let place = BootPlace::Chosen {
            fdt: place(fdt),
            scratch: place(scratch),
            address_cells,
            size_cells,
        };
        let data = Self {
            fdt_addr,
            fdt_size,
            scratch_addr,
            scratch_size,
        };
        Ok((data, place))
    }

    /// Puts these numbers in the place of those that were read there.
    ///
    /// # Errors
    /// [`OutgoingError::Memory`]; [`OutgoingError::TooMany`] if a number needs more cells. Then the
    /// numbers are as before.
    pub fn replace<M: PhysMem>(&self, mem: &M, place: BootPlace) -> Result<(), OutgoingError> {
        match place {
            BootPlace::SetupData(node) => {
                let at = node.as_u64().saturating_add(size_of::<SetupData>() as u64);
                Ok(mem.write(PhysAddr::new(at), self.to_abi().as_bytes())?)
            }
            BootPlace::Chosen {
                fdt,
                scratch,
                address_cells,
                size_cells,
            } => {
                let cells = (address_cells, size_cells);
                let new_fdt = Pair::of(self.fdt_addr, self.fdt_size, cells)?;
                let new_scratch = Pair::of(self.scratch_addr, self.scratch_size, cells)?;
                let mut old_fdt = new_fdt;
                mem.read(fdt, old_fdt.bytes_mut())?;
                mem.write(fdt, new_fdt.bytes())?;
                if let Err(error) = mem.write(scratch, new_scratch.bytes()) {
                    // Written a moment ago.
                    let _ = mem.write(fdt, old_fdt.bytes());
                    return Err(error.into());
                }
                Ok(())
            }
        }
    }

    fn from_abi(data: &KhoData) -> Self {
        Self {
            fdt_addr: PhysAddr::new(data.fdt_addr.get()),
            fdt_size: data.fdt_size.get(),
            scratch_addr: PhysAddr::new(data.scratch_addr.get()),
            scratch_size: data.scratch_size.get(),
        }
    }

    fn to_abi(self) -> KhoData {
        KhoData {
            fdt_addr: self.fdt_addr.as_u64().into(),
            fdt_size: self.fdt_size.into(),
            scratch_addr: self.scratch_addr.as_u64().into(),
            scratch_size: self.scratch_size.into(),
        }
    }

    /// The bytes of an x86 `setup_data` node that names the handover. The caller puts them into
    /// scratch, at an address that is a multiple of 8, and links them into the chain at
    /// `hdr.setup_data`; `next` is what was there before, 0 for nothing.
    pub fn to_setup_data(&self, next: PhysAddr) -> [u8; SETUP_DATA_LEN] {
        let header = SetupData {
            next: next.as_u64().into(),
            kind: SETUP_KEXEC_KHO.into(),
            len: (size_of::<KhoData>() as u32).into(),
        };
        let mut node = [0; SETUP_DATA_LEN];
        let (head, tail) = node.split_at_mut(size_of::<SetupData>());
        head.copy_from_slice(header.as_bytes());
        tail.copy_from_slice(self.to_abi().as_bytes());
        node
    }

    /// The properties of arm64's `/chosen` that name the handover, for a device tree whose root
    /// has two address cells and two size cells: name and value, big-endian.
    ///
    /// Properties of these names that the tree has already must be removed first.
    pub fn to_chosen(&self) -> [(&'static str, [u8; 16]); 2] {
        let pair = |addr: PhysAddr, size: u64| {
            (u128::from(addr.as_u64()) << 64 | u128::from(size)).to_be_bytes()
        };
        [
            (CHOSEN_KHO_FDT, pair(self.fdt_addr, self.fdt_size)),
            (
                CHOSEN_KHO_SCRATCH,
                pair(self.scratch_addr, self.scratch_size),
            ),
        ]
    }
}

/// An address and a size as big-endian cells.
#[derive(Clone, Copy)]
struct Pair {
    bytes: [u8; 16],
    len: usize,
}

impl Pair {
    fn of(
        addr: PhysAddr,
        size: u64,
        (address_cells, size_cells): (usize, usize),
    ) -> Result<Self, OutgoingError> {
        let mut pair = Self {
            bytes: [0; 16],
            len: 0,
        };
        pair.push(addr.as_u64(), address_cells)?;
        pair.push(size, size_cells)?;
        Ok(pair)
    }

    fn push(&mut self, number: u64, cells: usize) -> Result<(), OutgoingError> {
        let bytes = number.to_be_bytes();
        let (high, low) = bytes.split_at(8 - 4 * cells.clamp(1, 2));
        if high.iter().any(|&byte| byte != 0) {
            let max = u32::MAX.into();
            return Err(OutgoingError::TooMany { max });
        }
        let free = self.bytes.iter_mut().skip(self.len);
        free.zip(low).for_each(|(to, from)| *to = *from);
        self.len += low.len();
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

/// One or two big-endian cells as a number.
fn be_cells(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => Some(u32::from_be_bytes(value.try_into().ok()?).into()),
        8 => Some(u64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

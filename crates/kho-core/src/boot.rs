//! How a handover is named to the next program: in x86 `setup_data` or arm64 `/chosen`.
//!
//! The same four numbers travel in both; [`BootData`] is them.

use kho_abi::boot::{
    BOOT_PARAMS_SETUP_DATA, CHOSEN_KHO_FDT, CHOSEN_KHO_SCRATCH, KhoData, SETUP_KEXEC_KHO, SetupData,
};
use kho_hal::{FrozenMem, PhysAddr};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::incoming::loose::{self, LooseNode};
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

/// A chain of `setup_data` longer than this is taken for a cycle. Linux knows ten types.
const MAX_SETUP_DATA: usize = 64;

/// Size of an x86 `setup_data` node with a handover in it.
pub const SETUP_DATA_LEN: usize = size_of::<SetupData>() + size_of::<KhoData>();

impl BootData {
    /// Reads the x86 boot parameters at `boot_params`.
    ///
    /// # Errors
    /// As [`BootData::from_setup_data`].
    pub fn from_boot_params<M: FrozenMem>(
        mem: &M,
        boot_params: PhysAddr,
    ) -> Result<Self, IncomingError> {
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
    pub fn from_setup_data<M: FrozenMem>(mem: &M, first: PhysAddr) -> Result<Self, IncomingError> {
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
                found = Some(Self::from_abi(data));
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
    pub fn from_device_tree<M: FrozenMem>(mem: &M, dtb: PhysAddr) -> Result<Self, IncomingError> {
        let fault = |fault| Part::Boot.is(fault);
        let root = loose::root(mem, dtb, u64::from(u32::MAX)).map_err(fault)?;
        Self::from_chosen(root).map_err(|name| match name {
            Some(name) => fault(Fault::Property { at: dtb, name }),
            None => fault(Fault::NoHandover),
        })
    }

    /// `Err(None)`: no handover; `Err(Some(name))`: this property is missing or malformed.
    fn from_chosen(root: LooseNode<'_>) -> Result<Self, Option<&'static str>> {
        let cells = |name, default| match root.property(name) {
            Some(value) => be_cells(value).map(|n| n as usize),
            None => Some(default),
        };
        let address_cells = cells("#address-cells", 2).filter(|n| (1..=2).contains(n));
        let size_cells = cells("#size-cells", 1).filter(|n| (1..=2).contains(n));
        let chosen = root.child("chosen").ok_or(None)?;
        let pair = |name| {
            let value = chosen.property(name)?;
            let (addr, size) = value.split_at_checked(address_cells? * 4)?;
            if size.len() != size_cells? * 4 {
                return None;
            }
            Some((PhysAddr::new(be_cells(addr)?), be_cells(size)?))
        };
        let names = [CHOSEN_KHO_FDT, CHOSEN_KHO_SCRATCH];
        if names.iter().all(|name| chosen.property(name).is_none()) {
            return Err(None);
        }
        let (fdt_addr, fdt_size) = pair(CHOSEN_KHO_FDT).ok_or(Some(CHOSEN_KHO_FDT))?;
        let (scratch_addr, scratch_size) =
            pair(CHOSEN_KHO_SCRATCH).ok_or(Some(CHOSEN_KHO_SCRATCH))?;
        Ok(Self {
            fdt_addr,
            fdt_size,
            scratch_addr,
            scratch_size,
        })
    }

    fn from_abi(data: &KhoData) -> Self {
        Self {
            fdt_addr: PhysAddr::new(data.fdt_addr.get()),
            fdt_size: data.fdt_size.get(),
            scratch_addr: PhysAddr::new(data.scratch_addr.get()),
            scratch_size: data.scratch_size.get(),
        }
    }

    /// The bytes of an x86 `setup_data` node that names the handover. The caller puts them into
    /// scratch, at an address that is a multiple of 8, and links them into the chain at
    /// `hdr.setup_data`; `next` is what was there before, 0 for nothing.
    pub fn to_setup_data(&self, next: PhysAddr) -> [u8; SETUP_DATA_LEN] {
        let data = KhoData {
            fdt_addr: self.fdt_addr.as_u64().into(),
            fdt_size: self.fdt_size.into(),
            scratch_addr: self.scratch_addr.as_u64().into(),
            scratch_size: self.scratch_size.into(),
        };
        let header = SetupData {
            next: next.as_u64().into(),
            kind: SETUP_KEXEC_KHO.into(),
            len: (size_of::<KhoData>() as u32).into(),
        };
        let mut node = [0; SETUP_DATA_LEN];
        let (head, tail) = node.split_at_mut(size_of::<SetupData>());
        head.copy_from_slice(header.as_bytes());
        tail.copy_from_slice(data.as_bytes());
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

/// One or two big-endian cells as a number.
fn be_cells(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => Some(u32::from_be_bytes(value.try_into().ok()?).into()),
        8 => Some(u64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

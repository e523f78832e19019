//! One simulated function: registers, and what some of them set off.

use std_alloc::boxed::Box;
use std_alloc::vec::Vec;

use super::extended::SriovShape;
use super::registers::Registers;
use crate::Access;

/// How deep a reset goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Function-level, by PCI Express or Advanced Features; also D3hot to D0. Sticky bits stay.
    Function,
    /// Conventional: bus, slot or power. Nothing stays.
    Cold,
}

/// What the bus has to do after a write to this function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Everything below this bridge is reset.
    ResetBelow,
    /// The virtual functions have to be made or taken away.
    VirtualFunctions,
}

/// A register that does more than to hold its value.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    /// VPD capability: the address flag turns when the transfer is done.
    Vpd { at: u16 },
    /// Built-in self test at 0fh.
    Bist,
    /// Bits that act when set and always read as zero.
    Pulse { offset: u16, mask: u16 },
    /// Bits that reset this function when set, and always read as zero.
    FunctionReset { offset: u16, mask: u16 },
    /// PMCSR.
    Power { offset: u16, no_soft_reset: bool },
    /// Bits that hold everything below in reset while set.
    HoldBelow { offset: u16, mask: u16 },
    /// DPC capability: the software trigger takes the link down until the status is cleared.
    Containment { at: u16 },
    /// Device Control 2 of a port: without ARI forwarding, only device 0 is reached below.
    AriForwarding { offset: u16 },
    /// A vendor's register that sets another, read-only one.
    Backdoor { offset: u16, target: u16 },
    /// SR-IOV capability.
    Sriov { at: u16, shape: Box<SriovShape> },
    /// Resizable BAR: control register, BAR offset, whether 64 bits wide.
    ResizableBar { control: u16, bar: u16, wide: bool },
}

/// How many reads a device needs for what it does by itself.
const OPERATION_READS: u32 = 2;

/// A change that the device makes by itself after some reads.
#[derive(Clone, Copy, Debug)]
struct Later {
    reads: u32,
    offset: u16,
    clear: u16,
    set: u16,
}

/// A simulated PCI function.
///
/// Made by [`SimFunction::endpoint`], [`SimFunction::bridge`] or from a dump, then extended by the
/// methods that add capabilities. Put it on a [`super::SimBus`] to reach it.
#[derive(Clone, Debug)]
pub struct SimFunction {
    pub(super) registers: Registers,
    pub(super) behaviours: Vec<Behaviour>,
    pub(super) free: u16,
    pub(super) free_extended: u16,
    pub(super) last_capability: Option<u16>,
    pub(super) last_extended: Option<u16>,
    pub(super) virtual_function: bool,
    reset_reads: u32,
    later: Vec<Later>,
    not_ready: u32,
}

impl SimFunction {
    /// A function of `size` bytes (256 or 4096), all read-only and zero.
    pub(super) fn empty(size: u16) -> Self {
        Self {
            registers: Registers::new(size),
            behaviours: Vec::new(),
            free: 0x40,
            free_extended: 0x100,
            last_capability: None,
            last_extended: None,
            virtual_function: false,
            reset_reads: 0,
            later: Vec::new(),
            not_ready: 0,
        }
    }

    /// After a reset, this many reads find no function (all ones). Default 0.
    pub fn slow_reset(mut self, reads: u32) -> Self {
        self.reset_reads = reads;
        self
    }

    /// What the register holds now, without an access: for tests and models.
    pub fn peek(&self, at: Access) -> u32 {
        self.registers.value(at.offset(), at.width().bytes())
    }

    /// Changes a register as the device itself would, whatever its access type.
    pub fn poke(&mut self, at: Access, value: u32) {
        self.registers.put(at.offset(), at.width().bytes(), value);
    }

    /// Whether this is a bridge (header type 1).
    pub fn is_bridge(&self) -> bool {
        self.registers.value(0x0e, 1) & 0x7f == 1
    }

    /// Secondary and subordinate bus number of a bridge.
    pub fn buses(&self) -> (u8, u8) {
        (
            self.registers.value(0x19, 1) as u8,
            self.registers.value(0x1a, 1) as u8,
        )
    }

    /// Whether nothing below this bridge answers: held in reset, link off, or in D3hot.
    pub fn is_closed(&self) -> bool {
        self.behaviours.iter().any(|behaviour| match *behaviour {
            Behaviour::HoldBelow { offset, mask } => {
                self.registers.value(offset, 2) as u16 & mask != 0
            }
            Behaviour::Power { offset, .. } => self.registers.value(offset, 1) & 3 == 3,
            Behaviour::Containment { at } => self.registers.value(at + 8, 1) & 1 != 0,
            _ => false,
        })
    }

    /// Whether this port reaches only device 0 on the bus below.
    pub fn hides_devices(&self) -> bool {
        self.behaviours.iter().any(|behaviour| match *behaviour {
            Behaviour::AriForwarding { offset } => self.registers.value(offset, 1) & 0x20 == 0,
            _ => false,
        })
    }

    /// Whether it is still busy after a reset and answers nothing.
    pub fn is_busy(&self) -> bool {
        self.not_ready > 0
    }

    /// Puts every register to its reset value.
    pub fn reset(&mut self, kind: ResetKind) {
        self.registers.reset(kind == ResetKind::Cold);
        self.later.clear();
        self.not_ready = self.reset_reads;
        for behaviour in self.behaviours.clone() {
            match behaviour {
                Behaviour::ResizableBar { control, bar, wide } => {
                    self.resize_bar(control, bar, wide);
                }
                Behaviour::Sriov { at, shape } => self.place_virtual_functions(at, &shape),
                _ => {}
            }
        }
    }

    pub(super) fn read(&mut self, at: Access) -> u32 {
        for later in &mut self.later {
            later.reads = later.reads.saturating_sub(1);
            if later.reads == 0 {
                let old = self.registers.value(later.offset, 2) as u16;
                let new = old & !later.clear | later.set;
                self.registers.put(later.offset, 2, new.into());
            }
        }
        self.later.retain(|later| later.reads > 0);
        if self.not_ready > 0 {
            self.not_ready -= 1;
            return at.width().mask();
        }
        self.peek(at)
    }

    pub(super) fn write(&mut self, at: Access, value: u32) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.not_ready > 0 {
            return effects;
        }
        let before = self.registers.clone();
        self.registers.write(at, value);
        let written = |offset: u16, len: u16| at.offset() < offset + len && at.end() > offset;
        // The bits of the 16-bit register at `offset` that this write has ones for; none elsewhere.
        let ones = |offset: u16| {
            let value = u64::from(value & at.width().mask()) << 32;
            let shift = 32 + 8 * (i32::from(offset) - i32::from(at.offset()));
            let ones = u32::try_from(shift).ok();
            ones.and_then(|shift| value.checked_shr(shift)).unwrap_or(0) as u16
        };
        for behaviour in self.behaviours.clone() {
            match behaviour {
                Behaviour::Vpd { at } if written(at + 2, 2) => {
                    let flag = self.registers.value(at + 2, 2) as u16 & 0x8000;
                    self.registers
                        .put(at + 4, 4, 0x5044_5600 | u32::from(flag >> 15));
                    self.later(at + 2, flag, !flag & 0x8000);
                }
                Behaviour::Bist
                    if written(0x0f, 1) && self.registers.value(0x0f, 1) & 0x40 != 0 =>
                {
                    self.later(0x0e, 0x4f00, 0x0100);
                }
                Behaviour::Pulse { offset, mask } => {
                    let value = self.registers.value(offset, 2) & !u32::from(mask);
                    self.registers.put(offset, 2, value);
                }
                Behaviour::FunctionReset { offset, mask } if ones(offset) & mask != 0 => {
                    self.reset(ResetKind::Function);
                    effects.push(Effect::VirtualFunctions);
                }
                Behaviour::Power {
                    offset,
                    no_soft_reset,
                } => {
                    let old = before.value(offset, 1) & 3;
                    let new = self.registers.value(offset, 1) & 3;
                    if old == 3 && new == 0 && !no_soft_reset {
                        self.reset(ResetKind::Function);
                        effects.push(Effect::VirtualFunctions);
                        effects.push(Effect::ResetBelow);
                    }
                }
                Behaviour::HoldBelow { offset, mask }
                    if written(offset, 2) && self.registers.value(offset, 2) as u16 & mask != 0 =>
                {
                    effects.push(Effect::ResetBelow);
                }
                Behaviour::Backdoor { offset, target } if written(offset, 4) => {
                    let value = self.registers.value(offset, 4);
                    self.registers.put(target, 4, value);
                }
                Behaviour::Containment { at }
                    if ones(at + 6) & 0x40 != 0 && self.registers.value(at + 6, 1) & 3 != 0 =>
                {
                    let status = self.registers.value(at + 8, 2) | 1;
                    self.registers.put(at + 8, 2, status);
                    effects.push(Effect::ResetBelow);
                }
                Behaviour::Sriov { at, shape } if written(at, 0x40) => {
                    self.place_virtual_functions(at, &shape);
                    effects.push(Effect::VirtualFunctions);
                }
                Behaviour::ResizableBar { control, bar, wide } if written(control, 4) => {
                    self.resize_bar(control, bar, wide);
                }
                _ => {}
            }
        }
        effects
    }

    fn later(&mut self, offset: u16, clear: u16, set: u16) {
        self.later.retain(|later| later.offset != offset);
        self.later.push(Later {
            reads: OPERATION_READS,
            offset,
            clear,
            set,
        });
    }

    /// The address bits of the BAR follow the size in the control register, and are cleared.
    pub(super) fn resize_bar(&mut self, control: u16, bar: u16, wide: bool) {
        let bits = 20 + (self.registers.value(control, 2) >> 8 & 0x3f).min(43);
        let size_mask = !0u64 << bits;
        let bytes = if wide { 8 } else { 4 };
        for i in 0..bytes {
            let address = (size_mask >> (8 * i)) as u8;
            let flags = if i == 0 { 0x0f } else { 0 };
            if let Some(cell) = self.registers.cell_mut(bar + i) {
                cell.writable = address;
                cell.value &= address | flags;
            }
        }
    }
}

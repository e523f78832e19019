//! Extended capabilities of simulated functions.

use std_alloc::boxed::Box;

use super::function::{Behaviour, SimFunction};

/// How a physical function lays out its virtual functions.
#[derive(Clone, Debug)]
pub struct SriovShape {
    /// TotalVFs and InitialVFs.
    pub total: u16,
    /// First VF offset without and with ARI Capable Hierarchy.
    pub offset: [u16; 2],
    /// VF stride without and with ARI Capable Hierarchy; zero is shown while NumVFs is below two.
    pub stride: [u16; 2],
    /// VF device ID.
    pub device: u16,
    /// What each virtual function looks like; made with [`SimFunction::virtual_function`].
    pub template: SimFunction,
}

impl SimFunction {
    /// Adds an empty extended capability of `len` bytes and returns its offset.
    ///
    /// Offsets follow one another from 100h. Returns 0, and adds nothing, when the space is full
    /// or the function has only 256 bytes.
    pub fn extended(&mut self, id: u16, version: u8, len: u16) -> u16 {
        let at = self.free_extended;
        let end = at.saturating_add(len.max(4).next_multiple_of(4));
        if end > self.registers.size() {
            return 0;
        }
        let header = u32::from(id) | u32::from(version & 15) << 16;
        self.registers.define(at, 4, header, 0, 0);
        if let Some(last) = self.last_extended {
            let header = self.registers.value(last, 4) | u32::from(at) << 20;
            self.registers.define(last, 4, header, 0, 0);
        }
        self.last_extended = Some(at);
        self.free_extended = end;
        at
    }

    /// Advanced Error Reporting, which keeps what it says over a function-level reset.
    pub fn with_aer(mut self) -> Self {
        let at = self.extended(0x0001, 1, 0x48);
        if at != 0 {
            let errors = 0x07ff_f030;
            self.registers.define(at + 0x04, 4, 0, 0, errors);
            self.registers.define(at + 0x08, 4, 0, errors, 0);
            self.registers.define(at + 0x0c, 4, 0x0046_2030, errors, 0);
            self.registers.define(at + 0x10, 4, 0, 0, 0xf1c1);
            self.registers.define(at + 0x14, 4, 0x2000, 0xf1c1, 0);
            self.registers.define(at + 0x18, 4, 0xa0, 0x140, 0);
            self.registers.keep(at + 0x04..at + 0x1c);
            if self.is_bridge() {
                self.registers.define(at + 0x2c, 4, 0, 7, 0);
                self.registers.define(at + 0x30, 4, 0, 0, 0x7f);
            }
        }
        self
    }

    /// Access Control Services: `capability` bits can each be enabled.
    pub fn with_acs(mut self, capability: u16) -> Self {
        let at = self.extended(0x000d, 1, 8);
        if at != 0 {
            self.registers.define(at + 4, 2, capability.into(), 0, 0);
            let controls = u32::from(capability & 0x7f);
            self.registers.define(at + 6, 2, 0, controls, 0);
        }
        self
    }

    /// Alternative Routing-ID, naming the next function.
    pub fn with_ari(mut self, next_function: u8) -> Self {
        let at = self.extended(0x000e, 1, 8);
        if at != 0 {
            let capability = u32::from(next_function) << 8;
            self.registers.define(at + 4, 2, capability, 0, 0);
            self.registers.define(at + 6, 2, 0, 0x73, 0);
        }
        self
    }

    /// Device serial number.
    pub fn with_serial(mut self, serial: u64) -> Self {
        let at = self.extended(0x0003, 1, 12);
        if at != 0 {
            self.registers.define(at + 4, 4, serial as u32, 0, 0);
            self.registers
                .define(at + 8, 4, (serial >> 32) as u32, 0, 0);
        }
        self
    }

    /// Address Translation Services.
    pub fn with_ats(mut self) -> Self {
        let at = self.extended(0x000f, 1, 8);
        if at != 0 {
            self.registers.define(at + 4, 4, 0x20, 0x801f_0000, 0);
        }
        self
    }

    /// Page Request Interface: its Reset bit acts and reads as zero.
    pub fn with_pri(mut self) -> Self {
        let at = self.extended(0x0013, 1, 16);
        if at != 0 {
            self.registers.define(at + 4, 2, 0, 3, 0);
            self.registers.define(at + 6, 2, 0x8100, 0, 3);
            self.registers.define(at + 8, 4, 0x80, 0, 0);
            self.registers.define(at + 12, 4, 0, u32::MAX, 0);
            self.behaviours.push(Behaviour::Pulse {
                offset: at + 4,
                mask: 2,
            });
        }
        self
    }

    /// Process Address Space ID.
    pub fn with_pasid(mut self) -> Self {
        let at = self.extended(0x001b, 1, 8);
        if at != 0 {
            self.registers.define(at + 4, 4, 0x1406, 0x0007_0000, 0);
        }
        self
    }

    /// Downstream Port Containment, with root-port extensions if `extensions`.
    pub fn with_dpc(mut self, extensions: bool) -> Self {
        let at = self.extended(0x001d, 1, if extensions { 0x30 } else { 0x0c });
        if at != 0 {
            let capability = if extensions { 0x20 } else { 0 };
            self.registers.define(at + 4, 2, capability, 0, 0);
            self.registers.define(at + 6, 2, 0, 0x3f, 0);
            self.registers.define(at + 8, 2, 0x1f00, 0, 9);
            if extensions {
                self.registers.define(at + 0x0c, 4, 0, 0, 0x0007_0707);
                for register in [0x10, 0x14, 0x18, 0x1c] {
                    self.registers.define(at + register, 4, 0, 0x0007_0707, 0);
                }
            }
            self.behaviours.push(Behaviour::Containment { at });
        }
        self
    }

    /// Precision Time Measurement.
    pub fn with_ptm(mut self) -> Self {
        let at = self.extended(0x001f, 1, 12);
        if at != 0 {
            self.registers.define(at + 4, 4, 0x0401, 0, 0);
            self.registers.define(at + 8, 4, 0, 0xff03, 0);
        }
        self
    }

    /// Resizable BAR for the BAR with this index, in sizes of 2^(20 + n) for each n whose bit is
    /// set in `sizes`; it starts at size 2^20.
    pub fn with_resizable_bar(mut self, index: u8, wide: bool, sizes: u16) -> Self {
        let at = self.extended(0x0015, 1, 12);
        let index = index.min(5);
        let bar = 0x10 + 4 * u16::from(index);
        if at != 0 {
            self.registers
                .define(at + 4, 4, u32::from(sizes) << 4, 0, 0);
            let control = u32::from(index) | 1 << 5;
            self.registers.define(at + 8, 4, control, 0x3f00, 0);
            let control = at + 8;
            self.resize_bar(control, bar, wide);
            self.behaviours
                .push(Behaviour::ResizableBar { control, bar, wide });
        }
        self
    }

    /// Resizable BAR for the third and fourth BAR of the virtual functions, as one of 64 bits.
    /// Only after [`SimFunction::with_sriov`].
    pub fn with_vf_resizable_bar(mut self, sizes: u16) -> Self {
        let sriov = self.behaviours.iter().find_map(|b| match b {
            Behaviour::Sriov { at, .. } => Some(*at),
            _ => None,
        });
        let at = self.extended(0x0024, 1, 12);
        if let (Some(sriov), true) = (sriov, at != 0) {
            let (control, bar, wide) = (at + 8, sriov + 0x2c, true);
            self.registers.define(bar, 4, 0x0c, 0, 0);
            self.registers
                .define(at + 4, 4, u32::from(sizes) << 4, 0, 0);
            self.registers.define(control, 4, 2 | 1 << 5, 0x3f00, 0);
            self.resize_bar(control, bar, wide);
            self.behaviours
                .push(Behaviour::ResizableBar { control, bar, wide });
        }
        self
    }

    /// Single Root I/O Virtualization.
    pub fn with_sriov(mut self, shape: SriovShape) -> Self {
        let at = self.extended(0x0010, 1, 0x40);
        if at != 0 {
            self.registers.define(at + 0x04, 4, 2, 0, 0);
            self.registers.define(at + 0x08, 2, 0, 0x19, 0);
            self.registers.define(at + 0x0a, 2, 0, 0, 1);
            let total = u32::from(shape.total);
            self.registers
                .define(at + 0x0c, 4, total << 16 | total, 0, 0);
            self.registers.define(at + 0x10, 2, 0, 0xffff, 0);
            self.registers
                .define(at + 0x18, 4, u32::from(shape.device) << 16, 0, 0);
            self.registers.define(at + 0x1c, 4, 0x553, 0, 0);
            self.registers.define(at + 0x20, 4, 1, 0x553, 0);
            self.registers.define(at + 0x24, 4, 0x0c, 0xffff_c000, 0);
            self.registers.define(at + 0x28, 4, 0, u32::MAX, 0);
            self.place_virtual_functions(at, &shape);
            let shape = Box::new(shape);
            self.behaviours.push(Behaviour::Sriov { at, shape });
        }
        self
    }

    /// Offset and stride follow NumVFs and the ARI bit; the VF BAR follows the page size.
    pub(super) fn place_virtual_functions(&mut self, at: u16, shape: &SriovShape) {
        let ari = usize::from(self.registers.value(at + 8, 2) & 0x10 != 0);
        let count = self.registers.value(at + 0x10, 2);
        let offset = shape.offset.get(ari).copied().unwrap_or(1);
        let stride = shape.stride.get(ari).copied().unwrap_or(1);
        let stride = if count < 2 { 0 } else { stride };
        self.registers.put(at + 0x14, 2, offset.into());
        self.registers.put(at + 0x16, 2, stride.into());
        let page = self.registers.value(at + 0x20, 4).trailing_zeros().min(10) + 12;
        let mask = (!0u32 << page.max(14)).to_le_bytes();
        for (i, address) in (0u16..).zip(mask) {
            if let Some(cell) = self.registers.cell_mut(at + 0x24 + i) {
                cell.writable = address;
                cell.value &= address | if i == 0 { 0x0f } else { 0 };
            }
        }
    }
}

//! Simulated functions from parts: header, BARs, capabilities.

use super::function::{Behaviour, SimFunction};

impl SimFunction {
    /// An endpoint (header type 0) with 4096 bytes of space: a network controller without BARs.
    pub fn endpoint(vendor: u16, device: u16) -> Self {
        Self::with_header(vendor, device, 4096, 0, 0x0200_0000)
    }

    /// A conventional PCI endpoint: 256 bytes of space.
    pub fn conventional(vendor: u16, device: u16) -> Self {
        Self::with_header(vendor, device, 256, 0, 0x00ff_0000)
    }

    /// A virtual function: vendor and device read as ffffh, no BARs, no writable bus numbers.
    pub fn virtual_function() -> Self {
        let mut function = Self::with_header(0xffff, 0xffff, 4096, 0, 0x0200_0001);
        function.virtual_function = true;
        // Memory and I/O enable of a virtual function do not exist: the physical one decides. Nor
        // do INTx interrupts.
        function.registers.define(0x04, 2, 0, 0x0004, 0);
        function.registers.define(0x0c, 2, 0, 0, 0);
        function.registers.define(0x3c, 2, 0, 0, 0);
        function
    }

    /// A bridge (header type 1) that forwards buses `secondary..=subordinate`.
    pub fn bridge(vendor: u16, device: u16, secondary: u8, subordinate: u8) -> Self {
        let mut function = Self::with_header(vendor, device, 4096, 1, 0x0604_0000);
        let registers = &mut function.registers;
        let buses = u32::from(secondary) << 8 | u32::from(subordinate) << 16;
        registers.define(0x18, 4, buses, 0x00ff_ffff, 0);
        registers.define(0x1c, 2, 0, 0xf0f0, 0);
        registers.define(0x1e, 2, 0, 0, 0xf900);
        registers.define(0x20, 4, 0, 0xfff0_fff0, 0);
        registers.define(0x24, 4, 0x0001_0001, 0xfff0_fff0, 0);
        registers.define(0x28, 4, 0, u32::MAX, 0);
        registers.define(0x2c, 4, 0, u32::MAX, 0);
        registers.define(0x30, 4, 0, u32::MAX, 0);
        registers.define(0x3e, 2, 0, 0x005f, 0);
        // Bus numbers survive nothing but are what firmware assigned: kept over a soft reset.
        registers.keep(0x18..0x1b);
        function.behaviours.push(Behaviour::HoldBelow {
            offset: 0x3e,
            mask: 0x40,
        });
        function
    }

    fn with_header(vendor: u16, device: u16, size: u16, header: u8, class: u32) -> Self {
        let mut function = Self::empty(size);
        let registers = &mut function.registers;
        let identity = u32::from(device) << 16 | u32::from(vendor);
        registers.define(0x00, 4, identity, 0, 0);
        registers.define(0x04, 2, 0, 0x0547, 0);
        registers.define(0x06, 2, 0, 0, 0xf900);
        registers.define(0x08, 4, class, 0, 0);
        registers.define(0x0c, 2, 0, 0x00ff, 0);
        registers.define(0x0e, 1, header.into(), 0, 0);
        registers.define(0x3c, 2, 0x01ff, 0x00ff, 0);
        if header == 0 {
            registers.define(0x2c, 4, 0x0001_1af4, 0, 0);
        }
        function
    }

    /// Class, subclass, programming interface and revision, as the dword at 08h.
    pub fn with_class(mut self, class: u32) -> Self {
        self.registers.define(0x08, 4, class, 0, 0);
        self
    }

    /// One of several functions of a device.
    pub fn multifunction(mut self) -> Self {
        let header = self.registers.value(0x0e, 1) | 0x80;
        self.registers.define(0x0e, 1, header, 0, 0);
        self
    }

    /// A built-in self test, which takes two reads and ends with code 1.
    pub fn with_bist(mut self) -> Self {
        self.registers.define(0x0f, 1, 0x80, 0x40, 0);
        self.behaviours.push(Behaviour::Bist);
        self
    }

    /// A 32-bit memory BAR of `2^bits` bytes (`bits` in 4..=31) with this index.
    pub fn with_bar32(mut self, index: u8, bits: u8) -> Self {
        let mask = !0u32 << bits.clamp(4, 31);
        self.registers.define(bar(index), 4, 0, mask, 0);
        self
    }

    /// A 64-bit prefetchable memory BAR of `2^bits` bytes (`bits` in 4..=63), at this index and
    /// the next.
    pub fn with_bar64(mut self, index: u8, bits: u8) -> Self {
        let mask = !0u64 << bits.clamp(4, 63);
        self.registers.define(bar(index), 4, 0x0c, mask as u32, 0);
        self.registers
            .define(bar(index) + 4, 4, 0, (mask >> 32) as u32, 0);
        self
    }

    /// An expansion ROM of `2^bits` bytes (`bits` in 11..=24).
    pub fn with_rom(mut self, bits: u8) -> Self {
        let at = if self.is_bridge() { 0x38 } else { 0x30 };
        let mask = !0u32 << bits.clamp(11, 24) | 1;
        self.registers.define(at, 4, 0, mask, 0);
        self
    }

    /// Adds an empty capability of `len` bytes and returns its offset.
    ///
    /// Offsets follow one another from 40h. Returns 0, and adds nothing, when the space is full.
    pub fn capability(&mut self, id: u8, len: u16) -> u16 {
        let at = self.free;
        let end = at.saturating_add(len.max(2).next_multiple_of(4));
        if end > 0x100 {
            return 0;
        }
        let pointer = self.last_capability.map_or(0x34, |last| last + 1);
        self.registers.define(pointer, 1, at.into(), 0, 0);
        self.registers.define(at, 2, id.into(), 0, 0);
        self.registers.define(0x06, 2, 0x10, 0, 0xf900);
        self.last_capability = Some(at);
        self.free = end;
        at
    }

    /// Defines `len` bytes (up to 4) at `offset`: value after reset, writable bits,
    /// write-one-to-clear bits. For registers that no other method knows.
    pub fn with_register(
        mut self,
        offset: u16,
        len: u16,
        value: u32,
        writable: u32,
        clears: u32,
    ) -> Self {
        self.registers.define(offset, len, value, writable, clears);
        self
    }

    /// A register at `offset` that belongs to no capability and sets the four read-only bytes at
    /// `target`, as vendors have for subsystem IDs.
    pub fn with_backdoor(mut self, offset: u16, target: u16) -> Self {
        let value = self.registers.value(target, 4);
        self.registers.define(offset, 4, value, u32::MAX, 0);
        self.registers.keep(offset..offset + 4);
        self.registers.keep(target..target + 4);
        self.behaviours.push(Behaviour::Backdoor { offset, target });
        self
    }

    /// Power management. Without `no_soft_reset`, D3hot to D0 resets the function.
    pub fn with_pm(mut self, no_soft_reset: bool) -> Self {
        let at = self.capability(0x01, 8);
        if at != 0 {
            let nsr = u32::from(no_soft_reset) << 3;
            self.registers.define(at + 2, 2, 0x0003, 0, 0);
            self.registers.define(at + 4, 2, nsr, 0x0103, 0x8000);
            self.behaviours.push(Behaviour::Power {
                offset: at + 4,
                no_soft_reset,
            });
        }
        self
    }

    /// Vital product data: a transfer takes two reads.
    pub fn with_vpd(mut self) -> Self {
        let at = self.capability(0x03, 8);
        if at != 0 {
            self.registers.define(at + 2, 2, 0, 0xffff, 0);
            self.registers.define(at + 4, 4, 0, u32::MAX, 0);
            self.behaviours.push(Behaviour::Vpd { at });
        }
        self
    }

    /// MSI in one of its four shapes, with 2^`log_vectors` vectors (0 to 5).
    pub fn with_msi(mut self, wide: bool, maskable: bool, log_vectors: u8) -> Self {
        let len = 10 + if wide { 4 } else { 0 } + if maskable { 10 } else { 0 };
        let at = self.capability(0x05, len);
        if at != 0 {
            let control = u32::from(wide) << 7
                | u32::from(maskable) << 8
                | u32::from(log_vectors.min(5)) << 1;
            self.registers.define(at + 2, 2, control, 0x71, 0);
            self.registers.define(at + 4, 4, 0, 0xffff_fffc, 0);
            let data = if wide {
                self.registers.define(at + 8, 4, 0, u32::MAX, 0);
                12
            } else {
                8
            };
            self.registers.define(at + data, 2, 0, 0xffff, 0);
            if maskable {
                self.registers.define(at + data + 4, 4, 0, u32::MAX, 0);
            }
        }
        self
    }

    /// MSI-X with `vectors` entries (1 to 2048) in BAR `bar`.
    pub fn with_msix(mut self, vectors: u16, bar: u8) -> Self {
        let at = self.capability(0x11, 12);
        if at != 0 {
            let size = u32::from(vectors.clamp(1, 2048) - 1);
            self.registers.define(at + 2, 2, size, 0xc000, 0);
            self.registers.define(at + 4, 4, u32::from(bar & 7), 0, 0);
            let pending = 0x2000 | u32::from(bar & 7);
            self.registers.define(at + 8, 4, pending, 0, 0);
        }
        self
    }

    /// A vendor-specific capability of `len` bytes, all writable behind its length byte.
    pub fn with_vendor(mut self, len: u8) -> Self {
        let at = self.capability(0x09, len.max(3).into());
        if at != 0 {
            self.registers.define(at + 2, 1, len.into(), 0, 0);
            for byte in 3..u16::from(len) {
                self.registers.define(at + byte, 1, 0, 0xff, 0);
            }
        }
        self
    }

    /// Advanced Features: function-level reset for conventional PCI.
    pub fn with_af(mut self) -> Self {
        let at = self.capability(0x13, 6);
        if at != 0 {
            self.registers.define(at + 2, 2, 0x0306, 0, 0);
            self.behaviours.push(Behaviour::FunctionReset {
                offset: at + 4,
                mask: 1,
            });
        }
        self
    }

    /// Lets only device 0 be reached below while ARI forwarding is off. Only after
    /// [`SimFunction::with_express`], on a port.
    pub fn with_ari_forwarding(mut self) -> Self {
        if let Some(at) = self.last_capability {
            self.behaviours
                .push(Behaviour::AriForwarding { offset: at + 0x28 });
        }
        self
    }

    /// PCI Express, version 2, with this port type (0 endpoint, 4 root port, 5 upstream and
    /// 6 downstream port of a switch). Endpoints have function-level reset.
    pub fn with_express(mut self, port_type: u8) -> Self {
        let at = self.capability(0x10, 0x3c);
        if at == 0 {
            return self;
        }
        let port_type = port_type & 15;
        let endpoint = matches!(port_type, 0 | 1 | 9);
        let slot = matches!(port_type, 4 | 6);
        let flags = 2 | u32::from(port_type) << 4 | u32::from(slot) << 8;
        let registers = &mut self.registers;
        registers.define(at + 0x02, 2, flags, 0, 0);
        registers.define(at + 0x04, 4, 0x8001 | u32::from(endpoint) << 28, 0, 0);
        registers.define(at + 0x08, 2, 0x2810, 0x7fff, 0);
        registers.define(at + 0x0a, 2, 0, 0, 0x000f);
        registers.define(at + 0x0c, 4, 0x0041_0044, 0, 0);
        registers.define(at + 0x10, 2, 0, 0x0fdb, 0);
        registers.define(at + 0x12, 2, 0x2044, 0, 0xc000);
        if slot {
            registers.define(at + 0x10, 2, 0, 0x0ffb, 0);
            registers.define(at + 0x14, 4, 0x007a, 0, 0);
            registers.define(at + 0x18, 2, 0x03c0, 0x1fff, 0);
            registers.define(at + 0x1a, 2, 0x0040, 0, 0x011f);
        }
        if port_type == 4 {
            registers.define(at + 0x1c, 4, 0x0001_0000, 0x1f, 0);
        }
        registers.define(at + 0x24, 4, 0x0000_0832, 0, 0);
        registers.define(at + 0x28, 2, 0, 0x743f, 0);
        registers.define(at + 0x2c, 4, 0x1e, 0, 0);
        registers.define(at + 0x30, 2, 4, 0x1fff, 0);
        if endpoint {
            self.behaviours.push(Behaviour::FunctionReset {
                offset: at + 0x08,
                mask: 0x8000,
            });
        }
        if slot {
            // Retrain acts and reads as zero; Link Disable and slot power off close what is below.
            for behaviour in [
                Behaviour::Pulse {
                    offset: at + 0x10,
                    mask: 0x20,
                },
                Behaviour::HoldBelow {
                    offset: at + 0x10,
                    mask: 0x10,
                },
                Behaviour::HoldBelow {
                    offset: at + 0x18,
                    mask: 0x400,
                },
            ] {
                self.behaviours.push(behaviour);
            }
        }
        self
    }
}

fn bar(index: u8) -> u16 {
    0x10 + 4 * u16::from(index.min(5))
}

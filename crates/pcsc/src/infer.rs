//! Which bytes of one function may be cached: the engine for [`crate::table`].

use core::ops::Range;

use crate::bits::ByteSet;
use crate::table::{Class, HEADER_0, HEADER_1, HEADER_2, HEADER_VF, Len, Row, entry_of};
use crate::walk::{CapId, Capability, End, Source, walk_extended, walk_standard};

/// Capabilities of one function that are told apart; more are not cached.
pub const MAX_REGIONS: usize = 64;

/// A capability with the bytes that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which capability.
    pub id: CapId,
    /// First byte.
    pub start: u16,
    /// One past the last byte: clamped to the length, the next capability and the space.
    pub end: u16,
}

/// What the walk found out about one function.
#[derive(Clone, Debug)]
pub struct Inference {
    /// Header type without the multifunction bit.
    pub header_type: u8,
    /// Whether the function has a built-in self test, or may have one.
    pub has_bist: bool,
    /// Whether there is a PCI Express capability.
    pub express: bool,
    /// Bytes that may be cached.
    pub cacheable: ByteSet,
    /// Those of them that only another device, or none, would change.
    pub constant: ByteSet,
    /// Bytes that belong to the header or to a capability. Empty list ends aside, the rest is
    /// "unlisted": the specification says nothing about it.
    pub listed: ByteSet,
    regions: [Option<Region>; MAX_REGIONS],
    count: usize,
    complete: bool,
}

impl Inference {
    /// Walks the lists of a function and applies the table.
    ///
    /// Reads only registers that have no side effect, with the narrowest width that holds them.
    /// A register that `source` does not have makes less cacheable, never more. `None` if not
    /// even the header type can be had.
    pub fn new(source: &mut impl Source) -> Option<Self> {
        // Ones are an absent function's.
        let header_type = source.u8(0x0e).filter(|&header| header != 0xff)? & 0x7f;
        let mut inference = Self {
            header_type,
            has_bist: source.u8(0x0f).is_none_or(|bist| bist & 0x80 != 0),
            express: false,
            cacheable: ByteSet::EMPTY,
            constant: ByteSet::EMPTY,
            listed: ByteSet::EMPTY,
            regions: [None; MAX_REGIONS],
            count: 0,
            complete: true,
        };
        inference.find(source);
        inference.clamp(source);
        inference.classify(source);
        Some(inference)
    }

    /// The capabilities in address order.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.regions.iter().flatten().copied()
    }

    /// Whether both lists were followed to their end, so that bytes outside every region are
    /// known to belong to none.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn find(&mut self, source: &mut impl Source) {
        let mut extended = false;
        let end = walk_standard(source, self.header_type, |found| {
            self.express |= found.id == CapId::Standard(0x10);
            extended |= found.id == CapId::Standard(0x07);
            self.add(found);
        });
        self.complete &= end == End::Complete;
        if self.express {
            let end = walk_extended(source, |found| self.add(found));
            self.complete &= end == End::Complete;
            if source.u32(0x100) == Some(0) {
                // The header that stands for "no extended capability": PCI Express Base 5.0, 7.9.2.
                self.listed.insert(0x100..0x104);
                self.mark(0x100..0x104, Class::Constant);
            }
        } else if extended {
            // PCI-X 2.0 may have a second list; it is not followed, so nothing is known there.
            self.complete = false;
        }
    }

    fn add(&mut self, found: Capability) {
        let region = Region {
            id: found.id,
            start: found.offset,
            end: found.offset,
        };
        let at = self
            .regions()
            .take_while(|r| r.start < region.start)
            .count();
        match self.regions.get_mut(at..=self.count) {
            Some(tail) => {
                tail.rotate_right(1);
                if let Some(place) = tail.first_mut() {
                    *place = Some(region);
                }
                self.count += 1;
            }
            None => self.complete = false,
        }
    }

    /// Gives every region its end.
    fn clamp(&mut self, source: &mut impl Source) {
        let mut next: Option<u16> = None;
        for region in self.regions.iter_mut().rev().flatten() {
            let space = match region.id {
                CapId::Standard(_) => 0x100,
                CapId::Extended(_) => 0x1000,
            };
            let limit = next.unwrap_or(space).min(space);
            let length = match entry_of(region.id).map_or(Len::ToNext, |entry| entry.len) {
                Len::Max(bytes) => Some(bytes),
                Len::Byte(at) => source.u8(region.start + at).map(u16::from),
                Len::Upper12(at) => source.u16(region.start + at).map(|word| word >> 4),
                Len::ToNext => None,
            };
            let header = header_len(region.id);
            region.end = match length {
                Some(bytes) if bytes >= header => limit.min(region.start.saturating_add(bytes)),
                _ => limit,
            };
            next = Some(region.start);
        }
    }

    fn classify(&mut self, source: &mut impl Source) {
        let express = self.regions().find(|r| r.id == CapId::Standard(0x10));
        let port = match express.map(|region| source.u16(region.start + 2)) {
            None => Some(0),
            Some(flags) => flags.map(|flags| flags >> 4 & 15),
        };
        let virtual_function = source.u16(0) == Some(0xffff);
        let rows = match self.header_type {
            0 if virtual_function => HEADER_VF,
            0 => HEADER_0,
            1 => HEADER_1,
            2 => HEADER_2,
            _ => &[],
        };
        self.listed.insert(0..0x40);
        if self.header_type == 2 {
            // The header of a CardBus bridge is twice as long.
            self.listed.insert(0x40..0x80);
        }
        self.apply(source, rows, 0..0x40, port);
        for region in self.regions {
            let Some(region) = region else { break };
            let bytes = region.start..region.end;
            self.listed.insert(bytes.clone());
            let header = region.start + header_len(region.id);
            self.mark(region.start..header.min(region.end), Class::Constant);
            if let Some(entry) = entry_of(region.id) {
                self.apply(source, entry.rows, bytes, port);
            }
        }
    }

    fn apply(
        &mut self,
        source: &mut impl Source,
        rows: &[Row],
        within: Range<u16>,
        port: Option<u16>,
    ) {
        for row in rows {
            let on_port = match port {
                Some(port) => row.ports >> port & 1 != 0,
                None => row.ports == u16::MAX,
            };
            let mut holds = |at: u16, mask: u16, is: u16| {
                let offset = within.start + at;
                offset + 2 <= within.end && source.u16(offset).is_some_and(|word| word & mask == is)
            };
            let exists = row.when.iter().flatten();
            if !on_port || !exists.into_iter().all(|w| holds(w.at, w.mask, w.is)) {
                continue;
            }
            let (count, step) = match row.repeat {
                None => (1, 0),
                Some(repeat) => {
                    let offset = within.start + repeat.at;
                    let word = (offset + 2 <= within.end)
                        .then(|| source.u16(offset))
                        .flatten();
                    let count = word.map_or(0, |word| word >> repeat.shift & repeat.mask);
                    (count, repeat.step)
                }
            };
            for n in 0..count {
                let first = within.start + row.first + n * step;
                let end = within.start + row.last + 1 + n * step;
                self.mark(first.min(within.end)..end.min(within.end), row.class);
            }
        }
    }

    fn mark(&mut self, bytes: Range<u16>, class: Class) {
        self.cacheable.insert(bytes.clone());
        if class == Class::Constant {
            self.constant.insert(bytes);
        }
    }
}

/// Bytes of a capability's header: id and next pointer, with the version in the second list.
pub(crate) const fn header_len(id: CapId) -> u16 {
    match id {
        CapId::Standard(_) => 2,
        CapId::Extended(_) => 4,
    }
}

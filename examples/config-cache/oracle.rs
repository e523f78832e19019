//! A device that answers from a recorded trace.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use kho::hal::{Access, PciConfigAccess, PciError, Sbdf};

use crate::trace::Event;

/// Answers the access at hand with what the device gave, and an access of the cache's own with
/// what stands in the trace: the last value seen or written before, else the next one seen.
///
/// What the trace never shows cannot be read.
pub struct Oracle {
    functions: RefCell<HashMap<Sbdf, Bytes>>,
    /// The recorded access that is being replayed.
    now: Cell<Option<(Sbdf, Access, u32)>>,
}

struct Bytes {
    past: Vec<Option<u8>>,
    /// The first value that the trace shows, in a read that is not all ones.
    first: Vec<Option<u8>>,
    /// The same of reads that are.
    ones: Vec<Option<u8>>,
}

impl Bytes {
    fn new() -> Self {
        let none = vec![None; usize::from(Access::SPACE)];
        Self {
            past: none.clone(),
            first: none.clone(),
            ones: none,
        }
    }
}

impl Oracle {
    pub fn new(trace: &[Event]) -> Self {
        let mut functions: HashMap<Sbdf, Bytes> = HashMap::new();
        for event in trace {
            let Event::Read(function, at, value) = event else {
                continue;
            };
            let bytes = functions.entry(*function).or_insert_with(Bytes::new);
            for (offset, byte) in (at.offset()..at.end()).zip(value.to_le_bytes()) {
                // All ones is what an absent function answers; anything else shows more.
                let absent = *value == at.width().mask();
                let first = if absent {
                    &mut bytes.ones
                } else {
                    &mut bytes.first
                };
                if let Some(first) = first.get_mut(usize::from(offset)) {
                    first.get_or_insert(byte);
                }
            }
        }
        Self {
            functions: RefCell::new(functions),
            now: Cell::new(None),
        }
    }

    /// How many functions the trace names.
    pub fn functions(&self) -> usize {
        self.functions.borrow().len()
    }

    /// Their addresses, ascending.
    pub fn places(&self) -> Vec<Sbdf> {
        let mut places: Vec<_> = self.functions.borrow().keys().copied().collect();
        places.sort_unstable();
        places
    }

    /// The access that comes next, for a read with what the device gave.
    pub fn expect(&self, function: Sbdf, at: Access, value: u32) {
        self.now.set(Some((function, at, value)));
    }

    /// The access is done; what it showed holds from now on.
    pub fn learn(&self, function: Sbdf, at: Access, value: u32) {
        self.now.set(None);
        let mut functions = self.functions.borrow_mut();
        let bytes = functions.entry(function).or_insert_with(Bytes::new);
        for (offset, byte) in (at.offset()..at.end()).zip(value.to_le_bytes()) {
            if let Some(past) = bytes.past.get_mut(usize::from(offset)) {
                *past = Some(byte);
            }
        }
    }
}

impl PciConfigAccess for Oracle {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        if let Some((of, place, value)) = self.now.get()
            && (of, place) == (function, at)
        {
            return Ok(value);
        }
        let functions = self.functions.borrow();
        let known = |offset: u16| {
            let bytes = functions.get(&function)?;
            let byte = |from: &[Option<u8>]| from.get(usize::from(offset)).copied().flatten();
            byte(&bytes.past)
                .or_else(|| byte(&bytes.first))
                .or_else(|| byte(&bytes.ones))
        };
        let value = (at.offset()..at.end()).rev().try_fold(0, |value, offset| {
            Some(value << 8 | u32::from(known(offset)?))
        });
        value.ok_or(PciError::Failed {
            function,
            offset: at.offset(),
        })
    }

    fn write(&self, _: Sbdf, _: Access, _: u32) -> Result<(), PciError> {
        // The caller tells with `learn`.
        Ok(())
    }
}

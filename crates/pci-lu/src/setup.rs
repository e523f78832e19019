//! Initialisation in three stages: look, decide, write what differs.
//!
//! | stage | call | touches the hardware |
//! | --- | --- | --- |
//! | enumerate | [`Survey::of`] | reads |
//! | decide | [`Survey::decide`] | no |
//! | apply | [`Plan::apply`] | writes the differences, reads back |
//!
//! What a field is wanted to hold is decided in one place, for every function and at any time:
//!
//! | the function | nobody asks: at a boot | later | a caller asks for a value |
//! | --- | --- | --- | --- |
//! | is not preserved | what a cold boot makes of it ([`Boot`]) | what it holds | that value |
//! | is incoming, or frozen | the same if its class is [`Class::Cold`], else what it holds | what it holds | that value; of a field that must stay, an error if it differs |
//! | was incoming | as if it were not preserved, but what is adopted for life is what was found | what it holds | that value |
//!
//! So a function that nobody preserved sees the writes of a cold boot, one that arrived live sees
//! only what is safe, and what is run twice writes nothing the second time. [`crate::Guarded::init`]
//! and [`crate::Guarded::set`] run the three stages with what they know of the function.
//!
//! # Order
//! What goes to its cold value goes first, in the order of the table: INTx Disable before MSI goes
//! off, ATS off before PRI and PASID. What goes elsewhere comes after, in reverse: PASID before ATS
//! goes on, the number of virtual functions before they are enabled, Bus Master last. Fields of one
//! register are written at once. Bits that clear or start something when written as one are written
//! as zero beside others.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf, Width};

use crate::fields::{Field, FieldError, for_each_field, for_each_field_found};
use crate::table::{Bits, Boot, Class, Kind, Request, Setting};

/// Why a function was not set up as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetError {
    /// What fields the function has cannot be told. Nothing was written.
    Field(FieldError),
    /// The function does not have the field. Nothing was written.
    Absent {
        /// The function.
        function: Sbdf,
        /// The field asked for.
        setting: Setting,
    },
    /// The field has fewer bits. Nothing was written.
    Range {
        /// The function.
        function: Sbdf,
        /// What was asked.
        request: Request,
    },
    /// Two requests want different values of one field. Nothing was written.
    Conflict {
        /// The function.
        function: Sbdf,
        /// The second of them.
        request: Request,
    },
    /// The field must stay, and holds another value. Nothing was written.
    Kept {
        /// The function.
        function: Sbdf,
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u32,
        /// What would break.
        reason: &'static str,
    },
    /// The hardware holds another value than was written.
    NotTaken {
        /// The function.
        function: Sbdf,
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u32,
    },
    /// An access did not happen; what is planned after it was not written.
    Config(PciError),
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(cause) => cause.fmt(f),
            Self::Absent { function, setting } => write!(f, "{function} has no {setting}"),
            Self::Range { function, request } => write!(
                f,
                "{function}: {:#x} is too large for {}",
                request.value, request.setting
            ),
            Self::Conflict { function, request } => write!(
                f,
                "{function}: {} is asked for as {:#x}, and as another value",
                request.setting, request.value
            ),
            Self::Kept {
                function,
                field,
                found,
                reason,
            } => write!(f, "{function}: {field} must stay {found:#x}: {reason}"),
            Self::NotTaken {
                function,
                field,
                found,
            } => write!(f, "{function}: {field} stays {found:#x}"),
            Self::Config(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for SetError {}

impl From<FieldError> for SetError {
    fn from(cause: FieldError) -> Self {
        Self::Field(cause)
    }
}

impl From<PciError> for SetError {
    fn from(cause: PciError) -> Self {
        Self::Config(cause)
    }
}

/// What a function's fields hold: what software may keep as its own copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: Vec<Value>,
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    setting: Setting,
    index: u16,
    value: u32,
    for_life: bool,
}

impl Settings {
    /// The value of the first field of this name, counted in its lowest bit; `None` if the function
    /// has none.
    pub fn get(&self, setting: Setting) -> Option<u32> {
        self.at(setting, 0)
    }

    /// The value of the `index`-th field of this name, from 0.
    pub fn at(&self, setting: Setting, index: u16) -> Option<u32> {
        let mut values = self.values.iter();
        let found = values.find(|value| value.setting == setting && value.index == index);
        found.map(|value| value.value)
    }

    /// Every field with its value, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Request> + '_ {
        self.values.iter().map(|value| Request {
            setting: value.setting,
            index: value.index,
            value: value.value,
        })
    }

    /// Keeps only what is adopted for life.
    pub(crate) fn retain_for_life(&mut self) {
        self.values.retain(|value| value.for_life);
    }
}

/// What is known of a function's past when it is decided what its fields are to hold.
#[derive(Clone, Copy, Debug)]
pub enum Past<'p> {
    /// Nothing: it is to be as after a cold boot.
    None,
    /// It is live.
    Live,
    /// It was live; these fields were adopted for life.
    WasLive(&'p Settings),
}

/// When it is decided what fields are to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At a boot, before a driver has the function: also what nobody asks for.
    Boot,
    /// Later: only what a caller asks for.
    Later,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    field: Field,
    /// What the dword held.
    dword: u32,
    /// What a cold boot makes of the field, in place.
    boot: Option<u32>,
}

impl Item {
    fn found(&self) -> u32 {
        self.dword & self.field.bits
    }

    fn is(&self, request: &Request) -> bool {
        self.field.row.setting == Some(request.setting) && self.field.index == request.index
    }

    /// The value in the field's place, or `None` if it does not fit.
    fn place(&self, value: u32) -> Option<u32> {
        let shift = self.field.bits.trailing_zeros();
        let placed = value.checked_shl(shift)?;
        (placed >> shift == value && placed & !self.field.bits == 0).then_some(placed)
    }
}

/// Stage 1: the fields that a function has, and what they hold.
#[derive(Clone, Debug)]
pub struct Survey {
    function: Sbdf,
    /// In the order of the table.
    items: Vec<Item>,
    /// By dword, the bits that do something when written as one.
    volatile: BTreeMap<u16, u32>,
}

impl Survey {
    /// Looks at a function, as one of this kind. No write.
    ///
    /// # Errors
    /// [`FieldError::Header`], [`FieldError::Unreadable`].
    pub fn of<C: PciConfigAccess>(
        config: &C,
        function: Sbdf,
        kind: Kind,
    ) -> Result<Self, FieldError> {
        Self::look(config, function, |visit| {
            for_each_field(config, function, kind, visit)
        })
    }

    /// As [`Survey::of`], for a function that nobody preserves: lists that end badly are taken as far
    /// as they go.
    pub(crate) fn of_found<C: PciConfigAccess>(
        config: &C,
        function: Sbdf,
        kind: Kind,
    ) -> Result<Self, FieldError> {
        Self::look(config, function, |visit| {
            for_each_field_found(config, function, kind, visit)
        })
    }

    fn look<C: PciConfigAccess>(
        config: &C,
        function: Sbdf,
        walk: impl FnOnce(&mut dyn FnMut(Field)) -> Result<(), FieldError>,
    ) -> Result<Self, FieldError> {
        let mut items = Vec::new();
        let mut volatile: BTreeMap<u16, u32> = BTreeMap::new();
        let mut dwords = Dwords::new(config, function);
        let mut failed = None;
        walk(&mut |field| {
            let row = field.row;
            if row.access == Bits::Rw1c || field.class == Class::Action {
                *volatile.entry(field.dword).or_default() |= field.bits;
            }
            let named = row.setting.is_some() || row.boot != Boot::Keep;
            if !named || field.class == Class::Absent {
                return;
            }
            let read = dwords.read(field.dword).and_then(|dword| {
                let in_place = |value: u32| value << field.bits.trailing_zeros() & field.bits;
                let boot = match row.boot {
                    Boot::Keep => None,
                    Boot::Value(value) => Some(in_place(value)),
                    Boot::Clear => Some(0),
                    Boot::Supported { at, bits } => {
                        Some(in_place(dwords.read(field.base + at)? & bits))
                    }
                };
                Ok(Item { field, dword, boot })
            });
            match read {
                Ok(item) => items.push(item),
                Err(error) => failed = failed.or(Some(error)),
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        items.sort_by_key(|item| (item.field.order, item.field.base, item.field.index));
        Ok(Self {
            function,
            items,
            volatile,
        })
    }

    /// What the fields hold.
    pub fn settings(&self) -> Settings {
        settings(&self.items)
    }

    /// The fields of which somebody other than the driver must know what they hold: name and field.
    pub(crate) fn to_confirm(&self) -> impl Iterator<Item = (Setting, &'static str)> + '_ {
        let stays = |item: &Item| item.field.class == Class::Preserve;
        let is_on = move |enable| {
            let mut items = self.items.iter();
            items.any(|item| {
                item.field.row.setting == Some(enable) && stays(item) && item.found() != 0
            })
        };
        let confirmed = self.items.iter().filter(move |item| stays(item));
        confirmed
            .filter(move |item| item.field.row.confirmed.is_some_and(is_on))
            .filter_map(|item| Some((item.field.row.setting?, item.field.row.field)))
    }

    /// Stage 2: what is to be written so that the fields hold what they are wanted to; `phase` says
    /// whether that includes what nobody asks for.
    ///
    /// # Errors
    /// [`SetError::Absent`], [`SetError::Range`], [`SetError::Conflict`], [`SetError::Kept`].
    pub fn decide(
        &self,
        phase: Phase,
        past: Past<'_>,
        requests: &[Request],
    ) -> Result<Plan, SetError> {
        let function = self.function;
        for (n, &request) in requests.iter().enumerate() {
            let same =
                |other: &&Request| (other.setting, other.index) == (request.setting, request.index);
            let first = requests.iter().take(n).find(same);
            if first.is_some_and(|first| first.value != request.value) {
                return Err(SetError::Conflict { function, request });
            }
            let mut asked = self
                .items
                .iter()
                .filter(|item| item.is(&request))
                .peekable();
            if asked.peek().is_none() {
                let setting = request.setting;
                return Err(SetError::Absent { function, setting });
            }
            if asked.any(|item| item.place(request.value).is_none()) {
                return Err(SetError::Range { function, request });
            }
        }
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for item in &self.items {
            let Field {
                row, bits, class, ..
            } = item.field;
            let found = item.found();
            let asked = requests.iter().find(|request| item.is(request));
            let asked = asked.and_then(|request| item.place(request.value));
            let lasting = match (past, row.setting) {
                (Past::WasLive(settings), Some(setting)) => settings.at(setting, item.field.index),
                _ => None,
            };
            let stays = matches!(past, Past::Live) && class != Class::Cold;
            let wanted = match asked {
                Some(asked) => asked,
                None if stays || phase == Phase::Later => found,
                None => lasting
                    .and_then(|value| item.place(value))
                    .or(item.boot)
                    .unwrap_or(found),
            };
            if wanted == found {
                continue;
            }
            let must_stay = matches!(class, Class::Preserve | Class::Action);
            if class == Class::Read || matches!(past, Past::Live) && must_stay {
                return Err(SetError::Kept {
                    function,
                    field: row.field,
                    found: item.field.value(item.dword),
                    reason: row.reason,
                });
            }
            let to_cold = item.boot == Some(wanted) && !matches!(row.boot, Boot::Supported { .. });
            let steps = if to_cold { &mut first } else { &mut last };
            steps.push(Step {
                dword: item.field.dword,
                bits,
                value: match row.access {
                    Bits::Rw1c => found,
                    Bits::Rw | Bits::Ro => wanted,
                },
                asked: asked.map(|_| (row.field, item.field)),
            });
        }
        last.reverse();
        Ok(Plan {
            survey: self.clone(),
            first,
            last,
        })
    }
}

/// One field to be written.
#[derive(Clone, Copy, Debug)]
struct Step {
    dword: u16,
    bits: u32,
    /// In place.
    value: u32,
    /// The field, if a caller asked for it.
    asked: Option<(&'static str, Field)>,
}

impl Step {
    /// Offset and width of the register: of 32 bits if the field has bits in both halves.
    fn register(&self) -> (u16, Width) {
        match (self.bits & 0xffff != 0, self.bits >> 16 != 0) {
            (true, true) => (self.dword, Width::U32),
            (false, true) => (self.dword + 2, Width::U16),
            _ => (self.dword, Width::U16),
        }
    }
}

/// Stage 2's result: the differences between what is and what is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    survey: Survey,
    first: Vec<Step>,
    last: Vec<Step>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.last.is_empty()
    }

    /// Stage 3: writes the differences, and returns what the fields hold then, read back.
    ///
    /// # Errors
    /// [`SetError::Config`] for the first access that did not happen, [`SetError::NotTaken`] if a
    /// field that was asked for holds another value afterwards.
    pub fn apply<C: PciConfigAccess>(mut self, config: &C) -> Result<Settings, SetError> {
        let function = self.survey.function;
        for steps in [&self.first, &self.last] {
            let mut rest = steps.as_slice();
            while let Some(step) = rest.first() {
                let register = step.register();
                let same = rest.iter().take_while(|step| step.register() == register);
                let (now, later) = rest.split_at(same.count());
                self.survey.write(config, register, now)?;
                rest = later;
            }
        }
        if !self.is_empty() {
            let mut dwords = Dwords::new(config, function);
            for item in &mut self.survey.items {
                item.dword = dwords.read(item.field.dword)?;
            }
        }
        for step in self.first.iter().chain(&self.last) {
            let Some((name, field)) = step.asked else {
                continue;
            };
            let items = &self.survey.items;
            let at = |item: &&Item| (item.field.order, item.field.base, item.field.index);
            let asked = (field.order, field.base, field.index);
            let item = items.iter().find(|item| at(item) == asked);
            if let Some(item) = item
                && item.found() != step.value
            {
                return Err(SetError::NotTaken {
                    function,
                    field: name,
                    found: field.value(item.dword),
                });
            }
        }
        Ok(settings(&self.survey.items))
    }
}

impl Survey {
    /// Writes fields of one register.
    fn write<C: PciConfigAccess>(
        &self,
        config: &C,
        (offset, width): (u16, Width),
        steps: &[Step],
    ) -> Result<(), PciError> {
        let shift = 8 * (offset & 3);
        let at = Access::new(offset, width)?;
        let volatile = self.volatile.get(&(offset & !3)).copied().unwrap_or(0);
        let now = config.read(self.function, at)?;
        let kept = now << shift & !volatile;
        let value = steps
            .iter()
            .fold(kept, |value, step| value & !step.bits | step.value);
        config.write(self.function, at, value >> shift)
    }
}

/// Reads of whole dwords, each once.
struct Dwords<'c, C> {
    config: &'c C,
    function: Sbdf,
    read: BTreeMap<u16, u32>,
}

impl<'c, C: PciConfigAccess> Dwords<'c, C> {
    fn new(config: &'c C, function: Sbdf) -> Self {
        Self {
            config,
            function,
            read: BTreeMap::new(),
        }
    }

    fn read(&mut self, dword: u16) -> Result<u32, FieldError> {
        if let Some(&value) = self.read.get(&dword) {
            return Ok(value);
        }
        let (function, offset) = (self.function, dword);
        let read = self.config.read_u32(function, offset);
        let value = read.map_err(|_| FieldError::Unreadable { function, offset })?;
        self.read.insert(dword, value);
        Ok(value)
    }
}

fn settings(items: &[Item]) -> Settings {
    let value = |item: &Item| {
        Some(Value {
            setting: item.field.row.setting?,
            index: item.field.index,
            value: item.field.value(item.dword),
            for_life: item.field.row.for_life,
        })
    };
    let values = items.iter().filter_map(value).collect();
    Settings { values }
}

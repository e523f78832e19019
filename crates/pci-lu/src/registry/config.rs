//! What everybody uses of configuration space.

use kho_hal::{Access, PciConfigAccess, PciError, Sbdf};

use crate::guard::{GuardError, Guarded, State};
use crate::registry::Registry;
use crate::setup::{SetError, Settings};
use crate::table::{Kind, Request};

/// The machine's configuration space under the write policy. What changes a function's state is the
/// registry's alone, so none of it is here.
#[derive(Debug)]
pub struct Config<'r, C>(&'r Guarded<C>);

impl<C> Clone for Config<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Config<'_, C> {}

impl<C: PciConfigAccess> Registry<C> {
    /// Configuration space under the write policy: what everybody uses.
    pub fn config(&self) -> Config<'_, C> {
        Config(&self.shared.guard)
    }
}

impl<C: PciConfigAccess> Config<'_, C> {
    /// See [`Guarded::init`].
    ///
    /// # Errors
    /// [`SetError`].
    pub fn init(&self, function: Sbdf, requests: &[Request]) -> Result<Settings, SetError> {
        self.0.init(function, requests)
    }

    /// See [`Guarded::set`].
    ///
    /// # Errors
    /// [`SetError`].
    pub fn set(&self, function: Sbdf, requests: &[Request]) -> Result<Settings, SetError> {
        self.0.set(function, requests)
    }

    /// See [`Guarded::add_rule`].
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn add_rule(
        &self,
        function: Sbdf,
        offset: u16,
        bits: u32,
        field: &'static str,
        reason: &'static str,
    ) -> Result<(), GuardError> {
        self.0.add_rule(function, offset, bits, field, reason)
    }

    /// See [`Guarded::state`].
    pub fn state(&self, function: Sbdf) -> State {
        self.0.state(function)
    }

    /// See [`Guarded::is_guarded`].
    pub fn is_guarded(&self, function: Sbdf) -> bool {
        self.0.is_guarded(function)
    }

    /// See [`Guarded::kind`].
    pub fn kind(&self, function: Sbdf) -> Option<Kind> {
        self.0.kind(function)
    }
}

impl<C: PciConfigAccess> PciConfigAccess for Config<'_, C> {
    fn read(&self, function: Sbdf, at: Access) -> Result<u32, PciError> {
        self.0.read(function, at)
    }

    fn write(&self, function: Sbdf, at: Access, value: u32) -> Result<(), PciError> {
        self.0.write(function, at, value)
    }
}

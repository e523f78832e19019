//! What ends the program early, and with which status.

use std::fmt;

use kho::core::incoming::IncomingError;

/// Why there is nothing to show.
#[derive(Debug)]
pub enum Failure {
    /// The handover is not whole or not valid.
    Problem(String),
    /// The file cannot be read, or not enough was said of it.
    Unreadable(String),
}

impl Failure {
    pub fn unreadable(what: impl fmt::Display) -> Self {
        Self::Unreadable(what.to_string())
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Problem(_) => 1,
            Self::Unreadable(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Problem(what) | Self::Unreadable(what)) = self;
        f.write_str(what)
    }
}

/// A problem by the name that the library's documentation has it under.
impl From<IncomingError> for Failure {
    fn from(error: IncomingError) -> Self {
        let fault = format!("{:?}", error.fault);
        let name = fault.split(|c: char| !c.is_alphanumeric()).next();
        Self::Problem(format!("{} [{}]", error, name.unwrap_or_default()))
    }
}

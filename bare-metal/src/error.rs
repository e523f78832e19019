//! What can go wrong.

use alloc::string::String;
use core::fmt;

use kho::core::OutgoingError;
use kho::core::incoming::IncomingError;
use kho::hal::MemError;

/// Why a job was not done.
#[derive(Debug)]
pub enum Error {
    /// The predecessor's description is refused.
    Incoming(IncomingError),
    /// Our own could not be made.
    Outgoing(OutgoingError),
    /// Memory that should be there is not.
    Memory(MemError),
    /// Anything else.
    Other(String),
}

pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// What is missing.
    pub fn missing(what: &str) -> Self {
        Self::Other(alloc::format!("there is no {what}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incoming(error) => write!(f, "{error}"),
            Self::Outgoing(error) => write!(f, "{error}"),
            Self::Memory(error) => write!(f, "{error}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for Error {}

impl From<IncomingError> for Error {
    fn from(error: IncomingError) -> Self {
        Self::Incoming(error)
    }
}

impl From<OutgoingError> for Error {
    fn from(error: OutgoingError) -> Self {
        Self::Outgoing(error)
    }
}

impl From<MemError> for Error {
    fn from(error: MemError) -> Self {
        Self::Memory(error)
    }
}

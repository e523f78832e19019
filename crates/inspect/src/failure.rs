//! What ends the program early, and with which status.

use kho::core::incoming::IncomingError;
use serde_json::{Value, json};

/// Why there is nothing to show.
#[derive(Debug)]
pub enum Failure {
    /// The handover is not whole or not valid: why, and what can be done.
    Unsound(Vec<Problem>, Option<&'static str>),
    /// It cannot be what was asked for.
    Refused(String),
    /// The file cannot be read, or not enough was said of it.
    Unreadable(String),
}

/// What is wrong with a handover.
#[derive(Clone, Debug)]
pub struct Problem {
    part: String,
    /// As the library's documentation has it.
    name: String,
    what: String,
}

impl Failure {
    pub fn unreadable(what: impl std::fmt::Display) -> Self {
        Self::Unreadable(what.to_string())
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Unsound(..) | Self::Refused(_) => 1,
            Self::Unreadable(_) => 2,
        }
    }

    /// One line for each thing that is to be said.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Unsound(problems, hint) => {
                let line = |problem: &Problem| {
                    let Problem { part, name, what } = problem;
                    format!("{part}: {what} [{name}]")
                };
                let hint = hint.iter().map(|&hint| hint.to_owned());
                problems.iter().map(line).chain(hint).collect()
            }
            Self::Refused(what) | Self::Unreadable(what) => vec![what.clone()],
        }
    }

    /// What there is to say in place of facts: the problems of the handover.
    pub fn json(&self) -> Option<Value> {
        let Self::Unsound(problems, _) = self else {
            return None;
        };
        let problems = problems.iter().map(
            |Problem { part, name, what }| json!({ "part": part, "name": name, "what": what }),
        );
        Some(json!({ "problems": problems.collect::<Vec<_>>() }))
    }
}

impl From<IncomingError> for Problem {
    fn from(IncomingError { part, fault }: IncomingError) -> Self {
        let name = format!("{fault:?}");
        let name = name.split(|c: char| !c.is_alphanumeric()).next();
        Self {
            part: part.to_string(),
            name: name.unwrap_or_default().to_owned(),
            what: fault.to_string(),
        }
    }
}

impl From<IncomingError> for Failure {
    fn from(error: IncomingError) -> Self {
        Self::Unsound(vec![error.into()], None)
    }
}

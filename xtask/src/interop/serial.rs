//! What the programs said on the serial line.

use anyhow::{Context, Result, ensure};
use kho_interop_plan::{PREFIX, SESSIONS, Session, fill};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The facts of one boot: from when a program says who it is to when the next one does.
#[derive(Debug, Default)]
pub struct Boot {
    facts: Vec<Value>,
}

/// Splits a log into the boots that it tells of.
pub fn boots(log: &str) -> Result<Vec<Boot>> {
    let mut boots: Vec<Boot> = Vec::new();
    for line in log.lines() {
        let Some((_, fact)) = line.split_once(PREFIX) else {
            continue;
        };
        let fact: Value = serde_json::from_str(fact).with_context(|| format!("in {line:?}"))?;
        if matches!(fact["fact"].as_str(), Some("linux" | "bare-metal")) {
            boots.push(Boot::default());
        }
        let boot = boots.last_mut().context("a fact before any program")?;
        boot.facts.push(fact);
    }
    Ok(boots)
}

impl Boot {
    /// Who says it: `linux` or `bare-metal`.
    pub fn program(&self) -> &str {
        let first = self.facts.first();
        first.and_then(|fact| fact["fact"].as_str()).unwrap_or("")
    }

    /// All facts of a kind, in order.
    pub fn all<'b>(&'b self, kind: &str) -> impl Iterator<Item = &'b Value> {
        let kind = kind.to_owned();
        self.facts.iter().filter(move |fact| fact["fact"] == kind)
    }

    /// The only fact of a kind.
    pub fn one(&self, kind: &str) -> Result<&Value> {
        let mut all = self.all(kind);
        let first = all.next().with_context(|| {
            let error = self
                .all("error")
                .next()
                .map(|error| error["what"].to_string());
            format!("{} did not say {kind}; it said {error:?}", self.program())
        })?;
        ensure!(all.next().is_none(), "{kind} is said twice");
        Ok(first)
    }

    /// The first fact of a kind where `key` is `value`.
    pub fn with(&self, kind: &str, key: &str, value: &str) -> Result<&Value> {
        self.all(kind)
            .find(|fact| fact[key] == value)
            .with_context(|| format!("{} did not say {kind} {value}", self.program()))
    }

    /// Whether the kernel logged a line with all of `words`.
    pub fn logged(&self, words: &[&str]) -> bool {
        let mut lines = self.all("log").filter_map(|fact| fact["line"].as_str());
        lines.any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// That every file of `sessions` was stated as `kind`, with the bytes of the plan.
    pub fn check_files(&self, kind: &str, sessions: &[Session]) -> Result<()> {
        for session in sessions {
            for file in session.files {
                let found = self
                    .all(kind)
                    .find(|fact| fact["session"] == session.name && fact["token"] == file.token);
                let place = format!("{} {} {:#x}", kind, session.name, file.token);
                let found = found.with_context(|| format!("{place} is missing"))?;
                ensure!(found["size"] == file.size, "{place} has {}", found["size"]);
                let expected = pattern_digest(file.seed, file.size);
                ensure!(found["sha256"] == expected, "{place} holds other bytes");
            }
        }
        Ok(())
    }

    /// [`Boot::check_files`] of the whole plan.
    pub fn check_plan(&self, kind: &str) -> Result<()> {
        self.check_files(kind, &SESSIONS)
    }
}

/// The digest of the first `size` bytes of a pattern.
pub fn pattern_digest(seed: u64, size: u64) -> String {
    let mut bytes = vec![0; size as usize];
    fill(seed, 0, &mut bytes);
    hex(&Sha256::digest(&bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

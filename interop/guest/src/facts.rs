//! Saying facts, and digests.

use std::io::{Read, Write};

use anyhow::Result;
use kho_interop_plan::PREFIX;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// States a fact: one line, in one write, so that nothing comes between.
pub fn say(fact: &str, mut what: Value) {
    if let Some(object) = what.as_object_mut() {
        object.insert("fact".to_owned(), json!(fact));
    }
    let line = format!("\n{PREFIX}{what}\n");
    // Without a console there is nobody to tell.
    let _ = std::io::stdout().write_all(line.as_bytes());
    let _ = std::io::stdout().flush();
}

/// SHA-256 of everything that can be read, in hexadecimal, and how many bytes that is.
pub fn digest(mut from: impl Read) -> Result<(String, u64)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        digest.update(buffer.get(..count).unwrap_or_default());
        size += count as u64;
    }
    let hex = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((hex, size))
}

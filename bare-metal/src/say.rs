//! Facts on the serial line.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;

use kho_interop_plan::PREFIX;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::arch::Serial;

/// States a fact.
pub fn fact(fact: &str, mut what: Value) {
    if let Some(object) = what.as_object_mut() {
        object.insert(fact_key(), json!(fact));
    }
    // The serial line does not fail.
    let _ = write!(Serial, "\n{PREFIX}{what}\n");
}

fn fact_key() -> String {
    String::from("fact")
}

/// A digest in the making.
#[derive(Default)]
pub struct Sum(Sha256);

impl Sum {
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In hexadecimal.
    pub fn finish(self) -> String {
        let mut text = String::new();
        for byte in self.0.finalize() {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> String {
        let mut sum = Self::default();
        sum.add(bytes);
        sum.finish()
    }
}

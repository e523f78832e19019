//! QEMU's monitor, by QMP: JSON objects on standard input and output, one a line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The monitor of a machine that was started with `-qmp stdio`.
pub struct Monitor {
    input: ChildStdin,
    messages: Receiver<Value>,
    deadline: Instant,
}

impl Monitor {
    /// Of a machine whose standard input and output are pipes. Waits for answers until `limit` is
    /// over.
    pub fn new(qemu: &mut Child, limit: Duration) -> Result<Self> {
        let input = qemu.stdin.take().context("QEMU has no input")?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let message = serde_json::from_str(&line);
                if message.is_ok_and(|message| sender.send(message).is_err()) {
                    break;
                }
            }
        });
        let mut monitor = Self {
            input,
            messages,
            deadline: Instant::now() + limit,
        };
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Has QEMU do something, and waits until it is done.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<()> {
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.input, "{message}")?;
        let answer =
            self.next(|message| message.get("return").or(message.get("error")).is_some())?;
        ensure!(answer["error"].is_null(), "{command}: {}", answer["error"]);
        Ok(())
    }

    /// Waits until this has happened.
    pub fn wait_for(&mut self, event: &str) -> Result<()> {
        self.next(|message| message["event"] == event).map(|_| ())
    }

    fn next(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let message = message.context("QEMU has ended, or takes too long")?;
            if wanted(&message) {
                return Ok(message);
            }
        }
    }
}

//! A virtual machine that runs until it powers itself off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::Bench;
use super::monitor::Monitor;
use super::serial::{self, Boot};

const RAM: &str = "512M";

/// A machine to be started.
pub struct Machine<'b> {
    bench: &'b Bench,
    name: &'b str,
    kernel: &'b Path,
    initrd: Vec<u8>,
    cmdline: String,
    devices: &'b [&'b str],
    instruction_time: bool,
    dumps: &'b [Dump],
    limit: Duration,
}

/// A form in which QEMU writes the memory of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Dump {
    /// As `dump-guest-memory` names it.
    pub format: &'static str,
    /// Whether the file says where memory is mapped.
    pub paging: bool,
}

/// What is left of a machine. Its RAM, and the dumps, go when this is dropped.
pub struct Run {
    pub boots: Vec<Boot>,
    ram: PathBuf,
    dumps: Vec<PathBuf>,
}

impl<'b> Machine<'b> {
    pub fn new(bench: &'b Bench, name: &'b str, kernel: &'b Path, cmdline: &str) -> Self {
        Self {
            bench,
            name,
            kernel,
            initrd: Vec::new(),
            cmdline: cmdline.to_owned(),
            devices: &[],
            instruction_time: false,
            dumps: &[],
            limit: Duration::from_secs(180),
        }
    }

    pub fn initrd(mut self, initrd: Vec<u8>) -> Self {
        self.initrd = initrd;
        self
    }

    /// Adds devices, as QEMU's `-device` takes them.
    pub fn devices(mut self, devices: &'b [&'b str]) -> Self {
        self.devices = devices;
        self
    }

    /// Lets an instruction take four nanoseconds of the machine's time, however long it takes here: so
    /// what a device does in the meantime does not depend on how busy the host is.
    pub fn instruction_time(mut self) -> Self {
        self.instruction_time = true;
        self
    }

    /// Has QEMU itself dump the machine's memory when it is off.
    pub fn dumps(mut self, dumps: &'b [Dump]) -> Self {
        self.dumps = dumps;
        self
    }

    /// Gives the machine more or less than three minutes, of which it needs seconds on an idle host.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs the machine until it is off. The serial line goes to the log of the scenario.
    pub fn run(self) -> Result<Run> {
        let Bench { arch, folder, .. } = self.bench;
        let file = |suffix: &str| folder.join(format!("{}-{arch}.{suffix}", self.name));
        let (log, ram, initrd) = (file("log"), file("ram"), file("initrd"));
        fs::write(&initrd, &self.initrd)?;
        let memory = format!(
            "memory-backend-file,id=ram,size={RAM},share=on,mem-path={}",
            ram.display()
        );
        let mut qemu = Command::new(arch.qemu());
        qemu.args(arch.machine())
            .args(["-object", &memory, "-m", RAM])
            .args(["-no-reboot", "-nodefaults", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", log.display()))
            .arg("-kernel")
            .arg(self.kernel)
            .args(["-append", &self.cmdline])
            .args(self.devices.iter().flat_map(|device| ["-device", device]))
            .args(["-no-shutdown", "-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if self.instruction_time {
            // Several processors would take turns, and Linux would wait for them.
            qemu.args(["-icount", "shift=2,sleep=off", "-smp", "1"]);
        }
        if !self.initrd.is_empty() {
            qemu.arg("-initrd").arg(&initrd);
        }
        // From here on the RAM is removed whatever happens.
        let mut run = Run {
            boots: Vec::new(),
            ram,
            dumps: (0..self.dumps.len())
                .map(|i| file(&format!("dump{i}")))
                .collect(),
        };
        let ended = self.wait(&mut qemu, &run.dumps);
        fs::remove_file(&initrd)?;
        let text = fs::read(&log).with_context(|| log.display().to_string())?;
        ended?;
        run.boots = serial::boots(&String::from_utf8_lossy(&text))?;
        Ok(run)
    }

    /// Waits until the machine is off, and takes the dumps.
    fn wait(&self, qemu: &mut Command, dumps: &[PathBuf]) -> Result<()> {
        let mut child = qemu.spawn().context("starting QEMU")?;
        let done = self.attend(&mut child, dumps);
        // It has nothing left to do.
        child.kill()?;
        child.wait()?;
        done
    }

    fn attend(&self, child: &mut Child, dumps: &[PathBuf]) -> Result<()> {
        let mut monitor = Monitor::new(child, self.limit)?;
        let off = monitor.wait_for("SHUTDOWN");
        off.with_context(|| format!("not off in {} s", self.limit.as_secs()))?;
        for (Dump { format, paging }, path) in self.dumps.iter().zip(dumps) {
            let protocol = format!("file:{}", path.display());
            let arguments = json!({ "protocol": protocol, "format": format, "paging": paging });
            monitor.execute("dump-guest-memory", arguments)?;
        }
        Ok(())
    }
}

impl Run {
    /// The RAM of the machine as it was at power-off.
    pub fn ram(&self) -> &Path {
        &self.ram
    }

    /// The dumps that were asked for, in that order.
    pub fn dumps(&self) -> &[PathBuf] {
        &self.dumps
    }

    /// The boot of this number, which `program` made.
    pub fn boot(&self, number: usize, program: &str) -> Result<&Boot> {
        let boot = self.boots.get(number);
        let boot = boot.with_context(|| format!("there were only {} boots", self.boots.len()))?;
        if boot.program() != program {
            bail!("boot {number} was {}, not {program}", boot.program());
        }
        Ok(boot)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Each is half a gigabyte; nobody misses it.
        for file in self.dumps.iter().chain([&self.ram]) {
            let _ = fs::remove_file(file);
        }
    }
}

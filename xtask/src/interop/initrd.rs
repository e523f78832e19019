//! Initial RAM disks: the guest's init, and what the scenario gives it.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use cpio::newc::{self, ModeFileType};

const FOLDERS: [&str; 5] = ["dev", "proc", "sys", "next", "boot"];

/// An archive in the making.
pub struct Initrd {
    archive: Vec<u8>,
    inode: u32,
}

impl Initrd {
    /// With the guest's init, and the folders that it needs.
    pub fn new(init: &Path) -> Result<Self> {
        let mut initrd = Self {
            archive: Vec::new(),
            inode: 0,
        };
        for folder in FOLDERS {
            initrd.add(folder, ModeFileType::Directory, &[])?;
        }
        let init = fs::read(init)?;
        initrd.file("init", &init)
    }

    /// With a file.
    pub fn file(mut self, name: &str, content: &[u8]) -> Result<Self> {
        self.add(name, ModeFileType::Regular, content)?;
        Ok(self)
    }

    /// With a kernel to jump to in `folder`, its RAM disk and its command line.
    pub fn kernel(self, folder: &str, kernel: &Path, initrd: &[u8], cmdline: &str) -> Result<Self> {
        let with = self
            .file(&format!("{folder}/kernel"), &fs::read(kernel)?)?
            .file(&format!("{folder}/cmdline"), cmdline.as_bytes())?;
        if initrd.is_empty() {
            return Ok(with);
        }
        with.file(&format!("{folder}/initrd"), initrd)
    }

    fn add(&mut self, name: &str, kind: ModeFileType, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let entry = newc::Builder::new(name)
            .ino(self.inode)
            .mode(0o755)
            .set_mode_file_type(kind);
        let mut writer = entry.write(&mut self.archive, content.len() as u32);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    /// The whole archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        newc::trailer(&mut self.archive)?;
        Ok(self.archive)
    }
}

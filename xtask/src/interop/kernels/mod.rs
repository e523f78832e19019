//! Linux kernels with KHO and LUO.

mod build;

use std::env;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::Result;
use lzma_rust2::XzReader;

use super::{arch::Arch, places};

/// The kernel of an architecture, uncompressed: from the folder that `KHO_KERNELS` names, or built.
pub fn find(arch: Arch, folder: &Path) -> Result<PathBuf> {
    let image = match arch {
        Arch::X86_64 => "x86_64.bzImage",
        Arch::Aarch64 => "arm64.Image",
    };
    let shelf = match env::var_os("KHO_KERNELS") {
        Some(shelf) => PathBuf::from(shelf),
        None => places::root()?.join("../shared/interop/kernels"),
    };
    let mut found = None;
    for entry in fs::read_dir(&shelf).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(image) {
            return Ok(path);
        }
        if name.ends_with(&format!("{image}.xz")) {
            found = Some(path);
        }
    }
    let Some(compressed) = found else {
        return build::build(arch, folder);
    };
    let path = folder.join(image);
    let mut from = XzReader::new(BufReader::new(File::open(compressed)?), true);
    io::copy(&mut from, &mut BufWriter::new(File::create(&path)?))?;
    Ok(path)
}

//! What the running Linux says of its memory, and of the handover that it took over.
//!
//! # Source
//! Linux `Documentation/ABI/testing/sysfs-kernel-boot_params` and `sysfs-firmware-ofw`;
//! `kernel/resource.c` for `/proc/iomem`.

use std::fs;
use std::path::Path;

use kho::abi::boot::{CHOSEN_KHO_FDT, CHOSEN_KHO_SCRATCH, KhoData, SETUP_KEXEC_KHO};
use kho::core::BootData;
use kho::hal::{PhysAddr, PhysRange};
use zerocopy::FromBytes;
use zerocopy::big_endian::U64;

/// The memory of the machine, as Linux gives it out.
pub const PATH: &str = "/dev/mem";

/// All RAM. Without the right to see addresses, Linux shows each as 0.
pub fn ram() -> Result<Vec<PhysRange>, String> {
    let path = "/proc/iomem";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let ram = parse_iomem(&text);
    if ram.is_empty() {
        return Err(format!("{path} shows no RAM: is this root?"));
    }
    Ok(ram)
}

fn parse_iomem(text: &str) -> Vec<PhysRange> {
    // Resources inside others are indented: only the outermost matter.
    let lines = text.lines().filter_map(|line| line.split_once(" : "));
    let ram = lines.filter(|&(_, name)| name == "System RAM");
    ram.filter_map(|(range, _)| {
        let (first, last) = range.split_once('-')?;
        let first = u64::from_str_radix(first, 16).ok()?;
        let size = u64::from_str_radix(last, 16).ok()?.checked_sub(first)?;
        let range = PhysRange::new(PhysAddr::new(first), size.checked_add(1)?)?;
        (size > 0).then_some(range)
    })
    .collect()
}

/// The four numbers that the predecessor passed.
pub fn boot_data() -> Result<BootData, String> {
    let found = setup_data(Path::new("/sys/kernel/boot_params/setup_data"));
    let found = found.or_else(|| chosen(Path::new("/sys/firmware/devicetree/base/chosen")));
    found.ok_or_else(|| "this Linux was not handed anything: no boot data names a handover".into())
}

fn setup_data(folder: &Path) -> Option<BootData> {
    for node in fs::read_dir(folder).ok()?.flatten() {
        let kind = fs::read_to_string(node.path().join("type")).ok()?;
        let kind = kind.trim().strip_prefix("0x")?;
        if u32::from_str_radix(kind, 16) == Ok(SETUP_KEXEC_KHO) {
            let data = fs::read(node.path().join("data")).ok()?;
            let (data, _) = KhoData::ref_from_prefix(&data).ok()?;
            return Some(BootData {
                fdt_addr: PhysAddr::new(data.fdt_addr.get()),
                fdt_size: data.fdt_size.get(),
                scratch_addr: PhysAddr::new(data.scratch_addr.get()),
                scratch_size: data.scratch_size.get(),
            });
        }
    }
    None
}

/// Both properties have two cells of address and two of size on every arm64 machine that Linux
/// hands over on.
fn chosen(folder: &Path) -> Option<BootData> {
    let pair = |name: &str| {
        let bytes = fs::read(folder.join(name)).ok()?;
        let pair = <[U64; 2]>::ref_from_bytes(&bytes).ok()?;
        Some(pair.map(U64::get))
    };
    let [fdt_addr, fdt_size] = pair(CHOSEN_KHO_FDT)?;
    let [scratch_addr, scratch_size] = pair(CHOSEN_KHO_SCRATCH)?;
    Some(BootData {
        fdt_addr: PhysAddr::new(fdt_addr),
        fdt_size,
        scratch_addr: PhysAddr::new(scratch_addr),
        scratch_size,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("kho-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    const FOUND: BootData = BootData {
        fdt_addr: PhysAddr::new(0x1234_5000),
        fdt_size: 0x1000,
        scratch_addr: PhysAddr::new(0x2_0000_0000),
        scratch_size: 16,
    };

    fn numbers() -> [u64; 4] {
        [0x1234_5000, 0x1000, 0x2_0000_0000, 16]
    }

    #[test]
    fn ram_is_what_is_outermost() {
        let text = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n\
                    00100000-3ffdffff : System RAM\n  01000000-01ffffff : Kernel code\n\
                    fec00000-fec003ff : IOAPIC 0\n";
        let ram: Vec<_> = parse_iomem(text).iter().map(PhysRange::to_string).collect();
        assert_eq!(ram, ["0x1000..0x9fc00", "0x100000..0x3ffe0000"]);
        assert!(parse_iomem("00000000-00000000 : System RAM\n").is_empty());
    }

    /// Whether this may see addresses or not.
    #[test]
    fn this_machine_has_ram_or_does_not_show_it() {
        match ram() {
            Ok(ram) => assert!(!ram.is_empty() && ram.iter().all(|range| !range.is_empty())),
            Err(why) => assert!(why.starts_with("/proc/iomem"), "{why}"),
        }
    }

    #[test]
    fn boot_data_of_both_architectures() {
        let x86 = folder("setup-data");
        for (name, kind, data) in [
            ("0", "0x2\n", vec![0; 48]),
            ("1", "0xa\n", numbers().map(u64::to_le_bytes).concat()),
        ] {
            fs::create_dir_all(x86.join(name)).unwrap();
            fs::write(x86.join(name).join("type"), kind).unwrap();
            fs::write(x86.join(name).join("data"), data).unwrap();
        }
        assert_eq!(setup_data(&x86), Some(FOUND));
        fs::remove_dir_all(x86.join("1")).unwrap();
        assert_eq!(setup_data(&x86), None);
        fs::remove_dir_all(x86).unwrap();

        let arm = folder("chosen");
        let bytes = numbers().map(u64::to_be_bytes).concat();
        fs::write(arm.join("linux,kho-fdt"), bytes.get(..16).unwrap()).unwrap();
        assert_eq!(chosen(&arm), None);
        fs::write(arm.join("linux,kho-scratch"), bytes.get(16..).unwrap()).unwrap();
        assert_eq!(chosen(&arm), Some(FOUND));
        fs::remove_dir_all(arm).unwrap();
    }
}

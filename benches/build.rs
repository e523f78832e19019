//! Compiles Linux's own functions for the tree of preserved memory, if `KHO_LINUX_SRC` names a
//! Linux source tree: a peer to be measured and compared with. Nothing of Linux is in this
//! repository; without the variable there is no such peer.
//!
//! The functions are static in a file that needs a whole kernel around it, so they are cut out of
//! it, from one known line to another, and put between a few definitions that stand for the kernel
//! (`linux/shim.h`) and what makes them callable from here (`linux/glue.c`).
#![allow(clippy::panic, reason = "a build script says what is wrong")]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// What is compiled: a file of Linux, and the first and the last line of each piece of it.
const PIECES: [(&str, &[(&str, &str)]); 5] = [
    (
        "include/linux/kho/abi/kexec_handover.h",
        &[
            ("enum kho_radix_consts {", "};"),
            ("struct kho_radix_node {", "};"),
            ("struct kho_radix_leaf {", "};"),
        ],
    ),
    (
        "include/linux/kho_radix_tree.h",
        &[
            ("struct kho_radix_tree {", "};"),
            ("struct kho_radix_walk_cb {", "};"),
        ],
    ),
    (
        "include/linux/find.h",
        &[("#define for_each_set_bit(", "\tfor (")],
    ),
    (
        "lib/find_bit.c",
        &[
            ("#define FIND_NEXT_BIT(", "})"),
            ("unsigned long _find_next_bit(", "}"),
        ],
    ),
    (
        "kernel/liveupdate/kexec_handover.c",
        &[(
            "static unsigned long kho_encode_radix_key(",
            "EXPORT_SYMBOL_GPL(kho_radix_walk_tree);",
        )],
    ),
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(linux_peer)");
    println!("cargo::rerun-if-env-changed=KHO_LINUX_SRC");
    println!("cargo::rerun-if-changed=linux");
    let Some(linux) = env::var_os("KHO_LINUX_SRC").map(PathBuf::from) else {
        return;
    };
    let mut source = String::from("#include \"shim.h\"\n");
    for (file, pieces) in PIECES {
        let path = linux.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = read(&path);
        for piece in pieces {
            cut(&text, piece, &path, &mut source);
        }
    }
    source.push_str("#include \"glue.c\"\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("linux_peer.c");
    if let Err(error) = fs::write(&out, source) {
        panic!("{}: {error}", out.display());
    }
    // As a kernel is compiled, as far as it matters here.
    cc::Build::new()
        .file(&out)
        .include("linux")
        .std("gnu11")
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        .flag("-fno-strict-overflow")
        .flag("-fno-delete-null-pointer-checks")
        .flag_if_supported("-mgeneral-regs-only")
        .warnings(false)
        .compile("linux_peer");
    println!("cargo::rustc-cfg=linux_peer");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Appends the lines of `text` from one that starts with `first` to the next that starts with
/// `last`.
fn cut(text: &str, (first, last): &(&str, &str), path: &Path, source: &mut String) {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(first));
    let Some(line) = lines.next() else {
        panic!("{}: no line starts with {first:?}", path.display());
    };
    source.push_str(line);
    source.push('\n');
    for line in lines {
        source.push_str(line);
        source.push('\n');
        if line.starts_with(last) {
            source.push('\n');
            return;
        }
    }
    panic!(
        "{}: no line after {first:?} starts with {last:?}",
        path.display()
    );
}

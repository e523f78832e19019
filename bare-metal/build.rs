//! Gives the linker the layout of the image.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg-bins=-T{folder}/image.ld");
    println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
    println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    // The standard library comes built for a fixed address; nothing is read-only yet when the
    // image relocates itself.
    println!("cargo::rustc-link-arg-bins=-znotext");
    println!("cargo::rerun-if-changed=image.ld");
}

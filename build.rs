//! Tells the linker that the injected library is never unloaded: its thread and its exit handler must keep their code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
}

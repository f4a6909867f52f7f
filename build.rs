//! How the injected library is linked.
//!
//! It comes into every process of a job, whatever those are linked with. So it must need nothing but a C library: not libgcc, whose part it takes in, and not the
//! loader by its file name. With either, a program of another C library (musl, as in Alpine's containers), where no such files are, would not start.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Never unloaded: its threads and its exit handlers must keep their code.
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu") && env::var("HOST").ok() == env::var("TARGET").ok() {
        link_with_libc_alone();
    }
}

/// Puts linker scripts in the place of the two libraries, for this library alone.
fn link_with_libc_alone() {
    let found = ["libc.so.6", "libc_nonshared.a", "libgcc_eh.a"].map(file);
    let ([Some(libc), Some(nonshared), Some(_)], Ok(out)) = (found, env::var("OUT_DIR")) else { return };
    let folder = Path::new(&out).join("link");
    let written = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("libc.so"), format!("GROUP ( {libc} {nonshared} )\n")))
        .and_then(|()| fs::write(folder.join("libgcc_s.so"), "INPUT ( -lgcc_eh -lgcc )\n"));
    if written.is_ok() {
        println!("cargo::rustc-link-arg-cdylib=-L{}", folder.display());
    }
}

/// Where the C compiler finds a file of its own or of the C library.
fn file(name: &str) -> Option<String> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&path).is_absolute().then_some(path)
}

//! Who this process is and where it runs: the evidence's first record.

use std::fs;

use sha2::{Digest, Sha256};

use super::config::Said;
use crate::{
    evidence::{
        hex,
        record::{FORMAT, Host, Process, Start},
    },
    foreign,
    process::{self, Folder, Stat},
    window::clock::unix_ns,
};

/// The first record, of a metered process or of a witness.
pub(crate) fn start(simulated: bool, witness: bool, said: &Said) -> Start {
    Start {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        simulated,
        witness,
        unix_ns: unix_ns(),
        host: host(),
        process: process(),
        configuration: said.settings.clone(),
        job: said.job.clone(),
    }
}

/// A name for the file, without its ending: no two processes of a run have the same.
pub(crate) fn file_name(start: &Start) -> String {
    let host: String = start.host.hostname.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("{host}-{}-{}", start.process.pid, start.process.start_ticks)
}

/// The kernel's own word: there need be no `/proc`.
fn host() -> Host {
    // SAFETY: all zeros is a utsname.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is ours.
    unsafe { libc::uname(&raw mut names) };
    // Each ends in NUL, if the kernel is what it should be.
    let text = |field: &[std::ffi::c_char]| {
        let bytes: Vec<u8> = field.iter().map(|c| c.to_ne_bytes()[0]).take_while(|b| *b != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Host { hostname: text(&names.nodename), boot_id: process::boot_id(), kernel: text(&names.release) }
}

fn process() -> Process {
    let own = Folder::own();
    let stat = own.stat();
    Process {
        pid: std::process::id(),
        pid_namespace: process::namespace(),
        ppid: stat.as_ref().and_then(Stat::parent).unwrap_or(0),
        start_ticks: stat.as_ref().and_then(Stat::start_ticks).unwrap_or(0),
        comm: own.name(),
        exe: fs::read_link("/proc/self/exe").map(|p| foreign::cut(&p.display().to_string())).unwrap_or_default(),
        cmdline_sha256: hex(&Sha256::digest(own.file("cmdline").unwrap_or_default())),
        // SAFETY: no preconditions.
        uid: unsafe { libc::getuid() },
    }
}

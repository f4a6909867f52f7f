//! NVIDIA's wheels, fetched with pip into `target/wheels` and kept there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Fetches a wheel (`name==version`) and unpacks it; returns the folder.
pub(crate) fn fetch(requirement: &str) -> PathBuf {
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let wheels = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/wheels");
    let folder = wheels.join(requirement.replace("==", "-"));
    if folder.join("complete").exists() {
        return folder;
    }
    let download = folder.join("download");
    fs::create_dir_all(&download).unwrap();
    run(Command::new("python3").args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(&download).arg(requirement));
    let wheel = fs::read_dir(&download).unwrap().next().expect("pip left no wheel").unwrap().path();
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).args([&wheel, &folder]));
    fs::remove_dir_all(download).unwrap();
    fs::write(folder.join("complete"), "").unwrap();
    folder
}

/// The file of that name below a folder.
pub(crate) fn find(folder: &Path, name: &str) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_name() == name {
                return entry.path();
            }
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    panic!("no {name} below {}", folder.display());
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

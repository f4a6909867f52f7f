//! Copies of the CUDA driver's library in use: found in the maps of processes, wherever these see their files, and read for where the probes go.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object, ObjectSegment, ObjectSymbol, read::ReadCache};

use super::entry::{ENTRIES, place};
use crate::foreign;

/// A file as the kernel knows it, whatever its name in which mount namespace: device and inode, as `/proc/*/maps` has them.
pub type FileId = (String, u64);

/// A copy of the driver's library, as a process has it mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The file.
    pub id: FileId,
    /// Its name, as that process sees it.
    pub path: String,
    /// Where the range in `/proc/PID/map_files` is: it leads to the file, also when that was replaced or deleted.
    pub range: String,
    /// The process.
    pub pid: u32,
}

/// What a process has mapped that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// Copies of the driver's library.
    pub drivers: Vec<Mapped>,
    /// Our library is in the process.
    pub metered: bool,
}

/// Looks into a process's maps; none where they cannot be read, or there are none (kernel threads).
#[must_use]
pub fn maps(pid: u32) -> Option<Maps> {
    let text = foreign::text(format!("/proc/{pid}/maps")).ok()?;
    (!text.is_empty()).then(|| parse(pid, &text))
}

fn parse(pid: u32, text: &str) -> Maps {
    let mut found = Maps::default();
    for line in text.lines() {
        let mut fields = line.splitn(6, ' ').map(str::trim);
        let (Some(range), Some(_), Some(_), Some(device), Some(inode), Some(path)) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let name = path.strip_suffix(" (deleted)").unwrap_or(path).rsplit('/').next().unwrap_or_default();
        found.metered |= name == "libflopsprof.so";
        if !is_driver(name) {
            continue;
        }
        let id = (device.to_owned(), inode.parse().unwrap_or(0));
        if id.1 != 0 && !found.drivers.iter().any(|m| m.id == id) {
            found.drivers.push(Mapped { id, path: path.to_owned(), range: range.to_owned(), pid });
        }
    }
    found
}

/// `libcuda.so`, `libcuda.so.1`, `libcuda.so.580.159.04`; not `libcudart.so`.
fn is_driver(name: &str) -> bool {
    name.strip_prefix("libcuda.so").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Mapped {
    /// Opens the very file that is mapped.
    ///
    /// # Errors
    /// What the kernel says; the process may be gone.
    pub fn open(&self) -> io::Result<File> {
        // Ranges may have leading zeros in maps, and have none in map_files.
        let range: Vec<&str> = self.range.split('-').map(|end| end.trim_start_matches('0')).collect();
        File::open(format!("/proc/{}/map_files/{}", self.pid, range.join("-"))).or_else(|e| {
            // Without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: by its name in the process's own root, if the name still stands for it.
            let file = File::open(Path::new(&format!("/proc/{}/root", self.pid)).join(self.path.trim_start_matches('/')))?;
            if file_id(&file).as_ref() == Some(&self.id) { Ok(file) } else { Err(e) }
        })
    }
}

/// A file's device and inode as `/proc/*/maps` has them. On layered file systems these are not what `stat` says, so the file is mapped for a moment: two ways to
/// one file must not get two probes.
#[must_use]
pub fn file_id(file: &File) -> Option<FileId> {
    // SAFETY: a new read-only mapping wherever there is room; it is taken away below, and nothing reads it.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 1, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return None;
    }
    let text = foreign::text("/proc/self/maps").unwrap_or_default();
    // SAFETY: the mapping that was just made.
    unsafe { libc::munmap(at, 1) };
    let line = text.lines().find(|l| l.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok()) == Some(at as usize))?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some(((*fields.get(3)?).to_owned(), fields.get(4)?.parse().ok()?))
}

/// Copies that the loader would take, before any process has one: along `LD_LIBRARY_PATH`, by the loader's cache, and where distributions and container tools
/// put them.
#[must_use]
pub fn installed() -> Vec<PathBuf> {
    let ours = std::env::var_os("LD_LIBRARY_PATH").map(|v| std::env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
    ];
    let folders = ours.into_iter().chain(usual.iter().map(PathBuf::from));
    let found = folders.map(|f| f.join("libcuda.so.1")).chain(cached());
    let mut real: Vec<PathBuf> = found.filter_map(|p| p.canonicalize().ok()).filter(|p| p.is_file()).collect();
    real.sort();
    real.dedup();
    real
}

/// What the loader's cache has.
fn cached() -> Vec<PathBuf> {
    let output = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].iter().find_map(|tool| Command::new(tool).arg("-p").output().ok());
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let lines = text.lines().filter(|l| l.trim_start().starts_with("libcuda.so.1 "));
    lines.filter_map(|l| Some(PathBuf::from(l.split_once("=> ")?.1.trim()))).collect()
}

/// Where a copy's probes go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    /// By entry point: offset in the file, and whether a probe is cheap there. Of names that stand for one place, the first.
    pub at: BTreeMap<u32, (u64, bool)>,
    /// It is the stand-in GPU's.
    pub simulated: bool,
}

/// Reads a library's symbols, and the first instruction at each entry point.
///
/// # Errors
/// What reading says; a file that is no library.
pub fn points(file: &File) -> io::Result<Points> {
    let mut code = file.try_clone()?;
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).map_err(io::Error::other)?;
    let segments: Vec<(u64, u64, u64)> = elf.segments().map(|s| (s.address(), s.file_range().0, s.file_range().1)).collect();
    let mut points = Points::default();
    let mut taken = std::collections::BTreeSet::new();
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for symbol in elf.dynamic_symbols().filter(ObjectSymbol::is_definition) {
        let Ok(name) = symbol.name() else { continue };
        points.simulated |= name == "flopsprof_stand_in";
        // With its version, where it has one.
        by_name.insert(name.split('@').next().unwrap_or(name), symbol.address());
    }
    for (number, (name, _)) in (0u32..).zip(ENTRIES) {
        let Some(address) = by_name.get(name) else { continue };
        let segment = segments.iter().find(|(start, _, size)| (*start..start + size).contains(address));
        let Some((start, offset, _)) = segment else { continue };
        let at = address - start + offset;
        let mut first = [0; 16];
        code.seek(SeekFrom::Start(at))?;
        let read = code.read(&mut first)?;
        let (skip, cheap) = place(&first[..read]);
        if taken.insert(at + skip) {
            points.at.insert(number, (at + skip, cheap));
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_tell_copies_apart() {
        let text = "7f00-7f10 r-xp 00000000 fe:01 77                         /usr/lib/libcuda.so.1\n\
                    7f10-7f20 r--p 00001000 fe:01 77                         /usr/lib/libcuda.so.1\n\
                    0abc-0def r-xp 00000000 00:2a 9                          /opt/with space/libcuda.so.580.1 (deleted)\n\
                    7f20-7f30 r-xp 00000000 fe:01 78                         /usr/lib/libcudart.so.12\n\
                    7f30-7f40 rw-p 00000000 00:00 0 \n\
                    7f40-7f50 r-xp 00000000 fe:01 79                         /opt/libflopsprof.so\n";
        let maps = parse(5, text);
        assert!(maps.metered);
        let ids: Vec<_> = maps.drivers.iter().map(|m| (m.id.0.as_str(), m.id.1, m.path.as_str())).collect();
        assert_eq!(ids, [("fe:01", 77, "/usr/lib/libcuda.so.1"), ("00:2a", 9, "/opt/with space/libcuda.so.580.1 (deleted)")]);
        assert_eq!(maps.drivers[1].range, "0abc-0def");
    }
}

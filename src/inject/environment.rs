//! The program's environment, read while the program may be changing it.
//!
//! `setenv` moves the table under whoever reads it, and a reader that comes at the wrong moment follows a pointer that is none: the C library's `getenv`, and with
//! it the standard library's, end in a SIGSEGV then. So the environment is read once, when CUDA starts, through a pipe: the kernel copies what is there, and answers
//! with an error where nothing is. What is read may be torn; it is never fatal.
//!
//! Before it was read, and where it cannot be, the functions here are the standard library's.

use std::{
    cell::Cell,
    collections::BTreeMap,
    env::VarError,
    ffi::{OsStr, OsString, c_char},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    ptr,
    sync::{Mutex, PoisonError},
};

use super::apart;

/// What was read.
static READ: Mutex<Option<BTreeMap<OsString, OsString>>> = Mutex::new(None);

/// The most variables, and bytes of one, that are read: the kernel's own limits.
const MOST_VARIABLES: usize = 1 << 16;
const MOST_BYTES: usize = 128 << 10;
/// A block that is read at once never reaches into the next page, which may not be there.
const PAGE: usize = 4096;

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

/// Reads it now.
pub(super) fn read() {
    // SAFETY: a word of the C library's, which is read as it is at this moment.
    let table = || unsafe { ptr::read_volatile(&raw const environ) } as usize;
    let variables = apart::run(move || {
        // A table that was moved meanwhile is read again, a few times.
        (0..4).find_map(|_| {
            let (memory, at) = (Memory::new()?, table());
            let variables = memory.variables(at)?;
            (table() == at && !memory.broken.get()).then_some(variables)
        })
    });
    *READ.lock().unwrap_or_else(PoisonError::into_inner) = variables.flatten();
}

/// As [`std::env::var_os`].
pub(super) fn var_os(name: impl AsRef<OsStr>) -> Option<OsString> {
    match &*READ.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(read) => read.get(name.as_ref()).cloned(),
        None => std::env::var_os(name),
    }
}

/// As [`std::env::var`].
pub(super) fn var(name: impl AsRef<OsStr>) -> Result<String, VarError> {
    var_os(name).ok_or(VarError::NotPresent)?.into_string().map_err(VarError::NotUnicode)
}

/// As [`std::env::vars_os`].
pub(super) fn vars_os() -> Vec<(OsString, OsString)> {
    match &*READ.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(read) => read.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        None => std::env::vars_os().collect(),
    }
}

/// As [`std::env::temp_dir`].
pub(super) fn temp_dir() -> PathBuf {
    var_os("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

/// This process's memory, seen through a pipe.
struct Memory {
    read: OwnedFd,
    write: OwnedFd,
    /// The pipe failed: what came out of it is nothing to go by.
    broken: Cell<bool>,
}

impl Memory {
    fn new() -> Option<Self> {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return None;
        }
        // SAFETY: descriptors that were just made, owned by nobody else.
        unsafe { Some(Self { read: OwnedFd::from_raw_fd(ends[0]), write: OwnedFd::from_raw_fd(ends[1]), broken: Cell::new(false) }) }
    }

    /// What stands at an address, up to so many bytes and the end of its page.
    fn at(&self, address: usize, bytes: usize) -> Option<Vec<u8>> {
        let mut block = vec![0; bytes.min(PAGE - address % PAGE)];
        // SAFETY: the kernel looks whether there is anything at the address.
        let written = unsafe { libc::write(self.write.as_raw_fd(), address as *const _, block.len()) };
        if written < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) {
            return None;
        }
        block.truncate(usize::try_from(written).unwrap_or(0));
        // SAFETY: the block is as long as said.
        let read = unsafe { libc::read(self.read.as_raw_fd(), block.as_mut_ptr().cast(), block.len()) };
        if read <= 0 || read != written {
            self.broken.set(true);
            return None;
        }
        Some(block)
    }

    /// The text at an address.
    fn text(&self, address: usize) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < MOST_BYTES {
            let block = self.at(address.checked_add(text.len())?, 512)?;
            if let Some(end) = block.iter().position(|b| *b == 0) {
                text.extend_from_slice(&block[..end]);
                return Some(text);
            }
            text.extend_from_slice(&block);
        }
        None
    }

    /// The variables of a table. What is none is left out.
    fn variables(&self, table: usize) -> Option<BTreeMap<OsString, OsString>> {
        let mut variables = BTreeMap::new();
        for n in 0..MOST_VARIABLES {
            let entry = self.at(table.checked_add(n * size_of::<usize>())?, size_of::<usize>())?;
            let address = usize::from_ne_bytes(entry.try_into().ok()?);
            if address == 0 {
                return Some(variables);
            }
            let Some(text) = self.text(address) else { continue };
            if let Some(equals) = text.iter().position(|b| *b == b'=').filter(|at| *at > 0) {
                let (name, value) = (text[..equals].to_vec(), text[equals + 1..].to_vec());
                // Of two with one name the first counts, as for `getenv`.
                variables.entry(OsString::from_vec(name)).or_insert(OsString::from_vec(value));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_standard_library_reads() {
        // SAFETY: a word of the C library's.
        let table = unsafe { ptr::read_volatile(&raw const environ) } as usize;
        let read = Memory::new().and_then(|m| m.variables(table)).expect("an environment");
        let mut own: BTreeMap<OsString, OsString> = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            own.entry(name).or_insert(value);
        }
        assert_eq!(read, own);
    }

    #[test]
    fn memory_that_is_not_there_is_no_end() {
        let memory = Memory::new().expect("a pipe");
        assert_eq!((memory.text(8), memory.variables(8), memory.variables(usize::MAX)), (None, None, None));
        let torn = [8usize, 0];
        assert_eq!(memory.variables(torn.as_ptr() as usize), Some(BTreeMap::new()));
    }
}

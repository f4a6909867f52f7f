//! Brings a libcupti into the process, or finds the one that is there.

use std::{
    ffi::CStr,
    fmt,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library as UnixLibrary, RTLD_LAZY, RTLD_LOCAL};

use super::Functions;

/// glibc's `RTLD_NOLOAD`: answer only with what is in the process already.
const RTLD_NOLOAD: i32 = 4;

/// A libcupti in this process. It stays loaded for ever: threads of the host may be inside it at any time.
#[derive(Clone, Copy, Debug)]
pub struct Cupti {
    pub(crate) functions: Functions,
}

/// Why a library could not be loaded.
#[derive(Debug)]
pub struct LoadError {
    /// What was asked for.
    pub path: PathBuf,
    /// What the loader said.
    pub why: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for LoadError {}

impl Cupti {
    /// Loads a copy by its path or by the loader's search path.
    ///
    /// libcupti finds `libnvperf_host.so` by bare name and has no run path of its own: the copy that lies beside it is loaded first, so that
    /// the two belong together whatever `LD_LIBRARY_PATH` says.
    ///
    /// # Errors
    /// [`LoadError`] with the loader's words.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            for companion in ["libnvperf_host.so", "libnvperf_target.so"] {
                let companion = folder.join(companion);
                if companion.exists() {
                    // Its absence or failure shows later, in what CUPTI answers.
                    let _ = open(&companion, RTLD_LAZY | RTLD_LOCAL).map(std::mem::forget);
                }
            }
        }
        open(path, RTLD_LAZY | RTLD_LOCAL).map(Self::keep)
    }

    /// The copy of that name that is in the process already; none if there is none.
    #[must_use]
    pub fn loaded(name: &Path) -> Option<Self> {
        open(name, RTLD_LAZY | RTLD_NOLOAD).ok().map(Self::keep)
    }

    fn keep(library: UnixLibrary) -> Self {
        let library = libloading::Library::from(library);
        let functions = Functions::resolve(&library);
        std::mem::forget(library);
        Self { functions }
    }

    /// Whether this is the stand-in GPU of flopsprof's tests, which says so by a symbol.
    #[must_use]
    pub fn is_stand_in(&self) -> bool {
        self.functions.stand_in
    }

    /// The file that a copy's code lies in, as the loader names it.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let function = self.functions.get_version?;
        // SAFETY: all zeros is a Dl_info.
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: any address may be asked for; the answer goes into a struct of ours.
        if unsafe { libc::dladdr(function as *const std::ffi::c_void, &raw mut info) } == 0 || info.dli_fname.is_null() {
            return None;
        }
        // SAFETY: the loader's own string, which lives as long as the library: for ever here.
        let name = unsafe { CStr::from_ptr(info.dli_fname) };
        Some(PathBuf::from(name.to_string_lossy().into_owned()))
    }
}

/// A handle of a library that is in the process already.
pub(crate) fn loaded(path: &Path) -> Option<libloading::Library> {
    open(path, RTLD_LAZY | RTLD_NOLOAD).ok().map(Into::into)
}

fn open(path: &Path, flags: i32) -> Result<UnixLibrary, LoadError> {
    // SAFETY: a library's initialisers run; libcupti's and its companions' do nothing that the framework's own loading would not do.
    unsafe { UnixLibrary::open(Some(path), flags) }.map_err(|e| LoadError { path: path.to_owned(), why: e.to_string() })
}

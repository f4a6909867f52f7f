//! Has the report written, by the command that lies beside this library.
//!
//! The library counts and appends, and nothing else: it reads no evidence and makes no report. It starts `flopsprof report --write` twice: when the first window
//! is in the evidence, as a watcher that writes now and then, and once more when this process is gone, however it ended; and at the drain, because in a container
//! nothing outlives the first process. Where the command is not there, nothing is started and nothing is said.
//!
//! **The program must not notice.** A child of ours would come up in its `wait()`, and as `SIGCHLD` in its handlers. So there is a process in between, which is
//! cloned without an exit signal: `wait()` does not see such a child, no signal is sent, and it lives for the moment that the command needs to be executed
//! (an `exec` would give it `SIGCHLD` back). The command is then an orphan, as every daemon is, with no descriptor, no signal mask and no handler
//! of the program's. Memory is shared until then, as `posix_spawn` does it: nothing is copied, however large the program is.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    ptr,
    time::Duration,
};

use super::{config, environment};

/// Longest that the drain waits for the report. A run of one node takes some 20 ms; one of thousands of ranks is left to the watcher.
const PATIENCE: Duration = Duration::from_secs(2);
/// Stack of a process that does a dozen system calls.
const STACK: usize = 64 << 10;
/// Variables that would bring this library, or another tool, into the command.
const REMOVED: [&str; 3] = ["LD_PRELOAD", "LD_AUDIT", "CUDA_INJECTION64_PATH"];

/// The command, ready to be started.
pub(super) struct Reporter {
    command: CString,
    environment: Vec<CString>,
    /// Whether this process is the one of its node that starts the watcher.
    watches: bool,
    started: bool,
}

impl Reporter {
    /// The command beside the library; none where there is none, or the user wants none. Called on the program's thread, where its environment can be read.
    pub(super) fn find(library: &Path) -> Option<Self> {
        if environment::var(config::REPORT).is_ok_and(|v| v.trim() == "0") {
            return None;
        }
        let library = library.canonicalize().ok()?;
        let folder = library.parent()?;
        let command = [folder.join("flopsprof"), folder.join("../bin/flopsprof")].iter().find_map(|p| executable(p))?;
        let kept = environment::vars_os().into_iter().filter(|(n, _)| !REMOVED.iter().any(|r| n == r));
        let mut environment: Vec<CString> =
            kept.filter_map(|(name, value)| CString::new([name.into_vec(), vec![b'='], value.into_vec()].concat()).ok()).collect();
        environment.push(CString::from(c"FLOPSPROF_DISABLE=1"));
        Some(Self { command, environment, watches: config::first_of_node() && !adopts_orphans(), started: false })
    }

    /// The first window is in the evidence: starts the watcher, once.
    pub(super) fn window(&mut self, folder: &Path) {
        if self.watches && !std::mem::replace(&mut self.started, true) {
            let pid = std::process::id().to_string();
            let _ = self.start(&["report", "--write", "--unattended", "--watch", &pid], folder);
        }
    }

    /// The evidence is complete: has the report written, and waits for it a while.
    pub(super) fn last(&self, folder: &Path) {
        if let Some(end) = self.start(&["report", "--write", "--unattended"], folder) {
            let mut poll = libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let patience = c_int::try_from(PATIENCE.as_millis()).unwrap_or(0);
            // SAFETY: one descriptor of ours, which lives until the call is over.
            unsafe { libc::poll(&raw mut poll, 1, patience) };
        }
    }

    /// Starts the command with a folder; the descriptor ends when the command does.
    fn start(&self, args: &[&str], folder: &Path) -> Option<OwnedFd> {
        let args: Vec<CString> = args.iter().filter_map(|a| CString::new(*a).ok()).collect();
        let folder = CString::new(folder.as_os_str().as_bytes()).ok()?;
        let argv: Vec<*const c_char> =
            [self.command.as_ptr()].into_iter().chain(args.iter().map(|a| a.as_ptr())).chain([folder.as_ptr(), ptr::null()]).collect();
        let envp: Vec<*const c_char> = self.environment.iter().map(|v| v.as_ptr()).chain([ptr::null()]).collect();
        let (read, write) = pipe()?;
        let mut stacks = [vec![0u128; STACK / 16], vec![0u128; STACK / 16]];
        let [outer, inner] = &mut stacks;
        let mut call =
            Call { command: self.command.as_ptr(), argv: argv.as_ptr(), envp: envp.as_ptr(), end: write.as_raw_fd(), stack: top(inner) };
        // SAFETY: the stack is ours and this thread waits (CLONE_VFORK) until the child has ended; so does all that `call` points to. No signal can reach
        // the child: all are masked on this thread. Exit signal 0: see the module's words.
        let child = unsafe { libc::clone(between, top(outer), libc::CLONE_VM | libc::CLONE_VFORK, (&raw mut call).cast()) };
        if child <= 0 {
            return None;
        }
        // SAFETY: our own child, which has ended; children without an exit signal are waited for with __WCLONE.
        unsafe { libc::waitpid(child, ptr::null_mut(), libc::__WCLONE) };
        Some(read)
    }
}

/// Whether orphans become this process's children: the first process of a container, or one that asked for them. A watcher would come up in its `wait()`.
fn adopts_orphans() -> bool {
    let mut asked: c_int = 0;
    // SAFETY: the answer goes into an integer of ours.
    let known = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut asked) } == 0;
    std::process::id() == 1 || (known && asked != 0)
}

fn executable(path: &Path) -> Option<CString> {
    let path: PathBuf = path.canonicalize().ok()?;
    let path = CString::new(path.into_os_string().into_vec()).ok()?;
    // SAFETY: the string ends in NUL.
    (unsafe { libc::access(path.as_ptr(), libc::X_OK) } == 0).then_some(path)
}

/// A pipe away from the standard streams, which the program may have closed.
fn pipe() -> Option<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: descriptors that were just made, owned by nobody else.
    let ends = unsafe { [OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])] };
    let away = |end: &OwnedFd| {
        // SAFETY: a descriptor of ours.
        let fd = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) };
        // SAFETY: a descriptor that was just made, owned by nobody else.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    Some((away(&ends[0])?, away(&ends[1])?))
}

/// What the two processes need; they must not allocate.
struct Call {
    command: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// Held by the command until it ends.
    end: c_int,
    stack: *mut c_void,
}

/// The upper end of a stack, which grows downwards.
fn top(stack: &mut [u128]) -> *mut c_void {
    stack.as_mut_ptr_range().end.cast()
}

/// The process in between: starts the command and ends.
extern "C" fn between(call: *mut c_void) -> c_int {
    // SAFETY: the caller's `Call`, which lives until this process has ended; this one waits in turn until the command is executed or has failed.
    unsafe {
        let stack = (*call.cast::<Call>()).stack;
        libc::clone(command, stack, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, call);
    }
    0
}

/// The process that becomes the command. Only system calls from here on.
extern "C" fn command(call: *mut c_void) -> c_int {
    // SAFETY: as in `between`; every call takes numbers, constants or strings of the caller's. Handlers go before the mask: none of the program's may run here.
    unsafe {
        let call = &*call.cast::<Call>();
        for signal in 1..=64 {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &raw mut action) == 0 && action.sa_sigaction != libc::SIG_IGN {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
        libc::setsid();
        // What it writes is for nobody else to write, whatever the program's umask is.
        libc::umask(0o022);
        // Folders of the program's must not be kept from being unmounted.
        libc::chdir(c"/".as_ptr());
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        libc::dup2(call.end, 3);
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(call.command, call.argv, call.envp);
    }
    127
}

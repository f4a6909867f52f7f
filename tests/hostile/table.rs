//! The hosts: what each is called, and what the meter is to make of it.

/// What must stand in the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Everything that ran, in files that say that they ended. Less what a machine that is busy with other tests lets slip at a boundary: where it is exact is for
    /// the tests of the meter to say.
    Whole,
    /// A part of it, never more.
    Part,
    /// Whatever is there can be read, and is never more than what ran.
    Any,
    /// Nothing: there was nothing to meter.
    Nothing,
}

use Want::{Any, Nothing, Part, Whole};

/// A host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) program: &'static str,
    pub(crate) how: &'static str,
    pub(crate) want: Want,
    /// Only root can be such a host.
    pub(crate) root: bool,
}

const fn host(program: &'static str, how: &'static str, want: Want) -> Host {
    Host { program, how, want, root: false }
}

const fn root(how: &'static str, want: Want) -> Host {
    Host { program: "identity", how, want, root: true }
}

/// All that are programs of C, linked as usual.
pub(crate) const HOSTS: &[Host] = &[
    host("ends", "return", Whole),
    host("ends", "exit", Whole),
    host("ends", "exit-in-handler", Whole),
    host("ends", "_exit", Whole),
    host("ends", "_Exit", Whole),
    host("ends", "syscall", Part),
    host("ends", "quick_exit", Whole),
    host("ends", "abort", Part),
    host("ends", "segv", Part),
    host("ends", "segv-handled", Part),
    host("ends", "fpe", Part),
    host("ends", "sigterm", Part),
    host("ends", "sigterm-handled", Part),
    host("ends", "sigterm-exits", Part),
    host("ends", "sigterm-_exits", Part),
    host("ends", "sigkill", Part),
    host("ends", "exit-in-thread", Whole),
    host("ends", "exit-amid-launches", Part),
    host("ends", "main-thread-leaves", Whole),
    host("ends", "nameless-main-thread-leaves", Whole),
    host("ends", "closed-streams", Whole),
    host("processes", "fork-before", Whole),
    host("processes", "fork-after", Whole),
    host("processes", "fork-after-many", Whole),
    host("processes", "double-fork", Whole),
    host("processes", "traced", Whole),
    host("processes", "exec", Part),
    host("processes", "exec-memory", Part),
    host("processes", "exec-without-environment", Nothing),
    host("processes", "vfork", Whole),
    host("processes", "posix_spawn", Part),
    host("processes", "raw-clone", Whole),
    host("processes", "shells", Whole),
    host("processes", "sigchld-ignored", Whole),
    host("processes", "sigchld-handled", Whole),
    host("processes", "wait-any", Whole),
    host("processes", "subreaper", Whole),
    host("processes", "session", Whole),
    host("descriptors", "plain", Whole),
    host("descriptors", "stderr-closed", Whole),
    host("descriptors", "stderr-reused", Whole),
    host("descriptors", "streams-reused", Whole),
    host("descriptors", "stderr-broken", Whole),
    host("descriptors", "exec-with-broken-stderr", Whole),
    host("descriptors", "exec-with-full-stderr", Whole),
    host("descriptors", "all-closed", Whole),
    host("descriptors", "all-ranges-closed", Whole),
    host("descriptors", "all-replaced", Whole),
    host("descriptors", "closes-while-it-works", Whole),
    host("descriptors", "few", Whole),
    host("descriptors", "inherited", Whole),
    host("descriptors", "locked", Whole),
    host("descriptors", "pipe-ends", Whole),
    host("limits", "address-space", Whole),
    host("limits", "no-memory", Any),
    host("limits", "file-size", Any),
    host("limits", "file-size-handled", Any),
    host("limits", "stack", Whole),
    host("limits", "memory-locked", Any),
    host("limits", "no-core", Whole),
    host("limits", "no-threads", Nothing),
    host("limits", "no-unsharing", Whole),
    host("limits", "no-table-of-its-own", Whole),
    host("limits", "sandboxed-late", Part),
    host("limits", "no-permissions-by-default", Whole),
    host("limits", "all-permissions-by-default", Whole),
    host("limits", "folder-is-gone", Whole),
    host("limits", "large-environment", Whole),
    host("limits", "no-environment", Any),
    host("threads", "small-stacks", Whole),
    host("threads", "churn", Whole),
    host("threads", "cancelled", Whole),
    host("threads", "cancelled-at-start", Any),
    host("threads", "environment-changes", Whole),
    host("threads", "alternate-stack", Whole),
    host("threads", "timers", Whole),
    host("threads", "one-thread-takes-signals", Whole),
    host("threads", "stopped", Whole),
    host("begins", "plainly", Whole),
    host("begins", "in-an-initialiser", Whole),
    host("begins", "forks-meanwhile", Whole),
    host("contexts", "ten-thousand", Whole),
    host("contexts", "ten-thousand-alone", Any),
    host("contexts", "retained-and-released", Whole),
    host("contexts", "reset-often", Any),
    host("contexts", "reset-at-the-end", Part),
    host("contexts", "closed-and-opened", Whole),
    root("nobody-before", Whole),
    root("nobody-after", Whole),
    root("nobody-in-a-thread", Whole),
    root("effective", Whole),
    root("chroot-before", Any),
    root("chroot-after", Whole),
    root("no-proc", Whole),
    root("no-proc-later", Whole),
    root("read-only", Any),
    root("no-shared-memory", Whole),
    root("not-dumpable", Whole),
    root("no-new-privileges", Whole),
    root("first-of-its-namespace", Whole),
    root("own-file-table", Whole),
    Host { program: "limits", how: "no-processes", want: Nothing, root: true },
];

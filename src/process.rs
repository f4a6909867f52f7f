//! What `/proc` says of a process and its threads, read in one way by whoever asks.
//!
//! A process names itself as it likes, may end between two looks, and leaves its id to another: with its start and the machine's boot the id names it for ever. Where
//! there is no `/proc`, or another's is hidden, nothing is said.

use std::{fs, io, path::PathBuf};

use crate::foreign;

/// The first namespace of process ids has this number on every machine (`PROC_PID_INIT_INO`).
pub const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The folder of a process, or of a thread of one.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// The line in `stat`.
#[derive(Clone, Debug)]
pub struct Stat(String);

/// The lines in `status`.
#[derive(Clone, Debug)]
pub struct Status(String);

/// The machine's boot: clocks and starts of processes of the same one can be compared. Empty where nothing says it.
#[must_use]
pub fn boot_id() -> String {
    foreign::line("/proc/sys/kernel/random/boot_id")
}

/// The number of the namespace that this process's id is of; none where nothing says it.
#[must_use]
pub fn namespace() -> Option<u64> {
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    name.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// All processes that are seen from here.
pub fn all() -> impl Iterator<Item = u32> {
    numbers(PathBuf::from("/proc")).flatten()
}

/// What names the entries of a folder, if it is a number; nothing stands for one that is none or was not told, and for all of a folder that cannot be read.
fn numbers(folder: PathBuf) -> impl Iterator<Item = Option<u32>> {
    let (entries, unread) = match fs::read_dir(folder) {
        Ok(entries) => (Some(entries), None),
        Err(_) => (None, Some(None)),
    };
    entries.into_iter().flatten().map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).chain(unread)
}

impl Folder {
    /// This process's own, also where its `/proc` is of another namespace.
    #[must_use]
    pub fn own() -> Self {
        Self(PathBuf::from("/proc/self"))
    }

    /// A process's.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}")))
    }

    /// That of one of its threads.
    #[must_use]
    pub fn thread(&self, id: u32) -> Self {
        Self(self.0.join(format!("task/{id}")))
    }

    /// The ids of its threads; none in place of those that were not told.
    pub fn threads(&self) -> impl Iterator<Item = Option<u32>> + use<> {
        numbers(self.0.join("task"))
    }

    /// Its `stat`; none when it is gone.
    #[must_use]
    pub fn stat(&self) -> Option<Stat> {
        foreign::text(self.0.join("stat")).ok().map(Stat)
    }

    /// Its `status`; none when it is gone.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        foreign::text(self.0.join("status")).ok().map(Status)
    }

    /// The first line of its name; empty when it is gone.
    #[must_use]
    pub fn name(&self) -> String {
        foreign::line(self.0.join("comm"))
    }

    /// The bytes of another of its files.
    ///
    /// # Errors
    /// What the kernel says: it is gone, or another user's.
    pub fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        foreign::bytes(self.0.join(name))
    }
}

impl Stat {
    /// Its name, which may hold anything, parentheses, blanks and newlines too: what follows the last parenthesis is field 3 on.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(self.0.rsplit_once(')')?.0.split_once('(')?.1)
    }

    /// A field by the number that proc(5) gives it, of those behind the name.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.rsplit_once(')')?.1.split_whitespace().nth(number - 3)
    }

    /// Whether it has ended, and is only kept until its parent asks for it, or the process ends.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.field(3), Some("Z" | "X"))
    }

    /// The parent's id.
    #[must_use]
    pub fn parent(&self) -> Option<u32> {
        self.field(4)?.parse().ok()
    }

    /// When it started, in clock ticks after boot.
    #[must_use]
    pub fn start_ticks(&self) -> Option<u64> {
        self.field(22)?.parse().ok()
    }
}

impl Status {
    /// The words of a line. The kernel writes the newlines of a name as `\n` here: it makes no lines.
    fn words(&self, line: &str) -> Option<impl DoubleEndedIterator<Item = &str>> {
        Some(self.0.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?.split_whitespace())
    }

    /// Its id in its innermost namespace, which is the one that it knows itself by.
    #[must_use]
    pub fn own_pid(&self) -> Option<u32> {
        self.words("NSpid")?.next_back()?.parse().ok()
    }

    /// The user that it is run by.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.words("Uid")?.next()?.parse().ok()
    }

    /// The capabilities that are in effect.
    #[must_use]
    pub fn capabilities(&self) -> Option<u64> {
        u64::from_str_radix(self.words("CapEff")?.next()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        process::{Command, id},
        sync::mpsc,
        time::{Duration, Instant},
    };

    use tempfile::TempDir;

    use super::*;

    const REST: &str = " S 3 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0 18446744073709551615\n";

    /// A folder with such files in it.
    fn folder(stat: &[u8], status: &[u8]) -> (TempDir, Folder) {
        let place = tempfile::tempdir().expect("a folder");
        fs::write(place.path().join("stat"), stat).expect("a file");
        fs::write(place.path().join("status"), status).expect("a file");
        let folder = Folder(place.path().to_owned());
        (place, folder)
    }

    fn said(stat: &Stat) -> (bool, Option<u32>, Option<u64>) {
        (stat.has_ended(), stat.parent(), stat.start_ticks())
    }

    #[test]
    fn whatever_a_name_holds_the_fields_are_those_behind_it() {
        let names: [&[u8]; 10] =
            [b"sleep", b"", b" ", b")", b"(", b"a) b (c", b") Z 1 2 3", b"7 (x) X 1", b"a\nUid: 7\n) Z", b"sl\xff\xfeep"];
        for name in names {
            let (_place, folder) = folder(&[b"7 (", name, b")", REST.as_bytes()].concat(), b"");
            let stat = folder.stat().expect("a file");
            assert_eq!(said(&stat), (false, Some(3), Some(4711)), "{stat:?}");
            assert_eq!(stat.name(), Some(&*String::from_utf8_lossy(name)));
        }
        for (state, ended) in [("R", false), ("D", false), ("T", false), ("Z", true), ("X", true), ("Zebra", false), ("", false)] {
            assert_eq!(Stat(format!("7 (Z) {state} 3 7")).has_ended(), ended, "{state}");
        }
    }

    /// The kernel itself, with names that a program gave its threads.
    #[test]
    fn a_thread_cannot_say_of_itself_what_the_kernel_says() {
        for name in ["a) Z 1 (b", "a\nUid:\t7\t7", "NSpid:\t7", ") ) X 7 7 7", "\n"] {
            let (tell, told) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            let named = std::thread::Builder::new().name(name.to_owned());
            let body = move || {
                // SAFETY: no preconditions.
                let sent = tell.send(unsafe { libc::gettid() }.cast_unsigned());
                ended.recv().is_err() && sent.is_ok()
            };
            let thread = named.spawn(body).expect("a thread");
            let own = Folder::own();
            let seen = own.thread(told.recv().expect("its id"));
            let (stat, status) = (seen.stat().expect("its line"), seen.status().expect("its lines"));
            assert_eq!((stat.name(), seen.name().as_str()), (Some(name), name.lines().next().unwrap_or_default()));
            let (process, whole) = (own.stat().expect("its line"), own.status().expect("its lines"));
            assert_eq!((stat.has_ended(), stat.parent()), (false, process.parent()));
            assert!(stat.start_ticks() >= process.start_ticks(), "{stat:?}");
            // SAFETY: no preconditions.
            assert_eq!((status.uid(), status.capabilities()), (Some(unsafe { libc::getuid() }), whole.capabilities()));
            assert_ne!(status.own_pid(), Some(7));
            drop(end);
            assert!(thread.join().expect("no panic"));
        }
    }

    /// Cut at any byte, nothing is made up of what is not there.
    #[test]
    fn what_is_cut_off_says_what_is_left_of_it() {
        let whole = format!("7 (a) b (c){REST}");
        for end in 0..whole.len() {
            let stat = Stat(whole[..end].to_owned());
            let (fields, left) = (whole[..end].strip_prefix("7 (a) b (c)").unwrap_or_default(), said(&stat));
            assert!(!left.0 && left.1.is_none_or(|p| p == 3), "{stat:?}");
            assert_eq!(left.2.is_some(), fields.split_whitespace().count() >= 20, "{stat:?}");
        }
        let (_place, folder) = folder(b"", b"Name:\tx\nNSpid:\t\nUid:\nCapEff");
        let status = folder.status().expect("a file");
        assert_eq!((folder.stat().map(|s| said(&s)), status.own_pid(), status.uid()), (Some((false, None, None)), None, None));
        assert_eq!(status.capabilities(), None);
    }

    #[test]
    fn lines_are_found_by_their_whole_names() {
        let (_place, folder) = folder(
            b"",
            b"Name:\ta\\nUid:\t7\nXUid:\t8\nUids:\t9\nUid:\t1000\t1001\t1002\t1003\nNSpid:\t4711\t17\t1\nCapEff:\t000001ffffffffff\nUid:\t5\n",
        );
        let status = folder.status().expect("a file");
        assert_eq!((status.uid(), status.own_pid(), status.capabilities()), (Some(1000), Some(1), Some(0x1ff_ffff_ffff)));
    }

    #[test]
    fn garbage_says_nothing() {
        let all: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
        let kinds: [&[u8]; 6] = [
            b"",
            &all,
            &[b')'; 1 << 20],
            &[b'\n'; 1 << 20],
            b"7 (x) 99999999999999999999999999 -3 0x7 NSpid:\nUid:\t-1\nNSpid:\t4294967296\nCapEff:\tno\n",
            b"7 (x) Y -1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 18446744073709551616 0\n",
        ];
        for kind in kinds {
            let (_place, folder) = folder(kind, kind);
            let status = folder.status().expect("a file");
            let stat = folder.stat().expect("a file");
            assert_eq!(said(&stat), (false, None, None), "{:.100}", stat.0);
            assert_eq!((status.uid(), status.own_pid(), status.capabilities()), (None, None, None), "{:.100}", status.0);
        }
        // No end, no file, no folder.
        let place = tempfile::tempdir().expect("a folder");
        symlink("/dev/zero", place.path().join("stat")).expect("a link");
        fs::create_dir(place.path().join("status")).expect("a folder");
        let folder = Folder(place.path().to_owned());
        let began = Instant::now();
        assert_eq!(folder.stat().map(|s| said(&s)), Some((false, None, None)));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(folder.status().is_none() && folder.name().is_empty());
        assert_eq!(folder.threads().collect::<Vec<_>>(), [None], "a folder that is not there is not an empty one");
        for entry in ["7", "x", "4294967296"] {
            fs::create_dir_all(place.path().join("task").join(entry)).expect("a folder");
        }
        let mut threads: Vec<_> = folder.threads().collect();
        threads.sort_unstable();
        assert_eq!(threads, [None, None, Some(7)]);
    }

    #[test]
    fn a_process_that_ended_is_there_until_it_was_asked_for() {
        let own = Folder::own().stat().expect("this process");
        let mut child = Command::new("sleep").arg("60").spawn().expect("a program");
        let (pid, folder) = (child.id(), Folder::of(child.id()));
        let stat = folder.stat().expect("its line");
        assert_eq!((stat.has_ended(), stat.parent()), (false, Some(id())));
        // With its start its id is no other's, who had it before or has it later.
        assert!(stat.start_ticks() >= own.start_ticks() && own.start_ticks() == Folder::of(id()).stat().and_then(|s| s.start_ticks()));
        assert!(all().any(|p| p == pid) && folder.threads().eq([Some(pid)]));
        child.kill().expect("its end");
        while !folder.stat().expect("nobody asked for it yet").has_ended() {
            std::thread::yield_now();
        }
        child.wait().expect("its status");
        assert!(folder.stat().is_none() && folder.status().is_none() && folder.name().is_empty());
        assert!(folder.threads().eq([None]) && all().all(|p| p != pid));
    }

    #[test]
    fn the_machine_names_its_boot_and_this_namespace() {
        assert_eq!((boot_id().len(), boot_id()), (36, boot_id()));
        let status = Folder::own().status().expect("this process");
        assert!(namespace().is_some() && status.own_pid() == Some(id()));
    }
}

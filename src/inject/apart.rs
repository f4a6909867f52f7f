//! A thread with a table of descriptors of its own, for everything that the meter has to do with files.
//!
//! A program may close every descriptor it does not know, put files of its own under their numbers, count them, live with eight of them, or pass
//! them on to a child: evidence that lay in its table would be lost, or written into the program's own file. So the files of the meter are opened, used and closed
//! on this thread alone, and nobody else sees them. What is passed to it is done while the caller waits.
//!
//! Where the kernel or a sandbox refuses a table of one's own, or another thread, the work is done with the program's table;
//! [`crate::evidence::held`] sees to it that a descriptor that the program took away is not written to.

use std::{
    mem::ManuallyDrop,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use super::{guard, say, thread};
use crate::{evidence::life::THREADS, window::clock::thread_cpu_ns};

type Work = Box<dyn FnOnce() + Send>;

/// Where the thread takes its work from; none before it is started and after it was stopped.
static WORK: Mutex<Option<(mpsc::Sender<Work>, JoinHandle<()>)>> = Mutex::new(None);

/// CPU time of the thread so far.
static CPU_NS: AtomicU64 = AtomicU64::new(0);

/// Its stack: it writes lines of JSON.
const STACK: usize = 512 << 10;

/// `close_range` gives its caller a table of its own first.
const CLOSE_RANGE_UNSHARE: u32 = 2;

/// Starts the thread. Its signals are masked as the caller's are.
pub(super) fn start() {
    let (send, work) = mpsc::channel::<Work>();
    let (ready, started) = mpsc::channel();
    let spawned = thread::spawn(THREADS[1], STACK, move || {
        if own_table() {
            say::from_elsewhere();
        }
        let _ = ready.send(());
        while let Ok(work) = work.recv() {
            guard::shield(work);
            CPU_NS.store(thread_cpu_ns(), Ordering::Relaxed);
        }
    });
    if let (Ok(thread), Ok(())) = (spawned, started.recv()) {
        *WORK.lock().unwrap_or_else(PoisonError::into_inner) = Some((send, thread));
    }
}

/// CPU time of the calling thread, which is the meter's, and of this one: what the meter costs.
pub(super) fn meter_cpu_ns() -> u64 {
    thread_cpu_ns() + CPU_NS.load(Ordering::Relaxed)
}

/// Ends the thread when it has done what it was given, and waits for that: if it was the last of the process, the C library would have the program's exit handlers
/// run there, where its descriptors are not.
pub(super) fn stop() {
    if let Some((work, thread)) = WORK.lock().unwrap_or_else(PoisonError::into_inner).take() {
        drop(work);
        let _ = thread.join();
    }
}

/// Does something there, and returns when it is done. Where there is no such thread, or the work ended in a panic there: here.
pub(super) fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let Some(to) = to() else { return guard::shield(work) };
    let (send, done) = mpsc::channel();
    to.send(Box::new(move || drop(send.send(work())))).ok()?;
    let result = done.recv().ok();
    say::pass_on();
    result
}

fn to() -> Option<mpsc::Sender<Work>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(to, _)| to.clone())
}

/// Leaves the program's table for an empty one, if that is allowed, in which the standard streams lead nowhere: what is opened later must not get their numbers.
fn own_table() -> bool {
    // SAFETY: the table that is emptied is this thread's alone: the first call gives it one in the same step, else the second one has.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, CLOSE_RANGE_UNSHARE) != 0 {
            if libc::unshare(libc::CLONE_FILES) != 0 {
                return false;
            }
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            for fd in 0..i32::try_from(limit.rlim_cur).unwrap_or(i32::MAX).min(1 << 20) {
                libc::close(fd);
            }
        }
        for _ in 0..3 {
            if libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) < 0 {
                libc::syscall(libc::SYS_memfd_create, c"flopsprof".as_ptr(), 1);
            }
        }
    }
    true
}

/// Something that has to do with files: used and dropped on that thread alone.
#[derive(Debug)]
pub(super) struct Apart<T: Send + 'static>(ManuallyDrop<Option<Place<T>>>);

/// Where it is.
#[derive(Debug)]
enum Place<T> {
    Here(T),
    /// There, with work that nobody waited for; it comes back when that is done.
    There(mpsc::Receiver<T>),
}

impl<T> Place<T> {
    /// On that thread, which does one thing after the other, it is there by now.
    fn get(self) -> Option<T> {
        match self {
            Self::Here(it) => Some(it),
            Self::There(back) => back.recv().ok(),
        }
    }
}

impl<T: Send + 'static> Apart<T> {
    /// Makes it there. Holds nothing when that failed.
    pub(super) fn new(make: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(ManuallyDrop::new(run(make).map(Place::Here)))
    }

    /// Makes it there by and by.
    pub(super) fn soon(make: impl FnOnce() -> T + Send + 'static) -> Self {
        let (send, back) = mpsc::channel();
        let work = move || drop(send.send(make()));
        match to() {
            Some(to) => drop(to.send(Box::new(work))),
            None => drop(guard::shield(work)),
        }
        Self(ManuallyDrop::new(Some(Place::There(back))))
    }

    /// Does something with it there. None when it is lost: to a panic of its own.
    pub(super) fn with<R: Send + 'static>(&mut self, f: impl FnOnce(&mut T) -> R + Send + 'static) -> Option<R> {
        let place = self.0.take()?;
        let (it, result) = run(move || {
            let mut it = place.get()?;
            let result = f(&mut it);
            Some((it, result))
        })??;
        *self.0 = Some(Place::Here(it));
        Some(result)
    }

    /// The same without waiting for it: while launches may come to wait, a file system must not be waited for.
    pub(super) fn post(&mut self, f: impl FnOnce(&mut T) + Send + 'static) {
        let Some(place) = self.0.take() else { return };
        let (send, back) = mpsc::channel();
        let work = move || {
            if let Some(mut it) = place.get() {
                f(&mut it);
                let _ = send.send(it);
            }
        };
        match to() {
            Some(to) => drop(to.send(Box::new(work))),
            None => drop(guard::shield(work)),
        }
        *self.0 = Some(Place::There(back));
    }
}

impl<T: Send + 'static> Drop for Apart<T> {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            run(move || drop(place.get()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::*;

    /// A file that no other test of this process opens: they share the program's table, and what one of them has open there may bear the number of ours.
    fn file_of_its_own() -> OwnedFd {
        // SAFETY: the name is a C string; the new descriptor is nobody else's.
        unsafe {
            let fd = libc::memfd_create(c"apart".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        }
    }

    /// What is opened apart is not in the program's table.
    #[test]
    fn its_descriptors_are_its_own() {
        let leads_to =
            |table: &str, fd| std::fs::read_link(format!("/proc/{table}/fd/{fd}")).ok().and_then(|to| to.to_str().map(str::to_owned));
        start();
        let mut file = Apart::new(file_of_its_own);
        let (fd, name) = file.with(move |f| (f.as_raw_fd(), leads_to("thread-self", f.as_raw_fd()))).expect("it");
        assert_eq!(name.as_deref(), Some("/memfd:apart (deleted)"));
        assert_ne!(leads_to("self", fd), name);
        // Work that nobody waits for is done in its turn.
        let (send, done) = mpsc::channel();
        for n in 0..3 {
            let send = send.clone();
            file.post(move |f| send.send((n, f.as_raw_fd())).expect("a receiver"));
        }
        assert_eq!(file.with(|f| f.as_raw_fd()), Some(fd));
        assert_eq!(done.try_iter().collect::<Vec<_>>(), [(0, fd), (1, fd), (2, fd)]);
        drop(file);
        assert_eq!(
            run(|| std::fs::read_dir("/proc/thread-self/fd").expect("a table").count()),
            Some(4),
            "three streams and the folder itself"
        );
        stop();
        assert_eq!(run(|| 7), Some(7), "without the thread it is done here");
        let mut number = Apart::new(|| 7);
        number.post(|n| *n += 1);
        assert_eq!(number.with(|n| *n), Some(8));
    }
}

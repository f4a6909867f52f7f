//! Turns at a GPU's counters among metered processes.
//!
//! One process owns a GPU's counters at a time, so two metered jobs on one GPU must take turns, or the first would count everything and the second
//! nothing. Two advisory locks per GPU make the turns: who counts holds `turn` exclusively, who waits holds `wanted` shared. An owner
//! that sees `wanted` held ends its turn soon. The kernel frees both when a process dies, however it dies. Owners that know nothing of this
//! (Nsight, DCGM) show as `HARDWARE_BUSY`, and are tried again at the next window.
//!
//! The locks are files of one user in `/dev/shm`: users and containers that do not share it do not see each other, and fall back to that.

use std::{
    fs::{OpenOptions, Permissions},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
};

use crate::evidence::held::Held;

/// The two locks of one GPU. Without a place for them, every turn is granted and nobody is seen waiting.
#[derive(Debug, Default)]
pub struct Turn {
    turn: Option<Held>,
    wanted: Option<Held>,
}

impl Turn {
    /// The locks of the GPU with this UUID; none where the driver does not say it: GPUs that have nothing to do with each other would share them.
    #[must_use]
    pub fn of(uuid: &str) -> Self {
        if uuid.is_empty() {
            return Self::default();
        }
        Self { turn: open(uuid, "turn"), wanted: open(uuid, "wanted") }
    }

    /// Takes the turn if nobody has it. A waiting process announces itself by the first refusal.
    pub fn take(&self) -> bool {
        let taken = lock(self.turn.as_ref(), libc::LOCK_EX);
        let _ = lock(self.wanted.as_ref(), if taken { libc::LOCK_UN } else { libc::LOCK_SH });
        taken
    }

    /// Gives the turn back.
    pub fn give(&self) {
        let _ = lock(self.turn.as_ref(), libc::LOCK_UN);
    }

    /// Whether another process waits. For the owner of the turn only.
    #[must_use]
    pub fn wanted(&self) -> bool {
        let Some(file) = &self.wanted else { return false };
        let alone = lock(Some(file), libc::LOCK_EX);
        let _ = lock(Some(file), libc::LOCK_UN);
        !alone
    }
}

/// A lock that cannot be had for lack of a file counts as had.
fn lock(file: Option<&Held>, operation: i32) -> bool {
    let file = file.and_then(Held::file);
    // SAFETY: the descriptor is open.
    file.is_none_or(|f| unsafe { libc::flock(f.as_raw_fd(), operation | libc::LOCK_NB) } == 0)
}

/// Opens a lock file of this user, never one that another user put there.
fn open(uuid: &str, kind: &str) -> Option<Held> {
    // SAFETY: no preconditions.
    let uid = unsafe { libc::geteuid() };
    let name: String = uuid.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(format!("/dev/shm/flopsprof-{uid}-{name}.{kind}"))
        .ok()?;
    let at = file.metadata().ok()?;
    if at.uid() != uid {
        return None;
    }
    // The process's umask may have taken the owner's own rights away, and the next of this user's could not open it.
    if at.mode() & 0o7777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600)).ok()?;
    }
    Held::new(file).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_and_sees_the_other_wait() {
        let uuid = format!("test-{}", std::process::id());
        let (a, b) = (Turn::of(&uuid), Turn::of(&uuid));
        assert!(a.take());
        assert!(!a.wanted());
        assert!(!b.take());
        assert!(a.wanted());
        a.give();
        assert!(b.take());
        assert!(!b.wanted());
        assert!(!a.take());
        assert!(b.wanted());
        for kind in ["turn", "wanted"] {
            // SAFETY: no preconditions.
            let uid = unsafe { libc::geteuid() };
            std::fs::remove_file(format!("/dev/shm/flopsprof-{uid}-{uuid}.{kind}")).unwrap();
        }
    }
}

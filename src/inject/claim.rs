//! The claim to a GPU's counters, whose lock files are no business of the program's.

use super::apart::Apart;
use crate::counter::turn::Turn;

/// A [`Turn`] that is kept apart. Before it is known which GPU it is of, and without locks, every turn is granted.
#[derive(Default)]
pub(super) struct Claim(Option<Apart<Turn>>);

impl Claim {
    /// That of the GPU with this UUID.
    pub(super) fn of(uuid: String) -> Self {
        Self(Some(Apart::new(move || Turn::of(&uuid))))
    }

    /// See [`Turn::take`].
    pub(super) fn take(&mut self) -> bool {
        self.with(|turn| turn.take()).unwrap_or(true)
    }

    /// See [`Turn::give`].
    pub(super) fn give(&mut self) {
        self.with(|turn| turn.give());
    }

    /// See [`Turn::wanted`].
    pub(super) fn wanted(&mut self) -> bool {
        self.with(|turn| turn.wanted()).unwrap_or(false)
    }

    fn with<R: Send + 'static>(&mut self, f: impl FnOnce(&mut Turn) -> R + Send + 'static) -> Option<R> {
        self.0.as_mut()?.with(f)
    }
}

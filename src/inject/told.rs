//! What the program tells the meter's thread: the newest of something, or a list of marks. Nobody waits: a sender swaps a pointer, and so does the reader.

use std::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

/// The newest word on one matter. A later one replaces it, read or not.
pub(super) struct Newest<T>(AtomicPtr<T>);

impl<T> Newest<T> {
    pub(super) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(super) fn put(&self, value: T) {
        drop(self.swap(Box::into_raw(Box::new(value))));
    }

    /// What was put since the last look.
    pub(super) fn take(&self) -> Option<T> {
        self.swap(ptr::null_mut()).map(|b| *b)
    }

    fn swap(&self, new: *mut T) -> Option<Box<T>> {
        let old = self.0.swap(new, Ordering::AcqRel);
        // SAFETY: the pointer came from `Box::into_raw` in `put`, and the swap gave it to this thread alone.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    }
}

/// Marks that wait for the reader; beyond this many a program is marking faster than anybody can use.
const MOST_WAITING: u64 = 100_000;

/// Marks, in the order in which they were made.
pub(super) struct Marks<T> {
    newest: AtomicPtr<Node<T>>,
    waiting: AtomicU64,
    most: u64,
}

struct Node<T> {
    mark: T,
    before: *mut Node<T>,
}

impl<T> Marks<T> {
    pub(super) const fn new() -> Self {
        Self::at_most(MOST_WAITING)
    }

    /// Fewer of them wait: large ones.
    pub(super) const fn at_most(most: u64) -> Self {
        Self { newest: AtomicPtr::new(ptr::null_mut()), waiting: AtomicU64::new(0), most }
    }

    /// Adds a mark. False if too many wait.
    pub(super) fn add(&self, mark: T) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let node = Box::into_raw(Box::new(Node { mark, before: ptr::null_mut() }));
        let mut before = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is ours until the exchange below succeeds.
            unsafe { (*node).before = before };
            match self.newest.compare_exchange_weak(before, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => before = now,
            }
        }
    }

    /// All marks since the last look, oldest first.
    pub(super) fn take(&self) -> Vec<T> {
        let mut marks = Vec::new();
        let mut node = self.newest.swap(ptr::null_mut(), Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: from `Box::into_raw` in `add`; the swap gave the whole list to this thread alone.
            let taken = unsafe { Box::from_raw(node) };
            node = taken.before;
            marks.push(taken.mark);
        }
        self.waiting.fetch_sub(marks.len() as u64, Ordering::Relaxed);
        marks.reverse();
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_several_threads_are_all_there_each_threads_in_order() {
        static MARKS: Marks<(u32, u32)> = Marks::new();
        let threads: Vec<_> = (0..4).map(|t| std::thread::spawn(move || (0..1000).for_each(|i| assert!(MARKS.add((t, i)))))).collect();
        let mut seen = Vec::new();
        while seen.len() < 4000 {
            seen.extend(MARKS.take());
        }
        threads.into_iter().for_each(|t| t.join().expect("a thread"));
        for thread in 0..4 {
            let of: Vec<u32> = seen.iter().filter(|(t, _)| *t == thread).map(|(_, i)| *i).collect();
            assert_eq!(of, (0..1000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn marks_that_nobody_reads_are_bounded_and_the_newest_word_replaces_the_one_before() {
        let marks = Marks::new();
        assert!((0..MOST_WAITING).all(|i| marks.add(i)));
        assert!(!marks.add(0));
        assert_eq!(marks.take().len() as u64, MOST_WAITING);
        assert!(marks.add(1));
        marks.take();
        let word = Newest::new();
        word.put("a".to_owned());
        word.put("b".to_owned());
        assert_eq!((word.take().as_deref(), word.take()), (Some("b"), None));
    }
}

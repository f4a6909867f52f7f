//! What happens when there is no memory.
//!
//! A program may live at its limit (`RLIMIT_AS`, a container's), and know what to do when an allocation fails. The standard library does not: it ends the process. In
//! somebody else's process that must not be. A thread of ours waits until there is memory again. A thread of the program's must not wait: what little is
//! needed on one comes out of a reserve.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::UnsafeCell,
    hint, ptr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use super::guard;
use crate::window::clock;

/// Set where this library lives in a program that is not ours. The command, at the end of its memory, ends as every command does.
static CAREFUL: AtomicBool = AtomicBool::new(false);

/// How often a thread of ours asks again.
const AGAIN: Duration = Duration::from_millis(5);

/// A thread of ours waits for memory.
static WAITS: AtomicBool = AtomicBool::new(false);

/// Whether a thread of ours waits for memory.
pub(super) fn waits() -> bool {
    WAITS.load(Ordering::Relaxed)
}

/// Never given back, and never touched before it is needed.
const RESERVE: usize = 1 << 20;
struct Reserve(UnsafeCell<[u8; RESERVE]>);
// SAFETY: parts of it are handed out, each once.
unsafe impl Sync for Reserve {}
static RESERVED: Reserve = Reserve(UnsafeCell::new([0; RESERVE]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// From here on no allocation of ours ends the process.
pub(super) fn be_careful() {
    CAREFUL.store(true, Ordering::Relaxed);
}

/// What a thread's beginning may take, and more.
const OF_A_THREAD: Layout = Layout::new::<[u64; 1024]>();

/// Whether a thread can be started: the standard library has its handle from the C library's allocator, past this one, and ends the process where that fails. A thread of ours
/// waits until there is memory.
pub(super) fn for_a_thread() -> bool {
    loop {
        // SAFETY: the size is not zero.
        let memory = hint::black_box(unsafe { System.alloc(OF_A_THREAD) });
        if !memory.is_null() {
            // SAFETY: it was had just now.
            unsafe { System.dealloc(memory, OF_A_THREAD) };
            return true;
        }
        if !guard::on_ours() {
            return false;
        }
        clock::sleep(AGAIN);
    }
}

struct Careful;

#[global_allocator]
static ALLOCATOR: Careful = Careful;

impl Careful {
    /// Memory in spite of all; null where the process is our own.
    #[cold]
    fn insist(layout: Layout, ask: impl Fn() -> *mut u8) -> *mut u8 {
        if !CAREFUL.load(Ordering::Relaxed) {
            return ptr::null_mut();
        }
        while guard::on_ours() {
            WAITS.store(true, Ordering::Relaxed);
            clock::sleep(AGAIN);
            let memory = ask();
            if !memory.is_null() {
                WAITS.store(false, Ordering::Relaxed);
                return memory;
            }
        }
        let size = layout.size() + layout.align();
        let at = USED.fetch_add(size, Ordering::Relaxed);
        if at.saturating_add(size) > RESERVE {
            return ptr::null_mut();
        }
        // SAFETY: this part of the reserve is inside it, and nobody else has it.
        let start = unsafe { RESERVED.0.get().cast::<u8>().add(at) };
        // SAFETY: there is room for as much as its alignment behind the start.
        unsafe { start.add(start.align_offset(layout.align())) }
    }

    fn is_reserved(memory: *const u8) -> bool {
        let start = RESERVED.0.get().cast::<u8>().cast_const();
        (start..start.wrapping_add(RESERVE)).contains(&memory)
    }
}

// SAFETY: the system's allocator, and a reserve of which every part is handed out once. Nothing here unwinds.
unsafe impl GlobalAlloc for Careful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        let ask = || unsafe { System.alloc(layout) };
        let memory = ask();
        if memory.is_null() { Self::insist(layout, ask) } else { memory }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract. The reserve is zero where it was never handed out.
        let ask = || unsafe { System.alloc_zeroed(layout) };
        let memory = ask();
        if memory.is_null() { Self::insist(layout, ask) } else { memory }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !Self::is_reserved(memory) {
            // SAFETY: the caller's contract; it came from the system's allocator.
            unsafe { System.dealloc(memory, layout) };
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: the size is one that a layout can have.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !Self::is_reserved(memory) {
            // SAFETY: the caller's contract. When it fails, what is there stays.
            let grown = unsafe { System.realloc(memory, layout, size) };
            if !grown.is_null() {
                return grown;
            }
        }
        // SAFETY: a layout of some size.
        let other = unsafe { self.alloc(wanted) };
        if !other.is_null() {
            // SAFETY: both are as long as the shorter; they are different memory.
            unsafe {
                ptr::copy_nonoverlapping(memory, other, layout.size().min(size));
                self.dealloc(memory, layout);
            }
        }
        other
    }
}

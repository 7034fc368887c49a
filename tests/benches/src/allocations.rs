//! Counts what a thread takes from the heap.
//!
//! ```text
//! this thread's code -> Counting -> the system's allocator
//!                          `-> this thread's number, which only it can read
//! ```
//!
//! What this module deliberately does not do: it counts no bytes and nothing that is given back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Has no destructor and is no lazy value, so that reading it allocates nothing.
    static NUM_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a counter for each thread.
pub(crate) struct Counting;

/// Blocks that this thread has taken or moved so far.
pub(crate) fn of_this_thread() -> u64 {
    NUM_ALLOCATIONS.get()
}

fn count() {
    NUM_ALLOCATIONS.set(NUM_ALLOCATIONS.get() + 1);
}

// SAFETY: every method hands its arguments to the system's allocator and its answer back, so that
// one's promises are kept; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the rules of this method, which are those of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the rules of this method, which are those of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, num_bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the block is the system's, for all blocks are; the rest is the caller's duty.
        unsafe { System.realloc(block, layout, num_bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is the system's, for all blocks are; the rest is the caller's duty.
        unsafe { System.dealloc(block, layout) }
    }
}

//! Work on several threads, cut into contiguous ranges.
//!
//! How the work is cut never changes a result: every item is computed in the same way whatever
//! range it is in.

use std::ops::Range;
use std::sync::OnceLock;
use std::thread;

/// More threads than these only wait for memory.
const MOST: usize = 4;
/// Multiplications below which a thread costs more than it saves.
const LEAST_WORK: usize = 1 << 19;

/// Threads to use: `CANN_SIM_THREADS`, else one for each core, at most four.
fn num_threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let asked = std::env::var("CANN_SIM_THREADS").ok().and_then(|text| text.parse().ok());
        let cores = || thread::available_parallelism().map_or(1, usize::from).min(MOST);
        asked.unwrap_or_else(cores).max(1)
    })
}

/// Calls `part` with ranges that cover `0..items` and returns the results in order. `work` is the
/// number of multiplications of all items: little work stays on this thread.
pub(super) fn in_parts<T: Send>(
    items: usize,
    work: usize,
    part: impl Fn(Range<usize>) -> T + Sync,
) -> Vec<T> {
    let parts = if work < LEAST_WORK { 1 } else { num_threads().min(items).max(1) };
    if parts == 1 {
        return vec![part(0..items)];
    }
    let bound = |idx: usize| idx * (items / parts) + idx.min(items % parts);
    let part = &part;
    thread::scope(|scope| {
        let others: Vec<_> =
            (1..parts).map(|idx| scope.spawn(move || part(bound(idx)..bound(idx + 1)))).collect();
        let mut results = vec![part(0..bound(1))];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
}

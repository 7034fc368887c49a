//! Counters that the engine thread writes and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Shared counters; written by the engine thread.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64),* }

        /// One reading of the engine's counters.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct EngineStats { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            /// Reads every counter; each is exact, together they may be a step apart.
            pub(crate) fn snapshot(&self) -> EngineStats {
                EngineStats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

stats! {
    /// Requests in the running batch.
    num_requests_running,
    /// Requests that wait for room in the batch.
    num_requests_waiting,
    /// KV blocks in the pool.
    num_kv_blocks,
    /// KV blocks held by requests.
    num_kv_blocks_used,
    /// Requests put back to the queue because blocks ran out.
    num_preemptions,
    /// Prompt tokens computed for the first time.
    prompt_tokens,
    /// Tokens generated.
    generation_tokens,
    /// Steps run.
    num_steps,
    /// Launches of graphs; a step is one or more.
    num_launches,
    /// Rows computed only to fill a bucket.
    padded_tokens,
    /// Graphs compiled since the process started.
    graphs_compiled,
    /// Graphs loaded from the cache since the process started.
    graphs_from_cache,
    /// Graphs compiled after the engine said it was ready; stays 0.
    compiles_after_ready,
}

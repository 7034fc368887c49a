//! Counters that the engine thread writes and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the tokens of a step.
pub const STEP_TOKENS_BOUNDS: [u64; 13] =
    [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// How many steps computed how many tokens; written by the engine thread.
#[derive(Debug, Default)]
pub(crate) struct StepTokens {
    counts: [AtomicU64; STEP_TOKENS_BOUNDS.len() + 1],
    sum: AtomicU64,
}

/// One reading of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTokensStats {
    /// Steps by [`STEP_TOKENS_BOUNDS`], and those above; not cumulative.
    pub counts: [u64; STEP_TOKENS_BOUNDS.len() + 1],
    /// Tokens of all steps.
    pub sum: u64,
}

impl StepTokens {
    pub(crate) fn observe(&self, num_tokens: u64) {
        let idx = STEP_TOKENS_BOUNDS.partition_point(|bound| *bound < num_tokens);
        self.counts[idx].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(num_tokens, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> StepTokensStats {
        StepTokensStats {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

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
    /// KV blocks that can be found by their tokens, held or not.
    num_kv_blocks_cached,
    /// Prompt tokens of unfinished requests.
    num_queued_tokens,
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
    /// Requests that failed because their time was over.
    num_requests_timed_out,
    /// Prompt tokens that were looked for in the prefix cache.
    prefix_query_tokens,
    /// Those that were there.
    prefix_hit_tokens,
    /// Those of them that were the beginning of a block whose rest was something else.
    prefix_partial_hit_tokens,
    /// Those that were not there: never seen.
    prefix_miss_new_tokens,
    /// Not there any more: their blocks were taken for others.
    prefix_miss_evicted_tokens,
    /// Not there: the end of a prompt, which fills no block.
    prefix_miss_tail_tokens,
    /// Not looked for, since their logprobs were asked for.
    prefix_miss_disabled_tokens,
    /// Cached blocks that were taken for something else.
    prefix_evictions_capacity,
    /// Cached blocks that were forgotten because somebody asked for that.
    prefix_evictions_reset,
    /// Blocks read from the prefix folder.
    prefix_blocks_loaded,
    /// Blocks handed to the prefix folder.
    prefix_blocks_saved,
    /// Blocks copied because a sequence went on where another did not.
    num_block_copies,
    /// Tokens that were guessed.
    num_draft_tokens,
    /// Guesses that were right.
    num_accepted_tokens,
    /// Graphs compiled since the process started.
    graphs_compiled,
    /// Graphs loaded from the cache since the process started.
    graphs_from_cache,
    /// Graphs compiled after the engine said it was ready; stays 0.
    compiles_after_ready,
}

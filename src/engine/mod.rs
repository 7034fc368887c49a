//! The engine: one thread that turns requests into tokens, many at a time.
//!
//! ```text
//!  any thread                     |            the engine thread
//!  EngineHandle --submit--> commands --> Core: Scheduler -> SchedulerOutput -> Runner -> logits
//!       ^                         |         ^                                            |
//!  ResponseStream <---- Outbox <--|---------'-- Sequence <-- stop, text <-- token <-- Sampler
//! ```
//!
//! The life of a request:
//!
//! 1. [`EngineHandle::submit`] checks it, takes one of the places that bound what is unfinished,
//!    builds its `Sequence`, and sends that to the engine thread; the caller keeps the
//!    [`ResponseStream`].
//! 2. The `Scheduler` lets it wait until the batch has room and its blocks are free.
//! 3. Each step, `SchedulerOutput` says which of its tokens are computed: a chunk of the prompt, or
//!    the newest token.
//! 4. The `Runner` splits the step into launches, of which each device may take one or many, lays
//!    out the sequences of each as the graph wants them, padded to the smallest [`Bucket`], and
//!    runs it.
//! 5. If the newest token was computed, the `Sampler` chooses the next one from its logits, or from
//!    the largest of them where that is enough.
//! 6. The token becomes text; text that may begin a stop string is held back; the rest goes to the
//!    stream. The engine never waits for its reader.
//! 7. When blocks run out, the latest arrival loses its own, waits in front, and is computed again.
//! 8. It ends by a stop token or string, by `max_tokens`, by an error of its own, or because its
//!    stream was dropped; its blocks and its place are free before its last message is sent.
//!
//! | File | Idea |
//! | --- | --- |
//! | `request`, `sampling_params` | what goes in and comes out |
//! | `handle`, `options` | the door: starting, submitting, draining, stopping |
//! | `core`, `shared` | the loop of the engine thread, and the few atomics that others see |
//! | `death` | why an engine ended that nobody told to |
//! | `scheduler`, `scheduler_output` | who computes how many tokens, as plain data |
//! | `block_pool`, `kv_cache_manager` | who holds which KV blocks |
//! | `launches`, `buckets` | which requests share a launch, and which graph runs it |
//! | `runner`, `inputs`, `launch_result` | from a plan to the inputs of graphs, and to rows of logits |
//! | `pooling` | from hidden states to the vector of a text |
//! | `sampler`, `stop` | from logits to a token, from text to an end |
//! | `sequence`, `output`, `stats` | one request's state, its way out, and what is counted |
//! | [`simulation`] | all of it in virtual time, in front of a model of a device |
//!
//! All mutable state belongs to the one thread: there is no lock on the step path.
//!
//! What this module deliberately does not do: it knows no HTTP, no JSON and no concrete device.

mod beams;
mod buckets;
mod core;
mod death;
mod drafter;
mod group;
mod handle;
mod host;
mod inputs;
mod kv_cache;
mod launch_result;
mod launches;
mod options;
mod output;
mod pooling;
mod prefix_store;
mod prefixes;
mod rank;
mod request;
mod results;
mod runner;
mod sampling;
mod scheduler;
mod scheduler_output;
mod sequence;
mod shared;
pub mod simulation;
mod slots;
mod stats;
mod stop;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use buckets::{Bucket, StepKind, plan};
pub use death::{Death, Fate};
pub use handle::{EngineHandle, EngineParts, LoadedModel, start};
pub use options::{EngineError, EngineOptions, Speculation, SpeculativeMethod};
pub use output::ResponseStream;
pub use pooling::Pooling;
pub use prefix_store::{PrefixBlock, PrefixKey, PrefixStore, PrefixStoreStats};
pub use rank::SchedulingPolicy;
pub use request::{
    ChoiceDelta, ChoiceEnd, FinishReason, Output, Request, RequestError, RequestId, StopMatch,
    SubmitError, Usage,
};
pub use sampling::{
    BeamParams, InvalidParam, MAX_ABS_LOGIT_BIAS, MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS, MAX_CHOICES,
    MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, SamplingParams,
    TokenLogprobs,
};
pub use stats::{EngineStats, STEP_TOKENS_BOUNDS, StepTokensStats};

//! The door to the engine: starting it, submitting requests, and ending it.
//!
//! ```text
//! start --> serving --begin_drain--> draining --shutdown--> stopped
//!              |  submit: taken         | submit: Draining     submit: Stopped
//!              '------------------------'--- the device is gone, or a panic --> dead, not healthy
//! ```
//!
//! A dead engine fails every request, takes no new one, and says what it died of.
//!
//! Requests are checked on the caller's thread, and there the parts that need time are built (stop
//! strings, detokenizer). What is unfinished is bounded by `max_num_seqs + max_num_queued_reqs`;
//! that count is taken before a request is sent and bounds the command channel too.
//!
//! What this module deliberately does not do: it does not touch the engine's state; it only sends.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::backend::{Executable, Memory};
use crate::text::Tokenizer;
use crate::text::grammar::Grammar;

use super::buckets::Bucket;
use super::core::{Command, Core};
use super::death::Death;
use super::drafter::{DraftModel, Drafter};
use super::group::{Group, GroupParts};
use super::host::Submission;
use super::launch_result::Columns;
use super::options::{EngineError, EngineOptions, in_range};
use super::output::{Outbox, ResponseStream};
use super::prefix_store::PrefixStore;
use super::prefixes::{PrefixIo, PrefixKeys};
use super::rank::RankFacts;
use super::request::{Request, RequestId, SubmitError};
use super::runner::Runner;
use super::sampling::{InvalidParam, SamplingParams};
use super::sequence::TextStream;
use super::shared::{Phase, Shared, Slot};
use super::stats::{EngineStats, StepTokensStats};

/// Generated tokens that a request has room for from the start.
const MAX_RESERVED_TOKENS: usize = 8192;

/// A model on its device, ready to run.
pub struct LoadedModel {
    /// One graph for each bucket that [`plan`](super::plan) names.
    pub executables: Vec<(Bucket, Box<dyn Executable>)>,
    /// Its weights and its KV cache.
    pub memory: Box<dyn Memory>,
    /// Columns of the logits; those beyond the tokenizer's vocabulary stand for no token and are
    /// never sampled.
    pub vocab_size: usize,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buckets: Vec<_> = self.executables.iter().map(|(bucket, _)| bucket).collect();
        f.debug_struct("LoadedModel")
            .field("buckets", &buckets)
            .field("vocab_size", &self.vocab_size)
            .field("eos_token_ids", &self.eos_token_ids)
            .finish_non_exhaustive()
    }
}

/// What an engine is made of.
#[derive(Debug)]
pub struct EngineParts {
    /// The model.
    pub model: LoadedModel,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Limits.
    pub options: EngineOptions,
    /// A smaller model with the same vocabulary, whose KV cache has as many blocks of the same
    /// size; for [`SpeculativeMethod::Draft`](super::SpeculativeMethod::Draft).
    pub draft: Option<LoadedModel>,
    /// Where prefixes outlive the engine, and how many later requests must have used a block before
    /// it is written there.
    pub prefix_store: Option<(Arc<dyn PrefixStore>, u32)>,
    /// Numbers of a hidden state; for [`EngineOptions::has_embeddings`].
    pub hidden_size: usize,
}

impl EngineParts {
    /// An engine without anything special.
    pub fn new(model: LoadedModel, tokenizer: Tokenizer, options: EngineOptions) -> Self {
        Self { model, tokenizer, options, draft: None, prefix_store: None, hidden_size: 0 }
    }
}

/// Starts the engine thread.
///
/// # Errors
/// When an option is out of range, when the KV cache cannot hold one sequence of full length, when
/// the largest step fits into no executable, or when a draft model is wanted and does not fit.
pub fn start(parts: EngineParts) -> Result<EngineHandle, EngineError> {
    let EngineParts { model, tokenizer, options, draft, prefix_store, hidden_size } = parts;
    options.validate()?;
    let vocab_size = model.vocab_size.min(tokenizer.vocab_size());
    in_range("vocab_size", vocab_size, 1, i32::MAX as usize)?;
    let columns = Columns { tokens: vocab_size, all: model.vocab_size };
    let runner = Runner::new(model.executables, model.memory, columns, hidden_size, &options)?;
    let draft = draft.map(|draft| draft_model(draft, vocab_size, &options)).transpose()?;
    let prefix_store = prefix_store.filter(|_| options.is_prefix_cache_on);
    let (commands, receiver) = channel();
    let shared = Arc::new(Shared::default());
    shared.counters.num_kv_blocks.store(options.num_blocks as u64, Ordering::Relaxed);
    let store = prefix_store.as_ref().map(|(store, _)| Arc::clone(store));
    let prefixes = prefix_store.map(|(store, min_hits)| PrefixIo::new(store, min_hits));
    let prefixes = prefixes.transpose().map_err(EngineError::Thread)?;
    let drafter = match options.speculation {
        Some(speculation) => {
            Some(Drafter::new(speculation, draft).ok_or(EngineError::NoDraftModel)?)
        }
        None => None,
    };
    let thread = {
        let (shared, options) = (Arc::clone(&shared), options.clone());
        thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                let core = || {
                    let shared = Arc::clone(&shared);
                    Core::new(runner, drafter, prefixes, &options, receiver, shared).run();
                };
                // The unwinding drops the core, and that tells every handle and every reader. The
                // second word is for a panic that came before there was a core.
                if catch_unwind(AssertUnwindSafe(core)).is_err() {
                    shared.die(Death::of_panic());
                }
            })
            .map_err(EngineError::Thread)?
    };
    Ok(EngineHandle {
        inner: Arc::new(Inner {
            commands,
            shared,
            tokenizer,
            vocab_size,
            eos_token_ids: model.eos_token_ids,
            options,
            store,
            hidden_size,
            next_id: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        }),
    })
}

fn draft_model(
    draft: LoadedModel,
    vocab_size: usize,
    options: &EngineOptions,
) -> Result<DraftModel, EngineError> {
    if draft.vocab_size < vocab_size {
        return Err(EngineError::DraftVocabulary { expected: vocab_size, got: draft.vocab_size });
    }
    let columns = Columns { tokens: vocab_size, all: draft.vocab_size };
    // It guesses what comes next, and nothing else.
    let options = &EngineOptions { has_embeddings: false, ..options.clone() };
    let runner = Runner::new(draft.executables, draft.memory, columns, 0, options)?;
    Ok(DraftModel::new(runner, options.max_num_batched_tokens))
}

/// A handle of a running engine. Clones are handles of the same engine; when the last one is
/// dropped, the engine finishes what it has and ends.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    tokenizer: Tokenizer,
    vocab_size: usize,
    eos_token_ids: Vec<u32>,
    options: EngineOptions,
    store: Option<Arc<dyn PrefixStore>>,
    hidden_size: usize,
    next_id: AtomicU64,
    /// `None` once joined.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineHandle {
    /// Hands a request to the engine. Never waits; the output comes by the returned stream, whose
    /// drop cancels the request.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] and [`SubmitError::PromptTooLong`] for a request that can never be
    /// served, [`SubmitError::Overloaded`] for one that may be later, and
    /// [`SubmitError::Draining`] or [`SubmitError::Stopped`] when the engine is ending.
    pub fn submit(&self, request: Request) -> Result<ResponseStream, SubmitError> {
        let inner = &*self.inner;
        self.check(&request)?;
        self.check_phase()?;
        let slot = self.take_slot(request.prompt_token_ids.len())?;
        // Again, now that whoever waits for the last request to end sees this one.
        self.check_phase()?;
        let id = RequestId(inner.next_id.fetch_add(1, Ordering::Relaxed));
        let (outbox, mut stream) = Outbox::new(id, request.params.n);
        let submission = self.submission(request, id, slot, outbox);
        let command = Command::Submit(Box::new(submission));
        inner.commands.send(command).map_err(|_| SubmitError::Stopped)?;
        stream.on_drop(inner.commands.clone());
        Ok(stream)
    }

    /// All that takes time is done here, on the caller's thread.
    fn submission(
        &self,
        request: Request,
        id: RequestId,
        slot: Slot,
        outbox: Outbox,
    ) -> Submission {
        let inner = &*self.inner;
        let Request { mut prompt_token_ids, params, cache_salt, grammar, .. } = request;
        let num_prompt_tokens = prompt_token_ids.len();
        let now = Instant::now();
        let prefix_keys = inner.store.as_deref().map(|store| {
            let salt = cache_salt.as_deref();
            PrefixKeys::of(store, &prompt_token_ids, salt, inner.options.block_size)
        });
        let seed = params.seed.unwrap_or_else(random_seed);
        let parts = GroupParts {
            id,
            slot,
            outbox,
            text: TextStream::new(&inner.tokenizer, &params),
            grammar,
            eos_token_ids: inner.eos_token_ids.clone(),
            num_prompt_tokens,
            max_model_len: inner.options.max_model_len,
            timeout: request.timeout.or(inner.options.request_timeout),
            prefix_keys: prefix_keys.unwrap_or_default(),
            pooling: request.pooling,
        };
        let group = Group::new(params, parts, now);
        let facts = RankFacts {
            arrival: Duration::from_micros(inner.shared.micros(now)),
            priority: request.priority,
            deadline: request.deadline,
            num_tokens: group.max_len,
        };
        // Room for what most answers need, so that a step seldom has to make some.
        prompt_token_ids.reserve((group.max_len - num_prompt_tokens).min(MAX_RESERVED_TOKENS));
        Submission {
            rank: inner.options.policy.rank(id, &facts),
            group,
            cache_salt,
            prompt_token_ids,
            seed,
            commands: inner.commands.clone(),
        }
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let (prompt, vocab_size) = (&request.prompt_token_ids, self.inner.vocab_size);
        request.params.validate_for(vocab_size)?;
        if let Some(grammar) = &request.grammar {
            if request.pooling.is_some() {
                let message = "expected none where nothing is generated".to_owned();
                return Err(InvalidParam { param: "grammar", message }.into());
            }
            check_grammar(grammar, &request.params, vocab_size)?;
        }
        let invalid = |message| Err(InvalidParam { param: "prompt", message }.into());
        if request.pooling.is_some() {
            self.check_pooling(&request.params)?;
        }
        if prompt.is_empty() {
            return invalid("expected at least one token, got none".into());
        }
        let max_model_len = self.inner.options.max_model_len;
        if prompt.len() >= max_model_len {
            return Err(SubmitError::PromptTooLong { prompt_tokens: prompt.len(), max_model_len });
        }
        if let Some(idx) = prompt.iter().position(|&token| token as usize >= vocab_size) {
            let got = prompt[idx];
            return invalid(format!("expected token ids below {vocab_size}, got {got} at {idx}"));
        }
        Ok(())
    }

    fn check_pooling(&self, params: &SamplingParams) -> Result<(), InvalidParam> {
        let invalid =
            |message: &str| Err(InvalidParam { param: "pooling", message: message.to_owned() });
        if !self.inner.options.has_embeddings {
            return invalid("this engine was started without graphs for embeddings");
        }
        if params.num_sequences() > 1 || params.beam.is_some() || params.prompt_logprobs.is_some() {
            return invalid("nothing is generated, so there is one choice without logprobs");
        }
        Ok(())
    }

    fn check_phase(&self) -> Result<(), SubmitError> {
        let shared = &self.inner.shared;
        match shared.phase() {
            _ if !shared.is_alive() => Err(SubmitError::Stopped),
            Phase::Serving => Ok(()),
            Phase::Draining => Err(SubmitError::Draining),
            Phase::Stopping => Err(SubmitError::Stopped),
        }
    }

    fn take_slot(&self, num_tokens: usize) -> Result<Slot, SubmitError> {
        let (options, shared) = (&self.inner.options, &self.inner.shared);
        let (max, max_tokens) = (options.max_unfinished(), options.max_unfinished_tokens());
        let slot = shared.try_slot(max, num_tokens, max_tokens);
        slot.ok_or_else(|| SubmitError::Overloaded {
            num_requests: shared.num_unfinished(),
            num_tokens: shared.counters.num_queued_tokens.load(Ordering::SeqCst) as usize,
            limit: format!("{max} requests and {max_tokens} prompt tokens"),
            retry_after: shared.retry_after(),
        })
    }

    /// Forgets all cached prefixes. What is running keeps what it has.
    pub fn reset_prefix_cache(&self) {
        // An engine that is gone has no cache.
        let _ = self.inner.commands.send(Command::ResetPrefixCache);
    }

    /// One reading of the engine's counters.
    pub fn stats(&self) -> EngineStats {
        self.inner.shared.counters.snapshot()
    }

    /// How many steps computed how many tokens.
    pub fn step_tokens(&self) -> StepTokensStats {
        self.inner.shared.step_tokens.snapshot()
    }

    /// The limits that it was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// Adds to the counters of graphs, which whoever loads graphs knows and the engine does not.
    pub fn count_graphs(&self, num_compiled: u64, num_from_cache: u64) {
        let counters = &self.inner.shared.counters;
        counters.graphs_compiled.fetch_add(num_compiled, Ordering::Relaxed);
        counters.graphs_from_cache.fetch_add(num_from_cache, Ordering::Relaxed);
    }

    /// Counts a graph that was compiled while requests waited for it. Nothing does that today, and
    /// the counter is there to prove it.
    pub fn count_late_compile(&self) {
        self.inner.shared.counters.compiles_after_ready.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the engine thread runs: it has neither died nor been shut down.
    pub fn is_healthy(&self) -> bool {
        self.inner.shared.is_alive()
    }

    /// What the engine died of; `None` while it lives, and when it ended because it was told to.
    pub fn death(&self) -> Option<Death> {
        self.inner.shared.death()
    }

    /// Returns once the engine has died: at once if it did before, never if it ends in good order.
    /// Every request has failed by then, or is about to. Runs in any executor.
    pub async fn died(&self) -> Death {
        self.inner.shared.died().await
    }

    /// Longest sequence in tokens, prompt and output together.
    pub fn max_model_len(&self) -> usize {
        self.inner.options.max_model_len
    }

    /// Most sequences in one step.
    pub fn max_num_seqs(&self) -> usize {
        self.inner.options.max_num_seqs
    }

    /// Whether [`Request::pooling`] is served.
    pub fn has_embeddings(&self) -> bool {
        self.inner.options.has_embeddings
    }

    /// Numbers of a hidden state; 0 where there are no embeddings.
    pub fn hidden_size(&self) -> usize {
        self.inner.hidden_size
    }

    /// Token ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Tokens that end a text.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.inner.eos_token_ids
    }

    /// Requests that were accepted and have not ended.
    pub fn num_unfinished(&self) -> usize {
        self.inner.shared.num_unfinished()
    }

    /// From now on new requests are refused; those that were accepted go on. Once
    /// [`num_unfinished`](Self::num_unfinished) is 0 it stays 0.
    pub fn begin_drain(&self) {
        self.inner.shared.enter(Phase::Draining);
    }

    /// Ends the engine after the current step and waits for that; unfinished requests fail with
    /// [`RequestError::Stopped`](super::RequestError::Stopped). May be called again.
    pub fn shutdown(&self) {
        self.inner.shared.enter(Phase::Stopping);
        // An error says that the thread is gone already.
        let _ = self.inner.commands.send(Command::Wake);
        let mut thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Panics are caught inside, so there is no error to see.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineHandle")
            .field("options", &self.inner.options)
            .field("is_healthy", &self.is_healthy())
            .field("num_unfinished", &self.num_unfinished())
            .finish_non_exhaustive()
    }
}

/// Whether texts can follow that grammar here.
fn check_grammar(
    grammar: &Grammar,
    params: &SamplingParams,
    vocab_size: usize,
) -> Result<(), InvalidParam> {
    let invalid = |param, message| Err(InvalidParam { param, message });
    if params.beam.is_some() {
        let message = "a beam search compares texts by what the model alone makes of them, and \
                       cannot be combined with structured output";
        return invalid("use_beam_search", message.into());
    }
    if grammar.vocab_size() != vocab_size {
        let got = grammar.vocab_size();
        let message = format!("expected a grammar over {vocab_size} tokens, got one over {got}");
        return invalid("grammar", message);
    }
    Ok(())
}

/// A seed for a request that brought none, from the operating system's randomness, which keys the
/// standard library's hashers.
pub(super) fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

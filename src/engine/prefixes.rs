//! Prefixes that outlive the engine: when they are read, and when they are written.
//!
//! ```text
//! request --look_up--> memory has less of its prompt than the store?
//!    | no                  | yes
//!    v                     v
//!  submitted          loader thread --Loaded--> insert: blocks into the pool --> submitted
//!
//! prompt computed --note--> blocks hot enough and not stored? --save, a few a step--> saver thread
//! ```
//!
//! The engine thread asks the store only what it knows without IO. A job to save holds its blocks
//! until they are read, and gives them up as soon as somebody needs them to get on.
//!
//! What this module deliberately does not do: it knows no disk and no format; see [`PrefixStore`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{self, JoinHandle};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::backend::Memory;

use super::core::Command;
use super::host::{Host, Submission};
use super::kv_cache::{BlockTable, KvCache};
use super::prefix_store::{PrefixBlock, PrefixKey, PrefixStore};

/// Blocks read from the device after one step.
const BLOCKS_PER_STEP: usize = 4;
/// Blocks on their way to the saver; with more the saving waits.
const MAX_BLOCKS_IN_FLIGHT: usize = 64;
/// Sequences whose blocks are to be saved; with more they are not.
const MAX_SAVES: usize = 64;
/// Blocks whose hits are counted; then counting begins anew.
const MAX_COUNTED: usize = 1 << 20;

/// Addresses of the full blocks of a prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixKeys {
    /// In the order of the prompt.
    pub(crate) keys: Vec<PrefixKey>,
}

impl PrefixKeys {
    /// Of that prompt. Takes time in proportion to it: not for the engine thread.
    pub(crate) fn of(
        store: &dyn PrefixStore,
        prompt: &[u32],
        salt: Option<&str>,
        block_size: usize,
    ) -> Self {
        let mut parent = None;
        let keys = prompt.chunks_exact(block_size).map(|token_ids| {
            let key = store.key_of(parent, salt, token_ids);
            parent = Some(key);
            key
        });
        Self { keys: keys.collect() }
    }
}

/// What was found of a prompt on disk.
#[derive(Debug)]
pub(crate) struct LoadedPrefix {
    first_block: usize,
    /// One after the other.
    blocks: Vec<Vec<u8>>,
}

/// What the loader is to do.
struct LoadJob {
    submission: Box<Submission>,
    first_block: usize,
    num_blocks: usize,
    block_size: usize,
}

/// A prompt whose last token was just computed.
#[derive(Debug)]
pub(crate) struct ComputedPrompt {
    /// Keeps its blocks as they are.
    pub(crate) table: BlockTable,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) keys: PrefixKeys,
    pub(crate) num_cached_tokens: usize,
}

/// Blocks that are to be written.
#[derive(Debug)]
struct SaveJob {
    /// Keeps the blocks as they are.
    table: BlockTable,
    token_ids: Vec<u32>,
    keys: Vec<PrefixKey>,
    /// Which of them are left.
    blocks: VecDeque<usize>,
}

/// The store and the two threads that work with it.
#[derive(Debug)]
pub(crate) struct PrefixIo {
    store: Arc<dyn PrefixStore>,
    /// A block is written once so many later requests have used it.
    min_hits: u32,
    loader: Option<Sender<LoadJob>>,
    saver: Option<SyncSender<Box<PrefixBlock>>>,
    threads: Vec<JoinHandle<()>>,
}

/// The engine thread's side.
#[derive(Debug)]
pub(crate) struct Prefixes {
    io: PrefixIo,
    saves: VecDeque<SaveJob>,
    hits: FxHashMap<PrefixKey, u32>,
    /// Handed to the saver already, or refused by it.
    saved: FxHashSet<PrefixKey>,
    num_loaded: u64,
    num_saved: u64,
}

impl PrefixIo {
    /// Starts the loader and the saver.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn new(store: Arc<dyn PrefixStore>, min_hits: u32) -> Result<Self, std::io::Error> {
        let (loader, jobs) = channel();
        let (saver, blocks) = sync_channel::<Box<PrefixBlock>>(MAX_BLOCKS_IN_FLIGHT);
        let mut threads = Vec::new();
        let from = Arc::clone(&store);
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        threads.push(spawn("prefix-load").spawn(move || load_all(from.as_ref(), &jobs))?);
        let to = Arc::clone(&store);
        threads.push(spawn("prefix-save").spawn(move || {
            for block in blocks {
                to.save(*block);
            }
        })?);
        Ok(Self { store, min_hits, loader: Some(loader), saver: Some(saver), threads })
    }
}

impl Prefixes {
    /// With nothing to do yet.
    pub(crate) fn new(io: PrefixIo) -> Self {
        Self {
            io,
            saves: VecDeque::new(),
            hits: FxHashMap::default(),
            saved: FxHashSet::default(),
            num_loaded: 0,
            num_saved: 0,
        }
    }

    /// Gives the submission back unless it waits for blocks from the store.
    pub(crate) fn look_up(
        &mut self,
        submission: Box<Submission>,
        kv_cache: &KvCache,
    ) -> Option<Box<Submission>> {
        let keys = &submission.group.prefix_keys.keys;
        let (tokens, block_size) = (&submission.prompt_token_ids, kv_cache.block_size());
        // The last token is computed anyway, and with it the rest of its block.
        let num_wanted = keys.len().min((tokens.len() - 1) / block_size);
        if num_wanted == 0 || submission.group.prompt_logprobs.is_some() {
            return Some(submission);
        }
        let mut table = kv_cache.new_table(submission.cache_salt.as_deref());
        let lookup = kv_cache.lookup(&mut table, tokens, num_wanted * block_size);
        let first_block = lookup.num_cached_tokens / block_size;
        let missing = keys[first_block..num_wanted].iter();
        let num_blocks = missing.take_while(|key| self.io.store.contains(key)).count();
        let num_blocks = num_blocks.min(kv_cache.num_free());
        if num_blocks == 0 {
            return Some(submission);
        }
        drop(table);
        let job = LoadJob { submission, first_block, num_blocks, block_size };
        // A loader that is gone hands the job back.
        self.io.loader.as_ref()?.send(job).err().map(|refused| refused.0.submission)
    }

    /// Writes loaded blocks into the pool, where lookups find them.
    pub(crate) fn insert(
        &mut self,
        submission: &Submission,
        loaded: LoadedPrefix,
        kv_cache: &KvCache,
        memory: &mut dyn Memory,
    ) {
        let (tokens, block_size) = (&submission.prompt_token_ids, kv_cache.block_size());
        let mut table = kv_cache.new_table(submission.cache_salt.as_deref());
        let num_before = loaded.first_block * block_size;
        let lookup = kv_cache.lookup(&mut table, tokens, num_before);
        if lookup.num_cached_tokens != num_before {
            // What came before them is gone again.
            return;
        }
        let mut num_inserted = 0;
        for bytes in loaded.blocks {
            let Some(block) = kv_cache.push_block(&mut table) else { break };
            if let Err(error) = memory.write_block(block.0, &bytes) {
                tracing::warn!(%error, "a prefix from disk could not be put on the device");
                break;
            }
            num_inserted += 1;
        }
        kv_cache.commit(&mut table, tokens, num_before + num_inserted * block_size);
        self.num_loaded += num_inserted as u64;
    }

    /// Takes note of a prompt that is computed.
    fn note(&mut self, prompt: ComputedPrompt, block_size: usize) {
        if self.hits.len() > MAX_COUNTED {
            self.hits.clear();
        }
        let num_hit = prompt.num_cached_tokens / block_size;
        let mut blocks = VecDeque::new();
        for (idx, key) in prompt.keys.keys.iter().enumerate() {
            let is_hot = if idx < num_hit {
                let hits = self.hits.entry(*key).or_insert(0);
                *hits += 1;
                *hits >= self.io.min_hits
            } else {
                self.io.min_hits == 0
            };
            if is_hot && !self.saved.contains(key) && !self.io.store.contains(key) {
                blocks.push_back(idx);
            }
        }
        if !blocks.is_empty() && self.saves.len() < MAX_SAVES {
            let ComputedPrompt { table, token_ids, keys: PrefixKeys { keys }, .. } = prompt;
            self.saved.extend(blocks.iter().map(|&idx| keys[idx]));
            self.saves.push_back(SaveJob { table, token_ids, keys, blocks });
        }
    }

    /// Notes the prompts that a step completed, and hands some blocks to the saver.
    pub(crate) fn save(&mut self, host: &mut Host, memory: &mut dyn Memory) {
        let block_size = host.kv_cache().block_size();
        for prompt in host.computed_prompts.drain(..) {
            self.note(prompt, block_size);
        }
        self.save_some(memory, block_size);
        host.note_prefixes(self.num_loaded, self.num_saved);
    }

    /// Hands some blocks to the saver; `false` when there is nothing to hand over.
    pub(crate) fn save_some(&mut self, memory: &mut dyn Memory, block_size: usize) -> bool {
        let num_before = self.num_saved;
        for _ in 0..BLOCKS_PER_STEP {
            let Some(job) = self.saves.front_mut() else { break };
            let Some(&idx) = job.blocks.front() else {
                self.saves.pop_front();
                continue;
            };
            let mut bytes = vec![0; memory.block_bytes()];
            let block = job.table.blocks().get(idx).copied();
            let read = block.map(|block| memory.read_block(block.0, &mut bytes));
            let Some(Ok(())) = read else {
                self.saves.pop_front();
                continue;
            };
            let block = PrefixBlock {
                key: job.keys[idx],
                parent: idx.checked_sub(1).map(|parent| job.keys[parent]),
                token_ids: job.token_ids[idx * block_size..][..block_size].to_vec(),
                bytes,
            };
            let Some(saver) = &self.io.saver else { break };
            match saver.try_send(Box::new(block)) {
                Ok(()) => {
                    job.blocks.pop_front();
                    self.num_saved += 1;
                }
                // The disk is slower than the device: later.
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Disconnected(_)) => self.saves.clear(),
            }
        }
        self.num_saved != num_before
    }

    /// Whether blocks wait to be saved.
    pub(crate) fn has_saves(&self) -> bool {
        !self.saves.is_empty()
    }

    /// Gives up all blocks that wait to be saved; `false` when there are none.
    pub(crate) fn drop_saves(&mut self) -> bool {
        for job in &self.saves {
            for &idx in &job.blocks {
                self.saved.remove(&job.keys[idx]);
            }
        }
        let has_saves = !self.saves.is_empty();
        self.saves.clear();
        has_saves
    }
}

/// Lets the threads finish what they have.
impl Drop for PrefixIo {
    fn drop(&mut self) {
        (self.loader, self.saver) = (None, None);
        for thread in self.threads.drain(..) {
            // A panic in there was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn load_all(store: &dyn PrefixStore, jobs: &Receiver<LoadJob>) {
    for LoadJob { submission, first_block, num_blocks, block_size } in jobs {
        let wanted = first_block..first_block + num_blocks;
        let tokens = &submission.prompt_token_ids;
        let load = |idx: usize| {
            let token_ids = &tokens[idx * block_size..][..block_size];
            store.load(&submission.group.prefix_keys.keys[idx], token_ids)
        };
        let blocks = wanted.map_while(load).collect();
        let loaded = LoadedPrefix { first_block, blocks };
        let commands = submission.commands.clone();
        // An engine that is gone has told the reader.
        let _ = commands.send(Command::Loaded(submission, loaded));
    }
}

//! What prefixes on disk give to an engine that has just started.
//!
//! ```text
//! engine 0, folder   system + user 0 --> every block of it is written
//! engine 1, folder   system + user 1 --> time to first token, blocks loaded
//! engine 2           system + user 1 --> time to first token        ... and so on, in pairs
//! ```
//!
//! The blocks are read from a folder that was written a moment ago: as a rule from the system's
//! memory, not from the disk itself.
//!
//! What this module deliberately does not do: it removes nothing from the folder, which is the
//! user's; with the same seed the next run finds the same blocks.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::replay::{read, submit};
use super::trace::{Step, Trace};
use crate::cli::bench::{Samples, table};
use crate::cli::boot::{self, Booted};
use crate::cli::progress::{Amount, Progress};
use crate::config::{EngineConfig, PrefixCacheConfig};
use crate::engine::PrefixStore as _;

/// Longer than any disk needs for one prompt.
const SAVE_TIMEOUT: Duration = Duration::from_mins(2);
const SAVE_POLL: Duration = Duration::from_millis(20);

/// Samples of every figure, one per pair of engines.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    prompt_tokens: usize,
    loaded_blocks: Samples,
    with: Samples,
    without: Samples,
    speedup: Samples,
}

/// Writes the longest system prompt into the folder and answers it in fresh engines.
pub(super) fn measure(
    config: &EngineConfig,
    trace: &Trace,
    runs: usize,
    progress: &dyn Progress,
) -> anyhow::Result<Fresh> {
    let system = trace.system_prompts.first().context("a trace has a system prompt")?;
    let mut said = trace.sessions.iter().filter_map(|session| match session.steps.first() {
        Some(Step::Say(said)) => Some(&said[..]),
        _ => None,
    });
    let prompt = |said: Option<&[u32]>| [system, said.unwrap_or_default()].concat();
    let (stored, asked) = (prompt(said.next()), prompt(said.next()));
    let task = progress.begin("measuring fresh engines", Amount::Items(2 * runs as u64 + 1));
    fill(config, &stored, progress)?;
    task.advance_to(1);
    let mut results = Fresh { prompt_tokens: asked.len(), ..Fresh::default() };
    for run in 0..runs {
        let [with, without] = [true, false].map(|has_folder| {
            let answered = first_token(config, has_folder, &asked, progress);
            task.advance_to((2 * run + 2 + usize::from(!has_folder)) as u64);
            answered
        });
        let ((with, loaded_blocks), (without, _)) = (with?, without?);
        results.loaded_blocks.0.push(loaded_blocks as f64);
        results.with.0.push(with);
        results.without.0.push(without);
        results.speedup.0.push(without / with.max(1e-9));
    }
    Ok(results)
}

/// An engine with that folder, or with none. A block is written when it was hit so often.
fn start(
    config: &EngineConfig,
    has_folder: bool,
    min_hits: u32,
    progress: &dyn Progress,
) -> anyhow::Result<Booted> {
    let folder = config.prefix_cache.folder.clone().filter(|_| has_folder);
    let prefix_cache = PrefixCacheConfig { folder, min_hits, ..config.prefix_cache.clone() };
    boot::boot(&EngineConfig { prefix_cache, ..config.clone() }, progress)
}

/// Has every whole block of a prompt written, and waits for that.
fn fill(config: &EngineConfig, prompt: &[u32], progress: &dyn Progress) -> anyhow::Result<()> {
    start(config, true, 0, progress)?.finish(|booted| {
        let store = booted.prefix_store.as_ref().context("prefixes cannot be kept there")?;
        read(submit(&booted.engine, prompt.to_vec(), 1, None)?)?;
        let mut parent = None;
        let keys = prompt.chunks_exact(config.block_size()).map(|token_ids| {
            let key = store.key_of(parent, None, token_ids);
            parent = Some(key);
            key
        });
        let keys: Vec<_> = keys.collect();
        let started = Instant::now();
        while let Some(num_written) = keys.iter().position(|key| !store.contains(key)) {
            ensure!(
                started.elapsed() < SAVE_TIMEOUT,
                "expected {} blocks in the folder of prefixes within {} s, got {num_written}",
                keys.len(),
                SAVE_TIMEOUT.as_secs(),
            );
            thread::sleep(SAVE_POLL);
        }
        Ok(())
    })
}

/// Seconds to the first token in a fresh engine, and the blocks that it loaded.
fn first_token(
    config: &EngineConfig,
    has_folder: bool,
    prompt: &[u32],
    progress: &dyn Progress,
) -> anyhow::Result<(f64, u64)> {
    start(config, has_folder, u32::MAX, progress)?.finish(|booted| {
        let (_, usage) = read(submit(&booted.engine, prompt.to_vec(), 1, None)?)?;
        let loaded = booted.prefix_store.as_ref().map_or(0, |store| store.stats().hits);
        Ok((usage.time_to_first_token.as_secs_f64(), loaded))
    })
}

impl Fresh {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "loaded_blocks": self.loaded_blocks.to_json(),
            "time_to_first_token_with_seconds": self.with.to_json(),
            "time_to_first_token_without_seconds": self.without.to_json(),
            "speedup": self.speedup.to_json(),
        })
    }
}

impl fmt::Display for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("fresh engine, {} tokens: blocks loaded", self.prompt_tokens);
        let figures = [
            (&name[..], &self.loaded_blocks, 1.0),
            ("  first token, ms: with the folder", &self.with, 1e3),
            ("  without", &self.without, 1e3),
            ("  times as fast", &self.speedup, 1.0),
        ];
        table(&figures).fmt(f)
    }
}

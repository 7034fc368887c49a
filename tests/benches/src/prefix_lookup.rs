//! How long it takes to find a long prompt in a large pool: from `submit` to the launch.
//!
//! What this module deliberately does not do: steps of many sequences.

use super::*;

/// Times from `submit` to the first launch.
#[derive(Debug, Default)]
pub(super) struct PrefixFigures {
    /// Prompts that are cached but for one token.
    pub(super) cached: Vec<f64>,
    /// Prompts of one token: all that is not the prompt's length.
    pub(super) short: Vec<f64>,
}

pub(super) const LONG_PROMPT: usize = 32 * 1024;
pub(super) const SMALL_BLOCK: usize = 16;
pub(super) const POOL_BLOCKS: usize = 100_000;
pub(super) const NUM_LOOKUPS: usize = 200;

/// Tells when it is launched.
struct Herald(Sender<Instant>);

impl Executable for Herald {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        _: &Step<'_>,
        _: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        Err(BackendError::Execution("only the largest logit is to be had".into()))
    }

    fn run_wanted(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        _: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        // An error says that nobody waits any more.
        let _ = self.0.send(Instant::now());
        answer(3, step.symbols[symbols::NUM_LOGITS.0 as usize] as usize, output);
        Ok(())
    }
}

/// Fills a pool with long prompts, then asks for them again, each in its turn.
pub(super) fn prefix(num_lookups: usize) -> anyhow::Result<PrefixFigures> {
    let options = EngineOptions {
        max_model_len: LONG_PROMPT + SMALL_BLOCK,
        max_num_batched_tokens: LONG_PROMPT,
        block_size: SMALL_BLOCK,
        num_blocks: POOL_BLOCKS,
        ..EngineOptions::default()
    };
    let (herald, launches) = channel();
    let executables = engine::plan(&Capabilities::ANY, &options).into_iter();
    let executables =
        executables.map(|bucket| (bucket, Box::new(Herald(herald.clone())) as Box<dyn Executable>));
    let model = LoadedModel {
        executables: executables.collect(),
        memory: Box::new(NoMemory),
        vocab_size: 256 + NUM_WORDS,
        eos_token_ids: vec![0],
    };
    let engine = engine::start(EngineParts::new(model, tokenizer()?, options))?;
    let ask = |prompt: Vec<u32>| -> anyhow::Result<(f64, usize)> {
        let mut request = request(prompt);
        request.params.max_tokens = Some(1);
        let submitted = Instant::now();
        let mut stream = engine.submit(request)?;
        let launched = launches.recv_timeout(PATIENCE).context("nothing was launched")?;
        let mut num_cached = 0;
        while let Some(output) = stream.blocking_recv() {
            match output {
                engine::Output::Finished(usage) => num_cached = usage.cached_tokens,
                engine::Output::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok((micros(launched - submitted), num_cached))
    };
    let num_prompts = POOL_BLOCKS / (LONG_PROMPT / SMALL_BLOCK);
    let mut prompts: Vec<_> = (0..num_prompts).map(|seed| prompt(seed, LONG_PROMPT)).collect();
    for prompt in &mut prompts {
        ask(prompt.clone())?;
        // The last token of a prompt is computed, cached or not.
        prompt.push(300);
    }
    let mut figures = PrefixFigures::default();
    for prompt in prompts.iter().cycle().take(num_lookups) {
        let (time, num_cached) = ask(prompt.clone())?;
        ensure!(num_cached == LONG_PROMPT, "only {num_cached} tokens were cached");
        figures.cached.push(time);
        figures.short.push(ask(vec![300])?.0);
    }
    engine.shutdown();
    Ok(figures)
}

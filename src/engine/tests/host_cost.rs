//! What a step costs besides the device.

use std::any::Any;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::super::fake::tokenizer;
use super::*;
use crate::backend::{BackendError, Executable, Memory, Output as RunOutput, Rows, Step, Wanted};
use crate::model::io::symbols;

/// Computes nothing: the largest logit is that of token 65. Writes down the time between runs.
#[derive(Debug)]
struct Instantaneous {
    ended_at: Option<Instant>,
    gaps: Arc<Mutex<Vec<Duration>>>,
}

impl Executable for Instantaneous {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        _: &Step<'_>,
        _: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        Err(BackendError::Execution("only the largest".into()))
    }

    fn run_wanted(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut RunOutput,
    ) -> Result<(), BackendError> {
        if let Some(ended_at) = self.ended_at {
            self.gaps.lock().unwrap().push(ended_at.elapsed());
        }
        let num_logits = step.symbols[symbols::NUM_LOGITS.0 as usize] as usize;
        let (k, rows) = match wanted {
            Wanted::Argmax => (1, Rows::Argmax),
            _ => (64, Rows::TopK { k: 64 }),
        };
        output.rows = rows;
        output.values.clear();
        output.indices.clear();
        for _ in 0..num_logits {
            output.values.extend((0..k).map(|idx| -(idx as f32)));
            output.indices.extend((0..k).map(|idx| 65 + idx));
        }
        self.ended_at = Some(Instant::now());
        Ok(())
    }
}

#[derive(Debug)]
struct NoMemory;

impl Memory for NoMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }
}

/// The median time between two steps of that many sequences.
fn median_gap(num_seqs: usize, params: &SamplingParams) -> Duration {
    let options = EngineOptions {
        max_model_len: 4096,
        max_num_seqs: num_seqs,
        max_num_batched_tokens: 512,
        block_size: 128,
        num_blocks: 32 * num_seqs,
        max_num_queued_reqs: 0,
        ..EngineOptions::default()
    };
    let gaps = Arc::<Mutex<Vec<Duration>>>::default();
    let executables = plan(&SEPARATE, &options).into_iter().map(|bucket| {
        let executable = Instantaneous { ended_at: None, gaps: Arc::clone(&gaps) };
        (bucket, Box::new(executable) as Box<dyn Executable>)
    });
    let model = LoadedModel {
        executables: executables.collect(),
        memory: Box::new(NoMemory),
        vocab_size: 256,
        eos_token_ids: vec![EOS],
    };
    let engine = start(EngineParts::new(model, tokenizer(), options)).unwrap();
    let params = SamplingParams { max_tokens: Some(2000), ignore_eos: true, ..params.clone() };
    let submit = |_| engine.submit(request(&[65], params.clone())).unwrap();
    let streams: Vec<_> = (0..num_seqs).map(submit).collect();
    // Somebody reads them all as they come, as a server does.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut readers = tokio::task::JoinSet::new();
        for mut stream in streams {
            readers.spawn(async move { while stream.recv().await.is_some() {} });
        }
        readers.join_all().await;
    });
    let mut gaps = std::mem::take(&mut *gaps.lock().unwrap());
    gaps.sort_unstable();
    gaps[gaps.len() / 2]
}

#[test]
#[ignore = "a measurement: run it alone, with --release and --nocapture"]
fn what_a_step_costs_besides_the_device() {
    let greedy = greedy_params(1);
    let sampled = SamplingParams { top_k: Some(50), top_p: 0.9, ..SamplingParams::default() };
    for num_seqs in [1, 32, 256] {
        for (name, params) in [("greedy", &greedy), ("top_k 50, top_p 0.9", &sampled)] {
            let median = median_gap(num_seqs, params);
            writeln!(io::stderr(), "{num_seqs} sequences, {name}: {median:?} a step").unwrap();
        }
    }
}

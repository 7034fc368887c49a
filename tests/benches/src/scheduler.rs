//! What a step costs on the host: everything but the device, through the engine's public door.
//!
//! ```text
//! device   |  run, answers at once  |                             |  run
//! engine   |  meanwhile             |  between                    |
//!             texts, commands,         sample, complete the plan,
//!             plan the next step       lay out the inputs
//! ```
//!
//! ```text
//! cargo run --release --manifest-path tests/benches/Cargo.toml --bin scheduler -- [--json]
//!     [--steps N] [--repetitions N] [--device-us N] [--only TEXT]
//! ```
//!
//! | Measured | How |
//! | --- | --- |
//! | between | host work that nothing hides: from the end of a run to the start of the next |
//! | meanwhile | host work while the device works, which hides it if it takes as long |
//! | host | the two together |
//! | allocations | blocks that the engine thread took from the heap, in both |
//! | prefix | from `submit` to the first launch: a prompt of 32k tokens in a full pool of 100k blocks |
//!
//! Every sequence samples greedily. One token in sixteen is a byte of a character of three. Blocks
//! become full at different steps. `read` has a second thread that reads all streams as they come,
//! as a server does; without it, output piles up in the mailboxes. A device that answers at once is
//! faster than any reader; with `--device-us` it takes that long, so that readers wait, and are woken.
//!
//! A step is counted when it is a decode of all sequences, after as many as settle all buffers. The
//! cases take turns, and each repetition has a new engine: the spread is over repetitions.

mod allocations;
mod prefix_lookup;

use std::any::Any;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use cairn::backend::{
    BackendError, Batching, Capabilities, Executable, Memory, Output, Rows, Step, Wanted,
};
use cairn::engine::{
    self, EngineHandle, EngineOptions, EngineParts, LoadedModel, Request, ResponseStream,
    SamplingParams,
};
use cairn::model::io::symbols;
use cairn::text::{GgufVocab, Tokenizer};
use serde_json::json;

use prefix_lookup::{LONG_PROMPT, NUM_LOOKUPS, POOL_BLOCKS, PrefixFigures, SMALL_BLOCK, prefix};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

const SIZES: [usize; 4] = [1, 64, 256, 1024];
const BLOCK_SIZE: usize = 128;
const MAX_MODEL_LEN: usize = 4096;
const PROMPT_TOKENS: usize = 512;
/// Steps before any is counted: no buffer grows after them.
const NUM_WARM_UP: usize = 300;
/// Word tokens behind those of the bytes.
const NUM_WORDS: usize = 1024;
const BYTES: [u8; 3] = [0xe4, 0xbd, 0xa0];

/// Something is wrong when nothing happens for so long.
const PATIENCE: Duration = Duration::from_mins(5);

/// What one step took.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    between: Duration,
    meanwhile: Duration,
    num_allocations: u64,
}

/// What the device writes down, and what it waits for.
struct Record {
    /// Nothing runs before the start is given.
    start: Receiver<()>,
    done: Sender<Vec<Sample>>,
    samples: Vec<Sample>,
    num_seqs: usize,
    num_to_skip: usize,
}

/// What all executables of one engine share.
struct Shared {
    record: Option<Record>,
    ended: Option<(Instant, u64)>,
    num_runs: usize,
    run_time: Duration,
}

/// Answers at once, or after a while. The largest logit is that of another token in every step and
/// row.
struct Device(Arc<Mutex<Shared>>);

impl Executable for Device {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        _: &Step<'_>,
        _: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        Err(BackendError::Execution("only the largest logit is to be had".into()))
    }

    fn run_meanwhile(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        _: Wanted,
        output: &mut Output,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), BackendError> {
        let (started, num_before) = (Instant::now(), allocations::of_this_thread());
        meanwhile();
        let (told, num_after) = (Instant::now(), allocations::of_this_thread());
        // Nobody else has it while an engine works, so the lock costs next to nothing.
        let mut shared = self.0.lock().expect("no other thread uses it");
        let size = |id: cairn::ir::SymbolId| step.symbols[id.0 as usize] as usize;
        if let Some((ended, num_then)) = shared.ended {
            let sample = Sample {
                between: started - ended,
                meanwhile: told - started,
                num_allocations: num_after - num_before + (num_before - num_then),
            };
            let decodes = [symbols::NUM_TOKENS, symbols::NUM_SEQS].map(size);
            shared.note(sample, decodes);
        } else if let Some(record) = &shared.record {
            // An error says that nobody waits any more.
            let _ = record.start.recv();
        }
        shared.num_runs += 1;
        answer(shared.num_runs, size(symbols::NUM_LOGITS), output);
        if !shared.run_time.is_zero() {
            thread::sleep(shared.run_time);
        }
        shared.ended = Some((Instant::now(), allocations::of_this_thread()));
        Ok(())
    }
}

impl Shared {
    fn note(&mut self, sample: Sample, decodes: [usize; 2]) {
        let Some(record) = &mut self.record else { return };
        if decodes != [record.num_seqs; 2] {
            return;
        }
        if record.num_to_skip > 0 {
            record.num_to_skip -= 1;
            return;
        }
        record.samples.push(sample);
        if record.samples.len() == record.samples.capacity() {
            // An error says that nobody waits any more.
            let _ = record.done.send(std::mem::take(&mut record.samples));
            self.record = None;
        }
    }
}

fn answer(num_runs: usize, num_rows: usize, output: &mut Output) {
    output.rows = Rows::Argmax;
    output.values.clear();
    output.values.resize(num_rows, 1.0);
    output.indices.clear();
    output.indices.extend((0..num_rows).map(|row| match (num_runs + row) % 16 {
        place @ 0..3 => i32::from(BYTES[place]),
        place => (256 + (7 * num_runs + 13 * row + place) % NUM_WORDS) as i32,
    }));
}

/// Holds nothing.
struct NoMemory;

impl Memory for NoMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn copy_blocks(&mut self, _: &[(u32, u32)]) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Bytes, then words.
fn tokenizer() -> anyhow::Result<Tokenizer> {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = (0..NUM_WORDS).map(|word| format!("\u{2581}word{word}"));
    Ok(Tokenizer::from_gguf(GgufVocab {
        model: "llama".into(),
        tokens: bytes.chain(words).collect(),
        merges: Some(Vec::new()),
        add_space_prefix: Some(false),
        ..GgufVocab::default()
    })?)
}

fn start(
    capabilities: &Capabilities,
    options: &EngineOptions,
    record: Record,
    run_time: Duration,
) -> anyhow::Result<EngineHandle> {
    let shared = Shared { record: Some(record), ended: None, num_runs: 0, run_time };
    let shared = Arc::new(Mutex::new(shared));
    let executables = engine::plan(capabilities, options)
        .into_iter()
        .map(|bucket| (bucket, Box::new(Device(Arc::clone(&shared))) as Box<dyn Executable>));
    let model = LoadedModel {
        executables: executables.collect(),
        memory: Box::new(NoMemory),
        vocab_size: 256 + NUM_WORDS,
        eos_token_ids: vec![0],
    };
    Ok(engine::start(EngineParts::new(model, tokenizer()?, options.clone()))?)
}

fn request(prompt_token_ids: Vec<u32>) -> Request {
    let params = SamplingParams { temperature: 0.0, ignore_eos: true, ..SamplingParams::default() };
    Request::new(prompt_token_ids, params)
}

/// A prompt that shares no block with those of other seeds.
fn prompt(seed: usize, num_tokens: usize) -> Vec<u32> {
    let mut state = seed as u64;
    let mut next = || {
        // The generator of Vigna's "splitmix64".
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..num_tokens).map(|_| 256 + (next() % NUM_WORDS as u64) as u32).collect()
}

/// One way to run steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    num_seqs: usize,
    is_dynamic: bool,
    is_read: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let kinds = [(true, false), (true, true), (false, false), (false, true)];
        kinds.into_iter().flat_map(|(is_dynamic, is_read)| {
            SIZES.map(|num_seqs| Self { num_seqs, is_dynamic, is_read })
        })
    }

    fn name(self) -> String {
        let shapes = if self.is_dynamic { "dynamic" } else { "static" };
        let readers = if self.is_read { "read" } else { "unread" };
        format!("{shapes} {readers} {}", self.num_seqs)
    }

    /// Decodes of an engine that has nothing else to do.
    fn run(self, num_steps: usize, run_time: Duration) -> anyhow::Result<Vec<Sample>> {
        let num_seqs = self.num_seqs;
        let capabilities = Capabilities {
            dynamic_shapes: self.is_dynamic,
            batching: if self.is_dynamic { Batching::Ragged } else { Batching::Separate },
            block_size_multiple: BLOCK_SIZE,
            ..Capabilities::ANY
        };
        let options = EngineOptions {
            max_model_len: MAX_MODEL_LEN,
            max_num_seqs: num_seqs,
            max_num_batched_tokens: 8192,
            block_size: BLOCK_SIZE,
            num_blocks: (MAX_MODEL_LEN / BLOCK_SIZE + 1) * num_seqs,
            ..EngineOptions::default()
        };
        let ((start_now, started), (done, samples)) = (channel(), channel());
        let record = Record {
            start: started,
            done,
            samples: Vec::with_capacity(num_steps),
            num_seqs,
            num_to_skip: NUM_WARM_UP,
        };
        let engine = start(&capabilities, &options, record, run_time)?;
        let submit = |seq: usize| {
            let num_tokens = PROMPT_TOKENS - seq % BLOCK_SIZE;
            engine.submit(request(prompt(seq, num_tokens)))
        };
        let streams: Vec<_> = (0..num_seqs).map(submit).collect::<Result<_, _>>()?;
        let (readers, streams) = if self.is_read {
            (Some(thread::spawn(|| read_all(streams))), Vec::new())
        } else {
            (None, streams)
        };
        start_now.send(()).context("the engine does not run")?;
        let samples = samples.recv_timeout(PATIENCE);
        engine.shutdown();
        drop(streams);
        if let Some(readers) = readers {
            readers.join().ok().context("the readers panicked")??;
        }
        samples.with_context(|| format!("{} ended before its time", self.name()))
    }
}

fn read_all(streams: Vec<ResponseStream>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let mut readers = tokio::task::JoinSet::new();
        for mut stream in streams {
            readers.spawn(async move { while stream.recv().await.is_some() {} });
        }
        readers.join_all().await;
    });
    Ok(())
}

/// Of the repetitions, what each gave.
#[derive(Debug, Default)]
struct Figures {
    between: [Vec<f64>; 2],
    meanwhile: [Vec<f64>; 2],
    host: [Vec<f64>; 2],
    allocations_per_step: Vec<f64>,
    steps_that_allocate: Vec<f64>,
}

impl Figures {
    fn add(&mut self, samples: &[Sample]) {
        for (figures, of) in [
            (&mut self.between, (|sample| sample.between) as fn(&Sample) -> Duration),
            (&mut self.meanwhile, |sample| sample.meanwhile),
            (&mut self.host, |sample| sample.between + sample.meanwhile),
        ] {
            let mut times: Vec<f64> = samples.iter().map(|sample| micros(of(sample))).collect();
            times.sort_by(f64::total_cmp);
            figures[0].push(times[times.len() / 2]);
            figures[1].push(times[times.len() * 99 / 100]);
        }
        let num_allocations: u64 = samples.iter().map(|sample| sample.num_allocations).sum();
        let num_allocating = samples.iter().filter(|sample| sample.num_allocations > 0).count();
        self.allocations_per_step.push(num_allocations as f64 / samples.len() as f64);
        self.steps_that_allocate.push(num_allocating as f64 / samples.len() as f64);
    }
}

/// Median, least and most of the repetitions.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

fn to_json(values: &[f64]) -> serde_json::Value {
    let [median, min, max] = spread(values);
    json!({ "median": median, "min": min, "max": max })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What was asked for.
struct Args {
    is_json: bool,
    num_steps: usize,
    num_repetitions: usize,
    run_time: Duration,
    only: String,
}

impl Args {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut args = Self {
            is_json: false,
            num_steps: 2000,
            num_repetitions: 5,
            run_time: Duration::ZERO,
            only: String::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--json" => args.is_json = true,
                "--steps" => args.num_steps = value()?.parse().context("reading --steps")?,
                "--repetitions" => {
                    args.num_repetitions = value()?.parse().context("reading --repetitions")?;
                }
                "--device-us" => {
                    let micros = value()?.parse().context("reading --device-us")?;
                    args.run_time = Duration::from_micros(micros);
                }
                "--only" => args.only = value()?,
                _ => bail!(
                    "unknown argument {argument}: expected --json, --steps, --repetitions, \
                     --device-us or --only"
                ),
            }
        }
        let max_steps = MAX_MODEL_LEN - PROMPT_TOKENS - NUM_WARM_UP - BLOCK_SIZE;
        ensure!(
            (1..=max_steps).contains(&args.num_steps) && args.num_repetitions > 0,
            "expected 1 to {max_steps} steps and at least one repetition"
        );
        Ok(args)
    }
}

/// The processor's name, where the system tells it.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let num_cpus = thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {num_cpus} threads", name.map_or("unknown", |(_, name)| name))
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    let cases: Vec<Case> = Case::all().filter(|case| case.name().contains(&args.only)).collect();
    let mut figures: Vec<Figures> = cases.iter().map(|_| Figures::default()).collect();
    let mut prefixes = PrefixFigures::default();
    for _ in 0..args.num_repetitions {
        for (case, figures) in cases.iter().zip(&mut figures) {
            figures.add(&case.run(args.num_steps, args.run_time)?);
        }
        if "prefix".contains(&args.only) {
            let PrefixFigures { cached, short } = prefix(NUM_LOOKUPS)?;
            prefixes.cached.push(spread(&cached)[0]);
            prefixes.short.push(spread(&short)[0]);
        }
    }
    if args.is_json {
        print_json(&args, &cases, &figures, &prefixes)
    } else {
        print_table(&cases, &figures, &prefixes);
        Ok(())
    }
}

fn print_json(
    args: &Args,
    cases: &[Case],
    figures: &[Figures],
    prefixes: &PrefixFigures,
) -> anyhow::Result<()> {
    let cases = cases.iter().zip(figures).map(|(case, figures)| {
        let times = |[median, p99]: &[Vec<f64>; 2]| {
            json!({ "median_us": to_json(median), "p99_us": to_json(p99) })
        };
        json!({
            "num_seqs": case.num_seqs,
            "shapes": if case.is_dynamic { "dynamic" } else { "static" },
            "is_read": case.is_read,
            "between": times(&figures.between),
            "meanwhile": times(&figures.meanwhile),
            "host": times(&figures.host),
            "allocations_per_step": to_json(&figures.allocations_per_step),
            "steps_that_allocate": to_json(&figures.steps_that_allocate),
        })
    });
    let mut report = json!({
        "machine": machine(),
        "revision": cairn::build_info::GIT_REVISION,
        "profile": cairn::build_info::PROFILE,
        "device_us": micros(args.run_time),
        "steps": args.num_steps,
        "repetitions": args.num_repetitions,
        "block_size": BLOCK_SIZE,
        "prompt_tokens": PROMPT_TOKENS,
        "cases": cases.collect::<Vec<_>>(),
    });
    if !prefixes.cached.is_empty() {
        report["prefix"] = json!({
            "prompt_tokens": LONG_PROMPT,
            "block_size": SMALL_BLOCK,
            "num_blocks": POOL_BLOCKS,
            "submit_to_launch_us": to_json(&prefixes.cached),
            "submit_to_launch_of_one_token_us": to_json(&prefixes.short),
        });
    }
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn print_table(cases: &[Case], figures: &[Figures], prefixes: &PrefixFigures) {
    println!("{}, {}", machine(), cairn::build_info::LONG_VERSION);
    println!(
        "microseconds      between p50 (min..max)    p99  meanwhile p50 (min..max)    p99       host p50 (min..max)    p99  allocs/step  steps with"
    );
    for (case, figures) in cases.iter().zip(figures) {
        let times = |[median, p99]: &[Vec<f64>; 2]| {
            let [mid, min, max] = spread(median);
            format!("{mid:>9.1} ({:>14}) {:>6.1}", format!("{min:.1}..{max:.1}"), spread(p99)[0])
        };
        println!(
            "{:<20} {} {} {} {:>12.3} {:>11.4}",
            case.name(),
            times(&figures.between),
            times(&figures.meanwhile),
            times(&figures.host),
            spread(&figures.allocations_per_step)[0],
            spread(&figures.steps_that_allocate)[0],
        );
    }
    if !prefixes.cached.is_empty() {
        let [cached, cached_min, cached_max] = spread(&prefixes.cached);
        let [short, short_min, short_max] = spread(&prefixes.short);
        println!(
            "prefix: submit to launch of {LONG_PROMPT} cached tokens among {POOL_BLOCKS} blocks of {SMALL_BLOCK}: \
             {cached:.1} ({cached_min:.1}..{cached_max:.1}), of one token {short:.1} ({short_min:.1}..{short_max:.1})"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_decode_step_takes_nothing_from_the_heap() {
        for is_dynamic in [true, false] {
            let case = Case { num_seqs: 64, is_dynamic, is_read: false };
            let samples = case.run(1000, Duration::ZERO).unwrap();
            // What nobody reads piles up: its buffers double now and then.
            let allowed = 64;
            let num_allocations: u64 = samples.iter().map(|sample| sample.num_allocations).sum();
            assert!(num_allocations <= allowed, "{num_allocations} in 1000 steps, {}", case.name());
        }
    }
}

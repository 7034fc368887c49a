//! `cairn generate`: continues one prompt.
//!
//! ```text
//! prompt --template (unless --raw)--> text --tokenizer--> tokens --engine--> deltas --> stdout
//!                                                                              `--> one summary line
//! ```
//!
//! One text is printed as it is made; several, one after the other, once all are done.
//!
//! What this module deliberately does not do: conversations of several turns; the server does.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::boot::{self, BootReport, Booted};
use super::failure::{Hint, Outcome, Usage};
use super::model_args::ModelArgs;
use super::values::{self, TopK};
use super::{Context, output};
use crate::engine::{
    BeamParams, ChoiceDelta, MAX_CHOICES, MAX_LOGPROBS, Output, Request, RequestError,
    ResponseStream, SamplingParams, SubmitError, TokenLogprobs, Usage as TokenUsage,
};
use crate::text::{ChatMessage, Conversation, Tokenizer};

/// Most bytes of a prompt on stdin: far more than any context holds.
const MAX_PROMPT_BYTES: u64 = 16 << 20;

const EXAMPLES: &str = "\
Examples:
  cairn generate --prompt \"Why is the sky blue?\"
  cairn generate model.gguf --prompt \"Once upon a time\" --raw --max-tokens 50
  cairn generate --prompt \"A haiku\" --temperature 0.8 --top-p 0.95 --seed 7
  cairn generate --prompt - --json < question.txt
  cairn generate --prompt \"A name for a ship\" --temperature 1 --n 3

Without sampling flags the output is the same each time: temperature 0 always takes the most likely
token.";

/// Continue a prompt and print the text as it is made.
///
/// The prompt is put into the model's chat template as a user's message; a model without a template
/// gets it as it is, as with --raw. Only the generated text goes to stdout, ended by a line break;
/// of several texts, each has a line `--- 1 of 3 ---` above it. One line with counts and times
/// follows on stderr. Ctrl-C ends the text early (exit code 130).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GenerateArgs {
    /// The text to continue; `-` reads it from stdin, without a final line break.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,

    /// A system message, put before the prompt by the chat template.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "raw")]
    system: Option<String>,

    /// Continue the prompt as it is, without the chat template.
    #[arg(long)]
    raw: bool,

    /// Print one JSON object at the end instead of the text as it is made.
    #[arg(long)]
    json: bool,

    /// Tell the log probability of each token, and of the N likeliest in its place; from 0 to 20.
    #[arg(long, value_name = "N", requires = "json", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(0..=MAX_LOGPROBS as u64))]
    logprobs: Option<usize>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    model: ModelArgs,
}

/// How to choose tokens and when to stop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling options")]
struct SamplingArgs {
    /// Most tokens to generate; fewer when the context is full.
    #[arg(long, value_name = "N", default_value = "256", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(1..=u64::MAX))]
    max_tokens: u64,

    /// 0 always takes the most likely token; higher is more varied. From 0 to 100.
    #[arg(long, value_name = "T", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::real(0.0..=100.0))]
    temperature: f32,

    /// Choose among the K most likely tokens only; -1: among all.
    #[arg(long, value_name = "K", default_value = "-1", allow_hyphen_values = true)]
    #[arg(value_parser = values::top_k)]
    top_k: TopK,

    /// Choose among the most likely tokens that together reach this probability; above 0, at most
    /// 1.
    #[arg(long, value_name = "P", default_value = "1", allow_hyphen_values = true)]
    #[arg(value_parser = values::share)]
    top_p: f32,

    /// Leave out tokens less likely than this share of the most likely one; from 0 to 1.
    #[arg(long, value_name = "P", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::real(0.0..=1.0))]
    min_p: f32,

    /// Makes sampling repeatable: the same seed gives the same text [default: another each time].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(0..=u64::MAX))]
    seed: Option<u64>,

    /// How many texts to generate.
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_CHOICES as u64))]
    n: usize,

    /// Makes tokens that were generated before less likely, once for all; from -2 to 2.
    #[arg(long, value_name = "P", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::real(-2.0..=2.0))]
    presence_penalty: f32,

    /// The same for each time that they were; from -2 to 2.
    #[arg(long, value_name = "P", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::real(-2.0..=2.0))]
    frequency_penalty: f32,

    /// Makes tokens of prompt and text less likely by a factor; above 0, 1 changes nothing.
    #[arg(long, value_name = "P", default_value = "1", allow_hyphen_values = true)]
    #[arg(value_parser = values::real(f32::MIN_POSITIVE..=100.0))]
    repetition_penalty: f32,

    /// Search for the likeliest texts with so many beams instead of choosing token by token.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_CHOICES as u64))]
    beam_width: Option<usize>,

    /// With beams: above 0 favours long texts, below 0 short ones.
    #[arg(long, value_name = "P", default_value = "1", allow_hyphen_values = true)]
    #[arg(requires = "beam_width", value_parser = values::real(-100.0..=100.0))]
    length_penalty: f32,

    /// Tokens to generate before the text may end.
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(0..=u64::MAX))]
    min_tokens: usize,

    /// Go on after the model's end-of-text tokens.
    #[arg(long)]
    ignore_eos: bool,

    /// End before this text; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
}

impl SamplingArgs {
    fn params(&self, logprobs: Option<usize>) -> Result<SamplingParams, Usage> {
        let length_penalty = self.length_penalty;
        let beam = |width| BeamParams { width, length_penalty, early_stopping: false };
        let params = SamplingParams {
            max_tokens: Some(self.max_tokens),
            temperature: self.temperature,
            top_k: self.top_k.0,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            n: self.n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            beam: self.beam_width.map(beam),
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            logprobs,
            stop: self.stop.clone(),
            ..SamplingParams::default()
        };
        params.validate().map_err(|error| Usage(error.to_string()))?;
        Ok(params)
    }
}

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs, context: &Context) -> anyhow::Result<Outcome> {
    // All that can be wrong with what was typed comes before the long work.
    let params = args.sampling.params(args.logprobs)?;
    let prompt = args.prompt_text()?;
    let config = args.model.engine_config(context)?;

    let booted = boot::boot(&config, &*context.progress)?;
    booted.finish(|booted| generate(args, &prompt, params, booted))
}

fn generate(
    args: &GenerateArgs,
    prompt: &str,
    params: SamplingParams,
    booted: &Booted,
) -> anyhow::Result<Outcome> {
    let prompt_token_ids = args.tokens(prompt, booted)?;
    let mut made = Made::new(prompt_token_ids.len(), params.n);
    let stream = submit(booted, Request::new(prompt_token_ids, params))?;

    let is_streamed = !args.json && made.choices.len() == 1;
    let followed = follow(stream, &mut made, is_streamed);
    if args.json {
        let outcome = followed?;
        output::write_json(&made.to_json(&booted.report, &booted.tokenizer))?;
        output::say(made.summary(outcome, &booted.report));
        return Ok(outcome);
    }
    if !is_streamed {
        output::write(&made.texts())?;
    } else if followed.is_ok() || made.choices.iter().any(|choice| !choice.text.is_empty()) {
        // What failed before its first word leaves stdout empty.
        output::write("\n")?;
    }
    let outcome = followed?;
    output::say(made.summary(outcome, &booted.report));
    Ok(outcome)
}

impl GenerateArgs {
    fn prompt_text(&self) -> anyhow::Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let mut text = String::new();
        let limited = &mut io::stdin().lock().take(MAX_PROMPT_BYTES + 1);
        let num_bytes =
            limited.read_to_string(&mut text).context("reading the prompt from stdin")?;
        if num_bytes as u64 > MAX_PROMPT_BYTES {
            bail!("the prompt on stdin is longer than {MAX_PROMPT_BYTES} bytes");
        }
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }

    fn tokens(&self, prompt: &str, booted: &Booted) -> anyhow::Result<Vec<u32>> {
        let template = booted.chat_template.as_ref().filter(|_| !self.raw);
        let Some(template) = template else {
            if self.system.is_some() {
                bail!("the model has no chat template, so `--system` has no place to go");
            }
            return booted.tokenizer.encode(prompt, true).context("tokenizing the prompt");
        };
        let mut messages = Vec::new();
        messages.extend(self.system.as_deref().map(|system| ChatMessage::new("system", system)));
        messages.push(ChatMessage::new("user", prompt));
        let text = template
            .render(&Conversation::new(&messages))
            .context("rendering the chat template")
            .hint("`--raw` does without the template")?;
        // The template writes the special tokens itself.
        booted.tokenizer.encode(&text, false).context("tokenizing the prompt")
    }
}

fn submit(booted: &Booted, request: Request) -> anyhow::Result<ResponseStream> {
    booted.engine.submit(request).or_else(|error| match error {
        SubmitError::PromptTooLong { .. } => {
            Err(error).hint("shorten the prompt, or raise `--max-model-len` if the model allows it")
        }
        error => Err(error.into()),
    })
}

/// What has been generated.
struct Made {
    choices: Vec<ChoiceDelta>,
    started: Instant,
    first_token: Option<Duration>,
    num_prompt_tokens: usize,
    finished: Option<TokenUsage>,
}

/// Collects the output, and prints it as it comes if asked to, until the end or Ctrl-C.
fn follow(
    mut stream: ResponseStream,
    made: &mut Made,
    is_printed: bool,
) -> anyhow::Result<Outcome> {
    // Only from here on is Ctrl-C ours: before, it simply ends the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            let output = tokio::select! {
                output = stream.recv() => output,
                _ = &mut interrupt => return Ok(Outcome::Interrupted),
            };
            match output {
                Some(Output::PromptLogprobs(_) | Output::Embedding(_)) => {}
                Some(Output::Delta(delta)) => {
                    if is_printed && !delta.text.is_empty() {
                        output::write(&delta.text)?;
                    }
                    made.append(delta);
                }
                Some(Output::Finished(usage)) => {
                    made.finished = Some(usage);
                    return Ok(Outcome::Done);
                }
                Some(Output::Failed(error)) => return Err(error.into()),
                None => return Err(RequestError::Stopped.into()),
            }
        }
    })
}

impl Made {
    fn new(num_prompt_tokens: usize, num_choices: usize) -> Self {
        let choice = |index| ChoiceDelta { index, ..ChoiceDelta::default() };
        Self {
            choices: (0..num_choices).map(choice).collect(),
            started: Instant::now(),
            first_token: None,
            num_prompt_tokens,
            finished: None,
        }
    }

    fn append(&mut self, delta: ChoiceDelta) {
        self.first_token.get_or_insert_with(|| self.started.elapsed());
        let choice = &mut self.choices[delta.index];
        choice.text.push_str(&delta.text);
        choice.token_ids.extend(delta.token_ids);
        choice.logprobs.extend(delta.logprobs);
        choice.end = delta.end;
    }

    /// Several texts, one after the other.
    fn texts(&self) -> String {
        let num_choices = self.choices.len();
        let text = |(number, choice): (usize, &ChoiceDelta)| {
            format!("--- {number} of {num_choices} ---\n{}\n", choice.text)
        };
        (1..).zip(&self.choices).map(text).collect()
    }

    /// As the engine counted, or as seen from here when it was interrupted.
    fn usage(&self) -> TokenUsage {
        self.finished.unwrap_or_else(|| TokenUsage {
            prompt_tokens: self.num_prompt_tokens,
            completion_tokens: self.choices.iter().map(|choice| choice.token_ids.len()).sum(),
            time_to_first_token: self.first_token.unwrap_or_default(),
            total_time: self.started.elapsed(),
            ..TokenUsage::default()
        })
    }

    fn summary(&self, outcome: Outcome, report: &BootReport) -> String {
        let usage = self.usage();
        let begin = match outcome {
            Outcome::Done => "",
            Outcome::Interrupted => "interrupted: ",
        };
        let plural = if usage.completion_tokens == 1 { "" } else { "s" };
        format!(
            "{begin}{} token{plural}, first after {:.2} s, {:.1} tokens/s; graphs: {} compiled, {} from cache",
            usage.completion_tokens,
            usage.time_to_first_token.as_secs_f64(),
            tokens_per_second(&usage),
            report.graphs_compiled,
            report.graphs_from_cache,
        )
    }

    /// The first text stands at the top, too, for whoever asks for one.
    fn to_json(&self, report: &BootReport, tokenizer: &Tokenizer) -> Value {
        let usage = self.usage();
        let phases = report.phases.iter();
        let phases: serde_json::Map<_, _> = phases
            .map(|(name, duration)| ((*name).to_owned(), json!(duration.as_secs_f64())))
            .collect();
        let choices: Vec<_> =
            self.choices.iter().map(|choice| choice_json(choice, tokenizer)).collect();
        let first = |key: &str| choices.first().map_or(&Value::Null, |choice| &choice[key]);
        json!({
            "model": report.model_name,
            "text": first("text"),
            "token_ids": first("token_ids"),
            "finish_reason": first("finish_reason"),
            "choices": choices,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
            },
            "timings": {
                "time_to_first_token_seconds": usage.time_to_first_token.as_secs_f64(),
                "total_seconds": usage.total_time.as_secs_f64(),
                "tokens_per_second": tokens_per_second(&usage),
                "startup_seconds": phases,
            },
            "graphs": {
                "compiled": report.graphs_compiled,
                "from_cache": report.graphs_from_cache,
            },
        })
    }
}

fn choice_json(choice: &ChoiceDelta, tokenizer: &Tokenizer) -> Value {
    let mut json = json!({
        "index": choice.index,
        "text": choice.text,
        "token_ids": choice.token_ids,
        "finish_reason": choice.end.as_ref().map_or("abort", |end| end.reason.as_str()),
    });
    if let Some(sum) = choice.end.as_ref().and_then(|end| end.cumulative_logprob) {
        json["cumulative_logprob"] = json!(sum);
    }
    if !choice.logprobs.is_empty() {
        let likely = |(token_id, logprob): (u32, f32)| {
            let bytes = tokenizer.token_bytes(token_id).unwrap_or_default();
            json!({
                "token_id": token_id,
                "token": String::from_utf8_lossy(bytes),
                "logprob": logprob,
            })
        };
        let entry = |entry: &TokenLogprobs| {
            let mut token = likely((entry.token_id, entry.logprob));
            token["rank"] = json!(entry.rank);
            token["top"] = entry.top.iter().copied().map(likely).collect();
            token
        };
        json["logprobs"] = choice.logprobs.iter().map(entry).collect();
    }
    json
}

/// The rate after the first token; of one token alone, the rate from the start.
pub(crate) fn tokens_per_second(usage: &TokenUsage) -> f64 {
    let later = usage.completion_tokens.saturating_sub(1);
    let (count, time) = if later == 0 {
        (usage.completion_tokens, usage.total_time)
    } else {
        (later, usage.total_time.saturating_sub(usage.time_to_first_token))
    };
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ChoiceEnd, FinishReason, fake};

    fn delta(index: usize, text: &str, token_ids: &[u32]) -> ChoiceDelta {
        let (text, token_ids) = (text.to_owned(), token_ids.to_vec());
        ChoiceDelta { index, text, token_ids, ..ChoiceDelta::default() }
    }

    fn usage(completion_tokens: usize, first_ms: u64, total_ms: u64) -> TokenUsage {
        TokenUsage {
            prompt_tokens: 3,
            completion_tokens,
            time_to_first_token: Duration::from_millis(first_ms),
            total_time: Duration::from_millis(total_ms),
            ..TokenUsage::default()
        }
    }

    #[test]
    fn the_rate_is_that_of_decoding() {
        let rate = |usage| format!("{:.3}", tokens_per_second(&usage));
        assert_eq!(rate(usage(11, 500, 1500)), "10.000");
        assert_eq!(rate(usage(1, 500, 500)), "2.000");
        assert_eq!(rate(usage(0, 0, 0)), "0.000");
        assert_eq!(rate(usage(5, 10, 10)), "0.000");
    }

    #[test]
    fn the_summary_says_what_scripts_look_for() {
        let mut made = Made::new(3, 1);
        let end = ChoiceEnd { reason: FinishReason::Stop, stop: None, cumulative_logprob: None };
        made.append(ChoiceDelta { end: Some(end), ..ChoiceDelta::default() });
        made.finished = Some(usage(24, 210, 575));
        let report = BootReport { graphs_compiled: 1, ..BootReport::default() };
        assert_eq!(
            made.summary(Outcome::Done, &report),
            "24 tokens, first after 0.21 s, 63.0 tokens/s; graphs: 1 compiled, 0 from cache"
        );
        let json = made.to_json(&report, &fake::tokenizer());
        assert_eq!(json["finish_reason"], "stop");
        assert_eq!(json["graphs"]["compiled"], 1);
        assert_eq!(json["usage"]["total_tokens"], 27);
    }

    #[test]
    fn what_was_made_before_an_interruption_is_counted() {
        let mut made = Made::new(3, 1);
        made.append(delta(0, "Hel", &[1, 2]));
        made.append(delta(0, "lo", &[3]));
        assert_eq!((made.choices[0].text.as_str(), made.usage().completion_tokens), ("Hello", 3));
        let report = BootReport::default();
        let summary = made.summary(Outcome::Interrupted, &report);
        assert!(summary.starts_with("interrupted: 3 tokens, "), "{summary}");
        assert_eq!(made.to_json(&report, &fake::tokenizer())["finish_reason"], "abort");
    }

    #[test]
    fn several_texts_have_a_line_above_each() {
        let mut made = Made::new(3, 2);
        made.append(delta(1, "two", &[1]));
        made.append(delta(0, "one", &[2]));
        assert_eq!(made.texts(), "--- 1 of 2 ---\none\n--- 2 of 2 ---\ntwo\n");
        let json = made.to_json(&BootReport::default(), &fake::tokenizer());
        assert_eq!((&json["text"], &json["choices"][1]["text"]), (&json!("one"), &json!("two")));
    }

    #[test]
    fn logprobs_are_told_with_the_texts_of_their_tokens() {
        let entry = TokenLogprobs {
            token_id: b'a'.into(),
            logprob: -0.5,
            rank: 2,
            top: vec![(b'b'.into(), -0.25)],
        };
        let choice = ChoiceDelta { logprobs: vec![entry], ..delta(0, "a", &[b'a'.into()]) };
        let json = choice_json(&choice, &fake::tokenizer());
        let top = json!([{"token_id": 98, "token": "b", "logprob": -0.25}]);
        let expected =
            json!([{"token_id": 97, "token": "a", "logprob": -0.5, "rank": 2, "top": top}]);
        assert_eq!(json["logprobs"], expected);
    }
}

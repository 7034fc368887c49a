//! The engine as a library: a model, and what it makes of prompts, without a server.
//!
//! ```text
//! Engine::builder(model) --build--> Engine --generate, chat--> Completion: choices, usage
//!    (settings)       (load, compile,  |`-----stream---------> ChoiceDelta, ChoiceDelta, ..
//!                      start)          `-tokenize------------> token ids
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Engine`] | a loaded model and its engine thread; ends with its value |
//! | [`EngineBuilder`] | what it is started with |
//! | [`Completion`] | what was made of one prompt |
//! | [`TextStream`] | the same as it is made |
//!
//! It is the engine that the server and the command line run, so the same prompts, settings and
//! seeds give the same tokens. Prompts of one call are computed together; calls from several threads
//! are, too.
//!
//! What this module deliberately does not do: async code; every call blocks its thread. An async
//! program takes [`Engine::handle`], whose streams can be awaited.

mod builder;
mod completion;
mod error;
mod stream;

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use crate::boot::{BootReport, Booted};
use crate::config::EngineConfig;
use crate::engine::{EngineHandle, Request, ResponseStream, SamplingParams, SubmitError};
use crate::text::{ChatMessage, Conversation};

pub use builder::EngineBuilder;
pub use completion::{Choice, Completion};
pub use error::Error;
pub use stream::TextStream;

/// How long a call waits before it asks again for a place that others have.
const WAIT_FOR_OTHERS: Duration = Duration::from_millis(10);

/// A loaded model and its running engine. Dropping it ends the engine, and fails what still runs.
///
/// ```no_run
/// use cairn::{ChatMessage, Engine, SamplingParams};
///
/// let engine = Engine::builder("smollm2-135m-instruct").max_model_len(2048).build()?;
///
/// // Many prompts at once, each continued as it is.
/// let params = SamplingParams { temperature: 0.0, max_tokens: Some(16), ..Default::default() };
/// for completion in engine.generate(&["The capital of France is", "2 + 2 ="], &params)? {
///     assert!(!completion.text().is_empty());
/// }
///
/// // A conversation, by the model's chat template.
/// let answer = engine.chat(&[ChatMessage::new("user", "Name three rivers.")], &params)?;
/// assert_eq!(answer.choices.len(), 1);
///
/// // Text as it is made.
/// let mut text = String::new();
/// for delta in engine.stream("Once upon a time", &params)? {
///     text.push_str(&delta?.text);
/// }
/// # Ok::<(), cairn::offline::Error>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    booted: Booted,
}

impl Engine {
    /// Settings for a model: a folder with safetensors and `config.json`, a `.gguf` file, or the
    /// name of a known model, which is fetched when it is not there yet.
    pub fn builder(model: impl Into<std::path::PathBuf>) -> EngineBuilder {
        EngineBuilder::new(model.into())
    }

    /// Starts an engine with settings of which the builder knows only the common ones.
    ///
    /// # Errors
    /// [`Error::Start`] when the model cannot be loaded, a setting cannot be used or something does
    /// not fit.
    pub fn start(config: &EngineConfig) -> Result<Self, Error> {
        let booted = crate::boot::start(config).map_err(Error::start)?;
        Ok(Self { booted })
    }

    /// Continues every prompt as it is, all together, and returns what came of each, in order.
    ///
    /// # Errors
    /// The first prompt that cannot be continued; nothing is returned of the others.
    pub fn generate<P: AsRef<str>>(
        &self,
        prompts: &[P],
        params: &SamplingParams,
    ) -> Result<Vec<Completion>, Error> {
        self.run(prompts.iter().map(|prompt| self.tokenize(prompt.as_ref())), params)
    }

    /// The same for prompts that are tokens already.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_tokens(
        &self,
        prompts: &[Vec<u32>],
        params: &SamplingParams,
    ) -> Result<Vec<Completion>, Error> {
        self.run(prompts.iter().map(|prompt| Ok(prompt.clone())), params)
    }

    /// Answers a conversation, which the model's chat template makes a prompt of.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], and as [`generate`](Self::generate).
    pub fn chat(
        &self,
        messages: &[ChatMessage],
        params: &SamplingParams,
    ) -> Result<Completion, Error> {
        let prompt = self.chat_prompt(messages)?;
        let stream = self.submit_when_free(&prompt, params);
        let stream = stream.map_err(|source| Error::Refused { prompt: 0, source })?;
        completion::collect(prompt, stream).map_err(|source| Error::Failed { prompt: 0, source })
    }

    /// Continues a prompt, and returns the text as it is made. Dropping the stream ends it.
    ///
    /// # Errors
    /// When the prompt cannot be continued. What fails later is an item of the stream.
    pub fn stream(&self, prompt: &str, params: &SamplingParams) -> Result<TextStream, Error> {
        self.stream_tokens(self.tokenize(prompt)?, params)
    }

    /// Answers a conversation, and returns the text as it is made.
    ///
    /// # Errors
    /// As [`chat`](Self::chat) and [`stream`](Self::stream).
    pub fn stream_chat(
        &self,
        messages: &[ChatMessage],
        params: &SamplingParams,
    ) -> Result<TextStream, Error> {
        self.stream_tokens(self.chat_prompt(messages)?, params)
    }

    fn stream_tokens(
        &self,
        prompt: Vec<u32>,
        params: &SamplingParams,
    ) -> Result<TextStream, Error> {
        let stream = self.submit_when_free(&prompt, params);
        Ok(TextStream::new(stream.map_err(|source| Error::Refused { prompt: 0, source })?))
    }

    /// The tokens of a text, those that the model wants around a prompt included.
    ///
    /// # Errors
    /// When the text is far longer than any prompt.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.booted.tokenizer.encode(text, true)?)
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// When a token is none of the model's.
    pub fn detokenize(&self, token_ids: &[u32]) -> Result<String, Error> {
        Ok(self.booted.tokenizer.decode(token_ids, true)?)
    }

    /// Longest sequence in tokens, prompt and output together.
    pub fn max_model_len(&self) -> usize {
        self.booted.engine.max_model_len()
    }

    /// What the start did, and how long it took.
    pub fn report(&self) -> &BootReport {
        &self.booted.report
    }

    /// The engine itself, for what this type does not offer.
    pub fn handle(&self) -> &EngineHandle {
        &self.booted.engine
    }

    fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, Error> {
        let template = self.booted.chat_template.as_ref().ok_or(Error::NoChatTemplate)?;
        let text = template.render(&Conversation::new(messages))?;
        // The template writes the special tokens itself.
        Ok(self.booted.tokenizer.encode(&text, false)?)
    }

    /// Runs as many prompts at once as the engine takes. Results are collected in order, so the
    /// oldest request is the one to wait for.
    fn run(
        &self,
        prompts: impl Iterator<Item = Result<Vec<u32>, Error>>,
        params: &SamplingParams,
    ) -> Result<Vec<Completion>, Error> {
        let mut completions = Vec::new();
        let mut running = VecDeque::new();
        for (index, prompt) in prompts.enumerate() {
            let prompt_token_ids = prompt?;
            let stream = loop {
                match self.submit(&prompt_token_ids, params) {
                    Err(SubmitError::Overloaded { .. }) if !running.is_empty() => {
                        collect_oldest(&mut running, &mut completions)?;
                    }
                    Err(SubmitError::Overloaded { .. }) => {
                        break self.submit_when_free(&prompt_token_ids, params);
                    }
                    submitted => break submitted,
                }
            };
            let stream = stream.map_err(|source| Error::Refused { prompt: index, source })?;
            running.push_back((prompt_token_ids, stream));
        }
        while !running.is_empty() {
            collect_oldest(&mut running, &mut completions)?;
        }
        Ok(completions)
    }

    fn submit(
        &self,
        prompt_token_ids: &[u32],
        params: &SamplingParams,
    ) -> Result<ResponseStream, SubmitError> {
        self.booted.engine.submit(Request::new(prompt_token_ids.to_vec(), params.clone()))
    }

    /// The same, once others have left room.
    fn submit_when_free(
        &self,
        prompt_token_ids: &[u32],
        params: &SamplingParams,
    ) -> Result<ResponseStream, SubmitError> {
        loop {
            // Read before: what an idle engine refuses, it will always refuse.
            let is_idle = self.booted.engine.num_unfinished() == 0;
            match self.submit(prompt_token_ids, params) {
                Err(SubmitError::Overloaded { .. }) if !is_idle => thread::sleep(WAIT_FOR_OTHERS),
                submitted => return submitted,
            }
        }
    }
}

/// Waits for the request that was submitted first.
fn collect_oldest(
    running: &mut VecDeque<(Vec<u32>, ResponseStream)>,
    completions: &mut Vec<Completion>,
) -> Result<(), Error> {
    if let Some((prompt_token_ids, stream)) = running.pop_front() {
        let prompt = completions.len();
        let collected = completion::collect(prompt_token_ids, stream);
        completions.push(collected.map_err(|source| Error::Failed { prompt, source })?);
    }
    Ok(())
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.booted.end();
    }
}

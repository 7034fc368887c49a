//! `OpenAI`'s API: models, text completions, chat completions, responses; and vLLM's additions.
//! Besides, Anthropic's messages, which are one more dialect of the same.
//!
//! ```text
//! body --json--> wire type --completions------------------> engine requests + a shape
//!                   |                                                 |
//!                   `--chat | responses | messages--> Dialogue --ready+
//!                                                                     |
//!                        generate: submit, then collect or stream in that shape
//! ```
//!
//! | File | Idea |
//! | --- | --- |
//! | `requests` | what comes in: every field, and those that are refused |
//! | `types`, `logprobs` | what goes out |
//! | `json` | reading a body with errors that name the field |
//! | `sampling`, `scheduling` | wire fields to sampling parameters, and to an engine request |
//! | `prompt` | text to tokens, bounded |
//! | `dialogue` | one conversation in no dialect: what chat, responses and others convert into |
//! | `tools`, `format` | what must be called, and the form that an answer must have |
//! | `listen` | an answer's text to thoughts, words and calls |
//! | `chat`, `completions`, `responses` | one endpoint each: what it reads, and the shape of what it sends |
//! | `messages` | the endpoints of Anthropic's dialect |
//! | `embeddings` | texts as vectors |
//! | `generate` | the one flow behind all that generate |
//! | `tokenize` | text to tokens and back, for those who count |
//! | `answer` | the same flow without HTTP, for batches |
//! | `models` | the list of one model |
//! | `endpoints` | what the document of the API tells about them |
//!
//! What this module deliberately does not do: no images, no audio, no search. Asking for them is an
//! error that names the field, never silence.

mod answer;
pub(super) mod chat;
pub(super) mod completions;
mod dialogue;
pub(super) mod embeddings;
mod endpoints;
mod format;
mod generate;
pub(super) mod json;
mod listen;
mod logprobs;
pub(super) mod messages;
pub(super) mod models;
mod prompt;
mod requests;
pub(super) mod responses;
mod sampling;
mod scheduling;
pub(super) mod tokenize;
mod tools;
pub(super) mod types;

pub(super) use endpoints::{ENDPOINTS, deleted};

pub use answer::answer;
pub(super) use answer::answer_for;
pub use requests::MAX_PROMPTS;

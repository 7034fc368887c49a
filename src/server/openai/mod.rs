//! `OpenAI`'s API: models, text completions, chat completions.
//!
//! ```text
//! body --json--> wire type --chat | completions--> engine requests + a shape
//!                                                        |
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
//! | `chat`, `completions` | one endpoint each: what it reads, and the shape of what it sends |
//! | `embeddings` | texts as vectors |
//! | `generate` | the one flow behind both completions |
//! | `answer` | the same flow without HTTP, for batches |
//! | `models` | the list of one model |
//!
//! What this module deliberately does not do: no tools, no images, no structured output. Asking for
//! them is an error that names the field, never silence.

mod answer;
pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
mod generate;
mod json;
mod logprobs;
pub(super) mod models;
mod prompt;
mod requests;
mod sampling;
mod scheduling;
pub(super) mod types;

pub use answer::{Answered, NoAnswer, answer};
pub use requests::MAX_PROMPTS;

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
//! | `types` | the wire types, all of them |
//! | `json` | reading a body with errors that name the field |
//! | `sampling` | wire fields to sampling parameters |
//! | `prompt` | text to tokens, bounded |
//! | `chat`, `completions` | one endpoint each: what it reads, and the shape of what it sends |
//! | `generate` | the one flow behind both |
//! | `answer` | the same flow without HTTP, for batches |
//! | `models` | the list of one model |
//!
//! What this module deliberately does not do: no tools, no images, no log probabilities, no choice
//! beyond the first per prompt. Asking for them is an error that names the field, never silence.

mod answer;
pub(super) mod chat;
pub(super) mod completions;
mod generate;
mod json;
pub(super) mod models;
mod prompt;
mod sampling;
pub(super) mod types;

pub use answer::{Answered, NoAnswer, answer};
pub use types::MAX_PROMPTS;

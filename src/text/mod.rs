//! Text to token ids and back, and chat messages to prompts.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Tokenizer`] | text to token ids and back, from a model folder or from a GGUF's vocabulary |
//! | [`GgufVocab`] | the tokenizer fields of a GGUF file, as plain data |
//! | [`Detokenizer`] | the way back one token at a time, whole characters only |
//! | [`Conversation`] | messages, tools, and how their prompt is to end |
//! | [`ChatTemplate`] | the model's own way to write a conversation as one prompt |
//! | [`grammar`] | which tokens may come next, so that a text follows a schema or a grammar |
//!
//! ```text
//! Conversation --ChatTemplate--> prompt --Tokenizer::encode--> ids --model--> id --Detokenizer--> text
//!
//! tokenizer.json ---.                       .--> segmenter (normalise, split, merge): encode
//!                    +--> Tokenizer (Arc) --+
//! GgufVocab --------'                       '--> vocabulary + token decoder: decode, Detokenizer
//! ```
//!
//! Everything here comes from outside: files that may be broken or hostile and texts of any shape.
//! Sizes are bounded before work starts, the segmenter's panics are caught, and templates run with
//! a budget.
//!
//! It deliberately does not truncate, pad or batch: the engine takes ids as they are. It does not
//! read GGUF files: `weights` does, and hands over the fields.

mod chat_template;
mod conversation;
mod decoder;
mod detokenizer;
mod error;
mod gguf_vocab;
pub mod grammar;
mod growth;
mod json_format;
mod model_folder;
pub mod output_parser;
mod pre_tokenizer;
mod python_methods;
mod segmenter;
mod strftime;
mod text_file;
mod tokenizer;
mod vocabulary;

pub use chat_template::ChatTemplate;
pub use conversation::{ChatMessage, Conversation, ToolCall, ToolSpec};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use gguf_vocab::GgufVocab;
pub use tokenizer::Tokenizer;

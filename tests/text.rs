//! Tokenizers and chat templates against the goldens of the reference, and against bad input.
//!
//! `golden/make_text.py` and `golden/make_chat.py` make the goldens and say what is in them.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "text/chat_templates.rs"]
mod chat_templates;
#[path = "text/chat_tools.rs"]
mod chat_tools;
#[path = "text/faults.rs"]
mod faults;
#[path = "text/gguf.rs"]
mod gguf;
#[path = "text/golden.rs"]
mod golden;
#[path = "text/model_folders.rs"]
mod model_folders;
#[path = "text/streaming.rs"]
mod streaming;
#[path = "text/tool_grammars.rs"]
mod tool_grammars;

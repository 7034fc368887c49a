//! Structured output: which tokens may come next, so that the whole text follows a grammar.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`GrammarSpec`] | what is asked for: JSON, a JSON schema, a regex, a choice, a Lark grammar |
//! | [`GrammarCompiler`] | one model's vocabulary, and the grammars compiled for it lately |
//! | [`Grammar`] | a compiled grammar before its first token |
//! | [`Matcher`] | the same after some tokens: what may follow, and whether the text is complete |
//! | [`Mask`] | one bit for each token: it may come next |
//!
//! ```text
//! GrammarSpec --sizes, JsonSchema--> source --llguidance--> Grammar --matcher()--> Matcher
//!                                      ^                                            |  ^
//! Tokenizer --bytes of every token--> trie                                    mask  v  | token
//!                                                                      logits -> sampler
//! ```
//!
//! Everything here comes from outside and may be hostile: sizes, nesting and references are bounded
//! before a library sees them, the library has budgets for its work and memory, it runs on a stack
//! of its own while it compiles, and its panics are caught. What cannot be honoured is an error that
//! names it.
//!
//! | File | Idea |
//! | --- | --- |
//! | `spec`, `error` | what goes in, and why it may not |
//! | `json_schema` | which keywords a schema may have, and how deep it may be |
//! | `token_trie` | the vocabulary, as the library wants it |
//! | `compiler`, `cache` | from a spec to a grammar, once for equal specs |
//! | `matcher`, `mask` | what may come next |
//!
//! What this module deliberately does not do: it fetches nothing, it samples nothing, and it knows
//! no request of any API.

mod cache;
mod compiler;
mod error;
mod json_schema;
mod json_schema_cost;
mod mask;
mod matcher;
mod spec;
mod token_trie;

#[cfg(test)]
mod tests;

pub use compiler::GrammarCompiler;
pub use error::{GrammarError, MatchError};
pub use mask::Mask;
pub use matcher::{Grammar, Matcher};
pub use spec::GrammarSpec;

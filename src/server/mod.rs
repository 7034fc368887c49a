//! The HTTP server: the only module that knows HTTP and `OpenAI`'s JSON.
//!
//! ```text
//! accept (serve) -> connection, bounded in number and in idle time (serve, stall)
//!   -> observe: request id, span, panic -> 500, count
//!     -> router (this file)
//!          /v1/...                    openai: models, completions, chat; sse for streams
//!          /health /health/live       the process and the engine's thread are well
//!          /health/ready              and new requests are taken
//!          /version /metrics          what runs here, and how it is doing
//!          / /page/... /favicon.ico   a web page to try it
//!          /reset_prefix_cache        forgets what was computed before
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`ServerState`] | what every handler needs: engine, tokenizer, template, options, metrics |
//! | [`ServerOptions`] | limits, time-outs, defaults |
//! | [`About`] | what `/version` tells |
//! | [`answer`] | what the server would send, for those who have no HTTP |
//! | ticket | one completion request that is being answered; a drain waits for all of them |
//!
//! What this module deliberately does not do: it computes nothing. Tokens come from the text module
//! on blocking threads, and the engine is a handle that takes requests and gives streams. There is
//! no TLS, no authentication and no rate per client: a proxy in front does that.

mod body;
mod error;
mod health;
mod metrics;
mod observe;
mod openai;
mod options;
mod page;
mod panics;
mod prefix_cache;
mod routes;
mod serve;
mod sse;
mod stall;
mod state;

pub use openai::{Answered, MAX_PROMPTS, NoAnswer, answer};
pub use options::ServerOptions;
pub use serve::serve;
pub use state::{About, ServerState};

//! The HTTP server: the only module that knows HTTP and `OpenAI`'s JSON.
//!
//! ```text
//! accept -> connection, perhaps encrypted, bounded in number and in time (net)
//!   -> observe: request id, span, panic -> 500, count, a line in the log
//!     -> guard: keys and limits (access)
//!     -> router (this file)
//!          /v1/...                    openai: models, completions, chat, responses; sse for streams
//!          /tokenize /detokenize      what a prompt is to the model
//!          /ping /load                what balancers ask
//!          /health /health/live       the process and the engine's thread are well
//!          /health/ready              and new requests are taken
//!          /health/deep               and a token comes in time
//!          /admin/events              the log of the service's life
//!          /version /metrics          what runs here, and how it is doing
//!          /reset_prefix_cache        forgets what was computed before
//!          /openapi.json              what all of them take and give
//!          /admin/...                 access: keys, usage, limits, draining
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`ServerState`] | what every handler needs: engine, tokenizer, template, options, metrics |
//! | [`Entrance`] | where requests go while the engine is not warm yet, and then |
//! | [`ServerOptions`] | limits, time-outs, defaults |
//! | [`About`] | what `/version` tells |
//! | [`answer`] | what the server would send, for those who have no HTTP |
//! | ticket | one completion request that is being answered; a drain waits for all of them |
//!
//! What this module deliberately does not do: it computes nothing. Tokens come from the text module
//! on blocking threads, and the engine is a handle that takes requests and gives streams.

pub mod access;
mod batches;
mod body;
mod cors;
mod deep;
mod entrance;
mod error;
mod events;
mod health;
mod metrics;
mod net;
mod observe;
mod openai;
mod openapi;
mod options;
mod panics;
mod prefix_cache;
mod query;
mod routes;
mod sse;
mod state;
mod traced;

pub use crate::batch::{Answered, NoAnswer};
pub use cors::CorsOptions;
pub use entrance::Entrance;
pub use net::{ClientCertificates, Listener, Reloaded, Tls, TlsError, TlsFiles, serve};
pub use openai::{MAX_PROMPTS, answer};
pub use options::ServerOptions;
pub use state::{About, ServerState};

//! Limits, time-outs and defaults of the server.

use std::time::Duration;

use super::cors::CorsOptions;
use crate::engine::SamplingParams;
use crate::text::output_parser::OutputFormat;

/// How the server behaves; every bound that a client can run into.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    /// The name that requests must carry as `model`.
    pub served_model_name: String,
    /// What a request gets where it does not say.
    pub default_sampling: SamplingParams,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Most bytes of request bodies held at one time, over all requests.
    pub max_total_body_bytes: usize,
    /// Most connections open at one time; one more is told 503 and closed.
    pub max_connections: usize,
    /// Most connections of one client; see `net::slots` for who counts as one. `None`: as many as
    /// there are.
    pub max_connections_per_ip: Option<usize>,
    /// Most headers of a request.
    pub max_headers: usize,
    /// Most bytes of a request's head: its first line and its headers.
    pub max_header_bytes: usize,
    /// Most bytes of the address in a request.
    pub max_uri_bytes: usize,
    /// Longest wait for a connection to be encrypted.
    pub handshake_timeout: Duration,
    /// Longest wait for a request's head.
    pub header_read_timeout: Duration,
    /// Longest wait for the next request on a connection that has had one.
    pub idle_timeout: Duration,
    /// Longest wait for a whole request body.
    pub body_read_timeout: Duration,
    /// Longest time that a client may not read while there is something to send.
    pub write_stall_timeout: Duration,
    /// A stream with nothing to send sends a comment this often.
    pub keep_alive_interval: Duration,
    /// Longest wait for running requests once the server is told to stop.
    pub drain_timeout: Duration,
    /// Whether there is a web page at `/`.
    pub has_page: bool,
    /// Whether the log has a line about every request.
    pub logs_access: bool,
    /// Which web pages of others may call; `None`: no page may.
    pub cors: Option<CorsOptions>,
    /// Most requests that are parsed, rendered and tokenised at one time.
    pub max_blocking_tasks: usize,
    /// How the model writes calls of tools and thoughts.
    pub output_format: OutputFormat,
    /// Requests may bring a chat template of their own, which is a program.
    pub trust_request_chat_template: bool,
}

impl ServerOptions {
    /// The defaults, for a model served under this name.
    pub fn new(served_model_name: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            served_model_name: served_model_name.into(),
            default_sampling: SamplingParams::default(),
            max_body_bytes: 8 << 20,
            max_total_body_bytes: 256 << 20,
            max_connections: 4096,
            max_connections_per_ip: None,
            max_headers: 256,
            max_header_bytes: 64 << 10,
            max_uri_bytes: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            body_read_timeout: Duration::from_mins(1),
            write_stall_timeout: Duration::from_mins(1),
            keep_alive_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            has_page: true,
            logs_access: true,
            cors: None,
            max_blocking_tasks: cores.max(2),
            output_format: OutputFormat::default(),
            trust_request_chat_template: false,
        }
    }
}

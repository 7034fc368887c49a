//! Limits, time-outs and defaults of the server.

use std::time::Duration;

use crate::engine::SamplingParams;

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
    /// Longest wait for a request's headers, and so for the next request on an idle connection.
    pub header_read_timeout: Duration,
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
    /// Most requests that are parsed, rendered and tokenised at one time.
    pub max_blocking_tasks: usize,
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
            header_read_timeout: Duration::from_secs(30),
            body_read_timeout: Duration::from_mins(1),
            write_stall_timeout: Duration::from_mins(1),
            keep_alive_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            has_page: true,
            max_blocking_tasks: cores.max(2),
        }
    }
}

//! One span per request to the engine, for whoever follows requests through several services.
//!
//! ```text
//! traceparent: 00-TRACE-PARENT-01 --TraceContext--> RequestSpan --Tracer--> bounded queue
//!     (or a new trace)                                                       '--otlp--> collector
//! ```
//!
//! Names of attributes are those of OpenTelemetry's conventions for generative AI, and vLLM's for the
//! times, which have none there. Nothing of prompts and answers is in a span.
//!
//! What this module deliberately does not do: it never delays a request. What the collector does not
//! take in time is dropped and counted. Without the feature `otel`, there is nothing that sends.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod wire;

/// Spans that wait to be sent.
const CAPACITY: usize = 4096;

/// Where a request's span belongs: W3C's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    parent_id: Option<[u8; 8]>,
    is_sampled: bool,
}

impl TraceContext {
    /// What the header says; a new trace where there is none or it is malformed.
    pub fn of_header(traceparent: Option<&str>) -> Self {
        let new = || {
            let [high, low] = [random(), random()];
            let mut trace_id = [0; 16];
            trace_id[..8].copy_from_slice(&high);
            trace_id[8..].copy_from_slice(&low);
            Self { trace_id, parent_id: None, is_sampled: true }
        };
        traceparent.and_then(Self::parse).unwrap_or_else(new)
    }

    /// `00-` 32 digits `-` 16 digits `-` 2 digits; later versions may have more behind.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let version: [u8; 1] = digits(parts.next()?)?;
        let trace_id: [u8; 16] = digits(parts.next()?)?;
        let parent_id: [u8; 8] = digits(parts.next()?)?;
        let [flags] = digits(parts.next()?)?;
        let is_valid = version != [0xff]
            && (version != [0] || parts.next().is_none())
            && trace_id != [0; 16]
            && parent_id != [0; 8];
        let is_sampled = flags & 1 == 1;
        is_valid.then_some(Self { trace_id, parent_id: Some(parent_id), is_sampled })
    }
}

/// Lower-case hexadecimal digits.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(bytes)
}

/// Eight bytes that no other span has, and not all 0.
fn random() -> [u8; 8] {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    RandomState::new().hash_one(count).max(1).to_be_bytes()
}

/// One request to the engine, when it has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpan {
    /// Where it belongs.
    pub context: TraceContext,
    /// What was asked for, as in `chat`.
    pub operation: &'static str,
    /// The model's name.
    pub model: String,
    /// When it was submitted.
    pub started_at: SystemTime,
    /// From then to its end.
    pub total_time: Duration,
    /// From submission to the first step that computed it, of a request that ended well.
    pub queue_time: Option<Duration>,
    /// From submission to the first token, likewise.
    pub time_to_first_token: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<usize>,
    /// Those that were in the prefix cache.
    pub cached_tokens: Option<usize>,
    /// Tokens generated.
    pub completion_tokens: Option<usize>,
    /// Choices asked for.
    pub num_choices: usize,
    /// Most tokens allowed.
    pub max_tokens: Option<u64>,
    /// Why it ended: stop, length, abort, error.
    pub finish_reason: &'static str,
}

/// Where spans go; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    spans: mpsc::Sender<RequestSpan>,
    num_dropped: Arc<AtomicU64>,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The build cannot.
    #[error("this build sends no traces")]
    NotBuilt,
    /// The address cannot be used.
    #[error("expected an address as in `http://127.0.0.1:4318/v1/traces`, got `{0}`")]
    BadEndpoint(String),
}

impl TraceError {
    /// The way out of it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotBuilt => "build with `cargo build --release --features otel`",
            Self::BadEndpoint(_) => {
                "traces go over HTTP without TLS, to a collector on the same machine or in the same \
                 network, which can pass them on with TLS"
            }
        }
    }
}

impl Tracer {
    /// Sends spans to a collector from here on, in batches. To be called within a runtime.
    ///
    /// # Errors
    /// [`TraceError::NotBuilt`] without the feature `otel`, else [`TraceError::BadEndpoint`].
    #[cfg(feature = "otel")]
    pub fn open(endpoint: &str, version: &str) -> Result<Self, TraceError> {
        let endpoint = otlp::Endpoint::parse(endpoint)?;
        let (tracer, receiver) = Self::queue();
        tokio::spawn(otlp::send_all(endpoint, version.to_owned(), receiver));
        Ok(tracer)
    }

    /// Sends spans to a collector from here on.
    ///
    /// # Errors
    /// [`TraceError::NotBuilt`]: this build has not the feature `otel`.
    #[cfg(not(feature = "otel"))]
    pub fn open(_endpoint: &str, _version: &str) -> Result<Self, TraceError> {
        Err(TraceError::NotBuilt)
    }

    #[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "nothing sends without it"))]
    fn queue() -> (Self, mpsc::Receiver<RequestSpan>) {
        let (spans, receiver) = mpsc::channel(CAPACITY);
        (Self { spans, num_dropped: Arc::default() }, receiver)
    }

    /// Hands over a span. Never waits; one for which there is no room is dropped.
    pub fn record(&self, span: RequestSpan) {
        if span.context.is_sampled && self.spans.try_send(span).is_err() {
            let before = self.num_dropped.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                tracing::warn!("spans are dropped: the collector does not take them in time");
            }
        }
    }

    /// Spans that were dropped.
    pub fn num_dropped(&self) -> u64 {
        self.num_dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_and_a_malformed_header_begins_a_new_one() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::of_header(Some(header));
        assert_eq!(context.trace_id[..3], [0x4b, 0xf9, 0x2f]);
        assert_eq!(context.parent_id, Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
        assert!(context.is_sampled);
        let unsampled = header.replace("b7-01", "b7-00");
        assert!(!TraceContext::of_header(Some(&unsampled)).is_sampled);
        assert!(TraceContext::parse(&header.replacen("00", "01", 1)).is_some());
        assert!(TraceContext::parse(&format!("01{}-more", &header[2..])).is_some());
        for bad in [
            "",
            "00",
            &header.replacen("00", "ff", 1),
            &header.to_uppercase(),
            &format!("{header}-more"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            let (one, other) = (TraceContext::of_header(Some(bad)), TraceContext::of_header(None));
            assert!(one.parent_id.is_none() && one.is_sampled, "{bad}");
            assert_ne!(one.trace_id, other.trace_id);
        }
    }
}

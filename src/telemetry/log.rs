//! Log lines on stderr: what is logged, and how a line looks.
//!
//! | Level | Meaning |
//! | --- | --- |
//! | `error` | someone must act |
//! | `warn` | degraded, still serving |
//! | `info` | lifecycle: started, ready, draining, stopped; a line per request (`cairn::access`) |
//! | `debug` | what happened to a request |
//! | `trace` | one line per step |
//!
//! What this module deliberately does not do: it keeps nothing; [`events`](super::events) are kept.

use std::io;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged: a level, or directives as in `info,cairn::engine=trace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl FromStr for LogFilter {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match EnvFilter::try_new(text) {
            Ok(_) if !text.trim().is_empty() => Ok(Self(text.to_owned())),
            _ => Err(TelemetryError::BadFilter),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "expected error, warn, info, debug, trace, off, or directives as in \
         `info,cairn::engine=trace`"
    )]
    BadFilter,
    /// A subscriber is installed already.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Sends log lines to stderr from here on.
///
/// `color` allows ANSI colours in [`LogFormat::Text`].
///
/// # Errors
/// [`TelemetryError::AlreadySet`] on a second call.
pub fn init_tracing(
    filter: &LogFilter,
    format: LogFormat,
    color: bool,
) -> Result<(), TelemetryError> {
    // Without internal errors: the library would report a closed stderr by writing to stderr, and
    // that panics.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&filter.0))
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(color).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    installed.map_err(|_| TelemetryError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_directives() {
        let parse = |text: &str| text.parse::<LogFilter>();
        for text in ["debug", "off", "info,cairn::engine=trace"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in ["cairn=loudly", "", " "] {
            assert!(matches!(parse(text), Err(TelemetryError::BadFilter)), "{text}");
        }
    }
}

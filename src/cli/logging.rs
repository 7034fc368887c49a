//! Logs: one line per event on stderr, as text or as JSON.
//!
//! What this module deliberately does not do: it writes no data and no summaries; those are
//! `output`'s.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::Environment;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Parser of a level or of filter directives.
pub(crate) fn parse_level(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("expected error, warn, info, debug, trace, off, or directives as in \
                  `info,cairn::engine=trace`"
            .to_owned()),
    }
}

/// Starts to log what `level` (which [`parse_level`] accepted) lets through.
pub(crate) fn init(level: &str, format: Format, environment: &Environment) {
    let filter = EnvFilter::new(level);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(io::stderr().is_terminal() && !environment.no_color);
    // The only way to fail is that a subscriber is set already: a caller's, who then knows better.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_known() {
        assert!(parse_level("debug").is_ok());
        assert!(parse_level("info,cairn::engine=trace").is_ok());
        assert!(parse_level("cairn=loud").is_err());
        assert!(parse_level("").is_err());
    }
}

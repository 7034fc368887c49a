//! What an operator sees of the program: log lines, metrics, events.
//!
//! | Module | Holds | Who reads it |
//! | --- | --- | --- |
//! | [`log`] | lines on stderr | people, log collectors |
//! | [`metrics`] | the one list of metrics' names | dashboards, alerts, gateways |
//! | [`traces`] | a span per request | who follows requests through several services |
//! | [`events`] | the log of a service's life, kept on disk | operators, after the fact and by API |
//!
//! Prompts, outputs and keys are in none of them, at any level.
//!
//! What this module deliberately does not do: it renders no page and answers nobody; the server does.

pub mod events;
pub mod log;
pub mod metrics;
pub mod traces;

pub use log::{LogFilter, TelemetryError, init_tracing};
pub use metrics::*;

//! Progress of what takes longer than a blink: spinners and bars on a terminal's stderr.
//!
//! ```text
//! Progress --begin("fetching ...", Amount::Bytes(n))--> Task --advance_to(k)--> ... --drop--> gone
//! ```
//!
//! | stderr | What is shown |
//! | --- | --- |
//! | a terminal | a spinner, or a bar with bytes, rate and time left; it vanishes at the end |
//! | a file or a pipe | one line when bytes are fetched, which may take minutes; else nothing |
//! | `--no-progress` | nothing |
//!
//! What this module deliberately does not do: results and summaries. Those are for after the end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
pub(crate) use crate::boot::{Amount, Progress, Silent, Task};
use crate::boot::{Hidden, display_bytes};

/// What fits this process's stderr.
pub(crate) fn for_stderr(no_progress: bool) -> Box<dyn Progress> {
    if no_progress {
        Box::new(Silent)
    } else if output::stderr_is_terminal() {
        Box::new(Bars)
    } else {
        Box::new(Lines)
    }
}

/// One plain line for a task that is measured in bytes.
#[derive(Debug)]
struct Lines;

impl Progress for Lines {
    fn begin(&self, what: &str, amount: Amount) -> Box<dyn Task> {
        if let Amount::Bytes(bytes) = amount {
            output::say(format_args!("{what} ({})", display_bytes(bytes)));
        }
        Box::new(Hidden)
    }
}

/// Spinners and bars.
#[derive(Debug)]
struct Bars;

impl Progress for Bars {
    fn begin(&self, what: &str, amount: Amount) -> Box<dyn Task> {
        let (length, template) = match amount {
            Amount::Unknown => (None, "{spinner} {msg} ({elapsed})"),
            Amount::Items(items) => (Some(items), "{spinner} {msg} {wide_bar} {pos}/{len} ETA {eta}"),
            Amount::Bytes(bytes) => (
                Some(bytes),
                "{spinner} {msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
                 {decimal_bytes_per_sec} ETA {eta}",
            ),
        };
        let style = ProgressStyle::with_template(template)
            .expect("invariant: the templates above are well formed");
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        bar.set_style(style);
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Box::new(Bar(bar))
    }
}

struct Bar(ProgressBar);

impl Task for Bar {
    fn advance_to(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_bar_can_be_drawn() {
        for amount in [Amount::Unknown, Amount::Items(3), Amount::Bytes(1000)] {
            let task = Bars.begin("testing", amount);
            task.advance_to(2);
        }
    }
}

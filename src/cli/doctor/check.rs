//! What a check says, and how all of them are told.
//!
//! ```text
//! cpu      ok       x86_64, AVX2, 8 threads
//! toolkit  failed   ...
//!                   > remedy
//! ```
//!
//! | State | Meaning |
//! | --- | --- |
//! | ok | nothing to do |
//! | warning | works, or is not needed now; better looked at |
//! | failed | what was asked for will not work |
//! | skipped | not looked at; the reason is in the finding |
//!
//! What this module deliberately does not do: it checks nothing.

use std::fmt;

use serde::Serialize;

use crate::cli::output::Table;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Warning,
    Failed,
    Skipped,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// What was found, in a few words.
    pub(super) found: String,
    /// More of it, a line each.
    pub(super) details: Vec<String>,
    /// What can be done.
    pub(super) remedy: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, found: impl fmt::Display) -> Self {
        Self { name, state, found: found.to_string(), details: Vec::new(), remedy: None }
    }

    /// Nothing to do.
    pub(super) fn ok(name: &'static str, found: impl fmt::Display) -> Self {
        Self::new(name, State::Ok, found)
    }

    /// Better looked at.
    pub(super) fn warning(name: &'static str, found: impl fmt::Display) -> Self {
        Self::new(name, State::Warning, found)
    }

    /// Will not work.
    pub(super) fn failed(name: &'static str, found: impl fmt::Display) -> Self {
        Self::new(name, State::Failed, found)
    }

    /// Not looked at.
    pub(super) fn skipped(name: &'static str, why: impl fmt::Display) -> Self {
        Self::new(name, State::Skipped, why)
    }

    /// The same, better looked at.
    #[must_use]
    pub(super) fn warn(mut self) -> Self {
        if self.state == State::Ok {
            self.state = State::Warning;
        }
        self
    }

    /// Adds a line to what was found.
    #[must_use]
    pub(super) fn detail(mut self, line: impl fmt::Display) -> Self {
        self.details.push(line.to_string());
        self
    }

    /// Adds what can be done.
    #[must_use]
    pub(super) fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }

    /// The same, where nothing depends on it: a failure is a warning then.
    #[must_use]
    #[cfg_attr(
        not(feature = "ascend"),
        allow(dead_code, reason = "for the ascend backend's checks")
    )]
    pub(super) fn optional(mut self) -> Self {
        if self.state == State::Failed {
            self.state = State::Warning;
        }
        self
    }
}

/// How many checks have failed.
pub(super) fn num_failed(checks: &[Check]) -> usize {
    checks.iter().filter(|check| check.state == State::Failed).count()
}

/// All checks as a table. Every column begins at its left edge.
pub(super) fn table(checks: &[Check]) -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for check in checks {
        let mut lines = check.found.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.extend(check.details.iter().flat_map(|detail| detail.lines()).map(str::to_owned));
        lines.extend(check.remedy.iter().map(|remedy| format!("> {remedy}")));
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        rows.push([check.name.to_owned(), check.state.name().to_owned(), first]);
        rows.extend(lines.map(|line| [String::new(), String::new(), line]));
    }
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let (states, texts) = (width(1), width(2));
    let mut table = Table::default();
    for [name, state, text] in &rows {
        table.row([name, &format!("{state:<states$}"), &format!("{text:<texts$}")]);
    }
    let table = table.to_string();
    table.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_begin_at_their_left_edges() {
        let checks = [
            Check::ok("cpu", "fine"),
            Check::failed("toolkit", "none\nat all").detail("tried `/a`").remedy("install one"),
            Check::skipped("atc", "no CANN toolkit"),
        ];
        let expected = "\
cpu      ok       fine
toolkit  failed   none
                  at all
                  tried `/a`
                  > install one
atc      skipped  no CANN toolkit
";
        assert_eq!(table(&checks), expected);
        assert_eq!(num_failed(&checks), 1);
    }

    #[test]
    fn what_nothing_depends_on_is_a_warning_at_most() {
        assert_eq!(Check::failed("a", "b").optional().state, State::Warning);
        assert_eq!(Check::ok("a", "b").optional().state, State::Ok);
    }
}

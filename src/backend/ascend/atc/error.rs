//! How a compile fails, and what can be done about it.
//!
//! What this module deliberately does not do: it prints nothing. A message names the failure, the
//! codes and the last lines of output and log; everything else is in the fields.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::super::om::OmError;
use super::codes;

/// Lines of the output that a message quotes.
const QUOTED_LINES: usize = 8;
/// Longer lines are cut there.
const QUOTED_CHARS: usize = 300;
const SIGKILL: i32 = 9;

/// Why a graph was not compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AtcError {
    /// The compiler is not where it was said to be.
    #[error("there is no compiler `{}`", program.display())]
    NotFound {
        /// Where it should be.
        program: PathBuf,
    },
    /// The compiler cannot be started.
    #[error("cannot start the compiler `{}`: {source}", program.display())]
    Spawn {
        /// Where it is.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder of the compile cannot be written or read.
    #[error("compiling needs `{}`: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It took too long, and was ended with everything it had started.
    #[error("atc did not finish within {} s{report}", after.as_secs_f64())]
    Timeout {
        /// The time it had.
        after: Duration,
        /// What it said.
        report: Box<Report>,
    },
    /// It ended with a failure, or was killed by a signal.
    #[error("atc failed: {status}{report}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        report: Box<Report>,
    },
    /// It says that it succeeded, but there is not exactly one offline model.
    #[error("atc succeeded, but wrote {}{report}", models(found))]
    NoOutput {
        /// The names of those that are there.
        found: Vec<String>,
        /// What it said.
        report: Box<Report>,
    },
    /// It says that it succeeded, but what it wrote cannot be used.
    #[error("atc succeeded, but {source}{report}")]
    BadOm {
        /// What is wrong with it.
        source: OmError,
        /// What it said.
        report: Box<Report>,
    },
}

impl AtcError {
    /// For `map_err`: a failure at that path.
    pub(super) fn folder(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Folder { path, source }
    }

    /// What the compiler said, where it ran.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::NotFound { .. } | Self::Spawn { .. } | Self::Folder { .. } => None,
            Self::Timeout { report, .. }
            | Self::Failed { report, .. }
            | Self::NoOutput { report, .. }
            | Self::BadOm { report, .. } => Some(report),
        }
    }

    /// What can be done about it, most likely first; nothing where that is not known.
    pub fn remedies(&self) -> Vec<&'static str> {
        let own = match self {
            Self::NotFound { .. } => Some("install a complete CANN toolkit, not only its runtime"),
            Self::Spawn { .. } => {
                Some("check that the file is executable and made for this processor")
            }
            Self::Folder { .. } => {
                Some("check that the cache folder can be written and has free space")
            }
            Self::Timeout { .. } => Some(
                "compile fewer graphs at once (`--compile-jobs`), or allow more time \
                 (`--compile-timeout`)",
            ),
            Self::Failed { status, .. } if status.signal() == Some(SIGKILL) => Some(
                "the system may have ended it for lack of memory: compile fewer graphs at once",
            ),
            Self::BadOm { source: OmError::Dynamic { .. }, .. } => Some(
                "use a CANN toolkit that can plan attention on the device (8.2 or later) and a \
                 chip that supports it",
            ),
            Self::Failed { .. } | Self::NoOutput { .. } | Self::BadOm { .. } => None,
        };
        let codes = self.report().map_or(&[][..], |report| &report.codes);
        let of_codes = codes.iter().filter_map(|code| codes::remedy(code));
        let mut remedies: Vec<&'static str> = Vec::new();
        for remedy in own.into_iter().chain(of_codes) {
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        remedies
    }
}

fn models(found: &[String]) -> String {
    match found {
        [] => "no offline model".to_owned(),
        names => format!("{} offline models: {}", names.len(), names.join(", ")),
    }
}

/// What a compiler said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The codes in its output and its log, such as `E10001`, each once.
    pub codes: Vec<String>,
    /// The last 64 KiB of its output.
    pub tail: String,
    /// The last errors of its log.
    pub log: Vec<String>,
}

impl Report {
    pub(super) fn new(tail: String, log: Vec<String>) -> Self {
        let mut codes = codes::find(&tail);
        for code in codes::find(&log.join("\n")) {
            if !codes.contains(&code) {
                codes.push(code);
            }
        }
        Self { codes, tail, log }
    }
}

/// Continues a sentence: codes, last lines of output, last lines of log, as far as there are any.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.codes.is_empty() {
            write!(f, " ({})", self.codes.join(", "))?;
        }
        let output: Vec<&str> = self.tail.lines().filter(|line| !line.trim().is_empty()).collect();
        let quoted = &output[output.len().saturating_sub(QUOTED_LINES)..];
        quote(f, "its output ends with", quoted.iter().copied())?;
        quote(f, "its log ends with", self.log.iter().map(String::as_str))
    }
}

fn quote<'a>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    lines: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    for (idx, line) in lines.enumerate() {
        if idx == 0 {
            write!(f, "; {title}:")?;
        }
        let line: String = line.chars().take(QUOTED_CHARS).collect();
        write!(f, "\n  {}", line.trim_end())?;
    }
    Ok(())
}

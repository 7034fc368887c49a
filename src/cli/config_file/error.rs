//! What is wrong with a configuration file, for a person.
//!
//! ```text
//! error: /etc/cairn.toml:7: unknown key `max-num-seq` in section [serve]
//! hint: a similar key exists: `max-num-seqs`
//! ```
//!
//! What this module deliberately does not do: it finds nothing; it says.

use std::io;
use std::path::PathBuf;

use super::layer::Place;

/// Names that are less alike are no suggestion.
const MIN_LIKENESS: f64 = 0.6;

/// Why a file or a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigFileError {
    /// The file cannot be read.
    #[error("cannot read the configuration: {0}")]
    Read(#[source] io::Error),
    /// A configuration is small.
    #[error("the configuration file `{}` is larger than {max} bytes", .path.display())]
    TooLarge { path: PathBuf, max: u64 },
    /// It is text.
    #[error("{place}: not UTF-8")]
    NotUtf8 { place: Place },
    /// It is TOML.
    #[error("{place}: {message}")]
    Syntax { place: Place, message: String },
    /// No command of that name.
    #[error("{place}: unknown section [{section}]")]
    UnknownSection { place: Place, section: String, nearest: Option<String> },
    /// No flag of that name.
    #[error("{place}: unknown key `{key}`{}", in_section(.section))]
    UnknownKey { place: Place, key: String, section: String, nearest: Option<String> },
    /// A flag of that name, elsewhere.
    #[error("{place}: `{key}` does not belong {}", out_of(.section))]
    Elsewhere { place: Place, key: String, section: String, sections: Vec<String> },
    /// Both of `a-b` and `a_b`, or of `x` and `no-x`.
    #[error("{place}: `{key}` contradicts or repeats `{other}` in line {line}")]
    Twice { place: Place, key: String, other: String, line: usize },
    /// A list where one value belongs, and the like.
    #[error("{place}: `{key}`: expected {expected}, got {got}")]
    Shape { place: Place, key: String, expected: &'static str, got: &'static str },
    /// What the flag's own parser says.
    #[error("{place}: {message}")]
    Value { place: Place, message: String },
    /// No profile of that name.
    #[error("{}there is no profile `{name}`", at(.place.as_ref()))]
    UnknownProfile { name: String, place: Option<Place>, nearest: Option<String>, known: String },
}

fn in_section(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(" in section [{section}]") }
}

fn out_of(section: &str) -> String {
    if section.is_empty() {
        "outside of sections".into()
    } else {
        format!("in section [{section}]")
    }
}

fn at(place: Option<&Place>) -> String {
    place.map_or_else(String::new, |place| format!("{place}: "))
}

impl ConfigFileError {
    /// The way out, where there is one to name.
    pub(crate) fn hint(&self) -> Option<String> {
        let similar = |what: &str, nearest: &Option<String>| {
            nearest.as_ref().map(|name| format!("a similar {what} exists: `{name}`"))
        };
        match self {
            Self::Read(_) => {
                Some("`--config` and CAIRN_CONFIG name a TOML file that can be read".to_owned())
            }
            Self::UnknownSection { nearest, .. } => similar("section", nearest).or_else(|| {
                Some("a section is called like a command, as in [serve] or [bench.latency]".into())
            }),
            Self::UnknownKey { nearest, .. } => similar("key", nearest).or_else(|| {
                Some("a key is called like a flag; `--help` of a command lists its flags".into())
            }),
            Self::Elsewhere { sections, .. } => {
                let names: Vec<String> = sections.iter().map(|name| format!("[{name}]")).collect();
                Some(format!("it belongs in {}", names.join(" or ")))
            }
            Self::UnknownProfile { nearest, known, .. } => {
                similar("profile", nearest).or_else(|| Some(format!("profiles: {known}")))
            }
            _ => None,
        }
    }
}

/// The name that is most like one that was misspelt.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(name, known);
    let (best, known) = names
        .map(|known| (likeness(known), known))
        .max_by(|(left, _), (right, _)| left.total_cmp(right))?;
    (best >= MIN_LIKENESS).then(|| known.to_owned())
}

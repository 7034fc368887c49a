//! Why weights could not be read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be opened, or something in it not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is nothing here that could be a checkpoint, or only what is never read.
    #[error("no weights in {}: {what}", path.display())]
    NoWeights {
        /// The folder or file that was given.
        path: PathBuf,
        /// What was looked for, what was found instead, and what to do.
        what: String,
    },
    /// A file breaks the rules of its format: damaged, cut off or hostile.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and got, and where.
        what: String,
    },
    /// A file, or something in it, is valid but beyond this program.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        what: String,
    },
    /// The checkpoint has no such tensor.
    #[error("tensor `{name}` is not in {}, which has {count} tensors{}", path.display(), Nearest(nearest))]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// How many tensors it has.
        count: usize,
        /// Names in it that are most like the one asked for, best first.
        nearest: Vec<String>,
    },
    /// The metadata has no such key.
    #[error("{}: metadata key `{key}` is missing", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key that was asked for.
        key: String,
    },
    /// The metadata has the key, but not with the type or range that was asked for.
    #[error("{}: metadata key `{key}` should be {expected}, but is {found}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key that was asked for.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What the file has.
        found: String,
    },
    /// A tensor's shape is not the one that was asked for.
    #[error("tensor `{name}` has shape {got:?}, expected {expected:?}")]
    WrongShape {
        /// The tensor.
        name: String,
        /// The shape that was asked for.
        expected: Vec<usize>,
        /// The shape it has.
        got: Vec<usize>,
    },
}

impl WeightsError {
    pub(super) fn malformed(path: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), what: what.into() }
    }

    pub(super) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }

    pub(super) fn no_weights(path: &Path, what: impl Into<String>) -> Self {
        Self::NoWeights { path: path.to_owned(), what: what.into() }
    }
}

/// Turns "there is none" into `None` and leaves every other error: for keys that have a default.
pub trait Optional<T> {
    /// `Ok(None)` for [`WeightsError::MissingKey`] and [`WeightsError::NotFound`].
    ///
    /// # Errors
    /// Whatever else went wrong.
    fn optional(self) -> Result<Option<T>, WeightsError>;
}

impl<T> Optional<T> for Result<T, WeightsError> {
    fn optional(self) -> Result<Option<T>, WeightsError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(WeightsError::MissingKey { .. } | WeightsError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The tail of "not found": nothing, or the names that come closest.
struct Nearest<'a>(&'a [String]);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, name) in self.0.iter().enumerate() {
            let lead = if idx == 0 { "; most like it: " } else { ", " };
            write!(f, "{lead}`{name}`")?;
        }
        Ok(())
    }
}

/// The names most like `wanted`, best first: those that share the longest beginning and end. One
/// pass, since a checkpoint may have a million names.
pub(super) fn nearest_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    const MOST: usize = 3;
    let mut best: Vec<(usize, &str)> = Vec::with_capacity(MOST + 1);
    for name in names {
        let likeness = likeness(wanted, name);
        if likeness * 3 < wanted.len() * 2 {
            continue;
        }
        let place = best.partition_point(|&(other, _)| other >= likeness);
        best.insert(place, (likeness, name));
        best.truncate(MOST);
    }
    best.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Bytes of the common beginning plus bytes of the common end of what is left.
fn likeness(a: &str, b: &str) -> usize {
    let equal =
        |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
    let prefix = equal(&mut a.bytes().zip(b.bytes()));
    let (rest_a, rest_b) = (&a.as_bytes()[prefix..], &b.as_bytes()[prefix..]);
    prefix + equal(&mut rest_a.iter().rev().copied().zip(rest_b.iter().rev().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_are_those_with_the_same_beginning_and_end() {
        let names = [
            "lm_head.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.10.self_attn.q_proj.weight",
            "model.norm.weight",
        ];
        let nearest = nearest_names("model.layers.0.self_attn.q_porj.weight", names.into_iter());
        assert_eq!(nearest[0], "model.layers.0.self_attn.q_proj.weight");
        assert_eq!(nearest.len(), 2);
        assert!(nearest_names("output.weight", names.into_iter()).is_empty());
    }

    #[test]
    fn optional_swallows_only_absence() {
        let missing: Result<u64, _> =
            Err(WeightsError::MissingKey { path: "a.gguf".into(), key: "k".into() });
        assert_eq!(missing.optional().unwrap(), None);
        let malformed: Result<u64, _> = Err(WeightsError::malformed(Path::new("a"), "cut"));
        assert!(malformed.optional().is_err());
    }
}

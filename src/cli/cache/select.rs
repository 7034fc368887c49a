//! Which entries a command is about: KEY, and `--model`.
//!
//! ```text
//! KEY        3f9a62...     the beginning of exactly one key
//! --model    MODEL flags   its graphs, and the request that names them
//! ```
//!
//! What this module deliberately does not do: an entry that is named but not there is for the command
//! to judge.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::{anyhow, bail};
use cairn_graph_cache::CacheKey;
use clap::{Arg, Args};

use super::view::short;
use crate::cli::failure::Hint as _;
use crate::cli::model_args::ModelArgs;
use crate::cli::{Context, boot};
use crate::config::GraphCacheConfig;

/// Fewest digits that name a key.
const MIN_DIGITS: usize = 6;
const NUM_DIGITS: usize = 64;
/// Most keys that a message names.
const MAX_NAMED: usize = 4;

/// The beginning of a key, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPrefix(String);

impl FromStr for KeyPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_key = (MIN_DIGITS..=NUM_DIGITS).contains(&text.len())
            && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_key {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("expected {MIN_DIGITS} to {NUM_DIGITS} hexadecimal digits"))
        }
    }
}

impl KeyPrefix {
    /// The one of these keys that begins so; or the key itself, when all of it was given.
    pub(super) fn find<'a>(
        &self,
        known: impl IntoIterator<Item = &'a CacheKey>,
    ) -> anyhow::Result<CacheKey> {
        if let Ok(key) = self.0.parse() {
            return Ok(key);
        }
        let begins = |key: &&CacheKey| key.to_string().starts_with(&self.0);
        let found: BTreeSet<&CacheKey> = known.into_iter().filter(begins).collect();
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(key), None) => Ok(*key),
            (None, _) => Err(anyhow!("no entry has a key that begins with `{}`", self.0))
                .hint("`cairn cache ls` shows the keys of all entries"),
            (Some(first), Some(second)) => {
                let all: Vec<&CacheKey> = [first, second].into_iter().chain(found).collect();
                let named: Vec<String> = all.iter().take(MAX_NAMED).map(|key| short(key)).collect();
                let more = if all.len() > MAX_NAMED { ", ..." } else { "" };
                let (count, named) = (all.len(), named.join(", "));
                Err(anyhow!(
                    "{count} entries have keys that begin with `{}`: {named}{more}",
                    self.0
                ))
                .hint("give more digits")
            }
        }
    }
}

/// Entries by key and by model.
#[derive(Debug, Args)]
#[command(mut_arg("model", as_flag))]
pub(super) struct Selection {
    /// Keys of entries, or their beginnings.
    #[arg(value_name = "KEY")]
    keys: Vec<KeyPrefix>,

    #[command(flatten)]
    model: ModelArgs,
}

/// MODEL of other commands as a flag: here, it is not what the command runs, and a variable must not
/// add entries that nobody named.
fn as_flag(arg: Arg) -> Arg {
    arg.long("model")
        .value_name("MODEL")
        .env(None)
        .help(
            "The entries of a model with these settings: its graphs, and the request that names them",
        )
        .long_help(None)
}

impl Selection {
    /// What was asked of the cache.
    pub(super) fn cache(&self, context: &Context) -> GraphCacheConfig {
        self.model.cache(&context.environment)
    }

    /// Whether nothing was named.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.model.is_named()
    }

    /// Whether a model was named.
    pub(super) fn has_model(&self) -> bool {
        self.model.is_named()
    }

    /// The keys of what was named, each once, in order; `known` are those that may be abbreviated.
    pub(super) fn keys(
        &self,
        context: &Context,
        known: &[CacheKey],
    ) -> anyhow::Result<Vec<CacheKey>> {
        let mut keys = BTreeSet::new();
        for prefix in &self.keys {
            keys.insert(prefix.find(known)?);
        }
        if self.model.is_named() {
            let config = self.model.engine_config(context)?;
            let report = boot::explain(&config, &*context.progress)?;
            keys.extend(report.graphs.iter().map(|(_, graph)| graph.key));
            keys.extend(known.iter().filter(|key| **key == report.request_key));
        }
        Ok(keys.into_iter().collect())
    }

    /// The same, at least one.
    pub(super) fn some_keys(
        &self,
        context: &Context,
        known: &[CacheKey],
    ) -> anyhow::Result<Vec<CacheKey>> {
        if self.is_empty() {
            bail!(crate::cli::failure::Usage("expected KEY or `--model MODEL`".to_owned()));
        }
        self.keys(context, known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure;

    fn key(byte: u8) -> CacheKey {
        CacheKey::from_bytes([byte; 32])
    }

    fn find(text: &str, known: &[CacheKey]) -> anyhow::Result<CacheKey> {
        text.parse::<KeyPrefix>().unwrap().find(known)
    }

    #[test]
    fn a_beginning_names_the_one_key_that_has_it() {
        let keys = [key(0xab), key(0xac)];
        assert_eq!(find("ababab", &keys).unwrap(), key(0xab));
        assert_eq!(find("ACACACAC", &keys).unwrap(), key(0xac));
        // Given in full, it need not be there.
        assert_eq!(find(&key(1).to_string(), &keys).unwrap(), key(1));
    }

    #[test]
    fn a_beginning_of_none_or_of_many_is_an_error() {
        let error = find("000000", &[key(0xab)]).unwrap_err();
        assert!(error.to_string().contains("`000000`"), "{error}");
        assert!(failure::hint(&error).unwrap().contains("cache ls"));
        let similar = |last| {
            let mut bytes = [0xab; 32];
            bytes[31] = last;
            CacheKey::from_bytes(bytes)
        };
        let keys: Vec<_> = (0..6).map(similar).collect();
        let error = find("ababab", &keys).unwrap_err();
        let expected = "6 entries have keys that begin with `ababab`: abababababab";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(error.to_string().ends_with(", ..."), "{error}");
    }

    #[test]
    fn a_key_has_6_to_64_digits() {
        for text in ["", "abcde", "abcdeg", "ab cdef", &"a".repeat(65)] {
            let error = text.parse::<KeyPrefix>().unwrap_err();
            assert_eq!(error, "expected 6 to 64 hexadecimal digits");
        }
    }
}

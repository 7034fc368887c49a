//! The flags about the graph cache, shared by every command with a model and by `cairn cache`.
//!
//! | Flag | Says |
//! | --- | --- |
//! | `--cache-dir`, `--cache-layer` | where compiled graphs are |
//! | `--cache-mode`, `--no-cache` | what may be done with them |
//! | `--cache-trust`, `--cache-keys` | whose are used |
//! | `--cache-max-bytes`, `--cache-lock-timeout` | limits |
//!
//! What this module deliberately does not do: it opens no cache; `graph_cache` does, from what these
//! flags mean.

use std::path::PathBuf;
use std::time::Duration;

use cairn_graph_cache::CacheMode;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint};

use super::model_args::MAX_SECONDS;
use super::values;
use crate::config::{CacheTrust, DEFAULT_CACHE_LOCK_TIMEOUT, Environment, GraphCacheConfig};

/// Where compiled graphs are found and kept, and whose are used.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cache options")]
pub(crate) struct CacheArgs {
    /// Folder of compiled graphs [default: `graphs` in the cache folder, see `cairn --help`].
    #[arg(long, value_name = "DIR", env = "CAIRN_GRAPH_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Another place of compiled graphs, only read: a folder or `s3://BUCKET/PREFIX`; may be given
    /// several times, the first is asked first.
    ///
    /// What is found there is copied into the folder of `--cache-dir`. Object stores are reached as
    /// the variables `AWS_...` say (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, ...). In the variable, places are separated by commas.
    #[arg(long, value_name = "PLACE", env = "CAIRN_CACHE_LAYER", value_delimiter = ',')]
    #[arg(value_parser = NonEmptyStringValueParser::new(), value_hint = ValueHint::AnyPath)]
    cache_layer: Vec<String>,

    /// What may be done with the cache: `rw` reads it and keeps what is compiled, `ro` changes
    /// nothing in it, `off` neither reads nor keeps, `require` fails before doing any work unless
    /// every graph is there.
    #[arg(long, value_name = "MODE", env = "CAIRN_CACHE_MODE", default_value_t)]
    #[arg(value_parser = mode_parser())]
    cache_mode: CacheMode,

    /// The same as `--cache-mode off`, whatever that says.
    #[arg(long, env = "CAIRN_NO_CACHE", value_parser = values::switch())]
    no_cache: bool,

    /// Whose compiled graphs are used: `owner` takes those that only this user or root could have
    /// written (of a layer: only its owner), `any` takes all, `signed` takes those signed with a key
    /// in `--cache-keys`.
    #[arg(long, value_name = "WHOSE", env = "CAIRN_CACHE_TRUST", default_value_t, value_enum)]
    #[arg(hide_possible_values = true)]
    cache_trust: CacheTrust,

    /// A file with the public keys of those whose signatures count, one a line.
    #[arg(long, value_name = "FILE", env = "CAIRN_CACHE_KEYS")]
    #[arg(required_if_eq("cache_trust", "signed"))]
    cache_keys: Option<PathBuf>,

    /// The most that the folder of compiled graphs may hold, as in 20GB; beyond it, graphs are
    /// removed, least recently used first [default: no limit].
    #[arg(long, value_name = "BYTES", env = "CAIRN_CACHE_MAX_BYTES")]
    #[arg(value_parser = values::bytes, allow_hyphen_values = true)]
    cache_max_bytes: Option<u64>,

    /// How long to wait for another process that is compiling the same graph before compiling it
    /// here as well.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_CACHE_LOCK_TIMEOUT")]
    #[arg(value_parser = values::whole::<u64>(1..=MAX_SECONDS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_CACHE_LOCK_TIMEOUT.as_secs())]
    cache_lock_timeout: u64,
}

fn mode_parser() -> impl TypedValueParser<Value = CacheMode> {
    PossibleValuesParser::new(CacheMode::ALL.map(CacheMode::name))
        .try_map(|name| name.parse::<CacheMode>())
}

impl CacheArgs {
    /// What the flags mean.
    pub(crate) fn config(&self, environment: &Environment) -> GraphCacheConfig {
        let mode = if self.no_cache { CacheMode::Off } else { self.cache_mode };
        GraphCacheConfig {
            folder: self.folder(mode, environment),
            layers: self.cache_layer.clone(),
            mode,
            trust: self.cache_trust,
            keys: self.cache_keys.clone(),
            max_bytes: self.cache_max_bytes,
            lock_timeout: Duration::from_secs(self.cache_lock_timeout),
            remote_settings: environment.remote_settings.clone(),
        }
    }

    fn folder(&self, mode: CacheMode, environment: &Environment) -> Option<PathBuf> {
        let folder = self.cache_dir.clone().or_else(|| environment.graphs_dir());
        if folder.is_none() && mode != CacheMode::Off {
            tracing::warn!(
                "compiled graphs are not kept: there is no home folder; set `CAIRN_CACHE_DIR`"
            );
        }
        folder
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::RemoteSettings;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        cache: CacheArgs,
    }

    fn config(args: &[&str]) -> GraphCacheConfig {
        let args = ["test"].iter().chain(args);
        let environment = Environment { cache_root: Some("/root".into()), ..Default::default() };
        Command::try_parse_from(args).unwrap().cache.config(&environment)
    }

    #[test]
    fn without_flags_graphs_are_kept_in_the_cache_folder() {
        assert_eq!(config(&[]), GraphCacheConfig::in_folder("/root/graphs"));
    }

    #[test]
    fn flags_say_where_what_and_whose() {
        let flags = [
            "--cache-dir=d",
            "--cache-layer=a,s3://b/c",
            "--cache-layer=e",
            "--cache-mode=require",
            "--cache-trust=signed",
            "--cache-keys=k",
            "--cache-max-bytes=2GB",
            "--cache-lock-timeout=5",
        ];
        let expected = GraphCacheConfig {
            folder: Some("d".into()),
            layers: ["a", "s3://b/c", "e"].map(str::to_owned).to_vec(),
            mode: CacheMode::Require,
            trust: CacheTrust::Signed,
            keys: Some("k".into()),
            max_bytes: Some(2_000_000_000),
            lock_timeout: Duration::from_secs(5),
            remote_settings: RemoteSettings::default(),
        };
        assert_eq!(config(&flags), expected);
    }

    #[test]
    fn no_cache_is_off_whatever_the_mode_says() {
        assert_eq!(config(&["--no-cache", "--cache-mode", "rw"]).mode, CacheMode::Off);
    }

    #[test]
    fn what_cannot_be_meant_is_wrong_usage() {
        for flags in [
            &["--cache-trust=signed"][..],
            &["--cache-layer="],
            &["--cache-layer=a,,b"],
            &["--cache-mode=readonly"],
            &["--cache-max-bytes=0"],
            &["--cache-lock-timeout=0"],
        ] {
            let args = ["test"].iter().chain(flags);
            assert!(Command::try_parse_from(args).is_err(), "{flags:?}");
        }
    }
}

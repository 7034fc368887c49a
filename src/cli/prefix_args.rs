//! The flags about prefixes that outlive the process, shared by every command with a model.
//!
//! What this module deliberately does not do: it opens no folder; booting does.

use std::path::PathBuf;

use clap::Args;

use super::values;
use crate::config::{DEFAULT_PREFIX_CACHE_MIN_HITS, PrefixCacheConfig};

/// More hits than that nobody waits for.
const MAX_MIN_HITS: u64 = 1_000_000;

/// Where KV blocks of prefixes are kept, and which of them.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the flags' own names")]
#[command(next_help_heading = "Prefix cache options")]
pub(crate) struct PrefixArgs {
    /// Folder in which prefixes of prompts outlive the process, so that a restarted server answers a
    /// long system prompt without computing it [default: none, they go with the process].
    ///
    /// Blocks are found again by the same build with the same model and settings, on the same kind
    /// of processor or device. `cairn cache ls --cache-dir DIR` lists them, `cairn cache pin` keeps
    /// some. The folder must be another one than that of compiled graphs. Of `--cache-trust`,
    /// `signed` means `owner` here: blocks are not signed.
    #[arg(long, value_name = "DIR", env = "CAIRN_PREFIX_CACHE_DIR")]
    prefix_cache_dir: Option<PathBuf>,

    /// The most that the folder of prefixes may hold, as in 20GB; beyond it, blocks are removed,
    /// least recently used first.
    #[arg(
        long,
        value_name = "BYTES",
        env = "CAIRN_PREFIX_CACHE_MAX_BYTES",
        default_value = "4GiB"
    )]
    #[arg(value_parser = values::bytes, allow_hyphen_values = true)]
    prefix_cache_max_bytes: u64,

    /// How many later requests must have used a block before it is written; 0 writes every full
    /// block of every prompt.
    #[arg(long, value_name = "N", env = "CAIRN_PREFIX_CACHE_MIN_HITS")]
    #[arg(value_parser = values::whole::<u32>(0..=MAX_MIN_HITS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_PREFIX_CACHE_MIN_HITS)]
    prefix_cache_min_hits: u32,
}

impl PrefixArgs {
    /// What the flags mean.
    pub(crate) fn config(&self) -> PrefixCacheConfig {
        PrefixCacheConfig {
            folder: self.prefix_cache_dir.clone(),
            max_bytes: self.prefix_cache_max_bytes,
            min_hits: self.prefix_cache_min_hits,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        prefix: PrefixArgs,
    }

    fn config(args: &[&str]) -> PrefixCacheConfig {
        Command::try_parse_from(["test"].iter().chain(args)).unwrap().prefix.config()
    }

    #[test]
    fn without_flags_no_prefix_outlives_the_process() {
        assert_eq!(config(&[]), PrefixCacheConfig::default());
    }

    #[test]
    fn flags_say_where_how_much_and_which() {
        let flags = ["--prefix-cache-dir=d", "--prefix-cache-max-bytes=2GB"];
        let flags = [&flags[..], &["--prefix-cache-min-hits=0"]].concat();
        let folder = Some("d".into());
        let expected = PrefixCacheConfig { folder, max_bytes: 2_000_000_000, min_hits: 0 };
        assert_eq!(config(&flags), expected);
    }
}

//! From what was asked of the graph cache to an open one; and from its counters to metrics.
//!
//! ```text
//! --cache-dir     folder -------------------------------> DiskStore --.
//! --cache-layer   folder, file:///folder ---------------> DiskStore --+--> GraphCache
//!                 s3://bucket/prefix --feature remote---> RemoteStore '
//! --cache-trust signed, --cache-keys --key file--> KeyRing
//! ```
//!
//! What was typed wrongly is an error here, before any work: a key file that cannot be read, an
//! address that is none. A folder that cannot be used is not: the cache warns, and graphs are kept
//! in memory.
//!
//! What this module deliberately does not do: it decides nothing about entries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use cairn_graph_cache::{
    CacheMode, CacheOptions, DiskAccess, DiskOptions, DiskStore, GraphCache, KeyRing, Layer,
    Observer, StatsSnapshot, Store, Trust,
};
use fs_err as fs;

use super::failure::{Hint as _, Usage};
use crate::build_info;
use crate::config::{CacheTrust, GraphCacheConfig};
use crate::telemetry::{self as names, Metric, Sample};

/// Opens the cache; `observers` are told what happens in it.
pub(crate) fn open(
    config: &GraphCacheConfig,
    observers: Vec<Arc<dyn Observer>>,
) -> anyhow::Result<GraphCache> {
    let (trust, layers) = if config.mode == CacheMode::Off {
        // Nothing of it is touched.
        (Trust::default(), Vec::new())
    } else {
        let trust = trust(config)?;
        let layers = layers(config, &trust)?;
        (trust, layers)
    };
    Ok(GraphCache::open(CacheOptions {
        folder: config.folder.clone(),
        layers,
        mode: config.mode,
        trust,
        max_bytes: config.max_bytes,
        max_wait: config.lock_timeout,
        observers,
        ..CacheOptions::new(producer())
    }))
}

/// Name and version of this program, as new entries have it.
pub(crate) fn producer() -> String {
    format!("cairn {} ({})", build_info::VERSION, build_info::GIT_REVISION)
}

/// Where entries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a folder.
    Folder(PathBuf),
    /// In an object store.
    Remote(String),
}

impl Place {
    /// The place of that name.
    pub(crate) fn parse(text: &str) -> Result<Self, Usage> {
        if text.starts_with("s3://") {
            return Ok(Self::Remote(text.to_owned()));
        }
        // An address of a folder has no host, or the empty one.
        let path = text.strip_prefix("file://").filter(|path| path.starts_with('/'));
        match path {
            Some(path) => Ok(Self::Folder(path.into())),
            None if !text.contains("://") && !text.is_empty() => Ok(Self::Folder(text.into())),
            None => Err(Usage(format!(
                "`{text}` is no place for compiled graphs: expected a folder, `file:///FOLDER` or \
                 `s3://BUCKET/PREFIX`"
            ))),
        }
    }

    /// The store that is there.
    pub(crate) fn open(
        &self,
        config: &GraphCacheConfig,
        trust: &Trust,
        access: DiskAccess,
    ) -> anyhow::Result<Box<dyn Store>> {
        match self {
            Self::Folder(path) => Ok(Box::new(disk(path, trust, access)?)),
            Self::Remote(url) => remote(url, config, trust),
        }
    }
}

/// Whose entries may be used.
pub(crate) fn trust(config: &GraphCacheConfig) -> anyhow::Result<Trust> {
    Ok(match config.trust {
        CacheTrust::Owner => Trust::Owner,
        CacheTrust::Any => Trust::Any,
        CacheTrust::Signed => {
            let path = config.keys.as_deref().ok_or_else(|| {
                Usage("`--cache-trust signed` needs `--cache-keys FILE`".to_owned())
            })?;
            Trust::Signed(key_ring(path)?)
        }
    })
}

fn key_ring(path: &Path) -> anyhow::Result<KeyRing> {
    let doing = || format!("reading the trusted keys in `{}`", path.display());
    let text = fs::read_to_string(path).with_context(doing)?;
    let hint = "one line for each key: `ed25519:` and 64 digits, as `cairn cache keygen` prints it";
    KeyRing::parse(&text).with_context(doing).hint(hint)
}

fn layers(config: &GraphCacheConfig, trust: &Trust) -> anyhow::Result<Vec<Layer>> {
    let layer = |text: &String| {
        Ok(match Place::parse(text)? {
            Place::Folder(path) => Layer::Folder(path),
            Place::Remote(url) => Layer::Store(remote(&url, config, trust)?),
        })
    };
    config.layers.iter().map(layer).collect()
}

/// The folder that was asked for.
pub(crate) fn folder(config: &GraphCacheConfig) -> anyhow::Result<&Path> {
    let folder = config.folder.as_deref().context("there is no place for compiled graphs");
    folder.hint("name a folder with `--cache-dir`, or set `CAIRN_CACHE_DIR`")
}

/// The store in a folder.
pub(crate) fn disk(path: &Path, trust: &Trust, access: DiskAccess) -> anyhow::Result<DiskStore> {
    let options = DiskOptions { trust: trust.clone(), access, ..DiskOptions::default() };
    Ok(DiskStore::open_with(path, options)?)
}

/// The store in an object store. Nothing is asked of the service yet.
#[cfg(feature = "remote")]
fn remote(url: &str, config: &GraphCacheConfig, trust: &Trust) -> anyhow::Result<Box<dyn Store>> {
    Ok(Box::new(remote_store(url, config, trust)?))
}

/// The same, to be able to ask what is allowed there.
#[cfg(feature = "remote")]
pub(crate) fn remote_store(
    url: &str,
    config: &GraphCacheConfig,
    trust: &Trust,
) -> anyhow::Result<cairn_graph_cache::RemoteStore> {
    use cairn_graph_cache::{RemoteOptions, RemoteStore};
    let options = RemoteOptions {
        settings: config.remote_settings.to_vec(),
        trust: trust.clone(),
        ..RemoteOptions::default()
    };
    Ok(RemoteStore::open(url, options)?)
}

#[cfg(not(feature = "remote"))]
fn remote(url: &str, _: &GraphCacheConfig, _: &Trust) -> anyhow::Result<Box<dyn Store>> {
    let error = anyhow::anyhow!("`{url}` is an object store, and this build can reach none");
    Err(error).hint(
        "build with `cargo build --release --features remote`, or carry entries in a file: `cairn \
         cache export` and `cairn cache import`",
    )
}

/// What the cache counted, as metrics.
pub(crate) fn samples(stats: &StatsSnapshot) -> Vec<Sample> {
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let count = |count: u64| count as f64;
    let misses = stats.misses_by_reason().map(|(reason, misses)| {
        Sample::labelled(names::CACHE_MISSES, "reason", reason, count(misses))
    });
    let others: [(Metric, f64); 14] = [
        (names::CACHE_HITS, count(stats.hits)),
        (names::CACHE_COMPILE_SECONDS, seconds(stats.compile_ms)),
        (names::CACHE_SAVED_SECONDS, seconds(stats.saved_ms)),
        (names::CACHE_READ_BYTES, count(stats.bytes_read)),
        (names::CACHE_WRITTEN_BYTES, count(stats.bytes_written)),
        (names::CACHE_WRITE_FAILURES, count(stats.write_failures)),
        (names::CACHE_QUARANTINED, count(stats.quarantined)),
        (names::CACHE_EVICTED, count(stats.evicted)),
        (names::CACHE_PROMOTED, count(stats.promoted)),
        (names::CACHE_LOCK_WAIT_SECONDS, seconds(stats.lock_wait_ms)),
        (names::CACHE_LOCK_TIMEOUTS, count(stats.lock_timeouts)),
        (names::CACHE_TAKEOVERS, count(stats.takeovers)),
        (names::CACHE_LAYER_FAILURES, count(stats.layer_failures)),
        (names::CACHE_CRASH_LOOPS, count(stats.crash_loops)),
    ];
    misses.into_iter().chain(others.map(|(metric, value)| Sample::new(metric, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::failure;
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_an_address() {
        let folder = |path: &str| Place::Folder(path.into());
        for (text, expected) in [
            ("/a/b", folder("/a/b")),
            ("a b", folder("a b")),
            ("file:///a/b", folder("/a/b")),
            ("s3://bucket/a", Place::Remote("s3://bucket/a".to_owned())),
        ] {
            assert_eq!(Place::parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "gs://bucket", "file://host/a", "https://host/a"] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(error.contains("`s3://BUCKET/PREFIX`"), "{error}");
        }
    }

    #[test]
    fn a_bad_line_of_the_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        fs::write(&keys, "# ours\ned25519:xyz\n").unwrap();
        let config = GraphCacheConfig {
            trust: CacheTrust::Signed,
            keys: Some(keys.clone()),
            ..GraphCacheConfig::in_folder(folder.path())
        };
        let error = open(&config, Vec::new()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&format!("`{}`", keys.display())), "{text}");
        assert!(text.contains("line 2: expected a public key"), "{text}");
        assert!(failure::hint(&error).unwrap().contains("keygen"));

        fs::remove_file(&keys).unwrap();
        assert!(open(&config, Vec::new()).is_err());
        // What is off needs no keys.
        assert!(open(&GraphCacheConfig { mode: CacheMode::Off, ..config }, Vec::new()).is_ok());
    }

    #[test]
    fn an_address_that_is_none_is_wrong_usage() {
        let layers = vec!["gs://bucket".to_owned()];
        let error = open(&GraphCacheConfig { layers, ..Default::default() }, Vec::new());
        assert!(error.unwrap_err().is::<Usage>());
    }

    #[test]
    #[cfg(not(feature = "remote"))]
    fn a_build_that_reaches_no_object_store_says_how_to_get_one() {
        let layers = vec!["s3://bucket/prefix".to_owned()];
        let error = open(&GraphCacheConfig { layers, ..Default::default() }, Vec::new());
        let error = error.unwrap_err();
        assert!(error.to_string().contains("`s3://bucket/prefix`"), "{error}");
        assert!(failure::hint(&error).unwrap().contains("--features remote"));
    }

    #[test]
    fn every_counter_is_a_metric_of_its_own() {
        let stats = StatsSnapshot { hits: 3, saved_ms: 1500, misses_bad: 2, ..Default::default() };
        let samples = samples(&stats);
        let value = |name: &str| {
            let of_name = samples.iter().filter(|sample| sample.metric.name == name);
            of_name.map(|sample| sample.value).sum::<f64>()
        };
        assert_eq!(format!("{}", value("cairn_cache_hits_total")), "3");
        assert_eq!(format!("{}", value("cairn_cache_misses_total")), "2");
        assert_eq!(format!("{}", value("cairn_cache_saved_seconds_total")), "1.5");
    }
}

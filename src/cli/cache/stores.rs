//! The folder and its layers, to look into them one by one.
//!
//! ```text
//! --cache-dir      --> the folder   Looked   Disk: entries, sizes, last uses
//! --cache-layer... --> layers       Looked   Disk, or Other: keys and manifests only
//! ```
//!
//! Looking is for everybody: whose entries may be *used* does not matter here, so that what is not
//! trusted can be looked into, too.
//!
//! What this module deliberately does not do: it changes nothing.

use std::time::SystemTime;

use cairn_graph_cache::{
    CacheKey, DiskAccess, DiskStore, EntryInfo, Lookup, Manifest, Store, StoreError, Trust,
};

use crate::cli::failure::Hint as _;
use crate::cli::graph_cache::{self, Place};
use crate::cli::output;
use crate::config::GraphCacheConfig;

/// A store to look into.
#[derive(Debug)]
pub(super) enum Looked {
    Disk(DiskStore),
    Other(Box<dyn Store>),
}

/// What can be seen of an entry.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) key: CacheKey,
    /// Bytes of all files; `None` where nobody knows without reading it.
    pub(super) bytes: Option<u64>,
    pub(super) last_used: Option<SystemTime>,
    pub(super) is_pinned: bool,
    pub(super) is_in_use: bool,
    /// `None`: it is not good.
    pub(super) manifest: Option<Manifest>,
}

/// All stores, the folder first. A layer that cannot be opened is told of and left out.
pub(super) fn open_all(config: &GraphCacheConfig) -> anyhow::Result<Vec<Looked>> {
    let folder = open_folder(config)?;
    let mut stores = vec![Looked::Disk(folder)];
    for layer in &config.layers {
        match open_layer(layer, config) {
            Ok(store) => stores.push(store),
            Err(error) => output::say(format_args!("warning: layer `{layer}`: {error:#}")),
        }
    }
    Ok(stores)
}

/// The folder, to look into it.
pub(super) fn open_folder(config: &GraphCacheConfig) -> anyhow::Result<DiskStore> {
    graph_cache::disk(graph_cache::folder(config)?, &Trust::Any, DiskAccess::ReadOnly)
}

/// The folder, to change it.
pub(super) fn open_folder_to_write(config: &GraphCacheConfig) -> anyhow::Result<DiskStore> {
    let trust = graph_cache::trust(config)?;
    graph_cache::disk(graph_cache::folder(config)?, &trust, DiskAccess::ReadWrite)
        .hint("`cairn doctor` says what is wrong with a cache folder, and what can be done")
}

fn open_layer(layer: &str, config: &GraphCacheConfig) -> anyhow::Result<Looked> {
    let place = Place::parse(layer)?;
    match &place {
        Place::Folder(path) => {
            Ok(Looked::Disk(graph_cache::disk(path, &Trust::Any, DiskAccess::Layer)?))
        }
        Place::Remote(_) => {
            Ok(Looked::Other(place.open(config, &Trust::Any, DiskAccess::Layer)?))
        }
    }
}

impl Looked {
    pub(super) fn store(&self) -> &dyn Store {
        match self {
            Self::Disk(store) => store,
            Self::Other(store) => store,
        }
    }

    pub(super) fn place(&self) -> String {
        self.store().place()
    }

    /// Every entry, by a glance at it.
    pub(super) fn entries(&self) -> Result<Vec<Seen>, StoreError> {
        match self {
            Self::Disk(store) => {
                Ok(store.entries()?.into_iter().map(|info| seen(store, info)).collect())
            }
            Self::Other(store) => Ok(store.list()?.into_iter().map(unseen).collect()),
        }
    }
}

/// Why there is nothing to be seen of an entry.
pub(super) fn why_not(store: &dyn Store, key: &CacheKey) -> String {
    match store.get(key) {
        Lookup::Hit(_) => "it was replaced just now".to_owned(),
        Lookup::Miss(reason) => reason.to_string(),
    }
}

fn seen(store: &DiskStore, info: EntryInfo) -> Seen {
    Seen {
        key: info.key,
        bytes: Some(info.bytes),
        last_used: info.last_used,
        is_pinned: info.is_pinned,
        is_in_use: info.is_in_use,
        manifest: store.manifest(&info.key),
    }
}

/// Across a network, only keys are cheap.
fn unseen(key: CacheKey) -> Seen {
    let (bytes, last_used, manifest) = Default::default();
    Seen { key, bytes, last_used, is_pinned: false, is_in_use: false, manifest }
}

//! From what was asked about persistent prefixes to an open store.
//!
//! ```text
//! --prefix-cache-dir --open--> PrefixFolder --store--> DiskPrefixStore --> engine
//!                      before the work       after it: digest of the weights, bytes of a block
//! ```
//!
//! A folder that cannot be used is a warning: prompts are computed. A folder that cannot be meant is
//! wrong usage.
//!
//! What this module deliberately does not do: it decides nothing about blocks.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use cairn_graph_cache::Trust;
use fs_err as fs;

use super::failure::Usage;
use super::graph_cache::producer;
use super::plan::Plan;
use super::request::model_settings;
use crate::backend::StateSpec;
use crate::config::{CacheTrust, EngineConfig};
use crate::engine::PrefixStoreStats;
use crate::ir::{canonical_bytes, passes, verify};
use crate::model::Model;
use crate::prefix_store::{DiskPrefixStore, PrefixFolder, PrefixIdentity, PrefixStoreOptions};
use crate::telemetry::{self as names, Sample};

/// What the store counts, for the server to tell; what the engine read and wrote is its own to tell.
pub(crate) fn samples(stats: &PrefixStoreStats) -> Vec<Sample> {
    let PrefixStoreStats { hits: _, misses, saved: _, corrupt, evicted, bytes, errors } = *stats;
    [
        (names::PREFIX_STORE_MISSES, misses),
        (names::PREFIX_STORE_CORRUPT, corrupt),
        (names::PREFIX_STORE_ERRORS, errors),
        (names::PREFIX_STORE_EVICTED, evicted),
        (names::PREFIX_STORE_BYTES, bytes),
    ]
    .into_iter()
    .map(|(metric, count)| Sample::new(metric, count as f64))
    .collect()
}

/// The folder that was asked for, if it can be used.
pub(super) fn open(config: &EngineConfig) -> anyhow::Result<Option<PrefixFolder>> {
    let Some(path) = &config.prefix_cache.folder else { return Ok(None) };
    if config.graph_cache.folder.as_deref().is_some_and(|graphs| is_same(graphs, path)) {
        let what = format!(
            "`--prefix-cache-dir` and `--cache-dir` are both `{}`: compiled graphs would be removed \
             to make room for prefixes; name another folder",
            path.display()
        );
        return Err(Usage(what).into());
    }
    let trust = match config.graph_cache.trust {
        CacheTrust::Any => Trust::Any,
        CacheTrust::Owner | CacheTrust::Signed => Trust::Owner,
    };
    let options =
        PrefixStoreOptions { trust, ..PrefixStoreOptions::new(config.prefix_cache.max_bytes) };
    let opened = PrefixFolder::open(path, options, &producer());
    Ok(opened.inspect_err(|error| not_used(path, error)).ok())
}

/// The store of what this model computes here, in blocks of so many bytes.
pub(super) fn store(
    folder: PrefixFolder,
    model: &Model,
    plan: &Plan,
    block_bytes: usize,
) -> anyhow::Result<Option<Arc<DiskPrefixStore>>> {
    if block_bytes == 0 {
        tracing::warn!("prefixes are not kept: the {} backend has no KV", plan.backend.name());
        return Ok(None);
    }
    let weights = folder.weights_digest(model.checkpoint()).digest;
    let graph = verify(plan.graph().clone()).context("verifying the graph")?;
    let graph = passes::optimise(&graph).context("optimising the graph")?;
    let mut backend_fields = plan.backend.fingerprint();
    backend_fields.extend(plan.backend.numerics());
    // Their order means nothing.
    backend_fields.sort();
    let identity = PrefixIdentity {
        producer: producer(),
        backend: plan.backend.name().to_owned(),
        backend_fields: backend_fields.into_iter().map(|(k, v)| (k.into_owned(), v)).collect(),
        weights,
        graph: canonical_bytes(&graph),
        model_fields: model_settings(model).into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        kv_dtype: model.precision().kv_cache.to_string(),
        kv_layout: layout(&plan.states),
        block_size: plan.options.block_size,
        num_layers: model.config().num_layers,
        block_bytes,
    };
    let place = folder.path().to_owned();
    let opened = folder.into_store(&identity);
    Ok(opened.inspect_err(|error| not_used(&place, error)).ok().map(Arc::new))
}

fn not_used(path: &Path, error: &cairn_graph_cache::StoreError) {
    tracing::warn!("prefixes are not kept in `{}`: {error}", path.display());
}

/// Whether two paths name one folder.
fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        // What is not there yet has only its name.
        _ => a == b,
    }
}

/// The states that a block lies in, in their order, as in `60 x f32 [blocks, 16, 3, 64]`.
fn layout(states: &[StateSpec]) -> String {
    let mut runs: Vec<(usize, String)> = Vec::new();
    for StateSpec { dtype, shape } in states {
        let sizes: Vec<String> = shape.iter().skip(1).map(usize::to_string).collect();
        let text = format!("{dtype} [blocks, {}]", sizes.join(", "));
        match runs.last_mut() {
            Some((count, last)) if *last == text => *count += 1,
            _ => runs.push((1, text)),
        }
    }
    runs.iter().map(|(count, text)| format!("{count} x {text}")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GraphCacheConfig;
    use crate::ir::DType;

    #[test]
    fn equal_states_are_counted_and_others_are_told_apart() {
        let state = |dtype, shape: &[usize]| StateSpec { dtype, shape: shape.to_vec() };
        let states = [state(DType::F32, &[9, 16, 3, 64]), state(DType::F32, &[9, 16, 3, 64])];
        assert_eq!(layout(&states), "2 x f32 [blocks, 16, 3, 64]");
        let states = [&states[..], &[state(DType::F16, &[9, 4])]].concat();
        assert_eq!(layout(&states), "2 x f32 [blocks, 16, 3, 64]; 1 x f16 [blocks, 4]");
    }

    #[test]
    fn the_folder_of_compiled_graphs_is_wrong_usage_and_one_of_no_use_is_not() {
        let place = tempfile::tempdir().unwrap();
        let config = |graphs: &Path, prefixes: &Path| {
            let mut config = EngineConfig::new("model");
            config.graph_cache = GraphCacheConfig::in_folder(graphs);
            config.prefix_cache.folder = Some(prefixes.to_owned());
            config
        };
        let (graphs, prefixes) = (place.path().join("graphs"), place.path().join("prefixes"));
        let error = open(&config(&graphs, &graphs)).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
        fs::create_dir(&graphs).unwrap();
        let detour = place.path().join("graphs/../graphs");
        assert!(open(&config(&graphs, &detour)).unwrap_err().is::<Usage>());
        assert!(open(&config(&graphs, &prefixes)).unwrap().is_some());
        fs::write(place.path().join("file"), b"").unwrap();
        assert!(open(&config(&graphs, &place.path().join("file"))).unwrap().is_none());
        assert!(open(&EngineConfig::new("model")).unwrap().is_none());
    }
}

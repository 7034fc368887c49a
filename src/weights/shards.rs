//! Checkpoints in several safetensors files: the index that says which tensor is in which.
//!
//! ```text
//! model.safetensors.index.json   {"metadata": {..}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", ..}}
//! model-00001-of-00002.safetensors
//! model-00002-of-00002.safetensors
//! ```
//!
//! A shard is named by the plain name of a file beside the index: an index can make us open nothing
//! outside of its folder, unless whoever made the folder put a link there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::WeightsError;
use super::mmap::Mapping;

const MAX_INDEX_BYTES: usize = 100_000_000;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the index at `path`: the names of the tensors in each shard, by the shard's file name.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>, WeightsError> {
    let malformed = |what: String| WeightsError::malformed(path, what);
    let mapping = Mapping::open(path)?;
    let bytes: &[u8] = mapping.as_ref();
    if bytes.len() > MAX_INDEX_BYTES {
        let what =
            format!("the index has {} bytes, at most {MAX_INDEX_BYTES} are allowed", bytes.len());
        return Err(malformed(what));
    }
    // Copied before it is parsed: the file may change under the map.
    let bytes = bytes.to_vec();
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| malformed(format!("not an index of safetensors files: {error}")))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        if !is_plain_file_name(&shard) {
            let what = format!(
                "the shard `{}` of tensor `{tensor}` is not the plain name of a file in the same folder",
                shard.escape_debug()
            );
            return Err(malformed(what));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    Ok(shards)
}

fn is_plain_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_shards() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "C:a", "a\0b"] {
            assert!(!is_plain_file_name(name), "{name}");
        }
    }
}

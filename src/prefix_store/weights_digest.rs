//! One digest of all weights, computed once for each state of the model's files.
//!
//! ```text
//! tensor -> chunks of 8 MiB -> SHA-256 each, on all processors --.
//! name, dtype, shape of every tensor, in the order of names -----+--> SHA-256
//! ```
//!
//! The folder remembers it in an entry of kind `weights`, whose key is path, device, inode, size and
//! times of every file as they were when it was mapped. It is remembered only of files that had been
//! at rest, and that were the same before and after the digest.
//!
//! What this module deliberately does not do: it does not look at tensors of a type that is not ours.
//! No graph can use them.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cairn_graph_cache::{Artifact, Digest, Entry, EntryMeta, KeyFields, Lookup, Store as _};
use sha2::{Digest as _, Sha256};

use super::PrefixFolder;
use super::entry::meta;
use crate::weights::{Checkpoint, FileStamp, Tensor};

/// Raised when the digest of unchanged weights changes.
const SCHEMA: &str = "1";
const WEIGHTS_KIND: &str = "weights";
const FILE: &str = "digest.txt";
/// What is digested at a time: the largest tensor of a model may be a fifth of it.
const CHUNK_BYTES: usize = 8 << 20;

/// The digest of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightsDigest {
    /// SHA-256 over names, types, shapes and bytes of all tensors.
    pub digest: Digest,
    /// Whether the folder knew it.
    pub is_remembered: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl PrefixFolder {
    /// The digest of these weights: from the folder, if it knows these very files, or else computed
    /// from every byte and remembered.
    pub fn weights_digest(&self, checkpoint: &Checkpoint) -> WeightsDigest {
        let started = Instant::now();
        let now = SystemTime::now();
        let fields = fields(checkpoint);
        let remembered = self.remembered(&fields);
        let digest = remembered.unwrap_or_else(|| {
            let digest = digest(checkpoint);
            if is_at_rest(checkpoint, now) {
                self.remember(&fields, checkpoint, digest, started.elapsed());
            }
            digest
        });
        let (is_remembered, elapsed) = (remembered.is_some(), started.elapsed());
        tracing::info!(
            seconds = elapsed.as_secs_f64(),
            is_remembered,
            bytes = checkpoint.total_bytes(),
            "digest of all weights"
        );
        WeightsDigest { digest, is_remembered, elapsed }
    }

    fn remembered(&self, fields: &KeyFields) -> Option<Digest> {
        let Lookup::Hit(entry) = self.disk.get(&fields.key()) else { return None };
        std::str::from_utf8(entry.artifact().file(FILE)?).ok()?.trim().parse().ok()
    }

    fn remember(
        &self,
        fields: &KeyFields,
        checkpoint: &Checkpoint,
        digest: Digest,
        elapsed: Duration,
    ) {
        if self.options.is_only_read {
            return;
        }
        let note = checkpoint.path().display().to_string();
        let compile_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let meta = meta(WEIGHTS_KIND, note, &self.producer, serde_json::Value::Null);
        let meta = EntryMeta { compile_ms, ..meta };
        let artifact = Artifact::single(FILE, format!("{digest}\n").into_bytes())
            .expect("invariant: the name is allowed, and a digest is short");
        if let Err(error) = self.disk.put(&Entry::seal(fields, artifact, meta)) {
            tracing::debug!(%error, "the digest of the weights is not remembered");
        }
    }
}

/// Which files these are.
fn fields(checkpoint: &Checkpoint) -> KeyFields {
    let fields = KeyFields::new().text("weights", SCHEMA);
    checkpoint.stamps().fold(fields, |fields, (path, stamp)| {
        // The same file by another way is the same file.
        let path = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        fields.text("file", format!("{}: {stamp}", path.display()))
    })
}

/// Whether the files are still those that were mapped, and a change of one of them would have shown.
fn is_at_rest(checkpoint: &Checkpoint, then: SystemTime) -> bool {
    checkpoint.stamps().all(|(path, stamp)| {
        stamp.is_settled(then) && FileStamp::at(path).is_ok_and(|now| now == stamp)
    })
}

/// The digest of all weights.
fn digest(checkpoint: &Checkpoint) -> Digest {
    let tensors: Vec<(&str, Option<Tensor>)> =
        checkpoint.names().map(|name| (name, checkpoint.tensor(name).ok())).collect();
    let chunks: Vec<(&Tensor, Range<usize>)> =
        tensors.iter().filter_map(|(_, tensor)| tensor.as_ref()).flat_map(chunks_of).collect();
    let digests = in_parallel(&chunks, |(tensor, range)| -> [u8; 32] {
        Sha256::digest(&tensor.bytes[range.clone()]).into()
    });
    let mut all = Sha256::new();
    let mut text = |text: &str| {
        all.update((text.len() as u64).to_le_bytes());
        all.update(text);
    };
    text("cairn weights");
    text(SCHEMA);
    for (name, tensor) in &tensors {
        text(name);
        match tensor {
            Some(tensor) => text(&format!("{} {:?}", tensor.dtype, tensor.shape)),
            None => text("unsupported"),
        }
    }
    // How many there are of each tensor follows from its type and shape.
    for digest in digests {
        all.update(digest);
    }
    Digest::from_bytes(all.finalize().into())
}

fn chunks_of(tensor: &Tensor) -> impl Iterator<Item = (&Tensor, Range<usize>)> {
    let len = tensor.bytes.len();
    (0..len).step_by(CHUNK_BYTES).map(move |start| (tensor, start..(start + CHUNK_BYTES).min(len)))
}

/// What `work` makes of each item, in their order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take_some = || {
        let mut done = Vec::new();
        while let Some((at, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)))
        {
            done.push((at, work(item)));
        }
        done
    };
    let num_threads = thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    let mut done = thread::scope(|scope| {
        // A thread that cannot be had leaves its share to the others; this one is always there.
        let helpers: Vec<_> = (1..num_threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, take_some).ok())
            .collect();
        let mut done = take_some();
        for helper in helpers {
            done.extend(helper.join().expect("invariant: digesting does not panic"));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_each_and_comes_back_in_order() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(
            in_parallel(&items, |item| item * 2),
            (0..1000).map(|i| i * 2).collect::<Vec<_>>()
        );
        assert_eq!(in_parallel(&items[..0], |item| *item), [0; 0]);
    }

    #[test]
    fn chunks_cover_a_tensor_and_overlap_nowhere() {
        let values = CHUNK_BYTES / 4 * 2 + 3;
        let tensor = Tensor::from_f32("t", vec![values], vec![1.0; values]).unwrap();
        let ranges: Vec<_> = chunks_of(&tensor).map(|(_, range)| range).collect();
        let middle = 2 * CHUNK_BYTES;
        assert_eq!(ranges, [0..CHUNK_BYTES, CHUNK_BYTES..middle, middle..middle + 12]);
    }
}

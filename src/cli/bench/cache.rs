//! `cairn bench cache`: what the graph cache costs, on this machine and this disk.
//!
//! | Figure | Method |
//! | --- | --- |
//! | lookup | an entry of 4 KiB, found, read and verified; by turns in a store of 100 entries and in one of `--entries` |
//! | open | of the same two stores |
//! | put | an artifact of `--artifact-bytes`, written and flushed to the disk |
//! | verified load | the same, read and verified |
//! | SHA-256 | the same bytes in memory, one thread: what verifying must cost at least |
//!
//! Everything is measured once a round, so that a machine that slows down slows down all of it. What
//! was just written is read from memory, not from the disk. Of the large store, 100 keys spread over
//! all of it are looked up: both stores are equally known to the system's memory then, and what
//! differs is their size.
//!
//! What this module deliberately does not do: it never touches the user's own cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, anyhow, ensure};
use cairn_graph_cache::{
    Artifact, CacheKey, DiskOptions, DiskStore, Entry, EntryMeta, GRAPH_KIND, KeyFields, Lookup,
    Put, Store as _,
};
use clap::Args;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{MAX_RUNS, Samples, build, cpu_model, machine, num_cores, table};
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::progress::{Amount, Progress};
use crate::cli::values::{self, display_bytes};
use crate::cli::{Context, graph_cache, output};

/// Entries of the small store.
const FEW: u64 = 100;
const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes of a small artifact.
const SMALL_BYTES: usize = 4 << 10;
/// Largest artifact that a store takes.
const MAX_ARTIFACT_BYTES: u64 = 4 << 30;
/// Lookups of each store in a round.
const LOOKUPS: usize = 1000;
/// Filling waits for the disk most of the time.
const FILLING_THREADS: u64 = 16;

const EXAMPLES: &str = "\
Examples:
  cairn bench cache
  cairn bench cache --entries 100000 --artifact-bytes 1GiB --cache-dir /mnt/volume
  cairn bench cache --json > before.json";

/// Measure the graph cache: lookups in small and large stores, verified loads, and writes.
///
/// Works in a temporary folder, which is removed at the end. Needs no model.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CacheBenchArgs {
    /// Entries of the large store. Filling it takes a while: every entry is flushed to the disk.
    #[arg(long, value_name = "N", default_value = "10000", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(FEW..=MAX_ENTRIES))]
    entries: u64,

    /// Size of the artifact that is stored and loaded.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", allow_hyphen_values = true)]
    #[arg(value_parser = artifact_bytes)]
    artifact_bytes: u64,

    /// How often to measure.
    #[arg(long, value_name = "N", default_value = "5", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_RUNS))]
    runs: usize,

    /// Seed of the random keys and bytes.
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(0..=u64::MAX))]
    seed: u64,

    /// Folder to measure in; a temporary one is made in it [default: that of temporary files].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Print one JSON object with every sample, the machine and the build, instead of a table.
    #[arg(long)]
    json: bool,
}

fn artifact_bytes(text: &str) -> Result<u64, String> {
    let bytes = values::bytes(text)?;
    if bytes <= MAX_ARTIFACT_BYTES { Ok(bytes) } else { Err("expected at most 4GiB".to_owned()) }
}

/// Samples of every figure, one per round.
#[derive(Debug, Default)]
struct Results {
    few: StoreResults,
    many: StoreResults,
    put_bytes_per_second: Samples,
    load_bytes_per_second: Samples,
    sha256_bytes_per_second: Samples,
    load_share_of_sha256: Samples,
}

/// Those of one store, in seconds.
#[derive(Debug, Default)]
struct StoreResults {
    lookup_p50: Samples,
    lookup_p99: Samples,
    open: Samples,
}

/// A filled store, and what is in it.
struct Filled {
    store: DiskStore,
    path: PathBuf,
    keys: Vec<CacheKey>,
}

impl Filled {
    /// One of [`FEW`] keys, spread over all.
    fn key(&self, idx: usize) -> &CacheKey {
        let step = (self.keys.len() / FEW as usize).max(1);
        &self.keys[idx * step % self.keys.len()]
    }
}

/// Runs the command.
pub(super) fn run(args: &CacheBenchArgs, context: &Context) -> anyhow::Result<Outcome> {
    let folder = match &args.cache_dir {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("making a folder to measure in");
    let folder = folder.hint("`--cache-dir` names a folder that can be written to")?;
    let progress = &*context.progress;
    let few = fill(&folder.path().join("few"), FEW, progress)?;
    let many = fill(&folder.path().join("many"), args.entries, progress)?;
    let results = measure(args, &few, &many, progress)?;
    drop((few, many));
    let task = progress.begin("removing the folder", Amount::Unknown);
    folder.close().context("removing the folder")?;
    drop(task);
    if args.json {
        output::write_json(&to_json(args, &results))?;
    } else {
        output::write(&results.text(args.entries))?;
        output::say(Conditions(args));
    }
    Ok(Outcome::Done)
}

fn open(path: &Path) -> anyhow::Result<DiskStore> {
    Ok(DiskStore::open_with(path, DiskOptions::default())?)
}

/// A new store of so many small entries.
fn fill(path: &Path, num_entries: u64, progress: &dyn Progress) -> anyhow::Result<Filled> {
    let store = open(path)?;
    let what = format!("filling a store with {num_entries} entries");
    let task = progress.begin(&what, Amount::Items(num_entries));
    let (next, num_done) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> anyhow::Result<Vec<CacheKey>> {
        let mut keys = Vec::new();
        loop {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            if idx >= num_entries {
                return Ok(keys);
            }
            let entry = entry(idx, &mut ChaCha8Rng::seed_from_u64(idx), SMALL_BYTES)?;
            store.put(&entry).inspect_err(|_| next.store(num_entries, Ordering::Relaxed))?;
            keys.push(*entry.key());
            task.advance_to(num_done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    let mut keys = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..FILLING_THREADS.min(num_entries)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let filled = worker.join().map_err(|_| anyhow!("a thread that fills panicked"))?;
            keys.extend(filled.context("filling a store")?);
        }
        anyhow::Ok(())
    })?;
    // The same order in each run, whichever thread was faster.
    keys.sort_unstable();
    Ok(Filled { store, path: path.to_owned(), keys })
}

/// An entry of random bytes, which nothing compresses.
fn entry(idx: u64, rng: &mut ChaCha8Rng, num_bytes: usize) -> anyhow::Result<Entry> {
    let mut bytes = vec![0; num_bytes];
    rng.fill_bytes(&mut bytes);
    let fields =
        KeyFields::new().text("bench", idx.to_string()).text("bytes", num_bytes.to_string());
    let meta = EntryMeta {
        kind: GRAPH_KIND.to_owned(),
        note: format!("bench {idx}"),
        producer: graph_cache::producer(),
        created_unix_s: 0,
        compile_ms: 0,
        fields: Vec::new(),
        io: Value::Null,
        log_tail: String::new(),
    };
    Ok(Entry::seal(&fields, Artifact::single("artifact.bin", bytes)?, meta))
}

fn measure(
    args: &CacheBenchArgs,
    few: &Filled,
    many: &Filled,
    progress: &dyn Progress,
) -> anyhow::Result<Results> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let num_bytes = usize::try_from(args.artifact_bytes).context("`--artifact-bytes`")?;
    let large = entry(u64::MAX, &mut rng, num_bytes)?;
    let mut results = Results::default();
    let task = progress.begin("measuring", Amount::Items(args.runs as u64 + 1));
    // The first round warms up and does not count.
    for round in 0..=args.runs {
        let mut of_round = Results::default();
        lookups(few, many, &mut rng, &mut of_round)?;
        for (filled, results) in [(few, &mut of_round.few), (many, &mut of_round.many)] {
            let started = Instant::now();
            let store = open(&filled.path)?;
            results.open.0.push(started.elapsed().as_secs_f64());
            drop(store);
        }
        loads(few, &large, &mut of_round)?;
        if round > 0 {
            results.append(of_round);
        }
        task.advance_to(round as u64 + 1);
    }
    Ok(results)
}

fn lookups(
    few: &Filled,
    many: &Filled,
    rng: &mut ChaCha8Rng,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut times = [Vec::with_capacity(LOOKUPS), Vec::with_capacity(LOOKUPS)];
    for _ in 0..LOOKUPS {
        for (filled, times) in [few, many].into_iter().zip(&mut times) {
            let key = filled.key(rng.random_range(0..FEW as usize));
            let started = Instant::now();
            let found = filled.store.get(key);
            times.push(started.elapsed().as_secs_f64());
            ensure!(matches!(found, Lookup::Hit(_)), "entry {key} is not there: {found:?}");
        }
    }
    for (results, mut times) in [&mut results.few, &mut results.many].into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        results.lookup_p50.0.push(times[LOOKUPS / 2]);
        results.lookup_p99.0.push(times[LOOKUPS * 99 / 100]);
    }
    Ok(())
}

fn loads(filled: &Filled, entry: &Entry, results: &mut Results) -> anyhow::Result<()> {
    let num_bytes = entry.artifact().num_bytes() as f64;
    let rate = |started: Instant| num_bytes / started.elapsed().as_secs_f64().max(1e-9);

    let started = Instant::now();
    let put = filled.store.put(entry)?;
    results.put_bytes_per_second.0.push(rate(started));
    ensure!(matches!(put, Put::Stored { .. }), "the artifact was there already");

    let started = Instant::now();
    let found = filled.store.get(entry.key());
    let load = rate(started);
    ensure!(matches!(found, Lookup::Hit(_)), "the artifact is not there");
    drop(found);
    filled.store.remove(entry.key())?;

    let started = Instant::now();
    for file in entry.artifact().files() {
        std::hint::black_box(Sha256::digest(&file.bytes[..]));
    }
    let sha256 = rate(started);
    results.load_bytes_per_second.0.push(load);
    results.sha256_bytes_per_second.0.push(sha256);
    results.load_share_of_sha256.0.push(load / sha256);
    Ok(())
}

impl StoreResults {
    fn append(&mut self, other: Self) {
        self.lookup_p50.0.extend(other.lookup_p50.0);
        self.lookup_p99.0.extend(other.lookup_p99.0);
        self.open.0.extend(other.open.0);
    }

    fn to_json(&self) -> Value {
        json!({
            "lookup_p50_seconds": self.lookup_p50.to_json(),
            "lookup_p99_seconds": self.lookup_p99.to_json(),
            "open_seconds": self.open.to_json(),
        })
    }
}

impl Results {
    fn append(&mut self, other: Self) {
        self.few.append(other.few);
        self.many.append(other.many);
        self.put_bytes_per_second.0.extend(other.put_bytes_per_second.0);
        self.load_bytes_per_second.0.extend(other.load_bytes_per_second.0);
        self.sha256_bytes_per_second.0.extend(other.sha256_bytes_per_second.0);
        self.load_share_of_sha256.0.extend(other.load_share_of_sha256.0);
    }

    fn text(&self, num_entries: u64) -> String {
        let in_many = |what: &str| format!("{what}, {num_entries} entries");
        let in_few = |what: &str| format!("{what}, {FEW} entries");
        let (few, many) = (&self.few, &self.many);
        let names = [
            in_few("lookup p50 us"),
            in_many("lookup p50 us"),
            in_few("lookup p99 us"),
            in_many("lookup p99 us"),
            in_few("open ms"),
            in_many("open ms"),
        ];
        let [few_p50, many_p50, few_p99, many_p99, few_open, many_open] =
            names.each_ref().map(String::as_str);
        table(&[
            (few_p50, &few.lookup_p50, 1e6),
            (many_p50, &many.lookup_p50, 1e6),
            (few_p99, &few.lookup_p99, 1e6),
            (many_p99, &many.lookup_p99, 1e6),
            (few_open, &few.open, 1e3),
            (many_open, &many.open, 1e3),
            ("put, MB/s", &self.put_bytes_per_second, 1e-6),
            ("verified load, MB/s", &self.load_bytes_per_second, 1e-6),
            ("SHA-256 of one thread, MB/s", &self.sha256_bytes_per_second, 1e-6),
            ("load in % of SHA-256", &self.load_share_of_sha256, 1e2),
        ])
        .to_string()
    }
}

/// On what the figures were measured, in one line.
struct Conditions<'a>(&'a CacheBenchArgs);

impl fmt::Display for Conditions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CacheBenchArgs { artifact_bytes, runs, cache_dir, .. } = self.0;
        let temporary = tempfile::env::temp_dir();
        write!(
            f,
            "artifact of {}, {runs} rounds of {LOOKUPS} lookups; in `{}`; {} ({})",
            display_bytes(*artifact_bytes),
            cache_dir.as_deref().unwrap_or(&temporary).display(),
            cpu_model(),
            num_cores(),
        )
    }
}

fn to_json(args: &CacheBenchArgs, results: &Results) -> Value {
    json!({
        "settings": {
            "entries": args.entries,
            "artifact_bytes": args.artifact_bytes,
            "small_artifact_bytes": SMALL_BYTES,
            "lookups": LOOKUPS,
            "runs": args.runs,
            "seed": args.seed,
        },
        "machine": machine(),
        "build": build(),
        "results": {
            "few": results.few.to_json(),
            "many": results.many.to_json(),
            "put_bytes_per_second": results.put_bytes_per_second.to_json(),
            "load_bytes_per_second": results.load_bytes_per_second.to_json(),
            "sha256_bytes_per_second": results.sha256_bytes_per_second.to_json(),
            "load_share_of_sha256": results.load_share_of_sha256.to_json(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::progress::Silent;

    #[test]
    fn every_figure_is_measured_once_a_round() {
        let folder = tempfile::tempdir().unwrap();
        let few = fill(&folder.path().join("few"), 3, &Silent).unwrap();
        let many = fill(&folder.path().join("many"), 5, &Silent).unwrap();
        assert_eq!((few.keys.len(), many.keys.len()), (3, 5));
        let args = CacheBenchArgs {
            entries: 5,
            artifact_bytes: 100_000,
            runs: 2,
            seed: 0,
            cache_dir: None,
            json: false,
        };
        let results = measure(&args, &few, &many, &Silent).unwrap();
        let json = to_json(&args, &results);
        let samples = |value: &Value| value["samples"].as_array().unwrap().len();
        assert_eq!(samples(&json["results"]["many"]["lookup_p99_seconds"]), 2);
        assert_eq!(samples(&json["results"]["few"]["open_seconds"]), 2);
        assert_eq!(samples(&json["results"]["load_share_of_sha256"]), 2);
        assert_eq!(results.text(5).lines().count(), 11);
        // What was stored to be measured is gone.
        assert_eq!(few.store.list().unwrap(), few.keys);
    }
}

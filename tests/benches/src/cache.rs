//! The graph cache beside two other ways to keep artifacts: rows of an SQLite database, and the
//! `cacache` crate. All three on the same file system, in the same run, in turns.
//!
//! ```text
//! cargo run --release --manifest-path tests/benches/Cargo.toml -- [--entries N] [--bytes N] [--dir DIR]
//! ```
//!
//! | Measured | How |
//! | --- | --- |
//! | open | open an existing store of N entries and of 100, and look one entry up |
//! | lookup | one entry of 4 KiB, verified, one of 100 that are spread over the store; p50 and p99 |
//! | cold | the same, but any entry at random: most are seen for the first time |
//! | load | one artifact of `--bytes`, verified, beside SHA-256 over the same bytes in memory |
//!
//! Each store verifies a SHA-256 of what it reads: SQLite's rows carry one that is checked here. Only
//! ours flushes every entry to the disk when it is put, so filling is not compared.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use cairn_graph_cache::{
    Artifact, CacheKey, DiskStore, Entry, EntryMeta, KeyFields, Lookup, Store as _,
};
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

const ENTRY_BYTES: usize = 4096;
const SMALL: usize = 100;
const LOOKUPS: usize = 2000;
const ROUNDS: usize = 7;

/// A store under test.
trait Rival {
    fn name(&self) -> &'static str;
    fn open(&mut self, folder: &Path) -> anyhow::Result<()>;
    fn put(&mut self, idx: usize, artifact: Vec<u8>) -> anyhow::Result<()>;
    /// Gets an artifact, verified, and says how many bytes it has.
    fn get(&mut self, idx: usize) -> anyhow::Result<usize>;
}

#[derive(Default)]
struct Ours(Option<DiskStore>);

fn fields(idx: usize) -> KeyFields {
    KeyFields::new().text("backend", "bench").text("graph", idx.to_string())
}

fn key(idx: usize) -> CacheKey {
    fields(idx).key()
}

impl Rival for Ours {
    fn name(&self) -> &'static str {
        "cairn"
    }

    fn open(&mut self, folder: &Path) -> anyhow::Result<()> {
        self.0 = Some(DiskStore::open(folder)?);
        Ok(())
    }

    fn put(&mut self, idx: usize, artifact: Vec<u8>) -> anyhow::Result<()> {
        let meta = EntryMeta {
            kind: "graph".to_owned(),
            note: format!("bench {idx}"),
            producer: "bench".to_owned(),
            created_unix_s: 0,
            compile_ms: 1,
            fields: Vec::new(),
            io: serde_json::Value::Null,
            log_tail: String::new(),
        };
        let entry = Entry::seal(&fields(idx), Artifact::single("artifact.bin", artifact)?, meta);
        self.0.as_ref().context("not open")?.put(&entry)?;
        Ok(())
    }

    fn get(&mut self, idx: usize) -> anyhow::Result<usize> {
        match self.0.as_ref().context("not open")?.get(&key(idx)) {
            Lookup::Hit(entry) => {
                let artifact = black_box(entry.into_artifact());
                Ok(artifact.num_bytes() as usize)
            }
            Lookup::Miss(reason) => bail!("{reason}"),
        }
    }
}

#[derive(Default)]
struct Sqlite(Option<Connection>);

impl Rival for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn open(&mut self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let connection = Connection::open(folder.join("cache.sqlite"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS entries
             (key BLOB PRIMARY KEY, sha256 BLOB NOT NULL, artifact BLOB NOT NULL) WITHOUT ROWID",
        )?;
        self.0 = Some(connection);
        Ok(())
    }

    fn put(&mut self, idx: usize, artifact: Vec<u8>) -> anyhow::Result<()> {
        let digest: [u8; 32] = Sha256::digest(&artifact).into();
        self.0.as_ref().context("not open")?.execute(
            "INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3)",
            (key(idx).as_bytes(), digest, artifact),
        )?;
        Ok(())
    }

    fn get(&mut self, idx: usize) -> anyhow::Result<usize> {
        let connection = self.0.as_ref().context("not open")?;
        let mut statement =
            connection.prepare_cached("SELECT sha256, artifact FROM entries WHERE key = ?1")?;
        let row: Option<([u8; 32], Vec<u8>)> = statement
            .query_row([key(idx).as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (digest, artifact) = row.context("no such row")?;
        let found: [u8; 32] = Sha256::digest(&artifact).into();
        ensure!(found == digest, "row does not match its digest");
        Ok(black_box(artifact).len())
    }
}

#[derive(Default)]
struct Cacache(Option<PathBuf>);

impl Rival for Cacache {
    fn name(&self) -> &'static str {
        "cacache"
    }

    fn open(&mut self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        self.0 = Some(folder.to_owned());
        Ok(())
    }

    fn put(&mut self, idx: usize, artifact: Vec<u8>) -> anyhow::Result<()> {
        cacache::write_sync(self.0.as_ref().context("not open")?, key(idx).to_string(), artifact)?;
        Ok(())
    }

    fn get(&mut self, idx: usize) -> anyhow::Result<usize> {
        let folder = self.0.as_ref().context("not open")?;
        Ok(black_box(cacache::read_sync(folder, key(idx).to_string())?).len())
    }
}

fn main() -> anyhow::Result<()> {
    let (mut num_entries, mut num_bytes, mut folder) = (100_000, 1 << 30, std::env::temp_dir());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--entries" => num_entries = value.parse()?,
            "--bytes" => num_bytes = value.parse()?,
            "--dir" => folder = PathBuf::from(value),
            _ => bail!("unknown argument {argument}: expected --entries, --bytes or --dir"),
        }
    }
    let root = tempfile::tempdir_in(&folder)?;
    let rivals: [fn() -> Box<dyn Rival>; 3] =
        [|| Box::<Ours>::default(), || Box::<Sqlite>::default(), || Box::<Cacache>::default()];
    for size in [SMALL, num_entries] {
        for make in rivals {
            let mut rival = make();
            let started = Instant::now();
            rival.open(&root.path().join(format!("{}-{size}", rival.name())))?;
            for idx in 0..size {
                rival.put(idx, content(idx, ENTRY_BYTES))?;
            }
            eprintln!("filled {} with {size} in {:.1?}", rival.name(), started.elapsed());
        }
    }
    println!(
        "store      entries        open us  lookup us p50 (min..max)     lookup us p99   cold us p50"
    );
    let mut open = vec![Vec::new(); 6];
    let mut p50 = vec![Vec::new(); 6];
    let mut p99 = vec![Vec::new(); 6];
    let mut cold = vec![Vec::new(); 6];
    for round in 0..ROUNDS {
        let mut random = Random(round as u64 + 1);
        for (at, (size, make)) in cases(&rivals, num_entries).enumerate() {
            let mut rival = make();
            let path = root.path().join(format!("{}-{size}", rival.name()));
            let started = Instant::now();
            rival.open(&path)?;
            ensure!(rival.get(0)? > 0, "nothing was read");
            open[at].push(micros(started.elapsed()));
            // As many different ones in a small store as in a large one, so that both are as warm.
            let stride = size / SMALL;
            let times = lookups(&mut *rival, || random.below(SMALL) * stride)?;
            p50[at].push(times[times.len() / 2]);
            p99[at].push(times[times.len() * 99 / 100]);
            let times = lookups(&mut *rival, || random.below(size))?;
            cold[at].push(times[times.len() / 2]);
        }
    }
    for (at, (size, make)) in cases(&rivals, num_entries).enumerate() {
        let [open, p50, p99, cold] = [&mut open[at], &mut p50[at], &mut p99[at], &mut cold[at]];
        println!(
            "{:<8} {size:>9} {:>14.0} {:>14.1} ({:.1}..{:.1}) {:>13.1} {:>13.1}",
            make().name(),
            median(open),
            median(p50),
            p50[0],
            p50[p50.len() - 1],
            median(p99),
            median(cold),
        );
    }

    let artifact = content(0, num_bytes);
    let mut loads = vec![Vec::new(); 3];
    let mut hash = Vec::new();
    let mut stores: Vec<_> = rivals.iter().map(|make| make()).collect();
    let mut failed = vec![None; 3];
    for (at, rival) in stores.iter_mut().enumerate() {
        rival.open(&root.path().join(format!("{}-large", rival.name())))?;
        failed[at] = rival.put(0, artifact.clone()).err().map(|error| error.to_string());
    }
    for _ in 0..5 {
        let started = Instant::now();
        black_box(Sha256::digest(&artifact));
        hash.push(started.elapsed().as_secs_f64());
        for (at, rival) in stores.iter_mut().enumerate().filter(|(at, _)| failed[*at].is_none()) {
            let started = Instant::now();
            ensure!(rival.get(0)? > 0, "nothing was read");
            loads[at].push(started.elapsed().as_secs_f64());
        }
    }
    let gib = num_bytes as f64 / f64::from(1 << 30);
    let hash = median(&mut hash);
    println!("\nverified load of {gib:.2} GiB; SHA-256 of it in memory: {:.2} GiB/s", gib / hash);
    for (at, rival) in stores.iter().enumerate() {
        if let Some(error) = &failed[at] {
            println!("{:<8} refuses it: {error}", rival.name());
            continue;
        }
        let (low, high) = (min(&loads[at]), max(&loads[at]));
        let load = median(&mut loads[at]);
        println!(
            "{:<8} {:.2} GiB/s ({:.2}..{:.2}), {:.0}% of the SHA-256 rate",
            rival.name(),
            gib / load,
            gib / high,
            gib / low,
            100.0 * hash / load,
        );
    }
    Ok(())
}

/// Times of lookups in microseconds, sorted.
fn lookups(rival: &mut dyn Rival, mut pick: impl FnMut() -> usize) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(LOOKUPS);
    for _ in 0..LOOKUPS {
        let idx = pick();
        let started = Instant::now();
        ensure!(rival.get(idx)? == ENTRY_BYTES, "not all of it was read");
        times.push(micros(started.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn cases<'a>(
    rivals: &'a [fn() -> Box<dyn Rival>; 3],
    num_entries: usize,
) -> impl Iterator<Item = (usize, &'a fn() -> Box<dyn Rival>)> {
    rivals.iter().flat_map(move |make| [(SMALL, make), (num_entries, make)])
}

/// Bytes that do not compress and differ from entry to entry.
fn content(idx: usize, num_bytes: usize) -> Vec<u8> {
    let mut random = Random(idx as u64 + 1);
    let mut bytes = Vec::with_capacity(num_bytes + 8);
    while bytes.len() < num_bytes {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(num_bytes);
    bytes
}

/// The generator of Vigna's "splitmix64".
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

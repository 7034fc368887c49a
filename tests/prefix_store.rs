//! KV blocks of prefixes in a folder, from outside: what one process wrote, the next one finds, and
//! whatever happens to the files, no byte is ever wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use cairn::engine::{PrefixBlock, PrefixKey, PrefixStore};
use cairn::prefix_store::{DiskPrefixStore, PrefixFolder, PrefixIdentity, PrefixStoreOptions};
use cairn::weights::Checkpoint;
use cairn_graph_cache::{Digest, StoreError, Trust, VerifyOptions};
use tempfile::TempDir;

const BLOCK_SIZE: usize = 4;
const BLOCK_BYTES: usize = 256;
const PRODUCER: &str = "cairn test";
const MAX_BYTES: u64 = 1 << 30;
/// Where a child finds what it is to work on.
const CHILD_FOLDER: &str = "PREFIX_STORE_TEST_FOLDER";

/// A folder, where a flush to the disk costs nothing if there is such a place.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("prefixes")
    }

    fn open(&self) -> DiskPrefixStore {
        self.open_with(&identity(), PrefixStoreOptions::new(MAX_BYTES))
    }

    fn open_with(&self, identity: &PrefixIdentity, options: PrefixStoreOptions) -> DiskPrefixStore {
        DiskPrefixStore::open(&self.path(), identity, options).unwrap()
    }
}

fn identity() -> PrefixIdentity {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    PrefixIdentity {
        producer: PRODUCER.to_owned(),
        backend: "cpu".to_owned(),
        backend_fields: vec![field("target", "x86_64"), field("instructions", "avx2")],
        weights: Digest::of(b"weights"),
        graph: b"graph".to_vec(),
        model_fields: vec![field("rope", "halves theta 10000 unscaled")],
        kv_dtype: "f32".to_owned(),
        kv_layout: "2 x [blocks, 4, 1, 8]".to_owned(),
        block_size: BLOCK_SIZE,
        num_layers: 1,
        block_bytes: BLOCK_BYTES,
    }
}

fn tokens(number: u32) -> Vec<u32> {
    (0..BLOCK_SIZE as u32).map(|at| 10 * number + at).collect()
}

/// What block `number` holds, as anybody can compute it.
fn bytes(number: u32) -> Vec<u8> {
    (0..BLOCK_BYTES as u32).map(|at| (at.wrapping_mul(number + 3) >> 1) as u8).collect()
}

/// The blocks of those numbers, each after the one before it; the first one after `parent`.
fn chain(
    store: &dyn PrefixStore,
    mut parent: Option<PrefixKey>,
    salt: Option<&str>,
    numbers: Range<u32>,
) -> Vec<(u32, PrefixBlock)> {
    let block = |number| {
        let token_ids = tokens(number);
        let key = store.key_of(parent, salt, &token_ids);
        let block = PrefixBlock { key, parent, token_ids, bytes: bytes(number) };
        parent = Some(key);
        (number, block)
    };
    numbers.map(block).collect()
}

fn save(store: &dyn PrefixStore, chain: &[(u32, PrefixBlock)]) {
    for (_, block) in chain {
        store.save(block.clone());
    }
}

/// Whether a block is there; if it is, every byte of it is right.
fn is_there(store: &dyn PrefixStore, (number, block): &(u32, PrefixBlock)) -> bool {
    let loaded = store.load(&block.key, &block.token_ids);
    if let Some(loaded) = &loaded {
        assert!(*loaded == bytes(*number), "block {number} is not what was written");
    }
    loaded.is_some()
}

fn how_many(store: &dyn PrefixStore, chain: &[(u32, PrefixBlock)]) -> usize {
    chain.iter().filter(|block| is_there(store, block)).count()
}

fn names_in(path: &Path) -> BTreeSet<String> {
    let items = fs::read_dir(path).into_iter().flatten();
    items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_one_process_wrote_the_next_one_finds() {
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, None, 0..5);
    assert!(!store.contains(&blocks[0].1.key));
    assert!(!is_there(&store, &blocks[0]));
    save(&store, &blocks);
    assert_eq!(how_many(&store, &blocks), 5);
    save(&store, &blocks);
    let stats = store.stats();
    assert_eq!((stats.hits, stats.misses, stats.saved, stats.errors), (5, 1, 5, 0));
    drop(store);

    let store = place.open();
    assert!(blocks.iter().all(|(_, block)| store.contains(&block.key)));
    assert_eq!(how_many(&store, &blocks), 5);
    let stats = store.stats();
    assert_eq!((stats.hits, stats.misses, stats.saved, stats.errors), (5, 0, 0, 0));
    assert!(stats.bytes > 5 * BLOCK_BYTES as u64, "{stats:?}");
}

#[test]
fn an_entry_says_in_clear_what_it_is() {
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, Some("tenant's secret"), 0..2);
    save(&store, &blocks);
    let [first, second] = [0, 1].map(|at| store.entry_key(&blocks[at].1.key));
    let manifest = cairn_graph_cache::Store::manifest(store.disk(), &second).unwrap();
    assert_eq!(manifest.meta.kind, "prefix");
    assert_eq!(manifest.meta.io["parent"], first.to_string());
    assert_eq!(manifest.meta.io["token_ids"], "10 11 12 13");
    let text = fs::read_to_string(store.disk().entry_folder(&first).join("manifest.json")).unwrap();
    for field in ["weights", "graph", "model.rope", "kv.dtype", "kv.block_size", "backend.target"] {
        assert!(text.contains(&format!("\"name\": \"{field}\"")), "{text}");
    }
    assert!(!text.contains("secret"), "{text}");
    // Like any folder of the cache, it can be checked as a whole.
    drop(store);
    let disk = cairn_graph_cache::DiskStore::open(&place.path()).unwrap();
    let report = disk.verify(&VerifyOptions::default()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn nothing_of_another_identity_salt_or_prefix_is_found() {
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, Some("a"), 0..3);
    save(&store, &blocks);
    let options = || PrefixStoreOptions::new(MAX_BYTES);
    for other in [
        PrefixIdentity { weights: Digest::of(b"others"), ..identity() },
        PrefixIdentity { kv_dtype: "f16".to_owned(), ..identity() },
        PrefixIdentity { block_bytes: BLOCK_BYTES * 2, ..identity() },
        PrefixIdentity { producer: "cairn 2".to_owned(), ..identity() },
    ] {
        let store = place.open_with(&other, options());
        // Asked for by the others' addresses, too.
        for blocks in [&blocks, &chain(&store, None, Some("a"), 0..3)] {
            assert!(!blocks.iter().any(|(_, block)| store.contains(&block.key)));
            assert_eq!(how_many(&store, blocks), 0);
        }
    }
    for salt in [None, Some(""), Some("b"), Some("aa")] {
        assert_eq!(how_many(&store, &chain(&store, None, salt, 0..3)), 0, "{salt:?}");
    }
    // The same tokens after others, in another place, and in another order.
    let elsewhere = chain(&store, Some(blocks[0].1.key), None, 2..3);
    assert_eq!(how_many(&store, &elsewhere), 0);
    assert_eq!(how_many(&store, &chain(&store, None, Some("a"), 1..3)), 0);
    // The right address with other tokens.
    assert_eq!(store.load(&blocks[0].1.key, &tokens(7)), None);
    assert_eq!(store.load(&blocks[0].1.key, &blocks[0].1.token_ids[..3]), None);
    assert_eq!(how_many(&store, &blocks), 3);
    assert_eq!(store.stats().corrupt, 0);
}

#[test]
fn a_block_of_the_wrong_size_is_an_error_and_not_kept() {
    let place = Place::new();
    let store = place.open();
    let (_, block) = chain(&store, None, None, 0..1).remove(0);
    store.save(PrefixBlock { bytes: vec![0; BLOCK_BYTES - 1], ..block.clone() });
    store.save(PrefixBlock { token_ids: vec![0; BLOCK_SIZE + 1], ..block.clone() });
    assert_eq!((store.stats().errors, store.stats().saved), (2, 0));
    assert!(!store.contains(&block.key));
}

/// Damages the only block of a store by each of `ways`: it is a miss, moved away, and can be written
/// again.
fn damaged(ways: impl Fn(&[u8]) -> Vec<Option<Vec<u8>>>) {
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, None, 0..1);
    save(&store, &blocks);
    let key = &blocks[0].1.key;
    let folder = store.disk().entry_folder(&store.entry_key(key));
    let mut num_damaged = 0;
    for name in names_in(&folder) {
        let path = folder.join(&name);
        for bad in ways(&fs::read(&path).unwrap()) {
            match bad {
                Some(bad) => fs::write(&path, bad).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            assert!(!is_there(&store, &blocks[0]), "{name}");
            num_damaged += 1;
            assert_eq!(store.stats().corrupt, num_damaged, "{name}");
            assert!(!store.contains(key) && !folder.exists(), "{name}");
            save(&store, &blocks);
            assert!(is_there(&store, &blocks[0]), "{name}");
        }
    }
    assert!(num_damaged > 0);
    let quarantined = store.disk().quarantined().unwrap();
    assert!(!quarantined.is_empty());
}

#[test]
fn a_flipped_bit_in_any_byte_of_any_file_is_a_miss() {
    damaged(|good| {
        let flipped = |at: usize| {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << (at % 8);
            Some(bad)
        };
        (0..good.len()).map(flipped).collect()
    });
}

#[test]
fn a_file_that_was_cut_emptied_lengthened_or_removed_is_a_miss() {
    damaged(|good| {
        let half = good[..good.len() / 2].to_vec();
        let last = good[..good.len() - 1].to_vec();
        vec![Some(half), Some(last), Some(Vec::new()), Some([good, b"x"].concat()), None]
    });
}

/// What one block takes in the folder.
fn entry_bytes() -> u64 {
    let place = Place::new();
    let store = place.open();
    save(&store, &chain(&store, None, None, 0..1));
    store.stats().bytes
}

#[test]
fn the_least_recently_used_prefix_makes_room_from_its_end() {
    let place = Place::new();
    // Room for 16 blocks and a bit.
    let max_bytes = entry_bytes() * 17;
    let store = place.open_with(&identity(), PrefixStoreOptions::new(max_bytes));
    let old = chain(&store, None, None, 0..8);
    save(&store, &old);
    let key = |at: usize| store.entry_key(&old[at].1.key);
    let day = Duration::from_hours(24);
    for at in 0..8 {
        store.disk().set_last_used(&key(at), SystemTime::now() - 9 * day).unwrap();
    }
    // A new conversation that begins like the old one: the first blocks lie in the engine's memory,
    // and are not read.
    let new = chain(&store, Some(old[2].1.key), None, 100..112);
    save(&store, &new);
    let stats = store.stats();
    assert_eq!(stats.errors, 0);
    assert!(stats.evicted > 0 && stats.bytes <= max_bytes, "{stats:?}");
    let left: Vec<bool> = old.iter().map(|block| is_there(&store, block)).collect();
    assert_eq!(left[..3], [true; 3], "{left:?}");
    assert!(left.is_sorted_by_key(|is_there| !is_there), "{left:?}");
    assert_eq!(how_many(&store, &new), new.len());
    assert!(!store.contains(&old[7].1.key));
}

#[test]
fn what_was_asked_for_is_younger_than_what_was_not_and_pins_stay() {
    let place = Place::new();
    let store = place.open_with(&identity(), PrefixStoreOptions::new(entry_bytes() * 9));
    let first = |salt: String| chain(&store, None, Some(&salt), 0..1).remove(0);
    let blocks: Vec<_> = (0..8).map(|at| first(at.to_string())).collect();
    save(&store, &blocks);
    for (at, (_, block)) in blocks.iter().enumerate() {
        let then = SystemTime::now() - Duration::from_hours(24 - at as u64);
        store.disk().set_last_used(&store.entry_key(&block.key), then).unwrap();
    }
    store.disk().pin(&store.entry_key(&blocks[0].1.key)).unwrap();
    assert!(store.contains(&blocks[2].1.key));
    save(&store, &[first("8".to_owned()), first("9".to_owned()), first("10".to_owned())]);
    let is_known: Vec<bool> = blocks.iter().map(|(_, b)| store.contains(&b.key)).collect();
    assert_eq!(is_known[..4], [true, false, true, false], "{is_known:?}");
    assert!(is_known[7], "{is_known:?}");
    let is_there: Vec<bool> = blocks.iter().map(|block| is_there(&store, block)).collect();
    assert_eq!(is_there, is_known);
}

#[test]
fn a_block_beyond_the_budget_is_not_kept_and_no_error() {
    let place = Place::new();
    let store = place.open_with(&identity(), PrefixStoreOptions::new(BLOCK_BYTES as u64));
    save(&store, &chain(&store, None, None, 0..1));
    let stats = store.stats();
    assert_eq!((stats.saved, stats.errors, stats.bytes), (0, 0, 0));
}

#[test]
fn a_folder_that_is_only_read_serves_hits_and_is_left_as_it_is() {
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, None, 0..3);
    save(&store, &blocks[..2]);
    let bad = store.disk().entry_folder(&store.entry_key(&blocks[1].1.key)).join("kv.bin");
    drop(store);
    let mut damaged = fs::read(&bad).unwrap();
    damaged[9] ^= 4;
    fs::write(&bad, &damaged).unwrap();
    let before = names_in(&place.path().join("v2"));

    let options = PrefixStoreOptions { is_only_read: true, ..PrefixStoreOptions::new(MAX_BYTES) };
    let store = place.open_with(&identity(), options);
    assert!(is_there(&store, &blocks[0]));
    assert!(store.contains(&blocks[1].1.key) && !is_there(&store, &blocks[1]));
    assert!(!store.contains(&blocks[1].1.key));
    save(&store, &blocks);
    assert!(!is_there(&store, &blocks[2]));
    let stats = store.stats();
    assert_eq!((stats.hits, stats.corrupt, stats.saved, stats.errors), (1, 1, 0, 0));
    assert_eq!(fs::read(&bad).unwrap(), damaged);
    assert_eq!(names_in(&place.path().join("v2")), before);
}

#[test]
fn what_cannot_be_written_or_read_is_counted_and_nothing_worse() {
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, None, 0..3);
    save(&store, &blocks[..1]);
    // The folder is gone, and something that is none is in its place.
    fs::remove_dir_all(place.path()).unwrap();
    fs::write(place.path(), b"a file").unwrap();
    save(&store, &blocks);
    assert!(!is_there(&store, &blocks[0]) && !is_there(&store, &blocks[1]));
    let stats = store.stats();
    assert!(stats.errors >= 2 && stats.saved == 1 && stats.hits == 0, "{stats:?}");
    // Deleting the folder is always allowed.
    fs::remove_file(place.path()).unwrap();
    save(&store, &blocks);
    assert_eq!(how_many(&store, &blocks), 3);
}

#[test]
fn a_folder_that_others_can_write_to_is_not_used_unless_somebody_says_so() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let store = place.open();
    let blocks = chain(&store, None, None, 0..1);
    save(&store, &blocks);
    drop(store);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let options = PrefixStoreOptions::new(MAX_BYTES);
    let refused = DiskPrefixStore::open(&place.path(), &identity(), options.clone()).unwrap_err();
    assert!(matches!(&refused, StoreError::Untrusted { .. }), "{refused}");
    assert!(refused.to_string().contains("--cache-trust any"), "{refused}");
    let store = place.open_with(&identity(), PrefixStoreOptions { trust: Trust::Any, ..options });
    assert!(is_there(&store, &blocks[0]));
}

#[test]
fn threads_that_load_save_and_make_room_at_once_never_get_a_wrong_byte() {
    let place = Place::new();
    let store = place.open_with(&identity(), PrefixStoreOptions::new(20_000));
    let chains: Vec<_> =
        (0..6).map(|at| chain(&store, None, None, 1000 * at..1000 * at + 5)).collect();
    thread::scope(|scope| {
        for worker in 0..4 {
            let (store, chains) = (&store, &chains);
            scope.spawn(move || {
                for round in 0..40 {
                    let chain = &chains[(worker * 7 + round * 5) % chains.len()];
                    save(store, chain);
                    how_many(store, chain);
                }
            });
        }
    });
    let stats = store.stats();
    assert!(stats.hits > 0 && stats.evicted > 0, "{stats:?}");
    assert_eq!((stats.errors, stats.corrupt), (0, 0), "{stats:?}");
}

/// Saves a thousand blocks and says so.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn child() {
    let Some(folder) = env::var_os(CHILD_FOLDER) else { return };
    let options = PrefixStoreOptions::new(MAX_BYTES);
    let store = DiskPrefixStore::open(Path::new(&folder), &identity(), options).unwrap();
    save(&store, &chain(&store, None, None, 0..1000));
    assert_eq!(store.stats().errors, 0);
}

fn start_child(place: &Place) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--quiet"])
        .env(CHILD_FOLDER, place.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_writer_that_is_killed_leaves_whole_blocks_and_nothing_else() {
    let place = Place::new();
    let reader = place.open();
    let blocks = chain(&reader, None, None, 0..1000);
    let mut num_found = 0;
    for round in 1..=12 {
        let mut child = start_child(&place);
        let deadline = Instant::now() + Duration::from_secs(30);
        while num_found < 40 * round && Instant::now() < deadline {
            num_found += usize::from(is_there(&reader, &blocks[num_found]));
        }
        // Somewhere in the middle of the next block.
        thread::sleep(Duration::from_micros(130 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(num_found, 480);
    let found = how_many(&reader, &blocks);
    assert!((480..1000).contains(&found), "{found}");
    assert_eq!((reader.stats().corrupt, reader.stats().errors), (0, 0));
    drop(reader);
    // The next one sweeps what was left, and finishes the work.
    let store = place.open();
    save(&store, &blocks);
    assert_eq!(how_many(&store, &blocks), 1000);
    assert_eq!(names_in(&place.path().join("v2/tmp")), BTreeSet::new());
    assert_eq!((store.stats().corrupt, store.stats().errors), (0, 0));
}

#[test]
fn two_processes_share_a_folder() {
    let place = Place::new();
    let mut child = start_child(&place);
    let store = place.open();
    // The same blocks, at the same time, the other way round.
    let mut blocks = chain(&store, None, None, 0..1000);
    blocks.reverse();
    save(&store, &blocks);
    assert!(child.wait().unwrap().success());
    assert_eq!(how_many(&store, &blocks), 1000);
    let stats = store.stats();
    assert_eq!((stats.corrupt, stats.errors), (0, 0), "{stats:?}");
    // Whoever comes later finds them all.
    let store = place.open();
    assert!(blocks.iter().all(|(_, block)| store.contains(&block.key)));
}

/// A checkpoint of the repository: nobody has written to it for a while.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/llama/model.safetensors")
}

fn folder(place: &Place) -> PrefixFolder {
    PrefixFolder::open(&place.path(), PrefixStoreOptions::new(MAX_BYTES), PRODUCER).unwrap()
}

#[test]
fn the_digest_of_weights_is_remembered_of_files_at_rest_only() {
    let place = Place::new();
    let golden = Checkpoint::open(&golden()).unwrap();
    let computed = folder(&place).weights_digest(&golden);
    assert!(!computed.is_remembered);
    let again = folder(&place).weights_digest(&golden);
    assert!(again.is_remembered);
    assert_eq!(again.digest, computed.digest);

    // The same weights in another file, just written: the same digest, computed each time.
    let copy = place.folder.path().join("model.safetensors");
    let file = golden.files().next().unwrap();
    fs::copy(file, &copy).unwrap();
    for _ in 0..2 {
        let of_copy = folder(&place).weights_digest(&Checkpoint::open(&copy).unwrap());
        assert!(!of_copy.is_remembered);
        assert_eq!(of_copy.digest, computed.digest);
    }
    // One bit of one weight.
    let mut changed = fs::read(&copy).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&copy, changed).unwrap();
    let changed = folder(&place).weights_digest(&Checkpoint::open(&copy).unwrap());
    assert_ne!(changed.digest, computed.digest);
}

#[test]
fn a_digest_of_a_file_that_was_replaced_after_it_was_opened_is_not_remembered() {
    let place = Place::new();
    let copy = place.folder.path().join("model.safetensors");
    let golden = golden();
    let golden = Checkpoint::open(&golden).unwrap();
    fs::copy(golden.files().next().unwrap(), &copy).unwrap();
    // At rest for long enough.
    thread::sleep(Duration::from_millis(4_500));
    let opened = Checkpoint::open(&copy).unwrap();
    let mut other = fs::read(&copy).unwrap();
    *other.last_mut().unwrap() ^= 1;
    let beside = place.folder.path().join("beside");
    fs::write(&beside, other).unwrap();
    fs::rename(&beside, &copy).unwrap();
    let of_old = folder(&place).weights_digest(&opened);
    assert_eq!(of_old.digest, folder(&place).weights_digest(&golden).digest);
    let of_new = folder(&place).weights_digest(&Checkpoint::open(&copy).unwrap());
    assert_ne!(of_new.digest, of_old.digest);
    assert!(!folder(&place).weights_digest(&opened).is_remembered);
}

//! What the cache may do in each mode, where entries come from, and what happens to bad ones that
//! are whole.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::cell::Cell;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cairn_graph_cache::{
    Artifact, CacheMode, CacheOptions, Compiled, DiskStore, Event, Found, GetError, GraphCache,
    KeyFields, KeyRing, Layer, LoadFailure, Lookup, MissReason, Observer, Origin, RequestGraph,
    SigningKey, Store as _, Trust,
};

fn fields(graph: &str) -> KeyFields {
    KeyFields::new().text("backend", "test").text("graph", graph)
}

fn compiled(graph: &str) -> Compiled {
    Compiled::new(Artifact::single("code", graph.as_bytes().to_vec()).unwrap())
}

/// Asks for a graph; the answer must be the right one.
fn ask(cache: &GraphCache, graph: &str) -> Result<Origin, GetError<Infallible>> {
    let load = |artifact: &Artifact| {
        Ok::<_, LoadFailure<Infallible>>(artifact.file("code").unwrap().to_vec())
    };
    let (code, outcome) =
        cache.get_or_compile(&fields(graph), graph, load, || Ok(compiled(graph)))?;
    assert_eq!(code, graph.as_bytes());
    Ok(outcome.origin)
}

fn open(folder: &Path, change: impl FnOnce(&mut CacheOptions)) -> GraphCache {
    let mut options = CacheOptions::in_folder("test 1.0", folder);
    change(&mut options);
    GraphCache::open(options)
}

/// Every path in a folder with its size and time.
fn tree(folder: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|item| item.unwrap().path()));
        }
        found.push((path, metadata.len(), metadata.modified().unwrap()));
    }
    found.sort();
    found
}

fn temp() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    (folder, root)
}

#[test]
fn mode_ro_reads_and_compiles_and_changes_nothing() {
    let (_folder, root) = temp();
    assert_eq!(ask(&open(&root, |_| {}), "a"), Ok(Origin::Compiled));
    let before = tree(&root);
    let cache = open(&root, |options| options.mode = CacheMode::ReadOnly);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
    assert_eq!(ask(&cache, "b"), Ok(Origin::Compiled));
    assert_eq!(ask(&cache, "b"), Ok(Origin::Compiled), "nothing was kept");
    cache.begin_start(&[fields("a").key()]).ready();
    cache.remember_request(&fields("request"), "r", &[]);
    drop(cache);
    assert_eq!(tree(&root), before);
}

#[test]
fn mode_ro_does_not_create_a_folder() {
    let (_folder, root) = temp();
    let cache = open(&root, |options| options.mode = CacheMode::ReadOnly);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Compiled));
    assert!(!root.exists());
}

#[test]
fn mode_off_neither_reads_nor_writes() {
    let (_folder, root) = temp();
    ask(&open(&root, |_| {}), "a").unwrap();
    let before = tree(&root);
    let cache = open(&root, |options| options.mode = CacheMode::Off);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Compiled));
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache), "kept in memory");
    drop(cache);
    assert_eq!(tree(&root), before);
}

#[test]
fn mode_require_explains_instead_of_compiling() {
    let (_folder, root) = temp();
    ask(&open(&root, |_| {}), "a").unwrap();
    let cache = open(&root, |options| options.mode = CacheMode::Require);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
    let is_compiled = Cell::new(false);
    let load = |_: &Artifact| Ok::<_, LoadFailure<Infallible>>(());
    let compile = || {
        is_compiled.set(true);
        Ok(compiled("b"))
    };
    let error = cache.get_or_compile(&fields("b"), "graph b", load, compile).unwrap_err();
    assert!(!is_compiled.get());
    let text = error.to_string();
    assert!(text.contains("graph is b, the nearest entry has a"), "{text}");
    assert_eq!(cache.stats().snapshot().compiles, 0);
}

#[test]
fn a_layer_is_read_and_copied_up_and_never_written() {
    let (_folder, root) = temp();
    let image = root.with_extension("image");
    ask(&open(&image, |_| {}), "a").unwrap();
    let before = tree(&image);
    let with_layer =
        |options: &mut CacheOptions| options.layers = vec![Layer::Folder(image.clone())];
    let cache = open(&root, with_layer);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
    assert_eq!(ask(&cache, "b"), Ok(Origin::Compiled));
    assert_eq!(cache.stats().snapshot().promoted, 1);
    drop(cache);
    assert_eq!(tree(&image), before);
    // What was copied up is as good as the original, byte for byte.
    let (upper, lower) = (DiskStore::open(&root).unwrap(), DiskStore::open(&image).unwrap());
    assert_eq!(upper.get(&fields("a").key()), lower.get(&fields("a").key()));
    assert_eq!(ask(&open(&root, |_| {}), "a"), Ok(Origin::Cache), "without the layer");
}

#[test]
fn a_bad_upper_entry_makes_way_for_that_of_a_layer() {
    let (_folder, root) = temp();
    let image = root.with_extension("image");
    for folder in [&root, &image] {
        ask(&open(folder, |_| {}), "a").unwrap();
    }
    let key = fields("a").key().to_string();
    fs::write(root.join("v2/entries").join(&key[..2]).join(&key).join("code"), b"x").unwrap();
    let cache = open(&root, |options| options.layers = vec![Layer::Folder(image)]);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
    let stats = cache.stats().snapshot();
    assert_eq!((stats.quarantined, stats.promoted, stats.compiles), (1, 1, 0));
    assert_eq!(ask(&open(&root, |_| {}), "a"), Ok(Origin::Cache));
}

#[test]
fn a_missing_or_bad_layer_is_left_out_with_one_event_each() {
    struct Seen(Mutex<Vec<Event>>);
    impl Observer for Seen {
        fn observe(&self, event: &Event) {
            self.0.lock().unwrap().push(event.clone());
        }
    }
    let (_folder, root) = temp();
    let no_folder = root.with_extension("file");
    fs::write(&no_folder, b"").unwrap();
    let missing = root.with_extension("missing");
    let seen = Arc::new(Seen(Mutex::default()));
    let cache = open(&root, |options| {
        options.layers = vec![Layer::Folder(no_folder.clone()), Layer::Folder(missing.clone())];
        options.observers.push(Arc::<Seen>::clone(&seen));
    });
    assert_eq!(ask(&cache, "a"), Ok(Origin::Compiled));
    let events = seen.0.lock().unwrap();
    let of_layers = events.iter().filter(|event| matches!(event, Event::LayerFailed { .. }));
    assert_eq!(of_layers.count(), 2, "{events:?}");
    assert!(!missing.exists(), "a layer is never created");
}

#[test]
fn an_artifact_that_is_refused_is_not_taken_from_a_layer_again() {
    let (_folder, root) = temp();
    let image = root.with_extension("image");
    let refused = Compiled::new(Artifact::single("code", b"refused".to_vec()).unwrap());
    let load = |_: &Artifact| Ok::<_, LoadFailure<String>>(());
    open(&image, |_| {}).get_or_compile(&fields("a"), "a", load, || Ok(refused)).unwrap();
    let with_layer =
        |options: &mut CacheOptions| options.layers = vec![Layer::Folder(image.clone())];
    let cache = open(&root, with_layer);
    let load = |artifact: &Artifact| match artifact.file("code") {
        Some(b"a") => Ok(()),
        _ => Err(LoadFailure::BadArtifact("not mine".to_owned())),
    };
    let ((), outcome) =
        cache.get_or_compile(&fields("a"), "a", load, || Ok(compiled("a"))).unwrap();
    assert!(matches!(outcome.miss, Some(MissReason::Bad(_))), "{outcome:?}");
    drop(cache);
    assert_eq!(ask(&open(&root, with_layer), "a"), Ok(Origin::Cache), "the own one is found first");
}

#[test]
fn the_budget_evicts_what_was_used_longest_ago() {
    let (_folder, root) = temp();
    for graph in ["a", "b", "c"] {
        ask(&open(&root, |_| {}), graph).unwrap();
    }
    let a = fields("a").key();
    ask(&open(&root, |_| {}), "a").unwrap();
    let all = DiskStore::open(&root).unwrap().list().unwrap();
    let bytes: u64 = tree(&root.join("v2/entries"))
        .iter()
        .filter(|(path, _, _)| path.is_file())
        .map(|(_, bytes, _)| bytes)
        .sum();
    // Room for three of four.
    let cache = open(&root, |options| options.max_bytes = Some(bytes + 100));
    ask(&cache, "d").unwrap();
    assert_eq!(cache.stats().snapshot().evicted, 1);
    let left = DiskStore::open(&root).unwrap().list().unwrap();
    assert_eq!((all.len(), left.len()), (3, 3));
    assert!(left.contains(&a) && !left.contains(&fields("b").key()));
}

#[test]
fn entries_of_starts_that_never_got_ready_are_moved_away() {
    let (_folder, root) = temp();
    ask(&open(&root, |_| {}), "a").unwrap();
    let key = fields("a").key();
    for _ in 0..3 {
        let cache = open(&root, |_| {});
        let start = cache.begin_start(&[key]);
        assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
        start.failed();
    }
    let cache = open(&root, |_| {});
    let start = cache.begin_start(&[key]);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Compiled));
    assert_eq!(cache.stats().snapshot().crash_loops, 1);
    start.ready();
    for _ in 0..5 {
        open(&root, |_| {}).begin_start(&[key]).ready();
    }
    let cache = open(&root, |_| {});
    drop(cache.begin_start(&[key]));
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
}

#[test]
fn a_start_that_gets_ready_forgets_earlier_failures() {
    let (_folder, root) = temp();
    ask(&open(&root, |_| {}), "a").unwrap();
    let key = fields("a").key();
    for _ in 0..4 {
        for _ in 0..2 {
            open(&root, |_| {}).begin_start(&[key]).failed();
        }
        open(&root, |_| {}).begin_start(&[key]).ready();
    }
    assert_eq!(ask(&open(&root, |_| {}), "a"), Ok(Origin::Cache));
}

#[test]
fn a_request_is_remembered_and_a_change_of_its_graphs_is_told() {
    let (_folder, root) = temp();
    let graph = |name: &str| RequestGraph { name: name.to_owned(), key: fields(name).key() };
    let request = fields("request");
    let cache = open(&root, |_| {});
    assert_eq!(cache.request(&request), None);
    cache.remember_request(&request, "model", &[graph("a")]);
    cache.remember_request(&request, "model", &[graph("a")]);
    assert_eq!(open(&root, |_| {}).request(&request), Some(vec![graph("a")]));
    cache.remember_request(&request, "model", &[graph("b")]);
    assert_eq!(open(&root, |_| {}).request(&request), Some(vec![graph("b")]));
    // Requests are no graphs: they are not offered as the nearest one.
    let explanation = cache.explain(&fields("c"), "c", usize::MAX);
    assert!(matches!(explanation.found, Found::Miss { nearest: None, .. }), "{explanation}");
}

#[test]
fn only_signed_entries_are_used_where_signatures_are_asked_for() {
    let (_folder, root) = temp();
    ask(&open(&root, |_| {}), "a").unwrap();
    let signing_key = SigningKey::generate().unwrap();
    let text = format!("{} the release key\n", signing_key.public());
    let ring = KeyRing::parse(&text).unwrap();
    let signed = |options: &mut CacheOptions| options.trust = Trust::Signed(ring);
    let cache = open(&root, signed);
    assert_eq!(ask(&cache, "a"), Ok(Origin::Compiled));
    assert_eq!(cache.stats().snapshot().misses_untrusted, 1);
    assert_eq!(cache.stats().snapshot().quarantined, 0);
    let key = fields("a").key();
    cache.disk().unwrap().sign(&key, &signing_key).unwrap();
    assert!(matches!(cache.store().get(&key), Lookup::Hit(_)));
    assert_eq!(ask(&cache, "a"), Ok(Origin::Cache));
}

//! Entries in object storage: against a server of our own that can be told to misbehave, and against
//! any other, by hand.
#![cfg(feature = "remote")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod fake_s3;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_graph_cache::{
    Artifact, CacheKey, Entry, EntryMeta, KeyFields, KeyRing, Lookup, MissReason, Put,
    RemoteOptions, RemoteStore, SigningKey, Store, StoreError, Trust,
};
use fake_s3::{BUCKET, FakeS3};
use object_store::memory::InMemory;

const URL: &str = "s3://cache/some/prefix";

fn options(endpoint: &str) -> RemoteOptions {
    let settings = [
        ("AWS_ACCESS_KEY_ID", "ACCESS"),
        ("AWS_SECRET_ACCESS_KEY", "SECRET"),
        ("AWS_REGION", "region-1"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    RemoteOptions {
        settings: settings.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(),
        trust: Trust::Owner,
        retries: 3,
        timeout: Duration::from_secs(20),
    }
}

fn open(server: &FakeS3) -> RemoteStore {
    RemoteStore::open(URL, options(&server.endpoint())).unwrap()
}

fn in_memory(trust: Trust) -> RemoteStore {
    let options = RemoteOptions { trust, ..RemoteOptions::default() };
    RemoteStore::over(Arc::new(InMemory::new()), "bucket", "", options).unwrap()
}

/// An entry whose artifact does not get smaller by compression.
fn entry_of(name: &str, num_bytes: usize) -> Entry {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut bytes: Vec<u8> = noise.take(num_bytes.div_ceil(8)).flatten().collect();
    bytes.truncate(num_bytes);
    let meta = EntryMeta {
        kind: "graph".to_owned(),
        note: name.to_owned(),
        producer: "test 1.0".to_owned(),
        created_unix_s: 1,
        compile_ms: 2,
        fields: Vec::new(),
        io: serde_json::Value::Null,
        log_tail: String::new(),
    };
    let fields = KeyFields::new().text("name", name);
    Entry::seal(&fields, Artifact::single("model.om", bytes).unwrap(), meta)
}

fn entry(name: &str) -> Entry {
    entry_of(name, 5000)
}

fn object_of(key: &CacheKey) -> String {
    let digits = key.to_string();
    format!("some/prefix/v2/entries/{}/{digits}.tar.zst", &digits[..2])
}

fn assert_hit(store: &dyn Store, entry: &Entry) {
    assert_eq!(store.get(entry.key()), Lookup::Hit(Box::new(entry.clone())));
}

fn miss(store: &dyn Store, key: &CacheKey) -> MissReason {
    match store.get(key) {
        Lookup::Miss(reason) => reason,
        Lookup::Hit(_) => panic!("a hit"),
    }
}

fn assert_unreadable(store: &dyn Store, key: &CacheKey, words: &[&str]) {
    match miss(store, key) {
        MissReason::Unreadable(text) => {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

fn assert_bad(store: &dyn Store, key: &CacheKey) -> String {
    match miss(store, key) {
        MissReason::Bad(text) => text,
        other => panic!("{other:?}"),
    }
}

fn assert_keeps_entries(store: &dyn Store) {
    let entries = ["a", "b", "c"].map(entry);
    assert_eq!(miss(store, entries[0].key()), MissReason::Absent);
    assert_eq!(store.list().unwrap(), []);
    for entry in &entries {
        assert!(matches!(store.put(entry).unwrap(), Put::Stored { bytes } if bytes > 5000));
        assert_eq!(store.put(entry).unwrap(), Put::AlreadyThere);
        assert_hit(store, entry);
        assert_eq!(store.manifest(entry.key()).as_ref(), Some(entry.manifest()));
    }
    let mut keys: Vec<_> = entries.iter().map(|entry| *entry.key()).collect();
    keys.sort_unstable();
    assert_eq!(store.list().unwrap(), keys);
    assert!(store.remove(&keys[0]).unwrap());
    assert!(!store.remove(&keys[0]).unwrap());
    assert_eq!(miss(store, &keys[0]), MissReason::Absent);
    store.quarantine(&keys[1], "bad").unwrap();
    store.quarantine(&keys[1], "not there any more").unwrap();
    assert_eq!(store.list().unwrap(), keys[2..]);
    assert!(store.remove(&keys[2]).unwrap());
}

#[test]
fn entries_are_kept_in_any_object_store() {
    let store = in_memory(Trust::Owner);
    assert_eq!(store.place(), "s3://bucket");
    assert_keeps_entries(&store);
    assert!(store.probe().iter().all(|(_, answer)| answer.is_ok()));
}

#[test]
fn entries_are_kept_in_s3() {
    let server = FakeS3::start();
    let store = open(&server);
    assert_eq!(store.place(), URL);
    assert_keeps_entries(&store);
    for (permission, answer) in store.probe() {
        answer.unwrap_or_else(|error| panic!("{permission}: {error}"));
    }
    let left: Vec<_> = server.state().objects.keys().cloned().collect();
    assert!(left.iter().all(|key| key.starts_with("some/prefix/v2/quarantine/")), "{left:?}");
    assert_eq!(left.len(), 2);
    let reason = left.iter().find(|key| key.ends_with(".reason.txt")).unwrap();
    assert_eq!(server.state().objects[reason], b"bad\n");
}

#[test]
fn a_hit_is_one_request() {
    let server = FakeS3::start();
    let store = open(&server);
    let entry = entry("a");
    store.put(&entry).unwrap();
    server.state().log.clear();
    assert_hit(&store, &entry);
    assert_eq!(server.state().log, [format!("GET {BUCKET}/{}", object_of(entry.key()))]);
}

#[test]
fn listings_have_pages_and_foreign_objects_are_not_entries() {
    let server = FakeS3::start();
    let store = open(&server);
    let entries: Vec<_> = (0..7).map(|number| entry(&number.to_string())).collect();
    for entry in &entries {
        store.put(entry).unwrap();
    }
    let digits = entries[0].key().to_string();
    let folder = "some/prefix/v2/entries";
    for foreign in [
        format!("{folder}/README"),
        format!("{folder}/{}/notes.txt", &digits[..2]),
        format!("{folder}/zz/{digits}.tar.zst"),
        format!("{folder}/{digits}.tar.zst"),
        format!("{folder}/{}/{digits}.tar.zst.bak", &digits[..2]),
        format!("{folder}-old/{}/{digits}.tar.zst", &digits[..2]),
        format!("{folder}/"),
    ] {
        server.state().objects.insert(foreign, Vec::new());
    }
    server.state().page = 2;
    server.state().log.clear();
    let mut keys: Vec<_> = entries.iter().map(|entry| *entry.key()).collect();
    keys.sort_unstable();
    assert_eq!(store.list().unwrap(), keys);
    assert!(server.state().count("LIST") > 5);
}

#[test]
fn requests_are_tried_again_after_failures() {
    let server = FakeS3::start();
    let store = open(&server);
    let entry = entry("a");
    server.state().num_failures = 2;
    assert!(matches!(store.put(&entry).unwrap(), Put::Stored { .. }));
    server.state().num_failures = 3;
    assert_hit(&store, &entry);
    server.state().num_failures = usize::MAX;
    assert_unreadable(&store, entry.key(), &["500 InternalError", URL, "get an entry"]);
    server.state().num_failures = 0;
    assert_hit(&store, &entry);
}

#[test]
fn a_body_that_ends_early_is_fetched_to_its_end() {
    let server = FakeS3::start();
    let store = open(&server);
    let entry = entry("a");
    store.put(&entry).unwrap();
    server.state().num_cut = 2;
    assert_hit(&store, &entry);
    server.state().num_cut = usize::MAX;
    assert_unreadable(&store, entry.key(), &[URL]);
}

#[test]
fn flipped_bits_and_cut_objects_are_bad_entries() {
    let server = FakeS3::start();
    let store = open(&server);
    let entry = entry("a");
    store.put(&entry).unwrap();
    server.state().flips = true;
    assert_bad(&store, entry.key());
    server.state().flips = false;
    assert_hit(&store, &entry);
    let object = server.state().objects[&object_of(entry.key())].clone();
    for length in [0, 1, 100, object.len() / 2, object.len() - 1] {
        server.state().objects.insert(object_of(entry.key()), object[..length].to_vec());
        assert_bad(&store, entry.key());
    }
}

#[test]
fn objects_of_others_are_bad_entries() {
    let server = FakeS3::start();
    let store = open(&server);
    let (wanted, other) = (entry("wanted"), entry("other"));
    store.put(&other).unwrap();
    let object = server.state().objects[&object_of(other.key())].clone();
    let place = object_of(wanted.key());
    server.state().objects.insert(place.clone(), object);
    assert!(assert_bad(&store, wanted.key()).contains(&other.key().to_string()));
    for evil in [&b"not an archive"[..], &[0; 4096], b"\x28\xb5\x2f\xfd"] {
        server.state().objects.insert(place.clone(), evil.to_vec());
        assert_bad(&store, wanted.key());
    }
    server.state().claimed_bytes = Some(1 << 40);
    assert!(assert_bad(&store, wanted.key()).contains("expected at most"));
    server.state().claimed_bytes = None;
    store.quarantine(wanted.key(), "evil").unwrap();
    assert_eq!(miss(&store, wanted.key()), MissReason::Absent);
}

#[test]
fn each_missing_permission_is_named() {
    let server = FakeS3::start();
    let store = open(&server);
    let (entry, other) = (entry("a"), entry("b"));
    store.put(&entry).unwrap();
    let deny = |action| {
        let mut state = server.state();
        state.denied.clear();
        state.denied.insert(action);
    };
    let named = |error: StoreError| match error {
        StoreError::Denied { permission, place, .. } => {
            assert_eq!(place, URL);
            permission
        }
        other => panic!("{other:?}"),
    };
    deny("PUT");
    assert_eq!(named(store.put(&other).unwrap_err()), "s3:PutObject");
    server.state().denial = "no s3:PutObjectAcl for you".to_owned();
    assert_eq!(named(store.put(&other).unwrap_err()), "s3:PutObjectAcl");
    server.state().denial = String::new();
    deny("GET");
    assert_unreadable(&store, entry.key(), &["s3:GetObject", URL, "s3:ListBucket"]);
    deny("LIST");
    assert_eq!(named(store.list().unwrap_err()), "s3:ListBucket");
    deny("DELETE");
    assert_eq!(named(store.remove(entry.key()).unwrap_err()), "s3:DeleteObject");
    assert_eq!(named(store.quarantine(entry.key(), "x").unwrap_err()), "s3:DeleteObject");
    assert_hit(&store, &entry);
    deny("COPY");
    assert_eq!(named(store.quarantine(entry.key(), "x").unwrap_err()), "s3:PutObject");
    deny("HEAD");
    assert!(matches!(store.put(&other).unwrap(), Put::Stored { .. }));
    assert_eq!(store.put(&other).unwrap(), Put::AlreadyThere);
    assert!(store.remove(other.key()).unwrap());
}

#[test]
fn probing_says_which_permissions_are_given() {
    let server = FakeS3::start();
    let store = open(&server);
    for (action, missing) in [
        ("LIST", "s3:ListBucket"),
        ("PUT", "s3:PutObject"),
        ("GET", "s3:GetObject"),
        ("DELETE", "s3:DeleteObject"),
    ] {
        server.state().denied = [action].into();
        let answers = store.probe();
        assert_eq!(answers.len(), 4);
        for (permission, answer) in answers {
            assert_eq!(answer.is_err(), permission == missing, "{permission}: {answer:?}");
        }
    }
}

#[test]
fn messages_name_the_setting_to_look_at() {
    let server = FakeS3::start();
    let store = open(&server);
    let key = *entry("a").key();
    for (status, code, words) in [
        (301, "PermanentRedirect", "AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "clock"),
    ] {
        server.state().answer = Some((status, code));
        assert_unreadable(&store, &key, &[words, URL]);
        let error = store.put(&entry("a")).unwrap_err().to_string();
        assert!(error.starts_with("cannot store an entry"), "{error}");
    }
    server.state().answer = None;
    let options = || options(&server.endpoint());
    let elsewhere = RemoteStore::open("s3://elsewhere", options()).unwrap();
    assert_unreadable(&elsewhere, &key, &["bucket does not exist", "s3://elsewhere"]);
    assert!(elsewhere.list().unwrap_err().to_string().contains("bucket does not exist"));
    assert!(elsewhere.put(&entry("a")).unwrap_err().to_string().contains("bucket does not exist"));
}

#[test]
fn a_service_that_cannot_create_conditionally_is_asked_plainly() {
    let server = FakeS3::start();
    server.state().is_unconditional = true;
    let options = RemoteOptions { retries: 0, ..options(&server.endpoint()) };
    let store = RemoteStore::open(URL, options).unwrap();
    for entry in ["a", "b"].map(entry) {
        assert!(matches!(store.put(&entry).unwrap(), Put::Stored { .. }));
        assert_eq!(store.put(&entry).unwrap(), Put::AlreadyThere);
        assert_hit(&store, &entry);
    }
    assert_eq!(server.state().count("PUT"), 3);
}

#[test]
fn a_large_entry_goes_up_in_parts_or_not_at_all() {
    let server = FakeS3::start();
    let store = open(&server);
    let entry = entry_of("large", 66 << 20);
    server.state().denied = ["PART"].into();
    let error = store.put(&entry).unwrap_err();
    assert!(matches!(error, StoreError::Denied { permission: "s3:PutObject", .. }), "{error}");
    assert!(server.state().objects.is_empty());
    assert_eq!(server.state().count("ABORT"), 1);
    assert_eq!(server.state().num_open_uploads(), 0);

    server.state().denied.clear();
    server.state().log.clear();
    server.state().num_failures = 1;
    assert!(matches!(store.put(&entry).unwrap(), Put::Stored { .. }));
    assert_eq!(server.state().count("PUT"), 0);
    assert_eq!(server.state().num_open_uploads(), 0);
    assert!(server.state().count("PART") >= 5);
    assert_hit(&store, &entry);
}

#[test]
fn nobody_waits_longer_than_the_timeout() {
    let key = *entry("a").key();
    let unreachable = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let slow = FakeS3::start();
    slow.state().delay = Duration::from_secs(30);
    for endpoint in [unreachable, slow.endpoint()] {
        let timeout = Duration::from_secs(1);
        let options = RemoteOptions { timeout, ..options(&endpoint) };
        let store = RemoteStore::open(URL, options).unwrap();
        let started = Instant::now();
        assert_unreadable(&store, &key, &[URL]);
        assert!(store.put(&entry("a")).is_err());
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[test]
fn a_service_without_encryption_is_not_spoken_to_where_encryption_is_asked_for() {
    let server = FakeS3::start();
    let endpoint = server.endpoint().replace("http://", "https://");
    let options = RemoteOptions { retries: 0, ..options(&endpoint) };
    match RemoteStore::open(URL, options) {
        Ok(store) => assert_unreadable(&store, entry("a").key(), &[URL]),
        // A machine without any certificates cannot ask for encryption.
        Err(error) => assert!(error.to_string().contains("ertificate"), "{error}"),
    }
    assert!(server.state().log.is_empty());
}

#[test]
fn only_signed_entries_are_used_where_signatures_are_asked_for() {
    let signer = SigningKey::generate().unwrap();
    let keys = KeyRing::parse(&signer.public().to_string()).unwrap();
    let store = in_memory(Trust::Signed(keys));
    let (plain, signed) = (entry("plain"), entry("signed"));
    let signature = signer.sign(signed.manifest_json());
    let signed = signed.with_signatures(signature.into_bytes());
    store.put(&plain).unwrap();
    store.put(&signed).unwrap();
    assert_hit(&store, &signed);
    assert!(matches!(miss(&store, plain.key()), MissReason::Untrusted(_)));
}

#[test]
fn it_works_from_inside_a_runtime_and_from_many_threads() {
    let server = FakeS3::start();
    let store = Arc::new(open(&server));
    let entry = entry("a");
    store.put(&entry).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        assert_hit(&*store, &entry);
        let (store, entry) = (Arc::clone(&store), entry.clone());
        tokio::task::spawn_blocking(move || assert_hit(&*store, &entry)).await.unwrap();
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..5).for_each(|_| assert_hit(&*store, &entry)));
        }
    });
    runtime.block_on(async { drop(store) });
}

#[test]
fn addresses_and_settings_are_checked_before_anything_is_asked() {
    let error = |url: &str, settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let options = RemoteOptions { settings, ..RemoteOptions::default() };
        RemoteStore::open(url, options).unwrap_err().to_string()
    };
    assert!(error("https://bucket", &[]).contains("s3://bucket"));
    assert!(error("s3://bucket/a//b", &[]).contains("s3://bucket/a//b"));
    let plain = [("AWS_ENDPOINT_URL", "http://localhost:1")];
    assert!(error("s3://bucket", &plain).contains("AWS_ALLOW_HTTP"));
    assert!(error("s3://bucket", &[("AWS_CA_BUNDLE", "/nowhere")]).contains("/nowhere"));
    assert!(error("s3://bucket", &[("AWS_ALLOW_HTTP", "maybe")]).contains("maybe"));
    assert!(error("s3://bucket", &[("AWS_ACCESS_KEY_ID", "x")]).contains("settings"));
}

/// Reads the endpoint, the address and other settings, as `NAME=value` lines (`URL=s3://...` among
/// them), from the file `remote_settings` in the folder of temporary files of these tests.
#[test]
#[ignore = "needs another object store"]
fn entries_are_kept_in_another_object_store() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("remote_settings");
    let text = std::fs::read_to_string(&file).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let (url, settings): (Vec<_>, Vec<_>) = pairs.partition(|(name, _)| *name == "URL");
    let settings = settings.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let options = RemoteOptions { settings, ..RemoteOptions::default() };
    let store = RemoteStore::open(url[0].1, options).unwrap();
    for (permission, answer) in store.probe() {
        answer.unwrap_or_else(|error| panic!("{permission}: {error}"));
    }
    assert_keeps_entries(&store);
    let large = entry_of("large", 66 << 20);
    assert!(matches!(store.put(&large).unwrap(), Put::Stored { .. }));
    assert_hit(&store, &large);
    assert!(store.remove(large.key()).unwrap());
}

#[cfg(feature = "conformance")]
mod promises {
    use cairn_graph_cache::conformance;

    use super::*;

    #[test]
    fn a_store_in_any_object_store_keeps_them() {
        conformance::run(&mut || Box::new(in_memory(Trust::Owner)));
    }

    #[test]
    fn a_store_in_s3_keeps_them() {
        let mut servers = Vec::new();
        conformance::run(&mut || {
            let server = FakeS3::start();
            let store = open(&server);
            servers.push(server);
            Box::new(store)
        });
    }
}

//! Keys that change while a server runs, without a server.

use std::path::{Path, PathBuf};

use super::change::{Change, ChangeError};
use super::digest::Digest;
use super::entry::KeyEntry;
use super::registry::{Access, AccessOptions, FLAG_NAME};
use super::usage::{Days, MAX_NAMES, Usage};
use super::usage_file::UsageFile;

fn entry(name: &str) -> String {
    let hash = Digest::of(name.as_bytes());
    format!("[[keys]]\nname = '{name}'\nhash = '{hash}'\n")
}

fn open(file: &Path, more: AccessOptions) -> Access {
    Access::open(AccessOptions { keys_file: Some(file.to_owned()), ..more }).unwrap()
}

fn with_file(text: &str) -> (tempfile::TempDir, PathBuf, Access) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, text).unwrap();
    let access = open(&path, AccessOptions::default());
    (folder, path, access)
}

fn has(access: &Access, key: &str) -> bool {
    access.find(&Digest::of(key.as_bytes())).is_some()
}

#[test]
fn a_file_is_read_again_only_when_it_has_rested() {
    let (_folder, path, access) = with_file(&entry("a"));
    let half = format!("{}{}", entry("a"), "[[keys]]\nname = 'b'\n");
    std::fs::write(&path, &half).unwrap();
    access.poll();
    assert_eq!(access.counts(), [0, 0, 0], "it may still be written");
    std::fs::write(&path, entry("a") + &entry("b")).unwrap();
    access.poll();
    assert!(!has(&access, "b"));
    access.poll();
    assert!(has(&access, "a") && has(&access, "b"));
    access.poll();
    access.poll();
    assert_eq!(access.counts(), [0, 1, 0]);
    // What is wrong is told once, and again only when it is another one.
    std::fs::write(&path, "x").unwrap();
    (0..5).for_each(|_| access.poll());
    assert_eq!(access.counts(), [0, 1, 1]);
    assert!(has(&access, "b"));
    std::fs::remove_file(&path).unwrap();
    (0..5).for_each(|_| access.poll());
    assert_eq!(access.counts(), [0, 1, 2]);
    std::fs::write(&path, entry("c")).unwrap();
    (0..2).for_each(|_| access.poll());
    assert!(has(&access, "c") && !has(&access, "a"));
}

#[test]
fn whoever_listens_is_told_of_changes() {
    let (_folder, path, access) = with_file(&entry("a"));
    let (sender, told) = std::sync::mpsc::channel();
    access.on_change(move |change| sender.send(change.clone()).unwrap());
    access.reload().unwrap();
    std::fs::write(&path, "x").unwrap();
    assert!(matches!(access.reload(), Err(ChangeError::File(_))));
    let told: Vec<Change> = told.try_iter().collect();
    assert_eq!(told[0], Change::Reloaded { num_keys: 1 });
    assert!(told[1].is_abnormal() && told[1].to_string().contains("keys.toml, line 1"));
    assert_eq!(told.len(), 2);
}

#[test]
fn a_ledger_outlives_tables_and_keys() {
    let (_folder, path, access) = with_file(&entry("a"));
    let find = |key: &str| access.find(&Digest::of(key.as_bytes())).unwrap();
    find("a").ledger.charge(access.now(), &Usage { prompt_tokens: 5, ..Usage::default() });
    // Gone, then back under the same name with another key.
    std::fs::write(&path, "").unwrap();
    access.reload().unwrap();
    let other = entry("a").replace(&Digest::of(b"a").to_string(), &Digest::of(b"z").to_string());
    std::fs::write(&path, other).unwrap();
    access.reload().unwrap();
    assert!(!has(&access, "a"));
    assert_eq!(find("z").ledger.total().prompt_tokens, 5);
    assert_eq!(access.usage()["a"].values().map(Usage::tokens).sum::<u64>(), 5);
}

#[test]
fn a_key_of_a_flag_and_of_the_file_has_the_files_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, entry("a")).unwrap();
    let keys = vec![Digest::of(b"a"), Digest::of(b"flag")];
    let access = open(&path, AccessOptions { keys, ..AccessOptions::default() });
    let name = |key: &str| access.find(&Digest::of(key.as_bytes())).unwrap().entry.name.clone();
    assert_eq!((name("a"), name("flag")), ("a".to_owned(), FLAG_NAME.to_owned()));
    assert!(!access.is_open());
    assert!(Access::default().is_open());
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let (_folder, path, access) = with_file(&entry("a"));
    let before = std::fs::read(&path).unwrap();
    let refused = access.change::<()>(|entries| {
        entries.clear();
        Err(ChangeError::NotFound("b".to_owned()))
    });
    assert!(refused.is_err());
    // An entry that could not be read again is not written.
    let refused = access.change(|entries| {
        entries.push(KeyEntry::new("a b", Digest::of(b"b")));
        Ok(((), Change::Added { name: "a b".to_owned() }))
    });
    assert!(matches!(refused, Err(ChangeError::File(_))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(has(&access, "a") && !has(&access, "b"));
    let no_file = Access::default().reload();
    assert!(matches!(no_file, Err(ChangeError::NoFile)));
}

#[test]
fn names_that_no_key_has_any_more_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = UsageFile::open(folder.path(), "x").unwrap();
    let days = |day: u64| Days::from([(day, Usage { requests: 1, ..Usage::default() })]);
    let former = (0..MAX_NAMES as u64).map(|idx| (format!("former-{idx}"), days(100 + idx)));
    file.write(&former.collect()).unwrap();
    drop(file);
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, entry("a")).unwrap();
    let usage = Some((folder.path().to_owned(), "x".to_owned()));
    let access = open(&path, AccessOptions { usage, ..AccessOptions::default() });
    let usage = access.usage();
    assert_eq!(usage.len(), MAX_NAMES - 1);
    assert!(!usage.contains_key("former-0") && usage.contains_key("former-1"));
}

#[test]
fn usage_is_written_when_there_is_news() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, entry("a")).unwrap();
    let usage = Some((folder.path().join("state"), "8000".to_owned()));
    let access = open(&path, AccessOptions { usage, ..AccessOptions::default() });
    let saved = folder.path().join("state/usage-8000.json");
    access.flush();
    assert!(!saved.exists());
    let key = access.find(&Digest::of(b"a")).unwrap();
    key.ledger.charge(access.now(), &Usage { completion_tokens: 7, ..Usage::default() });
    access.note_usage();
    access.flush();
    let written = std::fs::read_to_string(&saved).unwrap();
    assert!(written.contains("\"completion_tokens\":7"), "{written}");
    std::fs::remove_file(&saved).unwrap();
    access.flush();
    assert!(!saved.exists(), "nothing new");
}

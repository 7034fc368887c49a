//! Folders that are not as one would like them: only readable, somebody else's, open to everybody,
//! links; and folders in which much goes on while somebody reads.
//!
//! What permissions do is seen by a user who is not allowed everything. When root runs the tests,
//! they start themselves again as another user, and when that cannot be done, they say so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::cell::RefCell;
use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cairn_graph_cache::{
    CacheOptions, DiskAccess, DiskOptions, DiskStore, Event, GcOptions, GraphCache, KeyFields,
    Layer, Lookup, MissReason, Origin, Store as _, StoreError, Trust, export, import,
};
use common::{
    ARTIFACT_FILES, CODE, Recorder, ask, childs_path, entry_folder, entry_of, fields, is_root,
    names_in, new_root, new_root_in_memory, open, open_with, options, single, skipped,
    this_program, try_ask,
};

const ROOT: &str = "CAIRN_FOLDERS_ROOT";
const CASE: &str = "CAIRN_FOLDERS_CASE";
/// Somebody without any rights: the user and the group `nobody` nearly everywhere.
const NOBODY: u32 = 65534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Does something to everything below a folder, which comes last.
fn for_all_in(path: &Path, act: &dyn Fn(&Path)) {
    if path.is_dir() && !path.is_symlink() {
        for item in fs::read_dir(path).unwrap() {
            for_all_in(&item.unwrap().path(), act);
        }
    }
    act(path);
}

/// All paths in a folder.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let found = RefCell::new(Vec::new());
    for_all_in(folder, &|path| found.borrow_mut().push(path.to_owned()));
    let mut found = found.into_inner();
    found.sort();
    found
}

fn other_fields(number: u32) -> KeyFields {
    KeyFields::new().text("backend", "other").text("number", number.to_string())
}

/// Compiles another graph; the bytes must be right.
fn ask_other(cache: &GraphCache, number: u32) -> cairn_graph_cache::Outcome {
    let code = || single(format!("other {number}").as_bytes());
    let (found, outcome) = try_ask(cache, &other_fields(number), code).unwrap();
    assert!(found == code());
    outcome
}

/// Opens the cache; where its folder is of no use, everything is kept in memory, after one warning.
#[track_caller]
fn assert_kept_in_memory(options: CacheOptions, part_of_warning: &str) {
    let (recorder, options) = Recorder::with(options);
    let cache = GraphCache::open(options);
    assert!(cache.disk().is_none(), "the folder is used");
    assert_eq!(ask(&cache).origin, Origin::Compiled);
    assert_eq!(ask(&cache).origin, Origin::Cache);
    assert_eq!(ask_other(&cache, 1).origin, Origin::Compiled);
    let warnings = recorder.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(part_of_warning), "{warnings:?}");
}

/// What is there is used; what is not is compiled each time, after one warning in all.
#[track_caller]
fn assert_only_read(root: &Path) {
    let (recorder, options) = Recorder::with(options(root));
    let cache = open_with(options);
    for _ in 0..2 {
        assert_eq!(ask(&cache).origin, Origin::Cache);
        assert_eq!(ask_other(&cache, 1).origin, Origin::Compiled);
        assert_eq!(ask_other(&cache, 2).origin, Origin::Compiled);
    }
    let warnings = recorder.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(cache.stats().snapshot().write_failures, 4);
    assert!(DiskStore::open(root).unwrap().remove(&fields().key()).is_err());
}

#[test]
#[ignore = "run by other tests as a process of its own, of somebody without rights"]
fn as_nobody() {
    let Some(root) = childs_path(ROOT) else { return };
    match env::var(CASE).unwrap().as_str() {
        "only read" => assert_only_read(&root),
        "closed" => assert_kept_in_memory(options(&root), "ermission denied"),
        "somebody else's" => assert_kept_in_memory(options(&root), "belongs to user"),
        "layer" => {
            let cache = GraphCache::open(CacheOptions {
                layers: vec![Layer::Folder(root)],
                ..CacheOptions::new("test 1.0")
            });
            assert_eq!(ask(&cache).origin, Origin::Cache);
        }
        "closed entry" => {
            // It may be good: whoever can read it knows. So it is left alone.
            let cache = open(&root);
            let outcome = ask(&cache);
            assert_eq!(outcome.origin, Origin::Compiled);
            assert!(matches!(outcome.miss, Some(MissReason::Unreadable(_))), "{outcome:?}");
            assert_eq!(ask_other(&cache, 1).origin, Origin::Compiled);
            assert_eq!(ask_other(&cache, 1).origin, Origin::Cache);
            assert_eq!(names_in(&root, "quarantine"), [""; 0]);
        }
        "not to be created" => {
            assert_kept_in_memory(options(&root.join("new")), "ermission denied");
        }
        case => panic!("unknown case `{case}`"),
    }
}

/// A place that somebody without rights can get to, and their cache in it.
struct Nobodys {
    folder: tempfile::TempDir,
    root: PathBuf,
    program: PathBuf,
}

impl Nobodys {
    /// `None` when nobody's eyes cannot be had here.
    fn new() -> Option<Self> {
        let (folder, root) = new_root();
        set_mode(folder.path(), 0o755);
        ask(&open(&root));
        let program = folder.path().join("program");
        if is_root() {
            // Else it could lie where they cannot get to.
            fs::copy(env::current_exe().unwrap(), &program).unwrap();
            set_mode(&program, 0o755);
            let tried = Self::command().arg("true").status();
            if !tried.is_ok_and(|status| status.success()) {
                skipped("this is root, and there is no setpriv to be somebody else");
                return None;
            }
        }
        Some(Self { folder, root, program })
    }

    fn command() -> Command {
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        command.args([&user, &group, "--clear-groups"]);
        command
    }

    /// Lets them own everything in their cache.
    fn own(&self) {
        if is_root() {
            for_all_in(&self.root, &|path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap());
        }
    }

    #[track_caller]
    fn check(&self, case: &str) {
        let mut command = this_program("as_nobody");
        if is_root() {
            let program = command;
            command = Self::command();
            command.arg(&self.program).args(program.get_args());
            command.current_dir(self.folder.path());
        }
        let output = command.env(ROOT, &self.root).env(CASE, case).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.contains("1 passed"), "{case}: {told}{said}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_read() {
    let Some(nobodys) = Nobodys::new() else { return };
    nobodys.own();
    let no_write = |path: &Path| {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        set_mode(path, mode & !0o222);
    };
    for_all_in(&nobodys.root, &no_write);
    let before = names_in(&nobodys.root, "");
    nobodys.check("only read");
    nobodys.check("layer");
    assert_eq!(names_in(&nobodys.root, ""), before);
    // So that it can be removed by somebody who is not root.
    for_all_in(&nobodys.root, &|path| {
        if path.is_file() {
            set_mode(path, 0o600);
        }
    });
    let mut folders = vec![nobodys.root.clone()];
    while let Some(folder) = folders.pop() {
        set_mode(&folder, 0o700);
        let items = fs::read_dir(&folder).unwrap().map(|item| item.unwrap().path());
        folders.extend(items.filter(|path| path.is_dir()));
    }
}

#[test]
fn a_folder_that_cannot_be_entered_is_not_used() {
    let Some(nobodys) = Nobodys::new() else { return };
    nobodys.own();
    for mode in [0o600, 0o000, 0o200] {
        set_mode(&nobodys.root, mode);
        nobodys.check("closed");
    }
    set_mode(&nobodys.root, 0o700);
    // Nor one below it.
    set_mode(&nobodys.root.join("v2"), 0o600);
    nobodys.check("closed");
    set_mode(&nobodys.root.join("v2"), 0o700);
}

#[test]
fn an_entry_that_cannot_be_read_is_left_alone() {
    let Some(nobodys) = Nobodys::new() else { return };
    nobodys.own();
    let model = entry_folder(&nobodys.root).join(ARTIFACT_FILES[0]);
    set_mode(&model, 0o000);
    nobodys.check("closed entry");
    assert_eq!(fs::read_dir(entry_folder(&nobodys.root)).unwrap().count(), 4);
}

#[test]
fn a_folder_that_cannot_be_created_is_done_without() {
    let Some(nobodys) = Nobodys::new() else { return };
    set_mode(&nobodys.root, 0o555);
    nobodys.check("not to be created");
    assert!(!nobodys.root.join("new").exists());
    set_mode(&nobodys.root, 0o700);
}

/// Root's folder is as good as one's own: it can do everything anyway.
#[test]
fn what_root_has_prepared_is_read_by_others() {
    if !is_root() {
        return skipped("only root can prepare a folder as root");
    }
    let Some(nobodys) = Nobodys::new() else { return };
    for_all_in(&nobodys.root, &|path| {
        set_mode(path, if path.is_dir() { 0o755 } else { 0o644 });
    });
    nobodys.check("only read");
    nobodys.check("layer");
    set_mode(&nobodys.root, 0o700);
    nobodys.check("closed");
}

#[test]
fn somebody_elses_folder_is_a_layer_but_not_a_cache() {
    if !is_root() {
        return skipped("only root can give a folder to somebody else");
    }
    let Some(nobodys) = Nobodys::new() else { return };
    nobodys.own();
    let root = &nobodys.root;
    assert_kept_in_memory(options(root), "belongs to user 65534");
    let any = CacheOptions { trust: Trust::Any, ..options(root) };
    assert_eq!(ask(&open_with(any)).origin, Origin::Cache);
    let (_folder, upper) = new_root();
    let over = CacheOptions { layers: vec![Layer::Folder(root.clone())], ..options(&upper) };
    let cache = open_with(over);
    assert_eq!(ask(&cache).origin, Origin::Cache);
    assert_eq!(cache.stats().snapshot().promoted, 1);
    // Neither may anybody else put something into one's own folder.
    let (_folder, own) = new_root();
    ask(&open(&own));
    for path in [entry_folder(&own), entry_folder(&own).join("record.bin")] {
        chown(&path, Some(NOBODY), None).unwrap();
        assert_untrusted(&own, &path);
        chown(&path, Some(0), None).unwrap();
    }
    assert_eq!(ask(&open(&own)).origin, Origin::Cache);
    // And to somebody else it is not theirs.
    for_all_in(root, &|path| chown(path, Some(1), None).unwrap());
    for_all_in(root, &|path| set_mode(path, if path.is_dir() { 0o755 } else { 0o644 }));
    nobodys.check("somebody else's");
    nobodys.check("layer");
}

/// The entry is not used, and stays where it is.
#[track_caller]
fn assert_untrusted(root: &Path, path: &Path) {
    let (cache, path) = (open(root), path.display());
    let outcome = ask(&cache);
    assert_eq!(outcome.origin, Origin::Compiled, "{path}");
    assert!(matches!(outcome.miss, Some(MissReason::Untrusted(_))), "{path}: {outcome:?}");
    assert!(outcome.warnings[0].contains("--cache-trust any"), "{path}: {outcome:?}");
    assert_eq!(names_in(root, "quarantine"), [""; 0], "{path}");
    assert_eq!(fs::read(entry_folder(root).join(ARTIFACT_FILES[0])).unwrap(), CODE, "{path}");
}

#[test]
fn what_others_can_write_to_is_not_used() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let any = || CacheOptions { trust: Trust::Any, ..options(&root) };
    for mode in [0o777, 0o770, 0o702, 0o1777] {
        set_mode(&root, mode);
        assert_kept_in_memory(options(&root), "can be written to by other users");
        let refused = DiskStore::open(&root).unwrap_err();
        assert!(matches!(refused, StoreError::Untrusted { .. }), "{refused:?}");
        assert_eq!(ask(&open_with(any())).origin, Origin::Cache);
    }
    set_mode(&root, 0o700);
    let entry = entry_folder(&root);
    let files = ["model.bin", "table.json", "manifest.json", "record.bin"];
    let mut places: Vec<_> = files.iter().map(|name| (entry.join(name), 0o622, 0o600)).collect();
    // The entry and the folders around it, up to that of the format.
    places.extend(entry.ancestors().take(4).map(|path| (path.to_owned(), 0o720, 0o700)));
    for (path, open_to_all, mode) in places {
        set_mode(&path, open_to_all);
        assert_untrusted(&root, &path);
        assert_eq!(ask(&open_with(any())).origin, Origin::Cache);
        // A layer may belong to anybody, but not be open to everybody.
        let options = DiskOptions { access: DiskAccess::Layer, ..DiskOptions::default() };
        let layer = DiskStore::open_with(&root, options).unwrap();
        let found = layer.get(&fields().key());
        assert!(matches!(found, Lookup::Miss(MissReason::Untrusted(_))), "{path:?}: {found:?}");
        set_mode(&path, mode);
    }
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

#[test]
fn a_folder_that_is_a_link_is_refused_and_its_target_not_touched() {
    let (folder, root) = new_root();
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    set_mode(&target, 0o700);
    fs::write(target.join("precious"), b"precious").unwrap();
    for link in [root.clone(), root.join("")] {
        let _ = fs::remove_file(&root);
        symlink(&target, &root).unwrap();
        assert_kept_in_memory(options(&link), "is a symbolic link");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    }
    // Nowhere, or to something that is no folder.
    for elsewhere in ["nowhere", "target/precious"] {
        fs::remove_file(&root).unwrap();
        symlink(folder.path().join(elsewhere), &root).unwrap();
        assert_kept_in_memory(options(&root), "is a symbolic link");
    }
    assert_eq!(fs::read(target.join("precious")).unwrap(), b"precious");
    assert!(!folder.path().join("nowhere").exists());
    // It can be allowed. And further up the way, links are the user's choice.
    fs::remove_file(&root).unwrap();
    symlink(&target, &root).unwrap();
    let any = CacheOptions { trust: Trust::Any, ..options(&root) };
    assert_eq!(ask(&open_with(any)).origin, Origin::Compiled);
    assert_eq!(ask(&open(&target)).origin, Origin::Cache);
    assert_eq!(ask(&open(&root.join("below"))).origin, Origin::Compiled);
}

#[test]
fn without_a_usable_folder_graphs_are_kept_in_memory() {
    let (folder, _) = new_root();
    let file = folder.path().join("file");
    fs::write(&file, b"a file").unwrap();
    for root in [file.clone(), file.join("below"), PathBuf::from("/proc/cache")] {
        assert!(DiskStore::open(&root).is_err(), "{root:?}");
        assert_kept_in_memory(options(&root), "");
    }
    assert_eq!(fs::read(&file).unwrap(), b"a file");
}

#[test]
fn links_in_place_of_the_stores_own_folders_make_way_and_are_not_followed() {
    for own in ["tmp", "quarantine", "locks", "leases", "starts", "pins", "entries", ""] {
        let (folder, root) = new_root();
        ask(&open(&root));
        let path = root.join("v2").join(own);
        let path: PathBuf = path.components().collect();
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        fs::write(elsewhere.join("precious"), b"precious").unwrap();
        symlink(&elsewhere, &path).unwrap();
        let before = all_in(&elsewhere);
        let cache = open(&root);
        ask(&cache);
        let disk = cache.disk().unwrap();
        disk.pin(&fields().key()).unwrap();
        cache.begin_start(&[fields().key()]).failed();
        disk.gc(&GcOptions { max_bytes: Some(0), dry_run: false }).unwrap();
        assert!(disk.list().unwrap().contains(&fields().key()), "{own}");
        cache.quarantine(&fields().key(), "for a test").unwrap();
        assert_eq!(ask(&cache).origin, Origin::Compiled, "{own}");
        assert_eq!(ask(&cache).origin, Origin::Cache, "{own}");
        drop(cache);
        assert!(!path.is_symlink(), "{own} is still a link");
        assert_eq!(all_in(&elsewhere), before, "{own}: something was written through the link");
        assert_eq!(fs::read(elsewhere.join("precious")).unwrap(), b"precious", "{own}");
    }
}

#[test]
fn entries_are_listed_and_removed_and_strangers_are_not() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    assert_eq!(cache.store().list().unwrap(), []);
    ask(&cache);
    let key = fields().key();
    fs::create_dir_all(root.join("v2/entries/zz/not a key")).unwrap();
    fs::create_dir_all(root.join("v2/entries/zz").join(key.to_string())).unwrap();
    fs::create_dir_all(root.join("v2/entries/00").join(key.to_string())).unwrap();
    fs::write(root.join("v2/entries/file"), b"").unwrap();
    assert_eq!(cache.store().list().unwrap(), [key]);
    assert!(cache.store().remove(&key).unwrap());
    assert!(!cache.store().remove(&key).unwrap());
    assert_eq!(cache.store().list().unwrap(), []);
    assert!(root.join("v2/entries/file").exists());
    assert_eq!(names_in(&root, "tmp"), [""; 0]);
}

#[test]
fn the_folder_can_be_deleted_at_any_time() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    ask(&cache);
    for deleted in ["", "v2", "v2/entries", "v2/tmp", "v2/locks", "v2/leases"] {
        fs::remove_dir_all(root.join(deleted)).unwrap();
        let outcome = ask(&cache);
        assert_eq!(outcome.warnings, [""; 0], "{deleted}");
        if outcome.origin == Origin::Compiled {
            assert_eq!(outcome.miss, Some(MissReason::Absent), "{deleted}");
        }
        assert_eq!(ask_other(&cache, 1).warnings, [""; 0], "{deleted}");
        assert_eq!(ask(&cache).origin, Origin::Cache, "{deleted}");
    }
    assert_eq!(cache.stats().snapshot().write_failures, 0);
}

/// Readers that leave no trace keep nothing from being evicted; what they get is whole all the same.
#[test]
fn whoever_reads_while_gc_evicts_gets_an_entry_or_none() {
    const NUM_ENTRIES: u32 = 8;
    let (_folder, root) = new_root_in_memory();
    ask(&open(&root));
    let options = DiskOptions { access: DiskAccess::ReadOnly, ..DiskOptions::default() };
    let reader = DiskStore::open_with(&root, options).unwrap();
    let is_over = AtomicBool::new(false);
    let num_hits = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut num_hits = 0;
                    for number in (0..NUM_ENTRIES).cycle() {
                        match reader.get(&other_fields(number).key()) {
                            Lookup::Hit(entry) => {
                                let expected = single(format!("other {number}").as_bytes());
                                assert!(*entry.artifact() == expected);
                                num_hits += 1;
                            }
                            Lookup::Miss(MissReason::Absent) => {}
                            Lookup::Miss(reason) => panic!("neither there nor absent: {reason}"),
                        }
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    num_hits
                })
            })
            .collect();
        let mut num_evicted = 0;
        for _ in 0..40 {
            // A process that ends, so that nothing is in use any more.
            let writer = open(&root);
            (0..NUM_ENTRIES).for_each(|number| drop(ask_other(&writer, number)));
            drop(writer);
            let collector = DiskStore::open(&root).unwrap();
            let report = collector.gc(&GcOptions { max_bytes: Some(0), dry_run: false }).unwrap();
            assert_eq!(report.failed, [""; 0]);
            num_evicted += report.evicted.len();
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(num_evicted > 40, "only {num_evicted} entries were evicted");
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>()
    });
    assert!(num_hits > 0, "nobody read anything");
}

/// Whoever may write says what it uses, and that is not evicted, whatever the budget.
#[test]
fn gc_leaves_what_a_living_cache_uses() {
    let (_folder, root) = new_root();
    ask_other(&open(&root), 1);
    let cache = open(&root);
    ask(&cache);
    let collector = DiskStore::open(&root).unwrap();
    let dry = collector.gc(&GcOptions { max_bytes: Some(0), dry_run: true }).unwrap();
    let report = collector.gc(&GcOptions { max_bytes: Some(0), dry_run: false }).unwrap();
    assert_eq!(dry.evicted, report.evicted);
    assert_eq!(report.evicted.len(), 1);
    assert_eq!(report.evicted[0].key, other_fields(1).key());
    assert_eq!(report.num_in_use, 1);
    assert!(report.still_over_by > 0);
    assert_eq!(ask(&cache).origin, Origin::Cache);
    drop(cache);
    let report = collector.gc(&GcOptions { max_bytes: Some(0), dry_run: false }).unwrap();
    assert_eq!(report.evicted.len(), 1);
    assert_eq!(collector.list().unwrap(), []);
}

/// Renames do not go from one file system to another: everything is written where it will be.
#[test]
fn stores_on_different_file_systems_exchange_entries() {
    let ((_memory, in_memory), (folder, on_disk)) = (new_root_in_memory(), new_root());
    let layer = open(&in_memory);
    ask(&layer);
    ask_other(&layer, 1);
    // By promotion.
    let options =
        CacheOptions { layers: vec![Layer::Folder(in_memory.clone())], ..options(&on_disk) };
    let (recorder, options) = Recorder::with(options);
    let cache = open_with(options);
    assert_eq!(ask(&cache).origin, Origin::Cache);
    assert!(recorder.events().iter().any(|event| matches!(event, Event::Promoted { .. })));
    for name in ["model.bin", "table.json", "manifest.json", "record.bin"] {
        let read = |root: &Path| fs::read(entry_folder(root).join(name)).unwrap();
        assert_eq!(read(&on_disk), read(&in_memory), "{name}");
    }
    // By an archive.
    let archive = folder.path().join("archive");
    let key = other_fields(1).key();
    export(layer.disk().unwrap(), &[key], File::create(&archive).unwrap(), &mut |_| {}).unwrap();
    let disk = cache.disk().unwrap();
    let mut take = |entry| disk.put(&entry).map(drop);
    let report = import(File::open(&archive).unwrap(), &mut take).unwrap();
    assert_eq!(report.num_entries, 1);
    assert_eq!(disk.get(&key), layer.disk().unwrap().get(&key));
    assert!(entry_of(&on_disk, &key).exists());
    // And moved there by hand, as a folder.
    fs::remove_dir_all(entry_folder(&on_disk)).unwrap();
    let paths = [entry_folder(&in_memory), entry_folder(&on_disk)];
    assert!(Command::new("cp").arg("-r").args(paths).status().unwrap().success());
    for_all_in(&entry_folder(&on_disk), &|path| {
        set_mode(path, if path.is_dir() { 0o700 } else { 0o600 });
    });
    assert_eq!(ask(&open(&on_disk)).origin, Origin::Cache);
}

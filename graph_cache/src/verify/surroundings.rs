//! Everything in a store's folder but the insides of the entries.
//!
//! | Place | What belongs there |
//! | --- | --- |
//! | top folder | the tag for backups, folders of formats |
//! | folder of the format | the store's own folders, the lock of `gc` |
//! | `entries` | folders of two digits, and in them entries under their own names |
//! | `tmp`, `leases`, `locks`, `starts` | things of processes that are alive |
//! | `pins` | empty files, named by keys |
//! | `quarantine` | anything |
//!
//! What this module deliberately does not do: it changes nothing.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use super::finding::{Finding, Remedy};
use super::report::ProblemKind;
use crate::digest::Digest;
use crate::disk::layout::{CACHEDIR_TAG, format_of_version, version_name};
use crate::disk::{DiskStore, EntryStat, Scanned, lease_in};
use crate::entry::RECORD;
use crate::entry::codec::{self, FORMAT, MAX_RECORD_BYTES};
use crate::filesystem::{Kind, Listed};
use crate::gc::{self, GC_LOCK};
use crate::key::CacheKey;

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// The entries, good or bad, in no order.
    pub(super) entries: Vec<EntryStat>,
    /// What is not as it should be outside of them.
    pub(super) findings: Vec<Finding>,
}

/// Looks at everything but the insides of the entries.
pub(super) fn look(store: &DiskStore, now: SystemTime) -> Surroundings {
    let mut look = Look { store, found: Surroundings::default() };
    if look.is_folder(store.root()) {
        look.top();
        look.leftovers(now);
        look.entries();
    }
    look.found
}

struct Look<'a> {
    store: &'a DiskStore,
    found: Surroundings,
}

impl Look<'_> {
    fn add(&mut self, finding: Finding) {
        self.found.findings.push(finding);
    }

    /// Whether there is a folder; one that cannot be looked at is told of.
    fn is_folder(&mut self, path: &Path) -> bool {
        let kind = self.store.fs().kind(path);
        let kind = kind.map_err(|error| self.add(Finding::unreadable(path, &error)));
        kind == Ok(Kind::Folder)
    }

    /// The names in a folder, which may be missing.
    fn list(&mut self, folder: &Path) -> Vec<Listed> {
        if !self.is_folder(folder) {
            return Vec::new();
        }
        let listed = self.store.fs().list(folder);
        listed
            .map_err(|error| {
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.add(Finding::unreadable(folder, &error));
                }
            })
            .unwrap_or_default()
    }

    /// Something that is not what belongs at its place.
    fn foreign(&mut self, path: &Path, kind: Kind) {
        let reason = format!("is {kind} that has no business there");
        self.add(Finding::new(ProblemKind::Foreign, path, reason, Remedy::MoveThing));
    }

    /// Whether others can write there.
    fn trust(&mut self, path: &Path) {
        if let Ok(stat) = self.store.fs().stat(path)
            && stat.kind == Kind::Folder
            && let Err(what) = self.store.check_permissions(path, &stat, self.store.trust())
        {
            self.add(Finding::new(ProblemKind::Untrusted, path, what, Remedy::Nothing));
        }
    }

    fn top(&mut self) {
        let root = self.store.root();
        self.trust(root);
        for Listed { name, kind } in self.list(root) {
            let path = root.join(&name);
            match format_of_version(&name) {
                Some(FORMAT) if kind == Kind::Folder => self.version(&path),
                Some(format) if format < FORMAT && kind == Kind::Folder => {
                    let reason = format!("no version reads format {format} any more");
                    let kind = ProblemKind::OldFormat;
                    self.add(Finding::new(kind, &path, reason, Remedy::TakeAway));
                }
                Some(format) if format > FORMAT && kind == Kind::Folder => {
                    let reason = format!(
                        "this version reads format {FORMAT}; left for the newer version that \
                         wrote it"
                    );
                    let kind = ProblemKind::NewFormat;
                    self.add(Finding::new(kind, &path, reason, Remedy::Nothing).note());
                }
                None if name == CACHEDIR_TAG && kind == Kind::File => {}
                _ => {
                    // Whoever named the wrong folder, such as a home, is not to lose what is in it.
                    let own = version_name(FORMAT);
                    let reason = format!(
                        "is {kind} that has no business there; left alone, for only `{own}` is \
                         the store's: move it elsewhere"
                    );
                    let kind = ProblemKind::Foreign;
                    self.add(Finding::new(kind, &path, reason, Remedy::Nothing).note());
                }
            }
        }
    }

    fn version(&mut self, version: &Path) {
        let layout = self.store.layout();
        let mut folders = vec![layout.entries()];
        folders.extend(layout.own_folders());
        for folder in &folders {
            self.trust(folder);
        }
        for Listed { name, kind } in self.list(version) {
            let path = version.join(&name);
            let is_own = match kind {
                Kind::Folder => folders.contains(&path),
                Kind::File => name == GC_LOCK,
                _ => false,
            };
            if !is_own {
                self.foreign(&path, kind);
            }
        }
        self.names(&layout.tmp(), |name, _| is_name_in_tmp(name));
        self.names(&layout.leases(), |name, kind| kind == Kind::File && is_name_of_lease(name));
        self.names(&layout.locks(), |name, kind| kind == Kind::File && is_name_of_lock(name));
        self.starts(&layout.starts());
        self.pins(&layout.pins());
        self.quarantine(&layout.quarantine());
    }

    /// Tells of everything in a folder whose name or kind nobody of us would give it.
    fn names(&mut self, folder: &Path, is_own: impl Fn(&OsStr, Kind) -> bool) {
        for Listed { name, kind } in self.list(folder) {
            if !is_own(&name, kind) {
                self.foreign(&folder.join(&name), kind);
            }
        }
    }

    fn starts(&mut self, starts: &Path) {
        for Listed { name, kind } in self.list(starts) {
            let path = starts.join(&name);
            if kind == Kind::Folder
                && name.to_str().is_some_and(|name| name.parse::<Digest>().is_ok())
            {
                self.names(&path, |name, kind| kind == Kind::File && is_name_of_lease(name));
            } else {
                self.foreign(&path, kind);
            }
        }
    }

    fn pins(&mut self, pins: &Path) {
        for Listed { name, kind } in self.list(pins) {
            let path = pins.join(&name);
            match key_named(&name) {
                Some(key) if kind == Kind::File => {
                    let entry = self.store.layout().entry(&key);
                    if matches!(self.store.fs().kind(&entry), Ok(Kind::Absent)) {
                        let reason = "pins an entry that is not there: it will be kept once it is";
                        let kind = ProblemKind::Orphaned;
                        let finding = Finding::new(kind, &path, reason, Remedy::Nothing);
                        self.add(finding.of_entry(key).note());
                    }
                }
                _ => self.foreign(&path, kind),
            }
        }
    }

    fn quarantine(&mut self, quarantine: &Path) {
        match gc::quarantined(self.store.fs(), quarantine) {
            Ok(found) => {
                let alone = found.into_iter().filter(|one| one.thing.is_none());
                for path in alone.filter_map(|one| one.reason) {
                    let reason = "says why something was moved here that is gone";
                    let kind = ProblemKind::Orphaned;
                    self.add(Finding::new(kind, &path, reason, Remedy::Remove));
                }
            }
            Err(error) => self.add(Finding::unreadable(quarantine, &error)),
        }
    }

    fn leftovers(&mut self, now: SystemTime) {
        let (found, failed) = gc::leftovers(self.store, now);
        for (path, error) in failed {
            self.add(Finding::unreadable(&path, &error));
        }
        for left in found {
            // What has no business there at all was told of already.
            if !self.found.findings.iter().any(|one| one.path == left.path) {
                let remedy = Remedy::RemoveLeftover(left.kind);
                let reason = format!("is {}", left.kind.what());
                self.add(Finding::new(ProblemKind::Orphaned, &left.path, reason, remedy));
            }
        }
    }

    fn entries(&mut self) {
        let store = self.store;
        let mut strange = Vec::new();
        let mut shards = std::collections::BTreeSet::new();
        let scanned = store.scan(|found| match found {
            Scanned::Entry(entry) => {
                shards.extend(entry.path.parent().map(Path::to_owned));
                self.found.entries.push(entry);
            }
            Scanned::Foreign(path) => strange.push(path),
            Scanned::Unreadable(path, error) => {
                self.found.findings.push(Finding::unreadable(&path, &error));
            }
        });
        if let Err(error) = scanned {
            self.add(Finding::unreadable(&store.layout().entries(), &error));
        }
        for shard in shards {
            self.trust(&shard);
        }
        for path in strange {
            self.strange(&path);
        }
    }

    /// Something among the entries that is none under its own name.
    fn strange(&mut self, path: &Path) {
        let kind = match self.store.fs().kind(path) {
            Ok(Kind::Absent) => return,
            Ok(kind) => kind,
            Err(error) => return self.add(Finding::unreadable(path, &error)),
        };
        // Not through a link.
        let Some(key) = (kind == Kind::Folder).then(|| self.key_inside(path)).flatten() else {
            return self.foreign(path, kind);
        };
        let own = self.store.layout().entry(&key);
        let reason = format!("holds the entry of key {key}, which belongs at `{}`", own.display());
        let finding = Finding::new(ProblemKind::Misplaced, path, reason, Remedy::MoveThing);
        self.add(finding.of_entry(key));
    }

    /// The key of the entry in a folder, if its record is whole.
    fn key_inside(&self, folder: &Path) -> Option<CacheKey> {
        let opened = self.store.fs().open(&folder.join(RECORD)).ok()?;
        let mut record = Vec::new();
        opened.content.take(MAX_RECORD_BYTES as u64).read_to_end(&mut record).ok()?;
        codec::decode(&record).ok().map(|record| CacheKey::from_bytes(record.key))
    }
}

fn key_named(name: &OsStr) -> Option<CacheKey> {
    name.to_str()?.parse().ok()
}

/// Of a process with a lease, or of one without.
fn is_name_in_tmp(name: &OsStr) -> bool {
    let is_of_nobody = |name: &str| name.bytes().all(|c| c.is_ascii_digit() || c == b'-');
    lease_in(name).is_some() || name.to_str().is_some_and(is_of_nobody)
}

fn is_name_of_lease(name: &OsStr) -> bool {
    let is_plain = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    name.as_encoded_bytes().iter().all(is_plain)
}

/// `<key>.lock`, and what the takeover of a lock puts beside it.
fn is_name_of_lock(name: &OsStr) -> bool {
    let Some((key, rest)) = name.to_str().and_then(|name| name.split_once('.')) else {
        return false;
    };
    let is_own = match rest.strip_prefix("lock") {
        Some("") => true,
        Some(more) => more.strip_prefix('.').is_some_and(|more| is_name_of_lease(more.as_ref())),
        None => false,
    };
    is_own && key.parse::<CacheKey>().is_ok()
}

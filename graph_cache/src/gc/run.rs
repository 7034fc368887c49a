//! One collection, from the old formats to the last entry that has to go.
//!
//! Each step takes what the one before has left. A dry run takes the same steps; what it removes, it
//! removes only from its sums.
//!
//! What this module deliberately does not do: it does not choose; `plan`, `leftovers` and
//! `quarantine` do.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Evicted, GcOptions, GcReport, LeftoverKind, Quarantined, Tally, plan, tree_bytes};
use crate::disk::layout::format_of_version;
use crate::disk::{DiskStore, EntryStat, Scanned};
use crate::entry::codec::FORMAT;
use crate::events::Event;
use crate::filesystem::Kind;
use crate::key::CacheKey;
use crate::lease;
use crate::store::Store as _;

/// How long something bad is kept to be looked at.
const QUARANTINE_KEPT: Duration = Duration::from_hours(30 * 24);

/// Collects, and tells of it.
pub(super) fn run(store: &DiskStore, options: &GcOptions) -> GcReport {
    let report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
    let (max_bytes, now) = (options.max_bytes, SystemTime::now());
    let mut run = Run { store, max_bytes, now, bytes: 0, report };
    run.remove_old_formats();
    run.remove_leftovers();
    let mut entries = run.entries();
    let quarantined = run.quarantined();
    run.count(&entries, &quarantined);
    run.remove_quarantined(quarantined);
    run.set_wrong_clocks_right(&mut entries);
    run.evict(entries);
    run.report.bytes_after = run.bytes;
    run.report.still_over_by = run.over_by();
    run.report
}

struct Run<'a> {
    store: &'a DiskStore,
    max_bytes: Option<u64>,
    now: SystemTime,
    /// Bytes of entries and quarantine that are still there.
    bytes: u64,
    report: GcReport,
}

impl Run<'_> {
    fn over_by(&self) -> u64 {
        self.max_bytes.map_or(0, |max| self.bytes.saturating_sub(max))
    }

    /// What `result` holds; an error goes into the report.
    fn noted<T, E: fmt::Display>(&mut self, doing: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.report.failed.push(format!("cannot {doing}: {error}"))).ok()
    }

    /// Has `remove` remove something, unless it is a dry run; says whether it is gone.
    fn is_removed(&mut self, path: &Path, remove: impl FnOnce() -> io::Result<()>) -> bool {
        if self.report.dry_run {
            return true;
        }
        match remove() {
            Ok(()) => true,
            // Somebody else did.
            Err(_) if matches!(self.store.fs().kind(path), Ok(Kind::Absent)) => true,
            Err(error) => {
                let doing = format!("remove `{}`", path.display());
                self.noted::<(), _>(&doing, Err(error)).is_some()
            }
        }
    }

    fn remove_old_formats(&mut self) {
        let store = self.store;
        let root = store.root();
        let listed = match store.fs().kind(root) {
            Ok(Kind::Folder) => store.fs().list(root),
            // Gone, and everything with it.
            Ok(_) => return,
            Err(error) => Err(error),
        };
        for item in self.noted("look for older formats", listed).unwrap_or_default() {
            let path = root.join(&item.name);
            match format_of_version(&item.name) {
                Some(format) if format < FORMAT && item.kind == Kind::Folder => {
                    let bytes = tree_bytes(store.fs(), &path);
                    // By one rename first: an older program that reads there finds all or nothing.
                    if self.is_removed(&path, || store.take_away(&path)) {
                        self.report.reclaimed.old_formats.add(bytes);
                    }
                }
                Some(format) if format > FORMAT => self.report.notes.push(format!(
                    "`{}` is left for the newer version that wrote it",
                    path.display()
                )),
                _ => {}
            }
        }
    }

    fn remove_leftovers(&mut self) {
        let store = self.store;
        let (found, unseen) = super::leftovers(store, self.now);
        for (path, error) in unseen {
            let doing = format!("look at `{}`", path.display());
            self.noted::<(), _>(&doing, Err(error));
        }
        for left in found {
            let bytes = tree_bytes(store.fs(), &left.path);
            let mut is_used_again = false;
            let remove = || super::remove_leftover(store, &left).map(|gone| is_used_again = !gone);
            if self.is_removed(&left.path, remove) && !is_used_again {
                self.reclaimed(left.kind).add(bytes);
            }
        }
    }

    fn reclaimed(&mut self, kind: LeftoverKind) -> &mut Tally {
        let reclaimed = &mut self.report.reclaimed;
        match kind {
            LeftoverKind::Temporary => &mut reclaimed.temporary,
            LeftoverKind::Lock => &mut reclaimed.locks,
            LeftoverKind::Lease => &mut reclaimed.leases,
            LeftoverKind::Start => &mut reclaimed.starts,
        }
    }

    fn entries(&mut self) -> Vec<EntryStat> {
        let mut entries = Vec::new();
        let mut failed = Vec::new();
        let scanned = self.store.scan(|found| match found {
            Scanned::Entry(entry) => entries.push(entry),
            // Whose it is, `verify` finds out.
            Scanned::Foreign(_) => {}
            Scanned::Unreadable(path, error) => {
                failed.push(format!("cannot look at `{}`: {error}", path.display()));
            }
        });
        self.report.failed.append(&mut failed);
        self.noted("look at all entries", scanned);
        entries
    }

    fn quarantined(&mut self) -> Vec<Quarantined> {
        let found = super::quarantined(self.store.fs(), &self.store.layout().quarantine());
        self.noted("look at the quarantine", found).unwrap_or_default()
    }

    fn count(&mut self, entries: &[EntryStat], quarantined: &[Quarantined]) {
        let sizes = entries.iter().map(|entry| entry.bytes);
        let sizes = sizes.chain(quarantined.iter().map(|thing| thing.bytes));
        self.bytes = sizes.fold(0, u64::saturating_add);
        self.report.num_entries = entries.len();
        self.report.bytes_before = self.bytes;
    }

    /// What is old, and reasons whose thing is gone; then more, the oldest first, while there is no
    /// room.
    fn remove_quarantined(&mut self, quarantined: Vec<Quarantined>) {
        let now = self.now;
        let is_over = |one: &Quarantined| {
            // A time in the future is no age at all.
            let age = one.since.and_then(|since| now.duration_since(since).ok());
            one.thing.is_none() || age.is_some_and(|age| age > QUARANTINE_KEPT)
        };
        let (over, others): (Vec<_>, Vec<_>) = quarantined.into_iter().partition(is_over);
        for one in over {
            self.remove_one_quarantined(&one);
        }
        for one in others {
            if self.over_by() > 0 {
                self.remove_one_quarantined(&one);
            }
        }
    }

    fn remove_one_quarantined(&mut self, one: &Quarantined) {
        let fs = self.store.fs();
        // The reason last: alone, it is known for what it is.
        let mut paths = one.thing.iter().chain(&one.reason);
        if paths.all(|path| self.is_removed(path, || fs.remove(path))) {
            self.bytes = self.bytes.saturating_sub(one.bytes);
            self.report.reclaimed.quarantine.add(one.bytes);
        }
    }

    fn set_wrong_clocks_right(&mut self, entries: &mut [EntryStat]) {
        for (place, right) in plan::wrong_clocks(entries, self.now) {
            let entry = &mut entries[place];
            if !self.report.dry_run {
                let set = self.store.fs().set_modified(&entry.path, right);
                // Not worth a word: in the order of eviction, the future counts as now.
                let _ = set.inspect_err(|error| tracing::debug!(%error, "a last use stays wrong"));
            }
            entry.last_used = Some(right);
        }
    }

    fn evict(&mut self, entries: Vec<EntryStat>) {
        let Some(pins) = self.noted("evict anything", self.store.pins()) else { return };
        let in_use = self.in_use();
        let among = |keys: &BTreeSet<CacheKey>| {
            entries.iter().filter(|entry| keys.contains(&entry.key)).count()
        };
        self.report.num_pinned = among(&pins);
        self.report.num_in_use = among(&in_use);
        let spared = pins.union(&in_use).copied().collect();
        for entry in plan::eviction_order(entries, &spared, self.now) {
            if self.over_by() == 0 {
                return;
            }
            match self.is_needed_now(&entry.key) {
                Ok(true) => {}
                Ok(false) => self.evict_one(entry),
                Err(error) => {
                    self.noted::<(), _>("evict any more", Err(error));
                    return;
                }
            }
        }
    }

    /// Whether somebody has begun to need it since the entries were counted.
    fn is_needed_now(&self, key: &CacheKey) -> io::Result<bool> {
        let pin = self.store.fs().kind(&self.store.layout().pin(key))?;
        Ok(pin != Kind::Absent || self.in_use().contains(key))
    }

    fn evict_one(&mut self, entry: EntryStat) {
        let store = self.store;
        let EntryStat { key, path, bytes, last_used } = entry;
        // Read before it is gone; an entry that says nothing of itself goes like any other.
        let note = store.manifest(&key).map_or_else(String::new, |manifest| manifest.meta.note);
        if !self.is_removed(&path, || store.take_away(&path)) {
            return;
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        if !self.report.dry_run {
            store.events().emit(&Event::Evicted { key, bytes });
        }
        self.report.evicted.push(Evicted { key, note, bytes, last_used });
    }

    /// The entries that living processes use; none where there are no leases.
    fn in_use(&self) -> BTreeSet<CacheKey> {
        lease::keys_in_use(&self.store.layout().leases())
    }
}

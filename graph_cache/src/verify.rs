//! Looks at everything in a store's folder, and puts right what is wrong.
//!
//! | Found | Repair |
//! | --- | --- |
//! | torn, damaged, oversized or misplaced entry, entry of an older format | the entry goes into the quarantine, with the reason |
//! | something foreign | it goes into the quarantine alone; in the store's top folder it is left alone, for that may be somebody's |
//! | orphaned: what somebody who is gone has left | removed |
//! | folder of an older format | removed |
//! | untrusted, unreadable, newer format | left alone; the reason says what to do |
//!
//! ```text
//! surroundings: top folder, tmp, locks, leases, starts, pins, quarantine, names among the entries
//! entries:      worker --+
//!               worker --+--> one by one: progress, then repair (under the key's lock, looked at again)
//!               ...    --+
//! ```
//!
//! A file of any size is read in small pieces. Others use the store meanwhile: what has vanished is no
//! problem, and what is alive is left alone.
//!
//! What this module deliberately does not do: it compiles nothing and evicts nothing, and it does not
//! judge what lies in the quarantine.

mod entry;
mod finding;
mod report;
mod surroundings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use entry::Checker;
use finding::{Finding, Remedy};
pub use report::{Problem, ProblemKind, VerifyReport};

use crate::disk::{DiskStore, EntryStat};
use crate::events::Event;
use crate::filesystem::Kind;
use crate::gc::{self, Leftover};
use crate::store::{LockOutcome, Store as _, StoreError, Wait};

/// Fewest threads that read entries: one computes while another waits for the disk.
const MIN_THREADS: usize = 2;
/// Most threads that read entries.
const MAX_THREADS: usize = 8;

/// What is to be done by [`DiskStore::verify`].
#[derive(Clone, Copy, Default)]
pub struct VerifyOptions<'a> {
    /// Put right what is wrong. Otherwise nothing is changed.
    pub repair: bool,
    /// Is told of each entry that was looked at.
    pub progress: Option<&'a dyn Fn(&VerifyProgress)>,
}

impl fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyOptions").field("repair", &self.repair).finish_non_exhaustive()
    }
}

/// How far [`DiskStore::verify`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Entries that were looked at.
    pub num_done: usize,
    /// All entries.
    pub num_entries: usize,
    /// Bytes of the entries that were looked at.
    pub bytes_done: u64,
    /// Bytes of all entries.
    pub bytes: u64,
}

impl DiskStore {
    /// Looks at every file of the store.
    ///
    /// # Errors
    /// When something is to be repaired in a store that may only be read.
    pub fn verify(&self, options: &VerifyOptions<'_>) -> Result<VerifyReport, StoreError> {
        if options.repair {
            self.check_writable()?;
        }
        let mut run = Run { store: self, repair: options.repair, report: VerifyReport::default() };
        let around = surroundings::look(self, SystemTime::now());
        for finding in around.findings {
            run.settle(finding);
        }
        run.entries(&around.entries, options.progress);
        run.count_quarantine();
        run.report.problems.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
        Ok(run.report)
    }
}

/// One call of [`DiskStore::verify`].
struct Run<'a> {
    store: &'a DiskStore,
    repair: bool,
    report: VerifyReport,
}

impl Run<'_> {
    fn entries(&mut self, entries: &[EntryStat], progress: Option<&dyn Fn(&VerifyProgress)>) {
        let mut done = VerifyProgress { num_entries: entries.len(), ..VerifyProgress::default() };
        done.bytes = entries.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add);
        let store = self.store;
        let mut checker = Checker::new(store);
        for_each_checked(store, entries, |entry, findings| {
            if let Some(findings) = findings {
                self.entry(entry, findings, &mut checker);
            }
            done.num_done += 1;
            done.bytes_done = done.bytes_done.saturating_add(entry.bytes);
            if let Some(tell) = progress {
                tell(&done);
            }
        });
    }

    fn entry(&mut self, entry: &EntryStat, findings: Vec<Finding>, checker: &mut Checker<'_>) {
        self.report.num_entries += 1;
        self.report.bytes = self.report.bytes.saturating_add(entry.bytes);
        if findings.is_empty() {
            self.report.num_good += 1;
        } else if self.repair {
            self.repair_entry(entry, findings, checker);
        } else {
            self.tell(findings, None);
        }
    }

    fn tell(&mut self, findings: Vec<Finding>, repaired: Option<&str>) {
        let problems =
            findings.into_iter().map(|one| one.into_problem(repaired.map(str::to_owned)));
        self.report.problems.extend(problems);
    }

    /// Repairs an entry while nobody else may compile it, so that what is moved away is not the good
    /// one that has just replaced the bad one.
    fn repair_entry(
        &mut self,
        entry: &EntryStat,
        findings: Vec<Finding>,
        checker: &mut Checker<'_>,
    ) {
        let wait = Wait { at_most: Duration::ZERO, note: "verify", progress: &|_, _| {} };
        let lock = self.store.lock(&entry.key, &wait);
        if let LockOutcome::TimedOut { owner } = lock {
            let key = entry.key;
            self.report.failed.push(format!(
                "cannot repair the entry of key {key}: {owner} is compiling it, and will replace it"
            ));
            return self.tell(findings, None);
        }
        let Some(findings) = checker.check(&entry.path, &entry.key) else {
            return self.tell(findings, Some("was moved away meanwhile"));
        };
        let fatal = findings.iter().find(|one| one.remedy == Remedy::MoveEntry);
        let Some(fatal) = fatal else {
            // The entry is good; what lies in it beside its own files is not.
            return findings.into_iter().for_each(|one| self.settle(one));
        };
        let reason = format!("{}: `{}` {}", fatal.kind, fatal.path.display(), fatal.reason);
        let moved = self.store.move_away(&entry.key, &reason);
        if self.is_done("move", &entry.path, moved) {
            self.store.events().emit(&Event::Quarantined { key: entry.key, reason });
            self.tell(findings, Some("the entry was moved away"));
        } else {
            self.tell(findings, None);
        }
    }

    /// Does what is to be done about a single thing, and tells of it.
    fn settle(&mut self, finding: Finding) {
        let store = self.store;
        let path = finding.path.as_path();
        let repaired = match finding.remedy {
            _ if !self.repair => None,
            Remedy::Nothing | Remedy::MoveEntry => None,
            Remedy::MoveThing => {
                let reason = format!("{}: {}", finding.kind, finding.reason);
                let moved = store.move_away_path(path, &reason);
                self.is_done("move", path, moved).then_some("moved into the quarantine")
            }
            Remedy::TakeAway => {
                let taken = store.take_away(path);
                self.is_done("remove", path, taken).then_some("removed")
            }
            Remedy::Remove => {
                let removed = store.fs().remove(path);
                self.is_done("remove", path, removed).then_some("removed")
            }
            Remedy::RemoveLeftover(kind) => {
                let left = Leftover { kind, path: path.to_owned() };
                let removed = gc::remove_leftover(store, &left);
                let what = if matches!(removed, Ok(false)) { "is in use again" } else { "removed" };
                self.is_done("remove", path, removed.map(|_| ())).then_some(what)
            }
        };
        self.report.problems.push(finding.into_problem(repaired.map(str::to_owned)));
    }

    /// Whether a repair succeeded; if not, that goes into the report.
    fn is_done(&mut self, doing: &str, path: &Path, result: std::io::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            // Somebody else did.
            Err(_) if matches!(self.store.fs().kind(path), Ok(Kind::Absent)) => true,
            Err(error) => {
                self.report.failed.push(format!("cannot {doing} `{}`: {error}", path.display()));
                false
            }
        }
    }

    fn count_quarantine(&mut self) {
        let quarantine = self.store.layout().quarantine();
        // That it cannot be listed was told of before.
        for one in gc::quarantined(self.store.fs(), &quarantine).unwrap_or_default() {
            self.report.quarantined.add(one.bytes);
        }
    }
}

/// Checks entries in several threads, and tells this one what they found, in no order.
fn for_each_checked(
    store: &DiskStore,
    entries: &[EntryStat],
    mut tell: impl FnMut(&EntryStat, Option<Vec<Finding>>),
) {
    let num_cores = thread::available_parallelism().map_or(1, usize::from);
    let num_threads = num_cores.clamp(MIN_THREADS, MAX_THREADS).min(entries.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Small: who checks does not run far ahead of who repairs.
        let (send, receive) = mpsc::sync_channel(num_threads);
        for _ in 0..num_threads {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                let mut checker = Checker::new(store);
                while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if send.send((entry, checker.check(&entry.path, &entry.key))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (entry, findings) in receive {
            tell(entry, findings);
        }
    });
}

//! What somebody has left who is gone.
//!
//! | Where | What | Goes when its owner is dead | when nobody can tell |
//! | --- | --- | --- | --- |
//! | `tmp` | drafts, doomed things | at once | after an hour |
//! | `leases` | leases | at once | after an hour without a beat |
//! | `locks` | lock files | after an hour | after an hour without a beat |
//! | `starts` | starts that never got ready | after seven days | after seven days |
//!
//! A lock file of the dead is as good as none, and whoever compiles that key next uses it again; a
//! start of the dead counts as one that failed. So these two are kept for a while.
//!
//! What this module deliberately does not do: it looks neither at entries nor at the quarantine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;

use crate::beat::{Conditions, Life, age, is_absent, is_at, life_of, open_to_read};
use crate::disk::DiskStore;
use crate::filesystem::{Kind, Listed};

const HOUR: Duration = Duration::from_hours(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

/// Something that somebody has left who is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) kind: LeftoverKind,
    pub(crate) path: PathBuf,
}

/// What was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftoverKind {
    Temporary,
    Lease,
    Lock,
    Start,
}

impl LeftoverKind {
    /// What it is, for a message.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Temporary => "a draft, or something half removed, of a process that is gone",
            Self::Lease => "the lease of a process that is gone",
            Self::Lock => "the lock of a process that is gone",
            Self::Start => "the note of an old start that never got ready",
        }
    }

    /// How long it is kept.
    fn kept(self, life: Life) -> Option<Duration> {
        match (self, life) {
            (_, Life::Alive) => None,
            (Self::Lease | Self::Temporary, Life::Dead) => Some(Duration::ZERO),
            (Self::Start, _) => Some(WEEK),
            (_, Life::Unknown) | (Self::Lock, Life::Dead) => Some(HOUR),
        }
    }

    fn is_over(self, file: &fs::File, now: SystemTime) -> bool {
        // A time in the future is no age at all.
        let age = age(file, now).unwrap_or_default();
        self.kept(life_of(file, &Conditions::REAL)).is_some_and(|kept| age >= kept)
    }
}

/// Where something could not be looked at, and why.
pub(crate) type Unseen = (PathBuf, io::Error);

/// All that nobody will ever finish, and where that could not be told.
pub(crate) fn leftovers(store: &DiskStore, now: SystemTime) -> (Vec<Leftover>, Vec<Unseen>) {
    let mut look = Look { store, now, found: Vec::new(), unseen: Vec::new() };
    let temporary = store.abandoned(now).into_iter();
    look.found.extend(temporary.map(|path| Leftover { kind: LeftoverKind::Temporary, path }));
    let layout = store.layout();
    look.files(&layout.leases(), LeftoverKind::Lease);
    look.files(&layout.locks(), LeftoverKind::Lock);
    for Listed { name, kind } in look.list(&layout.starts()) {
        if kind == Kind::Folder {
            look.files(&layout.starts().join(name), LeftoverKind::Start);
        }
    }
    (look.found, look.unseen)
}

struct Look<'a> {
    store: &'a DiskStore,
    now: SystemTime,
    found: Vec<Leftover>,
    unseen: Vec<Unseen>,
}

impl Look<'_> {
    fn list(&mut self, folder: &Path) -> Vec<Listed> {
        let fs = self.store.fs();
        let listed = match fs.kind(folder) {
            Ok(Kind::Folder) => fs.list(folder),
            Ok(_) => return Vec::new(),
            Err(error) => Err(error),
        };
        listed
            .map_err(|error| {
                if !is_absent(&error) {
                    self.unseen.push((folder.to_owned(), error));
                }
            })
            .unwrap_or_default()
    }

    fn files(&mut self, folder: &Path, kind: LeftoverKind) {
        for item in self.list(folder) {
            if item.kind != Kind::File {
                continue;
            }
            let path = folder.join(item.name);
            match open_to_read(&path) {
                Ok(file) if kind.is_over(&file, self.now) => {
                    self.found.push(Leftover { kind, path });
                }
                Ok(_) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => self.unseen.push((path, error)),
            }
        }
    }
}

/// Removes a leftover, unless somebody has begun to use it meanwhile; says whether it is gone.
pub(crate) fn remove_leftover(store: &DiskStore, left: &Leftover) -> io::Result<bool> {
    let Leftover { kind, path } = left;
    if *kind == LeftoverKind::Temporary {
        // By a rename first: should its maker be alive after all, it finds its draft gone, and does
        // not publish one of which files are missing.
        return store.take_away(path).map(|()| true);
    }
    // Open until it is removed: what is locked as a dead one's file becomes nobody else's.
    let file = match open_to_read(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(true),
        Err(error) => return Err(error),
    };
    if !kind.is_over(&file, SystemTime::now()) || !is_at(&file, path) {
        return Ok(false);
    }
    store.fs().remove(path).map(|()| true)
}

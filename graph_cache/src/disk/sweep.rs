//! What writers that were stopped have left in `tmp`.
//!
//! | Name | Its maker | Goes |
//! | --- | --- | --- |
//! | `<lease>.<rest>` | alive | not |
//! | `<lease>.<rest>` | dead: its lease is free, or gone where leases can be told | at once |
//! | `<lease>.<rest>`, anything else | cannot be told | after an hour |
//!
//! Entries are never looked at, so that opening a store takes no longer with many of them; and the
//! worst that a wrong clock can do is that a writer at work has to go without its entry.
//!
//! What this module deliberately does not do: it frees no room that anybody could still want.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::DiskStore;
use crate::filesystem::Kind;
use crate::lease::{self, Life};

/// Temporary things younger than this may still be in use when nothing else is known of them.
const GRACE: Duration = Duration::from_hours(1);

/// The name of a temporary thing of the process with this lease.
pub(super) fn name_of(lease: &str, rest: &str) -> String {
    format!("{lease}.{rest}")
}

/// The lease in the name of a temporary thing, if there is one in it.
pub(crate) fn lease_in(name: &OsStr) -> Option<&str> {
    let (lease, _) = name.to_str()?.rsplit_once('.')?;
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    (!lease.is_empty() && lease.bytes().all(is_plain)).then_some(lease)
}

impl DiskStore {
    /// Removes what nobody will finish.
    pub(super) fn sweep(&self, now: SystemTime) {
        for path in self.abandoned(now) {
            // By a rename first: should its maker be alive after all, it finds its draft gone, and
            // does not publish one of which files are missing.
            if let Err(error) = self.take_away(&path) {
                tracing::debug!(%error, "a temporary thing cannot be removed");
            }
        }
        lease::sweep(&self.layout.leases());
    }

    /// The temporary things that nobody will finish.
    pub(crate) fn abandoned(&self, now: SystemTime) -> Vec<std::path::PathBuf> {
        let tmp = self.layout.tmp();
        if !matches!(self.fs.kind(&tmp), Ok(Kind::Folder)) {
            return Vec::new();
        }
        let listed = self.fs.list(&tmp).unwrap_or_default();
        let mut left = listed;
        left.retain(|item| self.is_abandoned(&item.name, &tmp, now));
        left.into_iter().map(|item| tmp.join(item.name)).collect()
    }

    fn is_abandoned(&self, name: &OsStr, tmp: &Path, now: SystemTime) -> bool {
        match lease_in(name).map(|lease| self.life_of(lease)) {
            Some(Life::Alive) => false,
            Some(Life::Dead) => true,
            Some(Life::Unknown) | None => {
                let modified = self.fs.stat(&tmp.join(name)).ok().and_then(|stat| stat.modified);
                modified
                    .and_then(|then| now.duration_since(then).ok())
                    .is_some_and(|age| age > GRACE)
            }
        }
    }

    fn life_of(&self, lease: &str) -> Life {
        let leases = self.layout.leases();
        let path = leases.join(lease);
        match self.fs.kind(&path) {
            Ok(Kind::File) => lease::life(&path),
            // A lease goes with its process, and somebody else's free lease is swept; but only where
            // this process's own one can be told to be alive does that say anything.
            Ok(Kind::Absent) => {
                let own = self.lease().map(|own| lease::life(&leases.join(own.name())));
                if own == Some(Life::Alive) { Life::Dead } else { Life::Unknown }
            }
            _ => Life::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_what_comes_before_the_last_point() {
        let name = name_of("host-1-2-3", "4-5-6");
        assert_eq!(lease_in(OsStr::new(&name)), Some("host-1-2-3"));
        for other in ["no-point", ".hidden", "a/b.1", "a.b.1", ""] {
            assert_eq!(lease_in(OsStr::new(other)), None, "{other}");
        }
    }
}

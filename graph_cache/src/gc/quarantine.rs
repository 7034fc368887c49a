//! What lies in the quarantine: things, and beside each of them a text that says why.
//!
//! | Name | Meaning |
//! | --- | --- |
//! | `<thing>` | anything at all, moved here as it was |
//! | `<thing>.reason.txt` | where it came from and why; its age is that of the quarantine |
//! | a reason without its thing | left by a removal that was interrupted |
//!
//! What this module deliberately does not do: it opens nothing of what lies here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::tree_bytes;
use crate::filesystem::{Filesystem, Kind};

const REASON_SUFFIX: &str = ".reason.txt";

/// Something that was moved away, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// `None`: only the reason is left.
    pub(crate) thing: Option<PathBuf>,
    pub(crate) reason: Option<PathBuf>,
    /// Bytes of both.
    pub(crate) bytes: u64,
    /// When it was moved here, as far as is known.
    pub(crate) since: Option<SystemTime>,
}

/// All that lies in `folder`, the oldest first; nothing when there is no such folder.
pub(crate) fn quarantined(fs: &dyn Filesystem, folder: &Path) -> io::Result<Vec<Quarantined>> {
    if fs.kind(folder)? != Kind::Folder {
        return Ok(Vec::new());
    }
    let mut found: BTreeMap<OsString, Quarantined> = BTreeMap::new();
    for item in fs.list(folder)? {
        let path = folder.join(&item.name);
        let reason_of = item.name.to_str().and_then(|name| name.strip_suffix(REASON_SUFFIX));
        let name = reason_of.map_or_else(|| item.name.clone(), OsString::from);
        let one = found.entry(name).or_insert_with(Quarantined::nothing);
        one.bytes = one.bytes.saturating_add(tree_bytes(fs, &path));
        let modified = fs.stat(&path).ok().and_then(|stat| stat.modified);
        if reason_of.is_some() {
            // Written when it was moved here; the thing has kept its own time.
            one.since = modified.or(one.since);
            one.reason = Some(path);
        } else {
            one.since = one.reason.as_ref().and(one.since).or(modified);
            one.thing = Some(path);
        }
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|one| one.since);
    Ok(found)
}

impl Quarantined {
    fn nothing() -> Self {
        Self { thing: None, reason: None, bytes: 0, since: None }
    }
}

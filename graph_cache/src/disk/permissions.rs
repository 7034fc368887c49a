//! Who could have written what lies in the store.
//!
//! | Found, under [`Trust::Owner`] | Used |
//! | --- | --- |
//! | belongs to this user or root, nobody else can write to it | yes |
//! | belongs to somebody else, nobody else can write to it | in a layer only |
//! | its group or everybody can write to it | no |
//!
//! Access lists need no words of their own: where one lets somebody write, the group's bit shows it.
//!
//! What this module deliberately does not do: it changes no permission.

use std::path::Path;
use std::sync::OnceLock;

use fs_err as fs;

use super::{DiskAccess, DiskStore};
use crate::filesystem::Stat;
use crate::trust::Trust;

/// The bits by which the group and everybody may write.
const OTHERS_WRITE: u32 = 0o022;

impl DiskStore {
    /// Says what is wrong when somebody who is not trusted can write there.
    pub(crate) fn check_permissions(
        &self,
        path: &Path,
        stat: &Stat,
        trust: &Trust,
    ) -> Result<(), String> {
        let Trust::Owner = trust else {
            return Ok(());
        };
        let (shown, root, mode) = (path.display(), self.root().display(), stat.mode);
        if mode & OTHERS_WRITE != 0 {
            return Err(format!(
                "`{shown}` can be written to by other users (mode {mode:o}, expected no more than \
                 {:o}): look at what is there, then `chmod -R go-w {root}`, or use \
                 `--cache-trust any`",
                mode & !OTHERS_WRITE
            ));
        }
        if self.options.access == DiskAccess::Layer || stat.owner == 0 {
            return Ok(());
        }
        let owner = stat.owner;
        match effective_user() {
            Some(user) if user == owner => Ok(()),
            Some(user) => Err(format!(
                "`{shown}` belongs to user {owner}, expected user {user} or root: use another \
                 folder, name this one with `--cache-layer`, `chown -R {user} {root}`, or use \
                 `--cache-trust any`"
            )),
            None => Err(format!(
                "`{shown}` belongs to user {owner}, and who runs this process cannot be read from \
                 `{STATUS}`: mount `/proc`, or use `--cache-trust any`"
            )),
        }
    }
}

const STATUS: &str = "/proc/self/status";

/// The user as whom this process acts on files. Not the owner of `/proc/self`: that is root for a
/// process that may not be dumped.
fn effective_user() -> Option<u32> {
    static USER: OnceLock<Option<u32>> = OnceLock::new();
    *USER.get_or_init(|| user_in(&fs::read_to_string(STATUS).ok()?))
}

/// From the line `Uid:`, which has the real, the effective, the saved and the file system's user.
fn user_in(status: &str) -> Option<u32> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_effective_user_is_the_second_of_its_line() {
        let status = "Name:\tcairn\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!(user_in(status), Some(2));
        assert_eq!(user_in("Name:\tcairn\n"), None);
        assert_eq!(user_in("Uid:\t1\n"), None);
    }

    #[test]
    fn a_file_of_this_process_belongs_to_the_effective_user() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(effective_user(), Some(file.as_file().metadata().unwrap().uid()));
    }
}

//! The few things of the operating system that the standard library does not tell.
//!
//! What this module deliberately does not do: it decides nothing. `None` is "cannot be told".

use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;

/// Bytes that this user can still write to the file system of a folder.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// Whether this user may read and write what lies at a path. Opening a device to find out would
/// already begin to use it.
#[cfg_attr(not(feature = "ascend"), allow(dead_code, reason = "for the ascend backend's checks"))]
pub(super) fn can_read_and_write(path: &Path) -> Option<bool> {
    match access(path, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Some(true),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOENT) => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_those_of_this_user() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(can_read_and_write(folder.path()), Some(true));
        assert_eq!(can_read_and_write(&folder.path().join("missing")), Some(false));
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert_eq!(free_bytes(&folder.path().join("missing")), None);
    }
}

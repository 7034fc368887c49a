//! The few things of the operating system that the standard library does not tell.
//!
//! What this module deliberately does not do: it decides nothing. `None` is "cannot be told".

use std::path::Path;

use rustix::fs::{Access, access, statfs, statvfs};
use rustix::io::Errno;

/// Bytes that this user can still write to the file system of a folder.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// Files that can still be created on the file system of a folder; `None` also where there is no
/// limit.
pub(super) fn free_files(folder: &Path) -> Option<u64> {
    let found = statvfs(folder).ok()?;
    (found.f_files > 0).then_some(found.f_favail)
}

/// What is known of a kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) name: &'static str,
    /// When everything on it is lost, if it ever is.
    pub(super) loss: Option<&'static str>,
}

const IN_MEMORY: Option<&str> = Some("lies in memory: it is lost when the machine restarts");
const IN_A_CONTAINER: Option<&str> =
    Some("is mostly a container's own layer: it is lost when the container is replaced");

/// Numbers of file systems, as `statfs` and `linux/magic.h` have them.
const FILE_SYSTEMS: &[(u32, &str, Option<&str>)] = &[
    (0x0102_1994, "tmpfs", IN_MEMORY),
    (0x8584_58f6, "ramfs", IN_MEMORY),
    (0x794c_7630, "overlayfs", IN_A_CONTAINER),
    (0x6175_6673, "aufs", IN_A_CONTAINER),
    (0x0000_ef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683e, "btrfs", None),
    (0x2fc1_2fc1, "zfs", None),
    (0xf2f5_2010, "f2fs", None),
    (0x0000_6969, "nfs", None),
    (0xff53_4d42, "cifs", None),
    (0xfe53_4d42, "smb2", None),
    (0x0102_1997, "9p", None),
    (0x00c3_6400, "ceph", None),
    (0x0bd0_0bd0, "lustre", None),
    (0x4750_4653, "gpfs", None),
    (0x1983_0326, "beegfs", None),
    (0x6573_5546, "fuse", None),
];

/// The kind of file system of a folder.
pub(super) fn file_system(folder: &Path) -> Option<FileSystem> {
    // The type of the field differs between machines; the numbers have 32 bits.
    let number = statfs(folder).ok()?.f_type as u32;
    let known = FILE_SYSTEMS.iter().find(|(known, ..)| *known == number);
    known.map(|&(_, name, loss)| FileSystem { name, loss })
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

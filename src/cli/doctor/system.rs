//! The few things of the operating system that the standard library does not tell: asked of the
//! programs that every system has, so that no `unsafe` is needed.
//!
//! What this module deliberately does not do: it decides nothing. `None` is "cannot be told".

use std::path::Path;
use std::process::{Command, Stdio};

/// Bytes that can still be written to the file system of a folder, by `df`.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let mut command = Command::new("df");
    command.arg("-Pk").arg("--").arg(folder).env("LC_ALL", "C");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let is_good = output.status.success();
    is_good.then(|| available(&String::from_utf8_lossy(&output.stdout)))?
}

/// The fourth field of the second line; the name before it may have spaces.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().nth(1)?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let capacity = fields.iter().position(|field| field.ends_with('%'))?;
    let kibibytes: u64 = fields.get(capacity.checked_sub(1)?)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Whether this user may read and write what lies at a path, by the shell. Opening a device to find
/// out would already begin to use it.
#[cfg_attr(not(feature = "ascend"), allow(dead_code, reason = "for the ascend backend's checks"))]
pub(super) fn can_read_and_write(path: &Path) -> Option<bool> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "[ -r \"$0\" ] && [ -w \"$0\" ]"]).arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status().ok()?.code()? {
        0 => Some(true),
        1 => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_df_is_understood() {
        let head = "Filesystem 1024-blocks Used Available Capacity Mounted on\n";
        let line = |line: &str| available(&format!("{head}{line}\n"));
        assert_eq!(line("/dev/vda 263101196 26214400 68157440 28% /"), Some(68_157_440 << 10));
        assert_eq!(line("a share 10 4 6 40% /mnt/a b"), Some(6 << 10));
        assert_eq!(line("/dev/vda 1 2 18446744073709551615 9% /"), None);
        for bad in ["", "%", "a b c", "- - - - /"] {
            assert_eq!(line(bad), None, "{bad}");
        }
    }

    #[test]
    fn permissions_are_those_of_this_user() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(can_read_and_write(folder.path()), Some(true));
        assert_eq!(can_read_and_write(&folder.path().join("missing")), Some(false));
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert_eq!(free_bytes(&folder.path().join("missing")), None);
    }
}

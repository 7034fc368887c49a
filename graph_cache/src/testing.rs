//! What the unit tests share.

use std::path::Path;
use std::process::Command;

/// Creates a FIFO, on which a careless `open` waits for ever.
pub(crate) fn make_fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

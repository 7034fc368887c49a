//! The call log: one line per call, and the summary, in the file that `CANN_SIM_LOG` names.
//!
//! ```text
//! aclInit 0
//! aclrtMalloc 207018 no memory left: ...
//! violation: model 3 runs on two streams at once
//! leaks: 2 memory=1 (4096 bytes) streams=1
//! violations: 1 model 3 runs on two streams at once
//! ```

use std::io::Write as _;
use std::path::PathBuf;

use fs_err::{File, OpenOptions};

/// An open call log.
#[derive(Debug)]
pub(super) struct CallLog {
    path: PathBuf,
    file: File,
}

impl CallLog {
    /// # Errors
    /// When the file cannot be opened or made.
    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// Whether it is the log at that path.
    pub(super) fn is_at(&self, path: &std::path::Path) -> bool {
        self.path == path
    }

    /// Adds a line. Lines of several threads and processes do not mix: each is one write.
    pub(super) fn line(&self, text: &str) {
        let line = format!("{}\n", text.replace('\n', " "));
        // A log that cannot be written must not change what the program under test sees.
        let _ = (&self.file).write_all(line.as_bytes());
    }
}

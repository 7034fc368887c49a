//! CANN's own logs: where they lie, and the lines that matter to somebody whose call has failed.
//!
//! ```text
//! folder, the first that is set                 in it                        a line
//!   ASCEND_PROCESS_LOG_PATH                       debug/plog/plog-PID_*.log    [ERROR] GE(PID,atc):...
//!   ASCEND_WORK_PATH/log                          run/plog/...
//!   ~/ascend/log                                  security/plog/...
//!                                                 plog/... (older releases)
//! ```
//!
//! The order is that of CANN's documentation of its environment. All reading is bounded: few files,
//! and only the end of each.
//!
//! What this module deliberately does not do: it reads no logs of the device's own operating
//! system, and it interprets no line.

use std::collections::HashMap;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use fs_err as fs;

/// Folders inside a folder of logs that have logs of processes.
const PLOG_FOLDERS: [&str; 4] = ["debug/plog", "run/plog", "security/plog", "plog"];
/// Names looked at in one of them.
const MAX_NAMES: usize = 4096;
/// Files read, the newest.
const MAX_FILES: usize = 4;
/// Bytes read of each, the last.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// Longer lines are cut.
const MAX_LINE_CHARS: usize = 500;
/// Errors that a sentence quotes, and where each of them is cut.
const QUOTED_ERRORS: usize = 3;
const QUOTED_CHARS: usize = 300;

/// What the environment says of the place of logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPlaces {
    /// `ASCEND_PROCESS_LOG_PATH`.
    pub process_log_path: Option<PathBuf>,
    /// `ASCEND_WORK_PATH`.
    pub work_path: Option<PathBuf>,
    /// The user's home folder.
    pub home: Option<PathBuf>,
}

impl LogPlaces {
    /// The folder that CANN writes to; it need not exist yet.
    pub fn folder(&self) -> Option<PathBuf> {
        let work = || Some(self.work_path.as_ref()?.join("log"));
        let home = || Some(self.home.as_ref()?.join("ascend/log"));
        self.process_log_path.clone().or_else(work).or_else(home)
    }

    /// The last lines that matter of what CANN wrote in a process: see [`last_lines`].
    pub fn last_lines(&self, pid: u32, max_lines: usize) -> Vec<String> {
        self.folder().map_or_else(Vec::new, |folder| last_lines(&folder, Some(pid), max_lines))
    }
}

/// What CANN writes in a process from now on. Each line is read once: what was quoted with one failure
/// is not quoted with the next.
#[derive(Debug, Default)]
pub struct NewErrors {
    folder: Option<PathBuf>,
    pid: u32,
    /// Bytes of each file that were there before.
    seen: Mutex<HashMap<PathBuf, u64>>,
}

impl NewErrors {
    /// Those of a process whose number is `pid`. Files of an earlier process of that number are there
    /// already.
    pub fn of(places: &LogPlaces, pid: u32) -> Self {
        let errors = Self { folder: places.folder(), pid, seen: Mutex::default() };
        errors.skip();
        errors
    }

    /// What was written so far is of no interest.
    pub fn skip(&self) {
        self.read(|_, _| ());
    }

    /// The last errors that were written since the last call; oldest first.
    pub fn take(&self, max_lines: usize) -> Vec<String> {
        let mut lines = Vec::new();
        self.read(|path, start| {
            let text = tail(path, start).unwrap_or_default();
            let errors = text.lines().filter_map(relevant);
            let errors = errors.filter(|(level, _)| *level == Level::Error);
            lines.extend(errors.map(|(_, line)| line));
        });
        lines.split_off(lines.len().saturating_sub(max_lines))
    }

    /// The last of them as the end of a sentence: empty when there is none.
    pub fn quoted(&self) -> String {
        let cut = |line: String| line.trim_end().chars().take(QUOTED_CHARS).collect::<String>();
        let lines: Vec<String> = self.take(QUOTED_ERRORS).into_iter().map(cut).collect();
        if lines.is_empty() {
            String::new()
        } else {
            format!("; CANN's log: {}", lines.join(" | "))
        }
    }

    /// Calls `read` with each file that has grown and with where that begins.
    fn read(&self, mut read: impl FnMut(&Path, u64)) {
        let Some(folder) = &self.folder else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, path) in newest_files(folder, Some(self.pid)) {
            let Ok(len) = fs::metadata(&path).map(|metadata| metadata.len()) else { continue };
            // One that is shorter than before was begun anew.
            let start = seen.get(&path).copied().filter(|&seen| seen <= len).unwrap_or(0);
            if start < len {
                read(&path, start);
                seen.insert(path, len);
            }
        }
    }
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warning,
    Error,
}

impl Level {
    fn of(line: &str) -> Option<Self> {
        // Anywhere: what CANN prints instead of writing may have something before it.
        if line.contains("[ERROR]") {
            Some(Self::Error)
        } else if line.contains("[WARN") {
            Some(Self::Warning)
        } else {
            None
        }
    }
}

/// The last `max_lines` errors in the logs in a folder, oldest first; where there are fewer, the
/// last warnings between them, too. With a process id, only of that process. What cannot be read
/// has no lines.
pub fn last_lines(folder: &Path, pid: Option<u32>, max_lines: usize) -> Vec<String> {
    let lines: Vec<(Level, String)> = newest_files(folder, pid)
        .iter()
        .filter_map(|(_, path)| tail(path, 0).ok())
        .flat_map(|text| text.lines().filter_map(relevant).collect::<Vec<_>>())
        .collect();
    most_relevant(lines, max_lines)
}

/// The newest logs in a folder of logs, oldest first.
fn newest_files(folder: &Path, pid: Option<u32>) -> Vec<(SystemTime, PathBuf)> {
    let mut files: Vec<(SystemTime, PathBuf)> = PLOG_FOLDERS
        .iter()
        .flat_map(|name| log_files(&folder.join(name), pid).unwrap_or_default())
        .collect();
    files.sort();
    files.split_off(files.len().saturating_sub(MAX_FILES))
}

/// Errors before warnings, the later before the earlier; in the order in which they were written.
fn most_relevant(lines: Vec<(Level, String)>, max_lines: usize) -> Vec<String> {
    let num_errors = lines.iter().filter(|(level, _)| *level == Level::Error).count();
    let num_warnings = lines.len() - num_errors;
    let errors = num_errors.min(max_lines);
    let warnings = num_warnings.min(max_lines - errors);
    let mut skip_errors = num_errors - errors;
    let mut skip_warnings = num_warnings - warnings;
    let is_kept = |(level, _): &(Level, String)| {
        let skip = match level {
            Level::Error => &mut skip_errors,
            Level::Warning => &mut skip_warnings,
        };
        let is_kept = *skip == 0;
        *skip = skip.saturating_sub(1);
        is_kept
    };
    lines.into_iter().filter(is_kept).map(|(_, line)| line).collect()
}

fn relevant(line: &str) -> Option<(Level, String)> {
    let level = Level::of(line)?;
    Some((level, line.chars().take(MAX_LINE_CHARS).collect()))
}

/// Logs of processes in a folder, with the time of their last change.
fn log_files(folder: &Path, pid: Option<u32>) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let prefix = pid.map_or_else(|| "plog-".to_owned(), |pid| format!("plog-{pid}_"));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_NAMES) {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_log = Path::new(&*name).extension().is_some_and(|extension| extension == "log");
        // Of the entry itself: nothing but a regular file is opened, above all no pipe.
        let Ok(metadata) = entry.metadata() else { continue };
        if is_log && name.starts_with(&prefix) && metadata.is_file() {
            files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
    }
    Ok(files)
}

/// The end of a file, behind `from`, where a line begins, and from the beginning of a line on.
fn tail(path: &Path, from: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(MAX_FILE_BYTES).max(from);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match text.split_once('\n') {
        Some((_cut, rest)) if start > from => rest.to_owned(),
        _ => text.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_first_place_that_is_set_wins() {
        let mut places = LogPlaces { home: Some("/home/ada".into()), ..LogPlaces::default() };
        assert_eq!(places.folder(), Some("/home/ada/ascend/log".into()));
        places.work_path = Some("/ascend".into());
        assert_eq!(places.folder(), Some("/ascend/log".into()));
        places.process_log_path = Some("/logs".into());
        assert_eq!(places.folder(), Some("/logs".into()));
        assert_eq!(LogPlaces::default().folder(), None);
        assert_eq!(LogPlaces::default().last_lines(1, 5), Vec::<String>::new());
    }

    #[test]
    fn only_errors_and_warnings_of_the_process_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log =
            "[INFO] GE(7,cairn): began\n[WARNING] GE(7,cairn): slow\n[ERROR] GE(7,cairn): a\n";
        write(folder.path(), "debug/plog/plog-7_20260101.log", log);
        write(folder.path(), "debug/plog/plog-77_20260101.log", "[ERROR] GE(77,other): b\n");
        write(folder.path(), "debug/plog/other-7_1.log", "[ERROR] c\n");
        write(folder.path(), "debug/plog/plog-7_1.txt", "[ERROR] d\n");
        let places =
            LogPlaces { process_log_path: Some(folder.path().into()), ..LogPlaces::default() };
        let expected = ["[WARNING] GE(7,cairn): slow", "[ERROR] GE(7,cairn): a"];
        assert_eq!(places.last_lines(7, 10), expected);
        assert_eq!(last_lines(folder.path(), None, 10).len(), 3);
        assert_eq!(last_lines(folder.path(), None, 0).len(), 0);
    }

    #[test]
    fn only_errors_that_are_new_are_quoted_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let places =
            LogPlaces { process_log_path: Some(folder.path().into()), ..LogPlaces::default() };
        let path = "debug/plog/plog-7_1.log";
        write(folder.path(), path, "[ERROR] of an earlier process\n");
        let errors = NewErrors::of(&places, 7);
        assert_eq!(errors.quoted(), "");
        let mut log = "[ERROR] of an earlier process\n[WARNING] w\n[ERROR] a\n".to_owned();
        write(folder.path(), path, &log);
        assert_eq!(errors.quoted(), "; CANN's log: [ERROR] a");
        assert_eq!(errors.quoted(), "");
        for name in ["b", "c", "d", "e"] {
            log.extend(["[ERROR] ", name, "\n"]);
        }
        write(folder.path(), path, &log);
        write(folder.path(), "debug/plog/plog-8_1.log", "[ERROR] of another\n");
        assert_eq!(errors.quoted(), "; CANN's log: [ERROR] c | [ERROR] d | [ERROR] e");
        write(folder.path(), path, "[ERROR] begun anew\n");
        assert_eq!(errors.take(9), ["[ERROR] begun anew"]);
        assert_eq!(NewErrors::default().quoted(), "");
    }

    #[test]
    fn warnings_do_not_push_errors_out() {
        let folder = tempfile::tempdir().unwrap();
        let warnings = "[WARNING] w\n".repeat(50);
        let log = format!("[ERROR] 1\n{warnings}[ERROR] 2\n{warnings}");
        write(folder.path(), "plog/plog-1_1.log", &log);
        let expected = ["[ERROR] 1", "[ERROR] 2", "[WARNING] w"];
        assert_eq!(last_lines(folder.path(), None, 3), expected);
        assert_eq!(last_lines(folder.path(), None, 1), ["[ERROR] 2"]);
    }

    #[test]
    fn huge_logs_are_read_from_their_end_and_lines_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("[ERROR] {}\n", "é".repeat(2000));
        let log = long.repeat(400) + "[ERROR] last\n";
        write(folder.path(), "run/plog/plog-1_1.log", &log);
        let lines = last_lines(folder.path(), None, 2);
        assert_eq!(lines[0].chars().count(), MAX_LINE_CHARS);
        assert_eq!(lines[1], "[ERROR] last");
    }

    #[test]
    fn what_is_no_log_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("debug/plog/plog-1_1.log")).unwrap();
        fs::write(folder.path().join("plog"), "not a folder").unwrap();
        write(folder.path(), "run/plog/plog-1_2.log", "\u{0}[ERROR] \u{fffd}");
        assert_eq!(last_lines(folder.path(), Some(1), 5).len(), 1);
        assert!(last_lines(&folder.path().join("nowhere"), None, 5).is_empty());
    }
}

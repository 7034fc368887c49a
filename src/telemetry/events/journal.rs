//! Events on disk: lines of JSON in a few files of bounded size.
//!
//! ```text
//! STATE_DIR/events/tiny-8000/   lock            held by the one server that writes here
//!                               events.jsonl    the newest; full: it becomes .1, .1 becomes .2, ...
//!                               events.1.jsonl  ... events.3.jsonl, the oldest
//! STATE_DIR/events/tiny-8000-2/                 of another server with the same name and port
//! ```
//!
//! A folder belongs to the model's name and the port, so that a restarted server finds what it wrote
//! before; where that folder is taken, the next free number is, which a restart finds likewise.
//!
//! A line that cannot be read, such as one that a crash cut in half, is skipped and counted.
//!
//! What this module deliberately does not do: it does not know what events mean.

use std::fs::TryLockError;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::Record;

/// A file that is longer is not written to any more.
const MAX_FILE_BYTES: u64 = 512 << 10;
/// More than a file can have, unless somebody else wrote it.
const MAX_READ_BYTES: u64 = 4 << 20;
/// Files besides the newest.
const NUM_OLD_FILES: usize = 3;
/// Most servers that share a name and a port in one state folder.
const MAX_INSTANCES: usize = 64;
const MAX_NAME_BYTES: usize = 64;

/// Where the events of one server are written.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    file: fs::File,
    num_bytes: u64,
    /// The last write ended within a line.
    is_torn: bool,
    /// Holds the lock.
    _lock: fs::File,
}

/// What was there.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In the order of their numbers.
    pub(super) records: Vec<Record>,
    /// Lines that could not be read.
    pub(super) num_damaged: u64,
}

impl Journal {
    /// Opens the first folder of that instance in which no other process writes.
    pub(super) fn open(events: &Path, instance: &str) -> io::Result<(Self, History)> {
        let name = plain(instance);
        for number in 1..=MAX_INSTANCES {
            let folder = match number {
                1 => events.join(&name),
                _ => events.join(format!("{name}-{number}")),
            };
            fs::create_dir_all(&folder)?;
            if let Some(lock) = lock(&folder)? {
                return Self::open_folder(folder, lock);
            }
        }
        Err(io::Error::other(format!(
            "{MAX_INSTANCES} servers write to `{}` and its neighbours already",
            events.join(name).display()
        )))
    }

    fn open_folder(folder: PathBuf, lock: fs::File) -> io::Result<(Self, History)> {
        let mut history = History::default();
        for number in (0..=NUM_OLD_FILES).rev() {
            history.read(&path(&folder, number))?;
        }
        history.records.sort_by_key(|record| record.seq);
        history.records.dedup_by_key(|record| record.seq);
        let newest = path(&folder, 0);
        let is_torn = ends_within_a_line(&newest)?;
        let file = append_to(&newest)?;
        let num_bytes = file.metadata()?.len();
        Ok((Self { folder, file, num_bytes, is_torn, _lock: lock }, history))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends a record; `is_urgent`: it is on the disk when this returns.
    pub(super) fn append(&mut self, record: &Record, is_urgent: bool) -> io::Result<()> {
        if self.num_bytes >= MAX_FILE_BYTES {
            self.rotate()?;
        }
        let mut line = Vec::with_capacity(512);
        if self.is_torn {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        // Until the whole line is there, it may be half of it.
        self.is_torn = true;
        self.file.write_all(&line)?;
        self.is_torn = false;
        self.num_bytes = self.num_bytes.saturating_add(line.len() as u64);
        if is_urgent { self.file.sync_data() } else { Ok(()) }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (0..NUM_OLD_FILES).rev() {
            match fs::rename(path(&self.folder, number), path(&self.folder, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append_to(&path(&self.folder, 0))?;
        (self.num_bytes, self.is_torn) = (0, false);
        Ok(())
    }
}

impl History {
    fn read(&mut self, path: &Path) -> io::Result<()> {
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(record) => self.records.push(record),
                Err(_) => self.num_damaged += 1,
            }
        }
        Ok(())
    }
}

/// The lock of a folder; `None` when another process has it.
fn lock(folder: &Path) -> io::Result<Option<fs::File>> {
    let file = append_to(&folder.join("lock"))?;
    match file.file().try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks has no two servers that share a name, one hopes.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            Ok(Some(file))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn append_to(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

fn ends_within_a_line(path: &Path) -> io::Result<bool> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        bytes => Ok(bytes?.last().is_some_and(|byte| *byte != b'\n')),
    }
}

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(match number {
        0 => "events.jsonl".to_owned(),
        _ => format!("events.{number}.jsonl"),
    })
}

/// A name that is a folder's name everywhere.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let plain: String =
        name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(MAX_NAME_BYTES).collect();
    match plain.trim_start_matches('.') {
        "" => "server".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::{Event, EventKind};
    use super::*;

    fn record(seq: u64, message: &str) -> Record {
        Record::new(seq, UNIX_EPOCH, "b", Event::new(EventKind::Alarm, message))
    }

    fn numbers(history: &History) -> Vec<u64> {
        history.records.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn what_was_written_is_found_again_but_for_damaged_lines() {
        let place = tempfile::tempdir().unwrap();
        let (mut journal, history) = Journal::open(place.path(), "tiny/8000").unwrap();
        assert!(history.records.is_empty());
        for seq in 1..=3 {
            journal.append(&record(seq, "x"), seq == 2).unwrap();
        }
        let file = place.path().join("tiny_8000/events.jsonl");
        drop(journal);
        // A crash in the middle of a line, and bytes that are no text.
        let mut bytes = fs::read(&file).unwrap();
        let third = bytes.len() - 9;
        bytes.truncate(third);
        bytes.splice(0..0, *b"\xff\xfe\n{}\n");
        fs::write(&file, bytes).unwrap();

        let (mut journal, history) = Journal::open(place.path(), "tiny/8000").unwrap();
        assert_eq!((numbers(&history), history.num_damaged), (vec![1, 2], 3));
        journal.append(&record(3, "y"), false).unwrap();
        drop(journal);
        let (_, history) = Journal::open(place.path(), "tiny/8000").unwrap();
        assert_eq!((numbers(&history), history.num_damaged), (vec![1, 2, 3], 3));
    }

    #[test]
    fn files_are_few_and_small_and_the_newest_events_stay() {
        let place = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(place.path(), "a").unwrap();
        let (text, count) = ("x".repeat(2000), 2000);
        for seq in 1..=count {
            journal.append(&record(seq, &text), false).unwrap();
        }
        drop(journal);
        let folder = place.path().join("a");
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), NUM_OLD_FILES + 2, "with the lock");
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(bytes < (NUM_OLD_FILES as u64 + 1) * (MAX_FILE_BYTES + 4096), "{bytes}");
        let (_, history) = Journal::open(place.path(), "a").unwrap();
        let numbers = numbers(&history);
        assert_eq!(numbers.last(), Some(&count));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers[0] > 1);
    }

    #[test]
    fn servers_of_one_name_do_not_share_a_folder() {
        let place = tempfile::tempdir().unwrap();
        let open = || Journal::open(place.path(), "tiny-0").unwrap().0;
        let (first, second) = (open(), open());
        assert_eq!(first.folder(), place.path().join("tiny-0"));
        assert_eq!(second.folder(), place.path().join("tiny-0-2"));
        drop(first);
        assert_eq!(open().folder(), place.path().join("tiny-0"));
        drop(second);
    }

    #[test]
    fn names_are_no_paths() {
        for (name, expected) in
            [("../../etc", "_.._etc"), ("", "server"), ("..", "server"), ("Qwen/é-1", "Qwen__-1")]
        {
            assert_eq!(plain(name), expected);
        }
    }
}

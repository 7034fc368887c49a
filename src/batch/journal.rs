//! The files that results are written to, which are also the record of what is done.
//!
//! ```text
//! {"id":"batch_req_1_.."}\n     whole lines: results, whose ids name the lines that they answer
//! {"id":"batch_req_3_.."}\n
//! {"id":"batch_re               no line break: the last run was killed here; cut off
//! ```
//!
//! A result is written by one call, so a process that is killed leaves at most one torn line, at the
//! end. Nothing else needs to be remembered: whoever goes on reads the file, and answers the lines
//! of which it has no result. A file with a line that is no result is somebody else's: it is
//! refused, and not changed.
//!
//! What reaches the disk is synchronised once a second and at the end: after a power cut, the
//! results of the last moments may be missing, and are made again.
//!
//! What this module deliberately does not do: it does not order results. They stand in the order in
//! which they were ready.

use std::collections::HashMap;
use std::fs::TryLockError;
use std::io::{BufRead, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use fs_err as fs;

use super::line::{self, ID_PREFIX, ResultLine};
use super::source::LineId;
use crate::boot::Hint as _;
use crate::boot::failure::hinted;

/// Results that came within this time are synchronised together.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

const OVERWRITE_HINT: &str =
    "name another file, or begin anew with `--overwrite`, which removes what is in it";

/// The lines that earlier runs have answered.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Digests by number.
    digests: HashMap<u64, u64>,
    /// How many of them failed.
    pub(crate) num_failed: u64,
    /// Whether a torn line was cut off.
    pub(crate) was_torn: bool,
}

impl Done {
    /// How many lines.
    pub(crate) fn len(&self) -> u64 {
        self.digests.len() as u64
    }

    /// Whether a line was answered.
    ///
    /// # Errors
    /// When another line with its number was.
    pub(crate) fn has(&self, line: LineId) -> anyhow::Result<bool> {
        match self.digests.get(&line.number) {
            None => Ok(false),
            Some(&digest) if digest == line.digest => Ok(true),
            Some(_) => {
                Err(other_input(&format!("line {} is not the one that was answered", line.number)))
            }
        }
    }
}

/// The error of an input that is not the one of the results.
pub(crate) fn other_input(how: &str) -> anyhow::Error {
    hinted(
        anyhow!("the results are those of another input: {how}"),
        "go on with the input that they were begun with (lines may be added at its end), name another \
         output, or begin anew with `--overwrite`",
    )
}

/// One file of results, open to append.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: fs::File,
    synced_at: Instant,
    is_dirty: bool,
}

impl Journal {
    /// Opens the file, and reads what is in it unless that is to be removed.
    fn open(path: &Path, overwrite: bool, done: &mut Done) -> anyhow::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path);
        let file = file.context("opening the output")?;
        if !file.metadata().context("opening the output")?.is_file() {
            return Err(anyhow!("`{}` is no regular file", path.display())).hint(
                "a batch goes on from its output, so it must be a file that can be read again",
            );
        }
        // Two processes that write the same results would do all twice. Where the file system has
        // no locks, nobody stops them.
        if let Err(TryLockError::WouldBlock) = file.file().try_lock() {
            return Err(anyhow!("another process is writing to `{}`", path.display()))
                .hint("wait for it to end, or name another file");
        }
        let mut journal =
            Self { path: path.to_owned(), file, synced_at: Instant::now(), is_dirty: false };
        if overwrite {
            journal.cut(0)?;
        } else {
            journal.read(done).with_context(|| format!("reading `{}`", path.display()))?;
        }
        Ok(journal)
    }

    fn read(&mut self, done: &mut Done) -> anyhow::Result<()> {
        let mut reader = BufReader::new(&self.file);
        let (mut text, mut num_lines, mut end) = (Vec::new(), 0_u64, 0_u64);
        loop {
            text.clear();
            let num_bytes = reader.read_until(b'\n', &mut text)? as u64;
            if !text.ends_with(b"\n") {
                break;
            }
            num_lines += 1;
            let Some((line, is_failed)) = line::read_result(&text) else {
                return Err(anyhow!("line {num_lines} is no result of a batch"))
                    .hint(OVERWRITE_HINT);
            };
            end += num_bytes;
            if done.digests.insert(line.number, line.digest).is_some() {
                return Err(anyhow!("line {num_lines} answers line {} again", line.number))
                    .hint(OVERWRITE_HINT);
            }
            done.num_failed += u64::from(is_failed);
        }
        if text.is_empty() {
            return Ok(());
        }
        let begin = format!("{{\"id\":\"{ID_PREFIX}");
        let is_ours = text.starts_with(begin.as_bytes()) || begin.as_bytes().starts_with(&text);
        if num_lines == 0 && !is_ours {
            return Err(anyhow!("it is no result of a batch")).hint(OVERWRITE_HINT);
        }
        done.was_torn = true;
        self.cut(end)
    }

    /// Removes all from that byte on.
    fn cut(&mut self, end: u64) -> anyhow::Result<()> {
        let cut = || -> std::io::Result<()> {
            self.file.set_len(end)?;
            (&self.file).seek(SeekFrom::End(0))?;
            self.file.sync_data()
        };
        cut().with_context(|| format!("cutting `{}`", self.path.display()))
    }

    fn write(&mut self, text: &[u8]) -> anyhow::Result<()> {
        let written = (&self.file).write_all(text).context("writing a result");
        written.hint("the results until here are good: the same command goes on from them")?;
        self.is_dirty = true;
        if self.synced_at.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.is_dirty) {
            self.file.sync_data().context("writing results")?;
            self.synced_at = Instant::now();
        }
        Ok(())
    }
}

/// The file of all results, or that of good ones and that of failed ones.
#[derive(Debug)]
pub(crate) struct Journals {
    output: Journal,
    errors: Option<Journal>,
}

impl Journals {
    /// Opens the files, and reads what was done.
    pub(crate) fn open(
        output: &Path,
        errors: Option<&Path>,
        overwrite: bool,
    ) -> anyhow::Result<(Self, Done)> {
        let mut done = Done::default();
        let output = Journal::open(output, overwrite, &mut done)?;
        let errors = errors.map(|path| Journal::open(path, overwrite, &mut done)).transpose()?;
        Ok((Self { output, errors }, done))
    }

    /// Appends a result.
    pub(crate) fn write(&mut self, result: &ResultLine) -> anyhow::Result<()> {
        match &mut self.errors {
            Some(errors) if result.is_failed => errors.write(&result.text),
            _ => self.output.write(&result.text),
        }
    }

    /// Has all results reach the disk.
    pub(crate) fn sync(&mut self) -> anyhow::Result<()> {
        self.output.sync()?;
        self.errors.as_mut().map_or(Ok(()), Journal::sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::line::Refused;

    fn result(number: u64) -> ResultLine {
        let refused = Refused { custom_id: None, code: "c", message: "m".to_owned() };
        ResultLine::refused(LineId { number, digest: 5 }, refused)
    }

    fn open(path: &Path) -> anyhow::Result<(Journals, Done)> {
        Journals::open(path, None, false)
    }

    #[test]
    fn what_was_written_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let (mut journals, done) = open(&path).unwrap();
        assert_eq!(done.len(), 0);
        for number in [3, 1] {
            journals.write(&result(number)).unwrap();
        }
        journals.sync().unwrap();
        drop(journals);
        let (mut journals, done) = open(&path).unwrap();
        assert_eq!((done.len(), done.num_failed, done.was_torn), (2, 2, false));
        let has = |number, digest| done.has(LineId { number, digest });
        assert!(has(1, 5).unwrap() && has(3, 5).unwrap() && !has(2, 5).unwrap());
        assert!(has(1, 6).unwrap_err().to_string().contains("another input"));
        journals.write(&result(2)).unwrap();
        drop(journals);
        assert_eq!(open(&path).unwrap().1.len(), 3);
        Journals::open(&path, None, true).unwrap();
        assert_eq!(open(&path).unwrap().1.len(), 0);
    }

    #[test]
    fn a_line_that_is_cut_anywhere_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let (first, second) = (result(1).text, result(2).text);
        for len in 1..second.len() {
            fs::write(&path, [&first[..], &second[..len]].concat()).unwrap();
            let (mut journals, done) = open(&path).unwrap();
            assert!(done.was_torn && done.len() == 1, "{len}");
            journals.write(&result(2)).unwrap();
            drop(journals);
            assert_eq!(fs::read(&path).unwrap(), [&first[..], &second].concat(), "{len}");
            fs::write(&path, &first[..len.min(first.len() - 1)]).unwrap();
            assert!(open(&path).unwrap().1.was_torn, "{len}");
            assert_eq!(fs::read(&path).unwrap(), b"");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let twice = result(1).text.repeat(2);
        for bytes in [&b"{}\n"[..], b"notes", b"{\"id\":\"batch_x", b"\n", b"\xff\n", &twice] {
            fs::write(&path, bytes).unwrap();
            let error = open(&path).unwrap_err();
            assert!(crate::boot::hint(&error).unwrap().contains("--overwrite"), "{error:#}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert!(open(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn two_processes_do_not_write_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let _first = open(&path).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("another process is writing"), "{error}");
    }

    #[test]
    fn failed_lines_may_have_a_file_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (path, errors) = (folder.path().join("out"), folder.path().join("errors"));
        let open = || Journals::open(&path, Some(&errors), false).unwrap();
        open().0.write(&result(1)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(fs::read(&errors).unwrap(), result(1).text);
        assert_eq!(open().1.len(), 1);
    }
}

//! The requests of a batch as lines, read one at a time.
//!
//! | IN | Lines |
//! | --- | --- |
//! | a file | its own |
//! | a folder | those of every `*.jsonl` in it, in the order of their names |
//! | a manifest, `*.txt` or `*.list` | those of the files that it names, a path a line; blank lines and `#` comments are passed over, relative paths begin where the manifest lies |
//! | `-`, a pipe | those that come; they cannot be looked at before |
//!
//! Lines are numbered from 1 through all files. Blank ones are numbered, and otherwise passed over.
//! Of a line that is too long nothing is kept but its digest.
//!
//! What this module deliberately does not do: it does not look into lines.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fs_err as fs;
use sha2::{Digest as _, Sha256};

use crate::boot::{Hint as _, Usage};

/// Where the lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Files that can be read again.
    Files(Vec<PathBuf>),
    /// A pipe, or something like it, by its path.
    Pipe(PathBuf),
    /// Standard input.
    Stdin,
}

/// Number and digest of a line: which one it is, and of which input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineId {
    /// From 1, through all files.
    pub(crate) number: u64,
    /// The first 64 bits of the SHA-256 of its text without blanks around it.
    pub(crate) digest: u64,
}

/// One line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) id: LineId,
    /// Its text without blanks around it; `None`: it is too long.
    pub(crate) text: Option<Vec<u8>>,
}

impl Source {
    /// What IN names.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let metadata = fs::metadata(path).context("looking for the requests")?;
        if metadata.is_dir() {
            return Ok(Self::Files(files_in(path)?));
        }
        if !metadata.is_file() {
            return Ok(Self::Pipe(path.to_owned()));
        }
        if has_extension(path, &["txt", "list"]) {
            return Ok(Self::Files(files_named_in(path)?));
        }
        Ok(Self::Files(vec![path.to_owned()]))
    }

    /// Whether all lines can be looked at before the first is answered.
    pub(crate) fn can_be_read_again(&self) -> bool {
        matches!(self, Self::Files(_))
    }

    /// The lines, from the first one on.
    pub(crate) fn lines(&self, max_line_bytes: usize) -> Lines {
        let rest = match self {
            Self::Files(paths) => paths.clone(),
            Self::Pipe(path) => vec![path.clone()],
            Self::Stdin => Vec::new(),
        };
        let reader: Option<Box<dyn BufRead + Send>> = match self {
            Self::Stdin => Some(Box::new(BufReader::new(io::stdin()))),
            Self::Files(_) | Self::Pipe(_) => None,
        };
        Lines { rest: rest.into_iter(), reader, number: 0, max_line_bytes }
    }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| extensions.iter().any(|known| known.eq_ignore_ascii_case(found)))
}

fn files_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).context("looking for the requests")? {
        let path = entry.context("looking for the requests")?.path();
        if has_extension(&path, &["jsonl"]) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let what = format!("there is no file `*.jsonl` in `{}`", folder.display());
        return Err(Usage(what).into());
    }
    Ok(paths)
}

fn files_named_in(manifest: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = fs::read_to_string(manifest).context("reading the list of files")?;
    let folder = manifest.parent().unwrap_or(Path::new(""));
    let mut paths = Vec::new();
    for (idx, line) in text.lines().enumerate() {
        let name = line.trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        let path = folder.join(name);
        if !path.is_file() {
            let place = format!("line {} of `{}`", idx + 1, manifest.display());
            return Err(anyhow::anyhow!("{place}: `{}` is no regular file", path.display()))
                .hint("a `.txt` or `.list` names files of requests, one a line; requests themselves lie in `.jsonl` files");
        }
        paths.push(path);
    }
    if paths.is_empty() {
        return Err(Usage(format!("`{}` names no file", manifest.display())).into());
    }
    Ok(paths)
}

/// The lines of all files, one after the other.
pub(crate) struct Lines {
    rest: std::vec::IntoIter<PathBuf>,
    reader: Option<Box<dyn BufRead + Send>>,
    /// Of the line that was read last.
    number: u64,
    max_line_bytes: usize,
}

impl Iterator for Lines {
    type Item = anyhow::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(reader) = &mut self.reader else {
                match fs::File::open(self.rest.next()?) {
                    Ok(file) => self.reader = Some(Box::new(BufReader::new(file))),
                    Err(error) => return Some(Err(error).context("reading the requests")),
                }
                continue;
            };
            match read_line(reader, self.max_line_bytes) {
                Err(error) => return Some(Err(error).context("reading the requests")),
                Ok(None) => self.reader = None,
                Ok(Some((digest, text))) => {
                    self.number += 1;
                    if text.as_ref().is_none_or(|text| !text.is_empty()) {
                        let id = LineId { number: self.number, digest };
                        return Some(Ok(Line { id, text }));
                    }
                }
            }
        }
    }
}

/// Digest and text of the next line; no text when it is longer than that.
fn read_line(
    reader: &mut dyn BufRead,
    max_bytes: usize,
) -> io::Result<Option<(u64, Option<Vec<u8>>)>> {
    let mut text = Vec::new();
    let mut of_long_line: Option<Sha256> = None;
    let mut has_begun = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() && !has_begun {
            return Ok(None);
        }
        has_begun = true;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        if of_long_line.is_none() && text.len() + part.len() > max_bytes {
            of_long_line = Some(Sha256::new_with_prefix(std::mem::take(&mut text)));
        }
        match &mut of_long_line {
            Some(hasher) => hasher.update(part),
            None => text.extend_from_slice(part),
        }
        let is_last = end.is_some() || buffer.is_empty();
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        if is_last {
            if let Some(hasher) = of_long_line {
                return Ok(Some((first_bits(hasher), None)));
            }
            let text = text.trim_ascii().to_vec();
            return Ok(Some((first_bits(Sha256::new_with_prefix(&text)), Some(text))));
        }
    }
}

fn first_bits(hasher: Sha256) -> u64 {
    let digest = hasher.finalize();
    digest.iter().take(8).fold(0, |bits, &byte| bits << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path, max_line_bytes: usize) -> Vec<(u64, Option<String>)> {
        let lines = Source::open(path).unwrap().lines(max_line_bytes);
        let text = |line: Line| line.text.map(|text| String::from_utf8(text).unwrap());
        lines.map(|line| line.map(|line| (line.id.number, text(line))).unwrap()).collect()
    }

    fn some(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn blank_lines_are_numbered_and_the_last_needs_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "{}\r\n\n  \n {1} \n{2}").unwrap();
        assert_eq!(texts(&path, 100), [some(1, "{}"), some(4, "{1}"), some(5, "{2}")]);
        fs::write(&path, "").unwrap();
        assert_eq!(texts(&path, 100), []);
    }

    #[test]
    fn a_long_line_is_not_kept_and_still_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        // Longer than any buffer on the way.
        let long = "x".repeat(100_000);
        fs::write(&path, format!("{long}\nab\n{long}y\n{long}")).unwrap();
        let too_long = |number| (number, None);
        assert_eq!(texts(&path, 10), [too_long(1), some(2, "ab"), too_long(3), too_long(4)]);
        let ids = |max| -> Vec<u64> {
            let lines = Source::open(&path).unwrap().lines(max);
            lines.map(|line| line.unwrap().id.digest).collect()
        };
        assert!(ids(10)[0] == ids(10)[3] && ids(10)[0] != ids(10)[2]);
        assert_eq!(ids(10), ids(1 << 20), "the digest does not depend on the limit");
    }

    #[test]
    fn a_folder_and_a_list_are_their_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [("b.jsonl", "b1\nb2\n"), ("a.jsonl", "a\n"), ("c.json", "c\n")] {
            fs::write(path(name), text).unwrap();
        }
        fs::create_dir(path("d.jsonl")).unwrap();
        assert_eq!(texts(folder.path(), 9), [some(1, "a"), some(2, "b1"), some(3, "b2")]);
        fs::write(path("all.txt"), "# both\nb.jsonl\n\n  c.json\n").unwrap();
        assert_eq!(texts(&path("all.txt"), 9), [some(1, "b1"), some(2, "b2"), some(3, "c")]);

        fs::write(path("all.txt"), "\nmissing.jsonl\n").unwrap();
        let error = Source::open(&path("all.txt")).unwrap_err().to_string();
        assert!(error.contains("line 2 of") && error.contains("missing.jsonl"), "{error}");
        fs::write(path("all.txt"), "# none\n").unwrap();
        assert!(Source::open(&path("all.txt")).unwrap_err().is::<Usage>());
        assert!(Source::open(&path("d.jsonl")).unwrap_err().is::<Usage>());
        assert!(Source::open(&path("nothing")).is_err());
    }
}

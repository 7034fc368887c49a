//! Artifacts in a folder that processes share.
//!
//! The layout is drawn in the crate's documentation. What the folder may throw at us, and the answer:
//!
//! | Found | Answer |
//! | --- | --- |
//! | a file missing, cut, changed in any bit, or of another format | [`MissReason::Bad`] |
//! | the entry of another key under this name | [`MissReason::Bad`] |
//! | a link, a FIFO, a folder or a file where something else belongs | [`MissReason::Bad`], never followed or opened |
//! | no permission, an input error, too many open files | [`MissReason::Unreadable`]: the entry may be good |
//! | the folder is gone | [`MissReason::Absent`]; the next [`Store::put`] creates it again |
//!
//! Readers take no lock: an entry appears by one rename and is never changed afterwards.
//!
//! What this module deliberately does not do: it has no size limit and evicts nothing.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;

use crate::atomic_write::{Draft, unique_name};
use crate::codec;
use crate::digest::Digest;
use crate::filesystem::{Filesystem, Kind, RealFilesystem, create_folders};
use crate::key::CacheKey;
use crate::lock::{KeyLock, LockOutcome};
use crate::record::{EntryMeta, FileDigest, Manifest, Record};
use crate::store::{Entry, Lookup, MissReason, Put, Store, StoreError};

const VERSION: &str = "v1";
const ENTRIES: &str = "entries";
const TMP: &str = "tmp";
const LOCKS: &str = "locks";
const QUARANTINE: &str = "quarantine";

const ARTIFACT: &str = "artifact.bin";
const MANIFEST: &str = "manifest.json";
const RECORD: &str = "record.bin";

/// No manifest is longer than this: it repeats key fields, and long ones only by digest.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Bad entries that are kept of one key; further ones are removed.
const MAX_QUARANTINED_PER_KEY: usize = 4;
/// Temporary files younger than this may still be in use.
const TMP_GRACE: Duration = Duration::from_hours(1);

/// By this file, programs that make backups know a folder that needs none.
const CACHEDIR_TAG: (&str, &[u8]) = (
    "CACHEDIR.TAG",
    b"Signature: 8a477f597d28d172789f06886806bc55\n\
      # This folder holds compiled graphs. All of it can be deleted at any time.\n",
);

/// A [`Store`] in a folder.
#[derive(Debug)]
pub struct DiskStore {
    fs: Box<dyn Filesystem>,
    root: PathBuf,
}

impl DiskStore {
    /// Opens the store at `root`, creating it where it is missing. A folder that can be read but
    /// not written is opened, too: what is there is used.
    ///
    /// # Errors
    /// When nothing can be read there, nor a new store created.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(Box::new(RealFilesystem), root)
    }

    pub(crate) fn open_with(fs: Box<dyn Filesystem>, root: &Path) -> Result<Self, StoreError> {
        let created = create_folders(root);
        // Links on the way to the store are the user's choice, but are followed only this once.
        let root = fs::canonicalize(root)
            .map_err(|error| created.err().unwrap_or(error))
            .map_err(StoreError::io("open the graph cache"))?;
        let store = Self { fs, root };
        match store.create_layout() {
            Ok(()) => store.sweep(SystemTime::now()),
            Err(error) if store.fs.list(&store.folder(ENTRIES)).is_ok() => {
                tracing::debug!(%error, "the graph cache can only be read");
            }
            Err(error) => return Err(StoreError::io("open the graph cache")(error)),
        }
        warn_if_others_can_write(&store.root);
        Ok(store)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.join(VERSION).join(name)
    }

    fn entry_folder(&self, key: &CacheKey) -> PathBuf {
        let hex = key.to_string();
        let mut path = self.folder(ENTRIES);
        path.extend([&hex[0..2], &hex[2..4], &hex]);
        path
    }

    /// The folders of the store itself. Also called before each write: somebody may have deleted
    /// the whole store meanwhile, which is always allowed. `entries` is not among them: whatever
    /// lies there instead can be moved away like any bad entry.
    fn create_layout(&self) -> io::Result<()> {
        create_folders(&self.root)?;
        let (name, content) = CACHEDIR_TAG;
        if self.fs.kind(&self.root.join(name))? == Kind::Absent {
            ignore_existing(self.fs.write_new(&self.root.join(name), content))?;
        }
        self.ensure_folder(&self.root.join(VERSION))?;
        for name in [TMP, LOCKS, QUARANTINE] {
            self.ensure_folder(&self.folder(name))?;
        }
        Ok(())
    }

    /// Creates a folder unless it is there; anything else there, a link included, is an error.
    fn ensure_folder(&self, path: &Path) -> io::Result<()> {
        match self.fs.kind(path)? {
            Kind::Folder => return Ok(()),
            Kind::Absent => {}
            other => {
                let what = format!("`{}` is {other}, expected a folder", path.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
            }
        }
        match self.fs.create_folder(path) {
            Ok(()) => path.parent().map_or(Ok(()), |parent| self.fs.sync_folder(parent)),
            // Another process was faster; what it created is looked at again.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match self.fs.kind(path)? {
                    Kind::Folder => Ok(()),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The folders from the version down to the entry.
    fn folders_to(&self, entry: &Path) -> Vec<PathBuf> {
        let mut folders: Vec<_> =
            entry.ancestors().take_while(|path| *path != self.root).map(Path::to_owned).collect();
        folders.reverse();
        folders
    }

    /// The first thing on the way to the entry, the entry included, that is no real folder.
    fn first_obstacle(&self, entry: &Path) -> io::Result<Option<(PathBuf, Kind)>> {
        for path in self.folders_to(entry) {
            let kind = self.fs.kind(&path)?;
            if kind != Kind::Folder {
                return Ok(Some((path, kind)));
            }
        }
        Ok(None)
    }

    fn read_entry(&self, key: &CacheKey) -> Result<Entry, MissReason> {
        let folder = self.entry_folder(key);
        match self.first_obstacle(&folder).map_err(unreadable)? {
            None => {}
            Some((_, Kind::Absent)) => return Err(MissReason::Absent),
            Some((path, kind)) => {
                let what = format!("`{}` is {kind}, expected a folder", path.display());
                return Err(MissReason::Bad(what));
            }
        }
        self.read_files(key, &folder).map_err(|reason| {
            // Whoever removes an entry renames its folder first: then nothing is wrong with it.
            match self.fs.kind(&folder) {
                Ok(Kind::Absent) => MissReason::Absent,
                _ => reason,
            }
        })
    }

    fn read_files(&self, key: &CacheKey, folder: &Path) -> Result<Entry, MissReason> {
        let (meta, artifact) = self.read_meta(key, folder)?;
        let artifact = self.read_verified(&folder.join(ARTIFACT), artifact)?;
        Ok(Entry { artifact, meta })
    }

    /// What an entry says of itself, and what its artifact must be.
    fn read_meta(
        &self,
        key: &CacheKey,
        folder: &Path,
    ) -> Result<(EntryMeta, FileDigest), MissReason> {
        let size = Size::AtMost(codec::MAX_RECORD_BYTES as u64);
        let record = self.read_file(&folder.join(RECORD), size)?;
        let record = codec::decode(&record)
            .map_err(|error| MissReason::Bad(format!("`{}`: {error}", folder.display())))?;
        let found = CacheKey::from_bytes(record.key);
        if found != *key {
            let what = format!("`{}` holds the entry of key {found}", folder.display());
            return Err(MissReason::Bad(what));
        }
        let manifest_path = folder.join(MANIFEST);
        if record.manifest.bytes > MAX_MANIFEST_BYTES {
            let what = format!("`{}` is too long to be one", manifest_path.display());
            return Err(MissReason::Bad(what));
        }
        let manifest = self.read_verified(&manifest_path, record.manifest)?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| MissReason::Bad(format!("`{}`: {error}", manifest_path.display())))?;
        Ok((manifest.meta, record.artifact))
    }

    fn read_verified(&self, path: &Path, expected: FileDigest) -> Result<Vec<u8>, MissReason> {
        let content = self.read_file(path, Size::Exactly(expected.bytes))?;
        if FileDigest::of(&content) == expected {
            Ok(content)
        } else {
            let what = format!("`{}` does not match its digest", path.display());
            Err(MissReason::Bad(what))
        }
    }

    /// Reads a regular file of the expected size; not a byte is read of one of another size.
    fn read_file(&self, path: &Path, size: Size) -> Result<Vec<u8>, MissReason> {
        let kind = self.fs.kind(path).map_err(unreadable)?;
        if kind != Kind::File {
            let what = format!("`{}` is {kind}, expected a file", path.display());
            return Err(MissReason::Bad(what));
        }
        let (file, bytes) = self.fs.open(path).map_err(unreadable)?;
        if !size.allows(bytes) {
            let what = format!("`{}` has {bytes} bytes, expected {size}", path.display());
            return Err(MissReason::Bad(what));
        }
        let mut content = Vec::new();
        usize::try_from(bytes)
            .ok()
            .and_then(|bytes| content.try_reserve_exact(bytes).ok())
            .ok_or_else(|| {
                let path = path.display();
                MissReason::Unreadable(format!("no memory for the {bytes} bytes of `{path}`"))
            })?;
        file.take(bytes).read_to_end(&mut content).map_err(unreadable)?;
        Ok(content)
    }

    fn write_entry(
        &self,
        key: &CacheKey,
        artifact: &[u8],
        manifest: &[u8],
        record: &[u8],
    ) -> io::Result<Put> {
        self.create_layout()?;
        let mut draft = Draft::create(&*self.fs, &self.folder(TMP))?;
        draft.write(ARTIFACT, artifact)?;
        draft.write(MANIFEST, manifest)?;
        draft.write(RECORD, record)?;
        let target = self.entry_folder(key);
        let stored = Put::Stored { bytes: (artifact.len() + manifest.len() + record.len()) as u64 };
        match self.publish(&mut draft, &target) {
            Ok(()) => return Ok(stored),
            Err(error) => match self.first_obstacle(&target)? {
                Some((_, Kind::Absent)) => return Err(error),
                // Something is in the way: another's entry, which wins when it is good.
                _ if self.read_entry(key).is_ok() => return Ok(Put::AlreadyThere),
                _ => self.move_away(key, &format!("in the way of a new entry: {error}"))?,
            },
        }
        self.publish(&mut draft, &target).map(|()| stored)
    }

    fn publish(&self, draft: &mut Draft<'_>, target: &Path) -> io::Result<()> {
        let folders = self.folders_to(target);
        for folder in &folders[..folders.len() - 1] {
            self.ensure_folder(folder)?;
        }
        draft.publish(target)
    }

    /// Renames what blocks this key, or its entry, into the quarantine.
    fn move_away(&self, key: &CacheKey, reason: &str) -> io::Result<()> {
        let entry = self.entry_folder(key);
        let culprit = match self.first_obstacle(&entry)? {
            None => entry,
            Some((_, Kind::Absent)) => return Ok(()),
            Some((path, _)) => path,
        };
        self.create_layout()?;
        let quarantine = self.folder(QUARANTINE);
        for number in 0..MAX_QUARANTINED_PER_KEY {
            let target = quarantine.join(format!("{key}.{number}"));
            if self.fs.kind(&target)? != Kind::Absent {
                continue;
            }
            self.fs.rename(&culprit, &target)?;
            // Beside it: what was moved may be a link, and nothing is written through it.
            let note = quarantine.join(format!("{key}.{number}.reason.txt"));
            let text = format!("{}\n{reason}\n", culprit.display());
            if let Err(error) = self.fs.write_new(&note, text.as_bytes()) {
                tracing::debug!(%error, "the reason of a quarantine was not written");
            }
            return Ok(());
        }
        self.take_away(&culprit)
    }

    /// Removes at once for readers, who would otherwise see a folder of which files are missing.
    fn take_away(&self, path: &Path) -> io::Result<()> {
        self.create_layout()?;
        let doomed = self.folder(TMP).join(unique_name());
        self.fs.rename(path, &doomed)?;
        if let Err(error) = self.fs.remove(&doomed) {
            tracing::debug!(%error, "a removed cache entry is left for a later sweep");
        }
        Ok(())
    }

    /// Removes what writers that were stopped have left. Entries are never touched, so the worst
    /// that a wrong clock can do is that a writer at work has to go without its entry.
    fn sweep(&self, now: SystemTime) {
        let tmp = self.folder(TMP);
        if !matches!(self.fs.kind(&tmp), Ok(Kind::Folder)) {
            return;
        }
        for left in self.fs.list(&tmp).unwrap_or_default() {
            let age = left.modified.and_then(|then| now.duration_since(then).ok());
            if age.is_some_and(|age| age > TMP_GRACE)
                && let Err(error) = self.fs.remove(&tmp.join(&left.name))
            {
                tracing::debug!(%error, "a temporary folder cannot be removed");
            }
        }
    }

    /// The names of the real folders in a folder; none when it is missing.
    fn subfolders(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        if self.fs.kind(path)? != Kind::Folder {
            return Ok(Vec::new());
        }
        let mut listed = self.fs.list(path)?;
        listed.retain(|item| item.kind == Kind::Folder);
        Ok(listed.into_iter().map(|item| path.join(item.name)).collect())
    }

    fn list_keys(&self) -> io::Result<Vec<CacheKey>> {
        let mut keys = Vec::new();
        for outer in self.subfolders(&self.folder(ENTRIES))? {
            for inner in self.subfolders(&outer)? {
                for entry in self.subfolders(&inner)? {
                    let name = entry.file_name().and_then(|name| name.to_str());
                    let key = name.and_then(|name| name.parse::<CacheKey>().ok());
                    // An entry in the wrong folder would never be found.
                    keys.extend(key.filter(|key| self.entry_folder(key) == entry));
                }
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }
}

impl Store for DiskStore {
    fn get(&self, key: &CacheKey) -> Lookup {
        match self.read_entry(key) {
            Ok(entry) => Lookup::Hit(entry),
            Err(reason) => Lookup::Miss(reason),
        }
    }

    fn meta(&self, key: &CacheKey) -> Option<EntryMeta> {
        let folder = self.entry_folder(key);
        match self.first_obstacle(&folder) {
            Ok(None) => self.read_meta(key, &folder).ok().map(|(meta, _)| meta),
            Ok(Some(_)) | Err(_) => None,
        }
    }

    fn put(&self, key: &CacheKey, artifact: &[u8], meta: &EntryMeta) -> Result<Put, StoreError> {
        let artifact_digest = FileDigest::of(artifact);
        let manifest = Manifest {
            key: *key,
            artifact_bytes: artifact_digest.bytes,
            artifact_sha256: Digest::from_bytes(artifact_digest.sha256),
            meta: meta.clone(),
        };
        let mut manifest = serde_json::to_vec_pretty(&manifest)
            .expect("invariant: a manifest is strings and numbers, which always encode");
        manifest.push(b'\n');
        if manifest.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(StoreError::TooLarge {
                what: "manifest",
                got: manifest.len() as u64,
                limit: MAX_MANIFEST_BYTES,
            });
        }
        let record = codec::encode(&Record {
            key: *key.as_bytes(),
            artifact: artifact_digest,
            manifest: FileDigest::of(&manifest),
        });
        self.write_entry(key, artifact, &manifest, &record)
            .map_err(StoreError::io("store a compiled graph"))
    }

    fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), StoreError> {
        self.move_away(key, reason).map_err(StoreError::io("move a bad entry away"))
    }

    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        let entry = self.entry_folder(key);
        let removed = match self.first_obstacle(&entry) {
            Ok(None) => self.take_away(&entry).map(|()| true),
            Ok(Some(_)) => Ok(false),
            Err(error) => Err(error),
        };
        removed.map_err(StoreError::io("remove an entry"))
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        self.list_keys().map_err(StoreError::io("list the graph cache"))
    }

    fn lock(&self, key: &CacheKey, wait: Duration) -> LockOutcome {
        if let Err(error) = self.create_layout() {
            return LockOutcome::Unavailable { reason: error.to_string() };
        }
        KeyLock::acquire(&self.folder(LOCKS).join(format!("{key}.lock")), wait)
    }
}

/// What is expected of a file's size.
#[derive(Clone, Copy, Debug)]
enum Size {
    Exactly(u64),
    AtMost(u64),
}

impl Size {
    fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(expected) => bytes == expected,
            Self::AtMost(limit) => bytes <= limit,
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(expected) => write!(f, "{expected}"),
            Self::AtMost(limit) => write!(f, "at most {limit}"),
        }
    }
}

fn unreadable(error: io::Error) -> MissReason {
    MissReason::Unreadable(error.to_string())
}

fn ignore_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Whoever can write here decides what this process runs.
fn warn_if_others_can_write(root: &Path) {
    let Ok(metadata) = fs::metadata(root) else {
        return;
    };
    if metadata.mode() & 0o022 != 0 {
        tracing::warn!(
            path = %root.display(),
            mode = format!("{:o}", metadata.mode() & 0o7777),
            "other users can write to the graph cache; `chmod 700` it"
        );
    }
    // The owner of this process's own entry in /proc is its user.
    if let Ok(own) = fs::metadata("/proc/self")
        && own.uid() != metadata.uid()
    {
        tracing::warn!(
            path = %root.display(),
            owner = metadata.uid(),
            "the graph cache belongs to another user"
        );
    }
}

//! Files and batches on disk, and what is known of them in memory.
//!
//! ```text
//! <state folder>/batches/
//!   files/file-3f9a..           what was uploaded, or what came of a batch
//!   files/file-3f9a...json      its object and its owner
//!   batches/batch_77c1...json   a batch's object and its owner
//!   batches/batch_77c1...output.jsonl, .errors.jsonl      results so far
//! ```
//!
//! An object is written beside its place and renamed, so that a kill leaves the old one or the new
//! one. One that cannot be read is set aside as `*.bad`, with a warning: the others are served.
//!
//! An owner is the name of a key; whoever asks with another one finds nothing.
//!
//! What this module deliberately does not do: it answers no line.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fs_err as fs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::object::{BatchObject, FileObject};
use crate::server::observe::RequestTag;

/// Most bytes of all files together.
const MAX_STORED_BYTES: u64 = 16 << 30;
/// Most files, and most batches.
const MAX_OBJECTS: usize = 20_000;

/// Whose a file or batch is; `None`: everybody's, where there are no keys.
pub(super) type Owner = Option<String>;

/// Why something was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// There is no room by the limits above.
    #[error("the store of files is full: {0}; delete files that are not needed any more")]
    Full(String),
    /// A batch still reads it.
    #[error("the file is in use by `{0}`")]
    InUse(String),
    /// The disk refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An object with what clients do not see.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored<T> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Owner,
    object: T,
}

#[derive(Debug, Default)]
struct Index {
    files: BTreeMap<String, Stored<FileObject>>,
    batches: BTreeMap<String, Stored<BatchObject>>,
}

/// Files and batches.
#[derive(Debug)]
pub(super) struct BatchStore {
    root: PathBuf,
    index: Mutex<Index>,
}

impl BatchStore {
    /// Opens the folder, which is made if it is not there.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        for folder in ["files", "batches"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let index = Index {
            files: read_all(&root.join("files"))?,
            batches: read_all(&root.join("batches"))?,
        };
        Ok(Self { root: root.to_owned(), index: Mutex::new(index) })
    }

    /// Nothing that is done under the lock can panic halfway.
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file for an upload, removed again when it is dropped.
    pub(super) fn begin_upload(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(".upload-").tempfile_in(self.root.join("files"))
    }

    /// Keeps what was uploaded.
    pub(super) fn keep(
        &self,
        upload: NamedTempFile,
        filename: String,
        purpose: &str,
        owner: Owner,
    ) -> Result<FileObject, StoreError> {
        upload.as_file().sync_data()?;
        let bytes = upload.as_file().metadata()?.len();
        self.check_room(bytes)?;
        let id = format!("file-{}", RequestTag::random().as_str());
        upload.persist(self.content_path(&id)).map_err(|error| error.error)?;
        let object = FileObject::new(id, bytes, filename, purpose);
        self.insert_file(object.clone(), owner)?;
        Ok(object)
    }

    fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let index = self.lock();
        if index.files.len() >= MAX_OBJECTS {
            return Err(StoreError::Full(format!("it holds {MAX_OBJECTS} files")));
        }
        let stored: u64 = index.files.values().map(|file| file.object.bytes).sum();
        if stored.saturating_add(bytes) > MAX_STORED_BYTES {
            return Err(StoreError::Full(format!("it holds {stored} bytes")));
        }
        Ok(())
    }

    fn insert_file(&self, object: FileObject, owner: Owner) -> io::Result<()> {
        let stored = Stored { owner, object };
        let id = stored.object.id.clone();
        write_json(&self.root.join("files"), &id, &stored)?;
        self.lock().files.insert(id, stored);
        Ok(())
    }

    /// Makes a file of a batch's results; one that was made before is the same. None of no results.
    pub(super) fn keep_results(
        &self,
        batch: &BatchObject,
        kind: &str,
        owner: Owner,
    ) -> io::Result<Option<String>> {
        let (results, id) =
            (self.results_path(&batch.id, kind), format!("file-{}-{kind}", batch.id));
        let content = self.content_path(&id);
        if !content.exists() {
            match fs::metadata(&results) {
                Ok(metadata) if metadata.len() > 0 => fs::rename(&results, &content)?,
                Ok(_) => {
                    fs::remove_file(&results)?;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let bytes = fs::metadata(&content)?.len();
        let filename = format!("{}_{kind}.jsonl", batch.id);
        self.insert_file(FileObject::new(id.clone(), bytes, filename, "batch_output"), owner)?;
        Ok(Some(id))
    }

    /// Where a file's content lies.
    pub(super) fn content_path(&self, id: &str) -> PathBuf {
        self.root.join("files").join(id)
    }

    /// Where a batch's results are collected.
    pub(super) fn results_path(&self, batch: &str, kind: &str) -> PathBuf {
        self.root.join("batches").join(format!("{batch}.{kind}.jsonl"))
    }

    /// A file of that owner.
    pub(super) fn file(&self, id: &str, owner: &Owner) -> Option<FileObject> {
        let index = self.lock();
        index.files.get(id).filter(|file| file.owner == *owner).map(|file| file.object.clone())
    }

    /// The owner's files, newest first.
    pub(super) fn files(&self, owner: &Owner) -> Vec<FileObject> {
        let index = self.lock();
        let own = index.files.values().filter(|file| file.owner == *owner);
        let mut files: Vec<_> = own.map(|file| file.object.clone()).collect();
        files.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        files
    }

    /// Removes a file; `false` when there is none.
    pub(super) fn delete_file(&self, id: &str, owner: &Owner) -> Result<bool, StoreError> {
        if self.file(id, owner).is_none() {
            return Ok(false);
        }
        {
            let mut index = self.lock();
            let reads = |batch: &&Stored<BatchObject>| {
                batch.object.input_file_id == id && !batch.object.status.is_final()
            };
            if let Some(batch) = index.batches.values().find(reads) {
                return Err(StoreError::InUse(batch.object.id.clone()));
            }
            index.files.remove(id);
        }
        // The object first: content without one is nobody's, and an object without content a lie.
        fs::remove_file(self.root.join("files").join(format!("{id}.json")))?;
        fs::remove_file(self.content_path(id))?;
        Ok(true)
    }

    /// Adds a batch.
    pub(super) fn insert_batch(&self, object: BatchObject, owner: Owner) -> Result<(), StoreError> {
        if self.lock().batches.len() >= MAX_OBJECTS {
            return Err(StoreError::Full(format!("it holds {MAX_OBJECTS} batches")));
        }
        let stored = Stored { owner, object };
        let id = stored.object.id.clone();
        write_json(&self.root.join("batches"), &id, &stored)?;
        self.lock().batches.insert(id, stored);
        Ok(())
    }

    /// A batch of that owner.
    pub(super) fn batch(&self, id: &str, owner: &Owner) -> Option<BatchObject> {
        let index = self.lock();
        let batch = index.batches.get(id).filter(|batch| batch.owner == *owner);
        batch.map(|batch| batch.object.clone())
    }

    /// The owner's batches, newest first.
    pub(super) fn batches(&self, owner: &Owner) -> Vec<BatchObject> {
        let index = self.lock();
        let own = index.batches.values().filter(|batch| batch.owner == *owner);
        let mut batches: Vec<_> = own.map(|batch| batch.object.clone()).collect();
        batches.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        batches
    }

    /// The oldest batch that has not ended, of all owners.
    pub(super) fn next_batch(&self) -> Option<(BatchObject, Owner)> {
        let index = self.lock();
        let waiting = index.batches.values().filter(|batch| !batch.object.status.is_final());
        let oldest = waiting.min_by_key(|batch| (batch.object.created_at, &batch.object.id));
        oldest.map(|batch| (batch.object.clone(), batch.owner.clone()))
    }

    /// Changes a batch, in memory and, unless only counts change, on disk.
    pub(super) fn update_batch(
        &self,
        id: &str,
        change: impl FnOnce(&mut BatchObject),
    ) -> io::Result<Option<BatchObject>> {
        let stored = {
            let mut index = self.lock();
            let Some(batch) = index.batches.get_mut(id) else { return Ok(None) };
            let before = batch.object.status;
            change(&mut batch.object);
            if batch.object.status == before {
                return Ok(Some(batch.object.clone()));
            }
            batch.clone()
        };
        write_json(&self.root.join("batches"), id, &stored)?;
        Ok(Some(stored.object))
    }
}

fn write_json<T: Serialize>(folder: &Path, id: &str, stored: &Stored<T>) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".object-").tempfile_in(folder)?;
    serde_json::to_writer(&mut file, stored)?;
    file.flush()?;
    file.as_file().sync_data()?;
    file.persist(folder.join(format!("{id}.json"))).map_err(|error| error.error)?;
    Ok(())
}

/// The objects of a folder by their ids.
fn read_all<T: DeserializeOwned + Identified>(
    folder: &Path,
) -> io::Result<BTreeMap<String, Stored<T>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(".upload-") || name.starts_with(".object-") {
            // Of a process that was killed.
            fs::remove_file(&path)?;
            continue;
        }
        let Some(id) = name.strip_suffix(".json") else { continue };
        let read = fs::read(&path).map_err(|error| error.to_string()).and_then(|bytes| {
            serde_json::from_slice::<Stored<T>>(&bytes).map_err(|error| error.to_string())
        });
        match read {
            Ok(stored) if stored.object.id() == id => {
                all.insert(id.to_owned(), stored);
            }
            Ok(_) => set_aside(&path, "it is another object's")?,
            Err(error) => set_aside(&path, &error)?,
        }
    }
    Ok(all)
}

fn set_aside(path: &Path, why: &str) -> io::Result<()> {
    let aside = path.with_extension("json.bad");
    tracing::warn!(path = %path.display(), why, "an object of the batch store is set aside");
    fs::rename(path, aside)
}

trait Identified {
    fn id(&self) -> &str;
}

impl Identified for FileObject {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Identified for BatchObject {
    fn id(&self) -> &str {
        &self.id
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::BatchStatus;
    use super::*;

    fn upload(store: &BatchStore, text: &str, owner: Owner) -> FileObject {
        let mut file = store.begin_upload().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        store.keep(file, "in.jsonl".into(), "batch", owner).unwrap()
    }

    #[test]
    fn what_was_stored_is_there_again_and_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let ada = || Some("ada".to_owned());
        let (file, batch) = {
            let store = BatchStore::open(folder.path()).unwrap();
            let file = upload(&store, "line\n", ada());
            let batch = BatchObject::new("batch_1".into(), "/v1/x".into(), file.id.clone(), None);
            store.insert_batch(batch.clone(), ada()).unwrap();
            (file, batch)
        };
        drop(tempfile::Builder::new().prefix(".upload-").tempfile_in(folder.path()).unwrap());
        let store = BatchStore::open(folder.path()).unwrap();
        assert_eq!(store.file(&file.id, &ada()), Some(file.clone()));
        assert_eq!((store.file(&file.id, &None), store.files(&None)), (None, vec![]));
        assert_eq!(store.batch("batch_1", &ada()), Some(batch.clone()));
        assert_eq!(store.next_batch(), Some((batch, ada())));
        assert_eq!(fs::read(store.content_path(&file.id)).unwrap(), b"line\n");

        assert!(matches!(store.delete_file(&file.id, &ada()), Err(StoreError::InUse(_))));
        store.update_batch("batch_1", |batch| batch.enter(BatchStatus::Cancelled)).unwrap();
        assert!(!store.delete_file(&file.id, &None).unwrap());
        assert!(store.delete_file(&file.id, &ada()).unwrap());
        assert!(BatchStore::open(folder.path()).unwrap().files(&ada()).is_empty());
        assert!(!store.content_path(&file.id).exists());
    }

    #[test]
    fn a_damaged_object_is_set_aside_and_the_others_are_served() {
        let folder = tempfile::tempdir().unwrap();
        let store = BatchStore::open(folder.path()).unwrap();
        let [good, bad] = ["a", "b"].map(|text| upload(&store, text, None));
        let path = folder.path().join("files").join(format!("{}.json", bad.id));
        fs::write(&path, "{\"object\":").unwrap();
        let store = BatchStore::open(folder.path()).unwrap();
        assert_eq!(store.files(&None), [good]);
        assert!(path.with_extension("json.bad").exists() && !path.exists());
    }

    #[test]
    fn results_become_a_file_once_and_no_results_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = BatchStore::open(folder.path()).unwrap();
        let batch = BatchObject::new("batch_1".into(), "/v1/x".into(), "file-1".into(), None);
        fs::write(store.results_path("batch_1", "output"), "{}\n").unwrap();
        fs::write(store.results_path("batch_1", "errors"), "").unwrap();
        let id = store.keep_results(&batch, "output", None).unwrap().unwrap();
        assert_eq!(store.keep_results(&batch, "output", None).unwrap(), Some(id.clone()));
        assert_eq!(store.file(&id, &None).unwrap().bytes, 3);
        assert_eq!(store.keep_results(&batch, "errors", None).unwrap(), None);
    }
}

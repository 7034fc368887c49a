//! What the unit tests share.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use crate::entry::{Artifact, ArtifactFile, Entry, EntryMeta};
use crate::filesystem::{Filesystem, Listed, Opened, RealFilesystem, Stat};
use crate::key::KeyFields;

/// A new folder, where a flush to the disk costs nothing if there is such a place.
pub(crate) fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Creates a FIFO, on which a careless `open` waits for ever.
pub(crate) fn make_fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

/// The fields of a graph of this name.
pub(crate) fn fields(graph: &str) -> KeyFields {
    KeyFields::new().text("backend", "test").text("graph", graph)
}

/// What is known of an artifact of the tests.
pub(crate) fn meta(note: &str) -> EntryMeta {
    EntryMeta {
        kind: "graph".to_owned(),
        note: note.to_owned(),
        producer: "test 1.0".to_owned(),
        created_unix_s: 1,
        compile_ms: 2,
        fields: Vec::new(),
        io: serde_json::Value::Null,
        log_tail: String::new(),
    }
}

/// The entry of a graph of this name, with these files.
pub(crate) fn entry_of(graph: &str, files: &[(&str, &[u8])]) -> Entry {
    let file = |(name, bytes): &(&str, &[u8])| ArtifactFile {
        name: (*name).to_owned(),
        bytes: bytes.to_vec(),
    };
    let artifact = Artifact::new(files.iter().map(file).collect()).unwrap();
    Entry::seal(&fields(graph), artifact, meta("a note"))
}

/// The entry of a graph of this name, with two small files.
pub(crate) fn entry(graph: &str) -> Entry {
    entry_of(graph, &[("model.om", b"the compiled graph"), ("io.json", b"{}")])
}

/// The real file system, with a say in every operation.
#[derive(Debug)]
pub(crate) struct Hooked<H>(pub(crate) Arc<H>);

/// What is done about an operation of a [`Hooked`] file system.
pub(crate) trait Hook: Send + Sync + fmt::Debug + 'static {
    /// Does the `whole` operation on a path, `half` of it, or nothing.
    fn run<T>(
        &self,
        operation: &'static str,
        path: &Path,
        whole: impl FnOnce() -> io::Result<T>,
        half: impl FnOnce(),
    ) -> io::Result<T>;

    /// What is told instead of what is there.
    fn told(&self, path: &Path, stat: Stat) -> Stat {
        let _ = path;
        stat
    }
}

impl<H: Hook> Filesystem for Hooked<H> {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let stat = self.0.run("stat", path, || RealFilesystem.stat(path), || {})?;
        Ok(self.0.told(path, stat))
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let opened = self.0.run("open", path, || RealFilesystem.open(path), || {})?;
        let (hook, path) = (Arc::clone(&self.0), path.to_owned());
        let stat = hook.told(&path, opened.stat);
        Ok(Opened { content: Box::new(HookedRead { hook, path, content: opened.content }), stat })
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.run("canonicalize", path, || RealFilesystem.canonicalize(path), || {})
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.0.run("create_folder", path, || RealFilesystem.create_folder(path), || {})
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        self.0.run("create_folders", path, || RealFilesystem.create_folders(path), || {})
    }

    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let half = || {
            let _ = RealFilesystem.write_new(path, &content[..content.len() / 2]);
        };
        self.0.run("write_new", path, || RealFilesystem.write_new(path, content), half)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.0.run("sync_folder", path, || RealFilesystem.sync_folder(path), || {})
    }

    fn set_modified(&self, folder: &Path, time: SystemTime) -> io::Result<()> {
        self.0.run("set_modified", folder, || RealFilesystem.set_modified(folder, time), || {})
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.run("rename", from, || RealFilesystem.rename(from, to), || {})
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let half = || {
            if let Ok(items) = RealFilesystem.list(path)
                && let Some(item) = items.first()
            {
                let _ = RealFilesystem.remove(&path.join(&item.name));
            }
        };
        self.0.run("remove", path, || RealFilesystem.remove(path), half)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        self.0.run("list", path, || RealFilesystem.list(path), || {})
    }
}

struct HookedRead<H> {
    hook: Arc<H>,
    path: PathBuf,
    content: Box<dyn Read + Send>,
}

impl<H: Hook> Read for HookedRead<H> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { hook, path, content } = self;
        hook.run("read", path, || content.read(buffer), || {})
    }
}

//! An open checkpoint, whatever its format.
//!
//! | Path | What is opened |
//! | --- | --- |
//! | folder | `model.safetensors`, else the shards of `model.safetensors.index.json` |
//! | file that begins with `GGUF` | a GGUF file, whatever its name |
//! | file named `*.safetensors` | that file |
//!
//! Everything but the values is checked when the checkpoint is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustc_hash::FxHashMap;

use super::bytes::Bytes;
use super::error::{WeightsError, nearest_names};
use super::gguf::{self, Gguf};
use super::gguf_metadata::GgufMetadata;
use super::gguf_names::transformers_name;
use super::mmap::Mapping;
use super::safetensors;
use super::shards::read_index;
use super::stamp::FileStamp;
use super::table::{StoredDType, TensorEntry};
use super::tensor::Tensor;
use crate::ir::DType;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 5] = ["bin", "pt", "pth", "ckpt", "pkl"];
const WHY_NO_PICKLES: &str = "pickle files are never read, since reading one runs code that it brings along; \
    convert it to safetensors or GGUF, or take a checkpoint that has one of them";

/// How a checkpoint is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One or more safetensors files.
    Safetensors,
    /// One GGUF file.
    Gguf,
}

/// An open checkpoint: tensors by name. Cheap to keep, since the files are mapped, not read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<File>,
    tensors: BTreeMap<String, Location>,
    gguf: Option<GgufMetadata>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: Bytes,
    stamp: FileStamp,
}

/// Where a tensor is, and what.
#[derive(Debug)]
struct Location {
    file_idx: usize,
    dtype: StoredDType,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Checkpoint {
    /// Opens a folder or a file.
    ///
    /// # Errors
    /// [`WeightsError::NoWeights`] when there is nothing to open, [`WeightsError::Malformed`] and
    /// [`WeightsError::Unsupported`] when there is, but it cannot be used.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        if !fs::metadata(path)?.is_dir() {
            return Self::open_file(path);
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if exists(&single) {
            Self::open_safetensors(path, single)
        } else if exists(&index) {
            Self::open_shards(path, &index)
        } else {
            Err(WeightsError::no_weights(path, what_lies_there_instead(path)?))
        }
    }

    fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let file = File::open(path.to_owned())?;
        let extension = extension(path);
        if file.bytes.starts_with(gguf::MAGIC) || extension == "gguf" {
            return Self::from_gguf(file);
        }
        if extension == "safetensors" {
            return Self::from_safetensors(path, file);
        }
        if is_pickle(&extension, &file.bytes) {
            return Err(WeightsError::no_weights(path, WHY_NO_PICKLES));
        }
        let what = "neither a GGUF file, which begins with `GGUF`, nor named `*.safetensors`";
        Err(WeightsError::no_weights(path, what))
    }

    fn from_gguf(file: File) -> Result<Self, WeightsError> {
        let Gguf { metadata, tensors } = gguf::parse(&file.path, &file.bytes)?;
        let mut by_name = BTreeMap::new();
        for entry in tensors {
            let name = transformers_name(&entry.name).into_owned();
            if by_name.contains_key(&name) {
                let what = format!(
                    "tensors `{}` and `{name}` are the same tensor by two names",
                    entry.name
                );
                return Err(WeightsError::malformed(&file.path, what));
            }
            by_name.insert(name, Location::new(0, entry));
        }
        Ok(Self {
            path: file.path.clone(),
            files: vec![file],
            tensors: by_name,
            gguf: Some(metadata),
        })
    }

    fn open_safetensors(path: &Path, file: PathBuf) -> Result<Self, WeightsError> {
        Self::from_safetensors(path, File::open(file)?)
    }

    fn from_safetensors(path: &Path, file: File) -> Result<Self, WeightsError> {
        let tensors = safetensors::parse(&file.path, &file.bytes)?
            .into_iter()
            .map(|entry| (entry.name.clone(), Location::new(0, entry)))
            .collect();
        Ok(Self { path: path.to_owned(), files: vec![file], tensors, gguf: None })
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, WeightsError> {
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for (shard, names) in read_index(index)? {
            let path = folder.join(&shard);
            if !exists(&path) {
                let what = format!("the shard `{shard}` that it names is missing");
                return Err(WeightsError::malformed(index, what));
            }
            let file = File::open(path)?;
            let entries = safetensors::parse(&file.path, &file.bytes)?;
            let mut entries: FxHashMap<String, TensorEntry> =
                entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
            for name in names {
                let entry = entries.remove(&name).ok_or_else(|| {
                    let what =
                        format!("tensor `{name}` should be in the shard `{shard}`, which lacks it");
                    WeightsError::malformed(index, what)
                })?;
                tensors.insert(name, Location::new(files.len(), entry));
            }
            files.push(file);
        }
        Ok(Self { path: folder.to_owned(), files, tensors, gguf: None })
    }

    /// The tensor that Transformers calls `name`, without reading its values.
    ///
    /// Its bytes are aligned for the typed views of its type: they are copied in the rare case that
    /// the file has them elsewhere.
    ///
    /// # Errors
    /// [`WeightsError::NotFound`] with the nearest names, or [`WeightsError::Unsupported`] when its
    /// element type is not one of [`DType`].
    pub fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        let location = self.tensors.get(name).ok_or_else(|| self.not_found(name))?;
        let file = &self.files[location.file_idx];
        match &location.dtype {
            StoredDType::Known(dtype) => Ok(location.tensor(name, *dtype, file)),
            StoredDType::Foreign(stored) => Err(unsupported_type(&file.path, name, stored)),
        }
    }

    /// Whether there is a tensor of that name, of whatever type.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The metadata, if this is a GGUF file.
    pub fn gguf(&self) -> Option<&GgufMetadata> {
        self.gguf.as_ref()
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        match self.gguf {
            Some(_) => Format::Gguf,
            None => Format::Safetensors,
        }
    }

    /// What was opened: the folder or the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that are mapped.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The same files, with what they were when they were opened.
    pub fn stamps(&self) -> impl ExactSizeIterator<Item = (&Path, FileStamp)> {
        self.files.iter().map(|file| (file.path.as_path(), file.stamp))
    }

    /// Bytes of all mapped files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }

    fn not_found(&self, name: &str) -> WeightsError {
        WeightsError::NotFound {
            name: name.to_owned(),
            path: self.path.clone(),
            count: self.tensors.len(),
            nearest: nearest_names(name, self.names()),
        }
    }
}

impl File {
    fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let mapping = Mapping::open(&path)?;
        let stamp = mapping.stamp();
        Ok(Self { path, bytes: Bytes::mapped(mapping), stamp })
    }
}

impl Location {
    fn new(file_idx: usize, entry: TensorEntry) -> Self {
        Self { file_idx, dtype: entry.dtype, shape: entry.shape, range: entry.range }
    }

    fn tensor(&self, name: &str, dtype: DType, file: &File) -> Tensor {
        let bytes = file.bytes.slice(self.range.clone());
        let mut bytes = bytes.expect("invariant: entries lie within their file");
        if !bytes.is_aligned_to(alignment(dtype)) {
            bytes = Bytes::copied_from(&bytes);
        }
        Tensor::new(name, dtype, self.shape.clone(), bytes)
            .expect("invariant: entries have the bytes that their shape needs")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
        })
    }
}

/// What the typed views of a type need; blocks are read byte by byte.
fn alignment(dtype: DType) -> usize {
    if dtype.is_quantised() { 1 } else { dtype.block_bytes() }
}

fn unsupported_type(path: &Path, name: &str, stored: &str) -> WeightsError {
    let what = format!(
        "tensor `{name}` is stored as {stored}, supported are {}",
        DType::ALL.map(DType::name).join(", ")
    );
    WeightsError::unsupported(path, what)
}

/// Whether there is anything of that name, a dangling link included: opening it then says why not.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// In lower case; empty without one.
fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// By its name, or by how a pickle or the archive around it begins.
fn is_pickle(extension: &str, bytes: &[u8]) -> bool {
    PICKLES.contains(&extension)
        || bytes.starts_with(b"PK\x03\x04")
        || bytes.starts_with(b"\x80\x02")
}

/// Why a folder is no checkpoint, and what to do about it.
fn what_lies_there_instead(folder: &Path) -> Result<String, WeightsError> {
    const MOST: usize = 10_000;
    let looked_for = format!("looked for `{SINGLE}` and `{INDEX}`");
    let mut names: Vec<String> = fs::read_dir(folder)?
        .take(MOST)
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, std::io::Error>>()?;
    names.sort_unstable();
    let first = |extensions: &[&str]| {
        names.iter().find(|name| extensions.contains(&extension(Path::new(name)).as_str()))
    };
    Ok(if let Some(name) = first(&["gguf", "safetensors"]) {
        format!(
            "{looked_for}; there is `{name}`: give the path of that file instead of the folder's"
        )
    } else if let Some(name) = first(&PICKLES) {
        format!("{looked_for}; there is `{name}`, but {WHY_NO_PICKLES}")
    } else {
        looked_for
    })
}

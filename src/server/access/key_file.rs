//! The file of keys: reading it whole or not at all, and writing it whole or not at all.
//!
//! ```toml
//! [[keys]]
//! name = "alice"
//! hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
//! requests_per_second = 5.0
//! tokens_per_minute = 100000
//!
//! [[keys]]
//! name = "operator"
//! hash = "sha256:cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34"
//! admin = true
//! ```
//!
//! A writer puts a new file in the place of the old one, so that a reader sees one or the other. Who
//! edits by hand may not do that, which is why [`Stamp`] is compared before the file is read again:
//! it must rest first, or a file that is half written could be taken for a whole one with fewer
//! limits. Comments are lost when the server writes.
//!
//! What this module deliberately does not do: no message shows a value that may be a key.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use toml::{Table, Value};

use super::digest::Digest;
use super::entry::{FieldError, KeyEntry, nearest};

/// Most keys in one file: each is a few time series in the metrics.
pub(crate) const MAX_KEYS: usize = 10_000;
const MAX_FILE_BYTES: u64 = 64 << 20;
const TOP_FIELD: &str = "keys";
const HEADER: &str = "# Keys of this server. `cairn keys new` makes more; comments are lost when the \
                      server writes this file.\n";

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no TOML.
    #[error("{path}, line {line}: not TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// It holds something else beside the list of keys, or another kind of it.
    #[error("{path}: {message}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// What was expected, and what is there.
        message: String,
    },
    /// One key is wrong.
    #[error("{path}, key {number}{}: {error}", quoted(.name.as_deref()))]
    Entry {
        /// The file.
        path: PathBuf,
        /// Which key, counted from 1.
        number: usize,
        /// Its name, if it has one.
        name: Option<String>,
        /// What is wrong with it.
        error: FieldError,
    },
    /// Two keys cannot be told apart.
    #[error("{path}, key {number} (`{name}`): key {first} has the same {what}")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// Which key, counted from 1.
        number: usize,
        /// Its name.
        name: String,
        /// The key before it.
        first: usize,
        /// What both have: a name or a hash.
        what: &'static str,
    },
}

fn quoted(name: Option<&str>) -> String {
    name.map(|name| format!(" (`{name}`)")).unwrap_or_default()
}

/// What tells one version of a file from another, without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    num_bytes: u64,
    /// Of the place on disk; another file in the same place has another one.
    inode: u64,
}

impl Stamp {
    /// Of the file as it is now.
    ///
    /// # Errors
    /// There is no such file, or it may not be looked at.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified().ok();
        Ok(Self { modified, num_bytes: metadata.len(), inode: metadata.ino() })
    }
}

/// Reads the keys of a file.
///
/// # Errors
/// Anything in it is wrong; nothing of it is used then.
pub(crate) fn read(path: &Path) -> Result<Vec<KeyEntry>, KeyFileError> {
    let shape = |message: String| KeyFileError::Shape { path: path.to_owned(), message };
    let num_bytes = fs::metadata(path)?.len();
    if num_bytes > MAX_FILE_BYTES {
        return Err(shape(format!("expected at most {MAX_FILE_BYTES} bytes, got {num_bytes}")));
    }
    let bytes = fs::read(path)?;
    let text = str::from_utf8(&bytes)
        .map_err(|error| shape(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    parse(path, text)
}

/// Reads the keys in the text of a file.
fn parse(path: &Path, text: &str) -> Result<Vec<KeyEntry>, KeyFileError> {
    let shape = |message: String| KeyFileError::Shape { path: path.to_owned(), message };
    let file: Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text[..text.floor_char_boundary(start)].matches('\n').count();
        // Not its whole text, which quotes the file.
        KeyFileError::Syntax { path: path.to_owned(), line, message: error.message().to_owned() }
    })?;
    if let Some(field) = file.keys().find(|field| *field != TOP_FIELD) {
        let hint = match nearest(field, &[TOP_FIELD]) {
            Some(_) => "did you mean `[[keys]]`?",
            None => "each key is a table `[[keys]]`",
        };
        return Err(shape(format!("unknown field `{field}`; {hint}")));
    }
    let tables = match file.get(TOP_FIELD) {
        None => &Vec::new(),
        Some(Value::Array(tables)) => tables,
        Some(_) => return Err(shape("expected tables `[[keys]]`, got another kind".to_owned())),
    };
    if tables.len() > MAX_KEYS {
        return Err(shape(format!("expected at most {MAX_KEYS} keys, got {}", tables.len())));
    }
    let entries: Vec<_> = tables
        .iter()
        .enumerate()
        .map(|(idx, table)| entry(path, idx, table))
        .collect::<Result<_, _>>()?;
    check_duplicates(path, &entries)?;
    Ok(entries)
}

fn entry(path: &Path, idx: usize, value: &Value) -> Result<KeyEntry, KeyFileError> {
    let Some(table) = value.as_table() else {
        let message = format!("expected tables `[[keys]]`, key {} is none", idx + 1);
        return Err(KeyFileError::Shape { path: path.to_owned(), message });
    };
    KeyEntry::from_table(table).map_err(|error| {
        // Only a name that is one: anything else may be a key in the wrong place.
        let name = table.get("name").and_then(Value::as_str).filter(|_| error.field() != "name");
        let name = name.map(str::to_owned);
        KeyFileError::Entry { path: path.to_owned(), number: idx + 1, name, error }
    })
}

fn check_duplicates(path: &Path, entries: &[KeyEntry]) -> Result<(), KeyFileError> {
    let mut names = std::collections::HashMap::new();
    let mut hashes = std::collections::HashMap::<Digest, usize>::new();
    for (idx, entry) in entries.iter().enumerate() {
        let same_name = names.insert(entry.name.as_str(), idx).map(|first| (first, "name"));
        let same_hash = hashes.insert(entry.hash, idx).map(|first| (first, "hash"));
        if let Some((first, what)) = same_name.or(same_hash) {
            return Err(KeyFileError::Duplicate {
                path: path.to_owned(),
                number: idx + 1,
                name: entry.name.clone(),
                first: first + 1,
                what,
            });
        }
    }
    Ok(())
}

/// One entry as the file has it.
pub fn entry_text(entry: &KeyEntry) -> String {
    let fields = entry.fields();
    let lines = fields.iter().map(|(field, value)| format!("{field} = {value}\n"));
    std::iter::once("[[keys]]\n".to_owned()).chain(lines).collect()
}

/// Puts these keys in the place of the file's.
///
/// # Errors
/// The file or its folder cannot be written, or what was to be written could not be read again; the
/// file is as it was.
pub(crate) fn write(path: &Path, entries: &[KeyEntry]) -> Result<(), KeyFileError> {
    let texts: Vec<String> = entries.iter().map(entry_text).collect();
    let text = format!("{HEADER}\n{}", texts.join("\n"));
    let read_again = parse(path, &text)?;
    debug_assert_eq!(read_again, entries, "what is written is what is read");
    // The file behind a link, so that the link stays one.
    let path = fs::canonicalize(path)?;
    let metadata = fs::metadata(&path)?;
    if metadata.permissions().readonly() {
        let message = format!("{} is read-only", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message).into());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".keys-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(metadata.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, more: &str) -> String {
        let hash = Digest::of(name.as_bytes());
        format!("[[keys]]\nname = '{name}'\nhash = '{hash}'\n{more}\n")
    }

    #[test]
    fn a_file_is_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(
            &path,
            text("a", "# why\nburst = 3\nrequests_per_second = 1") + &text("b", ""),
        )
        .unwrap();
        let entries = read(&path).unwrap();
        assert_eq!(entries.len(), 2);
        let before = Stamp::of(&path).unwrap();
        write(&path, &entries).unwrap();
        assert_ne!(Stamp::of(&path).unwrap(), before);
        assert_eq!(read(&path).unwrap(), entries);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
        write(&path, &[]).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn a_link_stays_a_link_and_a_read_only_file_as_it_is() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("keys.toml"), folder.path().join("link"));
        std::fs::write(&path, text("a", "")).unwrap();
        symlink(&path, &link).unwrap();
        let entries = read(&link).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        write(&link, &entries).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        let error = write(&link, &[]).unwrap_err();
        assert!(error.to_string().ends_with("is read-only"), "{error}");
        assert_eq!(read(&path).unwrap(), entries);
    }

    #[test]
    fn every_bad_file_is_refused_with_its_place() {
        let a = text("a", "");
        let twice = format!("{a}{a}");
        let same_hash = format!("{a}{}", a.replace("'a'", "'b'"));
        let third = format!("{a}{}{}", text("b", ""), text("c", "toknes_per_day = 5"));
        for (text, message) in [
            ("[[keys]\n", "keys.toml, line 1: not TOML: "),
            ("\n\nkeys = = 1", "keys.toml, line 3: not TOML: "),
            ("[[keys]]\nname = 'a'\nname = 'b'", "keys.toml, line 3: not TOML: "),
            ("[[keys]]\nname = 'a'\nhash = sk-secret", "keys.toml, line 3: not TOML: "),
            ("hello", "keys.toml, line 1: not TOML: "),
            ("{}", "keys.toml, line 1: not TOML: "),
            ("\u{0}", "keys.toml, line 1: not TOML: "),
            ("[[key]]", "keys.toml: unknown field `key`; did you mean `[[keys]]`?"),
            ("x = 1", "keys.toml: unknown field `x`; each key is a table `[[keys]]`"),
            ("keys = 1", "keys.toml: expected tables `[[keys]]`, got another kind"),
            ("[keys.a]\nhash = 'x'", "keys.toml: expected tables `[[keys]]`, got another kind"),
            ("keys = ['sk-secret']", "keys.toml: expected tables `[[keys]]`, key 1 is none"),
            ("[[keys]]", "keys.toml, key 1: `name` is missing"),
            ("[[keys]]\nname = 'a'", "keys.toml, key 1 (`a`): `hash` is missing"),
            ("[[keys]]\nname = 'sk secret'\nhash = 1", "keys.toml, key 1: invalid name: "),
            ("[[keys]]\nname = 'a'\nhash = 'sk-secret'", "keys.toml, key 1 (`a`): invalid hash: "),
            (
                &third,
                "keys.toml, key 3 (`c`): unknown field `toknes_per_day`; did you mean `tokens_per_day`?",
            ),
            (&twice, "keys.toml, key 2 (`a`): key 1 has the same name"),
            (&same_hash, "keys.toml, key 2 (`b`): key 1 has the same hash"),
        ] {
            let error = parse(Path::new("keys.toml"), text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let many: String = (0..=MAX_KEYS).map(|i| text(&format!("k{i}"), "")).collect();
        let error = parse(Path::new("keys.toml"), &many).unwrap_err().to_string();
        assert_eq!(error, "keys.toml: expected at most 10000 keys, got 10001");
    }

    #[test]
    fn what_is_no_text_or_not_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        assert!(read(&path).unwrap_err().to_string().contains("keys.toml"));
        std::fs::write(&path, b"x = '\xff'").unwrap();
        assert!(read(&path).unwrap_err().to_string().ends_with("not UTF-8 at byte 5"));
        assert!(matches!(read(folder.path()), Err(KeyFileError::Io(_))));
    }
}

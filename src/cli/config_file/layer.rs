//! TOML to entries, each with its line.
//!
//! ```text
//! [bench.latency]          section bench, latency
//! runs = 10                key runs, one text "10"
//! cache-layer = ["a"]      key cache-layer, a list of one text
//! ```
//!
//! What this module deliberately does not do: it knows no key but `profile`; a value stays the text
//! that it was, which the flag's own parser reads.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::PROFILE;
use super::error::ConfigFileError;

/// Far above any use.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where an entry was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a profile of this program.
    Profile { name: &'static str, line: usize },
    /// In a line of a file, counted from 1.
    File { path: PathBuf, line: usize },
}

impl Place {
    /// Another line of the same text.
    fn at(&self, line: usize) -> Self {
        match self {
            Self::Profile { name, .. } => Self::Profile { name, line },
            Self::File { path, .. } => Self::File { path: path.clone(), line },
        }
    }

    /// The line, counted from 1.
    pub(super) fn line(&self) -> usize {
        let (Self::Profile { line, .. } | Self::File { line, .. }) = self;
        *line
    }

    /// The folder that relative paths start at; `None`: there is none.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Profile { .. } => None,
            Self::File { path, .. } => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Some(folder.unwrap_or(Path::new(".")))
            }
        }
    }

    /// The kind of place, then the place.
    pub(crate) fn origin(&self) -> String {
        match self {
            Self::Profile { name, .. } => format!("profile {name}"),
            Self::File { .. } => format!("file {self}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile { name, line } => write!(f, "profile {name}:{line}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// What a key is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Switch(bool),
    One(String),
    Many(Vec<String>),
}

/// A key with all that is known about it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Names of commands, outermost first; empty: outside of sections.
    pub(super) section: Vec<String>,
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) place: Place,
}

/// The entries of one file or profile, and the sections that they are in.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) entries: Vec<Entry>,
    /// Sections, also those without entries.
    pub(super) sections: Vec<(Vec<String>, Place)>,
    /// The profile that it builds on.
    pub(super) profile: Option<(String, Place)>,
}

impl Layer {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no TOML of this form.
    pub(super) fn open(path: &Path) -> Result<Self, ConfigFileError> {
        let mut bytes = Vec::new();
        // A pipe is as good as a file, but not one without an end.
        let mut reader = std::io::Read::take(
            fs::File::open(path).map_err(ConfigFileError::Read)?,
            MAX_FILE_BYTES + 1,
        );
        reader.read_to_end(&mut bytes).map_err(ConfigFileError::Read)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigFileError::TooLarge { path: path.to_owned(), max: MAX_FILE_BYTES });
        }
        let place = Place::File { path: path.to_owned(), line: 1 };
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            ConfigFileError::NotUtf8 { place: place.at(line_of(good)) }
        })?;
        Self::parse(&text, &place)
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// As for files.
    pub(super) fn of_profile(name: &'static str, text: &str) -> Result<Self, ConfigFileError> {
        Self::parse(text, &Place::Profile { name, line: 1 })
    }

    fn parse(text: &str, place: &Place) -> Result<Self, ConfigFileError> {
        let place_of =
            |start: usize| place.at(line_of(text.as_bytes().get(..start).unwrap_or_default()));
        let table = DeTable::parse(text).map_err(|error| {
            let place = place_of(error.span().map_or(0, |span| span.start));
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            ConfigFileError::Syntax { place, message }
        })?;
        let mut layer = Self { entries: Vec::new(), sections: Vec::new(), profile: None };
        layer.collect(table.get_ref(), &[], &place_of)?;
        layer.entries.sort_by_key(|entry| entry.place.line());
        Ok(layer)
    }

    fn collect(
        &mut self,
        table: &DeTable<'_>,
        section: &[String],
        place_of: &dyn Fn(usize) -> Place,
    ) -> Result<(), ConfigFileError> {
        for (key, value) in table {
            let place = place_of(key.span().start);
            let key = key.get_ref().to_string();
            match value.get_ref() {
                DeValue::Table(inner) => {
                    let section = [section, &[key]].concat();
                    self.sections.push((section.clone(), place));
                    self.collect(inner, &section, place_of)?;
                }
                DeValue::String(name) if section.is_empty() && key == PROFILE => {
                    self.profile = Some((name.to_string(), place));
                }
                _ => {
                    let value = read_value(value, &key, &place)?;
                    self.entries.push(Entry { section: section.to_vec(), key, value, place });
                }
            }
        }
        Ok(())
    }
}

fn line_of(before: &[u8]) -> usize {
    before.split(|byte| *byte == b'\n').count()
}

fn read_value(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    place: &Place,
) -> Result<Value, ConfigFileError> {
    match value.get_ref() {
        DeValue::Boolean(is_on) => Ok(Value::Switch(*is_on)),
        DeValue::Array(items) => items
            .iter()
            .map(|item| one(item, "a list of texts or numbers", key, place))
            .collect::<Result<_, _>>()
            .map(Value::Many),
        _ => one(value, "a text, a number, true, false or a list", key, place).map(Value::One),
    }
}

fn one(
    value: &Spanned<DeValue<'_>>,
    expected: &'static str,
    key: &str,
    place: &Place,
) -> Result<String, ConfigFileError> {
    let got = match value.get_ref() {
        DeValue::String(text) => return Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => return Ok(number.as_str().to_owned()),
        DeValue::Float(number) => return Ok(number.as_str().to_owned()),
        DeValue::Integer(_) => "a number that is not decimal",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Err(ConfigFileError::Shape { place: place.clone(), key: key.to_owned(), expected, got })
}

//! What a compiler produced: named files, as they are.
//!
//! | Rule | Why |
//! | --- | --- |
//! | names are `[a-z0-9][a-z0-9._-]*`, at most 64 characters | they become file names: no path, no hidden file, no two that differ in case only |
//! | no name twice, none of the entry's own files | each file has one place |
//! | 1 to 64 files, 4 GiB together | a compiled graph holds no weights |
//!
//! What this module deliberately does not do: it knows nothing of what is in the files.

/// The entry's own files, which no artifact may name.
pub(crate) const RESERVED: [&str; 3] = [super::RECORD, super::MANIFEST, super::SIGNATURES];

/// Most files of one artifact.
pub(crate) const MAX_FILES: usize = 64;
/// Most bytes of one artifact, all files together.
pub(crate) const MAX_ARTIFACT_BYTES: u64 = 4 << 30;
/// Longest name of a file.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// Its name, by the rules of this module.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What a compiler produced: one or more named files, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    files: Vec<ArtifactFile>,
}

/// Why files are not an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The number of files is out of range.
    #[error("artifact of {got} files, expected 1 to {MAX_FILES}")]
    Count {
        /// How many there are.
        got: usize,
    },
    /// A name breaks the rules.
    #[error(
        "artifact file `{}` has a name that is not allowed: expected a-z, 0-9, `.`, `_` or `-`, at \
         most {MAX_NAME_BYTES} characters, the first of them a letter or a digit, and none of \
         {RESERVED:?}",
        .name.escape_debug()
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two files have one name.
    #[error("artifact has two files named `{name}`")]
    Twice {
        /// The name.
        name: String,
    },
    /// It is too large.
    #[error("artifact of {got} bytes, expected at most {MAX_ARTIFACT_BYTES}")]
    Size {
        /// The bytes of all files.
        got: u64,
    },
}

impl Artifact {
    /// An artifact of these files.
    ///
    /// # Errors
    /// When a rule of this module is broken.
    pub fn new(files: Vec<ArtifactFile>) -> Result<Self, ArtifactError> {
        check(files.iter().map(|file| (file.name.as_str(), file.bytes.len() as u64)))?;
        Ok(Self { files })
    }

    /// An artifact of one file.
    ///
    /// # Errors
    /// When the name or the size is not allowed.
    pub fn single(name: &str, bytes: Vec<u8>) -> Result<Self, ArtifactError> {
        Self::new(vec![ArtifactFile { name: name.to_owned(), bytes }])
    }

    /// The files, in order.
    pub fn files(&self) -> &[ArtifactFile] {
        &self.files
    }

    /// The files themselves, in order.
    pub fn into_files(self) -> Vec<ArtifactFile> {
        self.files
    }

    /// The content of a file, if there is one of that name.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|file| file.name == name).map(|file| file.bytes.as_slice())
    }

    /// The bytes of all files together.
    pub fn num_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }
}

/// Whether files of these names and sizes may be an artifact.
pub(crate) fn check<'a>(
    files: impl ExactSizeIterator<Item = (&'a str, u64)> + Clone,
) -> Result<(), ArtifactError> {
    if files.len() == 0 || files.len() > MAX_FILES {
        return Err(ArtifactError::Count { got: files.len() });
    }
    let mut num_bytes = 0_u64;
    for (idx, (name, bytes)) in files.clone().enumerate() {
        if !is_allowed(name) {
            return Err(ArtifactError::Name { name: name.to_owned() });
        }
        if files.clone().take(idx).any(|(other, _)| other == name) {
            return Err(ArtifactError::Twice { name: name.to_owned() });
        }
        num_bytes = num_bytes.saturating_add(bytes);
    }
    if num_bytes > MAX_ARTIFACT_BYTES {
        return Err(ArtifactError::Size { got: num_bytes });
    }
    Ok(())
}

fn is_allowed(name: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= MAX_NAME_BYTES
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|c| is_plain(c) || matches!(c, b'.' | b'_' | b'-'))
        && !RESERVED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder_or_hide_in_it() {
        for good in ["model.om", "io_table.json", "0", "a-b.c"] {
            assert!(Artifact::single(good, Vec::new()).is_ok(), "{good}");
        }
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/x",
            ".hidden",
            "A",
            "ä",
            "a\0",
            "a b",
            "record.bin",
            "manifest.json",
            "manifest.sig",
            &long,
        ] {
            let error = Artifact::single(bad, Vec::new()).unwrap_err();
            assert_eq!(error, ArtifactError::Name { name: bad.to_owned() });
        }
    }

    #[test]
    fn an_artifact_has_files_and_each_name_once() {
        let file = |name: &str| ArtifactFile { name: name.to_owned(), bytes: vec![1, 2] };
        assert_eq!(Artifact::new(Vec::new()), Err(ArtifactError::Count { got: 0 }));
        let twice = Artifact::new(vec![file("a"), file("b"), file("a")]);
        assert_eq!(twice, Err(ArtifactError::Twice { name: "a".to_owned() }));
        let good = Artifact::new(vec![file("a"), file("b")]).unwrap();
        assert_eq!(good.num_bytes(), 4);
        assert_eq!(good.file("b"), Some(&[1, 2][..]));
        assert_eq!(good.file("c"), None);
    }

    #[test]
    fn sizes_are_added_up_without_overflow() {
        let sizes = [("a", u64::MAX), ("b", 2)];
        let error = check(sizes.into_iter()).unwrap_err();
        assert_eq!(error, ArtifactError::Size { got: u64::MAX });
    }
}

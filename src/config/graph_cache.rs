//! What was asked of the graph cache.
//!
//! ```text
//! get: folder (may be written) -> layers, the first first (only read)      put: folder
//! ```
//!
//! What this module deliberately does not do: it opens nothing. Whether a folder can be used, or an
//! address is one, shows when the cache is opened.

use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use cairn_graph_cache::CacheMode;
use clap::ValueEnum;

/// How long another process may compile a graph before this one compiles it as well.
pub const DEFAULT_CACHE_LOCK_TIMEOUT: Duration = Duration::from_mins(30);

/// Whose compiled graphs are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CacheTrust {
    /// Those that nobody but this user, root or the layer's owner could have written.
    #[default]
    Owner,
    /// All, whoever can write to the folder.
    Any,
    /// Those that were signed with one of the keys in `--cache-keys`.
    Signed,
}

impl CacheTrust {
    /// The name that `--cache-trust` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Any => "any",
            Self::Signed => "signed",
        }
    }
}

/// Where compiled graphs are found and kept, and whose are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphCacheConfig {
    /// The folder that they are kept in; `None`: none, they are kept in memory.
    pub folder: Option<PathBuf>,
    /// Read-only places below it, the first asked first: folders, or addresses such as
    /// `s3://bucket/prefix`.
    pub layers: Vec<String>,
    /// What may be done with all of them.
    pub mode: CacheMode,
    /// Whose graphs are used.
    pub trust: CacheTrust,
    /// A file with the public keys of those who sign; needed by [`CacheTrust::Signed`].
    pub keys: Option<PathBuf>,
    /// Bytes that the folder may have; `None`: any number.
    pub max_bytes: Option<u64>,
    /// How long another process may compile a graph before this one compiles it as well.
    pub lock_timeout: Duration,
    /// How object stores are reached.
    pub remote_settings: RemoteSettings,
}

impl GraphCacheConfig {
    /// Graphs in a folder, with every other setting at its default.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..Self::default() }
    }
}

/// Graphs in memory.
impl Default for GraphCacheConfig {
    fn default() -> Self {
        Self {
            folder: None,
            layers: Vec::new(),
            mode: CacheMode::default(),
            trust: CacheTrust::default(),
            keys: None,
            max_bytes: None,
            lock_timeout: DEFAULT_CACHE_LOCK_TIMEOUT,
            remote_settings: RemoteSettings::default(),
        }
    }
}

/// Variables that say how an object store is reached and who asks: those of the vendor's own tools.
const REMOTE_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ALLOW_HTTP",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_SKIP_SIGNATURE",
    "AWS_UNSIGNED_PAYLOAD",
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_CONDITIONAL_PUT",
    "AWS_REQUEST_PAYER",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
];

/// Names and values of the variables that say how object stores are reached, of those that are set.
/// Some of the values are secret: only the names are shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RemoteSettings(Vec<(String, String)>);

impl RemoteSettings {
    /// The settings in an environment in which `lookup` gives the value of a variable. A value that
    /// is no text counts as not set.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let setting = |name: &&str| Some(((*name).to_owned(), lookup(name)?.into_string().ok()?));
        Self(REMOTE_VARIABLES.iter().filter_map(setting).collect())
    }
}

impl Deref for RemoteSettings {
    type Target = Vec<(String, String)>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for RemoteSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let lookup = |name: &str| (name == "AWS_SECRET_ACCESS_KEY").then(|| "hunter2".into());
        let remote_settings = RemoteSettings::from_lookup(lookup);
        let shown = format!("{:?}", GraphCacheConfig { remote_settings, ..Default::default() });
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn only_the_variables_of_object_stores_are_taken_and_only_those_that_are_set() {
        let lookup = |name: &str| match name {
            "AWS_REGION" => Some("north".into()),
            "PATH" => Some("/bin".into()),
            _ => None,
        };
        let expected = [("AWS_REGION".to_owned(), "north".to_owned())];
        assert_eq!(RemoteSettings::from_lookup(lookup).as_slice(), expected);
    }

    #[test]
    fn the_names_of_trust_are_those_that_the_flag_takes() {
        for trust in CacheTrust::value_variants() {
            let value = trust.to_possible_value().expect("invariant: none is hidden");
            assert_eq!(value.get_name(), trust.name());
        }
    }
}

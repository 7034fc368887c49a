//! Whose entries may be used.
//!
//! | Trust | A folder's entry is used when |
//! | --- | --- |
//! | [`Trust::Owner`] | nobody but its owner can write to it, and the owner is this user or root |
//! | [`Trust::Any`] | always |
//! | [`Trust::Signed`] | one of the given keys signed its manifest; who can write does not matter |
//!
//! In a read-only layer the owner may be anybody: whoever named the layer knows whose it is.
//!
//! What this module deliberately does not do: it finds no keys and reads no files.

mod signature;

pub use signature::{KeyError, KeyRing, PublicKey, SigningKey};

/// Whose entries may be used.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those that only this user, root or the layer's owner could have written.
    #[default]
    Owner,
    /// All.
    Any,
    /// Those signed with one of these keys.
    Signed(KeyRing),
}

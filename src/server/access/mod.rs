//! Keys and limits: who may use the server, for what, and how much of it.
//!
//! ```text
//! request -> guard --------------------> endpoint -> answer, its places held to its last byte
//!              | key, entry, ledger         | Grant: whose request it is
//!              v                            v
//!           registry <--- key file       Charge: tokens, as they come
//!              |  ^------ admin API
//!              '--> usage, per key and UTC day, on disk
//! ```
//!
//! | File | Idea |
//! | --- | --- |
//! | `digest` | keys by their hash; fresh keys |
//! | `entry`, `pattern` | what one key may do, and its limits |
//! | `key_file` | the file of entries, read and written whole |
//! | `clock`, `bucket`, `quota` | time as a value; limits per second, per minute, per day |
//! | `ledger`, `gate` | the counters of one name; the limit of all together |
//! | `usage`, `usage_file` | what was used per day, and its file |
//! | `registry`, `change` | all of it, live; what changes, and is told |
//! | `background` | following the key file, writing usage |
//! | `guard`, `peer`, `grant` | the layer in front of endpoints, and what they get from it |
//! | `admin`, `admin_address` | the admin API, and an address of its own |
//! | `metrics` | series about keys |
//!
//! Limits hold per key in one process. Tokens are checked before a request and paid as it uses
//! them. Without any key configured everybody may do everything but administer.
//!
//! What this module deliberately does not do: it keeps no key, only hashes; it knows no user, no
//! money, and no limits across servers.

pub(super) mod admin;
mod admin_address;
mod background;
mod bucket;
mod change;
mod clock;
mod digest;
mod entry;
mod gate;
mod grant;
pub(super) mod guard;
mod key_file;
mod ledger;
mod metrics;
mod pattern;
mod peer;
mod quota;
mod registry;
#[cfg(test)]
mod tests;
mod usage;
mod usage_file;

pub use admin_address::{AdminAddress, AdminListener};
pub use change::Change;
pub use digest::{Digest, fresh_key};
pub use entry::{FieldError, KeyEntry};
pub(super) use grant::{Charge, Grant};
pub(super) use guard::grant_of;
pub use key_file::{KeyFileError, entry_text};
pub(super) use peer::Peer;
pub use registry::{Access, AccessOptions};

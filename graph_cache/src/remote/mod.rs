//! A store in S3-compatible object storage: Amazon S3, Huawei OBS, `MinIO`.
//!
//! ```text
//! s3://<bucket>/<prefix>/v2/entries/ab/<64 hex digits>.tar.zst     one entry, one object
//!                           quarantine/<key>.tar.zst               what was bad,
//!                           quarantine/<key>.reason.txt            and why
//!                           probe/<random>                         of `probe`, for a moment
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`RemoteStore`] | the store; its calls block, whatever thread they come from |
//! | [`RemoteOptions`] | address, credentials, retries, time |
//! | fault | what went wrong, sorted by what the caller does next |
//!
//! # Promises
//!
//! An object is an archive of one entry, so that nothing is needed to use it but the object: one
//! request per hit, one atomic request per entry written. Above 64 MiB an entry goes up in parts,
//! and appears when the last request completes it; whatever fails before is aborted. (A process
//! that is killed in between leaves parts that nobody sees and somebody pays for: give the bucket
//! a lifecycle rule that aborts incomplete uploads.)
//!
//! Nothing that the service sends is believed: sizes are limited before and while they are read,
//! and an entry is every byte verified or it is none.
//!
//! | The service says | It becomes |
//! | --- | --- |
//! | there is no such object | absent |
//! | an object that is not this key's entry | bad |
//! | no permission, no such bucket, nothing at all | unreadable, with the permission or setting to look at |
//!
//! What this module deliberately does not do: it has no locks (two hosts may compile one key, and
//! store the same), evicts nothing (that is what lifecycle rules are for), and keeps no copies
//! (that is what layers are for).

mod fault;
mod objects;
mod options;
mod store;
mod worker;

pub use options::RemoteOptions;
pub use store::RemoteStore;

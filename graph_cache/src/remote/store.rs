//! Entries as objects: what they are called, what refusals mean for an entry, and what is checked.
//!
//! What this module deliberately does not do: it makes no requests itself; `objects` does, on the
//! thread of `worker`.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use object_store::ObjectStore;
use object_store::path::Path;

use super::fault::Fault;
use super::objects::Objects;
use super::options::{self, RemoteOptions};
use super::worker::Worker;
use crate::archive::{self, ArchiveError};
use crate::entry::artifact::MAX_ARTIFACT_BYTES;
use crate::entry::{Entry, EntryError};
use crate::key::CacheKey;
use crate::store::{Lookup, MissReason, Put, Store, StoreError};
use crate::trust::Trust;

/// No object is larger: an artifact, what vouches for it, and what packing it adds at worst.
const MAX_OBJECT_BYTES: u64 = MAX_ARTIFACT_BYTES + (64 << 20);
const SUFFIX: &str = ".tar.zst";
const PROBE: &[u8] = b"written, read and removed by `doctor`\n";

const CAN_LIST: &str = "s3:ListBucket";
const CAN_GET: &str = "s3:GetObject";
const CAN_PUT: &str = "s3:PutObject";
const CAN_DELETE: &str = "s3:DeleteObject";

/// A [`Store`] in S3-compatible object storage.
///
/// | Service | `AWS_ENDPOINT_URL` | Also needed |
/// | --- | --- | --- |
/// | Amazon S3 | not set | `AWS_REGION` |
/// | Huawei OBS | `https://obs.<region>.myhuaweicloud.com` | `AWS_REGION=<region>`, `AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true` |
/// | `MinIO` | `https://host:9000` | `AWS_CA_BUNDLE` where the certificate is home-made; `AWS_ALLOW_HTTP=true` for `http://` |
///
/// | To | these permissions are needed |
/// | --- | --- |
/// | read | `s3:GetObject`, and `s3:ListBucket`: without it, S3 answers 403 where there is no object |
/// | write | `s3:PutObject` |
/// | remove | `s3:DeleteObject` |
/// | quarantine | all of them |
///
/// The HTTP client by itself honours `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`; nothing else comes from the environment. Without credentials among the settings,
/// the machine is asked for some, as virtual machines in clouds have them.
pub struct RemoteStore {
    worker: Worker,
    objects: Arc<Objects>,
    /// Everything is below this.
    root: Path,
    place: String,
    trust: Trust,
}

impl RemoteStore {
    /// The store at `s3://bucket/prefix`. Nothing is asked of the service yet: that it can be
    /// reached, and what is allowed there, is what [`probe`](Self::probe) finds out.
    ///
    /// # Errors
    /// When the address or a setting is not a good one.
    pub fn open(url: &str, options: RemoteOptions) -> Result<Self, StoreError> {
        let refuse = |place: &str| {
            let place = place.to_owned();
            move |reason| StoreError::Remote { doing: "open the store", place, reason }
        };
        let (bucket, prefix) = options::split_url(url).map_err(refuse("the address given"))?;
        let client =
            options::connect(bucket, &options).map_err(refuse(&address(bucket, prefix)))?;
        Self::over(Arc::new(client), bucket, prefix, options)
    }

    /// The store in any object store, of which `bucket` is the name for messages. Of the options,
    /// settings and retries are of no use here.
    ///
    /// # Errors
    /// When the prefix cannot be one.
    pub fn over(
        objects: Arc<dyn ObjectStore>,
        bucket: &str,
        prefix: &str,
        options: RemoteOptions,
    ) -> Result<Self, StoreError> {
        let place = address(bucket, prefix);
        let root = Path::parse(prefix).map_err(|error| StoreError::Remote {
            doing: "open the store",
            place: place.clone(),
            reason: error.to_string(),
        })?;
        let worker = Worker::start().map_err(StoreError::io("start the store's thread"))?;
        let objects = Arc::new(Objects::new(objects, options.timeout));
        Ok(Self { worker, objects, root: root.join("v2"), place, trust: options.trust })
    }

    /// Tries every permission that a store needs, with a small object of its own, and says for each
    /// whether it is given.
    pub fn probe(&self) -> Vec<(&'static str, Result<(), StoreError>)> {
        const DOING: &str = "try what is allowed";
        let folder = self.root.clone().join("probe");
        let mut name = [0; 8];
        if let Err(error) = getrandom::fill(&mut name) {
            // Two that probe at the same time may then see each other's object.
            tracing::debug!("no random name: {error}");
        }
        let path = folder.clone().join(format!("{:016x}", u64::from_le_bytes(name)));
        let listed = self.call(DOING, CAN_LIST, |objects| async move {
            objects.list(&folder, |_| None::<()>).await.map(|_| ())
        });
        let to = path.clone();
        let put = self.call(DOING, CAN_PUT, |objects| async move {
            objects.replace(&to, PROBE.to_vec()).await
        });
        let from = path.clone();
        let got = self.call(DOING, CAN_GET, |objects| async move {
            match objects.get(&from, PROBE.len() as u64).await {
                Ok(bytes) if bytes == PROBE => Ok(()),
                Ok(_) | Err(Fault::TooLarge { .. }) => {
                    Err(Fault::Other("gave other bytes than were stored".to_owned()))
                }
                // It could not be stored, but it may be looked for.
                Err(Fault::Absent) => Ok(()),
                Err(fault) => Err(fault),
            }
        });
        let deleted =
            self.call(DOING, CAN_DELETE, |objects| async move { objects.delete(&path).await });
        vec![(CAN_LIST, listed), (CAN_PUT, put), (CAN_GET, got), (CAN_DELETE, deleted)]
    }

    fn entries(&self) -> Path {
        self.root.clone().join("entries")
    }

    fn entry_path(&self, key: &CacheKey) -> Path {
        let digits = key.to_string();
        self.entries().join(&digits[..2]).join(format!("{digits}{SUFFIX}"))
    }

    /// Makes requests and waits for them.
    fn ask<T, F>(
        &self,
        doing: &'static str,
        request: impl FnOnce(Arc<Objects>) -> F,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let started = Instant::now();
        let answer =
            self.worker.wait_for(request(Arc::clone(&self.objects))).unwrap_or_else(|| {
                Err(Fault::Other(
                    "the request was given up by its thread, which is a bug".to_owned(),
                ))
            });
        let ms = started.elapsed().as_millis() as u64;
        let fault = answer.as_ref().err();
        tracing::debug!(place = self.place, doing, ms, ?fault, "asked the object store");
        answer
    }

    /// The same; a fault is an error, for which this permission is missing if one is.
    fn call<T, F>(
        &self,
        doing: &'static str,
        permission: &'static str,
        request: impl FnOnce(Arc<Objects>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        self.ask(doing, request).map_err(|fault| self.error(doing, permission, fault))
    }

    fn error(&self, doing: &'static str, permission: &'static str, fault: Fault) -> StoreError {
        let place = self.place.clone();
        let reason = match fault {
            Fault::Denied(named) => {
                let permission = named.unwrap_or(permission);
                return StoreError::Denied { doing, permission, place };
            }
            Fault::TooLarge { got } => {
                return StoreError::TooLarge { what: "object", got, limit: MAX_OBJECT_BYTES };
            }
            Fault::Absent => "there is no such object; check that the bucket exists".to_owned(),
            Fault::Exists => "somebody else is writing the same object; try again".to_owned(),
            Fault::Unsupported => "the service does not know this kind of request".to_owned(),
            Fault::Other(reason) => reason,
        };
        StoreError::Remote { doing, place, reason }
    }

    fn find(&self, key: &CacheKey) -> Result<Entry, MissReason> {
        const DOING: &str = "get an entry";
        let path = self.entry_path(key);
        let got =
            self.ask(DOING, |objects| async move { objects.get(&path, MAX_OBJECT_BYTES).await });
        let bytes = got.map_err(|fault| match fault {
            Fault::Absent => MissReason::Absent,
            Fault::TooLarge { got } => MissReason::Bad(format!(
                "object of {got} bytes, expected at most {MAX_OBJECT_BYTES}"
            )),
            Fault::Denied(_) => MissReason::Unreadable(format!(
                "{}; if the entry is not there, then it is {CAN_LIST} that is missing, without \
                 which the service refuses instead of saying so",
                self.error(DOING, CAN_GET, fault)
            )),
            fault => MissReason::Unreadable(self.error(DOING, CAN_GET, fault).to_string()),
        })?;
        let entry = archive::decode_entry(key, &bytes).map_err(|error| match error {
            ArchiveError::Format { .. }
            | ArchiveError::Entry { source: EntryError::Format { .. }, .. } => {
                MissReason::OtherFormat(error.to_string())
            }
            error => MissReason::Bad(error.to_string()),
        })?;
        if let Trust::Signed(keys) = &self.trust {
            keys.verify(entry.manifest_json(), entry.signatures())
                .map_err(MissReason::Untrusted)?;
        }
        Ok(entry)
    }
}

impl Store for RemoteStore {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn get(&self, key: &CacheKey) -> Lookup {
        self.find(key).map_or_else(Lookup::Miss, |entry| Lookup::Hit(Box::new(entry)))
    }

    fn put(&self, entry: &Entry) -> Result<Put, StoreError> {
        const DOING: &str = "store an entry";
        let path = self.entry_path(entry.key());
        let object = archive::encode_entry(entry).map_err(|error| StoreError::Remote {
            doing: DOING,
            place: self.place.clone(),
            reason: error.to_string(),
        })?;
        let bytes = object.len() as u64;
        if bytes > MAX_OBJECT_BYTES {
            return Err(self.error(DOING, CAN_PUT, Fault::TooLarge { got: bytes }));
        }
        let is_new =
            self.call(DOING, CAN_PUT, |objects| async move { objects.put(&path, object).await })?;
        Ok(if is_new { Put::Stored { bytes } } else { Put::AlreadyThere })
    }

    fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), StoreError> {
        const DOING: &str = "move a bad entry away";
        let from = self.entry_path(key);
        let folder = self.root.clone().join("quarantine");
        let to = folder.clone().join(format!("{key}{SUFFIX}"));
        let note = folder.join(format!("{key}.reason.txt"));

        let path = from.clone();
        let bytes = match self.ask(DOING, |objects| async move { objects.size(&path).await }) {
            Err(Fault::Absent) => return Ok(()),
            answer => answer.map_err(|fault| self.error(DOING, CAN_GET, fault))?,
        };
        let path = from.clone();
        self.call(DOING, CAN_PUT, |objects| async move { objects.copy(&path, &to, bytes).await })?;
        let text = format!("{reason}\n").into_bytes();
        // Better away without its reason than in the way: a failure is in the log.
        let _ = self.ask(DOING, |objects| async move { objects.replace(&note, text).await });
        self.call(DOING, CAN_DELETE, |objects| async move { objects.delete(&from).await })
    }

    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        let path = self.entry_path(key);
        self.call(
            "remove an entry",
            CAN_DELETE,
            |objects| async move { objects.remove(&path).await },
        )
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        let entries = self.entries();
        let mut keys = self.call("list the entries", CAN_LIST, |objects| async move {
            objects.list(&entries, |object| key_of(&entries, &object.location)).await
        })?;
        keys.sort_unstable();
        Ok(keys)
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore").field("place", &self.place).finish_non_exhaustive()
    }
}

fn address(bucket: &str, prefix: &str) -> String {
    let prefix = prefix.trim_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("s3://{bucket}{slash}{prefix}")
}

/// The key of an entry's object; `None` for an object that is no entry's.
fn key_of(entries: &Path, object: &Path) -> Option<CacheKey> {
    let below = object.as_ref().strip_prefix(entries.as_ref())?.strip_prefix('/')?;
    let (folder, name) = below.split_once('/')?;
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.get(..2) != Some(folder) {
        return None;
    }
    digits.parse().ok()
}

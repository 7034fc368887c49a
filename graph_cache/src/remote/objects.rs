//! Requests to an object store, with a limit for the time of each and for the bytes that it brings.
//!
//! | Request | Made of |
//! | --- | --- |
//! | get | one GET; its size is looked at before its body is read |
//! | put | HEAD, then one PUT that creates or fails; above 64 MiB an upload in parts |
//! | remove | HEAD, then DELETE, which does not say whether there was anything |
//! | list | pages |
//!
//! A request that fails is tried again by the client library, with growing pauses, also in the middle
//! of a body. Time is given per request and its retries: the configured time, and a second more for
//! each MiB that is moved.
//!
//! What this module deliberately does not do: it does not know what is in an object, nor which
//! permission a request needs.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_core::Stream;
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    Result,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::fault::Fault;

/// Objects larger than this go up in parts.
const MAX_PUT_BYTES: usize = 64 << 20;
/// Bytes of one part. Every service takes parts of 5 MiB to 5 GiB.
const PART_BYTES: usize = 16 << 20;
/// Parts that go up at a time.
const MAX_PARTS_AT_ONCE: usize = 4;
/// Slower than this is as good as not at all.
const MIN_BYTES_PER_S: u64 = 1 << 20;
/// For ever, in a number that can be added to a point in time.
const MAX_TIME: Duration = Duration::from_hours(24 * 365);
/// How long an upload that failed may take to be aborted.
const MAX_ABORT: Duration = Duration::from_secs(10);

/// An object store, and how long to wait for it.
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    timeout: Duration,
    /// Until the service says that it does not know requests that create or fail.
    can_create: AtomicBool,
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, timeout: Duration) -> Self {
        Self { store, timeout, can_create: AtomicBool::new(true) }
    }

    fn patience(&self) -> Patience {
        Patience::new(self.timeout)
    }

    /// The size of an object.
    pub(crate) async fn size(&self, path: &Path) -> Result<u64, Fault> {
        let meta = self.patience().wait(self.store.head(path)).await?;
        Ok(meta.size)
    }

    /// The bytes of an object that has no more than `limit`.
    pub(crate) async fn get(&self, path: &Path, limit: u64) -> Result<Vec<u8>, Fault> {
        let mut patience = self.patience();
        let found = patience.wait(self.store.get(path)).await?;
        let expected = found.meta.size;
        if expected > limit {
            return Err(Fault::TooLarge { got: expected });
        }
        patience.extend(expected);
        let mut stream = found.into_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = patience.wait(next(&mut stream)).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > expected {
                return Err(Fault::Other(format!("sent more than the {expected} bytes announced")));
            }
        }
        if (bytes.len() as u64) < expected {
            let got = bytes.len();
            return Err(Fault::Other(format!("sent {got} of the {expected} bytes announced")));
        }
        Ok(bytes)
    }

    /// Stores an object, whole or not at all; `false` when there was one already.
    pub(crate) async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<bool, Fault> {
        let mut patience = self.patience();
        patience.extend(bytes.len() as u64);
        match patience.wait(self.store.head(path)).await {
            Ok(_) => return Ok(false),
            // Who may write need not be allowed to read.
            Err(Fault::Absent | Fault::Denied(_)) => {}
            Err(fault) => return Err(fault),
        }
        if bytes.len() > MAX_PUT_BYTES {
            self.put_parts(path, &bytes, &patience).await?;
            return Ok(true);
        }
        let payload = PutPayload::from(bytes);
        if self.can_create.load(Ordering::Relaxed) {
            let create = PutOptions::from(PutMode::Create);
            match patience.wait(self.store.put_opts(path, payload.clone(), create)).await {
                Ok(_) => return Ok(true),
                Err(Fault::Exists) => return Ok(false),
                Err(Fault::Unsupported) => self.can_create.store(false, Ordering::Relaxed),
                Err(fault) => return Err(fault),
            }
        }
        patience.wait(self.store.put(path, payload)).await?;
        Ok(true)
    }

    /// Stores a small object, over the one that may be there.
    pub(crate) async fn replace(&self, path: &Path, bytes: Vec<u8>) -> Result<(), Fault> {
        self.patience().wait(self.store.put(path, bytes.into())).await?;
        Ok(())
    }

    async fn put_parts(&self, path: &Path, bytes: &[u8], patience: &Patience) -> Result<(), Fault> {
        let mut upload = patience.wait(self.store.put_multipart(path)).await?;
        let sent = patience.wait(send_parts(&mut *upload, bytes)).await;
        if sent.is_err()
            && let Err(fault) = Patience::new(MAX_ABORT).wait(upload.abort()).await
        {
            tracing::debug!(%path, ?fault, "upload not aborted: its parts may take up space unseen");
        }
        sent
    }

    /// Removes an object; says whether there was one.
    pub(crate) async fn remove(&self, path: &Path) -> Result<bool, Fault> {
        let patience = self.patience();
        match patience.wait(self.store.head(path)).await {
            Err(Fault::Absent) => return Ok(false),
            // Who may remove need not be allowed to read.
            Ok(_) | Err(Fault::Denied(_)) => {}
            Err(fault) => return Err(fault),
        }
        self.delete(path).await?;
        Ok(true)
    }

    /// Removes an object, if there is one.
    pub(crate) async fn delete(&self, path: &Path) -> Result<(), Fault> {
        match self.patience().wait(self.store.delete(path)).await {
            Ok(()) | Err(Fault::Absent) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Copies an object of so many bytes within the store.
    pub(crate) async fn copy(&self, from: &Path, to: &Path, bytes: u64) -> Result<(), Fault> {
        let mut patience = self.patience();
        patience.extend(bytes);
        patience.wait(self.store.copy(from, to)).await
    }

    /// What `pick` makes of the objects below a prefix, leaving out where it makes nothing.
    pub(crate) async fn list<T>(
        &self,
        prefix: &Path,
        pick: impl Fn(&ObjectMeta) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        let mut picked = Vec::new();
        let mut stream = self.store.list(Some(prefix));
        while let Some(object) = self.patience().wait(next(&mut stream)).await? {
            picked.extend(pick(&object));
        }
        Ok(picked)
    }
}

/// A point in time after which nobody waits any more.
struct Patience {
    until: Instant,
    allowed: Duration,
}

impl Patience {
    fn new(allowed: Duration) -> Self {
        let allowed = allowed.min(MAX_TIME);
        Self { until: Instant::now() + allowed, allowed }
    }

    /// Waits longer, as so many bytes are to be moved.
    fn extend(&mut self, bytes: u64) {
        let longer = Duration::from_secs(bytes / MIN_BYTES_PER_S).min(MAX_TIME);
        self.until += longer;
        self.allowed += longer;
    }

    async fn wait<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T, Fault> {
        timeout_at(self.until, answer).await.map_or_else(
            |_| {
                let allowed = humantime::format_duration(self.allowed);
                Err(Fault::Other(format!("no whole answer within {allowed}")))
            },
            |answer| answer.map_err(Fault::of),
        )
    }
}

async fn next<T>(stream: &mut Pin<Box<dyn Stream<Item = Result<T>> + Send>>) -> Result<Option<T>> {
    poll_fn(|cx| stream.as_mut().poll_next(cx)).await.transpose()
}

async fn send_parts(upload: &mut dyn MultipartUpload, bytes: &[u8]) -> Result<()> {
    let mut sending = JoinSet::new();
    for part in bytes.chunks(PART_BYTES) {
        if sending.len() >= MAX_PARTS_AT_ONCE {
            one_sent(&mut sending).await?;
        }
        sending.spawn(upload.put_part(part.to_vec().into()));
    }
    while !sending.is_empty() {
        one_sent(&mut sending).await?;
    }
    upload.complete().await?;
    Ok(())
}

async fn one_sent(sending: &mut JoinSet<Result<()>>) -> Result<()> {
    sending.join_next().await.unwrap_or(Ok(Ok(())))?
}

//! Encryption: certificate, key and those who sign clients, read again when their files change.
//!
//! ```text
//! files --load--> pair that fits --> new connections
//!   ^                 `- does not: a warning, the pair before stays
//!   `-- looked at every few seconds, and when `reload` is called
//! ```
//!
//! Connections that are open keep what they began with. Files are compared by time, size and
//! identity, so that the links of a mounted secret count too.
//!
//! What this module deliberately does not do: it makes no certificates, it decrypts no keys, and it
//! asks nobody whether a certificate was revoked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::telemetry::events::{Event, EventKind, EventLog};

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// No chain of certificates is longer.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// One that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// Where the parts of the encryption lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those between it and the root, in PEM.
    pub certificate: PathBuf,
    /// The private key of the first certificate, in PEM, not encrypted.
    pub key: PathBuf,
    /// Certificates that sign those of clients, in PEM.
    pub client_roots: Option<PathBuf>,
    /// Whether clients are asked for theirs.
    pub client_certificates: ClientCertificates,
}

/// Why connections cannot be encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read a file for TLS")]
    Read(#[from] io::Error),
    /// A file is larger than any certificate.
    #[error("`{path}` is larger than {MAX_FILE_BYTES} bytes, the most for a file of TLS")]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A file holds something else.
    #[error("`{path}` is not what it should be: expected {expected} in PEM")]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("`{path}` holds no certificate: expected one or more in PEM")]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// The certificate, the key or the roots cannot be used, or not together.
    #[error("`{certificate}` and `{key}` cannot be used together")]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// Clients cannot be checked.
    #[error("`{path}` cannot be used to check the certificates of clients")]
    Roots {
        /// The file of the roots.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// Clients are to be asked for certificates that nobody can check.
    #[error("certificates of clients are asked for, but nothing says who signs them")]
    NoRoots,
}

/// What became of a look at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// New connections use what the files hold.
    New,
    /// The files are as before.
    Unchanged,
}

/// Encryption whose parts can change while it is used; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    /// Of the files when they were last looked at.
    stamps: Mutex<Vec<Stamp>>,
}

/// Differs when the file does.
type Stamp = Option<(Option<SystemTime>, u64, u64)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, or do not fit together.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before the files are read: a change meanwhile is seen at the next look.
        let stamps = Mutex::new(stamps(&files));
        let config = RwLock::new(Arc::new(config(&files)?));
        Ok(Self(Arc::new(Inner { files, config, stamps })))
    }

    /// Reads the files again if they have changed. What cannot be used changes nothing.
    ///
    /// # Errors
    /// As [`load`](Self::load); new connections go on with what was good before.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let Inner { files, config: current, stamps: seen } = &*self.0;
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let found = stamps(files);
            if *seen == found {
                return Ok(Reloaded::Unchanged);
            }
            // A pair that is bad is told once, not at every look.
            *seen = found;
        }
        let config = Arc::new(config(files)?);
        *current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(Reloaded::New)
    }

    /// Reloads and tells what came of it, unless the files are as before.
    pub fn reload_and_tell(&self, events: &EventLog) {
        let certificate = self.0.files.certificate.display().to_string();
        let event = match self.reload() {
            Ok(Reloaded::Unchanged) => return,
            Ok(Reloaded::New) => Event::new(EventKind::TlsReloaded, "new certificate in use"),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                let message = format!(
                    "the certificate from before stays in use: {error}{}",
                    cause.unwrap_or_default()
                );
                Event::new(EventKind::TlsReloaded, message)
                    .abnormal()
                    .remedy("put a certificate and its key in place, which are then read again")
            }
        };
        events.emit(event.field("certificate", certificate));
    }

    /// Looks at the files for ever.
    pub(super) async fn watch(self, events: EventLog) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let (tls, events) = (self.clone(), events.clone());
            // It fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || tls.reload_and_tell(&events)).await;
        }
    }

    /// What a connection that begins now uses.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.0.config.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    use std::os::unix::fs::MetadataExt as _;

    let paths = [Some(&files.certificate), Some(&files.key), files.client_roots.as_ref()];
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
    };
    paths.into_iter().flatten().map(stamp).collect()
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let TlsFiles { certificate, key, client_roots, client_certificates } = files;
    let provider = Arc::new(ring::default_provider());
    let unusable =
        |source| TlsError::Unusable { certificate: certificate.clone(), key: key.clone(), source };
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| TlsError::NotPem {
        path: key.clone(),
        expected: "an unencrypted private key",
        source,
    })?;
    let pair = CertifiedKey::from_der(chain, secret, &provider).map_err(unusable)?;

    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match (client_certificates, client_roots) {
        (ClientCertificates::None, _) => builder.with_no_client_auth(),
        (_, None) => return Err(TlsError::NoRoots),
        (demand, Some(path)) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(unusable)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match demand {
                ClientCertificates::Required => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            let verifier = verifier
                .build()
                .map_err(|source| TlsError::Roots { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Only(Arc::new(pair))));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The one certificate, whatever name a client asks for.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|source| TlsError::NotPem {
        path: path.to_owned(),
        expected: "certificates",
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    // A size that is told first: a device or a pipe is never read.
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(fs::read(path)?)
}

//! Binding what `serve` listens on: before the long work, so that what cannot be fails at once.
//!
//! | File at the path of a socket | Then |
//! | --- | --- |
//! | none | made |
//! | a socket that nobody answers | replaced: it was left by a process that was killed |
//! | a socket that somebody answers | refused |
//! | anything else | refused |
//!
//! What this module deliberately does not do: it accepts nothing.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use fs_err as fs;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use super::failure::Hint;

/// Binds the first address of the host that can be bound.
pub(crate) fn port(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    // `[::1]`, as in a URL, is what `::1` means.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let place =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("cannot listen on {place}"))
        .hint("`--host` takes an address of this machine, or a host name that means one")?;
    let mut result = Err(anyhow!("cannot listen on {place}: the host has no address"));
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => result = cannot_listen(address, error),
        }
    }
    result
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> anyhow::Result<TcpListener> {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => Some(
            "stop the program that listens there, or choose another port with `--port` (0: any \
             free one)",
        ),
        io::ErrorKind::AddrNotAvailable => {
            Some("`--host` takes an address of this machine; 0.0.0.0 means every one")
        }
        io::ErrorKind::PermissionDenied => Some("choose a port from 1024 with `--port`"),
        _ => None,
    };
    let result = Err(error).with_context(|| format!("cannot listen on {address}"));
    match hint {
        Some(hint) => result.hint(hint),
        None => result,
    }
}

/// A socket in the file system; its file is removed with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number: another process may have put its own there since.
    identity: (u64, u64),
}

/// Binds a socket in the file system, whose file gets these permissions.
pub(crate) fn socket(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, SocketFile)> {
    let shown = path.display();
    make_way(path)?;
    // The file never has more permissions than it should, not even for a moment. The mask belongs to
    // the whole process, which has one thread at this time.
    let before = umask(Mode::from_raw_mode(!mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound
        .with_context(|| format!("cannot listen on `{shown}`"))
        .hint("`--uds` takes a path of at most 107 bytes in a folder that this user may write")?;
    let metadata = fs::symlink_metadata(path).context("looking at the socket")?;
    let identity = (metadata.dev(), metadata.ino());
    Ok((listener, SocketFile { path: path.to_owned(), identity }))
}

/// Removes the socket of a server that is gone; refuses whatever else is there.
fn make_way(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(anyhow!("cannot listen on `{shown}`: it exists and is no socket"))
            .hint("remove it, or choose another path with `--uds`");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("removing the socket of a server that is gone")
        }
        // It went meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(anyhow!("cannot listen on `{shown}`: another program listens there"))
            .hint("stop that program, or choose another path with `--uds`"),
        Err(error) => bail!("cannot listen on `{shown}`: nobody knows who listens there: {error}"),
    }
}

impl SocketFile {
    /// Removes the file if it is still the one that was made.
    pub(crate) fn remove(&self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours {
            // What is left is replaced by the next server.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Lets the process have as many descriptors as it may: each connection is one.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What is not granted is missed when connections are refused, and told then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(error: &anyhow::Error) -> String {
        super::super::failure::hint(error).unwrap_or_default()
    }

    #[test]
    fn a_port_in_use_is_named_with_the_remedy() {
        let holder = port("127.0.0.1", 0).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let error = port("127.0.0.1", taken).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{taken}"));
        assert!(hint_of(&error).contains("--port"));
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = port("192.0.2.1", 0).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on 192.0.2.1:0");
        assert!(hint_of(&error).contains("--host"));
    }

    #[test]
    fn a_host_that_means_nothing_is_refused() {
        let error = port("no such host", 0).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on no such host:0");
    }
}

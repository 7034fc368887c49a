//! By which way a request came, as far as that decides who may administer.
//!
//! | Way | Admin endpoints |
//! | --- | --- |
//! | the admin address | open: whoever reaches it is an admin |
//! | any, with a key that has `admin = true` | open |
//! | from this machine, to a server without any key | reading only |
//! | any other | closed |
//!
//! What this module deliberately does not do: it trusts no header. A request that says it was
//! forwarded did not begin on this machine, whatever its connection says.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Method};

/// Headers that proxies add.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// By which way a request came; part of its extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Another machine, as far as is known.
    #[default]
    Remote,
    /// This machine.
    Local,
    /// The admin address.
    Admin,
}

impl Peer {
    /// Of a connection from there.
    pub(crate) fn of(address: Option<SocketAddr>) -> Self {
        let is_local = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        if is_local { Self::Local } else { Self::Remote }
    }

    /// Whether it may use admin endpoints without a key, on a server that is open to all.
    pub(crate) fn may_administer_openly(self, method: &Method, headers: &HeaderMap) -> bool {
        let is_reading = matches!(*method, Method::GET | Method::HEAD);
        let is_forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
        self == Self::Local && is_reading && !is_forwarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for (address, expected) in [
            ("127.0.0.1:1", Peer::Local),
            ("127.9.9.9:1", Peer::Local),
            ("[::1]:1", Peer::Local),
            ("[::ffff:127.0.0.1]:1", Peer::Local),
            ("10.0.0.1:1", Peer::Remote),
            ("[::ffff:10.0.0.1]:1", Peer::Remote),
            ("0.0.0.0:1", Peer::Remote),
        ] {
            assert_eq!(Peer::of(address.parse().ok()), expected, "{address}");
        }
        assert_eq!(Peer::of(None), Peer::Remote);
    }

    #[test]
    fn only_reading_from_this_machine_needs_no_key() {
        let (plain, mut forwarded) = (HeaderMap::new(), HeaderMap::new());
        forwarded.insert("x-forwarded-for", "10.0.0.1".parse().unwrap());
        let may = |peer: Peer, method, headers| peer.may_administer_openly(&method, headers);
        assert!(may(Peer::Local, Method::GET, &plain));
        assert!(!may(Peer::Local, Method::POST, &plain));
        assert!(!may(Peer::Local, Method::GET, &forwarded));
        assert!(!may(Peer::Remote, Method::GET, &plain));
    }
}

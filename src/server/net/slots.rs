//! How many connections are open, in all and by client.
//!
//! A client is an IPv4 address, or the 64-bit network of an IPv6 address, which one machine often
//! has to itself. What comes over a socket in the file system belongs to no client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The connections that are open.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    limit_per_client: Option<usize>,
    count: watch::Sender<usize>,
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

/// Why one more connection is too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("the server has all the connections that it takes")]
    Server,
    #[error("the client has all the connections that one client may have")]
    Client,
}

/// One open connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    client: Option<IpAddr>,
}

impl Slots {
    pub(super) fn new(limit: usize, limit_per_client: Option<usize>) -> Self {
        let by_client = Mutex::default();
        Self(Arc::new(Inner { limit, limit_per_client, count: watch::Sender::new(0), by_client }))
    }

    fn by_client(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more, if there is any.
    pub(super) fn take(&self, address: Option<IpAddr>) -> Result<Slot, Full> {
        let has_room = self.0.count.send_if_modified(|count| {
            let has_room = *count < self.0.limit;
            *count += usize::from(has_room);
            has_room
        });
        if !has_room {
            return Err(Full::Server);
        }
        let mut slot = Slot { slots: self.clone(), client: None };
        if let (Some(limit), Some(client)) = (self.0.limit_per_client, address.map(client)) {
            let mut by_client = self.by_client();
            let count = by_client.entry(client).or_default();
            if *count >= limit {
                return Err(Full::Client);
            }
            *count += 1;
            slot.client = Some(client);
        }
        Ok(slot)
    }

    /// Returns when no connection is open.
    pub(super) async fn all_given_back(&self) {
        let mut count = self.0.count.subscribe();
        // It fails only when the sender is gone, which lives here.
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            let mut by_client = self.slots.by_client();
            if let Some(count) = by_client.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    by_client.remove(&client);
                }
            }
        }
        self.slots.0.count.send_modify(|count| *count -= 1);
    }
}

/// Who counts as one client.
fn client(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "what a slot is asked for with")]
    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_slot_is_free_again_once_it_was_given_back() {
        let slots = Slots::new(2, None);
        let first = slots.take(address("127.0.0.1")).unwrap();
        let _second = slots.take(None).unwrap();
        assert_eq!(slots.take(None).unwrap_err(), Full::Server);
        drop(first);
        assert!(slots.take(None).is_ok());
    }

    #[test]
    fn one_client_cannot_take_every_slot() {
        let slots = Slots::new(100, Some(2));
        let mine = [slots.take(address("10.0.0.1")), slots.take(address("::ffff:10.0.0.1"))];
        assert!(mine.iter().all(Result::is_ok));
        assert_eq!(slots.take(address("10.0.0.1")).unwrap_err(), Full::Client);
        let _other = slots.take(address("10.0.0.2")).unwrap();
        let network =
            [slots.take(address("2001:db8::1")), slots.take(address("2001:db8::2:0:0:1"))];
        assert!(network.iter().all(Result::is_ok));
        assert_eq!(slots.take(address("2001:db8::3")).unwrap_err(), Full::Client);
        assert!((0..10).all(|_| slots.take(None).is_ok()), "files have no address");
        drop((mine, network));
        assert_eq!(slots.by_client().len(), 1, "only the other client is left");
        assert_eq!(*slots.0.count.borrow(), 1);
    }
}

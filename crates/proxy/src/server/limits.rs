//! How many connections there may be, in all and from one client. Process-wide, looked at once per connection.

use portcullis_config::ListenerId;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Counts connections.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// Over all listeners.
    max: AtomicUsize,
    open: AtomicUsize,
    clients: Mutex<HashMap<Client, usize>>,
}

/// Who is counted: addresses that are one client, at a listener.
type Client = (Option<ListenerId>, IpAddr);

/// How many connections a client may have.
#[derive(Debug, Clone)]
pub(crate) struct PerClient {
    /// Those to this listener count; `None`: all.
    listener: Option<ListenerId>,
    max: usize,
}

impl PerClient {
    /// In all.
    pub(crate) const fn in_all(max: usize) -> Self {
        Self {
            listener: None,
            max,
        }
    }

    /// To this listener.
    pub(crate) fn to(listener: &ListenerId, max: usize) -> Self {
        Self {
            listener: Some(listener.clone()),
            max,
        }
    }
}

/// Why a connection is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rejection {
    /// `system` `max-connections`.
    Total,
    /// `limits` `connections-per-client` of the listener.
    Client,
    /// A header of the PROXY protocol is wanted, and whoever connects is no trusted proxy.
    UntrustedProxy,
    /// A trusted proxy has sent no such header, or none that can be read, or not in time.
    ProxyHeader,
}

impl Rejection {
    /// The name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Total => "max_connections",
            Self::Client => "connections_per_client",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

impl ConnectionLimits {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            open: AtomicUsize::new(0),
            clients: Mutex::new(HashMap::new()),
        }
    }

    /// From now on there may be this many. Those that are open stay.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Relaxed);
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Admits a connection. `per_client` is the bound for its client; `None` for trusted proxies, whose connections carry
    /// many clients.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        per_client: Option<PerClient>,
    ) -> Result<Permit, Rejection> {
        if self.open.fetch_add(1, Relaxed) >= self.max.load(Relaxed) {
            self.open.fetch_sub(1, Relaxed);
            return Err(Rejection::Total);
        }
        let mut permit = Permit {
            limits: self.clone(),
            client: None,
        };
        if let Some(per_client) = per_client {
            permit.count(address, per_client)?;
        }
        Ok(permit)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        // Counts are changed in one step, so a poisoned lock loses nothing.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses that count as one client: one IPv4 address, or the /64 of an IPv6 address, which is what one household or
/// machine is given.
pub(crate) fn client_group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// The place of an open connection; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<ConnectionLimits>,
    client: Option<Client>,
}

impl Permit {
    /// Counts the connection as one of this client, of whom nothing was known before.
    ///
    /// # Errors
    /// The client has as many as it may have.
    pub(crate) fn count(&mut self, address: IpAddr, most: PerClient) -> Result<(), Rejection> {
        let client = (most.listener, client_group(address));
        let mut clients = self.limits.lock();
        // One that is refused has others, so that it is no new entry.
        let count = clients.entry(client.clone()).or_insert(0);
        if *count >= most.max {
            return Err(Rejection::Client);
        }
        *count += 1;
        drop(clients);
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Relaxed);
        let Some(client) = &self.client else { return };
        let mut clients = self.limits.lock();
        if let Some(count) = clients.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn most(max: usize) -> Option<PerClient> {
        Some(PerClient::to(&"http".into(), max))
    }

    #[test]
    fn listeners_count_on_their_own() {
        let limits = Arc::new(ConnectionLimits::new(10));
        let many = || Some(PerClient::to(&"many".into(), 5));
        let permits: Vec<_> = (0..3)
            .map(|_| limits.admit(address("192.0.2.1"), many()).unwrap())
            .collect();
        let _one = limits.admit(address("192.0.2.1"), most(1)).unwrap();
        assert!(limits.admit(address("192.0.2.1"), most(1)).is_err());
        drop(permits);
        assert_eq!(limits.lock().len(), 1);
    }

    #[test]
    fn each_limit_refuses_by_name_and_places_come_back() {
        let limits = Arc::new(ConnectionLimits::new(3));
        let first = limits.admit(address("192.0.2.1"), most(2)).unwrap();
        let _second = limits.admit(address("192.0.2.1"), most(2)).unwrap();
        let refused = limits.admit(address("192.0.2.1"), most(2));
        assert_eq!(refused.unwrap_err(), Rejection::Client);
        let _other = limits.admit(address("192.0.2.2"), most(2)).unwrap();
        let refused = limits.admit(address("192.0.2.3"), None);
        assert_eq!(refused.unwrap_err(), Rejection::Total);
        drop(first);
        let again = limits.admit(address("192.0.2.1"), most(2)).unwrap();
        assert_eq!(limits.open(), 3);
        drop(again);
        assert_eq!(limits.open(), 2);
    }

    #[test]
    fn ipv6_clients_are_grouped_by_network() {
        let limits = Arc::new(ConnectionLimits::new(10));
        let _first = limits.admit(address("2001:db8::1"), most(1)).unwrap();
        assert!(limits.admit(address("2001:db8::ffff:2"), most(1)).is_err());
        assert!(limits.admit(address("2001:db8:0:1::1"), most(1)).is_ok());
        let _mapped = limits.admit(address("::ffff:192.0.2.1"), most(1)).unwrap();
        assert!(limits.admit(address("192.0.2.1"), most(1)).is_err());
    }

    #[test]
    fn trusted_proxies_are_not_counted_by_client() {
        let limits = Arc::new(ConnectionLimits::new(10));
        let permits: Vec<_> = (0..5)
            .map(|_| limits.admit(address("10.0.0.1"), None).unwrap())
            .collect();
        assert_eq!(limits.open(), 5);
        drop(permits);
        assert_eq!(limits.open(), 0);
        assert!(limits.lock().is_empty());
    }
}

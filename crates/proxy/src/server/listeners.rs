//! The listeners of the process: which addresses are bound, and what workers are told about them. Each has one socket per
//! worker on the same address, among which the kernel spreads connections; a Unix socket is one that all workers accept from.

use super::{
    ServeError,
    acceptor::SAME_MACHINE,
    connection::Listener,
    tls::{self, ListenerTls, TlsOfListeners},
    unix_socket::SocketFile,
    wire::Listening,
};
use crate::telemetry::metrics::ConnectionMetrics;
use portcullis_config::ListenerAddress;
use socket2::{Domain, Protocol, Type};
use std::{io, net::SocketAddr, sync::Arc};

/// Connections that wait to be accepted, per socket. The kernel may allow fewer (net.core.somaxconn).
pub(super) const BACKLOG: i32 = 4096;

/// What is bound now.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    bound: Vec<Bound>,
    keys_given: u64,
}

/// A listener that has its sockets.
#[derive(Debug, Clone)]
struct Bound {
    /// What workers know its sockets by, through all configurations.
    key: u64,
    config: portcullis_config::Listener,
    at: At,
    tls: Option<Arc<ListenerTls>>,
}

/// Where a listener really is.
#[derive(Debug, Clone)]
enum At {
    /// With a port, also when the configuration leaves it to the system.
    Tcp(SocketAddr),
    /// The file goes with the last who knows it.
    Unix(Arc<SocketFile>),
}

/// Listeners of another configuration, bound and not yet in use. Dropped, it changes nothing.
pub(super) struct Plan {
    bound: Vec<Bound>,
    keys_given: u64,
    /// By worker.
    pub(super) assignments: Vec<Vec<Assignment>>,
}

/// What a worker does for a listener.
pub(super) struct Assignment {
    pub(super) key: u64,
    pub(super) listener: Arc<Listener>,
    pub(super) local: SocketAddr,
    /// `None` when the worker has it already.
    pub(super) socket: Option<Listening>,
}

impl Listeners {
    /// What listeners have of TLS now.
    pub(super) fn tls(&self) -> TlsOfListeners {
        let of = |bound: &Bound| Some((bound.config.id.clone(), bound.tls.clone()?));
        self.bound.iter().filter_map(of).collect()
    }

    /// Binds what is not bound yet, once for each worker. `tls` is what was loaded for these listeners.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub(super) fn plan(
        &self,
        listeners: &[portcullis_config::Listener],
        tls: &TlsOfListeners,
        workers: usize,
    ) -> Result<Plan, ServeError> {
        let mut plan = Plan {
            bound: Vec::new(),
            keys_given: self.keys_given,
            assignments: (0..workers).map(|_| Vec::new()).collect(),
        };
        for config in listeners {
            let kept = self.bound.iter().find(|bound| bound.serves(config));
            let (at, sockets) = match kept {
                Some(kept) => (kept.at.clone(), Vec::new()),
                None => self
                    .bind(config, workers)
                    .map_err(|error| failed(config, error))?,
            };
            let key = kept.map_or(plan.keys_given, |kept| kept.key);
            plan.keys_given += u64::from(kept.is_none());
            let tls = tls.get(&config.id).cloned();
            let listener = Arc::new(Listener::new(config, tls.clone()));
            let mut sockets = sockets.into_iter();
            for worker in &mut plan.assignments {
                worker.push(Assignment {
                    key,
                    listener: listener.clone(),
                    local: at.address(),
                    socket: sockets.next(),
                });
            }
            plan.bound.push(Bound {
                key,
                config: config.clone(),
                at,
                tls,
            });
        }
        Ok(plan)
    }

    /// A socket for each worker.
    fn bind(
        &self,
        config: &portcullis_config::Listener,
        workers: usize,
    ) -> io::Result<(At, Vec<Listening>)> {
        match &config.address {
            ListenerAddress::Tcp(address) => {
                let address = self.free_address(*address)?;
                let socket = || Ok(Listening::Tcp(listen(address, true)?));
                let sockets = (0..workers).map(|_| socket()).collect::<io::Result<_>>()?;
                Ok((At::Tcp(address), sockets))
            }
            ListenerAddress::Unix { path, mode } => {
                let (file, socket) = SocketFile::bind(path, *mode)?;
                let another = || Ok(Listening::Unix(socket.try_clone()?));
                let sockets = (0..workers).map(|_| another()).collect::<io::Result<_>>()?;
                Ok((At::Unix(Arc::new(file)), sockets))
            }
        }
    }

    /// Sockets that share an address would take connections from another process without a word, so the first look is
    /// whether the address is free. A port of ours does not count: its other address may be about to go.
    fn free_address(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let is_ours =
            |bound: &Bound| matches!(bound.at, At::Tcp(at) if at.port() == address.port());
        if self.bound.iter().any(is_ours) {
            return Ok(address);
        }
        listen(address, false)?.local_addr()
    }

    /// What was planned is in use now.
    pub(super) fn adopt(&mut self, bound: Adopted, metrics: &ConnectionMetrics) {
        let before = self.tls();
        for bound in &bound.bound {
            match self.bound.iter().find(|old| old.key == bound.key) {
                None => {
                    let address = bound.shown();
                    tracing::info!(listener = %bound.config.id, %address, "listening");
                }
                Some(old) => bound.set_mode(&old.config.address),
            }
        }
        self.bound = bound.bound;
        self.keys_given = bound.keys_given;
        tls::announce(&self.tls(), &before, metrics);
    }
}

/// What is left of a plan whose sockets are with the workers.
pub(super) struct Adopted {
    bound: Vec<Bound>,
    keys_given: u64,
}

impl Plan {
    /// The sockets for the workers, and the rest.
    pub(super) fn split(self) -> (Vec<Vec<Assignment>>, Adopted) {
        let adopted = Adopted {
            bound: self.bound,
            keys_given: self.keys_given,
        };
        (self.assignments, adopted)
    }
}

impl Bound {
    /// Whether these sockets are what the configuration asks for. A port that the system chose belongs to its listener.
    fn serves(&self, config: &portcullis_config::Listener) -> bool {
        match (&self.config.address, &config.address) {
            (ListenerAddress::Tcp(bound), ListenerAddress::Tcp(wanted)) => {
                bound == wanted && (wanted.port() != 0 || self.config.id == config.id)
            }
            (ListenerAddress::Unix { path: bound, .. }, ListenerAddress::Unix { path, .. }) => {
                bound == path
            }
            _ => false,
        }
    }

    /// With the port that the system has chosen.
    fn shown(&self) -> String {
        match self.at {
            At::Tcp(address) => address.to_string(),
            At::Unix(_) => self.config.address.to_string(),
        }
    }

    /// The file of a socket that stays has the mode that is wanted now.
    fn set_mode(&self, before: &ListenerAddress) {
        if let (At::Unix(file), ListenerAddress::Unix { mode, .. }) =
            (&self.at, &self.config.address)
            && self.config.address != *before
        {
            file.set_mode(*mode);
        }
    }
}

impl At {
    /// Our end of connections, where they do not know it themselves.
    const fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(address) => *address,
            Self::Unix(_) => SAME_MACHINE,
        }
    }
}

fn failed(config: &portcullis_config::Listener, source: io::Error) -> ServeError {
    ServeError::Bind {
        listener: config.id.to_string(),
        address: config.address.to_string(),
        source,
    }
}

/// A socket that listens; with `shared` others may listen there too.
pub(super) fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What to do about an address that cannot be used.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there, see `ss -ltnp`",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::{Http2, ListenerLimits, ListenerTimeouts, Place};

    fn listener(id: &str, address: &str) -> portcullis_config::Listener {
        portcullis_config::Listener {
            id: id.into(),
            address: ListenerAddress::Tcp(address.parse().unwrap()),
            h2c: false,
            proxy_protocol: None,
            tls: None,
            http2: Http2::default(),
            half_close: false,
            underscores_in_headers: portcullis_config::Underscores::Drop,
            timeouts: ListenerTimeouts::default(),
            limits: ListenerLimits::default(),
            trusted_proxies: Vec::new(),
            place: Place::default(),
        }
    }

    fn keys(assignments: &[Vec<Assignment>]) -> Vec<(u64, bool)> {
        assignments[0]
            .iter()
            .map(|assignment| (assignment.key, assignment.socket.is_some()))
            .collect()
    }

    #[test]
    fn sockets_stay_as_long_as_their_address_is_wanted() {
        let mut listeners = Listeners::default();
        let any = "127.0.0.1:0";
        let (sockets, adopted) = listeners
            .plan(
                &[listener("a", any), listener("b", any)],
                &TlsOfListeners::new(),
                2,
            )
            .unwrap()
            .split();
        assert_eq!(keys(&sockets), [(0, true), (1, true)]);
        assert_eq!(sockets.len(), 2);
        listeners.adopt(adopted, &ConnectionMetrics::default());
        let mut changed = listener("b", any);
        changed.h2c = true;
        let plan = listeners
            .plan(
                &[changed.clone(), listener("c", any)],
                &TlsOfListeners::new(),
                2,
            )
            .unwrap();
        assert_eq!(keys(&plan.assignments), [(1, false), (2, true)]);
        assert!(plan.assignments[0][0].listener.h2c);
        // A plan that is dropped leaves no trace.
        drop(plan);
        let (sockets, adopted) = listeners
            .plan(&[changed], &TlsOfListeners::new(), 2)
            .unwrap()
            .split();
        assert_eq!(keys(&sockets), [(1, false)]);
        listeners.adopt(adopted, &ConnectionMetrics::default());
        let plan = listeners
            .plan(&[listener("a", any)], &TlsOfListeners::new(), 1)
            .unwrap();
        assert_eq!(keys(&plan.assignments), [(2, true)]);
    }

    #[test]
    fn an_address_of_somebody_else_is_refused() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        let refused =
            Listeners::default().plan(&[listener("a", &address)], &TlsOfListeners::new(), 1);
        assert!(matches!(refused, Err(ServeError::Bind { .. })));
    }
}

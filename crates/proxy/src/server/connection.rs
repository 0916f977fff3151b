//! What is known about a client's connection, shared between its socket and the requests on it.

use crate::{
    server::{
        limits::{PerClient, Permit},
        tls::{ListenerTls, TlsSession},
    },
    telemetry::{Refused, Telemetry},
};
use bytes::Bytes;
use http::HeaderValue;
use ipnet::IpNet;
use pingora::protocols::http::ServerSession;
use portcullis_config::{
    Http2, ListenerId, ListenerLimits, ListenerProxyProtocol, ListenerTimeouts, Underscores,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A listener as connections see it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    pub(crate) h2c: bool,
    /// `None`: TLS is not spoken.
    pub(crate) tls: Option<Arc<ListenerTls>>,
    pub(crate) http2: Http2,
    pub(crate) half_close: bool,
    pub(crate) underscores_in_headers: Underscores,
    pub(crate) timeouts: ListenerTimeouts,
    pub(crate) limits: ListenerLimits,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) proxy_protocol: Option<ListenerProxyProtocol>,
}

impl Listener {
    pub(crate) fn new(config: &portcullis_config::Listener, tls: Option<Arc<ListenerTls>>) -> Self {
        Self {
            id: config.id.clone(),
            h2c: config.h2c,
            tls,
            http2: config.http2,
            half_close: config.half_close,
            underscores_in_headers: config.underscores_in_headers,
            timeouts: config.timeouts,
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
        }
    }

    /// How many connections to it a client may have.
    pub(crate) fn per_client(&self) -> PerClient {
        PerClient::to(&self.id, self.limits.connections_per_client)
    }

    /// Whether forwarded headers from this address are believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|net| net.contains(&address))
    }
}

/// The ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    /// The address at the other end of the socket, or the one that a trusted proxy has said in front of everything else; in
    /// canonical form (an IPv4 client of an IPv6 socket is an IPv4 client).
    pub(crate) peer: SocketAddr,
    /// Our end, or what the proxy took for that.
    pub(crate) local: SocketAddr,
    /// Whether what is in headers about where requests come from is believed.
    pub(crate) is_trusted: bool,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) listener: Arc<Listener>,
    /// As in [`Ends`].
    pub(crate) peer: SocketAddr,
    /// As in [`Ends`].
    pub(crate) local: SocketAddr,
    /// As in [`Ends`].
    pub(crate) is_trusted: bool,
    /// `None`: the client speaks no TLS with us.
    pub(crate) tls: Option<TlsSession>,
    /// The peer's address and our port as every request of the connection needs them.
    peer_value: HeaderValue,
    local_port_value: HeaderValue,
    telemetry: Arc<Telemetry>,
    /// Whether a request is being served, in contrast to its head being read.
    serving: AtomicBool,
    /// Something of a head has come, and not yet all of it.
    head_begun: AtomicBool,
    /// A request has come to its end.
    used: AtomicBool,
    /// Whether the listener or the process takes its leave.
    ending: watch::Receiver<bool>,
    /// A request is over, and the stream does not know yet.
    head_due: AtomicBool,
    /// How long the upstream may be silent, in milliseconds; 0 while that is nobody's concern.
    answer_within_ms: AtomicU64,
    answer_late: AtomicBool,
    /// Its end must not look like the end of a response.
    broken_off: AtomicBool,
    _permit: Permit,
}

impl Connection {
    pub(crate) fn new(
        listener: Arc<Listener>,
        ends: Ends,
        tls: Option<TlsSession>,
        telemetry: Arc<Telemetry>,
        ending: watch::Receiver<bool>,
        permit: Permit,
    ) -> Self {
        let Ends {
            peer,
            local,
            is_trusted,
        } = ends;
        Self {
            listener,
            peer,
            local,
            is_trusted,
            tls,
            peer_value: shared_value(peer.ip().to_string()),
            local_port_value: shared_value(local.port().to_string()),
            telemetry,
            serving: AtomicBool::new(false),
            head_begun: AtomicBool::new(false),
            used: AtomicBool::new(false),
            ending,
            head_due: AtomicBool::new(false),
            answer_within_ms: AtomicU64::new(0),
            answer_late: AtomicBool::new(false),
            broken_off: AtomicBool::new(false),
            _permit: permit,
        }
    }

    /// The connection of a session. It travels as the user data of the digest that every stream of ours carries, the one
    /// thing that HTTP/1.1, HTTP/2 and inner sessions have in common.
    pub(crate) fn of(session: &ServerSession) -> Option<Arc<Self>> {
        session
            .digest()?
            .proxy_digest
            .as_ref()?
            .user_data
            .as_ref()?
            .downcast_ref::<Arc<Self>>()
            .cloned()
    }

    /// The scheme of its requests.
    pub(crate) const fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// The peer's IP address as a header's value.
    pub(crate) fn peer_value(&self) -> HeaderValue {
        self.peer_value.clone()
    }

    /// The peer's IP address as text.
    pub(crate) fn peer_text(&self) -> &str {
        self.peer_value.to_str().unwrap_or_default()
    }

    /// Our port as a header's value.
    pub(crate) fn local_port_value(&self) -> HeaderValue {
        self.local_port_value.clone()
    }

    /// The head of a request is complete.
    pub(crate) fn begin_request(&self) {
        self.serving.store(true, Relaxed);
    }

    /// From now on the upstream may be silent for this long at a time; `None` is for as long as it likes. Kept by the stream
    /// of an HTTP/1.1 connection; those of HTTP/2 carry several requests at once.
    pub(crate) fn expect_answer(&self, within: Option<Duration>) {
        let milliseconds = within.map_or(0, |within| {
            u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        self.answer_within_ms.store(milliseconds, Relaxed);
    }

    pub(crate) fn answer_within(&self) -> Option<Duration> {
        match self.answer_within_ms.load(Relaxed) {
            0 => None,
            milliseconds => Some(Duration::from_millis(milliseconds)),
        }
    }

    /// The upstream was silent for too long. What Pingora sees is a failed read.
    pub(crate) fn answer_is_late(&self) {
        self.answer_late.store(true, Relaxed);
    }

    /// Whether the current request failed because its answer was late.
    pub(crate) fn was_answer_late(&self) -> bool {
        self.answer_late.load(Relaxed)
    }

    /// A response that ends with the connection has not come to its end: the client has to see that from how the connection
    /// ends.
    pub(crate) fn break_off(&self) {
        self.broken_off.store(true, Relaxed);
    }

    pub(crate) fn is_broken_off(&self) -> bool {
        self.broken_off.load(Relaxed)
    }

    /// Whether a head is due since the last time this was asked.
    pub(crate) fn is_head_due(&self) -> bool {
        self.head_due.load(Relaxed) && self.head_due.swap(false, Relaxed)
    }

    /// Something of a head has come.
    pub(crate) fn head_has_begun(&self) {
        self.head_begun.store(true, Relaxed);
    }

    /// Whether the client has asked for nothing that it has no answer to.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_serving() && !self.head_begun.load(Relaxed)
    }

    /// Whether a request has come to its end.
    pub(crate) fn was_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Whether the connection is to end after the request that is being served.
    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// What comes next on the socket is the head of a request.
    pub(crate) fn expect_head(&self) {
        self.used.store(true, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.head_due.store(true, Relaxed);
        self.expect_answer(None);
        self.serving.store(false, Relaxed);
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Relaxed)
    }

    /// Notes that the connection ends because of what stands where a request should have been.
    pub(crate) fn refused(&self, why: Refused) {
        self.telemetry.refused(&self.listener.id, self.peer, why);
    }
}

/// A value whose clones share it. The texts are numbers with punctuation, which every header takes.
fn shared_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// A connection from `peer` to a listener that trusts these networks.
#[cfg(test)]
pub(crate) fn test_connection(peer: &str, trusted: &[&str]) -> Connection {
    use crate::{
        server::limits::ConnectionLimits,
        telemetry::{access_log::AccessLog, metrics::Metrics},
    };
    let listener = Listener {
        id: "http".into(),
        h2c: false,
        tls: None,
        http2: Http2::default(),
        half_close: false,
        underscores_in_headers: Underscores::Drop,
        timeouts: ListenerTimeouts::default(),
        limits: ListenerLimits::default(),
        trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(),
        proxy_protocol: None,
    };
    let peer: SocketAddr = peer.parse().unwrap();
    let telemetry = Telemetry {
        metrics: Metrics::new(),
        access_log: AccessLog::off(),
        recent: crate::trace::Recent::new(None),
        recordings: Arc::default(),
    };
    let limits = Arc::new(ConnectionLimits::new(1));
    let permit = limits.admit(peer.ip(), None).unwrap();
    let ends = Ends {
        peer,
        local: "127.0.0.1:8080".parse().unwrap(),
        is_trusted: listener.trusts(peer.ip()),
    };
    let (_, ending) = watch::channel(false);
    Connection::new(
        Arc::new(listener),
        ends,
        None,
        Arc::new(telemetry),
        ending,
        permit,
    )
}

//! How the targets of an upstream are connected to: what all its connections have in common, and what a request adds.

use super::{
    proxy_header::{self, Ends, Introduced},
    tls::Profile,
};
use pingora::{
    ErrorType, protocols::ALPN, server::configuration::ServerConf, upstreams::peer::HttpPeer,
};
use portcullis_config::{Keepalive, ProxyProtocol, UpstreamProtocol, UpstreamTimeouts};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Connections of all upstreams that each proxy of a worker keeps; beyond it the one goes that was unused for longest.
const MOST_KEPT: usize = 4096;
/// Requests at the same time on one connection of HTTP/2.
const STREAMS: usize = 100;
/// How much of a response may be under way before its client has taken what came before.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all responses of a connection. As it is the sum of all, no slow client holds up another.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;

/// What a worker's proxies are made with. The file has the authorities that are believed where an upstream names none.
pub(crate) fn settings(authorities: &str) -> Arc<ServerConf> {
    Arc::new(ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: MOST_KEPT,
        ca_file: Some(authorities.to_owned()),
        ..ServerConf::default()
    })
}

/// What all connections of an upstream have in common.
#[derive(Debug)]
pub(crate) struct Connect {
    protocol: UpstreamProtocol,
    tls: Option<Profile>,
    keepalive: Keepalive,
    timeouts: UpstreamTimeouts,
    send_proxy_protocol: Option<ProxyProtocol>,
    group_key: u64,
    complaints: Complaints,
}

impl Connect {
    /// Reads the files of the upstream's TLS.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what helps.
    pub(crate) fn read(upstream: &portcullis_config::Upstream) -> Result<Self, String> {
        let tls = upstream.tls.as_ref().map(Profile::read).transpose();
        let tls = tls.map_err(|problem| format!("upstream {}: {problem}", upstream.id))?;
        // Pingora's pool tells connections apart by address and name, not by protocol or authorities.
        let mut hasher = DefaultHasher::new();
        (upstream.protocol as u8).hash(&mut hasher);
        tls.as_ref().map(Profile::fingerprint).hash(&mut hasher);
        Ok(Self {
            protocol: upstream.protocol,
            tls,
            keepalive: upstream.keepalive,
            timeouts: upstream.timeouts,
            send_proxy_protocol: upstream.send_proxy_protocol,
            group_key: hasher.finish(),
            complaints: Complaints::default(),
        })
    }

    /// Whether connections that are kept can be used by the other as well.
    pub(crate) const fn is_alike(&self, other: &Self) -> bool {
        self.group_key == other.group_key
    }

    /// What every connection to a target starts from; requests get copies.
    pub(super) fn configured(&self, mut peer: HttpPeer) -> HttpPeer {
        let options = &mut peer.options;
        options.connection_timeout = Some(self.timeouts.connect);
        options.total_connection_timeout = Some(self.timeouts.connect);
        options.write_timeout = Some(self.timeouts.idle);
        options.idle_timeout = Some(self.keepalive.idle);
        if self.protocol != UpstreamProtocol::Http1 {
            options.alpn = ALPN::H2;
            options.max_h2_streams = STREAMS;
            options.h2_stream_window_size = Some(STREAM_WINDOW);
            options.h2_connection_window_size = Some(CONNECTION_WINDOW);
        }
        peer.group_key = self.group_key;
        if let Some(tls) = &self.tls {
            tls.apply(&mut peer);
        }
        peer
    }

    /// Makes the copy for a request the request's own. `in_flight` counts the requests at the target, this one included.
    pub(super) fn adapt(&self, peer: &mut HttpPeer, in_flight: u32, ends: Option<Ends>) {
        let streams = match self.protocol {
            UpstreamProtocol::Http1 => 1,
            UpstreamProtocol::H2 | UpstreamProtocol::H2c => STREAMS as u64,
        };
        // A connection that is made while fewer are in use than may be kept is the last of those that may.
        if u64::from(in_flight) > u64::from(self.keepalive.connections) * streams {
            peer.options.idle_timeout = Some(AT_ONCE);
        }
        if self.keepalive.connections == 0 {
            peer.group_key = unshared();
        }
        if let (Some(version), Some(ends)) = (self.send_proxy_protocol, ends) {
            let header = proxy_header::header(version, ends);
            peer.group_key = proxy_header::group_key(peer.group_key, &header);
            peer.options.custom_l4 = Some(Arc::new(Introduced { header }));
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.protocol != UpstreamProtocol::Http1
    }

    /// Whether it is time to say again that TLS does not come about.
    pub(super) fn may_complain(&self, since_start: Duration) -> bool {
        self.complaints.is_due(since_start)
    }
}

/// The shortest time that Pingora keeps a connection for.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A group of one.
fn unshared() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = DefaultHasher::new();
    ("unshared", NEXT.fetch_add(1, Relaxed)).hash(&mut hasher);
    hasher.finish()
}

/// Whether it is the TLS of a connection that has failed.
pub(crate) const fn is_about_tls(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
    )
}

/// Lets one line in ten seconds into the log.
#[derive(Debug, Default)]
struct Complaints {
    /// In milliseconds; 0: never.
    last: AtomicU64,
}

impl Complaints {
    fn is_due(&self, since_start: Duration) -> bool {
        const APART_MS: u64 = 10_000;
        let now = u64::try_from(since_start.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let last = self.last.load(Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= APART_MS;
        due && self
            .last
            .compare_exchange(last, now, Relaxed, Relaxed)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_far_between() {
        let complaints = Complaints::default();
        let due: Vec<bool> = [0, 1, 9_000, 10_500, 12_000, 30_000]
            .into_iter()
            .map(|ms| complaints.is_due(Duration::from_millis(ms)))
            .collect();
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}

//! Where requests go: the targets of an upstream and which of them is next.

pub(crate) mod echo;
mod schedule;

use crate::{
    request::UpstreamRun,
    snapshot::{Action, Route, Timeouts},
};
use bytes::Bytes;
use pingora::{
    Error,
    ErrorType::InternalError,
    Result,
    protocols::ALPN,
    upstreams::peer::{HttpPeer, Peer},
};
use portcullis_config::{Origin, UpstreamId, UpstreamProtocol};
use schedule::Schedule;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// The next target of the route's upstream.
///
/// # Errors
/// The route has none, which is a bug.
pub(crate) fn choose(
    route: &Route,
    switches: bool,
    started: Instant,
    run: &mut UpstreamRun,
) -> Result<Box<HttpPeer>> {
    let Action::Upstream(upstream) = &route.action else {
        return Error::e_explain(InternalError, "the route has no upstream");
    };
    let (address, peer) = upstream.pick(route.timeouts, switches);
    run.target = address;
    run.attempts += 1;
    run.asked_after.get_or_insert_with(|| started.elapsed());
    Ok(peer)
}

/// Nothing was sent, so another target may be tried, as often as there are some.
pub(crate) fn after_failed_connect(
    route: &Route,
    run: &UpstreamRun,
    mut error: Box<Error>,
) -> Box<Error> {
    let targets = match &route.action {
        Action::Upstream(upstream) => upstream.len(),
        Action::Redirect { .. } | Action::Respond(_) => 1,
    };
    error.set_retry((run.attempts as usize) < targets);
    error
}

/// Clients of HTTP/2 often end a body with an empty frame. Pingora would write that to an HTTP/1.1 upstream as a last chunk,
/// and then the last chunk once more, which the upstream takes for the start of the next request.
pub(crate) fn drop_empty_end(body: &mut Option<Bytes>, ends: bool) {
    if ends && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}

/// An upstream, ready to be asked for a target.
pub(crate) struct Upstream {
    pub(crate) id: UpstreamId,
    /// What it was made from.
    pub(crate) config: portcullis_config::Upstream,
    pub(crate) timeouts: Timeouts,
    targets: Vec<Target>,
    schedule: Schedule,
}

struct Target {
    /// For the log; the echo origin has none.
    address: Option<Arc<str>>,
    /// What every connection to the target starts from; requests get copies.
    peer: HttpPeer,
}

impl Upstream {
    /// # Errors
    /// The path of the echo origin's socket is too long for the system.
    pub(crate) fn new(
        upstream: &portcullis_config::Upstream,
        echo_socket: &Path,
    ) -> std::result::Result<Self, String> {
        let (peers, weights): (Vec<_>, Vec<_>) = match &upstream.origin {
            Origin::Targets(targets) => targets
                .iter()
                .map(|target| {
                    let peer = HttpPeer::new(target.address, false, String::new());
                    (
                        (Some(target.address.to_string().into()), peer),
                        target.weight,
                    )
                })
                .unzip(),
            Origin::BuiltinEcho => {
                let path = echo_socket.display().to_string();
                let peer = HttpPeer::new_uds(&path, false, String::new())
                    .map_err(|error| format!("{path}: {error}"))?;
                (vec![(None, peer)], vec![1])
            }
        };
        let targets = peers
            .into_iter()
            .map(|(address, peer)| Target {
                address,
                peer: configured(peer, upstream),
            })
            .collect();
        Ok(Self {
            id: upstream.id.clone(),
            config: upstream.clone(),
            timeouts: Timeouts {
                response_header: upstream.timeouts.response_header,
                idle: upstream.timeouts.idle,
            },
            targets,
            schedule: Schedule::new(&weights),
        })
    }

    /// Addresses and weights; the echo origin has no address.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (Option<&str>, u32)> {
        let weights = match &self.config.origin {
            Origin::Targets(targets) => targets.iter().map(|target| target.weight).collect(),
            Origin::BuiltinEcho => vec![1],
        };
        let addresses = self.targets.iter().map(|target| target.address.as_deref());
        addresses.zip(weights)
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.config.protocol == UpstreamProtocol::H2c
    }

    /// How many targets there are.
    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }

    /// The next target, with these waits. A connection that was upgraded may be silent for as long as it likes.
    pub(crate) fn pick(
        &self,
        timeouts: Timeouts,
        upgrade: bool,
    ) -> (Option<Arc<str>>, Box<HttpPeer>) {
        let target = &self.targets[self.schedule.next()];
        let mut peer = Box::new(target.peer.clone());
        // Pingora has one limit for all reads; where it can, the client's stream keeps the two apart.
        let longest = timeouts.response_header.max(timeouts.idle);
        peer.options.read_timeout = (!upgrade).then_some(longest);
        (target.address.clone(), peer)
    }
}

fn configured(mut peer: HttpPeer, upstream: &portcullis_config::Upstream) -> HttpPeer {
    /// Connections that nobody uses are kept for this long.
    const KEPT: Duration = Duration::from_secs(60);
    let timeouts = &upstream.timeouts;
    if let Some(options) = peer.get_mut_peer_options() {
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.write_timeout = Some(timeouts.idle);
        options.idle_timeout = Some(KEPT);
        if upstream.protocol == UpstreamProtocol::H2c {
            options.alpn = ALPN::H2;
            options.max_h2_streams = 100;
        }
    }
    // Pingora's pool does not tell connections of different protocols apart by itself.
    peer.group_key = match upstream.protocol {
        UpstreamProtocol::Http1 => 1,
        UpstreamProtocol::H2c => 2,
    };
    peer
}

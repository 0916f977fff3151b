//! Where requests go: the targets of an upstream and which of them is next.

pub(crate) mod echo;
mod schedule;

use crate::snapshot::Timeouts;
use pingora::{
    protocols::ALPN,
    upstreams::peer::{HttpPeer, Peer},
};
use portcullis_config::{Origin, UpstreamId, UpstreamProtocol};
use schedule::Schedule;
use std::{path::Path, sync::Arc, time::Duration};

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
    ) -> Result<Self, String> {
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
